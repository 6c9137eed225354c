"""Write a store that Qlib reads, run its top-k backtest, and return plain frames.

Qlib keeps process-wide state (configuration, providers, an exception hook, loggers, an exit handler). All of
it is restored after each run, nothing is printed, no process is started, and its experiment recorder is never
used.
"""

import atexit
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES, Flag
from kronos.evaluation.portfolio import risk
from kronos.evaluation.tradability import Tradability
from kronos.utils import files
from kronos.utils.errors import UserError

DEAL_PRICES = ("open", "high", "low", "close")


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


def write_qlib_store(
    frame: pd.DataFrame,
    path: str | Path,
    sessions: pd.DatetimeIndex | np.ndarray,
    freq: str = "day",
    tradable: Tradability | None = None,
) -> Path:
    """Write bars as a Qlib data folder, replacing `path` atomically; returns the path.

    `frame` is a long bar frame (instrument, datetime, open, high, low, close, volume, amount, optionally flag).
    `sessions` is the whole calendar in order (a DatetimeIndex, or int64 nanoseconds), with sessions after the
    last bar where they are known: Qlib needs to know when the last day ends. FILLED rows become NaN, that is not
    tradable. Besides the bars each instrument gets `factor` (1: prices are adjusted already), `change` (close over
    the close before, less 1), and `no_buy` and `no_sell`, 1 where `tradable` forbids it at the deal price.
    Raises UserError for instruments whose name cannot be a folder's, ValueError for bars outside the sessions or
    given twice.
    """
    calendar = pd.DatetimeIndex(pd.to_datetime(np.asarray(sessions)))
    if not calendar.is_monotonic_increasing or not calendar.is_unique:
        raise ValueError("sessions must be in order and unique")
    bars = frame
    if "flag" in frame.columns:
        bars = frame[(frame["flag"].to_numpy() & int(Flag.FILLED)) == 0]
    if bars.empty:
        raise UserError("there are no bars to backtest on: the frame is empty")
    instrument, labels = pd.factorize(bars["instrument"], sort=True)
    names = [str(name) for name in labels]
    _check_names(names)
    session = calendar.get_indexer(pd.DatetimeIndex(bars["datetime"]))
    if (session < 0).any():
        day = bars["datetime"].to_numpy()[session < 0][0]
        raise ValueError(f"{(session < 0).sum()} bars are outside the sessions, the first is at {day}")
    cell = instrument.astype(np.int64) * len(calendar) + session
    if len(np.unique(cell)) < len(cell):
        raise ValueError("the frame holds an instrument twice at one time")

    grids: dict[str, np.ndarray] = {}
    for name in FEATURES:
        cells = np.full(len(names) * len(calendar), np.nan)
        cells[cell] = bars[name].to_numpy(dtype=np.float64)
        grids[name] = cells.reshape(len(names), len(calendar))
    known_close = pd.DataFrame(grids["close"]).ffill(axis=1)
    grids["change"] = grids["close"] / known_close.shift(1, axis=1).to_numpy() - 1
    grids["no_buy"] = grids["no_sell"] = np.zeros(grids["close"].shape)
    if tradable is not None:
        for name, allowed in (("no_buy", tradable.buyable), ("no_sell", tradable.sellable)):
            aligned = allowed.reindex(index=calendar, columns=pd.Index(names), fill_value=True)
            grids[name] = (~aligned.to_numpy(dtype=bool)).T.astype(float)
    grids["factor"] = np.where(np.isfinite(grids["close"]), 1.0, np.nan)

    first = np.full(len(names), len(calendar))
    last = np.full(len(names), -1)
    np.minimum.at(first, instrument, session)
    np.maximum.at(last, instrument, session)
    known = int(calendar.get_indexer(pd.DatetimeIndex([frame["datetime"].max()]))[0]) + 1
    # Qlib reads the session after the one it trades in; with none known, any later time will do
    future = calendar
    if known == len(calendar):
        future = pd.DatetimeIndex(calendar.append(calendar[-1:] + pd.Timedelta(days=1)))
    text = future.strftime("%Y-%m-%d" if freq == "day" else "%Y-%m-%d %H:%M:%S").tolist()
    ranges = [
        f"{name}\t{text[begin]}\t{text[end]}" for name, begin, end in zip(names, first, last, strict=True)
    ]

    with files.atomic_folder(path) as folder:
        _write_lines(folder / "calendars" / f"{freq}.txt", text[:known])
        _write_lines(folder / "calendars" / f"{freq}_future.txt", text)
        _write_lines(folder / "instruments" / "all.txt", ranges)
        for row, name in enumerate(names):
            place = folder / "features" / _folder_name(name)
            place.mkdir(parents=True)
            span = slice(first[row], last[row] + 1)
            for field, grid in grids.items():
                np.append(first[row], grid[row, span]).astype("<f4").tofile(place / f"{field}.{freq}.bin")
    return Path(path)


def _check_names(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.strip() in ("", ".", "..") or any(letter in name for letter in "/\\\t\n"):
            raise UserError(f"instrument {name!r} cannot be a folder of a Qlib store: rename it")
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise UserError(
                f"instruments {other} and {name} differ only by case, which a Qlib store cannot hold"
            )


def _folder_name(instrument: str) -> str:
    return str(_import("qlib.utils").code_to_fname(instrument)).lower()


def _import(module: str) -> Any:
    """Import a module of Qlib without the advertisement that one of its dependencies prints."""
    with suppress(ImportError):
        import_module("gym_notices.notices").notices.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(module)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def _qlib(path: Path) -> Iterator[None]:
    """Initialise Qlib silently on the store at `path`; everything that this changes is restored afterwards."""
    logger = logging.getLogger("qlib")
    hook, handlers, propagate = sys.excepthook, logger.handlers, logger.propagate
    # a bare logger would still reach the root's handlers, or standard error when there are none
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        qlib, config = _import("qlib"), _import("qlib.config").C
        data, loop = _import("qlib.data.data"), _import("qlib.backtest.backtest")
        recorder, cache = _import("qlib.workflow").R, _import("qlib.data.cache").H
        places = ("Cal", "Inst", "FeatureD", "PITD", "ExpressionD", "DatasetD", "D")
        shared = [*(getattr(data, place) for place in places), recorder]
        providers = [wrapper.__dict__["_provider"] for wrapper in shared]
        saved = config.__dict__["_config"]  # setting up replaces this dict, it does not write into it
        bar = loop.tqdm
        try:
            recorder.__dict__["_provider"] = None  # with an active recorder Qlib refuses to be set up again
            loop.tqdm = partial(bar, disable=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # logging_config: Qlib's own would close the handlers of the whole process.
                # region "us": no price limit and no lot size of Qlib's choosing.
                qlib.init(
                    provider_uri=str(path),
                    region="us",
                    kernels=1,
                    logging_config={},
                    logging_level=logging.CRITICAL,
                )
                atexit.unregister(recorder.end_exp)
                yield
        finally:
            loop.tqdm = bar
            cache.clear()
            for wrapper, provider in zip(shared, providers, strict=True):
                wrapper.__dict__["_provider"] = provider
            config.__dict__["_config"] = saved
    finally:
        sys.excepthook = hook
        logger.handlers, logger.propagate = handlers, propagate


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
    Risk figures are annualised by `periods_per_year` sessions (Qlib's own take 238 days).
    """
    if deal_price not in DEAL_PRICES:
        raise UserError(
            f"backtest_deal_price is {deal_price!r}, one of {', '.join(DEAL_PRICES)} was expected"
        )
    store = Path(qlib_path)
    calendar = pd.DatetimeIndex(
        (store / "calendars" / f"{freq}.txt").read_text(encoding="utf-8").splitlines()
    )
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
    names = sorted(set().union(*(score.index.unique("instrument") for score in scored.values())))
    results = {}
    with _qlib(store):
        strategy = _import("qlib.contrib.strategy.signal_strategy").TopkDropoutStrategy
        executor = _import("qlib.backtest.executor").SimulatorExecutor
        exchange = _import("qlib.backtest.exchange").Exchange(
            freq=freq,
            start_time=first,
            end_time=last,
            codes=names,
            deal_price=deal_price,
            limit_threshold=("$no_buy>0", "$no_sell>0"),
            open_cost=open_cost,
            close_cost=close_cost,
            min_cost=min_cost,
            trade_unit=None,
        )
        quoted = exchange.quote_df["$close"].notna()
        for name, score in scored.items():
            portfolio, indicators = _import("qlib.backtest").backtest(
                start_time=first,
                end_time=last,
                strategy=strategy(signal=score, topk=topk, n_drop=n_drop, hold_thresh=hold_thresh),
                executor=executor(time_per_step=freq, generate_portfolio_metrics=True),
                benchmark=bench,
                account=float(account),
                exchange_kwargs={"exchange": exchange},
                pos_type=_ordered_position(),
            )
            report, held = next(iter(portfolio.values()))
            trades = _trades(next(iter(indicators.values()))[1].order_indicator_his)
            positions = _positions(held, quoted[quoted].index, freq)
            results[name] = _result(report, trades, positions, bench, bench_cost, periods_per_year)
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
    base: Any = _import("qlib.backtest.position").Position

    class OrderedPosition(base):
        """Qlib lists what is held through a set: sums would differ in the last digit between two runs."""

        def get_stock_list(self) -> list[str]:
            return sorted(super().get_stock_list())

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
