"""Identify a process by host name, pid and start time, since pids are reused."""

import socket

import psutil


def this_process() -> str:
    """Return `host pid start`, by which other processes can check whether this process is still running."""
    me = psutil.Process()
    return f"{socket.gethostname()} {me.pid} {me.create_time():.2f}"


def is_gone(process: str | None) -> bool:
    """Return whether a process of this machine has ended; False for other machines, which cannot be checked."""
    host, pid, start = (process or "- 0 0").split()
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(start)) >= 1.0
    except psutil.Error:
        return True
