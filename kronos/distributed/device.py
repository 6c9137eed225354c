"""Device, number format, threads and seeds of a process, each choice with its reason."""

import hashlib
import os
import random
import re
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch

from kronos.distributed.child_process import cgroup_counters
from kronos.distributed.launcher import Place
from kronos.utils.errors import UserError
from kronos.utils.heap import MMAP_THRESHOLD, TRIM_THRESHOLD, tune_heap

ALONE = Place()


@dataclass(frozen=True)
class Runtime:
    """Device, number format and rank of one process. `reasons` are lines for the user, one per choice."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    threads: int = 1
    rank: int = 0
    world: int = 1
    reasons: list[str] = field(default_factory=list)

    def autocast(self) -> AbstractContextManager:
        """Return the context in which the forward pass runs."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def choose(
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    cpu: bool = False,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    place: Place = ALONE,
) -> Runtime:
    """Choose device and number format for this process; sets torch's threads and, with several GPUs, the current one.

    On a CPU under glibc the process keeps the memory that it frees, since the next step needs as much again. Raises
    UserError for a device or a number format that is not available.
    """
    if cpu and device not in ("auto", "cpu"):
        raise UserError(f"cpu=true contradicts device={device}: give one of them")
    where, device_reason = _device("cpu" if cpu else device, "cpu=true" if cpu else f"device={device}")
    reasons = [device_reason]
    if place.world > 1:
        where, ranks_reason = _own_device(where, place)
        reasons.append(ranks_reason)
    dtype, precision_reason = _precision(precision, where)
    threads, threads_reason = _threads(place.local_world)
    torch.set_num_threads(threads)
    if where.type == "cpu":
        _keep_freed_memory()
    reasons += [precision_reason, threads_reason, *_debugging()]
    return Runtime(where, dtype, threads, place.rank, place.world, reasons)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device or the host had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(
        error
    ).lower()  # MPS, the CPU allocator and a worker's relayed message raise plain RuntimeErrors
    return any(
        words in text for words in ("out of memory", "can't allocate memory", "cannot allocate memory")
    )


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may still take: of a GPU, else of the machine or its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    folder = (cgroup_counters() or Path("/nowhere/memory.events")).parent
    try:
        limit = (folder / "memory.max").read_text().strip()
        taken = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return free if limit == "max" else min(free, int(limit) - int(taken["anon"]))
    except (OSError, ValueError, KeyError):  # no container, or control groups of version 1
        return free


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` begin anew, where the system can: on CUDA, and on Linux for the memory of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were held at one time: by tensors on a GPU, else by this process (resident)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # without a record of its peak, what it holds now


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory: returning it and fetching it again, page by page, took a tenth of a step.

    The peak memory stays about the same.
    """
    largest = 2**25  # 32 MiB, the maximum
    tune_heap(
        {TRIM_THRESHOLD: 2**31 - 1, MMAP_THRESHOLD: largest},
        "MALLOC_TRIM_THRESHOLD_",
        "MALLOC_MMAP_THRESHOLD_",
    )


def _debugging() -> list[str]:
    """With TORCH_DEBUG=1, switch on anomaly detection and the checks of collective operations."""
    value = os.environ.get("TORCH_DEBUG", "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return []
    torch.autograd.set_detect_anomaly(True)
    os.environ["TORCH_DISTRIBUTED_DEBUG"] = "DETAIL"
    if torch.distributed.is_available():
        torch.distributed.set_debug_level_from_env()  # the variable was read at import
    return [
        f"TORCH_DEBUG={value}: anomaly detection and TORCH_DISTRIBUTED_DEBUG=DETAIL are on; training is slower"
    ]


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch: initial weights and dropout draw from torch's.

    Everything else draws from generators that are passed in (`generator`) or from counters.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator(seed: int, purpose: str = "", device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for (seed, purpose), so that one use never shifts the draws of another."""
    key = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]
    return torch.Generator(device).manual_seed(int.from_bytes(key, "little") >> 1)  # torch takes 63 bits


def _device(name: str, given: str) -> tuple[torch.device, str]:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        if cuda:
            return torch.device("cuda"), f"device cuda: {torch.cuda.get_device_name()} is available"
        if mps:
            return torch.device("mps"), "device mps: Apple's GPU is available, CUDA is not"
        return torch.device("cpu"), "device cpu: neither CUDA nor MPS is available"
    if name == "cuda" and not cuda:
        built = "sees no GPU" if torch.version.cuda else "is built without CUDA"
        raise UserError(f"{given}, but this PyTorch {built}: use device=auto or device=cpu")
    if name == "mps" and not mps:
        raise UserError(f"{given}, but MPS is not available here: use device=auto or device=cpu")
    if name not in ("cpu", "cuda", "mps"):
        raise UserError(f"{given}, expected auto, cpu, cuda or mps")
    return torch.device(name), f"device {name}: asked for ({given})"


def _own_device(device: torch.device, place: Place) -> tuple[torch.device, str]:
    """Return this rank's device among those of its machine."""
    if device.type == "mps":
        raise UserError(f"{place.world} processes, but MPS trains with one: use one process, or device=cpu")
    if device.type == "cpu":
        return device, f"{place.world} processes over gloo"
    gpus = torch.cuda.device_count()
    if place.local_world > gpus:
        raise UserError(
            f"{place.local_world} processes on a machine with {gpus} visible GPU(s): start one process per GPU "
            "(CUDA_VISIBLE_DEVICES says which are visible), or use device=cpu"
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank), f"{place.world} processes over NCCL, one GPU each"


def _precision(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    if name not in ("auto", "fp32", "bf16", "fp16"):
        raise UserError(f"precision={name}, expected auto, fp32, bf16 or fp16")
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"precision=fp16 needs CUDA, the device is {device.type}: use bf16 or fp32")
    if name == "bf16" and device.type == "mps":
        raise UserError("precision=bf16 is for CPU and CUDA, the device is mps: use fp32")
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and device.type == "cuda" and not native:
        raise UserError("precision=bf16, but this GPU has no bfloat16 units: use precision=fp16 or fp32")
    if name == "auto" and native:
        return (
            torch.bfloat16,
            "precision bf16: this GPU has bfloat16 units; sums, norms and weights stay float32",
        )
    if name == "auto" or name == "fp32":
        why = (
            "asked for"
            if name == "fp32"
            else "on a CPU, where a run then repeats bit for bit (bf16 is faster where the CPU has AMX)"
            if device.type == "cpu"
            else f"this {device.type} device has no bfloat16 units"
        )
        tf32 = ""
        if device.type == "cuda":
            allowed = torch.backends.cuda.matmul.allow_tf32
            tf32 = f"; TF32 {'on' if allowed else 'off'} (torch.backends.cuda.matmul.allow_tf32)"
        return torch.float32, f"precision fp32: {why}{tf32}"
    if name == "bf16":
        slow = ""
        if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            slow = "; this processor has no bfloat16 instructions, so that fp32 is faster"
        return torch.bfloat16, f"precision bf16: asked for; sums, norms and weights stay float32{slow}"
    return torch.float16, "precision fp16: asked for; gradients are scaled, steps that overflow are skipped"


def _threads(ranks: int = 1) -> tuple[int, str]:
    """Return OMP_NUM_THREADS where it is set, else this process's share of the physical cores it may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted:
        if not wanted.isdecimal() or int(wanted) < 1:
            raise UserError(f"OMP_NUM_THREADS is {wanted!r}, expected a number from 1")
        return int(wanted), f"threads {wanted}: OMP_NUM_THREADS"
    limits = {"physical cores": psutil.cpu_count(logical=False) or os.cpu_count() or 1}
    if hasattr(os, "sched_getaffinity"):
        limits["cores allowed to this process"] = len(os.sched_getaffinity(0))
    if (quota := _container_cores()) is not None:
        limits["the container's share of the cores"] = quota
    reason, cores = min(limits.items(), key=lambda item: item[1])
    threads = max(1, cores // ranks)
    shared = f", {cores} for {ranks} processes" if ranks > 1 else ""
    return threads, f"threads {threads}: {reason}{shared}"


def _container_cores() -> int | None:
    """Return the whole cores that the cgroup grants: more threads would only wait for each other. None: no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or no quota (`max`)
        return None
