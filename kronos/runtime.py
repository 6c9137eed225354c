"""Where and how training runs: device, number format, threads and seeds, each choice with its reason."""

import hashlib
import os
import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch

from kronos.errors import NotAvailable, UserError


@dataclass(frozen=True)
class Runtime:
    """One process's place in the run. `reasons` are lines for the user, one a choice."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    threads: int = 1
    rank: int = 0
    world: int = 1
    reasons: list[str] = field(default_factory=list)

    def autocast(self) -> AbstractContextManager:
        """The context in which the forward pass runs."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def choose(
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    cpu: bool = False,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
) -> Runtime:
    """Choose for this process and set torch's number of threads.

    Raises UserError for a device that is not there and NotAvailable for a number format that comes later.
    """
    if cpu and device not in ("auto", "cpu"):
        raise UserError(f"cpu=true contradicts device={device}: give one of them")
    place, device_reason = _device("cpu" if cpu else device, "cpu=true" if cpu else f"device={device}")
    dtype, precision_reason = _precision(precision, place)
    threads, threads_reason = _threads()
    torch.set_num_threads(threads)
    return Runtime(place, dtype, threads, reasons=[device_reason, precision_reason, threads_reason])


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch: initial weights and dropout draw from torch's.

    Everything else draws from generators that are passed in (`generator`) or from counters.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator(seed: int, purpose: str = "", device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for (seed, purpose), so that one use never shifts the draws of another."""
    key = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]
    return torch.Generator(device).manual_seed(int.from_bytes(key, "little") >> 1)  # torch takes 63 bits


def _device(name: str, asked: str) -> tuple[torch.device, str]:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        if cuda:
            return torch.device("cuda"), f"device cuda: {torch.cuda.get_device_name()} is available"
        if mps:
            return torch.device("mps"), "device mps: Apple's GPU is available, CUDA is not"
        return torch.device("cpu"), "device cpu: neither CUDA nor MPS is available"
    if name == "cuda" and not cuda:
        built = "sees no GPU" if torch.version.cuda else "is built without CUDA"
        raise UserError(f"{asked}, but this PyTorch {built}: use device=auto or device=cpu")
    if name == "mps" and not mps:
        raise UserError(f"{asked}, but MPS is not available here: use device=auto or device=cpu")
    if name not in ("cpu", "cuda", "mps"):
        raise UserError(f"{asked}, expected auto, cpu, cuda or mps")
    return torch.device(name), f"device {name}: asked for ({asked})"


def _precision(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    if name in ("bf16", "fp16"):
        raise NotAvailable(f"precision={name} is not available yet: use precision=auto or precision=fp32")
    if name == "fp32":
        return torch.float32, "precision fp32: asked for"
    if name != "auto":
        raise UserError(f"precision={name}, expected auto, fp32, bf16 or fp16")
    if device.type == "cpu":
        return torch.float32, "precision fp32: on a CPU, where a run then repeats bit for bit"
    return torch.float32, f"precision fp32: the only one so far on {device.type}"


def _threads() -> tuple[int, str]:
    """OMP_NUM_THREADS where it is set, else the physical cores that this process may use."""
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
    reason, threads = min(limits.items(), key=lambda item: item[1])
    return threads, f"threads {threads}: {reason}"


def _container_cores() -> int | None:
    """Whole cores that the control group grants; more threads than that would only wait for each other."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or quota `max`
        return None
