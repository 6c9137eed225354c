"""A study under a stub objective: finds what is planted, prunes, shares a storage, survives its processes."""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from planted_search import BEST_RATE, Counted, loss, study

import kronos.stages.search.study
from kronos.stages.search import storage
from kronos.stages.search.study import Asked, connect
from kronos.utils.errors import UserError

HERE = Path(__file__).parent


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real machinery without the disk's waits."""
    monkeypatch.setattr(kronos.stages.search.study, "connect", lambda *_: optuna.storages.InMemoryStorage())


def searched(seed: int, pruner: str) -> tuple[float, float, int]:
    found = study(Path(), seed=seed, search_pruner=pruner, search_learning_rate=(1e-6, 1e-2))
    counted = Counted(27)
    found.go(counted)
    best = found.best(1)[0]
    return best.params["predictor_learning_rate"] / BEST_RATE, best.values[0], counted.reports


@pytest.mark.slow
def test_the_planted_optimum_is_found_and_hyperband_spends_half(in_memory: None) -> None:
    whole = [searched(seed, "none") for seed in range(10)]
    pruned = [searched(seed, "hyperband") for seed in range(10)]
    for runs in (whole, pruned):
        assert sum(0.5 <= ratio <= 2 for ratio, _, _ in runs) >= 9
    shares = [some[2] / every[2] for some, every in zip(pruned, whole, strict=True)]
    assert statistics.median(shares) <= 0.5
    gaps = [some[1] - every[1] for some, every in zip(pruned, whole, strict=True)]
    assert statistics.median(gaps) < 0.01


def test_the_same_seed_searches_the_same(in_memory: None) -> None:
    values = []
    for _ in range(2):
        found = study(Path(), n_trials=8, search_reports=9)
        found.go(Counted(9))
        values.append([trial.params for trial in found.study.trials])
    assert values[0] == values[1]


def test_a_failed_trial_leaves_the_search_going_with_its_reason(in_memory: None) -> None:
    found = study(Path(), n_trials=6, search_pruner="none")

    def objective(asked: Asked) -> list[float]:
        if asked.number == 2:
            raise RuntimeError("loss is nan")
        return [1.0]

    found.go(objective)
    assert found.states() == {"COMPLETE": 5, "FAIL": 1}
    assert found.failures() == ["trial 2: RuntimeError: loss is nan"]


def test_batch_sizes_that_ran_out_of_memory_are_not_tried_again(in_memory: None) -> None:
    found = study(Path(), n_trials=25, search_pruner="none")
    tried: list[int] = []

    def objective(asked: Asked) -> list[float]:
        size = asked.values["batch_size"]
        tried.append(size)
        if size >= 64:
            asked.out_of_memory(size)
            raise MemoryError
        return [loss(asked.values, 1.0)]

    found.go(objective)
    assert found.count() == (25, 0)
    assert tried.count(128) <= 1 and tried.count(64) <= 1


def test_when_no_batch_size_fits_the_search_says_so(in_memory: None) -> None:
    found = study(Path(), n_trials=9, search_batch_size=(16, 32))

    def objective(asked: Asked) -> list[float]:
        asked.out_of_memory(16)
        raise MemoryError

    with pytest.raises(UserError, match="every batch size of the space, from 16, ran out of memory"):
        found.go(objective)


def test_an_interrupted_trial_is_tried_again_in_the_same_study(tmp_path: Path) -> None:
    def interrupted(asked: Asked) -> list[float]:
        if asked.number == 1:
            raise KeyboardInterrupt
        return [1.0]

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, n_trials=4, search_pruner="none").go(interrupted)
    again = study(tmp_path, n_trials=4, search_pruner="none")
    assert not again.created
    again.go(lambda asked: [2.0])
    trials = again.study.trials
    assert again.count() == (4, 0)
    assert trials[1].state.name == "FAIL" and trials[2].params == trials[1].params


def test_every_interrupted_trial_is_tried_again_though_the_wait_for_the_threads_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that arrives while Optuna joins its threads ends that wait; the trials end a moment later."""
    found = study(tmp_path, n_trials=2, search_pruner="none")
    begun, cut = threading.Barrier(3), threading.Event()

    def interrupted(asked: Asked) -> list[float]:
        begun.wait(30)
        cut.wait(30)
        time.sleep(0.3 * (1 + asked.number))
        raise KeyboardInterrupt

    def cut_short(executor: ThreadPoolExecutor, wait: bool = True, **options: bool) -> None:
        begun.wait(30)
        cut.set()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ThreadPoolExecutor, "shutdown", cut_short)
        found.go(interrupted, n_jobs=2)
    again = study(tmp_path, n_trials=2, search_pruner="none")
    again.go(lambda asked: [2.0])
    assert again.states() == {"COMPLETE": 2, "FAIL": 2}


def test_another_space_under_the_same_name_is_refused(tmp_path: Path) -> None:
    study(tmp_path)
    with pytest.raises(UserError, match="a study named planted with another space"):
        study(tmp_path, search_batch_size=(8, 16))


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("optuna.db", "is not a valid URL: expected sqlite:///FILE"),
        ("postgresql+psycopg2://me:secret@127.0.0.1:1/x", "cannot be reached"),
        ("sqlite:////nowhere/at/all.db", "cannot be reached"),
    ],
)
def test_a_storage_out_of_reach_is_said_without_its_password(
    tmp_path: Path, storage: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        study(tmp_path, storage=storage)
    assert "secret" not in str(caught.value)


WORKER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from planted_search import loss, study
found = study(Path(sys.argv[2]), n_trials=6, search_pruner="none", **json.loads(sys.argv[4]))
def objective(asked):
    print(asked.number, flush=True)
    time.sleep(float(sys.argv[3]))
    return [loss(asked.values, 1.0)]
found.go(objective, poll=0.2)
"""


def worker(folder: Path, seconds: float, **fields: Any) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, str(HERE), str(folder), str(seconds), json.dumps(fields)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_on_a_new_storage_share_its_trials(tmp_path: Path) -> None:
    both = [worker(tmp_path, 0.05) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    numbers = [int(number) for output in outputs for number in output]
    assert sorted(numbers) == list(range(len(numbers))) and 6 <= len(numbers) <= 7


def test_a_killed_process_leaves_a_study_that_goes_on_and_tries_its_trial_again(tmp_path: Path) -> None:
    first = worker(tmp_path, 60)
    assert first.stdout is not None
    assert first.stdout.readline().strip() == "0"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    found = study(tmp_path, n_trials=6, search_pruner="none")
    began = time.monotonic()
    found.go(lambda asked: [loss(asked.values, 1.0)])
    trials = found.study.trials
    assert trials[0].state.name == "FAIL" and trials[1].params == trials[0].params
    assert found.count() == (6, 0) and found.states()["COMPLETE"] == 6
    assert time.monotonic() - began < 60


def test_a_storage_is_opened_again_while_another_process_creates_its_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []

    def fail_twice(address: str, **options: Any) -> str:
        opened.append(address)
        if len(opened) < 3:
            raise RuntimeError("table studies already exists")
        return "storage"

    def fail(address: str, **options: Any) -> str:
        opened.append(address)
        raise RuntimeError("table studies already exists")

    monkeypatch.setattr(storage._tried.retry, "sleep", lambda seconds: None)
    monkeypatch.setattr(kronos.stages.search.study, "_SqliteStorage", fail_twice)
    assert connect("sqlite:///x.db", 60) == "storage" and len(opened) == 3
    monkeypatch.setattr(kronos.stages.search.study, "_SqliteStorage", fail)
    opened.clear()
    with pytest.raises(UserError, match="cannot be reached: table studies already exists"):
        connect("sqlite:///x.db", 60)
    assert len(opened) == 8


def test_a_waiting_trial_in_sqlite_is_taken_by_one_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.storages._rdb.models import TrialModel

    address = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(storage=connect(address, 60))
    study.enqueue_trial({"x": 1.0})
    (waiting,) = study.get_trials()
    real = TrialModel.find_or_raise_by_id.__func__  # type: ignore[attr-defined]

    def slow(cls: type, *arguments: Any, **options: Any) -> Any:
        found = real(cls, *arguments, **options)
        time.sleep(0.3)  # every worker has read the state before any of them writes it
        return found

    monkeypatch.setattr(TrialModel, "find_or_raise_by_id", classmethod(slow))
    storages = [connect(address, 60) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        taken = pool.map(
            lambda storage: storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING), storages
        )
        assert sorted(taken) == [False, False, True]
