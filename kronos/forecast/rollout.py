"""Series longer than a model's horizon: drawn block by block, each from the latest bars, drawn ones included."""

from collections.abc import Callable, Sequence

import numpy as np

from kronos.data.bars import CLOSE, FEATURES
from kronos.forecast.arrays import repair
from kronos.forecast.models import Windows

LEAST_PRICE = 0.01  # of the close before a block: a drawn price below it is raised to it


def roll_out(
    draw: Callable[[Windows], np.ndarray],
    windows: Windows,
    horizon: int,
    keys: Callable[[int], np.ndarray],
    progress: Callable[[int, int], None] | None = None,
    columns: Sequence[str] = FEATURES,
) -> tuple[np.ndarray, int]:
    """Return (bars [N, B, F] that continue the windows, how many of them were repaired).

    `windows.future_stamps` has the times of all B bars; `draw` returns one path [N, h, F] for at most `horizon` of
    them. `keys(bar)` gives the keys of the block that begins with that bar: every block needs draws of its own, since
    equal ones would repeat a move block after block.
    """
    lookback, count = windows.bars.shape[1], windows.horizon
    bars, past, repaired = windows.bars, np.asarray(windows.stamps), 0
    rows, times = windows.store_rows, windows.times
    for begin in range(0, count, horizon):
        future = windows.future_stamps[:, begin : begin + horizon]
        ahead = None if windows.future_times is None else windows.future_times[:, begin : begin + horizon]
        block = Windows(
            bars[:, -lookback:], past[:, -lookback:], future, keys(begin), windows.seed, rows, times, ahead
        )  # fmt: skip
        least = np.float32(LEAST_PRICE) * bars[:, -1:, CLOSE, None]
        new, changed = repair(draw(block), least, columns)
        repaired += changed
        bars = np.concatenate([bars, new.astype(bars.dtype)], axis=1)
        past = np.concatenate([past, future], axis=1)
        if rows is not None:
            drawn = np.repeat(rows[:, -1:], future.shape[1], axis=1)
            rows = np.concatenate([rows, drawn], axis=1)[:, -lookback:]
        if times is not None and ahead is not None:
            times = np.concatenate([times, ahead], axis=1)[:, -lookback:]
        if progress is not None:
            progress(min(begin + horizon, count), count)
    return bars[:, lookback:], repaired
