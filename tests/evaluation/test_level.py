"""The level of intervals and p-values under the null, by simulation: as often wrong as they say."""

import numpy as np
import pytest

from kronos.evaluation import accuracy, statistics

SERIES = 1500
pytestmark = pytest.mark.slow


def overlapping(random: np.random.Generator, days: int, horizon: int, shocks: str) -> np.ndarray:
    """Means of `horizon` shocks each, which neighbours share, as targets over a horizon do: [SERIES, days]."""
    size = (SERIES, days + horizon - 1)
    drawn = random.normal(size=size) if shocks == "normal" else random.standard_t(3, size)
    total = np.cumsum(np.pad(drawn, ((0, 0), (1, 0))), axis=1)
    return (total[:, horizon:] - total[:, :-horizon]) / horizon


@pytest.mark.parametrize("days", [60, 230, 480])
@pytest.mark.parametrize("horizon", [1, 5, 10, 20])
@pytest.mark.parametrize("shocks", ["normal", pytest.param("t3", marks=pytest.mark.nightly)])
def test_a_true_null_is_rejected_in_three_to_seven_per_cent(days, horizon, shocks):
    series = overlapping(np.random.default_rng([days, horizon]), days, horizon, shocks)
    found = [statistics.estimate(values, horizon) for values in series]
    rejected = np.mean([one.sign != 0 for one in found])
    by_p = np.mean([one.p < 0.05 for one in found])
    print(f"days {days} horizon {horizon} {shocks}: rejected {rejected:.3f}")
    assert rejected == by_p  # the interval and the p-value are one test
    assert 0.03 <= rejected <= 0.07


@pytest.mark.parametrize("days", [60, 230, 480])
@pytest.mark.parametrize("horizon", [1, 5])
def test_the_interval_of_a_skill_holds_no_skill_as_often_as_it_says(days, horizon):
    random = np.random.default_rng([days, horizon, 1])
    gaps = overlapping(random, days, horizon, "normal")
    common = np.exp(overlapping(random, days, horizon, "normal") / 2)
    missed = 0
    for gap, level in zip(gaps, common, strict=True):
        _, low, high, _ = accuracy.skill(level * (2 + 0.2 * gap), level * 2.0, np.arange(days), horizon)
        missed += not low <= 0 <= high
    print(f"days {days} horizon {horizon}: no skill missed {missed / SERIES:.3f}")
    assert 0.03 <= missed / SERIES <= 0.07


@pytest.mark.parametrize(("days", "low", "high"), [(60, 0.75, 0.83), (230, 0.82, 0.89), (480, 0.85, 0.92)])
def test_the_docstring_of_estimate_says_how_far_persistence_breaks_it(days, low, high):
    random = np.random.default_rng([days, 9])
    shocks = random.normal(size=(SERIES, days + 100))
    values = np.zeros_like(shocks)
    for day in range(1, days + 100):
        values[:, day] = 0.9 * values[:, day - 1] + shocks[:, day]
    covered = np.mean([statistics.estimate(one, 1).sign == 0 for one in values[:, 100:]])
    print(f"days {days}, AR 0.9: covered {covered:.3f}")
    assert low <= covered <= high
