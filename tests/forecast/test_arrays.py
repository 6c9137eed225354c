"""Forecasts in prices: equal to the public predictor's, independent of neighbours, clear about mistakes."""

from datetime import date

import numpy as np
import pytest
import torch

from kronos.data.forecast_points import contexts
from kronos.data.splits import make_split
from kronos.data.store import open_store
from kronos.data.windows import Windows
from kronos.forecast import arrays as forecast
from kronos.forecast import forecast_arrays, repair
from kronos.model import PREDICTOR_PRESETS, TOKENIZER_PRESETS, Kronos, KronosTokenizer
from kronos.model.inference import engine
from kronos.utils.errors import UserError


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(5)
    return KronosTokenizer(**TOKENIZER_PRESETS["nano"]), Kronos(**PREDICTOR_PRESETS["nano"])


def market(series: int, length: int, seed: int = 0) -> np.ndarray:
    """Plausible bars [series, length, 6]: prices around 100, volumes around a million."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, (series, length)), axis=1))
    opened = close * np.exp(random.normal(0, 0.003, close.shape))
    high, low = np.maximum(opened, close) * 1.002, np.minimum(opened, close) * 0.998
    volume = random.lognormal(13, 0.3, close.shape)
    return np.stack((opened, high, low, close, volume, volume * close), axis=-1).astype(np.float32)


def stamps(series: int, length: int, first: int = 0) -> np.ndarray:
    day = np.arange(first, first + length)
    columns = np.stack((day * 0, day * 0, day % 7, day % 28 + 1, day // 28 % 12 + 1), axis=-1)
    return np.broadcast_to(columns, (series, length, 5))


def given(series: int, length: int, horizon: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return market(series, length), stamps(series, length), stamps(series, horizon, first=length)


def test_paths_are_in_the_units_of_the_bars(pair):
    bars, *times = given(4, 30, 6)
    paths = forecast_arrays(*pair, bars, *times, horizon=6, sample_count=3)
    assert paths.shape == (4, 3, 6, 6) and paths.dtype == np.float32
    close, volume = paths[..., 3], paths[..., 4]
    assert (np.abs(close / bars[:, None, -1:, 3] - 1) < 0.5).all()
    assert volume.max() > 10_000


def test_a_series_is_forecast_the_same_whatever_its_neighbours_and_batch(pair):
    bars, *times = given(7, 30, 5)
    keys = np.array([5, 900, -3, 2**50, 8, 1, 0])
    whole = forecast_arrays(*pair, bars, *times, horizon=5, sample_count=2, keys_N=keys, seed=9)
    for chosen in ([3], [6, 1], [2, 0, 5]):
        part = (array[chosen] for array in (bars, *times))
        alone = forecast_arrays(*pair, *part, horizon=5, sample_count=2, keys_N=keys[chosen], seed=9)
        np.testing.assert_allclose(alone, whole[chosen], rtol=1e-4)
    small = forecast_arrays(*pair, bars, *times, horizon=5, sample_count=2, keys_N=keys, seed=9, batch_size=2)
    np.testing.assert_allclose(small, whole, rtol=1e-4)
    other = forecast_arrays(*pair, bars, *times, horizon=5, sample_count=2, keys_N=keys, seed=10)
    assert np.abs(other / whole - 1).max() > 1e-3


@pytest.fixture
def received(monkeypatch):
    """The normalised contexts that the engine is given, by a stand-in for it; its paths are the context's mean."""
    contexts = []

    class Engine(forecast.Engine):
        def __call__(self, x_NLF, stamps, future, *, uniform_NSH2, **rules):
            contexts.append(x_NLF)
            return torch.zeros(*uniform_NSH2.shape[:3], 6)

    def engine_for(tokenizer, model, **options):
        return Engine(tokenizer, model, **options)

    monkeypatch.setattr(forecast, "engine_for", engine_for)
    return contexts


def test_forecasts_see_the_values_of_training_windows_bit_for_bit(pair, received, sample_store):
    lookback, store = 60, open_store(sample_store)
    split = make_split(
        store, "train", date(2009, 8, 21), date(2010, 8, 20), lookback=lookback, horizon=5, length=66
    )
    windows = Windows(store, split, lookback=lookback, clip=1e9, seed=1)
    chosen = np.arange(0, len(windows), 701)
    bars, times = contexts(store, split.starts[chosen] + lookback - 1, lookback)
    rest = {"horizon": 3, "batch_size": 17}
    for given_bars in (bars, bars.astype(np.float64)):
        received.clear()
        before = given_bars.copy()
        forecast_arrays(*pair, given_bars, times, stamps(len(chosen), 3), **rest)
        trained = windows.batch(chosen, epoch=0).x[:, :lookback]
        assert torch.equal(torch.cat(received), trained) and len(received) > 1
        np.testing.assert_array_equal(given_bars, before, err_msg="the caller's bars are not changed")


def test_small_moves_of_a_large_price_are_kept(pair, received):
    """At 2**30 float32 holds multiples of 64 alone: float64 bars keep moves of 1 into the model and back."""
    level = 2.0**30
    bars = np.full((1, 90, 6), level)
    bars[0, 45:] += 1.0
    paths = forecast_arrays(*pair, bars, stamps(1, 90), stamps(1, 2), horizon=2)
    np.testing.assert_allclose(received[0][0, :, 0], np.repeat([-1.0, 1.0], 45), rtol=1e-4)
    assert (paths == np.float32(level + 0.5)).all()


def test_more_samples_add_paths_and_change_none(pair):
    bars, *times = given(3, 30, 5)
    two, five = (forecast_arrays(*pair, bars, *times, horizon=5, sample_count=count) for count in (2, 5))
    np.testing.assert_allclose(five[:, :2], two, rtol=1e-4)


@pytest.mark.parametrize("max_context", [64, 32])
def test_samples_that_do_not_fit_together_are_drawn_in_passes(pair, monkeypatch, max_context):
    bars, *times = given(2, 30, 5)
    rules = {"horizon": 5, "sample_count": 7, "max_context": max_context}
    whole = forecast_arrays(*pair, bars, *times, **rules)
    bars_done = []
    monkeypatch.setattr(forecast, "MEMORY", 1)
    apart = forecast_arrays(*pair, bars, *times, **rules, each_bar=bars_done.append)
    np.testing.assert_allclose(apart, whole, rtol=1e-4)
    assert bars_done == [1, 2, 3, 4, 5] * 2 * 7, "a pass for each series and sample"


def test_an_exception_of_each_bar_ends_the_forecast(pair):
    def stop(done: int) -> None:
        raise UserError(f"stopped at {done}")

    bars, *times = given(2, 30, 5)
    with pytest.raises(UserError, match="stopped at 1"):
        forecast_arrays(*pair, bars, *times, horizon=5, each_bar=stop)


def test_global_random_state_and_modes_stay(pair):
    tokenizer, model = pair
    bars, *times = given(2, 30, 3)
    model.train(), tokenizer.train()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    forecast_arrays(tokenizer, model, bars, *times, horizon=3, sample_count=2)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert model.training and tokenizer.training
    model.eval(), tokenizer.eval()


def test_batch_that_does_not_fit_is_halved_and_done_once():
    calls, told = [], []

    def run(part: slice) -> np.ndarray:
        calls.append((part.start, part.stop))
        if part.stop - part.start > 3:
            raise torch.OutOfMemoryError("out of memory")
        return np.arange(part.start, part.stop)

    result = forecast.run_batches(run, 10, 8, lambda done, of: told.append((done, of)))
    assert result.tolist() == list(range(10))
    assert calls == [(0, 8), (0, 4), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert told[-1] == (10, 10)

    def never(part: slice) -> np.ndarray:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(UserError, match="one series does not fit in memory"):
        forecast.run_batches(never, 10, 8, None)

    def broken(part: slice) -> np.ndarray:
        raise RuntimeError("another fault")

    with pytest.raises(RuntimeError, match="another fault"):
        forecast.run_batches(broken, 10, 8, None)


def test_repair_changes_impossible_bars_only_and_counts_them():
    possible = [10.0, 12.0, 9.0, 11.0, 5.0, 55.0]
    paths = np.array(
        [[possible, [10, 10.5, 10.2, 11, 5, 55]], [[10, 12, 9, 11, -1, -2], possible]], np.float32
    )
    repaired, count = repair(paths)
    assert count == 2
    assert repaired[0, 1].tolist() == [10, 11, 10, 11, 5, 55]
    assert repaired[1, 0].tolist() == [10, 12, 9, 11, 0, 0]
    np.testing.assert_array_equal(repaired[0, 0], np.float32(possible))
    assert paths[1, 0, 4] == -1, "the paths given are not changed"
    assert repair(repaired)[1] == 0
    raised, _ = repair(paths, np.array([[[9.5]], [[0.1]]], np.float32))
    assert raised[:, 0].tolist() == [[10, 12, 9.5, 11, 5, 55], [10, 12, 9, 11, 0, 0]]


def test_mistakes_are_named(pair):
    bars, now, future = given(3, 30, 5)
    wrong = bars.copy()
    wrong[1, 7, 3] = np.nan
    for arrays, message in [
        ((wrong, now, future), "series 1, bar 7: close is nan, expected a number"),
        ((bars[..., :5], now, future), r"bars have the shape \[3, 30, 5\], expected \[series, bars, 6\]"),
        ((bars, now[:, 1:], future), r"stamps have the shape \[3, 29, 5\], expected \[3, 30, 5\]"),
        ((bars, now, future[:, 1:]), r"future_stamps have the shape \[3, 4, 5\], expected \[3, 5, 5\]"),
    ]:
        with pytest.raises(UserError, match=message):
            forecast_arrays(*pair, *arrays, horizon=5)
    for rules, message in [
        ({"temperature": 0}, "T is 0, expected more than 0"),
        ({"top_p": 0}, "top_p is 0, expected more than 0"),
        ({"top_k": -1}, "top_k is -1, expected 0"),
        ({"sample_count": 0}, "sample_count is 0, expected at least 1"),
        ({"keys_N": np.arange(2)}, r"keys have the shape \[2\], expected \[3\]"),
    ]:
        with pytest.raises(UserError, match=message):
            forecast_arrays(*pair, bars, now, future, horizon=5, **rules)


def test_bfloat16_forecasts_stay_near_those_of_float32(pair):
    bars, *times = given(8, 30, 4)
    means = {}
    for precision in ("fp32", "bf16"):
        dtype = forecast.number_format(precision)
        paths = forecast_arrays(*pair, bars, *times, horizon=4, sample_count=20, dtype=dtype)
        means[precision] = paths[..., 3].mean(1)
    gap = np.abs(means["bf16"] / means["fp32"] - 1)
    assert 0 < gap.max() < 0.05, "not the same numbers, but near"
    with pytest.raises(UserError, match="precision is 'fp8', expected one of fp32, bf16"):
        forecast.number_format("fp8")


@pytest.mark.parametrize(("max_context", "samples"), [(64, 3), (32, 1)])
def test_no_bit_of_the_logits_depends_on_the_batch(monkeypatch, max_context, samples):
    """The inner width of 1024 is one where MKL sums the products of few rows in another order."""
    torch.manual_seed(7)
    tokenizer = KronosTokenizer(**{**TOKENIZER_PRESETS["nano"], "ff_dim": 1024})
    model = Kronos(**{**PREDICTOR_PRESETS["nano"], "ff_dim": 1024})
    seen, draw = [], engine._draw

    def drawn(logits, uniform, rules):
        seen.append(logits.flatten(1).numpy().copy())
        return draw(logits, uniform, rules)

    monkeypatch.setattr(engine, "_draw", drawn)
    bars, *times = given(100, 30, 4)
    rules = {"horizon": 4, "sample_count": samples, "max_context": max_context, "batch_invariant": True}
    found = []
    for size in (100, 11):
        seen.clear()
        paths = forecast_arrays(tokenizer, model, bars, *times, **rules, batch_size=size)
        found.append((paths, *(np.concatenate(seen[step::8]) for step in range(8))))
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(one, expected)
