"""Windows: normalised as the public code does, each once an epoch, and a function of (seed, epoch, i) alone."""

import time
from datetime import date

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.data.splits import make_split
from kronos.data.store import BarStore
from kronos.data.window_order import epoch_order
from kronos.data.windows import Windows, uniform_draws

LOOKBACK, HORIZON, LENGTH = 32, 5, 38


@pytest.fixture(scope="module")
def windows(sample_store: BarStore) -> Windows:
    split = make_split(
        sample_store,
        "train",
        date(2009, 8, 21),
        date(2010, 5, 28),
        lookback=LOOKBACK,
        horizon=HORIZON,
        length=LENGTH,
    )
    return Windows(sample_store, split, lookback=LOOKBACK, clip=5.0, seed=7)


def _oracle(bars: np.ndarray, lookback: int, clip: float) -> np.ndarray:
    """Plain float64: mean and population deviation of the lookback bars, epsilon 1e-5, clipped."""
    part = bars[:lookback].astype(np.float64)
    return np.clip((bars.astype(np.float64) - part.mean(0)) / (part.std(0) + 1e-5), -clip, clip)


def test_windows_equal_a_plain_numpy_oracle(windows: Windows, sample_store: BarStore) -> None:
    frame = sample_store.frame()
    chosen = np.random.default_rng(0).choice(len(windows), 300, replace=False)
    batch = windows.batch(chosen, epoch=0)
    assert batch.x.dtype == torch.float32 and batch.x.shape == (300, LENGTH, 6)
    for i, window in enumerate(chosen):
        rows = frame.iloc[windows.split.starts[window] : windows.split.starts[window] + LENGTH]
        np.testing.assert_allclose(batch.x[i], _oracle(rows.iloc[:, 2:].to_numpy(), LOOKBACK, 5.0), atol=2e-5)
        times = pd.DatetimeIndex(rows["datetime"])
        expected = np.stack([times.minute, times.hour, times.day_of_week, times.day, times.month], 1)
        np.testing.assert_array_equal(batch.stamp[i], expected)
    assert batch.stamp.dtype == torch.int64 and batch.window.tolist() == chosen.tolist()
    assert float(batch.x.abs().max()) == 5.0


def test_a_window_does_not_depend_on_its_batch_bit_for_bit(windows: Windows) -> None:
    chosen = epoch_order(len(windows), 300, 7, 0)
    whole = windows.batch(chosen, epoch=3)
    shuffle = np.random.default_rng(1).permutation(300)
    for part in (chosen[:1], chosen[5:12], chosen[shuffle], chosen[100:251]):
        places = [int(np.flatnonzero(chosen == window)[0]) for window in part]
        for got, expected in zip(windows.batch(part, epoch=3), whole, strict=True):
            assert torch.equal(got, expected[places])


def test_draws_are_keyed_by_seed_epoch_window_and_position(windows: Windows) -> None:
    base = uniform_draws(1, 0, np.arange(50), 40)
    assert base.dtype == np.float32 and base.min() >= 0 and base.max() < 1
    later = np.arange(50, 100)
    others = [
        uniform_draws(2, 0, np.arange(50), 40),
        uniform_draws(1, 1, np.arange(50), 40),
        uniform_draws(1, None, np.arange(50), 40),
        uniform_draws(1, 0, later, 40),
    ]
    for other in others:
        assert (base != other).mean() > 0.999
    assert np.array_equal(uniform_draws(1, 0, np.arange(50), 10), base[:, :10]), "length does not move draws"
    assert len(np.unique(base)) > 0.999 * base.size


def test_draws_are_uniform_and_neighbours_are_not_related() -> None:
    draws = uniform_draws(100, 4, np.arange(4000), 100).astype(np.float64)
    counts = np.histogram(draws, bins=100, range=(0, 1))[0]
    expected = draws.size / 100
    assert ((counts - expected) ** 2 / expected).sum() < 150  # chi-square with 99 degrees: 0.1 % above 149
    limit = 4 / np.sqrt(draws.size)
    centred = draws - draws.mean()
    for left, right in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        assert abs((left * right).mean() * 12) < limit


def test_validation_draws_and_choice_are_the_same_at_every_epoch(windows: Windows) -> None:
    first, again = (windows.batch(np.arange(20), epoch=None) for _ in range(2))
    for got, expected in zip(again, first, strict=True):
        assert torch.equal(got, expected)
    fixed = epoch_order(1000, 100, 7, None)
    assert np.array_equal(fixed, epoch_order(1000, 100, 7, None)) and (np.diff(fixed) > 0).all()
    assert epoch_order(1000, None, 7, None).tolist() == list(range(1000))


@given(
    n=st.integers(1, 400),
    budget=st.integers(1, 500),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_takes_each_window_at_most_once(n: int, budget: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, budget, seed, epoch)
    assert order.dtype == np.int64 and len(order) == min(n, budget) == len(set(order.tolist()))
    assert order.min() >= 0 and order.max() < n
    assert np.array_equal(order, epoch_order(n, n, seed, epoch)[:budget]), (
        "a budget takes the permutation's prefix"
    )


def test_epochs_and_seeds_shuffle_differently_and_evenly() -> None:
    orders = np.array([epoch_order(50, 50, 3, epoch) for epoch in range(2000)])
    assert len(np.unique(orders, axis=0)) == 2000
    counts = np.array([np.bincount(orders[:, place], minlength=50) for place in (0, 1, 25, 49)])
    assert ((counts - 40) ** 2 / 40).sum(1).max() < 90  # chi-square with 49 degrees: 0.03 % above 90
    assert not np.array_equal(epoch_order(50, 50, 4, 0), orders[0])


def test_order_and_draws_are_pinned() -> None:
    """Resumed runs and other machines must meet the same windows: these values may not change."""
    assert epoch_order(10, 10, 100, 0).tolist() == PINNED_ORDER
    np.testing.assert_array_equal(uniform_draws(100, 0, np.array([0, 1]), 2), np.float32(PINNED_DRAWS))


PINNED_ORDER = [8, 9, 0, 1, 4, 5, 2, 7, 3, 6]
PINNED_DRAWS = [[0.9960152506828308, 0.5160887837409973], [0.17807549238204956, 0.8456926345825195]]


def test_gathering_is_fast(sample_store: BarStore) -> None:
    """Far below the 300,000 windows/s of an idle core, so that a busy machine passes; `.iloc` gives 2,000."""
    split = make_split(
        sample_store, "train", date(2009, 8, 21), date(2010, 8, 20), lookback=90, horizon=10, length=101
    )
    windows = Windows(sample_store, split, lookback=90, clip=5.0, seed=1)
    order = epoch_order(len(windows), 512 * 20, 1, 0)
    windows.batch(order[:512], 0)
    begin = time.perf_counter()
    for start in range(0, len(order), 512):
        windows.batch(order[start : start + 512], 0)
    assert len(order) / (time.perf_counter() - begin) > 30_000
