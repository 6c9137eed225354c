"""What several looks at the same days cost: published values where there are some, simulation elsewhere."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from kronos.evaluation.multiple_looks import (
    deflated_sharpe,
    deflated_sharpe_of,
    expected_best_sharpe,
    false_alarm_rate,
    level_of_challenge,
    probability_of_backtest_overfitting,
)


def ratios(count: int, variance: float) -> np.ndarray:
    """`count` Sharpe ratios with exactly this variance (divisor count - 1)."""
    drawn = np.random.default_rng(0).normal(size=count)
    return drawn / drawn.std(ddof=1) * np.sqrt(variance)


@pytest.mark.parametrize(("count", "expected"), [(100, 0.9004), (46, 0.9505)])
def test_the_deflated_sharpe_ratio_is_that_of_the_paper_s_example(count, expected):
    """An annual ratio of 2.5 over 1250 days, variance 1/2 between trials, skewness -3 and kurtosis 10."""
    trials = ratios(count, 0.5 / 250)
    found = deflated_sharpe(2.5 / np.sqrt(250), trials, 1250, -3, 10)
    assert found == pytest.approx(expected, abs=5e-4)
    if count == 100:
        assert expected_best_sharpe(trials) == pytest.approx(0.1132, abs=5e-5)


def test_the_best_of_trials_without_an_effect_seldom_has_a_deflated_sharpe_ratio_above_95_per_cent():
    random = np.random.default_rng(1)
    deflated, plain = [], []
    for _ in range(400):
        values = random.normal(size=(120, 20))
        sharpes = values.mean(axis=0) / values.std(axis=0, ddof=1)
        deflated.append(deflated_sharpe_of(values, int(sharpes.argmax()), 120))
        plain.append(stats.norm.cdf(sharpes.max() * np.sqrt(119)))
    print(
        f"above 95 %: deflated {np.mean(np.array(deflated) > 0.95):.3f}, alone {np.mean(np.array(plain) > 0.95):.3f}"
    )
    assert np.mean(np.array(deflated) > 0.95) <= 0.05 < 0.5 < np.mean(np.array(plain) > 0.95)
    assert 0.4 < np.median(deflated) < 0.6


def test_the_deflated_sharpe_ratio_of_a_matrix_is_that_of_its_moments():
    values = np.random.default_rng(6).standard_t(5, size=(80, 4))
    sharpes, best = values.mean(axis=0) / values.std(axis=0, ddof=1), values[:, 2]
    expected = deflated_sharpe(sharpes[2], sharpes, 16, stats.skew(best), stats.kurtosis(best, fisher=False))
    assert deflated_sharpe_of(values, 2, 16) == expected
    values[:, 0] = 0.1  # a trial that does not vary has no ratio
    assert np.isnan(deflated_sharpe_of(values, 2, 16)) and np.isnan(deflated_sharpe_of(values[:1], 2, 16))


def test_a_trial_that_is_really_better_has_a_high_deflated_sharpe_ratio():
    random = np.random.default_rng(2)
    values = random.normal(size=(250, 20)) + np.r_[0.5, np.zeros(19)]
    sharpes = values.mean(axis=0) / values.std(axis=0, ddof=1)
    assert sharpes.argmax() == 0 and deflated_sharpe(sharpes[0], sharpes, 250, 0, 3) > 0.99


def test_the_probability_of_overfitting_is_that_of_a_plain_loop():
    values = np.random.default_rng(3).normal(size=(47, 6))
    parts, low = np.array_split(np.arange(47), 6), []
    for picked in combinations(range(6), 3):
        inside = np.concatenate([parts[place] for place in picked])
        outside = np.setdiff1d(np.arange(47), inside)
        best = values[inside].mean(axis=0).argmax()
        rank = stats.rankdata(values[outside].mean(axis=0))[best]
        low.append(np.log((rank / 7) / (1 - rank / 7)) <= 0)
    assert probability_of_backtest_overfitting(values, blocks=6) == np.mean(low)


def test_overfitting_is_sure_about_even_and_absent_where_it_must_be():
    random = np.random.default_rng(4)
    noise = [probability_of_backtest_overfitting(random.normal(size=(120, 8))) for _ in range(200)]
    assert 0.4 < np.mean(noise) < 0.6
    better = random.normal(size=(120, 8)) + np.r_[2, np.zeros(7)]
    assert probability_of_backtest_overfitting(better) == 0
    values = random.normal(size=(120, 8))  # equal means: the best on one half is the worst on the other
    assert probability_of_backtest_overfitting(values - values.mean(axis=0)) == 1


@pytest.mark.parametrize(
    ("matrix", "blocks", "why"),
    [
        (np.zeros((20, 1)), 10, "of 2 trials or more"),
        (np.zeros((20, 3)), 5, "an even number"),
        (np.zeros((8, 3)), 10, "8 days are fewer than 10 blocks"),
        (np.full((20, 3), np.nan), 10, "not finite"),
    ],
)
def test_matrices_that_cannot_be_cut_are_refused(matrix, blocks, why):
    with pytest.raises(ValueError, match=why):
        probability_of_backtest_overfitting(matrix, blocks)


def test_the_levels_of_all_challenges_sum_to_at_most_the_total():
    levels = [level_of_challenge(place) for place in range(1, 10_001)]
    assert 0.0499 < sum(levels) < 0.05 and levels == sorted(levels, reverse=True)
    assert levels[0] == pytest.approx(0.0304, abs=5e-5)
    assert level_of_challenge(2, 0.1) == pytest.approx(0.1 * levels[0] / 4 / 0.05)
    with pytest.raises(ValueError, match="expected 1 or more"):
        level_of_challenge(0)


def test_the_chance_of_a_false_alarm_is_that_of_simulated_looks():
    alarms = np.random.default_rng(5).random((20_000, 8)) < 0.05
    assert false_alarm_rate(8) == pytest.approx(alarms.any(axis=1).mean(), abs=0.01)
    assert false_alarm_rate(0) == 0 and false_alarm_rate(1, 0.2) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="expected 0 or more"):
        false_alarm_rate(-1)
