"""Errors, CRPS, calibration and volatility against their definitions."""

import numpy as np
import pytest
from scipy import integrate, stats

from kronos.evaluation import accuracy


def test_errors_skill_and_direction_by_hand():
    predicted = np.array([[1.02, 0.99], [1.00, 1.04]])
    realised = np.array([[1.01, 0.98], [0.98, np.nan]])
    table = accuracy.by_step(predicted, realised, {"last": np.ones((2, 2))}).set_index("step")
    assert table.loc[0, "pairs"] == 3
    assert table.loc[0, "mae"] == pytest.approx((0.01 + 0.01 + 0.02) / 3)
    assert table.loc[0, "rmse"] == pytest.approx(np.sqrt((0.0001 + 0.0001 + 0.0004) / 3))
    assert table.loc[0, "mape"] == pytest.approx((0.01 / 1.01 + 0.01 / 0.98 + 0.02 / 0.98) / 3)
    assert table.loc[0, "mae_last"] == pytest.approx((0.01 + 0.02 + 0.02) / 3)
    assert table.loc[0, "skill_mae"] == pytest.approx(1 - 4 / 5)
    assert table.loc[1, "direction"] == pytest.approx(0.5)  # a forecast of no move is wrong where it moved
    assert table.loc[1, "rises"] == pytest.approx(0.5) and table.loc[2, "direction"] == 1


def test_each_instrument_has_its_own_errors():
    predicted, realised = np.full((3, 2), 1.01), np.array([[1.02, 1.0], [1.03, 1.03], [1.0, np.nan]])
    table = accuracy.by_instrument(predicted, realised, np.array([10.0, 20.0, 30.0]), ["B", "A", "B"])
    assert list(table.index) == ["A", "B"] and list(table["pairs"]) == [2, 3]
    assert table.loc["A", "mae"] == pytest.approx(0.02)
    assert table.loc["A", "mae_price"] == pytest.approx(0.4)
    assert table.loc["B", "mae"] == pytest.approx(0.01) and table.loc["B", "rmse"] == pytest.approx(0.01)


def test_fair_crps_equals_its_definition_pair_by_pair():
    random = np.random.default_rng(0)
    samples, realised = random.normal(size=(4, 7)), random.normal(size=4)
    for one, value, found in zip(samples, realised, accuracy.crps(samples, realised), strict=True):
        gap = sum(abs(a - b) for a in one for b in one) / (2 * 7 * 6)
        assert found == pytest.approx(np.abs(one - value).mean() - gap)
    with pytest.raises(ValueError, match="two samples"):
        accuracy.crps(samples[:, :1], realised)
    assert np.isnan(accuracy.crps(samples, np.full(4, np.nan))).all()


def test_fair_crps_of_few_samples_has_the_mean_of_the_distribution_they_come_from():
    random = np.random.default_rng(1)
    exact = accuracy.crps_normal(np.zeros(1), np.ones(1), np.array([0.7]))[0]
    few = accuracy.crps(random.normal(size=(20000, 3)), np.full(20000, 0.7))
    assert few.mean() == pytest.approx(exact, abs=0.01)


def test_crps_of_a_normal_equals_the_integral():
    def integrand(x):
        return (stats.norm.cdf(x, 1.0, 0.2) - (x >= 1.1)) ** 2

    expected = integrate.quad(integrand, 0, 1.1)[0] + integrate.quad(integrand, 1.1, 2)[0]
    found = accuracy.crps_normal(np.array([1.0, 1.0]), np.array([0.2, 0.0]), np.array([1.1, 1.1]))
    assert found == pytest.approx([expected, 0.1])


def test_pinball_loss_by_hand_and_the_median_is_half_the_absolute_error():
    samples = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert accuracy.pinball(samples, np.array([6.0]), 0.5)[0] == pytest.approx(1.5)
    assert accuracy.pinball(samples, np.array([1.0]), 0.75)[0] == pytest.approx(0.25 * 3)


def test_a_calibrated_ensemble_has_a_flat_histogram_and_covers_as_it_says():
    random = np.random.default_rng(2)
    samples, realised = random.normal(size=(20000, 19)), random.normal(size=20000)
    counts = accuracy.rank_histogram(samples, realised)
    assert counts.sum() == 20000 and len(counts) == 20
    assert stats.chisquare(counts).pvalue > 0.01
    place, level = accuracy.band(19, 0.9)
    assert level == pytest.approx(0.9)
    assert accuracy.coverage(samples, realised, place).mean() == pytest.approx(0.9, abs=0.01)
    narrow = accuracy.rank_histogram(0.5 * samples, realised)
    assert narrow[[0, -1]].sum() > 3 * counts[[0, -1]].sum()


def test_equal_values_draw_their_place_and_missing_ones_have_none():
    samples = np.ones((6000, 4))
    counts = accuracy.rank_histogram(samples, np.append(np.ones(5999), np.nan))
    assert counts.sum() == 5999 and stats.chisquare(counts).pvalue > 0.001


def test_a_band_is_reported_only_where_the_samples_give_it():
    assert accuracy.band(18, 0.9) is None and accuracy.band(19, 0.9) is not None
    assert accuracy.band(5, 0.5) == (1, pytest.approx(2 / 3))
    assert accuracy.band(3, 0.5) == (1, 0.5)
    assert accuracy.band(2, 0.5) is None


def test_path_volatility_is_the_root_mean_squared_log_return_from_the_last_close():
    closes = np.exp(np.array([[0.01, 0.03, 0.0], [0.01, np.nan, 0.0]]))
    found = accuracy.path_volatility(closes)
    assert found[0] == pytest.approx(np.sqrt((0.01**2 + 0.02**2 + 0.03**2) / 3))
    assert np.isnan(found[1])
    scores = accuracy.volatility_scores(np.array([1.0, 2.0, 9.0]), np.array([1.0, 3.0, np.nan]))
    assert scores["mae"] == pytest.approx(0.5) and scores["r2"] == pytest.approx(0.5)


def test_skill_counts_days_alike_and_its_interval_tells_skill_from_none():
    random = np.random.default_rng(3)
    day = np.repeat(np.arange(80), 10)
    baseline = np.abs(random.normal(1, 0.3, 800))
    better, low, high, gap = accuracy.skill(0.8 * baseline, baseline, day, 5)
    assert better == pytest.approx(0.2) and low > 0.15 and high < 0.25 and gap.sign == -1
    _, low, high, gap = accuracy.skill(random.permutation(baseline), baseline, day, 5)
    assert low < 0 < high and gap.sign == 0
    few = accuracy.skill(baseline[:20], baseline[:20], day[:20], 5)
    assert few[0] == 0 and np.isnan(few[1])


def test_distribution_scores_rate_the_true_distribution_above_a_narrow_one():
    random = np.random.default_rng(4)
    moves = random.normal(0, 0.02, (3000, 21, 5)).cumsum(-1)
    paths = np.exp(moves)
    day, volatility = np.repeat(np.arange(60), 50), np.full(3000, 0.02)
    true = accuracy.distribution_scores(paths[:, 1:], paths[:, 0], volatility, day)
    narrow = accuracy.distribution_scores(1 + 0.4 * (paths[:, 1:] - 1), paths[:, 0], volatility, day)
    assert true["crps"] < narrow["crps"]
    assert true["skill_last"][1] > 0 and abs(true["skill_rolling"][0]) < 0.03
    exact, share = true["coverage"][0.9]
    assert share == pytest.approx(exact, abs=0.02) and narrow["coverage"][0.9][1] < 0.75
    assert true["coverage_missing"] == []
    few = accuracy.distribution_scores(paths[:, 1:6], paths[:, 0], volatility, day)
    assert few["coverage_missing"] == [0.9] and 0.5 in few["coverage"]
