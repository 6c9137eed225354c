"""Compare forecasts with realised bars and with naive baselines: all of a report but the portfolio.

Reads nothing but the given forecasts and bars; each result is a plain value for a figure, a table or a metric.
Wide frames are days x instruments: those of bars begin `lookback` sessions before the first forecast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from kronos.evaluation import accuracy, ranking, signals
from kronos.evaluation.coverage import Coverage
from kronos.evaluation.ranking import PREDICTED, TRADABLE, Comparison, Worth
from kronos.evaluation.statistics import Estimate, estimate
from kronos.evaluation.tradability import Tradability, unbuyable_shares


@dataclass(frozen=True)
class Ranking:
    """Predictive value of ranking instruments by the forecasts; the tradable target is the primary one."""

    worths: dict[str, dict[str, Worth]]  # target -> signal -> worth
    comparisons: list[Comparison]  # the configured signal against each baseline, on the tradable target
    steps: pd.DataFrame  # of `ranking.by_step`
    decay: pd.DataFrame  # of `ranking.decay`
    groups: pd.DataFrame  # daily mean tradable return of each group
    group_means: dict[int, Estimate]
    spread: Estimate  # highest group minus the lowest
    turnover: pd.DataFrame  # of `ranking.ranking_turnover`
    unbuyable: tuple[float, float]  # shares of all pairs and of the highest group that cannot be bought


@dataclass(frozen=True)
class Before:
    """Scores of the model before fine-tuning, on some of the days, or the reason why there are none."""

    name: str = "model before fine-tuning"
    score: pd.DataFrame | None = None  # wide, of the configured signal
    spacing: int = 1  # sessions between its days
    note: str = ""


@dataclass(frozen=True)
class Member:
    """A member of an ensemble alone: its ranking against the pool's, and the raw bands of its paths."""

    name: str
    comparison: Comparison | None  # the pool's daily Rank IC minus the member's
    bands: Coverage | None


@dataclass(frozen=True)
class Samples:
    """Sample paths of a fixed subset of the forecasts, as closes over the last close."""

    name: str  # "temperature 1, top-p 1"
    paths_NSH: np.ndarray
    rows: np.ndarray  # their positions among all forecasts


@dataclass(frozen=True)
class Accuracy:
    """Errors of the forecasts on relative closes, so that 0.01 is one per cent of the last price."""

    steps: pd.DataFrame  # of `accuracy.by_step`
    instruments: pd.DataFrame
    skill: tuple[float, float, float]  # of the MAE over the last price's, and its interval
    skill_mean: tuple[float, float, float]  # over the rolling mean's
    gap: Estimate  # daily mean absolute error, the model's minus the last price's
    direction: Estimate  # daily share of signs forecast
    distributions: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name of the samples


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """Forecasts as arrays, with the realised bars; N forecasts, H steps."""

    close_NH: np.ndarray  # mean predicted close
    last_N: np.ndarray  # close of the last bar seen
    day_N: np.ndarray  # row of that bar's session in the wide frames
    instrument_N: np.ndarray  # column in the wide frames
    opening: pd.DataFrame  # wide, of real bars only
    close: pd.DataFrame
    lookback: int
    tradable: Tradability  # at the opens

    @property
    def horizon(self) -> int:
        return int(self.close_NH.shape[1])

    def realised(self) -> np.ndarray:
        """Return realised closes over the last close, [N, H]; NaN where a session has no bar or is not known yet."""
        table = self.close.to_numpy(dtype=np.float64)
        table = np.vstack([table, np.full((self.horizon, table.shape[1]), np.nan)])
        places = self.day_N[:, None] + np.arange(1, self.horizon + 1)
        return np.asarray(table[places, self.instrument_N[:, None]] / self.last_N[:, None])

    def at(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the values of a wide frame at each forecast's last bar, [N]."""
        return np.asarray(frame.to_numpy(dtype=np.float64)[self.day_N, self.instrument_N])


def rank(
    forecasts: Forecasts,
    scores: pd.DataFrame,
    *,
    signal: str,
    seeds: int,
    before: Before,
    trained: Mapping[str, tuple[str, pd.DataFrame]] = MappingProxyType({}),
) -> Ranking:
    """Return the IC of every signal with both targets, and compare the configured signal with every baseline.

    `trained` holds further rankings, fitted on earlier days: key in metrics -> (name, wide scores).
    """
    opening, close, horizon = forecasts.opening, forecasts.close, forecasts.horizon
    wide = {
        name: signals.wide(scores, name).reindex(columns=close.columns).rename_axis(index="datetime")
        for name in signals.SIGNALS
    }
    earned = signals.tradable_returns(opening, close, horizon, forecasts.tradable)
    worths = {
        TRADABLE: ranking.worths(wide, dict.fromkeys(wide, earned), signal, horizon),
        PREDICTED: ranking.worths(wide, signals.targets(close, horizon), signal, horizon),
    }
    mine = wide[signal]
    comparisons = [
        ranking.compare(
            "momentum", f"momentum of {forecasts.lookback} days", mine,
            ranking.momentum(close, forecasts.lookback), earned, horizon,
        ),
        ranking.compare(
            "reversal", f"reversal of {horizon} day{'s' * (horizon > 1)}", mine,
            ranking.reversal(close, horizon), earned, horizon,
        ),
        ranking.compare(
            "mean_distance", f"distance of the close from its mean over {forecasts.lookback} days", mine,
            ranking.mean_distance(close, forecasts.lookback), earned, horizon,
        ),
        *(
            ranking.compare(key, name, mine, score, earned, horizon)
            for key, (name, score) in trained.items()
        ),
        ranking.compare_random(mine, earned, horizon, seeds),
    ]  # fmt: skip
    if before.score is not None:
        comparisons.append(
            ranking.compare(
                "before", before.name, mine, before.score, earned, horizon, before.spacing, before.note
            )
        )
    groups = ranking.group_returns(mine, earned)
    steps, _ = ranking.by_step(*_by_step(forecasts, mine.index))
    return Ranking(
        worths=worths, comparisons=comparisons, steps=steps,
        decay=ranking.decay(mine, opening, close, horizon, forecasts.tradable), groups=groups,
        group_means={group: estimate(groups[group], horizon) for group in range(1, ranking.GROUPS + 1)},
        spread=estimate(groups[ranking.GROUPS] - groups[1], horizon),
        turnover=ranking.ranking_turnover(mine),
        unbuyable=unbuyable_shares(mine, forecasts.tradable, ranking.GROUPS),
    )  # fmt: skip


def _by_step(
    forecasts: Forecasts, days: pd.Index
) -> tuple[Mapping[int, pd.DataFrame], Mapping[int, pd.DataFrame]]:
    shape = forecasts.close.shape
    predicted, realised = {}, {}
    close = forecasts.close
    for step in range(1, forecasts.horizon + 1):
        table = np.full(shape, np.nan)
        table[forecasts.day_N, forecasts.instrument_N] = forecasts.close_NH[:, step - 1] / forecasts.last_N
        predicted[step] = pd.DataFrame(table, close.index, close.columns).loc[days]
        realised[step] = close.shift(-step) / close
    return predicted, realised


def measure(forecasts: Forecasts, samples: list[Samples]) -> Accuracy:
    """Return errors compared with the last price and the rolling mean, and the scores of the sample paths."""
    horizon, lookback = forecasts.horizon, forecasts.lookback
    predicted = forecasts.close_NH / forecasts.last_N[:, None]
    realised = forecasts.realised()
    held = forecasts.close.ffill()
    average = forecasts.at(held.rolling(lookback, min_periods=1).mean()) / forecasts.last_N
    still = np.ones_like(predicted)
    flat = np.repeat(average[:, None], horizon, axis=1)
    names = np.asarray(forecasts.close.columns, dtype=object)[forecasts.instrument_N]
    loss = np.abs(predicted - realised)
    *skill, gap = accuracy.skill(loss, np.abs(still - realised), forecasts.day_N, horizon)
    *skill_mean, _ = accuracy.skill(loss, np.abs(flat - realised), forecasts.day_N, horizon)
    hit, _ = accuracy.direction(predicted, realised)
    daily_hit = pd.DataFrame(hit).mean(axis=1).groupby(forecasts.day_N).mean()
    moves = (held / held.shift(1)).transform(np.log) ** 2
    volatility = moves.rolling(lookback - 1, min_periods=2).mean() ** 0.5
    distributions = {}
    for one in samples:
        distributions[one.name] = accuracy.distribution_scores(
            one.paths_NSH, realised[one.rows], forecasts.at(volatility)[one.rows], forecasts.day_N[one.rows]
        )
    return Accuracy(
        steps=accuracy.by_step(predicted, realised, {"last": still, "mean": flat}),
        instruments=accuracy.by_instrument(predicted, realised, forecasts.last_N, list(names)),
        skill=(skill[0], skill[1], skill[2]), skill_mean=(skill_mean[0], skill_mean[1], skill_mean[2]), gap=gap,
        direction=estimate(daily_hit, horizon), distributions=distributions,
    )  # fmt: skip
