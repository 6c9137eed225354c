"""Trainings as child processes of the page: commands of the command line, which can be stopped and gone on with."""

import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from kronos.app.models import training_fields
from kronos.config.loading import load_config
from kronos.distributed.child_process import ChildProcess
from kronos.distributed.launcher import python_module
from kronos.stages import STAGES
from kronos.tracking.reader import TrackedRun
from kronos.utils.errors import UserError
from kronos.utils.files import write_json
from kronos.utils.process_identity import is_gone

STAGE = "pipeline"
WATCHED = ("pipeline", "tokenizer", "predictor")  # stages whose runs the page lists
SAVE_SECONDS = 60.0  # that the end of the page waits for trainings to save their state
SHOWN_BYTES = 4000  # of the output of a training
SHOWN_LINES = 12
OF_THIS_RUN = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")


class Training:
    """A command that the page has started."""

    def __init__(self, command: Sequence[str], log: Path, folder: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.command, self._log = list(command), log
        variables = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("MLFLOW_") and name not in OF_THIS_RUN
        }
        with log.open("w") as output:
            self._process = ChildProcess(
                self.command, variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=folder,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def text(self) -> str:
        """The command as it is typed."""
        return shlex.join(["python", *self.command[1:]])

    def outcome(self) -> str:
        """How it stands: running, done, or how it ended."""
        if self.running:
            return f"running as process {self.pid}"
        return "done" if self._process.returncode == 0 else self._process.outcome()

    def lines(self) -> list[str]:
        """The last lines that it has printed."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - SHOWN_BYTES))
            return log.read().decode(errors="replace").splitlines()[-SHOWN_LINES:]

    def stop(self) -> None:
        """Ask it to save its state and end, as Ctrl-C does.

        SIGTERM means the same to a command, and is not ignored by one whose shell runs it in the background.
        """
        if self.running:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """End it and its processes, where it has not obeyed in time."""
        try:
            self._process.wait(SAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.end()


class Trainings:
    """The trainings of this page; they end with it, as a command in a terminal does, and can be gone on with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[Training] = []

    @property
    def newest(self) -> Training | None:
        return self._all[-1] if self._all else None

    def start(self, stage: str, arguments: Sequence[str], folder: Path = Path()) -> Training:
        """Start a stage with these arguments of the command line, in the folder that its relative paths begin at."""
        command = [*python_module("kronos"), stage, *arguments]
        training = Training(command, self._folder / f"training-{len(self._all)}.log", folder)
        self._all.append(training)
        return training

    def go_on(self, run: TrackedRun) -> Training:
        """Start the command of an interrupted run again: it continues from its last checkpoint.

        Raises UserError for a run that is still running and for one of another stage.
        """
        if run.status == "FINISHED":
            raise UserError(f"run {run.id} is finished: there is nothing to go on with")
        if is_running(run):
            raise UserError(f"run {run.id} is still running")
        if run.stage not in STAGES:
            raise UserError(f"run {run.id} is not of a stage")
        path = self._folder / f"{run.id}.json"
        write_json(path, run.config.model_dump(mode="json"))
        return self.start(run.stage, ["--config-path", str(path)], run.folder)

    def running(self) -> list[Training]:
        return [one for one in self._all if one.running]

    def close(self) -> None:
        """Stop all that run and wait until they have saved their state."""
        running = self.running()
        for one in running:
            one.stop()
        for one in running:
            one.end()


def flags_of(fields: Mapping[str, Any]) -> list[str]:
    """Return the flags of some fields. Raises UserError for the problems that the command would report."""
    load_config(None, fields)
    return [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]


def fields_of_training(
    bars: Mapping[str, Any], predictor: str | None, tokenizer: str | None, frozen: bool, backtest: bool
) -> dict[str, Any]:
    """Return the fields of a fine-tuning of a model on some bars; `bars` may name any other field and win."""
    return {
        **training_fields(predictor, tokenizer),
        "freeze_tokenizer": str(frozen).lower(),
        "skip_backtest": str(not backtest).lower(),
        **bars,
    }


def is_running(run: TrackedRun) -> bool:
    """Whether a run is RUNNING; one whose process on this machine is gone is not."""
    return run.status == "RUNNING" and not is_gone(run.process)


def stop_run(run: TrackedRun) -> None:
    """Ask the process of a run to save its state and end. Raises UserError where it is not one of this machine."""
    if not is_running(run):
        raise UserError(f"run {run.id} is not running")
    host, pid, _ = run.process.split()
    if host != socket.gethostname():
        raise UserError(f"run {run.id} is of the machine {host}: stop it there")
    try:
        psutil.Process(int(pid)).send_signal(signal.SIGTERM)
    except psutil.AccessDenied:
        raise UserError(f"process {pid} of run {run.id} belongs to another user") from None
    except psutil.NoSuchProcess:  # it has just ended
        pass


def steps_of(run: TrackedRun) -> tuple[int, int]:
    """(the last step that a training has reported, the number of its steps); the latter 0 where it is not known."""
    losses = [run.history(name) for name in ("train_loss", "val_loss")]
    done = max((int(one.index[-1]) for one in losses if len(one)), default=0)
    total = run.params.get("total_steps", "0")
    return done, int(total) if re.fullmatch(r"\d+", total) else 0


def trained_by(run: TrackedRun) -> list[TrackedRun]:
    """The runs with losses: the run itself, or the trainings of a pipeline."""
    if run.stage != STAGE:
        return [run]
    return [child for child in run.children() if child.stage in ("tokenizer", "predictor")]
