"""Naive answers to the questions of a head, from the closes of a context and what the training range says.

Axes: N forecast points, L closes of a context.
"""

from dataclasses import dataclass

import numpy as np

from kronos.data.outcomes import SMALLEST, context_volatility

HAR_BARS = (5, 22, 66)  # a week, a month and a quarter of days


@dataclass(frozen=True)
class Recent:
    """What the last bars of each context say."""

    move: np.ndarray  # float64 [N]: log return of the last `horizon` bars, or of as many as there are
    volatility: np.ndarray  # float64 [N]: root mean square of their log returns
    ewma: np.ndarray  # float64 [N]: `context_volatility`
    har: np.ndarray  # float64 [N, K]: logs of the root mean square over the last bars of HAR_BARS


def recent(closes_NL: np.ndarray, horizon: int) -> Recent:
    """Return what the last bars of contexts say; NaN where a close is not positive."""
    closes = np.where(closes_NL > 0, closes_NL, np.nan).astype(np.float64)
    moves = np.diff(np.log(closes), axis=1)
    spans = sorted({min(bars, moves.shape[1]) for bars in HAR_BARS})
    return Recent(
        moves[:, -horizon:].sum(axis=1),
        _size(moves[:, -horizon:]),
        context_volatility(closes_NL),
        np.stack([np.log(_size(moves[:, -span:])) for span in spans], axis=1),
    )


def _size(moves: np.ndarray) -> np.ndarray:
    return np.maximum(np.sqrt((moves**2).mean(axis=1)), SMALLEST)


def rates_after(moved_N: np.ndarray, rose_N: np.ndarray) -> tuple[float, float]:
    """Return the share of rises after a rise of the last bars, and after a fall; that of all where there is none."""
    known = np.isfinite(moved_N) & np.isfinite(rose_N)
    up, rose = moved_N[known] > 0, rose_N[known]
    whole = float(rose.mean())
    return (float(rose[up].mean()) if up.any() else whole, float(rose[~up].mean()) if (~up).any() else whole)


def fit_har(har_NK: np.ndarray, log_volatility_N: np.ndarray) -> np.ndarray:
    """Return the weights [1 + K] of the heterogeneous autoregression of log volatility, by least squares.

    Corsi, "A simple approximate long-memory model of realized volatility" (Journal of Financial Econometrics 2009),
    with the volatilities of HAR_BARS.
    """
    known = np.isfinite(har_NK).all(axis=1) & np.isfinite(log_volatility_N)
    return np.asarray(np.linalg.lstsq(_with_one(har_NK[known]), log_volatility_N[known], rcond=None)[0])


def by_har(har_NK: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the log volatility that `fit_har`'s weights forecast, [N]."""
    return np.asarray(_with_one(har_NK) @ weights)


def _with_one(table: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(table)), table])
