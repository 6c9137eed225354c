"""The benchmark of a portfolio: an index, a file of closes, or the equal weight of the universe."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.adjustment import FACTOR_CHANGES
from kronos.data.sources.qlib import INDICES, closes
from kronos.data.store import BarStore
from kronos.evaluation import signals
from kronos.utils.errors import UserError
from kronos.utils.files import digest_bytes, given_path

EQUAL_WEIGHT = "equal_weight"
TOTAL_RETURN = re.compile(
    r"^h\d{5}|total.?return|[_. ]tr\b|全收益", re.IGNORECASE
)  # CSI codes are H00300 ...


@dataclass(frozen=True)
class Benchmark:
    """Daily returns of the benchmark, and of the equal weight that every portfolio is compared with as well."""

    name: str  # a clause of the report's first lines
    returns: pd.Series
    cost: pd.Series | None  # of its own rebalancing; None for an index
    others: dict[
        str, tuple[str, pd.Series]
    ]  # key -> (name, daily returns) that the portfolio is compared with
    warnings: tuple[str, ...] = ()  # whole sentences, for the first lines of the report


def benchmark(
    config: Config,
    store: BarStore,
    close: pd.DataFrame,
    member: pd.DataFrame,
    open_cost: float,
    close_cost: float,
) -> Benchmark:
    """Return the benchmark that `backtest_benchmark` selects, over the sessions of the wide closes.

    `open_cost` and `close_cost` are fractions of value, charged to the equal weight for its rebalancing.
    """
    weight = signals.equal_weight_returns(close, member)
    cost = signals.equal_weight_costs(close, member, open_cost, close_cost)
    others = {
        "equal_weight": ("the equal weight before its costs", weight),
        "equal_weight_with_cost": ("the equal weight after its own costs", weight - cost),
    }
    wanted = config.backtest_benchmark
    name, series, note = _named(config, store, close)
    if series is None:
        return Benchmark(
            f"the equal weight of each day's members, rebalanced daily{note}", weight, cost, others
        )
    returns = series.reindex(close.index).ffill().pct_change(fill_method=None)
    if returns.iloc[1:].isna().any():
        day = returns.index[1:][returns.iloc[1:].isna()][0]
        raise UserError(
            f"backtest_benchmark {wanted} has no close by {day:%Y-%m-%d}: give one that covers the backtest, or "
            f"{EQUAL_WEIGHT}"
        )
    return Benchmark(
        name, returns, None, {**others, "index": (name, returns)}, _dividend_warning(name, config, store)
    )


def _dividend_warning(name: str, config: Config, store: BarStore) -> tuple[str, ...]:
    """Warn where an index of prices is compared with prices that hold dividends; none for a total return index."""
    wanted = config.backtest_benchmark
    total_return = TOTAL_RETURN.search(wanted) or TOTAL_RETURN.search(name)
    adjusted = config.data_source == "qlib" or any(one["kind"] == FACTOR_CHANGES for one in store.findings)
    if wanted in store.instruments or total_return or not adjusted:
        return ()
    return (
        f"the benchmark {name} is taken to be an index of prices without dividends, while the prices of the bars are "
        "adjusted for them: the excess return over it is too high by the dividend yield, 2 to 3 % a year in many "
        "markets. Compare with the equal weight, or give a total return index.",
    )


def fingerprint(config: Config, store: BarStore) -> str:
    """Return a digest of the benchmark's content where it is read from outside the bar store, else `none`.

    A CSV file counts with its bytes, closes of a Qlib store with their values and days.
    """
    wanted = config.backtest_benchmark
    if _is_csv(wanted):
        path = given_path(wanted)
        return digest_bytes(path.read_bytes())[:16] if path.is_file() else "none"
    stored = (EQUAL_WEIGHT, "auto", store.benchmark_name, *store.instruments)
    series = None if wanted in stored else _from_qlib(config, wanted)
    if series is None:
        return "none"
    days = pd.DatetimeIndex(series.index).to_numpy("datetime64[ns]")
    return digest_bytes(series.to_numpy(dtype=np.float64).tobytes(), days.tobytes())[:16]


def check(config: Config, store: BarStore) -> None:
    """Raise UserError where `backtest_benchmark` names nothing that can be read, before anything is forecast."""
    wanted = config.backtest_benchmark
    if _is_csv(wanted):
        _csv(given_path(wanted))
    elif wanted not in (EQUAL_WEIGHT, "auto", store.benchmark_name, *store.instruments):
        _outside(config, store)


def _is_csv(wanted: str) -> bool:
    return wanted.lower().endswith(".csv")


def _named(config: Config, store: BarStore, close: pd.DataFrame) -> tuple[str, pd.Series | None, str]:
    """Return (clause, closes, note); without closes it is the equal weight, and the note says why it is no index."""
    wanted = config.backtest_benchmark
    if wanted == EQUAL_WEIGHT:
        return "", None, ""
    if wanted == "auto":
        index = INDICES.get(config.instrument.lower()) if config.data_source == "qlib" else None
        if store.benchmark is not None:
            return str(store.benchmark_name), store.benchmark, ""
        return "", None, f" (the index {index} is not among the bars)" if index else ""
    if _is_csv(wanted):
        path = given_path(wanted)
        return f"closes of {path.name}", _csv(path), ""
    if wanted in close.columns:
        return wanted, close[wanted], ""
    if wanted == store.benchmark_name:
        return wanted, store.benchmark, ""
    return wanted, _outside(config, store), ""


def _outside(config: Config, store: BarStore) -> pd.Series:
    """Closes from the Qlib store at `qlib_data_path`. Raises UserError where it has none of this name."""
    wanted = config.backtest_benchmark
    series = _from_qlib(config, wanted)
    if series is None:
        raise UserError(
            f"backtest_benchmark is {wanted!r}: no such instrument among the {len(store.instruments)} stored ones, "
            "nor in a Qlib store at qlib_data_path; give an instrument, a CSV file with datetime and close, "
            f"{EQUAL_WEIGHT} or auto"
        )
    return series


def _from_qlib(config: Config, name: str) -> pd.Series | None:
    try:
        return closes(config.qlib_data_path, name, "day" if config.freq == "auto" else config.freq)
    except UserError:  # no Qlib store there
        return None


def _csv(path: Path) -> pd.Series:
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"backtest_benchmark {path} cannot be read: {error}") from None
    frame.columns = pd.Index([str(name).strip().lower() for name in frame.columns])
    day = next((name for name in ("datetime", "date") if name in frame), None)
    if day is None or "close" not in frame:
        raise UserError(
            f"backtest_benchmark {path} has the columns {', '.join(frame.columns)}: expected datetime (or "
            "date) and close"
        )
    try:
        times = pd.DatetimeIndex(pd.to_datetime(frame[day])).normalize()
        closes = pd.Series(frame["close"].to_numpy(dtype=np.float64), times).sort_index()
    except ValueError as error:
        raise UserError(f"backtest_benchmark {path}: {error}") from None
    if not closes.index.is_unique or not (closes > 0).all():
        raise UserError(f"backtest_benchmark {path}: expected one positive close per day")
    return closes
