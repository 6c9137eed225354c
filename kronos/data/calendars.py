"""Trading calendars: the sessions of an exchange, by day or by bar, and the time features that the model sees.

A calendar is named by an exchange of `exchange_calendars`, 24/7, weekdays, or a pattern observed from bars.
Beyond the last day that a calendar has records for, its sessions are weekdays: `known_end` says where that begins.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from kronos.data import observed
from kronos.data.frequency import PERIODS, minutes, within_day
from kronos.data.observed import DAY_MINUTES, is_observed, pattern_of
from kronos.utils.errors import UserError

NAMES = ("XNYS", "XSHG", "XHKG", "24/7", "weekdays")  # preferred where others fit as well
ROUND_THE_CLOCK = {"24/7": "D", "weekdays": "B"}  # no exchange: each (week)day, from midnight to midnight
LABELS = ("end", "start")  # which end of its interval a bar within a day is labelled by
FOREVER = pd.Timestamp("2200-12-31")  # where the package sets no bound to its rules
CHECKED = ("2021-01-01", "2022-12-31")  # years that every calendar of the package knows


def sessions(name: str, begin: Any, end: Any, freq: str = "day", label: str = "end") -> pd.DatetimeIndex:
    """Return the sessions on the days begin..end, both included, in the exchange's local time, without time zone.

    With `freq="day"` a session is a day (midnight), with week and month the last day of each; otherwise it is a
    bar, labelled by the start or end of its interval. Past the calendar's known end sessions are weekdays. Raises
    UserError for an unknown calendar and for days before its start.
    """
    first, last = pd.Timestamp(begin).normalize(), pd.Timestamp(end).normalize()
    after = last + pd.Timedelta(days=1)
    if freq == "day":
        return _trading_days(name, first, last)
    if freq in PERIODS:
        days = _trading_days(name, *_whole_periods(name, first, last, freq))
        found = observed.last_of_periods(days, freq)
    elif is_observed(name):
        days = _days(name, first, last)
        found = observed.pattern_sessions(pattern_of(name), days, freq, first, after)
    else:
        # the last bar of a day without a close ends at midnight, and a night session is the day before's evening
        before = first if name not in ROUND_THE_CLOCK else first - pd.Timedelta(days=1)
        until = after + pd.Timedelta(days=6) if overnight(name) else last
        found = _bars(name, _days(name, before, until), minutes(freq), label)
    return found[found.searchsorted(first) : found.searchsorted(after)]


def next_sessions(
    name: str, after: Any, count: int, freq: str = "day", label: str = "end"
) -> pd.DatetimeIndex:
    """Return the first `count` sessions later than `after`."""
    start = pd.Timestamp(after)
    begin = start if within_day(freq) else start + pd.Timedelta(days=1)
    days = 30  # no exchange is closed for longer
    if within_day(freq):
        days += 2 * count // max(DAY_MINUTES // minutes(freq) // 8, 1)
    else:
        days += count * {"day": 2, "week": 8, "month": 32}[freq]
    found = sessions(name, begin, start + pd.Timedelta(days=days), freq, label)
    while len(found := found[found > start]) < count and days < 4000:
        days *= 2  # a calendar of a few bars a week
        found = sessions(name, begin, start + pd.Timedelta(days=days), freq, label)
    return found[:count]


def known_end(name: str) -> pd.Timestamp:
    """Return the last day that the calendar has rules or records for; later sessions are weekdays."""
    return FOREVER if not exchange_of(name) else known_range(exchange_of(name))[1]


def exchange_of(name: str) -> str:
    """Return the exchange whose days a calendar follows; empty for calendars without an exchange."""
    if is_observed(name):
        return pattern_of(name).exchange
    return "" if name in ROUND_THE_CLOCK else name


def timezone(name: str) -> Any:
    """Return the time zone of the exchange; UTC for calendars without an exchange."""
    return _registered(exchange_of(name)).tz if exchange_of(name) else "UTC"


def overnight(name: str) -> bool:
    """Return whether trading days begin on the evening before."""
    if is_observed(name):
        return pattern_of(name).begins > 0
    return name not in ROUND_THE_CLOCK and bool(_sample(name).open_offset)


def trading_days(name: str, times: pd.DatetimeIndex, freq: str, label: str) -> pd.DatetimeIndex:
    """Return the trading day that each session belongs to: that of a night session is the next one.

    Bars labelled by their end belong to the day on which they began.
    """
    if not within_day(freq) or not len(times):
        return times.normalize()
    if is_observed(name):
        return observed.trading_days(pattern_of(name), times, label)
    shifted = times - pd.Timedelta(1) if label == "end" else times
    if not overnight(name):
        return shifted.normalize()
    calendar = _exchange(name, times[0] - pd.Timedelta(days=7), times[-1] + pd.Timedelta(days=7))
    begins = pd.DatetimeIndex(calendar.opens).tz_convert(calendar.tz).tz_localize(None).as_unit("ns")
    place = np.clip(begins.searchsorted(shifted, side="right") - 1, 0, None)
    return pd.DatetimeIndex(calendar.sessions.tz_localize(None).as_unit("ns")[place])


def planned_days(name: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
    """Return the trading days from `first` to `last` as they were planned: with those on which nothing was traded.

    An exchange that was closed by a storm or for mourning had planned to open. What its calendar lists beside its
    rules counts as unplanned, except where it lists all holidays, as in mainland China.
    """
    exchange = exchange_of(name)
    first = max(first, known_range(exchange)[0]) if exchange else first
    days = _days(name, first, last)
    if not exchange:
        return days
    closed = _unplanned(exchange, first, last)
    closed = closed[(closed >= first) & (closed <= last) & closed.day_of_week.isin(days.day_of_week)]
    return pd.DatetimeIndex(days.union(closed.as_unit("ns")))


def _unplanned(exchange: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
    from exchange_calendars.exchange_calendar_xhkg import HKAdhocClosures
    from exchange_calendars.precomputed_exchange_calendar import PrecomputedExchangeCalendar

    calendar = _exchange(exchange, first, last)
    if exchange == "XHKG":
        return pd.DatetimeIndex(HKAdhocClosures)
    if isinstance(calendar, PrecomputedExchangeCalendar) or calendar.regular_holidays is None:
        return pd.DatetimeIndex([])
    return pd.DatetimeIndex([pd.Timestamp(day).tz_localize(None) for day in calendar.adhoc_holidays])


def early_closes(name: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
    """Return the days from `first` to `last` on which the exchange closes early; none without an exchange."""
    exchange = exchange_of(name)
    if not exchange:
        return pd.DatetimeIndex([])
    days = pd.DatetimeIndex(_exchange(exchange, first, last).early_closes).tz_localize(None)
    return days[(days >= first) & (days <= last)]


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


def exchanges() -> tuple[str, ...]:
    """Return the names of all exchanges that exchange_calendars knows, the preferred ones first."""
    import exchange_calendars

    known = sorted(exchange_calendars.get_calendar_names(include_aliases=False))
    ordered = dict.fromkeys([name for name in NAMES if name in known] + known)
    return tuple(name for name in ordered if name not in ("24/7", "24/5"))  # no exchanges


def _whole_periods(
    name: str, first: pd.Timestamp, last: pd.Timestamp, freq: str
) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first and last day of the weeks or months of first..last, within what the calendar knows."""
    begin = first.to_period(PERIODS[freq]).start_time
    if exchange_of(name) and first >= (earliest := known_range(exchange_of(name))[0]):
        begin = max(begin, earliest)
    return begin, last.to_period(PERIODS[freq]).end_time.normalize()


def _trading_days(name: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
    days = _days(name, first, last)
    return days[days.day_of_week.isin(observed.day_sessions(pattern_of(name)))] if is_observed(name) else days


def _days(name: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
    if is_observed(name):
        pattern = pattern_of(name)
        days = (
            _days(pattern.exchange, first, last)
            if pattern.exchange
            else pd.date_range(first, last).as_unit("ns")
        )
        return days[days.day_of_week.isin(pattern.weekdays)]
    if name in ROUND_THE_CLOCK:
        return pd.date_range(first, last, freq=ROUND_THE_CLOCK[name]).as_unit("ns")
    earliest, latest = known_range(name)
    if first < earliest:
        raise UserError(
            f"calendar {name} is known from {earliest:%Y-%m-%d}, asked for {first:%Y-%m-%d}..{last:%Y-%m-%d}: "
            "begin later, or give --calendar observed"
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
        starts = np.arange(0, DAY_MINUTES, step)
        return _same_hours(days, np.minimum(starts + step, DAY_MINUTES) if label == "end" else starts)
    latest = known_range(name)[1]
    known, later = days[days <= latest], days[days > latest]
    usual = known if len(known) else _days(name, latest - pd.Timedelta(days=30), latest)[-1:]
    bars = _known_bars(name, usual, step, label)
    if not len(later):
        return bars
    last_day = _known_bars(name, usual[-1:], step, label) - usual[-1]
    after = _same_hours(later, (last_day // pd.Timedelta(minutes=1)).to_numpy())
    return pd.DatetimeIndex(bars.append(after)) if len(known) else after


def _known_bars(name: str, days: pd.DatetimeIndex, step: int, label: str) -> pd.DatetimeIndex:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = _exchange(name, days[0], days[-1]).trading_index(
            days[0], days[-1], f"{step}min", intervals=False, closed="right" if label == "end" else "left",
            force_close=True, force_break_close=True,
        )  # fmt: skip
    return pd.DatetimeIndex(index.tz_convert(timezone(name)).tz_localize(None)).as_unit("ns")


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
    with _holidays_of(first_year - 1, last_year + 1):
        return _made(name, lambda: _registered(name)(start=start, end=end))


def _registered(name: str) -> Any:
    """Return the class of an exchange's calendar; from the package's table, since making one takes 0.1 s."""
    from exchange_calendars import calendar_utils

    known = getattr(calendar_utils, "_default_calendar_factories", {})
    return known.get(name) or type(_sample(name))


@lru_cache
def _sample(name: str) -> Any:
    """Return the calendar of an exchange for a few years: its class and time zone are those of all years."""
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        return _made(name, lambda: exchange_calendars.get_calendar(name, start=CHECKED[0], end=CHECKED[1]))
    except InvalidCalendarName:
        raise UserError(
            f"no calendar {name!r}: choose one of {', '.join(NAMES)}, observed, or another name of exchange_calendars"
        ) from None


def _made(name: str, make: Callable[[], Any]) -> Any:
    """Return the calendar that `make` makes. Raises UserError where the package cannot."""
    try:
        if name in _BROKEN:
            raise ValueError(_BROKEN[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package uses names that pandas is about to drop
            return make()
    except (NotImplementedError, ValueError) as error:
        _BROKEN[name] = str(error)[:80]
        raise UserError(
            f"exchange_calendars cannot make calendar {name} with the installed pandas ({_BROKEN[name]}): give "
            "--calendar observed"
        ) from None


_BROKEN: dict[
    str, str
] = {}  # the error of each calendar that could not be made, so that it is not tried again


@contextmanager
def _holidays_of(first_year: int, last_year: int) -> Iterator[None]:
    """Let pandas find the holidays of these years only: those of 1970 to 2200, its default, take most of the time."""
    from pandas.tseries.holiday import AbstractHolidayCalendar

    saved = AbstractHolidayCalendar.start_date, AbstractHolidayCalendar.end_date
    AbstractHolidayCalendar.start_date = pd.Timestamp(first_year, 1, 1)
    AbstractHolidayCalendar.end_date = pd.Timestamp(last_year, 12, 31)
    try:
        yield
    finally:
        AbstractHolidayCalendar.start_date, AbstractHolidayCalendar.end_date = saved
