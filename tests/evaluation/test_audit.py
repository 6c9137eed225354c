"""The audit on made-up markets: its level, what is planted, power, and the bars that it alters."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kronos.evaluation import audit, ranking, signals, statistics
from kronos.evaluation.altered_bars import Market, as_stored, backwards, mirrored, shuffled
from kronos.evaluation.tradability import tradability
from kronos.utils.errors import UserError

HORIZON, LOOKBACK = 5, 20
ALTERED = {"shuffled": shuffled, "mirrored": mirrored, "backwards": backwards}


def make_market(
    days: int = 100, names: int = 30, seed: int = 0, drift: float = 0.0, holes: float = 0.03
) -> Market:
    """`days` forecast days whose instruments share a factor; `drift` is the deviation of their daily means."""
    random = np.random.default_rng(seed)
    whole = days + LOOKBACK + HORIZON + 1
    index = pd.bdate_range("2024-01-01", periods=whole, name="datetime")
    columns = pd.Index([f"N{place:02d}" for place in range(names)], name="instrument")
    factor = 0.01 * random.normal(size=(whole, 1)) * random.normal(1, 0.5, (1, names))
    moves = factor + 0.02 * random.normal(size=(whole, names)) + drift * random.normal(size=(1, names))
    close = pd.DataFrame(50 * np.exp(moves.cumsum(axis=0)), index, columns)
    opening = close.shift(1).bfill() * np.exp(random.normal(0, 0.005, close.shape))
    hole = random.random(close.shape) < holes
    opening, close = opening.mask(hole), close.mask(hole)
    scored = np.zeros(close.shape, bool)
    scored[LOOKBACK : LOOKBACK + days] = ~hole[LOOKBACK : LOOKBACK + days]
    return Market(
        {"open": opening, "close": close}, tradability(opening, close, 0.045), scored, np.arange(whole)
    )


def simulate(market: Market, seeds: int, seed: int = 1) -> dict[str, audit.Case]:
    return {case.key: case for case in audit.simulate(market, HORIZON, LOOKBACK, seeds, seed)}


@pytest.fixture(scope="module")
def cases() -> dict[str, audit.Case]:
    return simulate(make_market(), 100)


def near(share: audit.Share, expected: float) -> bool:
    """Within 4 standard errors of a share of so many seeds."""
    return abs(share.share - expected) <= 4 * np.sqrt(expected * (1 - expected) / share.of)


def test_forecasts_that_know_nothing_are_found_about_as_often_as_the_level_says(cases):
    nulls = [case for case in cases.values() if not case.planted]
    assert {case.bars for case in nulls} == set(audit.KINDS)
    for case in nulls:
        assert abs(case.mean) < 4 * case.deviation / 10  # of 100 seeds
        assert case.excluded.count == case.above.count + case.below.count
        assert case.covered.count == case.covered.of - case.excluded.count
        assert near(case.excluded, 0.05), case
    assert audit.too_often(list(cases.values())) == []


def test_a_planted_rank_ic_is_measured_and_covered(cases):
    planted = [case for case in cases.values() if case.planted]
    assert sorted({case.planted for case in planted}) == list(audit.PLANTED) and len(planted) == 4
    for case in planted:
        assert case.mean == pytest.approx(case.planted, abs=4 * case.deviation / 10)
        assert near(case.covered, 0.95), case


def test_more_is_found_of_a_larger_rank_ic_and_on_more_days(cases):
    longer = simulate(make_market(days=250, seed=3), 40)
    for kind in ("random", "momentum"):
        assert cases[f"0.02_{kind}"].above.share <= cases[f"0.05_{kind}"].above.share
        assert longer[f"0.05_{kind}"].above.share > cases[f"0.05_{kind}"].above.share
        assert longer[f"0.05_{kind}"].half_width < cases[f"0.05_{kind}"].half_width


def test_equal_seeds_give_equal_cases_and_others_do_not():
    market = make_market(days=40, names=12)
    assert simulate(market, 5) == simulate(market, 5) != simulate(market, 5, seed=2)


def test_a_stand_in_is_evaluated_as_the_report_evaluates_a_signal(monkeypatch):
    market, seen = make_market(days=40), []

    def watched(score, target, horizon):
        seen.append((score, target, horizon))
        return worth(score, target, horizon)

    worth = ranking.worth
    monkeypatch.setattr(ranking, "worth", watched)
    found = audit.StandIns(market, HORIZON, LOOKBACK).rank_ic("random", 0.05, np.random.default_rng(0))
    ((score, target, horizon),) = seen
    returns = signals.tradable_returns(
        market.bars["open"], market.bars["close"], HORIZON, market.tradable
    ).where(market.scored)
    pd.testing.assert_frame_equal(target, returns.dropna(how="all"))
    own = [
        stats.spearmanr(score.loc[day], returns.loc[day], nan_policy="omit").statistic for day in target.index
    ]
    assert found.mean == pytest.approx(np.mean(own), abs=1e-12) and horizon == HORIZON


@pytest.mark.parametrize("bars", ALTERED)
def test_what_cannot_be_bought_has_no_target_on_altered_bars_either(bars):
    market = ALTERED[bars](make_market(), np.random.default_rng(0))
    target = market.target(HORIZON).to_numpy()
    assert np.isnan(target[:-1][~market.tradable.buyable.to_numpy()[1:]]).all()
    assert np.isnan(target[~market.scored]).all() and np.isfinite(target).sum() > 1000
    assert not market.tradable.buyable.to_numpy()[market.bars["open"].isna().to_numpy()].any()


def daily_moves(market: Market) -> np.ndarray:
    """Close over the close before, [D - 1, I], of a market without holes."""
    close = market.bars["close"].to_numpy()
    return close[1:] / close[:-1]


def test_shuffled_days_keep_their_cross_section_and_instruments_their_returns():
    market = make_market(holes=0.0)
    moved = shuffled(market, np.random.default_rng(0))
    before, after = daily_moves(market), daily_moves(moved)
    kept = {tuple(np.round(row, 9)) for row in before} & {tuple(np.round(row, 9)) for row in after}
    assert len(kept) >= len(before) - 1  # the first day moves from its own open
    assert not np.allclose(before, after)
    assert list(moved.day) != list(market.day) and sorted(moved.day) == list(market.day)


def test_a_mirrored_day_turns_all_moves_round_and_swaps_buyers_and_sellers():
    market = make_market(holes=0.0)
    moved = mirrored(market, np.random.default_rng(0))
    before, after = daily_moves(market), daily_moves(moved)
    turned = np.isclose(after * before, 1.0).all(axis=1)
    assert (np.isclose(after, before).all(axis=1) | turned).all()
    assert 0.3 < turned.mean() < 0.7
    for own, other in (("buyable", "sellable"), ("sellable", "buyable")):
        found = getattr(moved.tradable, own).to_numpy()[1:]
        stored = [getattr(market.tradable, name).to_numpy()[1:] for name in (own, other)]
        assert (found == np.where(turned[:, None], stored[1], stored[0])).all()


def test_time_reversed_twice_is_time_as_it_was():
    market = make_market()
    once = backwards(market, np.random.default_rng(0))
    assert once.bars["open"].iloc[0].equals(market.bars["close"].iloc[-1].rename(once.bars["open"].index[0]))
    twice = backwards(once, np.random.default_rng(0))
    for name, frame in market.bars.items():
        pd.testing.assert_frame_equal(twice.bars[name], frame)
    pd.testing.assert_frame_equal(twice.tradable.buyable, market.tradable.buyable)


def momentum_ic(market: Market) -> float:
    target = market.target(HORIZON)
    score = ranking.momentum(market.bars["close"], LOOKBACK).where(target.notna())
    return ranking.worth(score, target, HORIZON).rank_ic.mean


def test_a_momentum_is_worth_as_much_backwards_and_nothing_on_mirrored_bars():
    """Why the audit evaluates a momentum on mirrored bars, and on reversed ones only that of other instruments."""
    market, random = make_market(drift=0.005), np.random.default_rng(0)
    stored, reversed_ = momentum_ic(market), momentum_ic(backwards(market, random))
    assert stored > 0.2 and reversed_ == pytest.approx(stored, abs=0.1)
    coins = np.array([momentum_ic(mirrored(market, random)) for _ in range(60)])
    assert abs(coins.mean()) < 3 * coins.std(ddof=1) / np.sqrt(60)
    others = audit.StandIns(backwards(market, random), HORIZON, LOOKBACK)
    drawn = np.array([others.rank_ic(audit.OTHERS, 0.0, random).mean for _ in range(60)])
    assert abs(drawn.mean()) < 3 * drawn.std(ddof=1) / np.sqrt(60)


def test_a_look_ahead_is_found_on_mirrored_bars():
    """A score that reads a later day knows how that day's coin fell, so that it has a Rank IC."""
    market = mirrored(make_market(), np.random.default_rng(0))
    target = market.target(HORIZON)
    peeking = market.bars["close"].ffill().pct_change(fill_method=None).shift(-2).where(target.notna())
    assert ranking.worth(peeking, target, HORIZON).rank_ic.low > 0.1


def test_bars_within_a_day_stay_together_and_are_sold_on_the_next_day():
    index = pd.DatetimeIndex([f"2024-01-{day:02d} {hour}:00" for day in range(1, 21) for hour in (10, 14)])
    close = pd.DataFrame(np.exp(np.random.default_rng(0).normal(0, 0.01, (40, 6)).cumsum(axis=0)), index)
    opening, day = close.shift(1).bfill(), np.repeat(np.arange(20), 2)
    mask = tradability(opening, close, next_day=True)
    market = Market({"open": opening, "close": close}, mask, np.ones(close.shape, bool), day, next_day=True)
    for alter in ALTERED.values():
        moved = alter(market, np.random.default_rng(1))
        assert (moved.day[::2] == moved.day[1::2]).all()
        assert list(moved.tradable.first_sale) == list(mask.first_sale)


def test_noise_persists_over_the_horizon_and_not_beyond():
    noise = audit.persistent_noise(np.random.default_rng(0), 400, 500, HORIZON)
    assert noise.shape == (400, 500) and noise.std() == pytest.approx(1, abs=0.02)
    for lag in range(8):
        found = (noise[lag:] * noise[: len(noise) - lag]).mean()
        assert found == pytest.approx(max(0, 1 - lag / HORIZON), abs=0.02)


def test_too_few_days_for_an_interval_are_refused():
    with pytest.raises(UserError, match=r"6 days with a Rank IC over 5 sessions are too few for an interval"):
        simulate(make_market(days=6), 2)
    with pytest.raises(UserError, match="no return over 5 sessions is known"):
        simulate(replace(make_market(), scored=np.zeros_like(make_market().scored)), 2)


def test_a_level_is_called_too_high_only_beyond_chance(cases):
    def with_false_alarms(count: int) -> list[audit.Case]:
        excluded = audit.share(np.arange(400) < count)
        return [replace(cases["shuffled_random"], excluded=excluded), cases["mirrored_momentum"]]

    assert audit.too_often(with_false_alarms(26)) == []
    assert [case.key for case in audit.too_often(with_false_alarms(45))] == ["shuffled_random"]


def test_the_audit_finds_an_interval_that_is_too_narrow(monkeypatch):
    """What the audit is for: an interval of half the width shows in its false alarms and coverage."""

    def narrow(values, horizon, spacing=1):
        found = statistics.estimate(values, horizon, spacing)
        half = (found.high - found.low) / 4
        return replace(found, low=found.mean - half, high=found.mean + half)

    monkeypatch.setattr(ranking, "estimate", narrow)
    found = simulate(make_market(), 40)
    assert found["as_stored_random"].excluded.share > 0.15 and found["0.05_random"].covered.share < 0.85
    assert len(audit.too_often(list(found.values()))) >= 4


def test_as_stored_is_the_market_itself():
    market = make_market(days=30)
    assert as_stored(market, np.random.default_rng(0)) is market


@pytest.mark.slow
def test_level_and_planted_values_with_many_seeds():
    found = simulate(make_market(days=120, names=60, seed=5), 800)
    for case in found.values():
        print(
            case.key, f"{case.mean:+.4f} excluded {case.excluded.share:.3f} covered {case.covered.share:.3f}"
        )
        assert 0.92 <= case.covered.share <= 0.97
        assert case.mean == pytest.approx(case.planted, abs=5 * case.deviation / np.sqrt(800))
    assert found["0.05_random"].mean == pytest.approx(0.05, rel=0.04)
