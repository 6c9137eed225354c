"""What holders of instruments that left the market for good are paid, in returns, benchmark and Qlib."""

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import FEATURES
from kronos.evaluation import departures, signals
from kronos.evaluation.qlib_backtest import run_backtests
from kronos.evaluation.qlib_store import write_qlib_store
from kronos.evaluation.tradability import tradability

SESSIONS = pd.bdate_range("2024-01-01", periods=60)
NAMES = ["GONE", *(f"S{place}" for place in range(5))]
LAST = 19  # row of the last bar of GONE


def market() -> dict[str, pd.DataFrame]:
    """Steady prices of 10; GONE has no bar after its 20th, S0 is suspended for the last nine sessions."""
    close = pd.DataFrame(10.0, SESSIONS, pd.Index(NAMES, name="instrument")).rename_axis("datetime")
    close.iloc[LAST + 1 :, 0] = np.nan
    close.iloc[-9:, 1] = np.nan
    held = close.notna()
    held.iloc[-9:, 1] = True
    return {"open": close, "close": close.copy(), "volume": close * 100, "member": held}


def test_only_an_instrument_without_bars_on_the_last_twenty_days_has_left():
    bars = market()
    assert departures.last_rows(bars["close"]) == {"GONE": LAST}
    assert departures.last_rows(bars["close"].iloc[: LAST + departures.GONE_DAYS]) == {}
    assert departures.pay_out(bars, None) is bars


@pytest.mark.parametrize("rate", [-1.0, -0.3, 0.0])
def test_a_return_over_the_departure_is_the_stated_one(rate):
    bars = departures.pay_out(market(), rate)
    paid = bars["paid_out"]
    assert (
        paid["GONE"].to_numpy().nonzero()[0].tolist() == list(range(LAST + 1, 60)) and paid.sum().sum() == 40
    )
    mask = tradability(bars["open"], bars["close"], volume=bars["volume"])
    earned = signals.tradable_returns(bars["open"], bars["close"], 5, mask)["GONE"]
    assert earned.iloc[: LAST - 5].eq(0).all() and earned.iloc[LAST - 5 : LAST].to_numpy() == pytest.approx(
        rate
    )
    assert earned.iloc[LAST:].isna().all()


def test_the_benchmark_bears_it_once():
    bars = departures.pay_out(market(), -0.6)
    found = signals.equal_weight_returns(bars["close"], bars["member"])
    assert found.iloc[LAST + 1] == pytest.approx(-0.6 / 6)
    assert found.drop(found.index[LAST + 1]).fillna(0).abs().max() == 0


def portfolio(tmp_path, rate):
    bars = departures.pay_out(market(), rate)
    mask = tradability(bars["open"], bars["close"], volume=bars["volume"])
    mask = mask.with_payments(bars["paid_out"]) if "paid_out" in bars else mask
    long = market()["close"].stack().dropna().rename("close").reset_index()
    frame = long.assign(**{name: long["close"] for name in FEATURES}, flag=np.uint8(0))
    path = write_qlib_store(departures.with_payments(frame, bars), tmp_path / "bars", SESSIONS, tradable=mask)
    score = pd.DataFrame(np.arange(6.0)[::-1][None, :].repeat(60, 0), SESSIONS, NAMES)
    score = score.where(market()["close"].notna()).iloc[5:].stack().dropna()
    return run_backtests(
        path, {"own": score}, SESSIONS[6], SESSIONS[-1], topk=4, n_drop=1, hold_thresh=1, account=1e6,
        open_cost=0.0, close_cost=0.0, min_cost=0.0, deal_price="open",
        benchmark=pd.Series(0.0, SESSIONS), periods_per_year=252,
    )["own"]  # fmt: skip


def test_qlib_pays_the_holder_and_the_money_is_invested_again(tmp_path):
    own = portfolio(tmp_path, -0.5)
    weight = own.positions.set_index(["instrument", "datetime"])["weight"][("GONE", SESSIONS[LAST])]
    assert weight > 0.2
    assert own.daily["return"].loc[SESSIONS[LAST + 1]] == pytest.approx(-0.5 * weight, rel=1e-6)
    sold = own.trades[(own.trades["instrument"] == "GONE") & (own.trades["side"] == "sell")]
    assert sold["datetime"].tolist() == [SESSIONS[LAST + 2]] and sold["price"].tolist() == [5.0]
    assert "GONE" not in own.stranded and own.daily["holdings"].iloc[LAST] == 4


def test_without_a_stated_return_the_position_stays_at_its_last_close(tmp_path):
    own = portfolio(tmp_path, None)
    assert "GONE" in own.stranded and own.daily["return"].abs().max() < 1e-9


def test_the_effect_on_the_figures_by_hand():
    bars = market()
    mask = tradability(bars["open"], bars["close"], volume=bars["volume"])
    random = np.random.default_rng(3)
    moved = {**bars, "open": bars["open"] * (1 + random.normal(0, 0.01, bars["open"].shape))}
    score = pd.DataFrame(0.0, SESSIONS[10:40], bars["close"].columns)
    score.iloc[:, 1:] = -np.arange(1.0, 6.0)  # GONE is ranked highest
    positions = pd.DataFrame({"datetime": [SESSIONS[LAST]], "instrument": ["GONE"], "weight": [0.07]})
    found = departures.effect(moved, score, 5, mask, None, positions)
    assert found is not None and dict(found.last_days) == {"GONE": SESSIONS[LAST]} and found.held == 0.07
    lost = departures.pay_out(moved, -1.0)
    for rate, rank_ic in ((0.0, found.rank_ic[0]), (-1.0, found.rank_ic[1])):
        paid = departures.pay_out(moved, rate)
        earned = signals.tradable_returns(
            paid["open"], paid["close"], 5, mask.with_payments(paid["paid_out"])
        )
        assert rank_ic == pytest.approx(signals.daily_ic(score, earned)["rank_ic"].mean())
    assert found.rank_ic[1] < found.rank_ic[0] and lost["close"]["GONE"].iloc[-1] == 0
    early = departures.effect(moved, score.iloc[LAST:], 5, mask, None, positions)
    assert early is None
