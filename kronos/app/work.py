"""Checks and forecasts in a thread, one after the other, so that the page answers meanwhile."""

import secrets
import shutil
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from kronos.utils.error_messages import one_line

KEPT = 8  # newest pieces of work whose results can still be looked at
END_SECONDS = 20.0  # that the end of the page waits for the work to notice it
Function = Callable[["Work"], Any]


class Stopped(Exception):
    """The user has stopped the work; no failure."""


class Work:
    """A check or a forecast: how far it is, and its result or the reason why it has none.

    Attributes:
        folder: for the files of the result; removed with it.
        state: waiting, running, done, failed or stopped.
        lines: what it had to say.
        problem: the message of a failure.
        result: what the function returned.
    """

    def __init__(self, folder: Path) -> None:
        self.id = secrets.token_urlsafe(12)
        self.folder = folder / self.id
        self.state, self.problem = "waiting", ""
        self.label, self.done, self.total = "", 0, 0
        self.lines: list[str] = []
        self.result: Any = None
        self._stop = threading.Event()

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "running")

    def say(self, text: str) -> None:
        """Add a line for the user."""
        self.lines.append(text.strip())

    def step(self, label: str, done: int = 0, total: int = 0) -> None:
        """Say what is done now and how much of it; raises Stopped where the user asked for that."""
        self.label, self.done, self.total = label, done, total
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """Ask the work to end at its next step."""
        self._stop.set()


class Worker:
    """Runs functions of a `Work` in one thread, since each forecast takes all cores."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._queue: SimpleQueue[tuple[Work, Function] | None] = SimpleQueue()
        self._known: OrderedDict[str, Work] = OrderedDict()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self, function: Function) -> Work:
        """Queue a function, and forget the oldest finished work beyond those that are kept."""
        work = Work(self._folder)
        work.folder.mkdir(parents=True)
        self._known[work.id] = work
        for old in [one for one in self._known.values() if one.ended][:-KEPT]:
            del self._known[old.id]
            shutil.rmtree(old.folder, ignore_errors=True)
        self._queue.put((work, function))
        return work

    def find(self, identifier: str | None) -> Work | None:
        return self._known.get(identifier or "")

    def close(self) -> None:
        """Stop what runs or waits."""
        for work in [*self._known.values()]:
            work.stop()
        self._queue.put(None)
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            work, function = entry
            try:
                work.step("begins")
                work.state = "running"
                work.result = function(work)
                work.state = "done"
            except Stopped:
                work.state = "stopped"
            except Exception as error:
                work.problem = message(error)
                work.state = "failed"


def message(error: Exception) -> str:
    """The line that the command line would print for an error; a bug's traceback goes to the terminal."""
    line = one_line(error)
    if line is None:
        traceback.print_exception(error, file=sys.stderr)
        line = f"{type(error).__name__}: {error}: this is a bug, its traceback is on the terminal of the page"
    return line
