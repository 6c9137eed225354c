"""Normalisation: equal to plain float64, blind to the forecast bars, the same for float32 and float64 bars."""

import hashlib

import numpy as np
import pytest
import torch

from kronos.data.normalization import normalise
from kronos.data.store import BarStore


def hard_bars(bars: int, seed: int) -> np.ndarray:
    """Six features that are hard for float32, float32 [1, T, 6]."""
    generator = np.random.default_rng(seed)
    features = [
        600 + generator.normal(0, 0.01, bars),  # a large price that hardly moves
        generator.lognormal(20, 2, bars),  # volumes over many sizes
        np.where(np.arange(bars) == 0, 1e9, 1e3 + generator.normal(0, 1, bars)),  # the first bar far away
        np.full(bars, 12.34),  # nothing moves
        1e-3 * np.exp(generator.normal(0, 0.01, bars)),
        generator.normal(0, 1, bars),
    ]
    return np.stack(features, axis=1).astype(np.float32)[None]


@pytest.mark.parametrize("lookback", [2, 3, 7, 32, 90, 101])
def test_values_mean_and_scale_equal_those_of_float64(lookback: int) -> None:
    bars = hard_bars(120, lookback)
    x, mean, scale = normalise(torch.from_numpy(bars.copy()), lookback)
    wide = bars.astype(np.float64)
    part = wide[:, :lookback]
    expected = part.mean(1, keepdims=True), part.std(1, keepdims=True) + 1e-5
    # A price of 600 is stored to 3e-5, 0.003 of its deviation, on both sides alike: the arithmetic adds nothing.
    values = np.clip((wide - expected[0]) / expected[1], -5, 5)
    np.testing.assert_allclose(x.clamp(-5, 5), values, atol=5e-5)
    assert (x[0, :lookback, 3] == 0).all()
    assert mean.dtype == scale.dtype == np.float64 and mean.shape == scale.shape == (1, 1, 6)
    assert (np.abs(mean - expected[0]) <= 1e-6 * (np.abs(expected[0]) + scale)).all()
    np.testing.assert_allclose(scale, expected[1], rtol=1e-4)


def test_mean_and_scale_give_the_bars_back() -> None:
    bars = hard_bars(90, 1)
    x, mean, scale = normalise(torch.from_numpy(bars.copy()), 60)
    back = x.numpy() * scale + mean
    assert (np.abs(back - bars) <= 1e-6 * (np.abs(bars) + scale)).all()


def test_statistics_never_see_the_forecast_bars(sample_store: BarStore) -> None:
    raw = torch.from_numpy(np.array(sample_store.values[:38]))[None]
    changed = raw.clone()
    changed[:, 32:] *= 3
    same, other = normalise(raw, 32), normalise(changed, 32)
    assert torch.equal(same[0][:, :32], other[0][:, :32])
    np.testing.assert_array_equal(same[1:], other[1:])


def test_float64_bars_that_float32_holds_give_the_same_bits() -> None:
    bars = np.concatenate([hard_bars(101, seed) for seed in range(150)])
    narrow = normalise(torch.from_numpy(bars.copy()), 90)
    wide = normalise(torch.from_numpy(bars.astype(np.float64)), 90)
    for one, other in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(one, other)
    assert wide[0].dtype == torch.float32


def halves_added(x: np.ndarray) -> np.ndarray:
    while (bars := x.shape[1]) > 1:
        half = bars // 2
        summed = x[:, :half] + x[:, half : 2 * half]
        summed[:, :1] += x[:, 2 * half :] if bars % 2 else np.float32(0)
        x = summed
    return x


def test_every_operation_is_rounded_as_ieee_754_says_on_any_processor() -> None:
    bars = np.concatenate([hard_bars(101, seed) for seed in range(150)])
    count = np.float32(90)
    x = bars - bars[:, :1]
    x = x - halves_added(x[:, :90]) / count
    deviation = np.sqrt(halves_added(np.square(x[:, :90])) / count)
    x = x * (np.float32(1) / (deviation + np.float32(1e-5)))
    for part in (slice(0, 1), slice(None)):  # by numpy's sums and by PyTorch's
        np.testing.assert_array_equal(normalise(torch.from_numpy(bars[part].copy()), 90)[0], x[part])


def test_values_are_pinned() -> None:
    """Models were trained on these values: a change in the last bit moves token ids."""
    ramp = (np.arange(2 * 12 * 6, dtype=np.float32) ** 2 / 7).reshape(2, 12, 6)
    digest = hashlib.sha256(normalise(torch.from_numpy(ramp), 10)[0].numpy().tobytes()).hexdigest()
    assert digest[:16] == "9c98bf267bfd03b0"
