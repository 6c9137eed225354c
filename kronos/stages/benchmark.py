"""What a portfolio is compared with: an index, a file of closes, or the equal weight of the universe."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kronos import signals
from kronos.config import Config
from kronos.errors import UserError
from kronos.files import digest_bytes

EQUAL_WEIGHT = "equal_weight"
INDEX_OF = {"csi300": "SH000300", "csi500": "SH000905", "csi800": "SH000906", "csi1000": "SH000852"}


@dataclass(frozen=True)
class Benchmark:
    """Daily returns, and those of the equal weight that stands beside every benchmark."""

    name: str  # a clause of the report's first lines
    returns: pd.Series
    cost: pd.Series | None  # of its own rebalancing; None for an index
    others: dict[
        str, tuple[str, pd.Series]
    ]  # key -> (name, daily returns): what the portfolio is compared with


def benchmark(config: Config, close: pd.DataFrame, member: pd.DataFrame) -> Benchmark:
    """The benchmark that `backtest_benchmark` names, over the sessions of the wide closes."""
    weight = signals.equal_weight_returns(close, member)
    cost = signals.equal_weight_costs(close, member, config.backtest_open_cost, config.backtest_close_cost)
    others = {
        "equal_weight": ("the equal weight before its costs", weight),
        "equal_weight_with_cost": ("the equal weight after its own costs", weight - cost),
    }
    wanted = config.backtest_benchmark
    name, series, note = _named(config, close)
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
    return Benchmark(name, returns, None, {**others, "index": (name, returns)})


def fingerprint(config: Config) -> str:
    """A digest of the benchmark's file, where it comes from one outside the store."""
    path = _file(config)
    return digest_bytes(path.read_bytes())[:16] if path is not None and path.is_file() else "none"


def _file(config: Config) -> Path | None:
    wanted = config.backtest_benchmark
    if wanted.lower().endswith(".csv"):
        return Path(wanted).expanduser()
    name = INDEX_OF.get(config.instrument, "") if wanted == "auto" else wanted
    if not name or name == EQUAL_WEIGHT:
        return None
    return Path(config.qlib_data_path).expanduser() / "features" / name.lower() / "close.day.bin"


def _named(config: Config, close: pd.DataFrame) -> tuple[str, pd.Series | None, str]:
    """(clause, closes, note): no closes means the equal weight; the note says why where an index was due."""
    wanted, path = config.backtest_benchmark, _file(config)
    if wanted == EQUAL_WEIGHT or path is None:
        return "", None, ""
    if wanted.lower().endswith(".csv"):
        return f"closes of {path.name}", _csv(path), ""
    name = INDEX_OF[config.instrument] if wanted == "auto" else wanted
    if name in close.columns:
        return name, close[name], ""
    if path.is_file():
        return name, _qlib_closes(path), ""
    if wanted == "auto":
        return "", None, f" (the index {name} is not among the bars)"
    raise UserError(
        f"backtest_benchmark is {wanted!r}: no such instrument among the {close.shape[1]} stored ones, nor in "
        f"{path.parent.parent}; give an instrument, a CSV file with datetime and close, {EQUAL_WEIGHT} or auto"
    )


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
        raise UserError(f"backtest_benchmark {path}: expected one close above 0 a day")
    return closes


def _qlib_closes(path: Path) -> pd.Series:
    """A Qlib feature file: float32, the first one the place in the calendar where the values begin."""
    values = np.fromfile(path, "<f4").astype(np.float64)
    calendar = path.parent.parent.parent / "calendars" / "day.txt"
    try:
        days = pd.DatetimeIndex(calendar.read_text(encoding="utf-8").split())
    except (OSError, ValueError) as error:
        raise UserError(f"the Qlib calendar {calendar} cannot be read: {error}") from None
    first = int(values[0]) if len(values) else 0
    if len(values) < 2 or first + len(values) - 1 > len(days):
        raise UserError(f"the Qlib file {path} does not fit its calendar of {len(days)} days")
    return pd.Series(values[1:], days[first : first + len(values) - 1]).dropna()
