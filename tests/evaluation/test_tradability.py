"""One mask of what can be bought and sold: limits by board, T+1, suspensions, and what a locked market would fake."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kronos import Config, DataProcessorFactory
from kronos.data import markets
from kronos.evaluation import departures, ranking, signals, statistics
from kronos.evaluation.qlib_backtest import run_backtest
from kronos.evaluation.qlib_store import write_qlib_store
from kronos.evaluation.tradability import AT_LIMIT, tradability, trading_costs, trading_mask, unbuyable_shares
from kronos.stages.inputs import wide_bars

COSTS = {
    "topk": 1, "n_drop": 1, "hold_thresh": 1, "account": 1e6, "open_cost": 0.0, "close_cost": 0.0, "min_cost": 0.0,
    "deal_price": "open", "periods_per_year": 252,
}  # fmt: skip
BOARDS = [  # instrument, first day, limit of its board on that day
    ("SH600000", "2024-03-04", 0.1), ("SZ000001", "2015-03-02", 0.1), ("SZ300001", "2020-08-19", 0.1),
    ("SZ300001", "2020-08-24", 0.2), ("SH688001", "2024-03-04", 0.2), ("BJ830799", "2024-03-04", 0.3),
]  # fmt: skip


def wide(values: dict[str, list[float]], start: str = "2024-03-04") -> pd.DataFrame:
    first = next(iter(values.values()))
    return pd.DataFrame(values, pd.bdate_range(start, periods=len(first), name="datetime"), dtype=float)


def long(opening: pd.DataFrame, close: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for name in close:
        part = pd.DataFrame({"instrument": name, "datetime": close.index, "open": opening[name].to_numpy()})
        part["high"] = part["low"] = part["close"] = close[name].to_numpy()
        part["volume"] = part["amount"] = 1000.0
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def by_table(opening: pd.DataFrame, close: pd.DataFrame, calendar: str = "XSHG"):
    return tradability(
        opening, close, AT_LIMIT * markets.price_limits(calendar, list(close.columns), close.index)
    )


@pytest.mark.parametrize(("instrument", "day", "limit"), BOARDS)
@pytest.mark.parametrize("sign", [1, -1])
def test_qlib_and_the_mask_agree_on_both_sides_of_each_boards_limit(tmp_path, instrument, day, limit, sign):
    for part, inside in ((0.9, True), (1.0, False)):
        move = 100 * (1 + sign * limit * part)
        opening = wide({instrument: [100, 100, move, move], "SH600519": [100.0] * 4}, day)
        close = wide({instrument: [100, 100, move, move], "SH600519": [100.0] * 4}, day)
        mask = by_table(opening, close)
        store = write_qlib_store(long(opening, close), tmp_path / str(part), close.index, tradable=mask)
        days, none = close.index, pd.Series(0.0, close.index)
        wanted = {instrument: 2.0, "SH600519": 1.0}
        other = {instrument: 1.0, "SH600519": 2.0}
        table = {days[1]: wanted} if sign > 0 else {days[0]: wanted, days[1]: other}
        signal = pd.DataFrame(table).T.stack()
        trades = run_backtest(store, signal, days[0], days[2], benchmark=none, **COSTS).trades
        traded = trades[(trades["instrument"] == instrument) & (trades["datetime"] == days[2])]
        frame = mask.buyable if sign > 0 else mask.sellable
        assert frame[instrument].iloc[2] == inside
        assert (len(traded) == 1) == inside
        assert (mask.sellable if sign > 0 else mask.buyable)[instrument].all()  # the other side is open


@pytest.mark.parametrize(
    "names", [("limit_up", "limit_down"), ("high_limit", "low_limit"), ("涨停价", "跌停价")]
)
def test_limits_that_come_with_the_bars_replace_the_table_of_boards(tmp_path, names):
    """A share under special treatment has 5 %, a newly listed one 44 %: no table by board knows them."""
    days = pd.bdate_range("2024-03-04", periods=6)
    price = {"SH600001": [10, 10.5, 11.02, 10.47, 10.47, 10.4], "SH600002": [10, 14.4, 12, 13.5, 13.5, 13.5]}
    up = {"SH600001": [10.5, 10.5, 11.02, 11.57, 10.99, 10.99], "SH600002": [14.4, 14.4, 15, 13.5, np.nan, 0]}
    down = {"SH600001": [9.5, 9.5, 9.98, 10.47, 9.95, 9.95], "SH600002": [5.6, 6.4, 8, 10, np.nan, 0]}
    frames = [
        pd.DataFrame({
            "symbol": name, "date": days.strftime("%Y-%m-%d"), "volume": 1000,
            **dict.fromkeys(("open", "high", "low", "close"), price[name]), names[0]: up[name], names[1]: down[name],
        })
        for name in price
    ]  # fmt: skip
    pd.concat(frames).to_csv(tmp_path / "bars.csv", index=False)
    config = Config(
        data_source="csv", data_path=str(tmp_path / "bars.csv"), dataset_path=str(tmp_path / "store"),
        calendar="XSHG", dataset_begin_time="2024-01-01", dataset_end_time="2024-12-31",
    )  # fmt: skip
    store = DataProcessorFactory.create_processor("csv", config).run_pipeline()
    assert any("limit_up and limit_down" in note for note in store.source["notes"])
    bars = wide_bars(store, 0)
    for at in ("open", "close"):
        mask = trading_mask(store, bars, at, "auto")
        assert mask.buyable["SH600001"].tolist() == [True, False, False, True, True, True]
        assert mask.sellable["SH600001"].tolist() == [True, True, True, False, True, True]
        assert mask.buyable["SH600002"].tolist() == [True, False, True, False, True, True]
        assert mask.sellable["SH600002"].all()
    fixed = trading_mask(store, bars, "open", 0.095)  # a number that the user gives wins
    assert not fixed.buyable["SH600002"].iloc[3] and fixed.buyable["SH600001"].iloc[1]
    paid = departures.pay_out(bars, -1.0)
    assert "flags" in paid


def test_a_held_share_that_opens_at_its_upper_limit_is_sold_in_qlib(tmp_path):
    price = wide({"SH600000": [100, 100, 110, 110], "SH600519": [100.0] * 4})
    mask = by_table(price, price)
    store = write_qlib_store(long(price, price), tmp_path / "bars", price.index, tradable=mask)
    days = price.index
    signal = pd.DataFrame({
        days[0]: {"SH600000": 2.0, "SH600519": 1.0}, days[1]: {"SH600000": 1.0, "SH600519": 2.0},
    }).T.stack()  # fmt: skip
    trades = run_backtest(store, signal, days[0], days[2], benchmark=pd.Series(0.0, days), **COSTS).trades
    sold = trades[trades["side"] == "sell"]
    assert sold[["instrument", "datetime"]].to_numpy().tolist() == [["SH600000", days[2]]]


def test_an_american_share_that_opens_twelve_per_cent_up_is_bought():
    opening = wide({"MSFT": [100, 112.0]})
    assert by_table(opening, opening, "XNYS").buyable.all().all()
    assert not by_table(
        opening.rename(columns={"MSFT": "SH600000"}), opening.set_axis(["SH600000"], axis=1)
    ).buyable.iloc[1, 0]


def test_a_locked_sale_waits_and_a_refused_purchase_has_no_target():
    opening = wide({"A": [10, 10, 10, 9, 8.1, 8, 8], "B": [10, 11, 12.1, 12, 12, 12, 12]})
    mask = tradability(opening, opening, 0.095)
    found = signals.tradable_returns(opening, opening, 2, mask)
    # A: bought on day 1 at 10, due on day 3, locked on days 3 and 4, sold on day 5 at 8
    assert found["A"].iloc[0] == pytest.approx(8 / 10 - 1)
    assert np.isnan(found["B"].iloc[0]) and np.isnan(found["B"].iloc[1])  # locked on days 1 and 2
    assert found["B"].iloc[2] == pytest.approx(0)
    pairs, top = unbuyable_shares(opening * 0 + [1, 2], mask, 2)
    assert pairs == pytest.approx(2 / 12) and top == pytest.approx(2 / 6)


def test_a_reopening_after_a_suspension_is_earned_and_a_name_that_leaves_keeps_its_last_close():
    opening = wide(
        {"BACK": [10, 10, np.nan, np.nan, 5.75, 5.75], "GONE": [10, 10, 9, np.nan, np.nan, np.nan]}
    )
    found = signals.tradable_returns(opening, opening, 1)
    assert found["BACK"].iloc[0] == pytest.approx(-0.425)
    assert found["GONE"].iloc[1] == pytest.approx(0)
    assert np.isnan(found["BACK"].iloc[1])  # nobody can buy on a day without a bar


def test_a_bar_without_volume_is_a_suspension_unless_there_is_never_any():
    price = wide({"STOCK": [10, 10, 10], "INDEX": [10, 10, 10]})
    volume = wide({"STOCK": [5, 0, 5], "INDEX": [0, 0, 0]})
    mask = tradability(price, price, volume=volume)
    assert mask.buyable["STOCK"].tolist() == [True, False, True] and mask.sellable["INDEX"].all()


def test_hourly_bars_in_shanghai_are_not_sold_on_the_day_of_the_purchase(tmp_path):
    hours = [pd.Timedelta(hours=hour) for hour in (10.5, 11.5, 14, 15)]
    bars = pd.DatetimeIndex([day + hour for day in pd.bdate_range("2024-03-04", periods=5) for hour in hours])
    random = np.random.default_rng(0)
    close = pd.DataFrame(100 * np.exp(random.normal(0, 0.01, (20, 6)).cumsum(0)), bars, list("ABCDEF"))
    mask = tradability(close, close, next_day=True)
    assert mask.first_sale[:5].tolist() == [4, 4, 4, 4, 8] and mask.longest_wait == 4
    found = signals.tradable_returns(close, close, 1, mask)
    assert found["A"].iloc[0] == pytest.approx(close["A"].iloc[4] / close["A"].iloc[1] - 1)
    store = write_qlib_store(long(close, close), tmp_path / "store", bars, "60min", mask)
    signal = pd.DataFrame(random.normal(size=close.shape), bars, close.columns).stack()
    settings = {**COSTS, "topk": 2, "hold_thresh": mask.longest_wait, "freq": "60min"}
    trades = run_backtest(store, signal, bars[0], bars[-2], benchmark=pd.Series(0.0, bars), **settings).trades
    assert (trades["side"] == "sell").sum() > 2
    bought: dict[str, pd.Timestamp] = {}
    for trade in trades.sort_values("datetime", kind="stable").itertuples():
        if trade.side == "buy":
            bought[trade.instrument] = trade.datetime.normalize()
        else:
            assert bought[trade.instrument] < trade.datetime.normalize()


def test_automatic_costs_are_the_markets_own_and_follow_a_change_of_tax():
    before, after = pd.bdate_range("2023-08-21", periods=5), pd.bdate_range("2023-08-28", periods=15)
    old, new = (trading_costs("XSHG", days, "auto", "auto", "auto") for days in (before, after))
    assert old[1] - new[1] == pytest.approx(0.0005) and old[0] == pytest.approx(new[0])
    assert old[2] == new[2] == 5
    both = trading_costs("XSHG", before.append(after), "auto", "auto", "auto")
    assert both[1] == pytest.approx((5 * old[1] + 15 * new[1]) / 20)
    assert trading_costs("XSHG", before, 0.001, 0.0015, 0) == (0.001, 0.0015, 0)
    assert trading_costs("24/7", before, "auto", 0.5, "auto") == (0.001, 0.5, 0)


def test_limits_within_a_day_are_moves_from_the_last_close_of_the_day_before():
    bars = pd.DatetimeIndex(["2024-01-02 10:00", "2024-01-02 15:00", "2024-01-03 10:00", "2024-01-03 15:00"])
    close = pd.DataFrame({"A": [10.0, 11.0, 11.9, 12.2]}, bars)
    assert tradability(close, close, 0.095).buyable["A"].tolist() == [True, True, True, False]


@pytest.mark.slow
def test_momentum_of_a_locked_market_earns_only_what_could_not_be_bought():
    """Random walks whose published moves stop at the limit and go on the next day: there is nothing to earn."""
    found: dict[str, list[pd.Series]] = {"all pairs": [], "what could be bought": [], "not locked": []}
    locked = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        true = random.standard_t(3, (400, 200)) * 0.022
        log, owed = np.zeros((401, 200)), np.zeros(200)
        for day in range(400):
            wanted = owed + true[day]
            moved = np.clip(wanted, np.log(0.9), np.log(1.1))
            owed = wanted - moved
            log[day + 1] = log[day] + moved
        close = pd.DataFrame(100 * np.exp(log), pd.bdate_range("2020-01-01", periods=401))
        score = ranking.momentum(close, 2)
        mask = tradability(close, close, 0.095)
        locked.append(1 - mask.buyable.to_numpy().mean())
        free = replace(mask, buyable=mask.buyable & mask.sellable)
        for name, one in zip(found, (tradability(close, close), mask, free), strict=True):
            earned = signals.tradable_returns(close, close, 1, one)
            found[name].append(signals.daily_ic(score, earned)["rank_ic"])
    estimates = {name: statistics.estimate(pd.concat(parts), 1) for name, parts in found.items()}
    for name, one in estimates.items():
        print(f"{name}: Rank IC {one.mean:+.4f} ({one.low:+.4f} to {one.high:+.4f})")
    print(f"locked at the upper limit: {np.mean(locked):.1%} of the pairs")
    naive, honest, free = estimates.values()
    assert naive.sign == 1 and naive.mean > 0.005
    assert honest.mean < naive.mean / 2
    # What remains are names at their lower limit, which anyone can buy and which fall on.
    assert free.sign == 0
