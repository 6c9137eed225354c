"""The Qlib store and backtest: a ledger worked by hand, causality, and nothing left behind in the process."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import FEATURES, Flag
from kronos.evaluation import qlib_backtest
from kronos.evaluation.portfolio import risk
from kronos.evaluation.qlib_backtest import BacktestResult, run_backtest, run_backtests
from kronos.evaluation.qlib_store import write_qlib_store
from kronos.evaluation.tradability import tradability
from kronos.utils.errors import UserError
from kronos.utils.names import file_name, name_of

SESSIONS = pd.date_range("2024-03-04", periods=6, freq="B")
SETTINGS = {
    "topk": 2,
    "n_drop": 1,
    "hold_thresh": 1,
    "account": 100_000.0,
    "open_cost": 0.001,
    "close_cost": 0.0015,
    "min_cost": 5.0,
    "deal_price": "open",
    "periods_per_year": 252,
}


def long_frame(opens: pd.DataFrame, closes: pd.DataFrame) -> pd.DataFrame:
    """A bar frame from wide opens and closes; NaN closes have no bar."""
    parts = []
    for name in closes.columns:
        kept = closes[name].notna()
        part = pd.DataFrame({"instrument": name, "datetime": closes.index[kept]})
        part["open"], part["close"] = opens[name][kept].to_numpy(), closes[name][kept].to_numpy()
        part["high"], part["low"] = part[["open", "close"]].max(axis=1), part[["open", "close"]].min(axis=1)
        part["volume"], part["amount"] = 1000.0, 1000.0 * part["close"]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def signal_of(table: dict[pd.Timestamp, dict[str, float]]) -> pd.Series:
    series = pd.DataFrame(table).T.stack()
    series.index.names = ["as_of", "instrument"]
    return series


def random_market(seed: int, days: int = 40, names: int = 12) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    random = np.random.default_rng(seed)
    index = pd.date_range("2024-01-01", periods=days, freq="B")
    columns = [f"N{name:02d}" for name in range(names)]
    closes = pd.DataFrame(40 * np.exp(0.03 * random.normal(size=(days, names)).cumsum(0)), index, columns)
    opens = closes * (1 + 0.01 * random.normal(size=closes.shape))
    closes = closes.mask(random.random(closes.shape) < 0.05)
    signal = pd.DataFrame(random.normal(size=closes.shape), index, columns).where(closes.notna()).stack()
    return opens, closes, signal


def test_portfolios_on_two_processes_are_those_of_one(tmp_path, monkeypatch):
    """Three signals over names that Qlib knows under others, in their order."""
    opens, closes, _ = random_market(3, days=30)
    names = pd.Index([f"x/{name}" for name in opens.columns], name="instrument")
    opens.columns = closes.columns = names
    sessions = pd.DatetimeIndex(opens.index)
    path = write_qlib_store(long_frame(opens, closes), tmp_path / "store", sessions)
    random = np.random.default_rng(0)
    signals = {
        name: pd.DataFrame(random.normal(size=closes.shape), closes.index, names).stack()
        for name in ("last", "mean", "random_0")
    }
    settings = {**SETTINGS, "benchmark": pd.Series(random.normal(0, 0.01, len(sessions)), sessions)}
    alone = run_backtests(path, signals, sessions[0], sessions[-1], **settings)
    monkeypatch.setattr(qlib_backtest, "DAYS_PER_PROCESS", 1)
    shared = run_backtests(path, signals, sessions[0], sessions[-1], **settings, processes=2)
    assert list(shared) == list(alone) == list(signals)
    for name, one in alone.items():
        for table in ("daily", "trades", "positions"):
            pd.testing.assert_frame_equal(getattr(one, table), getattr(shared[name], table), check_exact=True)
        assert one.risk == shared[name].risk and one.turnover == shared[name].turnover


@pytest.fixture(scope="module")
def worked(tmp_path_factory) -> BacktestResult:
    """Three stocks over five days of trading; the calendar ends with the last of them."""
    opens = pd.DataFrame(
        {"A": [10, 10, 11, 12, 12.5, 13], "B": [20, 20, 20, 19, 18, 18], "C": [50, 50, 50, 52, 56, 55]},
        SESSIONS,
        dtype=float,
    )
    closes = pd.DataFrame(
        {"A": [10, 11, 12, 12, 13, 13], "B": [20, 20, 19, 18, 18, 30], "C": [50, 50, 52, 56, 54, 54]},
        SESSIONS,
        dtype=float,
    )
    frame = long_frame(opens, closes)
    filled = (frame["instrument"] == "B") & (frame["datetime"] == SESSIONS[5])
    frame["flag"] = np.where(filled, int(Flag.FILLED | Flag.ADJUSTED), 0).astype(np.uint8)
    path = write_qlib_store(frame, tmp_path_factory.mktemp("worked") / "store", SESSIONS)
    signal = signal_of(
        {
            SESSIONS[0]: {"A": 3, "B": 2, "C": 1},
            SESSIONS[1]: {"A": 3, "B": 1, "C": 2},
            SESSIONS[2]: {"A": 3, "B": 1, "C": 2},
            SESSIONS[3]: {"A": 1, "B": 2, "C": 3},
            SESSIONS[4]: {"A": 3, "B": 1, "C": 2},
            SESSIONS[5]: {"A": 9, "B": 9, "C": 9},
        }
    )
    bench = pd.Series([np.nan, 0.01, -0.01, 0.02, 0.0, 0.005], SESSIONS)
    cost = pd.Series(0.0005, SESSIONS)
    return run_backtest(
        path, signal, SESSIONS[0], SESSIONS[5], benchmark=bench, benchmark_cost=cost, **SETTINGS
    )


def test_ledger_equals_the_one_worked_by_hand(worked):
    # Day 1 buys A and B at the open for 95,000 / 2 each: 4750 at 10, 2375 at 20, cost 0.1 % = 95.
    # Day 2 sells B at 20 (47,500 less 0.15 % = 71.25) and buys C at 50 for 95 % of the cash of 52,333.75:
    #       994.34125 shares, cost 49.72. Day 3: C is not below B, nothing to do.
    # Day 4 sells A at 12.5 (59,375 less 89.06) and buys B at 18 for 95 % of 61,852.91: 3264.459 shares, cost 58.76.
    # Day 5 would sell B, which has no bar; it buys A at 13 for 95 % of 3033.89: 221.707 shares, least fee 5.
    cash = [4905.00, 2566.97, 2566.97, 3033.89, 146.69]
    value = [
        4750 * 11 + 2375 * 20,
        4750 * 12 + 994.34125 * 52,
        4750 * 12 + 994.34125 * 56,
        3264.45903 * 18 + 994.34125 * 54,
        221.70699 * 13 + 3264.45903 * 18 + 994.34125 * 54,  # B at its last close
    ]
    account = [104_655.00, 111_272.72, 115_250.08, 115_488.58, 115_483.58]
    cost = [95.00, 71.25 + 49.72, 0.00, 89.06 + 58.76, 5.00]
    traded = [95_000.00, 47_500 + 49_717.06, 0.00, 59_375 + 58_760.26, 2_882.19]
    daily = worked.daily
    assert list(daily.index) == list(SESSIONS[1:])
    before = np.array([100_000, *account[:-1]])
    np.testing.assert_allclose(daily["cash"], cash, atol=0.005)
    np.testing.assert_allclose(daily["value"], value, atol=0.005)
    np.testing.assert_allclose(daily["account"], account, atol=0.005)
    np.testing.assert_allclose(daily["cost"] * before, cost, atol=0.0051)
    np.testing.assert_allclose(daily["turnover"] * before, traded, atol=0.006)
    np.testing.assert_allclose(daily["return"] - daily["cost"], np.array(account) / before - 1, atol=1e-7)
    assert list(daily["bench"]) == [0.01, -0.01, 0.02, 0.0, 0.005]
    assert list(daily["holdings"]) == [2, 2, 2, 2, 3]


def test_fills_and_positions_are_kept(worked):
    fills = [tuple(row) for row in worked.trades[["datetime", "instrument", "side", "price"]].to_numpy()]
    assert fills == [
        (SESSIONS[1], "A", "buy", 10.0),
        (SESSIONS[1], "B", "buy", 20.0),
        (SESSIONS[2], "B", "sell", 20.0),
        (SESSIONS[2], "C", "buy", 50.0),
        (SESSIONS[4], "A", "sell", 12.5),
        (SESSIONS[4], "B", "buy", 18.0),
        (SESSIONS[5], "A", "buy", 13.0),
    ]
    np.testing.assert_allclose(worked.trades["shares"].iloc[:4], [4750, 2375, 2375, 994.34125])
    np.testing.assert_allclose(worked.trades["cost"].iloc[[0, 2, 6]], [47.5, 71.25, 5.0])
    last = worked.positions[worked.positions["datetime"] == SESSIONS[5]].set_index("instrument")
    assert list(last.index) == ["A", "B", "C"]
    assert list(last["quoted"]) == [True, False, True] and worked.stranded == ("B",)
    assert list(last["days_held"]) == [1, 2, 4]
    assert last["price"].tolist() == [13.0, 18.0, 54.0]


def test_risk_is_annualised_by_the_sessions_given_and_falls_count_from_the_start(worked):
    daily = worked.daily
    excess = daily["return"] - daily["cost"] - daily["bench"]
    figures = worked.risk["with_cost"]
    assert figures["annualised_return"] == pytest.approx(excess.mean() * 252)
    assert figures["volatility"] == pytest.approx(excess.std(ddof=1) * np.sqrt(252))
    assert figures["information_ratio"] == pytest.approx(excess.mean() / excess.std() * np.sqrt(252))
    summed = excess.cumsum()
    assert figures["max_drawdown"] == pytest.approx((summed - summed.cummax().clip(lower=0)).min())
    assert worked.risk["without_cost"]["mean"] == pytest.approx(figures["mean"] + daily["cost"].mean())
    assert worked.risk["with_both_costs"]["mean"] == pytest.approx(figures["mean"] + 0.0005)
    assert worked.risk["benchmark"]["mean"] == pytest.approx(0.005)
    assert worked.turnover == pytest.approx(daily["turnover"].mean())
    assert all(type(value) is float for block in worked.risk.values() for value in block.values())
    assert set(risk(daily.drop(columns="bench_cost"), 252)) == set(worked.risk) - {"with_both_costs"}
    still = risk(daily.assign(bench=0.001), 252)["benchmark"]
    assert np.isnan(still["information_ratio"]) or abs(still["information_ratio"]) > 1e6


def test_a_signal_trades_in_the_next_session_and_no_other(tmp_path):
    opens, closes, _ = random_market(1, days=8, names=3)
    closes = closes.fillna(40.0)
    store = write_qlib_store(long_frame(opens, closes), tmp_path / "store", closes.index)
    days = closes.index
    bench = pd.Series(0.0, days)
    signal = signal_of({days[2]: {"N00": 1.0, "N01": 2.0, "N02": 3.0}})
    result = run_backtest(store, signal, days[0], days[7], benchmark=bench, **SETTINGS)
    assert result.daily.index[0] == days[3]
    assert set(result.trades["datetime"]) == {days[3]}
    assert set(result.trades["instrument"]) == {"N01", "N02"}
    later = run_backtest(store, signal, days[3], days[5], benchmark=bench, **SETTINGS)
    pd.testing.assert_frame_equal(later.trades, result.trades)
    with pytest.raises(UserError, match=r"no session to trade in: 2024-01-05\.\.2024-01-10 has 4 sessions"):
        run_backtest(store, signal, days[4], days[7], benchmark=bench, **SETTINGS)
    with pytest.raises(ValueError, match="benchmark has no value on 1 of 5 days"):
        run_backtest(store, signal, days[0], days[7], benchmark=bench.drop(days[4]), **SETTINGS)
    with pytest.raises(UserError, match="backtest_deal_price is 'vwap'"):
        run_backtest(store, signal, days[0], days[7], benchmark=bench, **{**SETTINGS, "deal_price": "vwap"})


@pytest.mark.parametrize("deal_price", ["open", "close"])
def test_no_fill_changes_when_all_later_bars_are_replaced(tmp_path, deal_price):
    opens, closes, signal = random_market(2)
    other_opens, other_closes, other_signal = random_market(3)
    cut = closes.index[25]
    late = closes.index > cut
    mixed_opens, mixed_closes = opens.copy(), closes.copy()
    mixed_opens[late], mixed_closes[late] = 5 * other_opens[late], 5 * other_closes[late]
    after = other_signal.index.get_level_values(0) > cut
    mixed_signal = pd.concat([signal[signal.index.get_level_values(0) <= cut], other_signal[after]])
    bench = pd.Series(0.001, closes.index)
    settings = {**SETTINGS, "topk": 4, "n_drop": 2, "deal_price": deal_price}
    results = []
    for place, (o, c, s) in {
        "a": (opens, closes, signal),
        "b": (mixed_opens, mixed_closes, mixed_signal),
    }.items():
        mask = tradability(o if deal_price == "open" else c, c, 0.05)
        store = write_qlib_store(long_frame(o, c), tmp_path / place, closes.index, tradable=mask)
        results.append(run_backtest(store, s, closes.index[0], closes.index[-1], benchmark=bench, **settings))
    for part in ("trades", "positions"):
        frames = [getattr(result, part) for result in results]
        first, second = (frame[frame["datetime"] <= cut] for frame in frames)
        assert len(first) > 40
        pd.testing.assert_frame_equal(first, second, check_exact=True)
        assert not frames[0].equals(frames[1])
    early = [result.daily.loc[:cut] for result in results]
    pd.testing.assert_frame_equal(*early, check_exact=True)


def test_limits_are_judged_at_the_price_of_the_fill(tmp_path):
    days = SESSIONS[:3]
    opens = pd.DataFrame(
        {"JUMP": [10, 11, 11], "RISE": [10, 10, 10], "DULL": [10, 10, 10]}, days, dtype=float
    )
    closes = pd.DataFrame(
        {"JUMP": [10, 10, 10], "RISE": [10, 12, 12], "DULL": [10, 10, 10]}, days, dtype=float
    )
    limited = write_qlib_store(
        long_frame(opens, closes), tmp_path / "limited", days, tradable=tradability(opens, closes, 0.095)
    )
    store = write_qlib_store(long_frame(opens, closes), tmp_path / "store", days)
    signal = signal_of({days[0]: {"JUMP": 3, "RISE": 2, "DULL": 1}})
    none = pd.Series(0.0, days)
    bought = run_backtest(limited, signal, days[0], days[1], benchmark=none, **SETTINGS).trades
    # JUMP opens 10 % up and cannot be had; RISE ends 20 % up, which nobody knows at the open
    assert bought["instrument"].tolist() == ["RISE"]
    free = run_backtest(store, signal, days[0], days[1], benchmark=pd.Series(0.0, days), **SETTINGS).trades
    assert free["instrument"].tolist() == ["JUMP", "RISE"]


def test_a_name_that_opens_at_its_lower_limit_is_not_sold(tmp_path):
    days = SESSIONS[:4]
    opens = pd.DataFrame({"FALL": [10, 10, 9, 8.5], "NEXT": [10, 10, 10, 10]}, days, dtype=float)
    closes = pd.DataFrame({"FALL": [10, 10, 9, 8], "NEXT": [10, 10, 10, 10]}, days, dtype=float)
    mask = tradability(opens, closes, 0.095)
    store = write_qlib_store(long_frame(opens, closes), tmp_path / "store", days, tradable=mask)
    better = {"FALL": 1, "NEXT": 2}
    signal = signal_of({days[0]: {"FALL": 2, "NEXT": 1}, days[1]: better, days[2]: better})
    settings = {**SETTINGS, "topk": 1}
    trades = run_backtest(store, signal, days[0], days[3], benchmark=pd.Series(0.0, days), **settings).trades
    sold = trades[(trades["instrument"] == "FALL") & (trades["side"] == "sell")]
    assert sold["datetime"].tolist() == [days[3]]  # 10 % down on the second day, 5.6 % on the third


def test_foresight_earns_more_than_noise_and_its_negative_less(tmp_path):
    opens, closes, noise = random_market(4)
    closes = closes.ffill().bfill()
    store = write_qlib_store(long_frame(opens, closes), tmp_path / "store", closes.index)
    ahead = (opens.shift(-2) / opens.shift(-1) - 1).iloc[:-2].stack()
    bench = pd.Series(0.0, closes.index)
    settings = {**SETTINGS, "topk": 4, "n_drop": 4}
    gains = [
        run_backtest(store, signal, closes.index[0], closes.index[-2], benchmark=bench, **settings).risk[
            "without_cost"
        ]["mean"]
        for signal in (ahead, noise, -ahead)
    ]
    assert gains[0] > gains[1] > gains[2]


def test_store_is_read_by_qlib_as_it_was_written(tmp_path):
    from kronos.evaluation.qlib_store import initialised, load_module

    opens, closes, _ = random_market(5, days=10, names=4)
    closes.columns = opens.columns = ["NA", "CON", "BTC/USDT", "600519"]  # names that trip readers of text
    closes.iloc[:3, 0] = np.nan
    frame = long_frame(opens, closes)
    store = write_qlib_store(
        frame, tmp_path / "store", closes.index[:10].append(pd.DatetimeIndex(["2024-01-15"]))
    )
    assert (store / "calendars" / "day.txt").read_text().split()[-1] == "2024-01-12"
    assert (store / "calendars" / "day_future.txt").read_text().split()[-1] == "2024-01-15"
    raw = np.fromfile(store / "features" / "na" / "close.day.bin", "<f4")
    begin = closes["NA"].first_valid_index()
    assert raw[0] == closes.index.get_loc(begin) and raw[1] == np.float32(closes.loc[begin, "NA"])
    with initialised(store):
        fields = [f"${name}" for name in (*FEATURES, "change", "no_buy", "no_sell", "factor")]
        codes = [file_name(name) for name in closes.columns]
        read = load_module("qlib.data.data").D.features(codes, fields).dropna(subset=["$close"])
    read = (
        read.rename(index=name_of, level="instrument")
        .reset_index()
        .sort_values(["instrument", "datetime"], ignore_index=True)
    )
    frame = frame.sort_values(["instrument", "datetime"], ignore_index=True)
    assert read["instrument"].tolist() == frame["instrument"].tolist()
    assert read["datetime"].tolist() == frame["datetime"].tolist()
    for name in FEATURES:
        np.testing.assert_allclose(read[f"${name}"], frame[name], rtol=1e-6)
    change = frame.groupby("instrument")["close"].pct_change()
    np.testing.assert_allclose(read["$change"], change, rtol=1e-4, atol=1e-6)
    assert (read["$factor"] == 1).all()


def test_store_refuses_what_it_cannot_hold(tmp_path):
    opens, closes, _ = random_market(6, days=4, names=2)
    frame = long_frame(opens, closes.fillna(1.0))
    with pytest.raises(ValueError, match="outside the sessions"):
        write_qlib_store(frame, tmp_path / "store", closes.index[:3])
    with pytest.raises(ValueError, match="twice"):
        write_qlib_store(pd.concat([frame, frame.iloc[:1]]), tmp_path / "store", closes.index)
    with pytest.raises(UserError, match="no bars"):
        write_qlib_store(frame.assign(flag=1), tmp_path / "store", closes.index)
    assert list(tmp_path.iterdir()) == []


def test_a_backtest_leaves_the_process_as_it_was(tmp_path, capfd, monkeypatch):
    import mlflow
    from qlib.config import C
    from qlib.workflow import R

    monkeypatch.chdir(tmp_path)
    opens, closes, signal = random_market(7, days=6, names=5)
    store = write_qlib_store(long_frame(opens, closes), tmp_path / "store", closes.index)
    log = logging.FileHandler(tmp_path / "own.log")
    logging.getLogger().addHandler(log)
    try:

        def state():
            logger = logging.getLogger("qlib")
            return (
                sys.excepthook,
                list(logging.getLogger().handlers),
                logging.getLogger().level,
                (list(logger.handlers), logger.propagate, logger.level, logger.disabled),
                C.__dict__["_config"],
                R.__dict__["_provider"],
                mlflow.get_tracking_uri(),
                mlflow.active_run(),
                dict(os.environ),
            )

        before = state()
        bench = pd.Series(0.0, closes.index)
        run_backtest(store, signal, closes.index[0], closes.index[-1], benchmark=bench, **SETTINGS)
        assert state() == before
        with pytest.raises(TypeError):  # also when the run fails half-way
            run_backtest(
                store, signal, closes.index[0], closes.index[-1], benchmark=bench, **{**SETTINGS, "topk": "2"}
            )
        assert state() == before
        logging.getLogger().warning("still open")
    finally:
        logging.getLogger().removeHandler(log)
        log.close()
    assert "still open" in (tmp_path / "own.log").read_text()
    assert capfd.readouterr() == ("", "")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["own.log", "store"]


def test_a_fresh_process_prints_nothing_and_repeats_every_digit(tmp_path):
    opens, closes, signal = random_market(8)
    store = write_qlib_store(long_frame(opens, closes), tmp_path / "store", closes.index)
    frame = signal.rename_axis(["datetime", "instrument"]).rename("score").reset_index()
    frame.to_parquet(tmp_path / "signal.parquet")
    settings = {**SETTINGS, "topk": 5, "n_drop": 2}
    bench = pd.Series(0.0, closes.index)
    result = run_backtest(store, signal, closes.index[0], closes.index[-1], benchmark=bench, **settings)
    script = (
        "import logging, multiprocessing, sys\n"
        "import pandas as pd; from kronos.evaluation.qlib_backtest import run_backtest\n"
        "hook, level = sys.excepthook, logging.getLogger().level\n"
        "signal = pd.read_parquet('signal.parquet').set_index(['datetime', 'instrument'])['score']\n"
        "days = signal.index.unique(0)\n"
        f"result = run_backtest('store', signal, days[0], days[-1], benchmark=pd.Series(0.0, days), **{settings!r})\n"
        "result.daily.to_parquet('daily.parquet')\n"
        "assert sys.excepthook is hook and logging.getLogger().level == level\n"
        "assert not logging.getLogger('qlib').handlers and logging.getLogger('qlib').propagate\n"
        "assert not multiprocessing.active_children()\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": root}
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    daily = pd.read_parquet(tmp_path / "daily.parquet")
    pd.testing.assert_frame_equal(daily, result.daily, check_exact=True, check_freq=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["daily.parquet", "signal.parquet", "store"]
