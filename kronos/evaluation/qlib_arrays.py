"""Quotes and scores for Qlib's simulation from arrays of one cell per instrument and session.

Qlib's own look up every price through slices of labelled frames, which takes most of the time of a simulation. Here a
look-up is an index into an array; the numbers are the same ones, in float32 as Qlib reads them.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.evaluation.qlib_store import MATRICES, load_module, read_calendar


def read_fields(
    store: Path, codes: Sequence[str], fields: Sequence[str], sessions: pd.DatetimeIndex, freq: str
) -> pd.DataFrame:
    """Return fields of a folder of `write_qlib_store` as Qlib's `D.features` does.

    Args:
        store: the folder.
        codes: instruments by the names they have there.
        fields: `$name`, or `$name>0` for a condition.
        sessions: the sessions wanted, consecutive ones of the store's calendar.
        freq: `day`, or a length in minutes.

    Returns:
        A frame of float32 columns (a condition is 0 or 1), indexed by (instrument, datetime), with the sessions from
        the instrument's first bar to its last; NaN where it has no bar between them.
    """
    calendar = read_calendar(store, freq)
    begin = int(calendar.get_indexer(sessions[:1])[0])
    end = begin + len(sessions)
    if (store / MATRICES).is_dir():
        return _read_matrices(store, codes, fields, calendar, begin, end)
    parts = {field: [np.empty(0, dtype=np.float32)] for field in fields}
    rows, stamps = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for row, code in enumerate(codes):
        folder = store / "features" / code.lower()
        if not folder.is_dir():  # a score without bars
            continue
        span = np.empty(0, dtype=np.int64)
        for field in fields:
            values = np.fromfile(folder / f"{field[1:].removesuffix('>0')}.{freq}.bin", dtype="<f4")
            first = int(values[0])
            low, high = max(begin, first), min(end, first + len(values) - 1)
            span = np.arange(low, max(low, high))
            cells = values[1 + span - first]
            parts[field].append((cells > 0).astype(np.float32) if field.endswith(">0") else cells)
        rows.append(np.full(len(span), row))
        stamps.append(span)
    names = np.asarray(codes, dtype=object)[np.concatenate(rows)]
    index = pd.MultiIndex.from_arrays(
        [names, calendar[np.concatenate(stamps)]], names=["instrument", "datetime"]
    )
    return pd.DataFrame({field: np.concatenate(cells) for field, cells in parts.items()}, index=index)


def _read_matrices(
    store: Path, codes: Sequence[str], fields: Sequence[str], calendar: pd.DatetimeIndex, begin: int, end: int
) -> pd.DataFrame:
    """Return what `read_fields` does, from a store written with `matrices`."""
    lines = (store / "instruments" / "all.txt").read_text(encoding="utf-8").splitlines()
    row_of = {line.split("\t", 1)[0]: row for row, line in enumerate(lines)}
    names = [code for code in codes if code in row_of]
    rows = np.array([row_of[code] for code in names], dtype=np.int64)
    first, stop = np.load(store / MATRICES / "span.npy")[rows].T
    low, high = np.maximum(first, begin), np.minimum(stop, end)
    length = np.maximum(high - low, 0)
    row = np.repeat(rows, length)
    column = np.arange(length.sum()) - np.repeat(length.cumsum() - length - low, length)
    found = {}
    for field in fields:
        matrix = np.load(store / MATRICES / f"{field[1:].removesuffix('>0')}.npy", mmap_mode="r")
        cells = np.asarray(matrix[row, column])
        found[field] = (cells > 0).astype(np.float32) if field.endswith(">0") else cells
    index = pd.MultiIndex.from_arrays(
        [np.repeat(np.asarray(names, dtype=object), length), calendar[column]],
        names=["instrument", "datetime"],
    )
    return pd.DataFrame(found, index=index)


def store_exchange(store: Path, sessions: pd.DatetimeIndex, **settings: Any) -> Any:
    """Return Qlib's Exchange over a folder of `write_qlib_store`, inside `initialised`.

    Takes the `settings` of Qlib's Exchange other than `start_time`, `end_time` and `quote_cls`. It answers for one
    session at a time, as a simulation asks that trades bar by bar.
    """
    base: Any = load_module("qlib.backtest.exchange").Exchange

    class StoreExchange(base):
        def get_quote_from_qlib(self) -> None:
            self.quote_df = read_fields(store, self.codes, self.all_fields, sessions, self.freq)
            self.trade_w_adj_price = False  # `factor` is 1 wherever there is a close
            self._update_limit(self.limit_threshold)

    return StoreExchange(
        start_time=sessions[0], end_time=sessions[-1], quote_cls=_array_quote(sessions), **settings
    )


def _array_quote(sessions: pd.DatetimeIndex) -> type:
    base: Any = load_module("qlib.backtest.high_performance_ds").BaseQuote

    class ArrayQuote(base):
        """Values of a frame of quotes by instrument and session; `get_data` answers as Qlib's NumpyQuote does."""

        def __init__(self, quote_df: pd.DataFrame, freq: str) -> None:
            super().__init__(quote_df=quote_df, freq=freq)
            row, names = pd.factorize(quote_df.index.get_level_values("instrument"))
            self._rows = {str(name): place for place, name in enumerate(names)}
            column = sessions.get_indexer(pd.DatetimeIndex(quote_df.index.get_level_values("datetime")))
            self._known = np.zeros((len(names), len(sessions)), dtype=bool)
            self._known[row, column] = True
            self._values = {}
            for field in quote_df.columns:
                values = quote_df[field].to_numpy()
                self._values[field] = np.zeros(self._known.shape, dtype=values.dtype)
                self._values[field][row, column] = values
            self._steps: dict[tuple[pd.Timestamp, pd.Timestamp], int | None] = {}

        def get_all_stock(self) -> dict[str, int]:
            return self._rows

        def get_data(
            self, stock_id: str, start_time: Any, end_time: Any, field: str, method: str | None = None
        ) -> Any:
            step = (start_time, end_time)
            if step not in self._steps:
                self._steps[step] = only_one(sessions, start_time, end_time)
            row, column = self._rows.get(stock_id), self._steps[step]
            if row is None or column is None or not self._known[row, column]:
                return None
            value = self._values[field].item(row, column)
            # a last value is one that is known, as over longer steps; every other method gives the one value
            return None if method == "ts_data_last" and math.isnan(value) else value

    return ArrayQuote


def day_scores(score: pd.Series) -> Any:
    """Return scores, indexed (datetime, instrument), as a signal of Qlib's that is looked up by its day."""
    base: Any = load_module("qlib.backtest.signal").Signal
    ordered = score.sort_index()
    days, begins = np.unique(ordered.index.get_level_values("datetime"), return_index=True)
    ends = [*begins[1:], len(ordered)]
    times = pd.DatetimeIndex(days)
    # labels as Python's own strings, which pandas compares faster than those of an Arrow array
    names = ordered.index.get_level_values("instrument").to_numpy(dtype=object)
    values = ordered.to_numpy()

    class DayScores(base):
        def get_signal(self, start_time: pd.Timestamp, end_time: pd.Timestamp) -> pd.Series | None:
            place = only_one(times, start_time, end_time)
            if place is None:
                return None
            part = slice(begins[place], ends[place])
            return pd.Series(values[part], pd.Index(names[part], dtype=object, name="instrument"))

    return DayScores()


def only_one(times: pd.DatetimeIndex, begin: pd.Timestamp, end: pd.Timestamp) -> int | None:
    """Return the place of the one time within begin..end, None where there is none.

    Raises ValueError for several: a step of the simulation is one session.
    """
    low, high = times.searchsorted(begin, side="left"), times.searchsorted(end, side="right")
    if high - low > 1:
        raise ValueError(f"{high - low} sessions between {begin} and {end}, at most one was expected")
    return int(low) if high > low else None
