"""Means over overlapping days: statsmodels' Newey-West, coverage of the block bootstrap, Holm by hand."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests

from kronos.evaluation import statistics


def overlapping(random: np.random.Generator, days: int, horizon: int, mean: float = 0.0) -> np.ndarray:
    """Daily means of `horizon` shocks each, which neighbours share, as overlapping targets do."""
    shocks = random.normal(mean, 1, days + horizon)
    return np.convolve(shocks, np.ones(horizon) / horizon, "valid")[:days]


@pytest.mark.parametrize("lag", [0, 4, 9])
def test_newey_west_equals_statsmodels(lag):
    values = overlapping(np.random.default_rng(lag), 80, 5, 0.1)
    fit = sm.OLS(values, np.ones(80)).fit(cov_type="HAC", cov_kwds={"maxlags": lag, "use_correction": False})
    assert statistics.newey_west_t(values, lag) == pytest.approx(fit.tvalues[0], rel=1e-10)


def test_holm_equals_statsmodels_and_leaves_nan_out():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}
    expected = multipletests(list(p.values()), method="holm")[1]
    assert list(statistics.holm(p).values()) == pytest.approx(list(expected))
    with_hole = statistics.holm({**p, "e": float("nan")})
    assert np.isnan(with_hole.pop("e")) and with_hole == statistics.holm(p)
    assert statistics.holm({}) == {}


@pytest.mark.parametrize(("days", "horizon"), [(57, 5), (100, 5), (40, 1)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(days, horizon):
    random = np.random.default_rng(1)
    hits = [statistics.estimate(overlapping(random, days, horizon), horizon).sign == 0 for _ in range(300)]
    assert 0.90 <= np.mean(hits) <= 0.985


def test_an_estimate_states_lag_block_and_p_that_agree_with_its_interval():
    values = overlapping(np.random.default_rng(2), 100, 5, 0.5)
    found = statistics.estimate(values, 5)
    assert found.lag == 4 and found.block >= 5 and found.days == 100
    assert found.low < found.mean < found.high and found.sign == 1 and found.p < 0.05
    assert statistics.estimate(-values, 5).sign == -1
    assert statistics.estimate(values - values.mean(), 5).p == pytest.approx(1, abs=1e-6)
    assert statistics.estimate(values, 5) == found  # nothing drawn anew
    holed = np.insert(values, 7, np.nan)
    assert statistics.estimate(holed, 5) == found
    apart = statistics.estimate(values, 5, spacing=5)
    assert apart.lag == 0 and apart.block < found.block


def test_too_few_days_have_a_mean_and_no_interval():
    found = statistics.estimate([0.1, 0.2, 0.3], 5)
    assert found.mean == pytest.approx(0.2) and np.isnan(found.low) and np.isnan(found.p) and found.sign == 0
    assert np.isnan(statistics.estimate([], 5).mean)


def test_a_paired_difference_takes_the_days_that_both_have():
    days = pd.bdate_range("2024-01-01", periods=60)
    common = np.random.default_rng(3).normal(size=60)
    model = pd.Series(common + 0.3, days)
    other = pd.Series(common, days).drop(days[:5])
    found = statistics.paired(model, other, 1)
    assert found.days == 55 and found.mean == pytest.approx(0.3)
    assert found.sign == 1  # what both share cancels


def test_resamples_are_blocks_of_neighbours_drawn_alike_for_paired_series():
    values = np.arange(30.0)
    means = statistics.block_means(np.column_stack([values, 2 * values]), 5)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0])
    assert abs(means[:, 0].mean() - values.mean()) < 0.5
    # a block as long as the series is the series, wherever it begins
    np.testing.assert_allclose(statistics.block_means(values, 30), values.mean())
