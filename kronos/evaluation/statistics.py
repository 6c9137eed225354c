"""Intervals and tests for a mean over days, from a variance that allows for overlapping targets; Holm's correction.

Pure functions of daily series. Days whose targets span `horizon` sessions share horizon - 1 of them with their
neighbours, so that there are far fewer independent observations than days.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import special

LEVEL = 0.95
MIN_PERIODS = 20  # fewer non-overlapping horizons than this: too short to tell
COSINES = 0.4  # of the days to the power of 2/3, and of the horizons that fit without overlap


@dataclass(frozen=True)
class Estimate:
    """A mean over days with its 95 % interval; NaN where there are too few days."""

    mean: float
    low: float
    high: float
    t: float  # of Student's distribution with `freedom` degrees, which the interval and p are taken from
    p: float  # two-sided
    days: int
    freedom: int  # degrees of freedom: the number of cosines behind the variance; 0 without an interval

    @property
    def sign(self) -> int:
        """Return 1 if the whole interval is above 0, -1 if it is below, 0 if it contains 0 or does not exist."""
        return int(self.low > 0) - int(self.high < 0)


def independent_periods(days: int, horizon: int) -> int:
    """Return how many horizons fit into `days` without overlap."""
    return days // horizon


def verdict(days: int, horizon: int) -> str:
    """Return the note that every annualised figure carries when the period is too short, else an empty string."""
    periods = independent_periods(days, horizon)
    if periods >= MIN_PERIODS:
        return ""
    counted = (
        f"{days} day{'s' * (days != 1)}",
        f"{periods} independent {horizon}-day period{'s' * (periods != 1)}",
    )
    return f"too short to tell ({', '.join(counted)})"


def degrees_of_freedom(days: int, overlap: int) -> int:
    """Return how many cosines estimate the variance of a mean over `days` whose targets span `overlap` of them.

    0.4 x days^(2/3), as Lazarus, Lewis, Stock and Watson (2018) recommend, but at most 0.4 per independent horizon:
    the spectrum of overlapping targets falls off from frequency 0, and higher cosines would understate it.
    """
    return max(1, int(COSINES * min(days ** (2 / 3), days / overlap)))


def standard_error(values: np.ndarray, freedom: int) -> float:
    """Return the standard error of the mean of a series [D] whose days depend on their neighbours.

    The equal-weighted cosine estimator of the long-run variance (Lazarus, Lewis, Stock and Watson, "HAR inference:
    recommendations for practice", Journal of Business & Economic Statistics 2018): the mean square of the series'
    projections on the first `freedom` cosines. The mean over this error follows Student's t with as many degrees.
    """
    projections = _cosines(len(values), freedom) @ values
    return float(np.sqrt(projections @ projections / freedom / len(values)))


@lru_cache(maxsize=32)
def _cosines(days: int, count: int) -> np.ndarray:
    """Return orthonormal cosines of 1 to `count` half periods over the days, [K, D]; each sums to 0."""
    angles = np.pi * np.outer(np.arange(1, count + 1), np.arange(days) + 0.5) / days
    return np.sqrt(2 / days) * np.cos(angles)


def estimate(values: pd.Series | np.ndarray | Sequence[float], horizon: int, spacing: int = 1) -> Estimate:
    """Return the mean of a daily series with its t-value, p-value and interval, which agree with each other.

    The days are `spacing` sessions apart, so that neighbours overlap in horizon / spacing of them. NaN days are
    dropped and their neighbours taken as adjacent. Under the null of no mean, the interval misses 0 in 5 to 6 % of
    cases for 60 days or more and horizons to 20 (`tests/evaluation/test_level.py`). A series that persists beyond
    its horizon is harder: with an autocorrelation of 0.9 from day to day the interval at horizon 1 covers the truth
    in 79 % (60 days) to 89 % (480 days) of cases.
    """
    series = _finite(values)
    days, overlap, nan = len(series), -(-horizon // spacing), float("nan")
    mean = float(series.mean()) if days else nan
    if days < 4 or days < 2 * overlap:
        return Estimate(mean, nan, nan, nan, nan, days, 0)
    freedom = degrees_of_freedom(days, overlap)
    varies = float(np.ptp(series))
    error = standard_error(series, freedom)
    if varies < 1e-12 or error < 1e-12 * varies:  # nothing that an error is computed from
        return Estimate(mean, mean, mean, nan, nan, days, freedom)
    half = error * float(special.stdtrit(freedom, 0.5 + LEVEL / 2))
    t_value = mean / error
    p_value = 2 * float(special.stdtr(freedom, -abs(t_value)))
    return Estimate(mean, mean - half, mean + half, t_value, p_value, days, freedom)


def ratio(top: np.ndarray, bottom: np.ndarray, horizon: int) -> tuple[float, float, float]:
    """Return mean(top) / mean(bottom) of two daily series and its 95 % interval, by the delta method.

    The interval is that of the mean of (top - ratio x bottom) / mean(bottom), day by day. NaN ends where there are
    too few days, NaN throughout where the lower mean is not positive.
    """
    below = float(bottom.mean()) if len(bottom) else 0.0
    if not below > 0:
        return float("nan"), float("nan"), float("nan")
    value = float(top.mean()) / below
    around = estimate((top - value * bottom) / below, horizon)
    return value, value + around.low, value + around.high


def paired(model: pd.Series, other: pd.Series, horizon: int, spacing: int = 1) -> Estimate:
    """Estimate the mean difference of two daily series, over the days on which both have a value."""
    both = pd.concat([model, other], axis=1, join="inner").dropna()
    return estimate(both.iloc[:, 0] - both.iloc[:, 1], horizon, spacing)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm-adjusted p-values, for as many tests as there are finite p-values; NaN stays NaN."""
    known = sorted((value, name) for name, value in p_values.items() if np.isfinite(value))
    result = dict.fromkeys(p_values, float("nan"))
    largest = 0.0
    for place, (value, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - place) * value))
        result[name] = largest
    return result


def _finite(values: pd.Series | np.ndarray | Sequence[float]) -> np.ndarray:
    series = np.asarray(values, dtype=np.float64)
    return series[np.isfinite(series)]
