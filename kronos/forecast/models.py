"""What a forecasting model of any kind is, for comparisons: one method from windows of bars to sample paths.

A model of your own needs no base class:

    class Drift:
        def forecast(self, windows, horizon, samples):
            close = windows.close                                  # [N, L]
            step = (close[:, -1] - close[:, 0]) / (close.shape[1] - 1)
            path = close[:, -1:] + step[:, None] * np.arange(1, horizon + 1)
            return np.repeat(path[:, None], samples, axis=1)       # closes [N, samples, horizon]
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kronos.data.bars import CLOSE
from kronos.model.inference.sampling import keyed_uniforms
from kronos.utils.errors import UserError


@dataclass(frozen=True)
class Windows:
    """N windows of L bars, and the times of the H bars to forecast.

    Attributes:
        bars: open, high, low, close, volume and amount as stored, float32 [N, L, F]; with another feature_list its
            columns, open, high, low and close first.
        stamps: minute, hour, weekday, day and month of each bar, int64 [N, L, 5].
        future_stamps: the same of the bars to come, int64 [N, H, 5].
        keys: one int64 per window, from its instrument and the time of its last bar.
        seed: seed of the random draws.
        store_rows: the store's row of each bar, int64 [N, L], where the windows are of stored bars; a bar that was
            drawn after them has the row of the last one, since its conditions are those that were known then.
        times: time of each bar, int64 ns [N, L], where the windows are of stored bars.
        future_times: the same of the bars to come, int64 ns [N, H].
    """

    bars: np.ndarray
    stamps: np.ndarray
    future_stamps: np.ndarray
    keys: np.ndarray
    seed: int = 0
    store_rows: np.ndarray | None = None
    times: np.ndarray | None = None
    future_times: np.ndarray | None = None

    @property
    def horizon(self) -> int:
        return int(self.future_stamps.shape[1])

    def rows(self, rows: np.ndarray) -> "Windows":
        """Some of the windows."""
        whole = (self.bars, self.stamps, self.future_stamps, self.keys)
        known = (self.store_rows, self.times, self.future_times)
        bars, stamps, future, keys = (array[rows] for array in whole)
        some = (None if array is None else array[rows] for array in known)
        return Windows(bars, stamps, future, keys, self.seed, *some)

    @property
    def close(self) -> np.ndarray:
        """The closes, float64 [N, L]."""
        return self.bars[..., CLOSE].astype(np.float64)

    def uniforms(self, samples: int) -> np.ndarray:
        """Random numbers in (0, 1), float64 [N, samples, H]: those of a window do not depend on the others."""
        drawn = keyed_uniforms(self.seed, self.keys, samples, self.horizon)[..., 0]
        return np.clip(drawn.astype(np.float64), 2.0**-25, None)


class ForecastModel(Protocol):
    """A model that can be compared with others.

    It may also have `draw`, with the same arguments, for sample paths from its whole distribution where `forecast`
    gives sharper ones, and `point = True` where its paths are all the same, so that it has no distribution.
    """

    def forecast(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
        """Return sample paths as prices: [N, samples, horizon, F], or closes alone, [N, samples, horizon]."""


def sample_paths(name: str, model: Any, windows: Windows, samples: int, *, whole: bool) -> np.ndarray:
    """Return the paths of a model, checked: float64 [N, samples, H, F], or [N, samples, H] where it has closes alone.

    `whole` asks for the model's whole distribution, where it makes a difference. Raises UserError where the model
    returns another shape or values that are not finite.
    """
    ask = model.draw if whole and hasattr(model, "draw") else model.forecast
    paths = np.asarray(ask(windows, windows.horizon, samples), np.float64)
    shape, width = (len(windows.bars), samples, windows.horizon), windows.bars.shape[2]
    if paths.shape not in (shape, (*shape, width)):
        raise UserError(
            f"the model {name} returned paths of the shape {list(paths.shape)}, expected {list(shape)} (closes) or "
            f"{[*shape, width]}"
        )
    if not np.isfinite(paths).all():
        raise UserError(
            f"the model {name} returned {int((~np.isfinite(paths)).sum())} values that are no numbers"
        )
    return paths


def closes_of(paths: np.ndarray) -> np.ndarray:
    """Return the closes [N, S, H] of paths with all features or closes alone."""
    return paths[..., CLOSE] if paths.ndim == 4 else paths
