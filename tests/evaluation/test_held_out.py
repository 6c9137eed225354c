"""Held-out instruments beside the others: what was learnt of the seen only shows, and the level under the null."""

import numpy as np
import pandas as pd
import pytest

from kronos.evaluation import accuracy, held_out
from kronos.evaluation.forecast_evaluation import Forecasts
from kronos.evaluation.tradability import tradability

DAYS, LOOKBACK, HORIZON = 140, 5, 2
NAMES = [f"N{place:02d}" for place in range(40)]
UNSEEN = NAMES[::4]


def forecasts_of(seed: int, skill: dict[str, float]) -> tuple[Forecasts, pd.DataFrame]:
    """Forecasts on random walks whose means are `skill` (by instrument) of the way to what comes; and their score."""
    random = np.random.default_rng(seed)
    days = pd.bdate_range("2024-01-01", periods=DAYS, name="datetime")
    moves = random.normal(0, 0.01, (DAYS, len(NAMES)))
    close = pd.DataFrame(100 * np.exp(moves.cumsum(axis=0)), days, pd.Index(NAMES, name="instrument"))
    opening = close.shift(1).fillna(100.0)
    day, instrument = np.mgrid[LOOKBACK : DAYS - HORIZON, : len(NAMES)].reshape(2, -1)
    values = close.to_numpy()
    ahead = values[day[:, None] + np.arange(1, HORIZON + 1), instrument[:, None]]
    last = values[day, instrument]
    share = np.array([skill.get(name, 0.0) for name in NAMES])[instrument][:, None]
    noise = random.normal(0, 0.004, ahead.shape)
    predicted = last[:, None] * (1 + share * (ahead / last[:, None] - 1) + noise)
    found = Forecasts(
        close_NH=predicted, last_N=last, day_N=day, instrument_N=instrument, opening=opening, close=close,
        lookback=LOOKBACK, tradable=tradability(opening, close),
    )  # fmt: skip
    table = np.full(close.shape, np.nan)
    table[day, instrument] = predicted[:, -1] / last - 1
    return found, pd.DataFrame(table, close.index, close.columns)


def test_what_was_learnt_of_the_seen_only_shows_in_the_difference() -> None:
    forecasts, score = forecasts_of(1, {name: 0.6 for name in NAMES if name not in UNSEEN})
    found = held_out.measure(forecasts, score, [*UNSEEN, "not among the bars"], maybe_seen=True)
    assert found is not None and found.names == tuple(UNSEEN) and found.seen == 30 and found.maybe_seen
    assert found.rank_ic_seen.low > 0.3 and found.rank_ic_unseen.low < 0 < found.rank_ic_unseen.high
    assert found.rank_ic_difference.high < 0 and found.skill_difference.high < 0
    assert found.skill_seen[1] > 0 > found.skill_unseen[2]
    assert found.skill_difference.mean == pytest.approx(found.skill_unseen[0] - found.skill_seen[0], abs=1e-9)


def test_each_group_is_evaluated_as_if_it_were_alone() -> None:
    forecasts, score = forecasts_of(2, dict.fromkeys(NAMES, 0.3))
    found = held_out.measure(forecasts, score, UNSEEN)
    assert found is not None
    for group, skill in ((UNSEEN, found.skill_unseen), (sorted(set(NAMES) - set(UNSEEN)), found.skill_seen)):
        own = np.isin(np.array(NAMES)[forecasts.instrument_N], group)
        realised = forecasts.realised()[own]
        loss = np.abs(forecasts.close_NH[own] / forecasts.last_N[own][:, None] - realised)
        assert skill == accuracy.skill(loss, np.abs(1 - realised), forecasts.day_N[own], HORIZON)[:3]


@pytest.mark.parametrize("names", [[], ["elsewhere"], NAMES])
def test_without_two_groups_there_is_nothing_to_compare(names: list[str]) -> None:
    assert held_out.measure(*forecasts_of(3, {}), names) is None


@pytest.mark.slow
def test_under_the_null_the_intervals_of_the_differences_miss_zero_about_as_often_as_they_say() -> None:
    """Of 100 samples 5 % miss; 12 or more do by chance in 0.4 % of cases."""
    missed = np.zeros(2)
    for seed in range(100):
        forecasts, score = forecasts_of(100 + seed, dict.fromkeys(NAMES, 0.3))
        found = held_out.measure(forecasts, score, UNSEEN)
        assert found is not None
        missed += [found.rank_ic_difference.sign != 0, found.skill_difference.sign != 0]
    assert (missed < 12).all(), missed
