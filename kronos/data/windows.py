"""Batches of normalised windows: window (seed, epoch, i) is a pure function, gathered without a loop over bars.

Shapes: B windows of a batch, T bars of a window (the first L are the lookback), F = 6 features.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from kronos.data.forecast_points import gather
from kronos.data.splits import Split
from kronos.data.store import BarStore
from kronos.utils.random_keys import GOLDEN, keyed_hash, mix, to_uniform

EPSILON = 1e-5  # the public normalisation: (x - mean) / (std + 1e-5)
SMALL = 2**16  # values: numpy adds fewer with less ado, torch has several cores for more
FIXED = 2**64 - 1  # stands for the epoch of choices that are the same in every epoch


class Batch(NamedTuple):
    """Windows as the objectives take them."""

    x: torch.Tensor  # float32 [B, T, 6], normalised by the lookback bars and clipped
    stamp: torch.Tensor  # int64 [B, T, 5]: minute, hour, weekday, day, month
    window: torch.Tensor  # int64 [B]: index of the window in its split
    uniform: torch.Tensor  # float32 [B, T] in [0, 1): draws keyed by (seed, epoch, window, position)


class Windows:
    """The windows of a split, ready for batches in any order and grouping."""

    def __init__(self, store: BarStore, split: Split, *, lookback: int, clip: float, seed: int) -> None:
        self.store, self.split = store, split
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

    def batch(self, indices: np.ndarray | torch.Tensor, epoch: int | None) -> Batch:
        """Windows `indices` (int64 [B]); `epoch` keys the draws, None gives those of validation, always the same.

        A window's values do not depend on which others are in the batch, bit for bit.
        """
        window = np.array(indices, dtype=np.int64).reshape(-1)
        length = self.split.length
        x = torch.from_numpy(gather(self.store.values, self.split.starts[window], length))
        stamp = torch.from_numpy(gather(self.store.stamps, self._first_session[window], length))
        uniform = torch.from_numpy(uniform_draws(self.seed, epoch, window, length))
        return Batch(
            _normalise(x, self.lookback).clamp_(-self.clip, self.clip),
            stamp,
            torch.from_numpy(window),
            uniform,
        )


def _normalise(x_BTF: torch.Tensor, lookback: int) -> torch.Tensor:
    """In place: (x - mean) / (population std + 1e-5) of the first `lookback` bars.

    The first bar is subtracted before anything is summed: float32 would lose the small moves of a large price.
    """
    bars = x_BTF.shape[1]
    x_BTF -= _at_each_bar(x_BTF[:, :1], bars)
    x_BTF -= _at_each_bar(_sum_of_bars(x_BTF[:, :lookback]) / lookback, bars)
    variance = _sum_of_bars(x_BTF[:, :lookback].square()) / lookback
    x_BTF *= _at_each_bar(1 / (variance.sqrt() + EPSILON), bars)
    return x_BTF


def _at_each_bar(x_B1F: torch.Tensor, bars: int) -> torch.Tensor:
    """[B, T, F] of equal bars: broadcasting over T runs loops of six values, twice as slow as this copy."""
    return torch.from_numpy(np.repeat(x_B1F.numpy(), bars, axis=1))


def _sum_of_bars(x_BTF: torch.Tensor) -> torch.Tensor:
    """Sum over T by halves, [B, 1, F]: element-wise additions, so that no sum depends on the batch's size."""
    x: Any = x_BTF.numpy() if x_BTF.numel() < SMALL else x_BTF  # either adds the same pairs
    while (bars := x.shape[1]) > 1:
        half = bars // 2
        summed = x[:, :half] + x[:, half : 2 * half]
        if bars % 2:
            summed[:, :1] += x[:, 2 * half :]
        x = summed
    return torch.as_tensor(x)


def epoch_order(n_windows: int, budget: int | None, seed: int, epoch: int | None) -> np.ndarray:
    """Which windows an epoch takes, int64 [min(budget, n)]: shuffled by (seed, epoch), each at most once.

    `budget=None` is all of them in order. `epoch=None` is the fixed choice of validation, in order. The order sorts
    counter-based hashes: the same with any library version, rank or worker.
    """
    if budget is None:
        return np.arange(n_windows, dtype=np.int64)
    draws = keyed_hash(np.arange(n_windows, dtype=np.uint64), 1, seed, FIXED if epoch is None else epoch)
    order = np.argsort(draws, kind="stable")[:budget].astype(np.int64)
    return np.sort(order) if epoch is None else order


def uniform_draws(seed: int, epoch: int | None, window: np.ndarray, length: int) -> np.ndarray:
    """Draws in [0, 1), float32 [B, length], each a function of (seed, epoch, window, position) alone."""
    keys = keyed_hash(window.astype(np.uint64), 2, seed, FIXED if epoch is None else epoch)
    counters = np.arange(1, length + 1, dtype=np.uint64) * GOLDEN
    return to_uniform(mix(keys[:, None] + counters))
