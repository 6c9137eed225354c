"""Simulations over arrays against Qlib's own quotes, features and signals: every number equal."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.evaluation import qlib_backtest
from kronos.evaluation.qlib_arrays import day_scores, only_one, read_fields
from kronos.evaluation.qlib_backtest import run_backtests
from kronos.evaluation.qlib_store import initialised, load_module, write_qlib_store
from kronos.evaluation.tradability import tradability

FIELDS = ["$open", "$close", "$volume", "$factor", "$no_buy>0"]


def market(seed: int, freq: str) -> tuple[pd.DataFrame, pd.DatetimeIndex, dict[str, pd.Series], Any]:
    """Bars with holes, late listings, early ends, days at a limit, and two signals of which one has many ties."""
    random = np.random.default_rng(seed)
    sessions = pd.date_range("2024-01-01", periods=36, freq="B")
    if freq != "day":
        hours = pd.to_timedelta([10, 11, 13, 14], unit="h")
        sessions = pd.DatetimeIndex([day + hour for day in sessions[:9] for hour in hours])
    names = [f"N{number:02d}" for number in range(15)] + ["BTC/USDT", "con"]
    shape = (len(sessions), len(names))
    closes = pd.DataFrame(40 * np.exp(0.05 * random.normal(size=shape).cumsum(0)), sessions, names)
    opens = closes.shift(1).fillna(40.0) * (1 + 0.06 * random.normal(size=shape))
    closes = closes.mask(random.random(shape) < 0.1)
    closes.iloc[:11, 3] = closes.iloc[20:, 4] = np.nan
    rows = closes.stack().rename("close").reset_index().set_axis(["datetime", "instrument", "close"], axis=1)
    rows["open"] = (
        opens.stack().reindex(pd.MultiIndex.from_frame(rows[["datetime", "instrument"]])).to_numpy()
    )
    rows["high"], rows["low"] = rows[["open", "close"]].max(axis=1), rows[["open", "close"]].min(axis=1)
    rows["volume"] = random.integers(0, 3, len(rows)) * 1000.0
    rows["amount"] = rows["volume"] * rows["close"]
    scores = pd.DataFrame(random.normal(size=shape), sessions, names).where(closes.notna())
    signals = {}
    for name, table in (("plain", scores), ("ties", scores.round(0))):
        signals[name] = table.stack().rename_axis(["datetime", "instrument"])
    return rows, sessions, signals, tradability(opens, closes, 0.07)


def qlibs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(store: Path, sessions: pd.DatetimeIndex, **given: Any) -> Any:
        made = load_module("qlib.backtest.exchange").Exchange
        return made(start_time=sessions[0], end_time=sessions[-1], **given)

    monkeypatch.setattr(qlib_backtest, "store_exchange", exchange)
    monkeypatch.setattr(qlib_backtest, "day_scores", lambda score: score)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("freq", "deal_price"), [("day", "open"), ("day", "close"), ("60min", "open")])
def test_every_number_is_the_one_of_qlibs_own_quotes(tmp_path, monkeypatch, freq, deal_price, seed):
    rows, sessions, signals, mask = market(seed, freq)
    store = write_qlib_store(rows, tmp_path / "store", sessions, freq, tradable=mask)
    given = {
        "topk": 5, "n_drop": 2, "hold_thresh": 2, "account": 1e6, "open_cost": 0.001, "close_cost": 0.002,
        "min_cost": 5.0, "deal_price": deal_price, "periods_per_year": 252.0, "freq": freq,
        "benchmark": pd.Series(np.random.default_rng(seed).normal(0, 0.01, len(sessions)), sessions),
    }  # fmt: skip
    ours = run_backtests(store, signals, sessions[0], sessions[-1], **given)
    qlibs_own(monkeypatch)
    theirs = run_backtests(store, signals, sessions[0], sessions[-1], **given)
    assert sum(len(result.trades) for result in ours.values()) > 100
    for name, result in theirs.items():
        for table in ("daily", "trades", "positions"):
            pd.testing.assert_frame_equal(
                getattr(ours[name], table), getattr(result, table), check_exact=True
            )
        assert ours[name].risk == result.risk


def test_fields_are_those_of_qlibs_features(tmp_path):
    rows, sessions, _, mask = market(7, "day")
    store = write_qlib_store(rows, tmp_path / "store", sessions, tradable=mask)
    codes = ["N00", "N03", "N04", "N05"]
    wanted = sessions[8:25]
    with initialised(store):
        theirs = load_module("qlib.data.data").D.features(codes, FIELDS, wanted[0], wanted[-1], freq="day")
    ours = read_fields(store, codes, FIELDS, wanted, "day")
    assert ours.index.tolist() == theirs.index.tolist()
    for field in FIELDS:
        assert ours[field].dtype == theirs[field].dtype
        np.testing.assert_array_equal(ours[field].to_numpy(), theirs[field].to_numpy())
    columns = sorted({field[1:].removesuffix(">0") for field in FIELDS})
    as_matrices = write_qlib_store(rows, tmp_path / "matrices", sessions, tradable=mask, matrices=columns)
    same = read_fields(as_matrices, [*codes, "GONE"], FIELDS, wanted, "day")
    pd.testing.assert_frame_equal(same, ours, check_exact=True)


def test_scores_without_bars_have_no_rows(tmp_path):
    rows, sessions, _, _ = market(7, "day")
    store = write_qlib_store(rows, tmp_path / "store", sessions)
    frame = read_fields(store, ["GONE", "N00"], ["$close"], sessions, "day")
    assert set(frame.index.get_level_values("instrument")) == {"N00"}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), begin=st.integers(0, 9), length=st.integers(0, 1))
def test_scores_of_a_day_are_those_that_qlib_finds(seed, begin, length):
    random = np.random.default_rng(seed)
    days = pd.date_range("2024-01-01", periods=10, freq="B")
    pairs = pd.MultiIndex.from_product([days, list("DACB")], names=["datetime", "instrument"])
    score = pd.Series(random.normal(size=len(pairs)).round(1), pairs)[random.random(len(pairs)) < 0.7]
    score = score.sample(frac=1, random_state=seed)
    first = days[begin]
    last = first + pd.Timedelta(days=length) - pd.Timedelta(seconds=1 if length else 0)
    theirs = load_module("qlib.backtest.signal").SignalWCache(score).get_signal(first, last)
    ours = day_scores(score).get_signal(first, last)
    assert (ours is None) == (theirs is None)
    if theirs is not None:
        pd.testing.assert_series_equal(ours, theirs, check_names=False, check_index_type=False)


def test_a_step_of_several_sessions_is_refused():
    days = pd.date_range("2024-01-01", periods=5)
    with pytest.raises(ValueError, match="2 sessions between"):
        only_one(days, days[1], days[2])
