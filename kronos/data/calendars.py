"""Trading calendars: when an exchange is open, by day or by bar, and the time features that the model sees.

Beyond the last day that a calendar has records for, its sessions are weekdays: `known_end` says where that begins.
"""

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from kronos.utils.errors import UserError

NAMES = ("XNYS", "XSHG", "XHKG", "24/7", "weekdays")
ROUND_THE_CLOCK = {"24/7": "D", "weekdays": "B"}  # no exchange: each (week)day, from midnight to midnight
MINUTES = {"1min": 1, "5min": 5, "15min": 15, "30min": 30, "60min": 60}
LABELS = ("end", "start")  # which end of its interval a bar within a day is named by
DAY_MINUTES = 24 * 60
FOREVER = pd.Timestamp(
    "2200-12-31"
)  # no bound in the package: its rules hold as long as a time stamp can say


def sessions(name: str, begin: Any, end: Any, freq: str = "day", label: str = "end") -> pd.DatetimeIndex:
    """The sessions on the days begin..end, both included, on the exchange's own clock, without time zone.

    With `freq="day"` a session is a day (midnight); else it is a bar, named by the `label` of its interval. Past the
    calendar's known end they are weekdays. Raises UserError for an unknown calendar and for days before its start.
    """
    first, last = pd.Timestamp(begin).normalize(), pd.Timestamp(end).normalize()
    if freq == "day":
        return _days(name, first, last)
    before = first - pd.Timedelta(days=1) if name in ROUND_THE_CLOCK else first
    bars = _bars(name, _days(name, before, last), MINUTES[freq], label)
    after = last + pd.Timedelta(days=1)
    return bars[bars.searchsorted(first) : bars.searchsorted(after)]


def next_sessions(
    name: str, after: Any, count: int, freq: str = "day", label: str = "end"
) -> pd.DatetimeIndex:
    """The first `count` sessions later than `after`."""
    start = pd.Timestamp(after)
    bars_a_day = 1 if freq == "day" else max(DAY_MINUTES // MINUTES[freq] // 8, 1)
    days = 2 * (count // bars_a_day) + 30  # closures beyond this do not happen in a row
    begin = start + pd.Timedelta(days=1) if freq == "day" else start
    found = sessions(name, begin, start + pd.Timedelta(days=days), freq, label)
    return found[found > start][:count]


def known_end(name: str) -> pd.Timestamp:
    """The last day that the calendar has rules or records for; later sessions are weekdays."""
    return FOREVER if name in ROUND_THE_CLOCK else known_range(name)[1]


def timezone(name: str) -> Any:
    """The time zone of the exchange's clock; UTC for calendars without an exchange."""
    return "UTC" if name in ROUND_THE_CLOCK else _registered(name).tz


def time_features(times: Any) -> np.ndarray:
    """Minute, hour, weekday (Monday 0), day, month of each time: int64 [..., 5] for int64 ns or datetimes [...]."""
    array = np.asarray(times)
    index = pd.DatetimeIndex(array.reshape(-1).astype("datetime64[ns]"))
    stacked = np.stack([index.minute, index.hour, index.day_of_week, index.day, index.month], axis=-1).astype(
        "int64"
    )
    return stacked.reshape(*array.shape, 5)


@lru_cache
def known_range(name: str) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First and last day that the calendar has rules or records for."""
    calendar = _registered(name)
    earliest, latest = calendar.bound_min(), calendar.bound_max()
    return (
        earliest if earliest is not None else pd.Timestamp("1900-01-01"),
        latest if latest is not None else FOREVER,
    )


def _days(name: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
    if name in ROUND_THE_CLOCK:
        return pd.date_range(first, last, freq=ROUND_THE_CLOCK[name]).as_unit("ns")
    earliest, latest = known_range(name)
    if first < earliest:
        raise UserError(
            f"calendar {name} is known from {earliest:%Y-%m-%d}, asked for {first:%Y-%m-%d}..{last:%Y-%m-%d}: "
            "begin later, or give --calendar weekdays"
        )
    days = pd.DatetimeIndex([]).as_unit("ns")
    if first <= latest:
        # Whole years, so that nearby requests share one cached calendar.
        opened = pd.DatetimeIndex(_schedule(name, first.year, min(last, latest).year).index)
        days = opened[opened.searchsorted(first) : opened.searchsorted(last, side="right")]
    if last > latest:
        after = pd.date_range(max(first, latest + pd.Timedelta(days=1)), last, freq="B").as_unit("ns")
        days = pd.DatetimeIndex(days.append(after))
    return days


def _bars(name: str, days: pd.DatetimeIndex, step: int, label: str) -> pd.DatetimeIndex:
    """Every bar of `days`: each stretch of trading is cut into steps, the last one ending where it ends."""
    if not len(days):
        return days
    table = []
    for opens, closes in _stretches(name, days):
        places = np.arange(-(-int((closes - opens).max()) // step))
        starts = opens[:, None] + step * places
        ends = np.minimum(starts + step, closes[:, None])
        minutes = np.where(starts < closes[:, None], ends if label == "end" else starts, -1)
        table.append(minutes)
    minutes = np.concatenate(table, axis=1)
    midnight = days.as_unit("ns").asi8[:, None]
    times = (midnight + minutes.astype(np.int64) * 60 * 10**9)[minutes >= 0]
    return pd.DatetimeIndex(np.sort(times).astype("datetime64[ns]"))


def _stretches(name: str, days: pd.DatetimeIndex) -> list[tuple[np.ndarray, np.ndarray]]:
    """(opening, closing) minutes since midnight of each stretch of trading: two where there is a lunch break."""
    if name in ROUND_THE_CLOCK:
        return [(np.zeros(len(days), np.int64), np.full(len(days), DAY_MINUTES, np.int64))]
    latest = min(days[-1], known_range(name)[1])
    hours = _schedule(name, min(days[0], latest).year, latest.year)
    # A day past the known end keeps the hours of the last known one.
    place = np.minimum(hours.index.searchsorted(days), len(hours) - 1)
    opens, pause, resume, closes = (hours[column].to_numpy()[place] for column in hours)
    has_break = pause >= 0
    first = (opens, np.where(has_break, pause, closes))
    return [first, (np.where(has_break, resume, closes), closes)] if has_break.any() else [first]


@lru_cache
def _registered(name: str) -> Any:
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return type(exchange_calendars.get_calendar(name))
    except InvalidCalendarName:
        raise UserError(
            f"no calendar {name!r}: choose one of {', '.join(NAMES)}, or another name of exchange_calendars"
        ) from None


@lru_cache
def _schedule(name: str, first_year: int, last_year: int) -> pd.DataFrame:
    """Minutes since midnight of opening, break and closing (-1: no break) by day."""
    earliest, latest = known_range(name)
    start = max(pd.Timestamp(first_year, 1, 1), earliest)
    end = min(pd.Timestamp(last_year, 12, 31), latest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package uses names that pandas is about to drop
        calendar = _registered(name)(start=start, end=end)
    days = pd.DatetimeIndex(calendar.sessions).tz_localize(None).as_unit("ns")
    table = {}
    for column in ("open", "break_start", "break_end", "close"):
        local = calendar.schedule[column].dt.tz_convert(calendar.tz).dt.tz_localize(None).to_numpy()
        minutes = (local - days.to_numpy()) / np.timedelta64(1, "m")
        table[column] = np.where(np.isnan(minutes), -1, minutes).astype(np.int64)
    return pd.DataFrame(table, index=days)
