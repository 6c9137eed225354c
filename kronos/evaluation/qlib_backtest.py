"""Run Qlib's top-k backtest on a folder of `qlib_store`, and return plain frames.

Qlib's experiment recorder is never used.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.distributed.worker_processes import on_processes
from kronos.evaluation.portfolio import risk
from kronos.evaluation.qlib_arrays import day_scores, store_exchange
from kronos.evaluation.qlib_store import initialised, load_module, read_calendar
from kronos.utils.errors import UserError
from kronos.utils.names import file_name

DEAL_PRICES = ("open", "high", "low", "close")
FIELDS = (*DEAL_PRICES, "volume", "change", "factor", "no_buy", "no_sell")  # of the store, that Qlib reads
DAYS_PER_PROCESS = 2000  # simulated days at least, since a process takes seconds to import Qlib


@dataclass(frozen=True)
class BacktestResult:
    """What a simulated portfolio did. Fractions are of the account at the close before, money is at the close."""

    # one row per session, index `datetime`: return (costs added back), cost, turnover (bought plus sold), bench,
    # bench_cost where given, account, value (of the shares), cash, holdings (number of instruments)
    daily: pd.DataFrame
    # one row per fill: datetime, instrument, side (buy, sell), shares, price, value, cost
    trades: pd.DataFrame
    # one row per day and instrument held: datetime, instrument, shares, price, value, weight, days_held, quoted
    # (False: no bar that day, so valued at its last close and not tradable)
    positions: pd.DataFrame
    # figures of `risk` by series: without_cost, with_cost (in excess of the benchmark), with_both_costs (in excess
    # of the benchmark less its own), portfolio_without_cost, portfolio_with_cost, benchmark
    risk: Mapping[str, Mapping[str, float]]
    turnover: float  # mean of the daily turnover
    stranded: tuple[str, ...]  # instruments held at the end that had no bar on the last day


def run_backtest(
    qlib_path: str | Path,
    signal: pd.Series,
    begin: pd.Timestamp | str,
    end: pd.Timestamp | str,
    **settings: Any,
) -> BacktestResult:
    """Run `run_backtests` for one signal."""
    return run_backtests(qlib_path, {"signal": signal}, begin, end, **settings)["signal"]


def run_backtests(
    qlib_path: str | Path,
    signals: Mapping[str, pd.Series],
    begin: pd.Timestamp | str,
    end: pd.Timestamp | str,
    *,
    topk: int,
    n_drop: int,
    hold_thresh: int,
    account: float,
    open_cost: float,
    close_cost: float,
    min_cost: float,
    deal_price: str,
    benchmark: pd.Series,
    periods_per_year: float,
    benchmark_cost: pd.Series | None = None,
    freq: str = "day",
    processes: int = 1,
) -> dict[str, BacktestResult]:
    """Run Qlib's TopkDropoutStrategy on its SimulatorExecutor over a store of `write_qlib_store`, bar by bar.

    With `freq` a length in minutes each bar is a session of its own, wherever a day is spoken of below.

    Each signal is traded alone, on the same days, with the same prices and costs. It is indexed (day,
    instrument), larger is better; NaN is no score, and an instrument held without one is sold. The signal of a day
    trades in the next session at `deal_price`, so the ledger starts with the first session of begin..end
    (inclusive) whose predecessor has a signal. Up to `n_drop` of the `topk` instruments are replaced per day, none
    before `hold_thresh` sessions; 95 % of the cash is invested. Costs are fractions of the traded value, at
    least `min_cost` in money per order. Shares are not rounded to lots, since prices are adjusted. An instrument with
    no bar that day is not tradable; nor is what the store's `no_buy` and `no_sell` forbid.
    `benchmark` (and its own `benchmark_cost`) are daily fractions, needed for every day of the ledger.
    Risk figures are annualised by `periods_per_year` sessions (Qlib's own take 238 days). Many signals are shared
    among at most `processes` processes, which changes no figure.
    """
    if deal_price not in DEAL_PRICES:
        raise UserError(
            f"backtest_deal_price is {deal_price!r}, one of {', '.join(DEAL_PRICES)} was expected"
        )
    store = Path(qlib_path)
    calendar = read_calendar(store, freq)
    scored = {
        name: signal.dropna().rename_axis(["datetime", "instrument"]) for name, signal in signals.items()
    }
    ranges = {
        name: _ledger_range(calendar, score, pd.Timestamp(begin), pd.Timestamp(end))
        for name, score in scored.items()
    }
    if len(set(ranges.values())) != 1:
        raise ValueError(f"the signals do not trade on the same days: {ranges}")
    first, last = next(iter(ranges.values()))
    days = calendar[(calendar >= first) & (calendar <= last)]
    bench = _cover(benchmark, days, "benchmark")
    bench_cost = None if benchmark_cost is None else _cover(benchmark_cost, days, "benchmark_cost")
    names = set().union(*(score.index.unique("instrument") for score in scored.values()))
    simulation = _Simulation(
        store, freq, days, {file_name(name): name for name in names}, topk, n_drop, hold_thresh, account,
        open_cost, close_cost, min_cost, deal_price, bench, bench_cost, periods_per_year,
    )  # fmt: skip
    scored = {name: _by_code(score) for name, score in scored.items()}
    groups = max(1, min(processes, len(scored) * len(days) // DAYS_PER_PROCESS))
    shared = [dict(list(scored.items())[place::groups]) for place in range(groups)]
    found: dict[str, BacktestResult] = {}
    for results in on_processes(_simulate, [(simulation, group) for group in shared], groups):
        found |= results
    return {name: found[name] for name in scored}


@dataclass(frozen=True)
class _Simulation:
    """What is the same for every signal; see `run_backtests`. `codes` are the names in the store -> instruments."""

    store: Path
    freq: str
    days: pd.DatetimeIndex
    codes: Mapping[str, str]
    topk: int
    n_drop: int
    hold_thresh: int
    account: float
    open_cost: float
    close_cost: float
    min_cost: float
    deal_price: str
    bench: pd.Series
    bench_cost: pd.Series | None
    periods_per_year: float


def _simulate(rules: _Simulation, scored: Mapping[str, pd.Series]) -> dict[str, BacktestResult]:
    """Trade each signal, indexed (day, code), alone on an exchange of all the instruments."""
    results = {}
    with initialised(rules.store):
        strategy = load_module("qlib.contrib.strategy.signal_strategy").TopkDropoutStrategy
        executor = load_module("qlib.backtest.executor").SimulatorExecutor
        exchange = store_exchange(
            rules.store,
            rules.days,
            freq=rules.freq,
            codes=sorted(rules.codes),
            deal_price=rules.deal_price,
            limit_threshold=("$no_buy>0", "$no_sell>0"),
            open_cost=rules.open_cost,
            close_cost=rules.close_cost,
            min_cost=rules.min_cost,
            trade_unit=None,
        )
        quoted = exchange.quote_df["$close"].notna()
        for name, score in scored.items():
            portfolio, indicators = load_module("qlib.backtest").backtest(
                start_time=rules.days[0],
                end_time=rules.days[-1],
                strategy=strategy(
                    signal=day_scores(score),
                    topk=rules.topk,
                    n_drop=rules.n_drop,
                    hold_thresh=rules.hold_thresh,
                    forbid_all_trade_at_limit=False,  # each direction by its own column of the store
                ),
                executor=executor(time_per_step=rules.freq, generate_portfolio_metrics=True),
                benchmark=rules.bench,
                account=float(rules.account),
                exchange_kwargs={"exchange": exchange},
                pos_type=_ordered_position(),
            )
            report, held = next(iter(portfolio.values()))
            trades = _trades(next(iter(indicators.values()))[1].order_indicator_his)
            positions = _positions(held, quoted[quoted].index, rules.freq)
            for table in (trades, positions):
                table["instrument"] = table["instrument"].map(rules.codes)
            results[name] = _result(
                report, trades, positions, rules.bench, rules.bench_cost, rules.periods_per_year
            )
    return results


def _result(
    report: pd.DataFrame,
    trades: pd.DataFrame,
    positions: pd.DataFrame,
    bench: pd.Series,
    bench_cost: pd.Series | None,
    periods_per_year: float,
) -> BacktestResult:
    daily = report[["return", "cost", "turnover"]].copy()
    daily["bench"] = bench
    if bench_cost is not None:
        daily["bench_cost"] = bench_cost
    daily[["account", "value", "cash"]] = report[["account", "value", "cash"]]
    daily["holdings"] = positions.groupby("datetime").size().reindex(daily.index, fill_value=0)
    final = positions[(positions["datetime"] == daily.index[-1]) & ~positions["quoted"]]
    return BacktestResult(
        daily=daily,
        trades=trades,
        positions=positions,
        risk=risk(daily, periods_per_year),
        turnover=float(daily["turnover"].mean()),
        stranded=tuple(final["instrument"]),
    )


def _ordered_position() -> type:
    base: Any = load_module("qlib.backtest.position").Position

    class OrderedPosition(base):
        """Qlib lists what is held through a set: sums would differ in the last digit between two runs."""

        def get_stock_list(self) -> list[str]:
            return sorted(super().get_stock_list())

        def __deepcopy__(self, memo: dict[int, Any]) -> "OrderedPosition":
            """Copy the entries, a dictionary of numbers per instrument; Qlib copies every position twice a day."""
            other = copy(self)
            other.position = {
                name: dict(entry) if isinstance(entry, dict) else entry
                for name, entry in self.position.items()
            }
            return other

    return OrderedPosition


def _ledger_range(
    calendar: pd.DatetimeIndex, score: pd.Series, begin: pd.Timestamp, end: pd.Timestamp
) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first session of begin..end that follows a day with a signal, and the last session with data."""
    known = np.isin(calendar.to_numpy(), score.index.unique("datetime").to_numpy())
    follows = np.append(False, known[:-1])
    inside = (calendar >= begin) & (calendar <= end)
    tradable = calendar[inside & follows]
    if len(tradable) == 0:
        raise UserError(
            f"no session to trade in: {begin:%Y-%m-%d}..{end:%Y-%m-%d} has {inside.sum()} sessions with bars, none "
            f"of them after a day with a signal ({known.sum()} days have one)"
        )
    return tradable[0], calendar[inside][-1]


def _by_code(score: pd.Series) -> pd.Series:
    """Return scores with the names that instruments have in the store; ordinary names are the same."""
    names = score.index.unique("instrument")
    codes = {name: code for name in names if (code := file_name(name)) != name}
    return score.rename(index=codes, level="instrument").sort_index() if codes else score


def _cover(series: pd.Series, days: pd.DatetimeIndex, name: str) -> pd.Series:
    """Return `series` on exactly `days`; a missing value is an error, since Qlib would take it for a return of 0."""
    result = series.reindex(days)
    missing = days[result.isna()]
    if len(missing):
        raise ValueError(
            f"{name} has no value on {len(missing)} of {len(days)} days, the first is {missing[0]:%F}"
        )
    return result.astype(np.float64)


def _trades(history: Mapping[pd.Timestamp, Any]) -> pd.DataFrame:
    rows = []
    for day, order in history.items():
        shares = order.get_index_data("deal_amount")
        fields = [order.get_index_data(name).data for name in ("trade_price", "trade_value", "trade_cost")]
        for name, amount, price, value, cost in zip(shares.index.tolist(), shares.data, *fields, strict=True):
            if amount != 0:
                side = "buy" if amount > 0 else "sell"
                rows.append(
                    (day, name, side, abs(float(amount)), float(price), abs(float(value)), float(cost))
                )
    columns = ["datetime", "instrument", "side", "shares", "price", "value", "cost"]
    return pd.DataFrame(rows, columns=columns)


def _positions(held: Mapping[pd.Timestamp, Any], quoted: pd.MultiIndex, freq: str) -> pd.DataFrame:
    rows = []
    for day, position in held.items():
        for name in position.get_stock_list():
            entry = position.position[name]
            value = entry["amount"] * entry["price"]
            rows.append(
                (day, name, entry["amount"], entry["price"], value, entry["weight"], entry[f"count_{freq}"])
            )
    columns = ["datetime", "instrument", "shares", "price", "value", "weight", "days_held"]
    frame = pd.DataFrame(rows, columns=columns)
    pairs = pd.MultiIndex.from_frame(frame[["instrument", "datetime"]])
    frame["quoted"] = pairs.isin(quoted)
    return frame
