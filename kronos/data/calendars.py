"""Trading calendars: the sessions of an exchange, by day or by bar, and the time features that the model sees.

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
LABELS = ("end", "start")  # which end of its interval a bar within a day is labelled by
DAY_MINUTES = 24 * 60
FOREVER = pd.Timestamp("2200-12-31")  # where the package sets no bound to its rules


def sessions(name: str, begin: Any, end: Any, freq: str = "day", label: str = "end") -> pd.DatetimeIndex:
    """Return the sessions on the days begin..end, both included, in the exchange's local time, without time zone.

    With `freq="day"` a session is a day (midnight); otherwise it is a bar, labelled by the start or end of its
    interval. Past the calendar's known end sessions are weekdays. Raises UserError for an unknown calendar and for
    days before its start.
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
    """Return the first `count` sessions later than `after`."""
    start = pd.Timestamp(after)
    bars_per_day = 1 if freq == "day" else max(DAY_MINUTES // MINUTES[freq] // 8, 1)
    days = 2 * (count // bars_per_day) + 30  # no exchange is closed for longer
    begin = start + pd.Timedelta(days=1) if freq == "day" else start
    found = sessions(name, begin, start + pd.Timedelta(days=days), freq, label)
    return found[found > start][:count]


def known_end(name: str) -> pd.Timestamp:
    """Return the last day that the calendar has rules or records for; later sessions are weekdays."""
    return FOREVER if name in ROUND_THE_CLOCK else known_range(name)[1]


def timezone(name: str) -> Any:
    """Return the time zone of the exchange; UTC for calendars without an exchange."""
    return "UTC" if name in ROUND_THE_CLOCK else _registered(name).tz


def time_features(times: Any) -> np.ndarray:
    """Return minute, hour, weekday (Monday 0), day and month: int64 [..., 5] for int64 ns or datetimes [...]."""
    array = np.asarray(times)
    index = pd.DatetimeIndex(array.reshape(-1).astype("datetime64[ns]"))
    stacked = np.stack([index.minute, index.hour, index.day_of_week, index.day, index.month], axis=-1).astype(
        "int64"
    )
    return stacked.reshape(*array.shape, 5)


@lru_cache
def known_range(name: str) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first and last day that the calendar has rules or records for."""
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
        opened = _exchange(name, first, last).sessions.tz_localize(None).as_unit("ns")
        days = opened[opened.searchsorted(first) : opened.searchsorted(last, side="right")]
    if last > latest:
        after = pd.date_range(max(first, latest + pd.Timedelta(days=1)), last, freq="B").as_unit("ns")
        days = pd.DatetimeIndex(days.append(after))
    return days


def _bars(name: str, days: pd.DatetimeIndex, step: int, label: str) -> pd.DatetimeIndex:
    """Return every bar of `days`; the last one before a break or the close ends there, however short it is."""
    if not len(days):
        return days
    if name in ROUND_THE_CLOCK:
        return _same_hours(days, np.arange(0, DAY_MINUTES, step) + (step if label == "end" else 0))
    latest = known_range(name)[1]
    known, later = days[days <= latest], days[days > latest]
    usual = known if len(known) else _days(name, latest - pd.Timedelta(days=30), latest)[-1:]
    bars = _known_bars(name, usual, step, label)
    if not len(later):
        return bars
    after = _same_hours(later, _minutes(bars, usual[-1]))  # the hours of the last known day
    return pd.DatetimeIndex(bars.append(after)) if len(known) else after


def _known_bars(name: str, days: pd.DatetimeIndex, step: int, label: str) -> pd.DatetimeIndex:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = _exchange(name, days[0], days[-1]).trading_index(
            days[0], days[-1], f"{step}min", intervals=False, closed="right" if label == "end" else "left",
            force_close=True, force_break_close=True,
        )  # fmt: skip
    return pd.DatetimeIndex(index.tz_convert(timezone(name)).tz_localize(None)).as_unit("ns")


def _minutes(bars: pd.DatetimeIndex, day: pd.Timestamp) -> np.ndarray:
    """Return the minutes since midnight of the bars of one day."""
    return ((bars[bars >= day] - day) // pd.Timedelta(minutes=1)).to_numpy()


def _same_hours(days: pd.DatetimeIndex, minutes: np.ndarray) -> pd.DatetimeIndex:
    """Return bars at the same minutes since midnight on each day."""
    times = days.as_unit("ns").asi8[:, None] + minutes.astype(np.int64) * 60 * 10**9
    return pd.DatetimeIndex(times.reshape(-1).astype("datetime64[ns]"))


def _exchange(name: str, first: pd.Timestamp, last: pd.Timestamp) -> Any:
    """Return the calendar of an exchange for the whole years of first..last, so that nearby requests share one."""
    latest = known_range(name)[1]
    return _exchange_of_years(name, min(first, latest).year, min(last, latest).year)


@lru_cache
def _exchange_of_years(name: str, first_year: int, last_year: int) -> Any:
    earliest, latest = known_range(name)
    start = max(pd.Timestamp(first_year, 1, 1), earliest)
    end = min(pd.Timestamp(last_year, 12, 31), latest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package uses names that pandas is about to drop
        return _registered(name)(start=start, end=end)


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
