"""Figures without suspected splits and the largest moves, on ledgers and rankings worked by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.evaluation import large_moves, portfolio, signals
from kronos.evaluation.forecast_evaluation import Forecasts
from kronos.evaluation.large_moves import LargeMoves, contributions
from kronos.evaluation.qlib_backtest import BacktestResult, run_backtest
from kronos.evaluation.qlib_store import write_qlib_store
from kronos.evaluation.tradability import tradability

DAYS = pd.date_range("2024-03-04", periods=8, freq="B", name="datetime")
NAMES = pd.Index(list("ABCDEF"), name="instrument")


def wide(value: Any) -> pd.DataFrame:
    return pd.DataFrame(value, DAYS, NAMES)


def ledger(
    positions: list[tuple[int, str, float]], trades: list[tuple[int, str, str, float]], cash: list[float]
) -> BacktestResult:
    """A result from values at the close and fills; accounts and returns follow from them, without costs."""
    held = pd.DataFrame(positions, columns=["datetime", "instrument", "value"])
    fills = pd.DataFrame(trades, columns=["datetime", "instrument", "side", "value"])
    for frame in (held, fills):
        frame["datetime"] = DAYS[frame["datetime"].to_numpy(dtype=int)]
    daily = pd.DataFrame({"cash": cash}, DAYS[: len(cash)])
    daily["account"] = daily["cash"] + held.groupby("datetime")["value"].sum().reindex(
        daily.index, fill_value=0
    )
    daily["return"] = daily["account"] / daily["account"].shift(1, fill_value=1000.0) - 1
    daily["cost"], daily["bench"] = 0.0, 0.01
    return BacktestResult(daily, fills, held, {}, 0.0, ())


def two_holdings() -> BacktestResult:
    # Day 0: A and B bought for 400 each. Day 1: A doubles, B loses 10 %. Day 2: A is sold for 820, B gains 12.
    return ledger(
        [(0, "A", 400), (0, "B", 400), (1, "A", 800), (1, "B", 360), (2, "B", 372)],
        [(0, "A", "buy", 400), (0, "B", "buy", 400), (2, "A", "sell", 820)],
        [200, 200, 1020],
    )


def measured(
    result: BacktestResult, suspected: pd.DataFrame, unnamed: int = 0, horizon: int = 2
) -> LargeMoves:
    close = wide(100 + np.add.outer(np.arange(8.0), np.arange(6.0)) ** 1.5)
    forecasts = Forecasts(
        close_NH=np.zeros((1, horizon)), last_N=np.ones(1), day_N=np.zeros(1, int), instrument_N=np.zeros(1, int),
        opening=close, close=close, lookback=1, tradable=tradability(close, close),
    )  # fmt: skip
    score = wide(np.random.default_rng(1).random((8, 6))).iloc[1:6]
    return large_moves.measure(forecasts, score, suspected, unnamed, result, 250)


def test_contributions_are_the_gains_over_the_account_before() -> None:
    found = contributions(two_holdings())
    np.testing.assert_allclose(found["A"], [0, 400 / 1000, 20 / 1360], atol=1e-12)
    np.testing.assert_allclose(found["B"], [0, -40 / 1000, 12 / 1360], atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), two_holdings().daily["return"], atol=1e-12)


def test_without_a_suspect_its_holding_earns_nothing_that_day_and_the_benchmark_stays() -> None:
    suspected = wide(False)
    suspected.loc[DAYS[1], "A"] = suspected.loc[DAYS[1], "C"] = suspected.loc[DAYS[0], "D"] = True
    found = measured(two_holdings(), suspected)
    net = [0 - 0.01, -0.04 - 0.01, 32 / 1360 - 0.01]
    assert found.excess == pytest.approx(np.mean(net) * 250)
    assert (found.suspects, found.held, found.unnamed) == (2, 1, 0), (
        "C was not held, D is before the first score"
    )


def test_the_largest_moves_are_listed_by_size_and_their_share_is_of_the_summed_excess() -> None:
    suspected = wide(False)
    suspected.loc[DAYS[1], "A"] = True
    found = measured(two_holdings(), suspected, unnamed=7)
    assert found.largest["session"].tolist() == ["2024-03-05", "2024-03-05", "2024-03-06", "2024-03-06"]
    assert found.largest["instrument"].tolist() == ["A", "B", "A", "B"]
    np.testing.assert_allclose(found.largest["contribution"], [0.4, -0.04, 20 / 1360, 12 / 1360])
    assert found.largest["suspected"].tolist() == [True, False, False, False] and found.unnamed == 7
    assert found.total == pytest.approx(0.36 + 32 / 1360 - 0.03)
    assert found.share == pytest.approx((0.36 + 32 / 1360) / (0.33 + 32 / 1360))


def test_ten_moves_of_many_are_taken_the_largest_first_whatever_their_sign() -> None:
    gains = [5, -90, 3, 70, 1, -60, 50, 2, 40, -30, 20, 10, -6, 4]
    names = [f"N{place:02d}" for place in range(len(gains))]
    positions = [(0, name, 50.0) for name in names]
    positions += [(1, name, 50.0 + gain) for name, gain in zip(names, gains, strict=True)]
    found = measured(ledger(positions, [(0, name, "buy", 50.0) for name in names], [300, 300]), wide(False))
    np.testing.assert_allclose(
        found.largest["contribution"], np.array([-90, 70, -60, 50, 40, -30, 20, 10, -6, 5]) / 1000
    )
    assert found.share == pytest.approx((9 / 1000) / (sum(gains) / 1000 - 0.02))


def test_a_portfolio_that_held_nothing_has_no_moves() -> None:
    found = measured(ledger([], [], [1000, 1000]), wide(False))
    assert found.largest.empty and (found.share, found.held) == (0, 0)


def test_a_pair_is_left_out_where_a_suspect_lies_between_purchase_and_sale() -> None:
    suspected = wide(False)
    suspected.loc[DAYS[4], "B"] = True
    prices = wide(100.0)
    touched = signals.held_through(suspected, 2, tradability(prices, prices))
    # bought at t + 1 and sold at t + 3: the suspect of day 4 is in the periods of days 1, 2 and 3
    assert touched.index[touched["B"]].tolist() == list(DAYS[1:4])
    assert not touched.drop(columns="B").any(axis=None)
    waiting = prices.copy()
    waiting.loc[DAYS[2:4], "B"] = np.nan
    touched = signals.held_through(suspected, 1, tradability(waiting, waiting))
    # the sale of day 2 of what was bought on day 1 waits for day 4, and that is the suspect
    assert touched.index[touched["B"]].tolist() == [DAYS[0], DAYS[1], DAYS[2], DAYS[3]]


def test_the_rank_ic_without_suspects_is_that_of_the_other_pairs() -> None:
    suspected = wide(False)
    suspected.loc[DAYS[4], "B"] = True
    plain, found = (measured(two_holdings(), one) for one in (wide(False), suspected))
    assert (plain.pairs, found.pairs) == (0, 3)
    close = wide(100 + np.add.outer(np.arange(8.0), np.arange(6.0)) ** 1.5)
    target = signals.tradable_returns(close, close, 2)
    score = wide(np.random.default_rng(1).random((8, 6))).iloc[1:6]
    assert plain.rank_ic.mean == signals.daily_ic(score, target)["rank_ic"].mean()
    target.loc[DAYS[1:4], "B"] = np.nan
    assert found.rank_ic.mean == signals.daily_ic(score, target)["rank_ic"].mean() != plain.rank_ic.mean


def test_suspects_come_from_the_stores_findings() -> None:
    items = [
        ["B", "2024-03-06", "text"],
        ["F", "2024-03-13", ""],
        ["G", "2024-03-06", ""],
        ["A", "2020-01-02", ""],
    ]
    findings = [
        {"kind": "move over 25 %", "count": 1, "items": [["C", "2024-03-06", ""]]},
        {"kind": "suspected split", "count": 9, "items": items},
    ]
    store: Any = SimpleNamespace(findings=findings)
    marked, unnamed = large_moves.suspected_splits(store, wide(0.0))
    assert [(day, name) for (day, name), value in marked.stack().items() if value] == [
        (DAYS[2], "B"),
        (DAYS[7], "F"),
    ]
    assert unnamed == 5


def test_contributions_of_a_simulated_portfolio_add_up_to_its_returns(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    days = pd.date_range("2024-01-01", periods=40, freq="B")
    names = [f"N{place:02d}" for place in range(12)]
    close = pd.DataFrame(40 * np.exp(0.03 * random.normal(size=(40, 12)).cumsum(0)), days, names)
    opening = close * (1 + 0.01 * random.normal(size=close.shape))
    missing = random.random(close.shape) < 0.05
    bars = pd.DataFrame({"open": opening.mask(missing).stack(), "close": close.mask(missing).stack()})
    bars["high"], bars["low"] = bars[["open", "close"]].max(axis=1), bars[["open", "close"]].min(axis=1)
    bars = bars.assign(volume=1000.0, amount=1.0).rename_axis(["datetime", "instrument"]).reset_index()
    path = write_qlib_store(bars.sort_values(["instrument", "datetime"]), tmp_path / "bars", days)
    signal = pd.DataFrame(random.normal(size=close.shape), days, names).stack()
    result = run_backtest(
        path, signal, days[0], days[-1], topk=4, n_drop=2, hold_thresh=1, account=1e6, open_cost=0.001,
        close_cost=0.0015, min_cost=5.0, deal_price="open", periods_per_year=252,
        benchmark=pd.Series(0.0, days),
    )  # fmt: skip
    found = contributions(result)
    np.testing.assert_allclose(found.sum(axis=1), result.daily["return"], atol=1e-9)
    assert portfolio.figures(found.sum(axis=1), 252)["annualised_return"] == pytest.approx(
        result.risk["portfolio_without_cost"]["annualised_return"]
    )
