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
    remaining time. With a `unit` each line has the rate and the remaining time instead; steps that were done before
    the first call have no part in them.
    """

    def __init__(self, label: str, unit: str = "") -> None:
        self.label, self.unit = label, unit
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
                unit = f" {self.unit}" if self.unit else "it"
                self._bar = tqdm(total=total, desc=self.label, initial=done, leave=True, unit=unit)
            self._bar.update(done - self._bar.n)
            if shown:
                self._bar.set_postfix(shown)
            return
        if self._first is None:
            self._first = done
            self._said_tenth = 10 * done // max(total, 1)
        if not self.unit:
            self._say_estimate(done, total)
        tenth = 10 * done // max(total, 1)
        if tenth > self._said_tenth:
            self._said_tenth = tenth
            text = "".join(f"  {name} {value}" for name, value in shown.items())
            print(f"{self.label}: {done:,}/{total:,}{text}{self._rate(done, total)}", flush=True)

    def say(self, text: str) -> None:
        """Print a line about the step, above the bar on a terminal."""
        if self._bar is not None:
            self._bar.clear()
        print(f"{self.label}: {text}", flush=True)

    def _rate(self, done: int, total: int) -> str:
        steps, seconds = done - (self._first or 0), time.monotonic() - self._began
        if not self.unit or steps <= 0:
            return ""
        left = f", about {_duration(seconds / steps * (total - done))} left" if done < total else ""
        rate = steps / max(seconds, 1e-9)
        return f"  {f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}'} {self.unit}/s{left}"

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
