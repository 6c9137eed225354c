import os
import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from kronos.distributed import device as runtime
from kronos.distributed.launcher import Place
from kronos.utils.errors import UserError


@pytest.fixture(autouse=True)
def threads_put_back():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_takes_the_cpu_where_there_is_no_accelerator_and_says_why(monkeypatch):
    no_accelerator(monkeypatch)
    chosen = runtime.choose()
    assert (chosen.device.type, chosen.dtype, chosen.rank, chosen.world) == ("cpu", torch.float32, 0, 1)
    assert chosen.reasons[0] == "device cpu: neither CUDA nor MPS is available"
    assert chosen.reasons[1].startswith("precision fp32: ")
    assert chosen.reasons[2].startswith(f"threads {chosen.threads}: ")


def test_auto_prefers_cuda_then_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.choose().device.type == "cuda"
    assert runtime.choose(cpu=True).device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.choose().device.type == "mps"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"device": "cuda"}, "device=cuda, but this PyTorch"),
        ({"device": "mps"}, "device=mps, but MPS is not available"),
        ({"device": "tpu"}, "device=tpu, expected auto, cpu, cuda or mps"),
        ({"device": "cuda", "cpu": True}, "cpu=true contradicts device=cuda"),
        ({"precision": "int8"}, "precision=int8, expected"),
    ],
)
def test_what_is_not_there_is_refused_with_the_value(monkeypatch, arguments, said):
    no_accelerator(monkeypatch)
    with pytest.raises(UserError, match=said):
        runtime.choose(**arguments)


def test_number_formats_are_chosen_with_a_reason_or_refused(monkeypatch):
    no_accelerator(monkeypatch)
    assert runtime.choose(precision="bf16").dtype == torch.bfloat16
    for native in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda native=native: native)
        reason = runtime.choose(precision="bf16").reasons[1]
        assert "asked for" in reason and ("fp32 is faster" in reason) != native
    with pytest.raises(UserError, match="precision=fp16 needs CUDA, the device is cpu"):
        runtime.choose(precision="fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native
        )
        chosen = runtime.choose()
        assert chosen.dtype == (torch.bfloat16 if native else torch.float32)
        assert ("has bfloat16 units" if native else "TF32 off") in chosen.reasons[1]
        assert runtime.choose(precision="fp16").dtype == torch.float16
    with pytest.raises(UserError, match="no bfloat16 units: use precision=fp16 or fp32"):
        runtime.choose(precision="bf16")


def test_ranks_share_cores_and_take_a_gpu_each(monkeypatch):
    no_accelerator(monkeypatch)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runtime.psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(runtime, "_container_cores", lambda: None)
    chosen = runtime.choose(place=Place(1, 4, 1, 2))
    assert (chosen.rank, chosen.world, chosen.threads) == (1, 4, 4)
    assert "8 for 2 processes" in chosen.reasons[-1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"2 processes on a machine with 1 visible GPU\(s\)"):
        runtime.choose(place=Place(1, 2, 1, 2))


def test_omp_num_threads_is_honoured(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert runtime.choose(cpu=True).threads == torch.get_num_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")  # OpenMP's list for nested loops
    assert runtime.choose(cpu=True).threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(UserError, match="OMP_NUM_THREADS is 'many'"):
        runtime.choose(cpu=True)


def test_threads_are_no_more_than_the_cores_allowed(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runtime.psutil, "cpu_count", lambda logical: 64)
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda pid: set(range(48)), raising=False)
    monkeypatch.setattr(runtime, "_container_cores", lambda: 2)
    chosen = runtime.choose(cpu=True)
    assert chosen.threads == 2
    assert "the container's share" in chosen.reasons[2]


def test_a_seed_repeats_all_three_global_generators():
    def draws():
        runtime.seed_everything(5)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draws() == draws()


def test_generators_of_different_purposes_are_independent_of_each_other():
    first = torch.rand(4, generator=runtime.generator(1, "sampling"))
    assert torch.equal(first, torch.rand(4, generator=runtime.generator(1, "sampling")))
    assert not torch.equal(first, torch.rand(4, generator=runtime.generator(1, "other")))
    assert not torch.equal(first, torch.rand(4, generator=runtime.generator(2, "sampling")))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.00 GiB for an array"),
        torch.OutOfMemoryError("Allocation on device"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(12, "Cannot allocate memory"),
        UserError("process 1 of 2: cuda out of memory at batch_size 64"),
    ],
)
def test_out_of_memory_errors_are_recognised(error: BaseException) -> None:
    assert runtime.is_out_of_memory(error)


def test_the_allocator_of_the_cpu_raises_what_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert runtime.is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("loss is nan"), KeyboardInterrupt()]
)
def test_other_errors_are_not_out_of_memory(error: BaseException) -> None:
    assert not runtime.is_out_of_memory(error)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept where glibc hands it out")
@pytest.mark.parametrize("chosen", (None, "MALLOC_TRIM_THRESHOLD_"))
def test_a_cpu_keeps_the_memory_of_its_steps_unless_told_otherwise(chosen: str | None) -> None:
    script = """
import resource, torch
from kronos.distributed.device import choose
choose("cpu")
def step(): return [torch.ones(5_000_000) for _ in range(5)]
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    env |= {chosen: "131072"} if chosen else {}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    pages = 10 * 5 * 20_000_000 // 4096
    assert int(done.stdout) < pages / 10 if chosen is None else int(done.stdout) > pages / 10
