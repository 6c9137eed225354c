"""Qlib's Alpha158 features of many instruments at once.

Qlib evaluates its 158 expressions for one instrument at a time, and most of that time goes into making small Series.
Here Qlib's own operators evaluate each expression once for all instruments, written one below the other in a Series
whose windows and shifts end where an instrument begins.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.indexers import BaseIndexer

from kronos.evaluation.qlib_arrays import read_fields
from kronos.evaluation.qlib_store import load_module, read_calendar
from kronos.utils.names import file_name

FIELDS = ("open", "high", "low", "close", "volume", "vwap")  # that the expressions read


def alpha158(
    path: Path, instruments: Sequence[str], begin: pd.Timestamp, end: pd.Timestamp, freq: str = "day"
) -> pd.DataFrame:
    """Return Qlib's Alpha158 features of a folder of `write_qlib_store`, inside `initialised`.

    They equal `D.features` of the same expressions bit for bit. A call needs about 4 kB of memory for each session of
    each instrument.

    Args:
        path: the folder.
        instruments: names, as in the bars that were written there.
        begin: the first session.
        end: the last session.
        freq: `day`, or a length in minutes.

    Returns:
        A frame with one float32 column per feature, indexed by (instrument, datetime).
    """
    calendar = read_calendar(path, freq)
    first, last = int(calendar.searchsorted(begin)), int(calendar.searchsorted(end, side="right"))
    fields, names = load_module("qlib.contrib.data.loader").Alpha158DL.get_feature_config({
        "kbar": {}, "price": {"windows": [0], "feature": ["OPEN", "HIGH", "LOW", "VWAP"]}, "rolling": {},
    })  # fmt: skip
    codes = {file_name(name): name for name in instruments}
    # As in Qlib each expression begins as many sessions early as its windows are long: the rounding of running sums
    # depends on where they begin, and where prices stand still a feature may be nothing but rounding.
    early = np.array([_expression(field, _operators([])).get_extended_window_size()[0] for field in fields])
    raw = sorted({name for field in fields for name in re.findall(r"\$\w+", field)})
    bars = read_fields(path, list(codes), raw, calendar[max(0, first - int(early.max())) : last], freq)
    session = calendar.get_indexer(pd.DatetimeIndex(bars.index.get_level_values("datetime")))
    wanted = session >= first
    found = np.empty((int(wanted.sum()), len(fields)), dtype=np.float32, order="F")  # written by column
    for length in np.unique(early):
        read, columns = session >= first - length, np.flatnonzero(early == length)
        if not read.any():
            continue
        evaluated = _evaluated(bars[read], [fields[column] for column in columns])
        for column, values in zip(columns, evaluated, strict=True):
            found[:, column] = values[wanted[read]]
    features = pd.DataFrame(found, index=bars.index[wanted], columns=pd.Index(names))
    return features.rename(index=codes, level="instrument")


def _expression(field: str, operators: Mapping[str, type]) -> Any:
    """Return an expression made of these operators, as Qlib makes them of its own."""
    return eval(load_module("qlib.utils").parse_field(field), {"Operators": SimpleNamespace(**operators)})


def _evaluated(bars: pd.DataFrame, fields: Sequence[str]) -> Iterator[np.ndarray]:
    """Yield the values of each expression, one for each row of the bars."""
    cache = load_module("qlib.data.cache").H["f"]
    codes = pd.factorize(bars.index.get_level_values("instrument"))[0]
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    operators = {**_operators(begins), "Feature": _feature_of(bars, begins)}
    try:
        for field in fields:
            # the arguments only name the entry in Qlib's cache, which keeps what expressions share
            series = _expression(field, operators).load("all", 0, len(bars) - 1, "joined")
            yield np.asarray(series, dtype=np.float32)
    finally:
        cache.clear()


def _feature_of(bars: pd.DataFrame, begins: np.ndarray) -> type:
    """Return a class in place of Qlib's Feature whose bars are the given ones."""
    base: Any = load_module("qlib.data.base").Feature
    series = _joined_series(begins, len(bars))

    class JoinedFeature(base):
        def _load_internal(self, *place: Any) -> pd.Series:
            return series(bars[str(self)].to_numpy())

    return JoinedFeature


def _joined_series(begins: np.ndarray, rows: int) -> type[pd.Series]:
    """Return a class of Series whose windows and shifts end where an instrument begins."""
    row = np.arange(rows)
    start = np.repeat(begins, np.diff(begins, append=rows))

    class Windows(BaseIndexer):
        window_size: int

        def get_window_bounds(
            self,
            num_values: int = 0,
            min_periods: int | None = None,
            center: bool | None = None,
            closed: str | None = None,
            step: int | None = None,
        ) -> tuple[np.ndarray, np.ndarray]:
            return np.maximum(row + 1 - self.window_size, start), row + 1

    class JoinedSeries(pd.Series):
        @property
        def _constructor(self) -> Any:
            return JoinedSeries

        def rolling(self, window: int, min_periods: int) -> Any:  # type: ignore[override]
            return super().rolling(Windows(window_size=window), min_periods=min_periods)

        def shift(self, periods: int) -> pd.Series:  # type: ignore[override]
            return super().shift(periods).where(row - start >= periods)

    return JoinedSeries


def _operators(begins: Sequence[int] | np.ndarray) -> dict[str, type]:
    """Return Qlib's operators; those that read plain arrays go from instrument to instrument."""
    ops = load_module("qlib.data.ops")
    operators = {kind.__name__: kind for kind in ops.OpsList}

    def each(function: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[pd.Series, int], np.ndarray]:
        def joined(series: pd.Series, window: int) -> np.ndarray:
            parts = np.split(series.to_numpy(), begins[1:])
            return np.concatenate([function(part, window) for part in parts])

        return joined

    def position(argument: str) -> Callable[[pd.Series, int], np.ndarray]:
        def joined(series: pd.Series, window: int) -> np.ndarray:
            values = series.to_numpy(dtype=np.float64)
            parts = np.split(values, begins[1:])
            found = np.concatenate([_positions(part, window, argument) for part in parts])
            return np.where(series.rolling(window, min_periods=1).count() > 0, found, np.nan)

        return joined

    def replaced(
        name: str, compute: Callable[[pd.Series, int], np.ndarray], least: float | None = None
    ) -> type:
        base: Any = operators[name]

        class Joined(base):
            def _load_internal(self, *place: Any) -> pd.Series:
                series = self.feature.load(*place)
                found = pd.Series(compute(series, self.N), index=series.index)
                if least is not None:
                    spread = series.rolling(self.N, min_periods=1).std()
                    found[np.isclose(spread, 0, atol=least)] = np.nan
                return found

        Joined.__name__ = name  # by which Qlib's cache knows it
        return Joined

    return {
        **operators,
        "Slope": replaced("Slope", each(ops.rolling_slope)),
        "Rsquare": replaced("Rsquare", each(ops.rolling_rsquare), least=2e-5),
        "Resi": replaced("Resi", each(ops.rolling_resi)),
        "IdxMax": replaced("IdxMax", position("argmax")),
        "IdxMin": replaced("IdxMin", position("argmin")),
    }


def _positions(values: np.ndarray, window: int, argument: str) -> np.ndarray:
    """Return the position, from 1, of the largest (`argmax`) or least (`argmin`) value in each window."""
    found = np.empty(len(values))
    for row in range(min(window - 1, len(values))):
        found[row] = getattr(values[: row + 1], argument)()
    if len(values) >= window:
        windows = np.lib.stride_tricks.sliding_window_view(values, window)
        found[window - 1 :] = getattr(windows, argument)(axis=1)
    return found + 1
