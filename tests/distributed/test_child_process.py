"""Child processes: their environment, their end with all descendants, and what counts as an out-of-memory kill."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from kronos.distributed import child_process
from kronos.distributed.child_process import (
    ChildProcess,
    cgroup_counters,
    exit_with_rank_0,
    killed_pids,
    oom_kill_count,
)
from kronos.distributed.device import is_out_of_memory
from kronos.utils.errors import UserError


def python(code: str, **variables: str) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", code], variables, stdout=subprocess.PIPE)


def line(process: ChildProcess) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_child_has_its_own_session_and_no_mlflow_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "1")
    monkeypatch.setenv("KEPT", "2")
    process = python(
        "import os; print('MLFLOW_RUN_ID' in os.environ, os.environ['KEPT'], os.environ['ADDED'], os.getsid(0))",
        ADDED="3",
    )
    assert line(process) == f"False 2 3 {process.pid}"
    assert process.outcome() == "ended with status 0"


def test_a_child_is_ended_with_its_descendants_though_they_ignore_sigterm() -> None:
    process = python(
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True)\n"
        "print(grandchild.pid, flush=True); time.sleep(60)"
    )
    grandchild = psutil.Process(int(line(process)))
    process.end(grace=0.5)
    assert process.returncode == -signal.SIGKILL
    grandchild.wait(5)
    process.end()  # a second call does nothing
    assert process.outcome() == "was killed by signal 9"


def test_a_child_that_obeys_sigterm_is_not_killed() -> None:
    process = python("import time; print('ready', flush=True); time.sleep(60)")
    line(process)
    process.end()
    assert process.outcome() == f"was killed by signal {int(signal.SIGTERM)}"


@pytest.mark.parametrize("early", [True, False])
def test_a_child_ends_with_its_parent_though_that_is_killed_while_the_child_starts(early: bool) -> None:
    wait, ready = "import time; time.sleep({})", "print('ready', flush=True)"
    watch = "from kronos.distributed.child_process import exit_with_parent; exit_with_parent()"
    child = "; ".join([wait.format(3 if early else 0), watch, ready, wait.format(60)])
    parent = python(
        "import sys, time; from kronos.distributed.child_process import ChildProcess\n"
        f"print(ChildProcess([sys.executable, '-c', {child!r}]).pid, flush=True); time.sleep(60)"
    )
    orphan = psutil.Process(int(line(parent)))
    if not early:
        assert line(parent) == "ready"
    parent.kill()
    parent.wait()
    orphan.wait(20)


class Kernel:
    """A kernel whose log and counters a test sets; None for what cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.log: Counter[int] | None = None
        self.cgroup: Path | None = folder / "memory.events"
        self.machine = folder / "vmstat"
        self.count(0, 0)

    def count(self, cgroup: int, machine: int) -> None:
        (self.machine.parent / "memory.events").write_text(
            f"low 0\noom 7\noom_kill {cgroup}\noom_group_kill 9\n"
        )
        self.machine.write_text(f"nr_free_pages 5\noom_kill {machine}\n")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    fake = Kernel(tmp_path)
    monkeypatch.setattr(child_process, "logged_oom_kills", lambda: fake.log)
    monkeypatch.setattr(child_process, "cgroup_counters", lambda: fake.cgroup)
    monkeypatch.setattr(child_process, "MACHINE_COUNTERS", fake.machine)
    return fake


def killed(kernel: Kernel, *, logged: bool | None, cgroup: int | None, machine: int) -> ChildProcess:
    """A child that dies by SIGKILL while the kernel reports the given kills; None for what cannot be read."""
    kernel.log = None if logged is None else Counter({1: 1})
    kernel.cgroup = None if cgroup is None else kernel.cgroup
    process = python("import time; time.sleep(60)")
    if kernel.log is not None:
        kernel.log = Counter({1: 2, process.pid: int(bool(logged))})
    kernel.count(cgroup or 0, machine)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return process


@pytest.mark.parametrize(
    ("logged", "cgroup", "machine", "expected"),
    [
        (True, 0, 0, True),
        (False, 1, 1, False),  # the log names another process
        (None, 1, 1, True),
        (None, 0, 1, False),  # a kill outside our cgroup
        (None, None, 1, True),
        (None, None, 0, False),
    ],
)
def test_a_sigkill_is_out_of_memory_only_with_evidence_from_the_kernel(
    kernel: Kernel, logged: bool | None, cgroup: int | None, machine: int, expected: bool
) -> None:
    process = killed(kernel, logged=logged, cgroup=cgroup, machine=machine)
    assert process.out_of_memory() == expected
    assert process.outcome().startswith("was killed by signal 9")
    # A killed rank reaches the search as the message of its trial's error.
    assert is_out_of_memory(UserError(f"process 1 of 2 {process.outcome()}")) == expected


def test_another_process_out_of_memory_says_nothing_of_a_child_that_ends_by_itself(kernel: Kernel) -> None:
    kernel.cgroup = None
    process = python("raise SystemExit(1)")
    kernel.count(1, 1)
    process.wait()
    assert not process.out_of_memory()
    assert process.outcome() == "ended with status 1"


def test_a_child_killed_by_its_parent_is_not_out_of_memory(kernel: Kernel) -> None:
    kernel.cgroup = None
    process = python(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    line(process)
    kernel.count(1, 1)
    process.end(grace=0.2)
    assert process.returncode == -signal.SIGKILL and not process.out_of_memory()


def test_the_kernel_log_names_the_killed_processes() -> None:
    records = [
        "6,100,5,-;python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n",
        "3,101,6,-;Out of memory: Killed process 41 (python) total-vm:9kB, anon-rss:8kB, UID:0\n",
        "3,102,7,-;Memory cgroup out of memory: Killed process 42 (python) total-vm:9kB\n",
        "3,103,8,-;Out of memory: Kill process 43 (python) score 9 or sacrifice child\n",
        "3,104,9,-;Memory cgroup out of memory: Killed process 42 (python) total-vm:9kB\n",
    ]
    assert killed_pids(records) == {41: 1, 42: 2}


@pytest.mark.parametrize(
    ("memberships", "files", "expected"),
    [
        ("0::/user/job\n", ["user/job/memory.events"], "user/job/memory.events"),
        ("0::/user/job\n", ["user/memory.events"], "user/memory.events"),  # no memory controller of its own
        ("0::/\n", [], None),  # the root cgroup counts nothing
        ("0::/../outside\n", ["memory.events"], "memory.events"),
        (
            "4:memory:/job\n1:name=systemd:/\n0::/\n",
            ["memory/job/memory.oom_control", "memory.events"],
            "memory/job/memory.oom_control",
        ),
        (
            "4:cpu,memory:/docker/1\n",
            ["memory/memory.oom_control"],
            "memory/memory.oom_control",
        ),  # a container's own root
    ],
)
def test_the_counters_of_our_memory_cgroup_are_found(
    tmp_path: Path, memberships: str, files: list[str], expected: str | None
) -> None:
    root = tmp_path / "cgroup"
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("oom_kill 3\n")
    (tmp_path / "self").write_text(memberships)
    found = cgroup_counters(tmp_path / "self", root)
    assert found == (root / expected if expected else None)
    assert oom_kill_count(found or tmp_path / "nothing") == (3 if expected else 0)
    assert cgroup_counters(tmp_path / "nothing", root) is None


def test_the_thread_that_watches_rank_0_gives_signs_of_life_and_ends_with_its_block() -> None:
    """One left inside the store's C++ code at exit would abort the process."""
    from torch.distributed import HashStore

    before, store = set(threading.enumerate()), HashStore()
    with exit_with_rank_0(store, 3):
        while not store.check(["alive/3"]):  # its `wait` does not see an `add`
            time.sleep(0.01)
        (watcher,) = set(threading.enumerate()) - before
    assert not watcher.is_alive()
