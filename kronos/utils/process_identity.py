"""Identify a process by host, number and start time, since the system gives numbers again."""

import socket

import psutil


def this_process() -> str:
    """Return the text by which any process can tell, now or later, whether this one still runs: `host pid start`."""
    me = psutil.Process()
    return f"{socket.gethostname()} {me.pid} {me.create_time():.2f}"


def is_gone(process: str | None) -> bool:
    """Return whether a process of this machine has ended; False for another machine's, of which nothing is known."""
    host, pid, start = (process or "- 0 0").split()
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(start)) >= 1.0
    except psutil.Error:
        return True
