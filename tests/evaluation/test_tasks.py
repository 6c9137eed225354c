"""Scores of the benchmark's tasks against hand-worked and simulated truths."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kronos.evaluation import tasks
from kronos.evaluation.accuracy import path_volatility
from kronos.evaluation.recurrent import regressor
from kronos.evaluation.synthetic import (
    Series,
    discriminative_accuracy,
    groups_of,
    over_groups,
    stylised_facts,
    train_on_synthetic,
)


def test_price_scores_are_the_correlations_of_each_path() -> None:
    generator = np.random.default_rng(0)
    predicted, came = generator.random((2, 60, 5)) + 1
    predicted[3] = 1.0  # a flat path has no correlation
    day = np.repeat(np.arange(20), 3)
    found = tasks.price_scores(predicted, came, day)
    for name, of in (("ic", stats.pearsonr), ("rank_ic", stats.spearmanr)):
        pairs = zip(predicted, came, strict=True)
        values = [of(*pair)[0] if np.ptp(pair[0]) else np.nan for pair in pairs]
        expected = pd.Series(values).groupby(day).mean().mean()
        assert found[name].value == pytest.approx(expected) and found[name].low < expected < found[name].high
    assert tasks.price_scores(predicted[:, :2], came[:, :2], day) == {}


@pytest.mark.parametrize("names", [2, 8])
def test_return_scores_find_a_planted_correlation_and_none_where_there_is_none(names: int) -> None:
    generator = np.random.default_rng(1)
    signal, noise = generator.standard_normal((2, 400, names))
    days = pd.date_range("2024-01-01", periods=400)
    score = pd.DataFrame(signal, days)
    planted = tasks.return_scores(score, pd.DataFrame(0.3 * signal + noise, days), 1)
    nothing = tasks.return_scores(score, pd.DataFrame(noise, days), 1)
    assert planted["rank_ic"].low > 0 and planted["ic"].value == pytest.approx(0.29, abs=0.08)
    assert nothing["ic"].low < 0 < nothing["ic"].high


def test_volatility_scores_by_hand() -> None:
    generator = np.random.default_rng(2)
    came = np.exp(0.02 * generator.standard_normal((50, 5)).cumsum(axis=1))
    right = tasks.volatility_scores(came[:, None], came, np.arange(50))
    assert right["mae"].value == pytest.approx(0) and right["r2"].value == pytest.approx(1)
    real = path_volatility(came)
    flat = np.exp(np.full((50, 1, 5), real.mean()).cumsum(axis=2))  # each path has the mean volatility
    assert tasks.volatility_scores(flat, came, np.arange(50))["r2"].value == pytest.approx(0)


def market(seed: int, count: int = 150, bars: int = 16, scale: float = 1.0, memory: float = 0.0) -> Series:
    """Bars around a random walk; with `memory` each return repeats a share of the one before."""
    generator = np.random.default_rng(seed)
    moves = 0.01 * scale * generator.standard_normal((count, bars))
    for bar in range(1, bars):
        moves[:, bar] += memory * moves[:, bar - 1]
    close = 100 * (1 + moves).cumprod(axis=1)
    opening = np.concatenate([np.full((count, 1), 100.0), close[:, :-1]], axis=1)
    spread = 0.003 * np.abs(generator.standard_normal((2, count, bars)))
    high, low = np.maximum(opening, close) * (1 + spread[0]), np.minimum(opening, close) * (1 - spread[1])
    volume = np.exp(10 + 0.3 * generator.standard_normal((count, bars)))
    instrument, day = np.arange(count) % 25, np.arange(count) // 25
    return Series(
        np.stack([opening, high, low, close, volume, volume * close], axis=-1), np.full(count, 100.0),
        np.full(count, 0.01), np.full((count, 2), np.exp(10) * np.array([1, 100])), day, groups_of(instrument, day),
    )  # fmt: skip


@pytest.mark.slow
def test_equal_distributions_are_not_told_apart_and_different_ones_are() -> None:
    same = [discriminative_accuracy(market(seed), market(seed + 50), seed).value for seed in range(4)]
    assert np.mean(same) == pytest.approx(0.5, abs=0.04)
    for changed, least in (({"scale": 2.5}, 0.95), ({"memory": 0.7}, 0.7)):
        other = discriminative_accuracy(market(1), market(2, **changed), 0)
        assert other.value > least and other.low > 0.6 and other.high <= 1
    closes = discriminative_accuracy(market(1), market(2, scale=3.0).closes_only(), 0)
    assert closes.value > 0.9


@pytest.mark.slow
def test_a_pattern_of_synthetic_bars_is_worth_something_on_real_ones_that_have_it() -> None:
    real = market(1, count=300, memory=0.5)
    learnt = train_on_synthetic(market(2, count=300, memory=0.5), real, 2, 0)["rank_ic"].value
    nothing = train_on_synthetic(market(3, count=300), real, 2, 0)["rank_ic"].value
    assert learnt > 0.25 and learnt > nothing + 0.15


def test_stylised_facts_of_known_moves() -> None:
    facts = stylised_facts(market(0, count=2000, memory=0.5))
    assert facts["reversal"].value == pytest.approx(0.42, abs=0.05)  # 0.5 but for the short series' own mean
    assert facts["kurtosis"].low < 0.1 and facts["large"].value == pytest.approx(0.0027, abs=0.002)
    assert facts["range"].value > 1
    with_tails = market(0, count=2000)
    bars = with_tails.bars[..., 3]
    bars[::50, 5:] *= 1.1
    assert stylised_facts(with_tails.closes_only())["kurtosis"].value > 3


def test_groups_share_no_instrument_and_few_instruments_are_split_by_days() -> None:
    instrument, day = np.arange(60) % 20, np.arange(60) // 20
    groups = groups_of(instrument, day)
    assert all(len(np.unique(groups[instrument == one])) == 1 for one in range(20)) and set(groups) == set(
        range(5)
    )
    assert set(groups_of(np.zeros(60, int), np.arange(60))) == set(range(5))
    assert over_groups([0.4, 0.6]).value == 0.5 and np.isnan(over_groups([0.4]).low)


def test_a_network_is_the_same_for_the_same_seed() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((40, 6, 2)), generator.standard_normal(40)
    np.testing.assert_array_equal(regressor(x, y, 1)(x), regressor(x, y, 1)(x))
