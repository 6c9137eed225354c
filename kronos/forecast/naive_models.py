"""Models without parameters, which every trained one should beat."""

import numpy as np
from scipy.special import ndtri

from kronos.data.bars import CLOSE, VOLUME
from kronos.forecast.models import Windows

DECAY = 0.94  # of squared returns per bar: RiskMetrics (1996), for days


class RandomWalk:
    """The last close, with normal moves of the recent volatility (EWMA, decay 0.94) and no drift."""

    def forecast(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
        """Return closes [N, samples, horizon]; their mean is the last close."""
        close = windows.close
        moves = np.diff(close, axis=1) / np.abs(close[:, :-1])
        weights = DECAY ** np.arange(moves.shape[1])[::-1]
        deviation = np.sqrt((moves**2 * weights).sum(axis=1) / weights.sum())[:, None, None]
        shocks = deviation * ndtri(windows.uniforms(samples)) - deviation**2 / 2
        return np.asarray(close[:, -1, None, None] * np.exp(shocks.cumsum(axis=-1)))


class Bootstrap:
    """Bars drawn at random from the window's own, each relative to the close before it."""

    def forecast(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
        """Return bars [N, samples, horizon, F]; the drift is that of the window, and no bar depends on the others."""
        close = windows.close
        count = close.shape[1] - 1
        moves = windows.bars[:, 1:, :VOLUME] / close[:, :-1, None]  # a bar over the close before it
        picked = np.minimum((windows.uniforms(samples) * count).astype(int), count - 1)
        rows = np.arange(len(close))[:, None, None]
        drawn = moves[rows, picked]  # [N, S, H, 4]
        last = np.broadcast_to(close[:, -1, None, None], (*picked.shape[:2], 1))
        after = last * drawn[..., CLOSE].cumprod(axis=-1)
        before = np.concatenate([last, after[..., :-1]], axis=-1)
        money = windows.bars[:, 1:, VOLUME:].astype(np.float64)[rows, picked]
        return np.concatenate([before[..., None] * drawn, money], axis=-1)


class WindowMean:
    """The mean close of the window at every step: what an untrained model forecasts."""

    point = True

    def forecast(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
        """Return closes [N, samples, horizon]."""
        mean = windows.close.mean(axis=1)
        return np.broadcast_to(mean[:, None, None], (len(mean), samples, horizon))
