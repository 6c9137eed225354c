"""Many looks at the same days by simulation: how often chance takes the title, and what a search's figures say.

`experiments/README.md` has the tables that these tests print (`-s`).
"""

from typing import Any

import numpy as np
import pytest

from kronos.evaluation.multiple_looks import (
    deflated_sharpe_of,
    level_of_challenge,
    probability_of_backtest_overfitting,
)
from kronos.evaluation.statistics import estimate, independent_periods
from kronos.stages.decision import too_little

pytestmark = pytest.mark.slow
CHALLENGERS = 20
SEQUENCES, SEARCHES = 600, 200


def models(random: np.random.Generator, count: int, days: int, horizon: int) -> np.ndarray:
    """Daily Rank ICs of `count` models that are equally good, [count, days].

    Each is the market's part of the day, which all models share, and the model's own. Both are means over `horizon`
    sessions, of which neighbouring days share horizon - 1, with a standard deviation of 0.1 where the horizon is 1.
    """
    shocks = random.normal(size=(count + 1, days + horizon - 1))
    total = np.cumsum(np.pad(shocks, ((0, 0), (1, 0))), axis=1)
    daily = (total[:, horizon:] - total[:, :-horizon]) / horizon
    return 0.1 * (daily[0] + daily[1:]) / np.sqrt(2)


def challenge(gap: np.ndarray, number: int, horizon: int) -> dict[str, Any]:
    """What the decision about a challenger is made from, of the daily differences to the champion."""
    found = estimate(gap, horizon)
    return {
        "difference": found.mean, "difference_low": found.low, "difference_high": found.high, "p": found.p,
        "measure": "daily Rank IC",
        "days": found.days, "champion_version": 1, "challenge": number, "level": level_of_challenge(number),
    }  # fmt: skip


@pytest.mark.parametrize(("days", "horizon"), [(120, 1), (480, 1), (120, 5), (230, 5), (480, 5), (230, 10)])
def test_twenty_equal_challengers_take_the_title_in_under_five_per_cent_of_cases(
    days: int, horizon: int
) -> None:
    random, lost, by_interval = np.random.default_rng([days, horizon]), 0, 0
    for _ in range(SEQUENCES):
        champion, *others = models(random, CHALLENGERS + 1, days, horizon)
        found = [challenge(one - champion, place, horizon) for place, one in enumerate(others, start=1)]
        lost += any(too_little(numbers, horizon) == "" for numbers in found)
        by_interval += any(numbers["difference_low"] > 0 for numbers in found)
    shares = lost / SEQUENCES, by_interval / SEQUENCES
    print("| {} | {} | {:.1%} | {:.1%} |".format(days, horizon, *shares).replace("%", " %"))
    assert shares[0] < 0.05 < 0.15 < shares[1]


@pytest.mark.parametrize("number", [1, 5, 20])
def test_a_challenger_that_is_really_better_takes_the_title_even_late(number: int) -> None:
    random, days, horizon, taken = np.random.default_rng(number), 230, 5, {0.02: 0, 0.03: 0, 0.04: 0}
    for _ in range(SEQUENCES):
        champion, other = models(random, 2, days, horizon)
        for gain in taken:
            taken[gain] += too_little(challenge(other + gain - champion, number, horizon), horizon) == ""
    shares = {gain: won / SEQUENCES for gain, won in taken.items()}
    print(f"| {number} | {' | '.join(f'{share:.0%}' for share in shares.values())} |".replace("%", " %"))
    assert shares[0.02] < shares[0.03] < shares[0.04] and shares[0.04] > 0.6


@pytest.mark.parametrize("trials", [5, 20, 100])
@pytest.mark.parametrize(("days", "horizon"), [(120, 1), (230, 5)])
def test_the_figures_of_a_search_tell_chance_from_a_trial_that_is_really_better(
    days: int, horizon: int, trials: int
) -> None:
    random, rows = np.random.default_rng([days, horizon, trials]), {}
    periods = independent_periods(days, horizon)
    for gain in (0.0, 0.05):
        deflated, alone, overfitting = [], [], []
        for _ in range(SEARCHES):
            daily = models(random, trials, days, horizon).T
            daily[:, 0] += gain
            best = int(daily.mean(axis=0).argmax())
            deflated.append(deflated_sharpe_of(daily, best, periods) > 0.95)
            alone.append(estimate(daily[:, best], horizon).low > 0)
            overfitting.append(probability_of_backtest_overfitting(daily))
        rows[gain] = [float(np.mean(values)) for values in (alone, deflated, overfitting)]
    shown = " | ".join(f"{share:.1%}" for row in rows.values() for share in row)
    print(f"| {days} | {horizon} | {trials} | {shown} |".replace("%", " %"))
    (alone_0, deflated_0, overfitting_0), (_, deflated_1, overfitting_1) = rows.values()
    assert deflated_0 < 0.05 < alone_0 and deflated_1 > 0.7
    assert 0.4 < overfitting_0 < 0.7 and overfitting_1 < 0.02
