"""Whether other programs keep the machine busy, which makes several threads slower than one."""

import os


def busy_machine() -> str | None:
    """A line for a machine with more load than cores, else None. Windows does not tell its load."""
    if not hasattr(os, "getloadavg"):
        return None
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    load = os.getloadavg()[0]
    if load <= cores:
        return None
    text = f"this machine is busy: load {load:.1f} on {cores} core{'s' * (cores > 1)}, so this takes longer"
    if cores == 1 or os.environ.get("OMP_NUM_THREADS") == "1":
        return text
    return f"{text}; threads that wait for each other are the slowest, set OMP_NUM_THREADS=1 to use one per process"
