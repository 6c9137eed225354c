"""Batches of normalised windows: window (seed, epoch, i) is a pure function, gathered without a loop over bars.

Shapes: B windows of a batch, T bars of a window (the first L are the lookback), F features of a bar.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from kronos.data.bars import FEATURES
from kronos.data.forecast_points import gather, gather_bars
from kronos.data.normalization import normalise
from kronos.data.splits import Split
from kronos.data.store import BarStore
from kronos.data.window_order import Groups, epoch_key
from kronos.utils.random_keys import GOLDEN, hash_counters, mix, to_uniform

DRAWS = 2  # key of what a hash is used for: the draws are unrelated to the order of an epoch


class Batch(NamedTuple):
    """Windows as the objectives take them."""

    x: torch.Tensor  # float32 [B, T, F], normalised by the lookback bars and clipped
    stamp: torch.Tensor  # int64 [B, T, K]: minute, hour, weekday, day, month, or what the predictor has
    window: torch.Tensor  # int64 [B]: index of the window in its split
    uniform: torch.Tensor  # float32 [B, T] in [0, 1): draws keyed by (seed, epoch, window, position)


class ConditionedBatch(NamedTuple):
    """A batch for a predictor with conditions; see `Batch`."""

    x: torch.Tensor
    stamp: torch.Tensor
    window: torch.Tensor
    uniform: torch.Tensor
    conditions: torch.Tensor  # float32 [B, T, C], those that each bar sees


class Windows:
    """The windows of a split, ready for batches in any order and grouping.

    `columns` are the features of a bar. `conditions` float32 [N, C] are the values at every row of the store, for a
    predictor that has some. `stamps` int64 [S, K] are the time features of every session, for a predictor that has
    others than the store's five. `groups` are those that an epoch of training is put together from; None where all
    windows are alike.
    """

    def __init__(
        self,
        store: BarStore,
        split: Split,
        *,
        lookback: int,
        clip: float,
        seed: int,
        columns: Sequence[str] = FEATURES,
        groups: Groups | None = None,
        conditions: np.ndarray | None = None,
        stamps: np.ndarray | None = None,
    ) -> None:
        self.store, self.split, self.columns = store, split, tuple(columns)
        self.groups, self.conditions = groups, conditions
        self.stamps = store.stamps if stamps is None else stamps
        self.lookback, self.clip, self.seed = lookback, clip, seed
        self._first_session = np.asarray(store.session)[split.starts]

    def __len__(self) -> int:
        return len(self.split.starts)

    def describe(self, indices: np.ndarray) -> list[str]:
        """Instrument and days of windows, for messages."""
        first = self.split.starts[np.asarray(indices, np.int64)]
        names = [self.store.instruments[number] for number in self.store.instrument_of_row[first]]
        days = self.store.times.astype("datetime64[ns]").astype("datetime64[m]")
        ends = zip(days[first], days[first + self.split.length - 1], strict=True)
        shown = [" to ".join(str(day).removesuffix("T00:00") for day in pair) for pair in ends]
        return [f"{window} ({name} {text})" for window, name, text in zip(indices, names, shown, strict=True)]

    def batch(self, indices: np.ndarray | torch.Tensor, epoch: int | None) -> Batch | ConditionedBatch:
        """Windows `indices` (int64 [B]); `epoch` keys the draws, None gives those of validation, always the same.

        A window's values do not depend on which others are in the batch, bit for bit.
        """
        window = np.array(indices, dtype=np.int64).reshape(-1)
        length = self.split.length
        bars = torch.from_numpy(gather_bars(self.store, self.split.starts[window], length, self.columns))
        x, _, _ = normalise(bars, self.lookback)
        stamp = torch.from_numpy(gather(self.stamps, self._first_session[window], length))
        uniform = torch.from_numpy(uniform_draws(self.seed, epoch, window, length))
        batch = Batch(x.clamp_(-self.clip, self.clip), stamp, torch.from_numpy(window), uniform)
        if self.conditions is None:
            return batch
        known = torch.from_numpy(gather(self.conditions, self.split.starts[window], length))
        return ConditionedBatch(*batch, until_as_of(known, self.lookback))


def until_as_of(conditions_BTC: torch.Tensor, lookback: int) -> torch.Tensor:
    """Return the conditions that bars see, in place: each of the lookback its own, later ones those of its last bar.

    The last bar of the lookback is a forecast's `as_of`, and what conditions are after it a forecast does not know.
    The loss of training, `val_loss`, the test loss and forecasts all follow this rule.
    """
    conditions_BTC[:, lookback:] = conditions_BTC[:, lookback - 1 : lookback]
    return conditions_BTC


def uniform_draws(seed: int, epoch: int | None, window: np.ndarray, length: int) -> np.ndarray:
    """Return draws in [0, 1), float32 [B, length], each a function of (seed, epoch, window, position) alone."""
    keys = hash_counters(window.astype(np.uint64), DRAWS, seed, epoch_key(epoch))
    positions = np.arange(1, length + 1, dtype=np.uint64)
    return to_uniform(mix(keys[:, None] + positions * GOLDEN))
