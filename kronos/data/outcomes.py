"""What heads answer: the outcome of the bars after a forecast point, and the points whose outcome is known.

Axes: N forecast points, L closes of a context, H bars of the horizon.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kronos.data.bars import CLOSE, Flag
from kronos.data.forecast_points import gather
from kronos.data.splits import Split
from kronos.data.store import BarStore

Answer = Literal["return", "direction", "volatility", "rank"]
LEAST_RATIO = 0.01  # of the last close to the first one: a total loss counts as one of 99 %
EWMA_DECAY = 0.94  # of RiskMetrics
SMALLEST = 1e-6  # of a volatility per bar, so that its logarithm exists
BLOCK = 2**22  # closes that are gathered at once


def outcomes(objective: Answer, closes_NH: np.ndarray, observed_NH: np.ndarray) -> np.ndarray:
    """Return the outcome of each point, float64 [N].

    Args:
        objective: `return`, and `rank` for the ranking by it: the log return of the closes over the horizon;
            `direction`: 1 where they rose, 0 where they fell; `volatility`: the log of the root mean square of the
            log returns from close to close, per bar.
        closes_NH: closes of the point's bar and of the H after it, [N, H + 1]; where a session has no bar, the close
            before.
        observed_NH: whether each of the H sessions has a bar, bool.

    NaN where no session of the horizon has a bar, a close is missing or not positive, and, of direction and
    volatility, where nothing moved.
    """
    closes = closes_NH.astype(np.float64)
    known = observed_NH.any(axis=1) & (closes[:, 0] > 0) & np.isfinite(closes).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if objective == "volatility":
            moves = np.diff(np.log(np.where(closes > 0, closes, np.nan)), axis=1)
            found = np.log(np.sqrt((moves**2).mean(axis=1)))
        else:
            found = np.log(np.maximum(closes[:, -1] / closes[:, 0], LEAST_RATIO))
            if objective == "direction":
                found = np.where(found == 0, np.nan, (found > 0).astype(np.float64))
    return np.where(known & np.isfinite(found), found, np.nan)


def context_volatility(closes_NL: np.ndarray) -> np.ndarray:
    """Return the exponentially weighted root mean square of the log returns of contexts, per bar, float64 [N].

    NaN where a close is not positive.
    """
    moves = np.diff(np.log(np.where(closes_NL > 0, closes_NL, np.nan).astype(np.float64)), axis=1)
    weights = EWMA_DECAY ** np.arange(moves.shape[1])[::-1]
    return np.asarray(np.maximum(np.sqrt((moves**2 * weights).sum(axis=1) / weights.sum()), SMALLEST))


@dataclass(frozen=True)
class Points:
    """Points with a known outcome."""

    rows: np.ndarray  # int64 [N]: the store's row of the last bar of each context
    outcome: np.ndarray  # float64 [N]
    volatility: np.ndarray  # float64 [N]: `context_volatility` of each context


def known_points(store: BarStore, split: Split, lookback: int, horizon: int, objective: Answer) -> Points:
    """Return the points of a split whose outcome is known.

    The split's windows have `lookback` + `horizon` bars, so that no bar outside of its range has a part in an
    outcome. Points whose last bar is filled, or with a close that is not positive, are left out too.
    """
    rows = split.starts + lookback - 1
    filled = (np.asarray(store.flags) & int(Flag.FILLED)) > 0
    rows = rows[~filled[rows]]
    found, volatility = np.empty(len(rows)), np.empty(len(rows))
    closes = np.ascontiguousarray(np.asarray(store.values)[:, CLOSE : CLOSE + 1])
    size = max(1, BLOCK // (lookback + horizon))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ahead = gather(filled[:, None], part + 1, horizon)[..., 0]
        values = gather(closes, part - lookback + 1, lookback + horizon)[..., 0]
        found[start : start + size] = outcomes(objective, values[:, lookback - 1 :], ~ahead)
        volatility[start : start + size] = context_volatility(values[:, :lookback])
    known = np.isfinite(found) & np.isfinite(volatility)
    return Points(rows[known], found[known], volatility[known])
