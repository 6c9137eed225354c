"""Processes known by more than their number, which the system gives again: machine, number and birth."""

import socket

import psutil


def this_process() -> str:
    """The text by which any process, now or later, can tell whether this one still runs."""
    me = psutil.Process()
    return f"{socket.gethostname()} {me.pid} {me.create_time():.2f}"


def is_gone(process: str | None) -> bool:
    """Whether a process of this machine has ended; of another machine's nothing is known: False."""
    host, pid, started = (process or "- 0 0").split()
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) >= 1.0
    except psutil.Error:
        return True
