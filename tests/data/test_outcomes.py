"""What heads are trained on: outcomes by their formulas, no bar outside of a split, groups of one day."""

from dataclasses import replace
from datetime import date
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from kronos.data.bars import CLOSE, Flag
from kronos.data.head_windows import GROUP, LEAST_GROUP, HeadExamples, day_groups, limited, singles
from kronos.data.outcomes import Answer, context_volatility, known_points, outcomes
from kronos.data.splits import make_split
from kronos.data.store import BarStore
from kronos.data.windows import Windows

LOOKBACK, HORIZON = 20, 5


def test_outcomes_are_those_of_their_formulas() -> None:
    closes = 50 * np.exp(np.random.default_rng(0).normal(0, 0.02, (6, 5)).cumsum(axis=1))
    seen = np.ones((6, 4), bool)
    move = np.log(closes[:, -1] / closes[:, 0])
    for objective in ("return", "rank"):
        np.testing.assert_allclose(outcomes(objective, closes, seen), move)  # type: ignore[arg-type]
    np.testing.assert_array_equal(outcomes("direction", closes, seen), move > 0)
    root = [np.log(np.sqrt(np.mean([np.log(b / a) ** 2 for a, b in pairwise(row)]))) for row in closes]
    np.testing.assert_allclose(outcomes("volatility", closes, seen), root)


def test_what_is_not_known_has_no_outcome() -> None:
    flat, negative, nan = np.full((1, 4), 9.0), np.array([[9.0, 8, 7, -1]]), np.array([[9.0, 8, 7, np.nan]])
    seen = np.ones((1, 3), bool)
    for objective in get_args(Answer):
        assert np.isnan(outcomes(objective, np.array([[9.0, 8, 9, 7]]), ~seen))
        assert np.isnan(outcomes(objective, nan, seen))
        assert np.isnan(outcomes(objective, -flat, seen))
    assert outcomes("return", flat, seen) == 0
    assert np.isnan(outcomes("direction", flat, seen)) and np.isnan(outcomes("volatility", flat, seen))
    total_loss = np.array([[9.0, 9, 9, 0]])
    assert outcomes("return", total_loss, seen) == outcomes("return", negative, seen) == np.log(0.01)
    assert np.isnan(context_volatility(negative))


@pytest.mark.parametrize("objective", get_args(Answer))
def test_no_bar_outside_of_its_range_changes_a_point_of_a_split(
    sample_store: BarStore, objective: Answer
) -> None:
    store = sample_store
    split = make_split(
        store, "train", date(2009, 10, 1), date(2010, 1, 29), lookback=LOOKBACK, horizon=HORIZON,
        length=LOOKBACK + HORIZON,
    )  # fmt: skip
    points = known_points(store, split, LOOKBACK, HORIZON, objective)
    session = np.asarray(store.session)
    assert session[points.rows + HORIZON].max() <= split.last_session and len(points.rows) > 10_000
    assert not (np.asarray(store.flags)[points.rows] & Flag.FILLED).any()
    values = np.array(store.values)
    outside = (session < split.first_session) | (session > split.last_session)
    values[outside] *= np.random.default_rng(1).uniform(0.5, 2, (int(outside.sum()), 1)).astype(np.float32)
    other = known_points(replace(store, values=values), split, LOOKBACK, HORIZON, objective)
    for name in ("rows", "outcome", "volatility"):
        assert np.array_equal(getattr(points, name), getattr(other, name)), name
    row = int(points.rows[777])
    closes = np.asarray(store.values)[row - LOOKBACK + 1 : row + HORIZON + 1, CLOSE].astype(float)
    ahead = closes[None, LOOKBACK - 1 :]
    assert points.outcome[777] == outcomes(objective, ahead, np.ones((1, HORIZON), bool))[0]
    assert points.volatility[777] == context_volatility(closes[None, :LOOKBACK])[0]


def test_a_batch_of_contexts_is_that_of_the_predictors_windows(sample_store: BarStore) -> None:
    store = sample_store
    split = make_split(
        store, "train", date(2009, 10, 1), date(2010, 1, 29), lookback=LOOKBACK, horizon=HORIZON,
        length=LOOKBACK + HORIZON,
    )  # fmt: skip
    rows = split.starts + LOOKBACK - 1
    examples = HeadExamples(
        store,
        rows,
        np.arange(len(rows), dtype=float),
        lookback=LOOKBACK,
        clip=3.0,
        members=singles(len(rows)),
    )
    chosen = np.array([4, 400, 9000])
    batch = examples.batch(chosen, 2)
    windows = Windows(store, split, lookback=LOOKBACK, clip=3.0, seed=1).batch(chosen, 0)
    assert np.array_equal(batch.inputs[:, 0], windows.x[:, :LOOKBACK])
    assert np.array_equal(batch.stamp[:, 0], windows.stamp[:, :LOOKBACK])
    assert batch.target.tolist() == [[4.0], [400.0], [9000.0]]
    assert "2009-" in examples.describe(chosen)[0]
    states = np.random.default_rng(0).normal(size=(len(rows), 7)).astype(np.float32)
    kept = HeadExamples(
        store, rows, examples.target, lookback=LOOKBACK, clip=3.0, members=singles(len(rows)), states=states
    ).batch(chosen, None)
    assert np.array_equal(kept.inputs[:, 0], states[chosen]) and kept.stamp.shape == (3, 1, 0)


def test_groups_hold_each_point_of_a_day_once() -> None:
    sessions = np.random.default_rng(0).permutation(np.repeat([3, 4, 5, 6], [33, LEAST_GROUP - 1, 32, 100]))
    groups = day_groups(sessions, seed=1)
    members = [group[group >= 0] for group in groups]
    assert sorted(np.concatenate(members)) == np.flatnonzero(sessions != 4).tolist()
    for own in members:
        assert len(set(sessions[own])) == 1 and LEAST_GROUP <= len(own) <= GROUP
    sizes = {day: [len(own) for own in members if sessions[own[0]] == day] for day in (3, 5, 6)}
    assert sizes == {3: [17, 16], 5: [32], 6: [25, 25, 25, 25]}
    assert not np.array_equal(day_groups(sessions, seed=2), groups)
    few = limited(groups, 64, seed=1)
    assert len(few) == 2 and {tuple(one) for one in few.tolist()} <= {tuple(one) for one in groups.tolist()}
    assert len(limited(groups, 3, seed=1)) == 1


def test_places_that_a_group_lacks_have_no_target() -> None:
    members = np.array([[2, 0, -1], [1, 3, 4]])
    states = np.arange(10, dtype=np.float32).reshape(5, 2)
    examples = HeadExamples(
        None,
        np.arange(5),
        np.arange(5.0),
        lookback=2,
        clip=5.0,
        members=members,
        states=states,  # type: ignore[arg-type]
    )
    batch = examples.batch(np.array([0, 1]), None)
    assert batch.target[0].isnan().tolist() == [False, False, True] and batch.target[1].tolist() == [1, 3, 4]
    assert np.array_equal(batch.inputs[0].numpy(), states[[2, 0, 2]])
