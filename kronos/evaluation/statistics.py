"""Intervals and tests for a mean over days: Newey-West, block bootstrap, paired differences, Holm's correction.

Pure functions of daily series. Days whose targets span `horizon` sessions share horizon - 1 of them with their
neighbours, so that there are far fewer independent observations than days.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
BOOTSTRAP_SEED = 20240701  # a constant: the same numbers give the same interval, whatever the run's own seed
MIN_PERIODS = 20  # fewer non-overlapping horizons than this: too short to tell


@dataclass(frozen=True)
class Estimate:
    """A mean over days with its 95 % interval; NaN where there are too few days."""

    mean: float
    low: float
    high: float
    t: float  # Newey-West
    p: float  # two-sided, of the bootstrap's standard error
    days: int
    lag: int  # of Newey-West
    block: int  # length of the bootstrap's blocks, in days of the series

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


def newey_west_t(values: pd.Series | np.ndarray | Sequence[float], lag: int) -> float:
    """Return the Newey-West t-value (Bartlett weights) of the mean of a daily series with overlapping neighbours.

    Autocovariances up to `lag` are divided by n, without a small-sample factor. NaN days are dropped and
    their neighbours taken as adjacent. NaN when fewer than two days are left or nothing varies.
    """
    series = _finite(values)
    count = len(series)
    if count < 2 or np.ptp(series) < 1e-12:
        return float("nan")
    centred = series - series.mean()
    variance = float(centred @ centred) / count
    for step in range(1, min(lag, count - 1) + 1):
        variance += 2 * (1 - step / (lag + 1)) * float(centred[step:] @ centred[:-step]) / count
    return float(series.mean() / np.sqrt(variance / count)) if variance > 0 else float("nan")


def block_length(days: int, horizon: int) -> int:
    """Return the days per block: at least twice the horizon and the cube root of the days, at most half of the days.

    A block of one horizon would cut most of the overlaps that it has to keep.
    """
    return max(1, horizon, min(max(2 * horizon, ceil(days ** (1 / 3))), days // 2))


def block_means(values: np.ndarray, block: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Return means of `resamples` series as long as `values`, [D] or [D, K], drawn in circular blocks; [R] or [R, K].

    The draws are the same for every series of one length, so that paired series are resampled together.
    """
    days = len(values)
    return np.asarray(_drawn_days(days, min(block, days), resamples) @ values / days)


@lru_cache(maxsize=8)
def _drawn_days(days: int, block: int, resamples: int) -> np.ndarray:
    """Count how often each resample contains each day, [R, D]."""
    random = np.random.default_rng(BOOTSTRAP_SEED)
    starts = random.integers(0, days, (resamples, -(-days // block)))
    places = ((starts[:, :, None] + np.arange(block)) % days).reshape(resamples, -1)[:, :days]
    cells = places + days * np.arange(resamples)[:, None]
    return np.bincount(cells.reshape(-1), minlength=resamples * days).reshape(resamples, days).astype(float)


def interval(
    means: np.ndarray, centre: float | np.ndarray, pieces: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the percentile interval of resampled means, [R] or [R, K], around a centre, and the two-sided p-value.

    Means of blocks drawn from few `pieces` vary too little: the interval is widened by sqrt(pieces / (pieces - 1)),
    and by Student's t instead of the normal distribution.
    """
    freedom = max(pieces - 1, 1.0)
    spread = sqrt(pieces / freedom)
    factor = spread * stats.t.ppf(0.5 + LEVEL / 2, freedom) / stats.norm.ppf(0.5 + LEVEL / 2)
    low, high = centre + factor * (np.quantile(means, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0) - centre)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * stats.t.sf(np.abs(centre) / (spread * means.std(axis=0)), freedom)
    return low, high, p_value


def estimate(values: pd.Series | np.ndarray | Sequence[float], horizon: int, spacing: int = 1) -> Estimate:
    """Return the mean of a daily series, its Newey-West t (lag horizon - 1) and its block-bootstrap interval.

    The days are `spacing` sessions apart, so that the lag and the blocks count in those. NaN days are dropped and
    their neighbours taken as adjacent. The interval is the percentile one, widened for few blocks (`interval`).
    """
    series = _finite(values)
    days, overlap = len(series), -(-horizon // spacing)
    lag, block, nan = overlap - 1, block_length(len(series), overlap), float("nan")
    if days < 4 or days < 2 * overlap:
        return Estimate(float(series.mean()) if days else nan, nan, nan, nan, nan, days, lag, block)
    mean = float(series.mean())
    t_value = newey_west_t(series, lag)
    low, high, p_value = interval(block_means(series, block), mean, days / block)
    return Estimate(mean, float(low), float(high), t_value, float(p_value), days, lag, block)


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
