"""Isolated trials: which deaths of a trial's process count as out of memory."""

import sys
from pathlib import Path

import pytest

from kronos.config.schema import Config
from kronos.distributed import child_process
from kronos.stages.search import trial_pool
from kronos.stages.search.trial_pool import TrialFailed, TrialProcesses

# The trial raises the machine-wide counter, as the kernel does when it kills any process of the machine.
TRIAL = """
import os, signal, sys, time
sys.stdin.read()
open({counters!r}, "w").write("oom_kill 1\\n")
{end}
"""


@pytest.mark.parametrize(
    ("end", "reason", "out_of_memory"),
    [
        ("sys.exit(1)", "its process ended with status 1", False),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "killed by signal 9: the machine or its container ran out of memory",
            True,
        ),
        ("time.sleep(60)", "time limit: not finished after 1 s", False),
    ],
)
def test_only_a_trial_that_the_kernel_killed_ran_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str, reason: str, out_of_memory: bool
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("oom_kill 0\n")
    monkeypatch.setattr(child_process, "logged_oom_kills", lambda: None)
    monkeypatch.setattr(child_process, "cgroup_counters", lambda: None)
    monkeypatch.setattr(child_process, "MACHINE_COUNTERS", counters)
    code = TRIAL.format(counters=str(counters), end=end)
    monkeypatch.setattr(trial_pool, "python_module", lambda name: [sys.executable, "-c", code])
    pool = TrialProcesses(Config(cpu=True))
    with pytest.raises(TrialFailed, match=reason) as caught:
        pool.train(Config(), lambda step, metrics: None, 1.0 if "sleep" in end else 30.0, tmp_path / "log")
    assert caught.value.out_of_memory == out_of_memory
