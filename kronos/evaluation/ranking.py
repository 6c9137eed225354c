"""Predictive value of a ranking of instruments: IC, naive baselines, groups, turnover, decay over the horizon.

Pure functions of wide frames (days x instruments, NaN where there is no value), as in `signals`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from kronos.evaluation.signals import MIN_NAMES, daily_ic, tradable_returns
from kronos.evaluation.statistics import Estimate, estimate, holm, paired
from kronos.evaluation.tradability import Tradability

GROUPS = 5
TRADABLE, PREDICTED = "tradable", "predicted"


@dataclass(frozen=True)
class Worth:
    """Information coefficients of one signal with one target."""

    daily: pd.DataFrame  # of `signals.daily_ic`
    ic: Estimate
    rank_ic: Estimate
    icir: float  # mean over standard deviation of the daily values, not annualised
    rank_icir: float
    names: float  # instruments per day, on average
    p_holm: float = float("nan")  # of the Rank IC; NaN for the configured signal


@dataclass(frozen=True)
class Comparison:
    """A naive ranking and the model's difference to it, over the days that both have."""

    key: str  # in metrics: momentum, reversal, mean_distance, linear, random, before
    name: str
    rank_ic: Estimate
    difference: Estimate  # the model's daily Rank IC minus the baseline's
    daily: pd.DataFrame  # Rank ICs, day by day: model, baseline
    low: float = float("nan")  # smallest and largest mean of the seeds, for the random ranking
    high: float = float("nan")
    note: str = ""


def momentum(close: pd.DataFrame, days: int) -> pd.DataFrame:
    """Return the return over the last `days` closes; a missing close is replaced by the last one before it."""
    held = close.ffill()
    return held / held.shift(days - 1) - 1


def reversal(close: pd.DataFrame, days: int) -> pd.DataFrame:
    """Return the short-term reversal: what fell most over the last `days` sessions is ranked highest."""
    held = close.ffill()
    return 1 - held / held.shift(days)


def mean_distance(close: pd.DataFrame, days: int) -> pd.DataFrame:
    """Return how far the mean of the last `days` closes lies above the close, as a return.

    This is what an untrained model ranks by, since it forecasts the mean of its window. A missing close is replaced
    by the last one before it.
    """
    held = close.ffill()
    return held.rolling(days, min_periods=days).mean() / held - 1


def fit_returns(close: pd.DataFrame, target: pd.DataFrame, lookback: int) -> np.ndarray:
    """Return the weights [lookback - 1] of a least-squares regression of the target on the last daily returns.

    Returns and targets are taken relative to their mean over the day's instruments, since only the ranking within a
    day counts. Days and instruments with a missing value are left out. The weights of returns that do not vary are 0.
    """
    features, size = _last_returns(close, lookback), lookback - 1
    squares, products = np.zeros((size, size)), np.zeros(size)
    values = target.to_numpy(dtype=np.float64)
    for day in range(len(close)):
        x, y = features[day], values[day]
        known = np.isfinite(x).all(axis=1) & np.isfinite(y)
        if known.sum() >= MIN_NAMES:
            x, y = x[known] - x[known].mean(axis=0), y[known] - y[known].mean()
            squares += x.T @ x
            products += x.T @ y
    return np.asarray(np.linalg.lstsq(squares, products, rcond=None)[0])


def by_returns(close: pd.DataFrame, weights: np.ndarray) -> pd.DataFrame:
    """Return the scores of `fit_returns`: the weighted sum of the last returns, NaN where one is missing."""
    features = _last_returns(close, len(weights) + 1)
    table = np.stack([features[day] @ weights for day in range(len(close))])
    return pd.DataFrame(table, close.index, close.columns)


def _last_returns(close: pd.DataFrame, lookback: int) -> np.ndarray:
    """Return views of the lookback - 1 returns up to each day, the oldest first: [D, I, lookback - 1]."""
    held = close.ffill()
    moves = np.log((held / held.shift(1)).to_numpy(dtype=np.float64))
    padded = np.vstack([np.full((lookback - 2, moves.shape[1]), np.nan), moves])
    return sliding_window_view(padded, lookback - 1, axis=0)


def random_rankings(like: pd.DataFrame, seeds: int) -> Iterator[pd.DataFrame]:
    """Yield `seeds` random rankings of the instruments that `like` ranks each day."""
    for seed in range(seeds):
        values = np.random.default_rng([seed, 20240701]).random(like.shape)
        yield pd.DataFrame(np.where(like.notna(), values, np.nan), like.index, like.columns)


def worth(score: pd.DataFrame, target: pd.DataFrame, horizon: int) -> Worth:
    """Return the daily IC and Rank IC of one signal, their means with intervals, and their ratios."""
    daily = daily_ic(score, target)
    figures = {}
    for column in ("ic", "rank_ic"):
        values = daily[column].dropna()
        deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        figures[column] = float(values.mean()) / deviation if deviation > 1e-12 else float("nan")
    there = daily["ic"].notna()
    names = float(daily.loc[there, "n"].mean()) if there.any() else float("nan")
    return Worth(
        daily, estimate(daily["ic"], horizon), estimate(daily["rank_ic"], horizon), figures["ic"],
        figures["rank_ic"], names,
    )  # fmt: skip


def worths(
    scores: Mapping[str, pd.DataFrame], targets: Mapping[str, pd.DataFrame], configured: str, horizon: int
) -> dict[str, Worth]:
    """Evaluate every signal with its target; p-values of the exploratory ones are Holm-adjusted."""
    found = {name: worth(score, targets[name], horizon) for name, score in scores.items()}
    adjusted = holm({name: one.rank_ic.p for name, one in found.items() if name != configured})
    return {
        name: Worth(one.daily, one.ic, one.rank_ic, one.icir, one.rank_icir, one.names, adjusted[name])
        if name in adjusted
        else one
        for name, one in found.items()
    }


def compare(
    key: str, name: str, model: pd.DataFrame, other: pd.DataFrame, target: pd.DataFrame, horizon: int,
    spacing: int = 1, note: str = "",
) -> Comparison:  # fmt: skip
    """Compare the model's daily Rank IC with a baseline's, on the instruments and days that both rank."""
    both = model.where(other.reindex_like(model).notna())
    mine, theirs = (daily_ic(score, target)["rank_ic"] for score in (both, other.reindex_like(both)))
    theirs = theirs.where(mine.notna())
    return Comparison(
        key,
        name,
        estimate(theirs, horizon, spacing),
        paired(mine, theirs, horizon, spacing),
        _beside(mine, theirs),
        note=note,
    )


def compare_random(model: pd.DataFrame, target: pd.DataFrame, horizon: int, seeds: int) -> Comparison:
    """Compare the model with the mean of `seeds` random rankings, and with the band of their mean Rank ICs."""
    mine = daily_ic(model, target)["rank_ic"]
    series = [daily_ic(score, target)["rank_ic"] for score in random_rankings(model, seeds)]
    daily = pd.concat(series, axis=1)
    means = daily.mean()
    middle = daily.mean(axis=1)
    return Comparison(
        "random", f"random, mean of {seeds} seeds", estimate(middle, horizon), paired(mine, middle, horizon),
        _beside(mine, middle), float(means.min()), float(means.max()),
        "the band is the smallest and the largest mean of a seed",
    )  # fmt: skip


def _beside(model: pd.Series, baseline: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"model": model, "baseline": baseline}).dropna()


def decay(
    score: pd.DataFrame, opening: pd.DataFrame, close: pd.DataFrame, horizon: int, tradable: Tradability
) -> pd.DataFrame:
    """Return the Rank IC of one signal with the tradable return over 1 to `horizon` sessions."""
    rows = []
    for sessions in range(1, horizon + 1):
        rank_ic = daily_ic(score, tradable_returns(opening, close, sessions, tradable))["rank_ic"]
        found = estimate(rank_ic, sessions)
        rows.append((sessions, found.mean, found.low, found.high, found.t, found.days))
    return pd.DataFrame(rows, columns=["sessions", "rank_ic", "low", "high", "t", "days"])


def by_step(
    predicted: Mapping[int, pd.DataFrame], realised: Mapping[int, pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the IC of the close forecast for each step with the realised close, both over the close of t.

    Returns the table by step (ic, rank_ic, low, high of the Rank IC, t, days) and the daily Rank IC, days x steps.
    """
    rows, daily = [], {}
    for step, score in predicted.items():
        ic = daily_ic(score, realised[step])
        daily[step] = ic["rank_ic"]
        found = estimate(ic["rank_ic"], step)
        rows.append((step, float(ic["ic"].mean()), found.mean, found.low, found.high, found.t, found.days))
    table = pd.DataFrame(rows, columns=["step", "ic", "rank_ic", "low", "high", "t", "days"])
    return table, pd.DataFrame(daily)


def group_returns(score: pd.DataFrame, target: pd.DataFrame, groups: int = GROUPS) -> pd.DataFrame:
    """Return the mean target of each day's groups by rank of the score, 1 the lowest: days x groups.

    Equal scores share their average rank. A day with fewer than 5 instruments, or fewer than two per group, is NaN.
    """
    aligned = target.reindex_like(score)
    both = score.notna() & aligned.notna()
    ranks = score.where(both).rank(axis=1)
    count = both.sum(axis=1)
    place = np.ceil(ranks.div(count, axis=0) * groups).clip(1, groups)
    enough = count >= max(MIN_NAMES, 2 * groups)
    means = {
        group: aligned.where(place == group).mean(axis=1).where(enough) for group in range(1, groups + 1)
    }
    return pd.DataFrame(means, index=score.index)


def ranking_turnover(score: pd.DataFrame, groups: int = GROUPS) -> pd.DataFrame:
    """Return how much a ranking changes from one day with scores to the next.

    `top` is the share of the highest group that was not in it the day before (of the instruments ranked on both
    days), `rank_correlation` that of the two days' scores. The first day is NaN.
    """
    days = score.dropna(how="all")
    before = days.shift(1)
    both = days.notna() & before.notna()
    now, then = (frame.where(both).rank(axis=1, pct=True) > 1 - 1 / groups for frame in (days, before))
    stayed = (now & then).sum(axis=1)
    size = now.sum(axis=1)
    top = 1 - stayed / size.where(size > 0)
    correlation = daily_ic(days, before)["rank_ic"]
    return pd.DataFrame({"top": top, "rank_correlation": correlation}, index=days.index)
