"""Targets, baselines, groups and comparisons: plain loops, foresight, chance, and the future replaced."""

import numpy as np
import pandas as pd
import pytest

from kronos.evaluation import ranking, signals
from kronos.evaluation.forecast_evaluation import Before, Forecasts, rank
from kronos.evaluation.tradability import tradability

HORIZON = 5


def make_bars(days: int = 120, names: int = 30, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    random = np.random.default_rng(seed)
    index = pd.bdate_range("2024-01-01", periods=days, name="datetime")
    columns = pd.Index([f"N{place:02d}" for place in range(names)], name="instrument")
    close = pd.DataFrame(50 * np.exp(random.normal(0, 0.02, (days, names)).cumsum(0)), index, columns)
    opening = close.shift(1).bfill() * np.exp(random.normal(0, 0.005, (days, names)))
    hole = random.random((days, names)) < 0.03
    return opening.mask(hole), close.mask(hole)


def test_the_tradable_return_equals_a_plain_loop():
    opening, close = make_bars(40, 6)
    close.iloc[:20, 2] = opening.iloc[:20, 2] = 50.0
    close.iloc[20:, 2] = opening.iloc[20:, 2] = np.nan  # leaves
    found = signals.tradable_returns(opening, close, HORIZON)
    last = close.ffill().iloc[-1]
    for name in close:
        for day in range(40):
            got, sale = found.iloc[day][name], day + 1 + HORIZON
            if sale >= 40 or np.isnan(opening[name].iloc[day + 1]):
                assert np.isnan(got)
                continue
            later = [price for price in opening[name].iloc[sale:] if not np.isnan(price)]
            sold = later[0] if later else last[name]
            assert got == pytest.approx(sold / opening[name].iloc[day + 1] - 1, abs=1e-12)
    assert np.isfinite(found["N02"].iloc[18]) and np.isnan(found["N02"].iloc[19])


def test_foresight_of_the_tradable_return_has_rank_ic_one_and_orders_the_groups():
    opening, close = make_bars()
    earned = signals.tradable_returns(opening, close, HORIZON)
    best, worst = ranking.worth(earned, earned, HORIZON), ranking.worth(-earned, earned, HORIZON)
    assert best.rank_ic.mean == pytest.approx(1) and worst.rank_ic.mean == pytest.approx(-1)
    means = ranking.group_returns(earned, earned).mean()
    assert means.is_monotonic_increasing and len(means) == 5
    assert ranking.group_returns(-earned, earned).mean().is_monotonic_decreasing


def test_groups_equal_qcut_on_a_full_day_and_are_nan_on_a_thin_one():
    random = np.random.default_rng(1)
    score = pd.DataFrame(random.normal(size=(2, 20)))
    target = pd.DataFrame(random.normal(size=(2, 20)))
    score.iloc[1, 9:] = np.nan
    found = ranking.group_returns(score, target)
    expected = target.iloc[0].groupby(pd.qcut(score.iloc[0], 5, labels=False) + 1).mean()
    np.testing.assert_allclose(found.iloc[0], expected)
    assert found.iloc[1].isna().all()


def test_momentum_and_reversal_look_back_only():
    _, close = make_bars(40, 4)
    held = close.ffill()
    assert ranking.momentum(close, 10).iloc[20, 1] == pytest.approx(held.iloc[20, 1] / held.iloc[11, 1] - 1)
    assert ranking.reversal(close, 5).iloc[20, 1] == pytest.approx(1 - held.iloc[20, 1] / held.iloc[15, 1])
    later = close.copy()
    later.iloc[21:] *= 3
    for score in (lambda frame: ranking.momentum(frame, 10), lambda frame: ranking.reversal(frame, 5)):
        pd.testing.assert_frame_equal(score(close).iloc[:21], score(later).iloc[:21])


def test_rankings_by_chance_hold_zero_for_nine_seeds_of_ten():
    opening, close = make_bars()
    earned = signals.tradable_returns(opening, close, HORIZON)
    found = [
        ranking.worth(score, earned, HORIZON).rank_ic.sign for score in ranking.random_rankings(earned, 10)
    ]
    assert found.count(0) >= 9
    first, again = (next(ranking.random_rankings(earned, 1)) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)


def test_a_comparison_is_on_the_names_and_days_that_both_rank():
    opening, close = make_bars()
    earned = signals.tradable_returns(opening, close, HORIZON)
    random = np.random.default_rng(2)
    good = earned + 0.05 * random.normal(size=earned.shape)
    some = pd.DataFrame(random.normal(size=(12, 30)), earned.index[::10], earned.columns)
    found = ranking.compare("before", "model before", good, some, earned, HORIZON, spacing=10)
    assert found.difference.days == found.rank_ic.days == 12 and found.difference.sign == 1
    half = good.where(np.tile(np.arange(30) < 15, (len(good), 1)))
    other = ranking.compare("x", "x", good, half, earned, HORIZON)
    assert other.difference.mean == pytest.approx(0, abs=1e-12)
    chance = ranking.compare_random(good, earned, HORIZON, 8)
    assert chance.low < 0 < chance.high and chance.difference.sign == 1


def test_turnover_of_a_still_ranking_is_nothing_and_of_chance_four_fifths():
    still = pd.DataFrame(np.tile(np.arange(40.0), (30, 1)))
    found = ranking.ranking_turnover(still)
    assert found["top"].iloc[1:].eq(0).all() and found["rank_correlation"].iloc[1:].eq(1).all()
    chance = ranking.ranking_turnover(pd.DataFrame(np.random.default_rng(3).random((200, 40))))
    assert chance["top"].mean() == pytest.approx(0.8, abs=0.03)


def test_exploratory_signals_carry_holms_p_and_the_configured_one_none():
    opening, close = make_bars()
    earned = signals.tradable_returns(opening, close, HORIZON)
    scores = dict(zip(signals.SIGNALS, ranking.random_rankings(earned, 4), strict=True))
    found = ranking.worths(scores, dict.fromkeys(scores, earned), "mean", HORIZON)
    assert np.isnan(found["mean"].p_holm)
    plain = {name: one.rank_ic.p for name, one in found.items() if name != "mean"}
    assert all(found[name].p_holm >= value for name, value in plain.items())
    assert min(one.p_holm for one in found.values()) == pytest.approx(
        min(1, 3 * min(plain.values())), rel=1e-9
    )


def make_forecasts(opening: pd.DataFrame, close: pd.DataFrame) -> tuple[Forecasts, pd.DataFrame]:
    """Forecasts of every bar after the 20th, each from its own past only."""
    place = np.argwhere(close.notna().to_numpy())
    day, instrument = place[place[:, 0] >= 20].T
    last = close.to_numpy()[day, instrument]
    drift = np.sin(1000 * last)[:, None] * 0.01
    predicted = last[:, None] * (1 + drift * np.arange(1, HORIZON + 1))
    frame = pd.DataFrame({
        "instrument": np.repeat(close.columns.to_numpy()[instrument], HORIZON),
        "as_of": np.repeat(close.index.to_numpy()[day], HORIZON),
        "step": np.tile(np.arange(1, HORIZON + 1), len(day)), "close": predicted.reshape(-1),
    })  # fmt: skip
    scores = signals.scores(frame, pd.Series(close.rename_axis(index="as_of").stack()))
    return Forecasts(
        close_NH=predicted, last_N=last, day_N=day, instrument_N=instrument, opening=opening, close=close,
        lookback=20, tradable=tradability(opening, close),
    ), scores  # fmt: skip


def test_no_daily_statistic_whose_horizon_has_ended_moves_when_the_future_is_replaced():
    opening, close = make_bars()
    day = 90
    other_opening, other_close = opening.copy(), close.copy()
    other_opening.iloc[day + 1 :] = other_opening.iloc[day + 1 :] * 1.7 + 3
    other_close.iloc[day + 1 :] = 100 / other_close.iloc[day + 1 :]
    before = Before()
    found = [
        rank(*make_forecasts(*bars), signal="mean", seeds=2, before=before)
        for bars in ((opening, close), (other_opening, other_close))
    ]
    ended = close.index[day - HORIZON - 11]  # a sale on a day without a bar waits, here at most ten sessions
    for target in (ranking.TRADABLE, ranking.PREDICTED):
        for name in signals.SIGNALS:
            left, right = (one.worths[target][name].daily.loc[:ended] for one in found)
            pd.testing.assert_frame_equal(left, right)
            assert left["ic"].notna().sum() > 50
    pd.testing.assert_frame_equal(found[0].groups.loc[:ended], found[1].groups.loc[:ended])
    pd.testing.assert_frame_equal(
        found[0].turnover.loc[: close.index[day]], found[1].turnover.loc[: close.index[day]]
    )
    assert not found[0].groups.equals(found[1].groups)


def test_step_one_of_a_forecast_that_knows_the_next_close_has_rank_ic_one():
    opening, close = make_bars()
    forecasts, scores = make_forecasts(opening, close)
    came = forecasts.realised()
    forecasts.close_NH[:, 0] = np.where(np.isfinite(came[:, 0]), came[:, 0], 1) * forecasts.last_N
    table = rank(forecasts, scores, signal="mean", seeds=1, before=Before()).steps.set_index("step")
    assert table.loc[1, "rank_ic"] > 0.999 and abs(table.loc[5, "rank_ic"]) < 0.1


def test_a_regression_on_the_last_returns_finds_planted_weights_and_ranks_by_them():
    random = np.random.default_rng(7)
    planted = np.array([0.0, 0.0, -0.3, 0.2])  # of the four last returns, the oldest first
    moves = np.zeros((400, 50))
    for day in range(4, 400):
        moves[day] = moves[day - 4 : day].T @ planted + random.normal(0, 0.01, 50) + random.normal(0, 0.02)
    close = pd.DataFrame(100 * np.exp(moves.cumsum(0)), pd.bdate_range("2020-01-01", periods=400))
    target = np.log(close.shift(-1) / close)
    past = slice(None, 300)
    weights = ranking.fit_returns(close.iloc[past], target.iloc[past].mask(random.random((300, 50)) < 0.1), 5)
    np.testing.assert_allclose(weights, planted, atol=0.03)
    score = ranking.by_returns(close, weights)
    assert score.iloc[:4].isna().all().all() and score.iloc[4:].notna().all().all()
    found = ranking.worth(score.iloc[300:], target.iloc[300:], 1).rank_ic
    assert found.mean > 0.2 and found.sign == 1


def test_the_distance_from_the_mean_is_a_forecast_of_the_mean():
    close = pd.DataFrame({"A": [1.0, 2.0, 3.0], "B": [3.0, np.nan, 1.0]})
    found = ranking.mean_distance(close, 3)
    assert (
        found.iloc[2].tolist() == pytest.approx([2 / 3 - 1, (3 + 3 + 1) / 3 - 1])
        and found.iloc[:2].isna().all().all()
    )
