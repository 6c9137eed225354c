"""Interrupts: none is lost, whatever the interpreter or a library is doing, and none disturbs the end of a run."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from kronos.__main__ import main
from kronos.utils import interrupts
from kronos.utils.interrupts import SIGNALS, interruptible, on_interrupt, uninterrupted


def arrive(number: int = signal.SIGTERM) -> None:
    """A signal for this process, handled before this function returns."""
    os.kill(os.getpid(), number)
    for _ in range(1000):
        pass


class Dying:
    """A signal arrives while its destructor runs."""

    def __del__(self) -> None:
        arrive()


class Cycle:
    """A signal arrives while the garbage collector runs its destructor."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        arrive()


def destructor() -> None:
    Dying()


def weak_reference() -> None:
    target = threading.Event()
    kept = weakref.ref(target, lambda _: arrive())
    del target
    assert kept() is None


def garbage_collector() -> None:
    Cycle()
    gc.collect()


def collector_callback() -> None:
    callback = lambda phase, info: arrive() if phase == "start" else None  # noqa: E731
    gc.callbacks.append(callback)
    gc.collect()
    gc.callbacks.remove(callback)


def library() -> None:
    with contextlib.suppress(BaseException):
        arrive()


def work(seconds: float = 10.0) -> None:
    """What the program goes on with where the interrupt was lost."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


PLACES = [destructor, weak_reference, garbage_collector, collector_callback, library]


@pytest.mark.parametrize("place", PLACES)
def test_an_interrupt_lost_in_a_callback_arrives_all_the_same(
    place: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        place()
        work()
    assert "ignored" not in capfd.readouterr().err


def test_an_interrupt_lost_again_and_again_ends_a_wait_in_the_system() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        for _ in range(3):
            with contextlib.suppress(KeyboardInterrupt):
                arrive()
                time.sleep(20)
        time.sleep(20)


def test_handlers_threads_and_hooks_are_as_before() -> None:
    before = [signal.getsignal(number) for number in SIGNALS], threading.active_count(), sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), interruptible():
        arrive()
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before[0][SIGNALS.index(signal.SIGTERM)]
    after = [signal.getsignal(number) for number in SIGNALS], threading.active_count(), sys.unraisablehook
    assert after == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            arrive(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_what_ends_a_run_is_not_interrupted_by_the_same_request(number: int) -> None:
    """The terminal and torchrun both send it: while the run is being ended, nothing more is raised."""
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            arrive(number)
        finally:
            for step in range(4):
                arrive(number)
                time.sleep(3 * interrupts.LOOK_SECONDS)
                done.append(step)
    assert done == [0, 1, 2, 3]


def test_a_second_request_ends_the_process_at_once() -> None:
    code = (
        "import os, signal, time\n"
        "from kronos.utils import interrupts\n"
        "interrupts.SAME_REQUEST = 0.1\n"
        "with interrupts.interruptible():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(30)\n"
        "    finally:\n"
        "        time.sleep(0.2); os.kill(os.getpid(), signal.SIGINT); time.sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "kronos: interrupted again, ended at once; the same command continues\n"


def test_short_work_is_done_as_a_whole() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        with uninterrupted():
            arrive()
            work(4 * interrupts.LOOK_SECONDS)
            done.append("whole")
        done.append("never")
    assert done == ["whole"]


def test_a_request_that_comes_too_late_to_be_obeyed_is_raised_after_the_work() -> None:
    asked, done = [], []
    with pytest.raises(KeyboardInterrupt), interruptible():
        with on_interrupt(lambda: bool(asked.append(1))):
            arrive()
            work(4 * interrupts.LOOK_SECONDS)
            done.append("trained")
        with uninterrupted():
            done.append("run ended")
        done.append("next stage")
    assert (asked, done) == ([1], ["trained", "run ended"])


def test_an_error_made_of_an_interrupt_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            arrive()
        except BaseException as error:
            raise RuntimeError("a callback failed") from error


def test_a_command_whose_interrupt_was_lost_ends_killed(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kronos.stages import data

    def interrupted_in_a_callback(*arguments: object) -> None:
        Dying()
        work()

    monkeypatch.setattr(data, "_build", interrupted_in_a_callback)
    assert main(["data"]) == 130
    assert capsys.readouterr().err == (
        "kronos: interrupted: the same command runs this stage anew, nothing is half-written\n"
    )
    (run,) = MlflowClient().search_runs([item.experiment_id for item in MlflowClient().search_experiments()])
    assert run.info.status == "KILLED"
