"""Means over overlapping days: the cosine estimator by another transform, coverage, Holm by statsmodels."""

import numpy as np
import pandas as pd
import pytest
from scipy import fft, stats
from statsmodels.stats.multitest import multipletests

from kronos.evaluation import statistics


def overlapping(random: np.random.Generator, days: int, horizon: int, mean: float = 0.0) -> np.ndarray:
    """Daily means of `horizon` shocks each, which neighbours share, as overlapping targets do."""
    shocks = random.normal(mean, 1, days + horizon)
    return np.convolve(shocks, np.ones(horizon) / horizon, "valid")[:days]


def test_the_variance_is_the_periodogram_at_its_lowest_frequencies():
    """The projections of a series and its mirror image on cosines are what the discrete cosine transform gives."""
    values = np.random.default_rng(4).normal(size=80).cumsum()
    transformed = fft.dct(values, type=2, norm="ortho")[1:7]
    expected = np.sqrt(np.mean(transformed**2) / 80)
    assert statistics.standard_error(values, 6) == pytest.approx(expected, rel=1e-10)
    assert statistics.standard_error(values + 5, 6) == pytest.approx(expected, rel=1e-10)  # no mean in it


def test_the_interval_of_a_ratio_is_that_of_its_linear_part():
    random = np.random.default_rng(5)
    bottom = random.uniform(1, 2, 200)
    top = 0.8 * bottom + random.normal(0, 0.1, 200)
    value, low, high = statistics.ratio(top, bottom, 1)
    assert value == pytest.approx(top.mean() / bottom.mean())
    assert low < 0.8 < high and high - low < 0.1
    constant = statistics.ratio(2 * bottom, bottom, 1)
    assert constant == pytest.approx((2, 2, 2))
    assert np.isnan(statistics.ratio(top, 0 * bottom, 1)).all()


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


def test_an_estimate_states_t_and_p_that_agree_with_its_interval():
    values = overlapping(np.random.default_rng(2), 100, 5, 0.5)
    found = statistics.estimate(values, 5)
    assert found.freedom == 8 and found.days == 100
    assert found.p == pytest.approx(2 * stats.t.sf(found.t, found.freedom))
    edge = statistics.estimate(values - found.low, 5)  # a mean on the edge of its interval has p = 0.05
    assert edge.low == pytest.approx(0, abs=1e-12) and edge.p == pytest.approx(0.05)
    assert found.low < found.mean < found.high and found.sign == 1 and found.p < 0.05
    assert statistics.estimate(-values, 5).sign == -1
    assert statistics.estimate(values - values.mean(), 5).p == pytest.approx(1, abs=1e-6)
    assert statistics.estimate(values, 5) == found  # nothing drawn anew
    holed = np.insert(values, 7, np.nan)
    assert statistics.estimate(holed, 5) == found
    apart = statistics.estimate(values, 5, spacing=5)
    assert apart.freedom == 8  # 100 days without overlap, of which 8 cosines are recommended
    assert statistics.estimate(values, 10).freedom == 4 and statistics.estimate(np.ones(50), 5).sign == 1


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


def test_a_series_that_varies_only_from_day_to_day_has_a_mean_and_no_error_to_divide_by():
    days = 40
    freedom = statistics.degrees_of_freedom(days, 1)
    fast = np.cos(np.pi * (freedom + 1) * (np.arange(days) + 0.5) / days)  # next to those of the variance
    found = statistics.estimate(1.0 + fast, 1)
    assert found.mean == pytest.approx(1.0) and found.low == found.high == found.mean and np.isnan(found.t)
