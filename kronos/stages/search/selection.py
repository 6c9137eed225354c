"""What the score of the best trial is worth: it was chosen as the best of several, on the days that it is scored on.

The score from seeds that did not choose the trial, and, where the trials have a daily Rank IC, the deflated Sharpe
ratio of the best one and the probability of backtest overfitting.
"""

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd

from kronos.evaluation.multiple_looks import (
    BLOCKS,
    deflated_sharpe_of,
    probability_of_backtest_overfitting,
)
from kronos.stages.inputs import stored_bars
from kronos.stages.search.session import Search
from kronos.stages.search.study import DAILY, DIRECTIONS

INTERVAL = 0.95


@dataclass(frozen=True)
class Selection:
    """How far the best trial's daily Rank IC can be explained by the choice among the trials."""

    trials: int  # with a daily Rank IC
    days: int  # on which all of them have one
    periods: int  # of these days, as many as are a horizon apart
    deflated_sharpe: float  # a probability, NaN where it cannot be computed
    overfitting: float  # a share of the splits of the days


def selection_of(search: Search, best: int) -> tuple[Selection | None, str]:
    """Return the selection of trial `best` from the daily Rank ICs of the completed trials, or None and why not."""
    study, config = search.study, search.config
    if "rank_ic" not in study.metrics:
        return None, f"they need a value per day, which {' and '.join(study.metrics)} does not have"
    kept = {
        trial.number: pd.Series(trial.user_attrs[DAILY], dtype=float)
        for trial in study.study.get_trials(deepcopy=False)
        if trial.state.name == "COMPLETE" and DAILY in trial.user_attrs
    }
    if best not in kept:
        return None, f"trial {best} was made by an earlier version, which stored no daily Rank IC"
    daily = pd.DataFrame(kept).dropna().sort_index()
    sessions = pd.DatetimeIndex(stored_bars(config).sessions)
    positions = sessions.searchsorted(pd.to_datetime(daily.index))
    return selection(daily, best, positions, config.data.predict_window)


def selection(
    daily: pd.DataFrame, best: int, positions: np.ndarray, horizon: int
) -> tuple[Selection | None, str]:
    """Return the selection of trial `best`, or None and why it cannot be computed.

    Args:
        daily: one column per trial, named by its number, without NaN.
        best: the number of the trial that was chosen.
        positions: the session number of each day, increasing.
        horizon: of the targets in sessions; days that are closer share parts of them.
    """
    days, trials = daily.shape
    if trials < 2:
        return None, "only one trial has a daily Rank IC"
    if days < BLOCKS:
        return None, f"the trials have the Rank IC of {days} days in common, fewer than {BLOCKS}"
    values, periods, last = daily.to_numpy(), 0, -horizon
    for position in positions:
        if position - last >= horizon:
            periods, last = periods + 1, position
    deflated = deflated_sharpe_of(values, int(np.argmax(daily.columns == best)), periods)
    return Selection(trials, days, periods, deflated, probability_of_backtest_overfitting(values)), ""


def table_of(search: Search) -> list[dict[str, Any]]:
    """The best trials with their parameters and scores, best first; repeated trials come before the others.

    Per metric: the trial's own value; mean and 95 % interval over all its seeds; `choice`, what the trial was chosen
    by; and mean and interval over the other seeds, which had no part in the choice. With one metric, repeated trials
    are sorted by the mean over the first half of their seeds (rounded up). Values that do not exist are None.
    """
    study, search_config, seed, rows = search.study, search.config.search, search.config.training.seed, []
    repeats, single = search_config.search_repeats, len(study.metrics) == 1
    choosing = math.ceil(repeats / 2) if single else 1
    for trial in study.best(max(search_config.search_top, 10)):
        row: dict[str, Any] = {"trial": trial.number}
        seeds = [trial.values]
        seeds += [study.get(f"repeat {trial.number} {seed + offset}") for offset in range(1, repeats)]
        for place, name in enumerate(study.metrics):
            chosen, others = (
                [found[place] for found in part if found] for part in (seeds[:choosing], seeds[choosing:])
            )
            row[name] = trial.values[place]
            row |= _summary(name, [*chosen, *others])
            row |= {f"{name}_choice": fmean(chosen), **_summary(f"{name}_other", others)}
        rows.append({**row, **trial.params, "run_id": trial.user_attrs.get("mlflow_run")})
    name = study.metrics[0]
    if repeats > 1 and single:
        repeated = [row for row in rows if row[f"{name}_seeds"] > 1]
        sign = -1 if DIRECTIONS[name] == "maximize" else 1
        repeated.sort(key=lambda row: sign * row[f"{name}_choice"])
        rows = repeated + [row for row in rows if row[f"{name}_seeds"] == 1]
    return rows


def _summary(name: str, values: list[float]) -> dict[str, float | int | None]:
    mean, low, high = interval(values) if values else (None, None, None)
    return {
        f"{name}_seeds": len(values),
        f"{name}_mean": mean,
        f"{name}_low": low,
        f"{name}_high": high,
    }


def interval(values: list[float]) -> tuple[float, float | None, float | None]:
    """(mean, low, high) with the 95 % interval of the mean by Student's t; (value, None, None) for one value."""
    from scipy.stats import t

    if len(values) < 2:
        return values[0], None, None
    half = float(t.ppf((1 + INTERVAL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values), fmean(values) - half, fmean(values) + half
