"""Forecast points: where a forecast is made, its context, and the times that it is for.

Shapes: n forecasts, L bars of context, H bars of horizon, F features of a bar.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES, Flag
from kronos.data.calendars import next_sessions, time_features
from kronos.data.splits import session_range
from kronos.data.store import BarStore
from kronos.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class ForecastPoints:
    """The (day, instrument) pairs to forecast, by session then instrument, and the excluded ones with the reason.

    `excluded` has columns instrument, datetime, session, reason; together they are all pairs of the range.
    """

    row: np.ndarray  # int64 [n]: the store's row of the last bar seen (as_of)
    instrument: np.ndarray  # int32 [n]: place in store.instruments
    session: np.ndarray  # int32 [n]: place in store.sessions
    excluded: pd.DataFrame

    def __len__(self) -> int:
        return len(self.row)

    def subset(self, chosen: np.ndarray) -> "ForecastPoints":
        """The points of a mask or of places; `excluded` stays as it is."""
        return replace(
            self, row=self.row[chosen], instrument=self.instrument[chosen], session=self.session[chosen]
        )


def forecast_points(
    store: BarStore, begin: date, end: date, lookback: int, horizon: int = 0
) -> ForecastPoints:
    """Return every real bar of a member in begin..end that ends `lookback` consecutive bars.

    Where windows stay within a day (`store.across_days` is False) the `horizon` must end on the bar's day too. No
    later bar is used: an instrument that is delisted the next day is forecast like any other.
    """
    first, last = session_range(store, begin, end)
    days, width = max(last - first + 1, 0), len(store.instruments)
    row_of = np.full((days, width), -1, np.int64)
    rows = np.flatnonzero((store.session >= first) & (store.session <= last))
    row_of[np.asarray(store.session)[rows] - first, store.instrument_of_row[rows]] = rows

    flags = np.asarray(store.flags)[row_of]
    reasons = np.select(
        [
            row_of < 0,
            (flags & Flag.FILLED) > 0,
            (flags & Flag.NONMEMBER) > 0,
            store.history[row_of] < lookback,
            np.broadcast_to(_leaves_the_day(store, first, days, horizon)[:, None], row_of.shape),
        ],
        [1, 2, 3, 4, 5],
        0,
    )
    words = np.array(
        [
            "", "no bar", "no bar, filled", "not a member", f"fewer than {lookback} bars in a row",
            f"the next {horizon} bars leave the day",
        ],
        dtype=object,
    )  # fmt: skip
    day, instrument = np.nonzero(reasons == 0)
    out_day, out_instrument = np.nonzero(reasons)
    excluded = pd.DataFrame(
        {
            "instrument": np.array(store.instruments, dtype=object)[out_instrument],
            "datetime": store.sessions[first + out_day].astype("datetime64[ns]"),
            "session": (first + out_day).astype(np.int32),
            "reason": words[reasons[out_day, out_instrument]],
        }
    )
    return ForecastPoints(
        row=row_of[day, instrument],
        instrument=instrument.astype(np.int32),
        session=(first + day).astype(np.int32),
        excluded=excluded,
    )


def _leaves_the_day(store: BarStore, first: int, count: int, horizon: int) -> np.ndarray:
    """Return whether the horizon of each of `count` sessions from `first` on ends on another day."""
    if store.across_days or not horizon:
        return np.zeros(count, bool)
    places = np.minimum(np.arange(first, first + count) + horizon, len(store.sessions) - 1)
    return np.asarray(store.day[places] != store.day[first : first + count])


def latest_points(store: BarStore, lookback: int) -> ForecastPoints:
    """Return the last session's point of every instrument whose last `lookback` bars are consecutive."""
    last = pd.Timestamp(int(store.sessions[store.last_session]))
    points = forecast_points(store, last.date(), last.date(), lookback)
    at_last = points.session == store.last_session  # within a day, the last bar only
    points = ForecastPoints(
        points.row[at_last], points.instrument[at_last], points.session[at_last],
        points.excluded[points.excluded["session"] == store.last_session],
    )  # fmt: skip
    if not len(points):
        raise UserError(f"nothing to forecast: no instrument has {lookback} bars in a row that end on {last}")
    return points


def contexts(
    store: BarStore,
    rows: np.ndarray,
    lookback: int,
    columns: Sequence[str] = FEATURES,
    stamps: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `lookback` bars that end in each row: raw float32 [n, L, F] and their time features int64 [n, L, 5].

    `stamps` int64 [S, K] are other time features of every session.
    Raises UserError where a row has fewer bars in a row than that (see `forecast_points`).
    """
    rows = np.asarray(rows, np.int64)
    short = store.history[rows] < lookback
    if short.any():
        row = int(rows[short][0])
        raise UserError(
            f"{store.instruments[store.instrument_of_row[row]]} on {pd.Timestamp(store.times[row]):%Y-%m-%d} has "
            f"{store.history[row]} bars in a row, lookback {lookback} needs as many ({int(short.sum())} such points)"
        )
    return gather_bars(store, rows - lookback + 1, lookback, columns), gather(
        store.stamps if stamps is None else stamps, store.session[rows] - lookback + 1, lookback
    )


def context_rows(rows: np.ndarray, lookback: int) -> np.ndarray:
    """Return the rows of the `lookback` bars that end in each row, int64 [n, L]."""
    return np.asarray(rows, np.int64)[:, None] + np.arange(1 - lookback, 1)


def gather(table: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Copy `length` rows from each start: [n, length, columns], one block of memory per window."""
    rows, columns = table.shape
    windows = np.lib.stride_tricks.as_strided(
        table,
        shape=(max(rows - length + 1, 0), length, columns),
        strides=(table.strides[0], *table.strides),
        writeable=False,
    )
    return np.asarray(windows[starts])


def gather_bars(store: BarStore, starts: np.ndarray, length: int, columns: Sequence[str]) -> np.ndarray:
    """Copy `length` bars from each start, with these columns: float32 [n, length, F].

    Raises UserError for a column that the store does not have.
    """
    if tuple(columns) == FEATURES:
        return gather(store.values, starts, length)
    return np.stack(
        [gather(store.column(name)[:, None], starts, length)[..., 0] for name in columns], axis=-1
    )


def future_stamps(store: BarStore, sessions_n: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the next `horizon` sessions after each session: time features int64 [n, H, 5] and times int64 ns [n, H].

    They come from the exchange's calendar, never from later bars.
    """
    places = np.asarray(sessions_n, np.int64)[:, None] + np.arange(1, horizon + 1)
    sessions, stamps = store.sessions, store.stamps
    lacking = int(places.max(initial=0)) + 1 - len(sessions)
    if lacking > 0:
        more = next_sessions(store.calendar, pd.Timestamp(sessions[-1]), lacking, store.freq, store.label)
        sessions = np.append(sessions, more.as_unit("ns").asi8)
        stamps = np.concatenate([stamps, time_features(more)])
    return stamps[places], sessions[places]
