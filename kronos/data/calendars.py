"""Trading calendars: which days an exchange is open, and the time features that the model sees."""

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from kronos.errors import UserError

NAMES = ("XNYS", "XSHG", "XHKG", "24/7")


def sessions(name: str, begin: Any, end: Any) -> pd.DatetimeIndex:
    """The days, begin and end included, on which the exchange is open; midnight, no time zone.

    Raises UserError for an unknown calendar and for days outside the years it is known for.
    """
    first, last = pd.Timestamp(begin).normalize(), pd.Timestamp(end).normalize()
    if name == "24/7":
        return pd.date_range(first, last, freq="D").as_unit("ns")
    earliest, latest = known_range(name)
    if first < earliest or last > latest:
        raise UserError(
            f"calendar {name} is known from {earliest:%Y-%m-%d} to {latest:%Y-%m-%d}, asked for {first:%Y-%m-%d}.."
            f"{last:%Y-%m-%d}: update the package exchange_calendars or ask for days it knows"
        )
    # Whole years, so that nearby requests share one cached calendar.
    opened = _calendar(name, first.year, last.year)
    return opened[opened.searchsorted(first) : opened.searchsorted(last, side="right")]


def next_sessions(name: str, after: Any, count: int) -> pd.DatetimeIndex:
    """The first `count` sessions later than `after`. Raises UserError when the calendar ends before."""
    found = known_sessions_after(name, after, count)
    if len(found) < count:
        raise UserError(
            f"calendar {name} is known to {known_range(name)[1]:%Y-%m-%d}: of the {count} sessions after "
            f"{pd.Timestamp(after):%Y-%m-%d} it has {len(found)}; update the package exchange_calendars or shorten "
            "the horizon"
        )
    return found


def known_sessions_after(name: str, after: Any, count: int) -> pd.DatetimeIndex:
    """Up to `count` sessions later than `after`: fewer, without an error, where the calendar's knowledge ends."""
    start = pd.Timestamp(after).normalize() + pd.Timedelta(days=1)
    end = start + pd.Timedelta(days=2 * count + 30)  # closures beyond this do not happen in a row
    if name != "24/7":
        end = min(end, known_range(name)[1])
    return sessions(name, start, end)[:count] if start <= end else pd.DatetimeIndex([]).as_unit("ns")


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
    # Where the package names no bound, its rules hold for any day that a nanosecond time stamp can say.
    return (
        earliest if earliest is not None else pd.Timestamp("1900-01-01"),
        latest if latest is not None else pd.Timestamp("2200-12-31"),
    )


@lru_cache
def _registered(name: str) -> Any:
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        return type(exchange_calendars.get_calendar(name))
    except InvalidCalendarName:
        raise UserError(f"no calendar {name!r}: choose one of {', '.join(NAMES)}") from None


@lru_cache
def _calendar(name: str, first_year: int, last_year: int) -> pd.DatetimeIndex:
    earliest, latest = known_range(name)
    start = max(pd.Timestamp(first_year, 1, 1), earliest)
    end = min(pd.Timestamp(last_year, 12, 31), latest)
    return pd.DatetimeIndex(_registered(name)(start=start, end=end).sessions).tz_localize(None).as_unit("ns")
