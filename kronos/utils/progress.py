"""Progress output of long steps: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

ESTIMATE_AFTER_STEPS = 50
SHOWN = (
    "train_loss",
    "val_loss",
    "learning_rate",
    "windows_per_second",
)  # the metrics shown, of all that are logged


class Progress:
    """Progress of one long step. Call it with (done, total, values); use it as a context manager.

    On a terminal it is a tqdm bar. Elsewhere it prints a line about every 10 %, and after 50 steps an estimate of the
    remaining time.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self._bar: Any = None
        self._on_terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._first: int | None = None
        self._said_tenth = 0
        self._estimated = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int, values: dict[str, float] | None = None) -> None:
        shown = {name: f"{value:.4g}" for name, value in (values or {}).items() if name in SHOWN}
        if self._on_terminal:
            if self._bar is None:
                self._bar = tqdm(total=total, desc=self.label, initial=done, leave=True)
            self._bar.update(done - self._bar.n)
            if shown:
                self._bar.set_postfix(shown)
            return
        if self._first is None:
            self._first = done
            self._said_tenth = 10 * done // max(total, 1)
        self._say_estimate(done, total)
        tenth = 10 * done // max(total, 1)
        if tenth > self._said_tenth:
            self._said_tenth = tenth
            text = "".join(f"  {name} {value}" for name, value in shown.items())
            print(f"{self.label}: {done:,}/{total:,}{text}", flush=True)

    def _say_estimate(self, done: int, total: int) -> None:
        steps = done - (self._first or 0)
        if self._estimated or steps < ESTIMATE_AFTER_STEPS:
            return
        self._estimated = True
        seconds = (time.monotonic() - self._began) / steps * (total - done)
        if seconds > 30:
            print(f"{self.label}: about {_duration(seconds)} left", flush=True)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return (
        f"{seconds:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
    )
