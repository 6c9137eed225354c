"""The result of a training run, and which evaluation is the best one."""

from dataclasses import dataclass

from kronos.utils.errors import UserError


class TrainingStopped(UserError):
    """A loss or gradient is not finite; no optimizer step and no save was made after it."""

    def __init__(self, message: str, step: int, learning_rate: float, windows: list[int]) -> None:
        super().__init__(message)
        self.step, self.learning_rate, self.windows = step, learning_rate, windows


@dataclass(frozen=True)
class FitResult:
    """Result of a training run. `best_step` 0 means that no training step improved on the initial weights.

    `best_value` is the val_loss of the best weights.

    `curve` has one entry per evaluation (without times, so that equal runs have equal curves), `learning_rates`
    [step, rate] pairs, `seconds` the parts data, step, evaluate, save and their total, over all sessions.
    `peak_memory` is in bytes, of this process and session: see `device.peak_memory`.
    `resumed_from` is None for a run that was not resumed.
    """

    best_value: float | None
    best_step: int | None
    curve: list[dict[str, float]]
    learning_rates: list[list[float]]
    seconds: dict[str, float]
    windows_per_second: float
    peak_memory: int
    steps: int
    resumed_from: int | None
    interrupted: bool
    stopped_early: bool


def is_better(value: float | None, best: float | None, higher: bool) -> bool:
    """Return whether a figure is better than the best so far; None, which cannot be computed, is the worst."""
    if value is None or best is None:
        return value is not None
    return value > best if higher else value < best
