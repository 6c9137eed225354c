"""Child processes: started in a session of their own, ended with their descendants, their end described.

Used for the ranks of a training and for the isolated trials of a search.
"""

import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

PARENT = "KRONOS_PARENT"  # the variable that tells a child the process that started it
GRACE_SECONDS = 5.0  # between SIGTERM, or the end of rank 0, and forced action
KERNEL_LOG = Path("/dev/kmsg")
KERNEL_LOG_DEVICE = (1, 11)  # major and minor number; some containers put another file in its place
INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # the kernel log gives pids of this namespace
CGROUP_ROOT = Path("/sys/fs/cgroup")
MACHINE_COUNTERS = Path("/proc/vmstat")


class ChildProcess(subprocess.Popen[str]):
    """A `Popen` in a session of its own, without this process's `MLFLOW_` variables.

    Args:
        command: the program and its arguments.
        variables: environment variables that are added or replaced.
        pipes: `stdin`, `stdout` and `stderr` as `Popen` takes them; pipes carry text.
    """

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str] | None = None, **pipes: Any
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        inherited[PARENT] = str(os.getpid())
        self._oom_kills = OomKills()
        self._killed_by_us = False
        super().__init__(
            command, env={**inherited, **(variables or {})}, start_new_session=True, text=True, **pipes
        )

    def end(self, grace: float = GRACE_SECONDS) -> None:
        """End the process and its descendants: SIGTERM, then SIGKILL after `grace` seconds."""
        descendants: set[psutil.Process] = set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.poll() is not None:
                break
            descendants |= _descendants(self.pid)
            self._killed_by_us |= number == signal.SIGKILL
            try:
                os.killpg(self.pid, number)
                self.wait(grace)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        _, alive = psutil.wait_procs(descendants, grace)  # ranks end by themselves once rank 0 is gone
        for descendant in alive:
            descendant.kill()

    def out_of_memory(self) -> bool:
        """Return whether the kernel killed this process because memory ran out; False without evidence."""
        killed = self.poll() == -signal.SIGKILL and not self._killed_by_us
        return killed and self._oom_kills.include(self.pid)

    def outcome(self) -> str:
        """Return how the process ended, as the end of a sentence about it."""
        code = self.wait()
        if code >= 0:
            return f"ended with status {code}"
        why = ": the machine or its container ran out of memory" if self.out_of_memory() else ""
        return f"was killed by signal {-code}{why}"


def exit_with_parent() -> None:
    """End this process when its parent is gone: a killed parent cannot end its children.

    A parent that started it as a `ChildProcess` may be gone already when this is called.
    """
    parent = int(os.environ.pop(PARENT, 0)) or os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def exit_with_rank_0(store: Any, rank: int) -> Iterator[None]:
    """Within the block, give signs of life, and end this process when rank 0 has ended and this one still works.

    The thread has ended when the block is left: Python stops one that is inside the store's C++ code at exit in a way
    that aborts the process.
    """

    def watch(finished: threading.Event) -> None:
        try:
            while not store.check(["end"]):
                store.add(f"alive/{rank}", 1)
                if finished.wait(1.0):
                    return
            if finished.wait(2 * GRACE_SECONDS):
                return
        except RuntimeError:  # the store ended with rank 0
            pass
        if not finished.is_set():
            os._exit(1)

    with watching(watch):
        yield


@contextmanager
def watching(watch: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `watch(finished)` in a thread during the block; it must return soon after `finished` is set at its end."""
    finished = threading.Event()
    thread = threading.Thread(target=watch, args=(finished,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(GRACE_SECONDS)  # the store of a host that is gone answers late


class OomKills:
    """What the kernel reports of its out-of-memory kills since this object was made.

    The kernel log names the process. Where it cannot be read, the count of our memory cgroup decides, and where that
    is missing too, the count of the whole machine.
    """

    def __init__(self) -> None:
        self._named = logged_oom_kills()
        self._counters = cgroup_counters() or MACHINE_COUNTERS
        self._count = oom_kill_count(self._counters)

    def include(self, pid: int) -> bool:
        """Return whether a child that was killed by SIGKILL is one of them."""
        if self._named is None:
            return oom_kill_count(self._counters) > self._count
        return (logged_oom_kills() or self._named)[pid] > self._named[pid]


def logged_oom_kills() -> Counter[int] | None:
    """Return how often the kernel log names each process as killed because memory ran out.

    None where the log cannot be read or holds the pids of another namespace.
    """
    try:
        if os.readlink("/proc/self/ns/pid") != INITIAL_PID_NAMESPACE:
            return None
        device = KERNEL_LOG.stat().st_rdev
        if (os.major(device), os.minor(device)) != KERNEL_LOG_DEVICE:
            return None
        log = os.open(KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return killed_pids(_records(log))
    finally:
        os.close(log)


def killed_pids(records: Iterable[str]) -> Counter[int]:
    """Return how often kernel log records name each process as killed because memory ran out."""
    found = (re.search(r"\bKilled process (\d+)", record) for record in records)
    return Counter(int(match[1]) for match in found if match)


def oom_kill_count(counters: Path) -> int:
    """Return the `oom_kill` line of /proc/vmstat, memory.events or memory.oom_control; 0 where there is none."""
    try:
        lines = counters.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def cgroup_counters(memberships: Path = Path("/proc/self/cgroup"), root: Path = CGROUP_ROOT) -> Path | None:
    """Return the file that counts the out-of-memory kills in this process's memory cgroup, version 1 or 2.

    None in the root cgroup of version 2, and where there are no cgroups.
    """
    try:
        lines = [line.split(":", 2) for line in memberships.read_text().splitlines()]
    except OSError:
        return None
    for _, controllers, path in sorted(lines, key=lambda line: line[1], reverse=True):
        if "memory" in controllers.split(","):
            base, name = root / "memory", "memory.oom_control"
        elif controllers == "":
            base, name = root, "memory.events"
        else:
            continue
        inner = Path(path.lstrip("/"))
        for folder in (inner, *inner.parents):  # a container may mount its own cgroup as the root
            if (base / folder / name).is_file():
                return base / folder / name
    return None


def _descendants(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return set()


def _records(log: int) -> Iterator[str]:
    """Read the kernel log; each read gives one record."""
    while True:
        try:
            record = os.read(log, 8192)
        except BlockingIOError:  # no further record
            return
        except BrokenPipeError:  # records were overwritten before they were read; the next read goes on
            continue
        if not record:
            return
        yield record.decode(errors="replace")
