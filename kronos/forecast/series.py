"""Check the input of one series: bars as a DataFrame, the times of the bars and the times to forecast."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES, PRICES, rename_aliases
from kronos.data.calendars import time_features
from kronos.data.conditions import from_frame
from kronos.data.time_features import time_table
from kronos.utils.errors import UserError


@dataclass(frozen=True)
class Series:
    """One series ready to forecast: bars float64 [L, F], stamps int64 [L, K] and [H, K], the future index.

    `conditions` float32 [L, C] are those of its bars, None for a predictor without any.
    """

    bars: np.ndarray
    stamps: np.ndarray
    future_stamps: np.ndarray
    future: pd.DatetimeIndex
    conditions: np.ndarray | None = None


def check_series(
    frame: Any,
    x_timestamp: Any,
    y_timestamp: Any,
    horizon: int,
    name: str,
    conditions: Sequence[Mapping[str, Any]] | None = None,
    columns: Sequence[str] = FEATURES,
    described: Mapping[str, Any] | None = None,
) -> Series:
    """Check one series; `name` is what messages call it.

    `columns` are those of the tokenizer, `conditions` describe those of the predictor, `described` its time features
    (None: the usual five). A condition that the frame does not have is missing; of a category that the predictor does
    not know a warning is given. Raises UserError at the first mistake.
    """
    bars = _bars(frame, name, columns)
    past, future = _times(x_timestamp, f"{name}: x_timestamp"), _times(y_timestamp, f"{name}: y_timestamp")
    if len(past) != len(bars):
        raise UserError(f"{name}: {len(bars)} bars but {len(past)} times in x_timestamp: give one per bar")
    if len(future) != horizon:
        raise UserError(
            f"{name}: {len(future)} times in y_timestamp but pred_len is {horizon}: make them equal"
        )
    if (past.tz is None) != (future.tz is None):
        raise UserError(f"{name}: only one of x_timestamp and y_timestamp has a time zone: give both or none")
    if future[0] <= past[-1]:
        raise UserError(f"{name}: y_timestamp begins at {future[0]}, expected after the last bar, {past[-1]}")
    known = None if conditions is None else _conditions(frame, conditions, name)
    stamps, ahead = (_stamps(times, described) for times in (past, future))
    return Series(bars, stamps, ahead, future, known)


def _conditions(frame: pd.DataFrame, columns: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    try:
        found, unknown = from_frame(rename_aliases(frame), columns)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    for column, categories in unknown.items():
        warnings.warn(
            f"{name}: {column} has values that the predictor does not know ({', '.join(categories[:3])}"
            f"{' and more' * (len(categories) > 3)}): they count as missing",
            stacklevel=4,
        )
    return found


def _bars(frame: Any, name: str, columns: Sequence[str]) -> np.ndarray:
    """Return the columns in the order of the model, volume and amount filled in as the public code does."""
    if not isinstance(frame, pd.DataFrame):
        raise UserError(f"{name} is a {type(frame).__name__}, expected a DataFrame of bars")
    frame = rename_aliases(frame)
    filled_in = [column for column in ("volume", "amount") if column in columns]
    needed = [column for column in columns if column not in filled_in]
    if missing := [column for column in needed if column not in frame]:
        known = f", and {' and '.join(filled_in)} where known" if filled_in else ""
        raise UserError(
            f"{name} has no column {', '.join(missing)}: expected {' '.join(needed)}{known}; it has "
            f"{', '.join(map(str, frame.columns)) or 'none'}"
        )
    if len(frame) < 2:
        raise UserError(f"{name} has {len(frame)} bars, expected at least 2 (a few dozen to be of use)")
    wanted = dict.fromkeys((*columns, "volume") if "amount" in columns else columns)
    found = {column: _numbers(frame[column], name) for column in wanted if column in frame}
    if "volume" not in found:
        if tuple(columns) == FEATURES:
            found.pop("amount", None)  # the public code takes both for unknown
        found["volume"] = np.zeros(len(frame))
    if "amount" not in found:
        found["amount"] = found["volume"] * np.mean([found[column] for column in PRICES], axis=0)
    return np.stack([found[column] for column in columns], axis=-1)


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    try:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise UserError(
            f"{name}: column {column.name} holds {column.dtype} values, expected numbers"
        ) from None
    bad = ~np.isfinite(values)
    if bad.any():
        first = int(np.argmax(bad))
        raise UserError(
            f"{name}: {column.name} is {values[first]} at {column.index[first]} ({int(bad.sum())} such bars): "
            "fill or drop them first"
        )
    return values


def _times(given: Any, name: str) -> pd.DatetimeIndex:
    """Return an increasing DatetimeIndex from an index, Series, array or list of times."""
    try:
        times = pd.DatetimeIndex(given)
    except (TypeError, ValueError):
        raise UserError(
            f"{name} cannot be read as times: give a DatetimeIndex or a Series of times"
        ) from None
    if times.hasnans:
        raise UserError(f"{name} holds a missing time (NaT) at place {int(np.argmax(times.isna()))}")
    falls = np.flatnonzero(times[1:] <= times[:-1])
    if len(falls):
        before, after = times[falls[0]], times[falls[0] + 1]
        raise UserError(f"{name} does not rise: {before} is followed by {after} ({len(falls)} such places)")
    if not len(times):
        raise UserError(f"{name} is empty: give one time per bar")
    return times


def _stamps(times: pd.DatetimeIndex, described: Mapping[str, Any] | None) -> np.ndarray:
    """Return int64 [T, K]: minute, hour, weekday, day, month by the clock of the index's own time zone, or others."""
    clock = times.tz_localize(None).as_unit("ns")
    if described is None:
        return time_features(clock)
    names, *of_bars = (described[key] for key in ("names", "calendar", "freq", "label"))
    return time_table(clock.asi8, names, *of_bars)
