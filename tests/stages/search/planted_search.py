"""A stub objective with a known optimum, under the real study: learning rate 10**-4, whatever the batch size."""

import math
from pathlib import Path
from typing import Any

from kronos.config.schema import Config
from kronos.stages.search.space import space_of
from kronos.stages.search.study import Asked, Study

BEST_RATE = 1e-4
BATCH = {16: 0.0, 32: 0.05, 64: 0.1, 128: 0.2}


def study(folder: Path, **fields: Any) -> Study:
    """A study of the predictor's fields in a new sqlite file, or the one that is there."""
    given = {"search_reports": 27, "n_trials": 30, "storage": f"sqlite:///{folder}/optuna.db", **fields}
    config = Config(**given)
    space = space_of(config)
    return Study(
        config.storage, "planted", space, {"space": space.describe()}, config.search_metric,
        sampler=config.search_sampler, pruner=config.search_pruner, reports=config.search_reports,
        seed=config.seed, n_trials=config.n_trials, heartbeat=config.search_heartbeat,
    )  # fmt: skip


def loss(values: dict[str, Any], done: float) -> float:
    """The loss after a share of the budget: it falls to a floor that grows with the distance in log rate."""
    away = math.log10(values["predictor_learning_rate"] / BEST_RATE)
    return 2.0 + away**2 + BATCH[values["batch_size"]] + 3.0 * math.exp(-6.0 * done)


class Counted:
    """The objective; `reports` is what all trials spent."""

    def __init__(self, reports: int) -> None:
        self.length, self.reports = reports, 0

    def __call__(self, asked: Asked) -> list[float]:
        value = math.inf
        for step in range(1, self.length + 1):
            self.reports += 1
            value = loss(asked.values, step / self.length)
            asked.report(step, value)
        return [value]
