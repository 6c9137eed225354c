"""Scores of forecasts on the tasks of a benchmark: prices, returns, realised volatility.

The five tasks are those of the paper on Kronos (arXiv 2508.02739); synthetic bars are scored in `synthetic`, the
portfolio in `portfolio`. Pure functions of arrays: N forecasts, S sample paths, H steps. Prices are relative to the
last close. NaN is a close that is not known.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from kronos.evaluation.accuracy import path_volatility
from kronos.evaluation.signals import MIN_NAMES, daily_ic, row_correlation
from kronos.evaluation.statistics import Estimate, estimate, ratio

NAN = float("nan")
LEAST_STEPS = 3  # of a path, below which its correlation says nothing


@dataclass(frozen=True)
class Score:
    """A figure with its 95 % interval, and the daily values that it is the mean of, where it is one."""

    value: float
    low: float = NAN
    high: float = NAN
    daily: pd.Series | None = None

    @classmethod
    def of(cls, found: Estimate, daily: pd.Series | None = None) -> "Score":
        return cls(found.mean, found.low, found.high, daily)


def price_scores(predicted_NH: np.ndarray, realised_NH: np.ndarray, day_N: np.ndarray) -> dict[str, Score]:
    """Return IC and Rank IC of price paths: the correlation over the steps of each forecast, averaged by day.

    A path that does not move, or fewer than three steps, has no correlation and is left out.
    """
    horizon = predicted_NH.shape[1]
    if horizon < LEAST_STEPS:
        return {}
    known = np.isfinite(realised_NH).all(axis=1)
    predicted, realised, day = predicted_NH[known], realised_NH[known], day_N[known]
    found = {}
    for key, left, right in (
        ("ic", predicted, realised),
        ("rank_ic", stats.rankdata(predicted, axis=1), stats.rankdata(realised, axis=1)),
    ):
        valid = np.broadcast_to(_moves(predicted) & _moves(realised), left.T.shape).T
        daily = pd.Series(row_correlation(left, right, valid)).groupby(day).mean()
        found[key] = Score.of(estimate(daily, horizon), daily)
    return found


def _moves(paths_NH: np.ndarray) -> np.ndarray:
    return np.asarray(np.ptp(paths_NH, axis=1) > 1e-9)


def return_scores(score: pd.DataFrame, earned: pd.DataFrame, horizon: int) -> dict[str, Score]:
    """Return IC and Rank IC of returns (wide frames, days x instruments).

    With at least five instruments a day, the correlation within each day, averaged over days; with fewer, the
    correlation over all days, each instrument about its own mean.
    """
    both = score.notna() & earned.reindex_like(score).notna()
    if both.sum(axis=1).max() >= MIN_NAMES:
        daily = daily_ic(score, earned)
        return {
            key: Score.of(estimate(daily[key], horizon), daily[key].dropna()) for key in ("ic", "rank_ic")
        }
    earned = earned.reindex_like(score)
    left, right = (frame.where(both) for frame in (score, earned))
    left, right = left - left.mean(), right - right.mean()
    day, _ = np.nonzero(both.to_numpy())
    one, two = (frame.to_numpy()[both.to_numpy()] for frame in (left, right))
    return {key: _correlation(one, two, day, horizon, ranks=key == "rank_ic") for key in ("ic", "rank_ic")}


def _correlation(
    left_N: np.ndarray, right_N: np.ndarray, day_N: np.ndarray, horizon: int, *, ranks: bool = False
) -> Score:
    """Return the correlation of all pairs, and its interval by days, whose targets overlap over the horizon."""
    if ranks:
        left_N, right_N = stats.rankdata(left_N), stats.rankdata(right_N)
    if len(left_N) < 4 or not (np.std(left_N) > 0 and np.std(right_N) > 0):
        return Score(NAN)
    product = stats.zscore(left_N) * stats.zscore(right_N)
    daily = pd.Series(product).groupby(day_N).mean()
    found = estimate(daily, horizon)
    value = float(product.mean())
    return Score(value, value + found.low - found.mean, value + found.high - found.mean, daily)


def volatility_scores(paths_NSH: np.ndarray, realised_NH: np.ndarray, day_N: np.ndarray) -> dict[str, Score]:
    """Return MAE and R2 of the volatility over the horizon, the mean of the paths' against the realised one.

    R2 is 1 - the squared error over the squared distance of the realised values from their mean.
    """
    horizon = realised_NH.shape[1]
    realised = path_volatility(realised_NH)
    predicted = path_volatility(paths_NSH).mean(axis=1)
    known = np.isfinite(realised) & np.isfinite(predicted)
    if known.sum() < 2:
        return {}
    realised, predicted, day = realised[known], predicted[known], day_N[known]
    error = pd.Series(np.abs(predicted - realised)).groupby(day).mean()
    squares = pd.DataFrame({"left": (predicted - realised) ** 2, "all": (realised - realised.mean()) ** 2})
    daily = squares.groupby(day).sum()
    left, low, high = ratio(daily["left"].to_numpy(), daily["all"].to_numpy(), horizon)
    return {"mae": Score.of(estimate(error, horizon), error), "r2": Score(1 - left, 1 - high, 1 - low)}
