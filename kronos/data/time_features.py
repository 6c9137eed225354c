"""Time features by name: the five of the public models, and others from the calendar, known for future bars too.

Counts are of trading days as they were planned: a closing that nobody could know of beforehand (a storm, a day of
mourning) counts as a trading day, so that no feature says that it is coming. All values are small whole numbers, the
rows of a table in the model.

- `days_to_holiday`: trading days until the last one before the next closed weekday, 0 to 10 (10: as many or more).
- `days_after_holiday`: trading days since the first one after the latest closed weekday, 0 to 10.
- `half_day`: 1 on a day whose exchange closes early, else 0.
- `days_to_month_end`: trading days until the last one of the month, 0 to 31.
- `days_to_expiry`: trading days until the third Friday of a month, or the trading day before where it is none, 0 to
  31: the expiry of index futures and options in the United States and most of Europe. In mainland China index
  futures expire on that Friday too, but after it where it is a holiday; elsewhere (Hong Kong, Tokyo) on other days.
- `minutes_to_close`: minutes until the day's last bar, 0 to 59, then 60 + quarters of an hour beyond the first hour.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.registries import TIME_FEATURES
from kronos.data.calendars import early_closes, planned_days, sessions, time_features, trading_days

MOST_DAYS = 10  # before and after a holiday
MOST_OF_A_MONTH = 31
LAST_HOUR, QUARTER, MOST_QUARTERS = 60, 15, 92
# Calendar days around the bars in which holidays, ends of months and expiries are looked for.
BEFORE, AFTER = 40, 80


def time_table(times: Any, names: Sequence[str], calendar: str, freq: str, label: str) -> np.ndarray:
    """Return the time features `names`, int64 [..., K], of times int64 ns [...] in the exchange's local time.

    `freq` is the length of a bar and `label` which end of its interval names it, as a store has them.
    """
    array = np.asarray(times, np.int64)
    moments, place = np.unique(array, return_inverse=True)
    index = pd.DatetimeIndex(moments.astype("datetime64[ns]"))
    public = time_features(index)
    columns = [
        public[:, TIME_FEATURES.index(name)] if name in TIME_FEATURES
        else _CALENDAR[name](index, calendar, freq, label)
        for name in names
    ]  # fmt: skip
    return np.stack(columns, axis=-1).astype(np.int64)[place.reshape(array.shape)]


class _Days:
    """The planned trading days around some bars, and the place of each bar's day among them."""

    def __init__(self, times: pd.DatetimeIndex, calendar: str, freq: str, label: str) -> None:
        own = trading_days(calendar, times, freq, label)
        first, last = own.min() - pd.Timedelta(days=BEFORE), own.max() + pd.Timedelta(days=AFTER)
        days = planned_days(calendar, first, last)
        self.own = own
        self.days = pd.DatetimeIndex(days.union(own.unique())).sort_values()
        self.place = self.days.searchsorted(own)

    def until(self, marked: np.ndarray, most: int) -> np.ndarray:
        """Days from each bar's day to the next marked place, itself included, `most` where it is further away."""
        places = np.flatnonzero(marked)
        following = np.searchsorted(places, self.place)
        found = np.append(places, len(self.days) + most)[following] - self.place
        return np.minimum(found, most)


def _before_a_holiday(days: pd.DatetimeIndex) -> np.ndarray:
    """Return which days are followed by a weekday on which the exchange is closed."""
    counts = np.bincount(days.day_of_week, minlength=7)
    usual = counts >= counts.max() / 2
    whole = pd.date_range(days[0], days[-1])
    closed = (usual[whole.day_of_week] & ~whole.isin(days)).cumsum()
    return np.append(np.diff(closed[whole.searchsorted(days)]) > 0, False)


def _to_holiday(times: pd.DatetimeIndex, *calendar: str) -> np.ndarray:
    days = _Days(times, *calendar)
    return days.until(_before_a_holiday(days.days), MOST_DAYS)


def _after_holiday(times: pd.DatetimeIndex, *calendar: str) -> np.ndarray:
    days = _Days(times, *calendar)
    places = np.flatnonzero(_before_a_holiday(days.days)) + 1  # the first days after one
    latest = np.append(-MOST_DAYS - 1, places)[np.searchsorted(places, days.place, side="right")]
    return np.minimum(days.place - latest, MOST_DAYS)


def _half_day(times: pd.DatetimeIndex, calendar: str, freq: str, label: str) -> np.ndarray:
    own = trading_days(calendar, times, freq, label)
    return own.isin(early_closes(calendar, own.min(), own.max())).astype(np.int64)


def _to_month_end(times: pd.DatetimeIndex, *calendar: str) -> np.ndarray:
    days = _Days(times, *calendar)
    month = days.days.year * 12 + days.days.month
    return days.until(np.diff(month, append=month[-1]) != 0, MOST_OF_A_MONTH)


def _to_expiry(times: pd.DatetimeIndex, *calendar: str) -> np.ndarray:
    days = _Days(times, *calendar)
    fridays = pd.date_range(days.days[0], days.days[-1], freq="WOM-3FRI")
    marked = np.zeros(len(days.days), bool)
    marked[np.maximum(days.days.searchsorted(fridays, side="right") - 1, 0)] = True
    return days.until(marked, MOST_OF_A_MONTH)


def _to_close(times: pd.DatetimeIndex, calendar: str, freq: str, label: str) -> np.ndarray:
    own = trading_days(calendar, times, freq, label)
    margin = pd.Timedelta(days=7)  # a night session begins on an earlier date
    bars = sessions(calendar, own.min() - margin, own.max() + margin, freq, label)
    day = trading_days(calendar, bars, freq, label)
    last = pd.Series(bars, index=day).groupby(level=0).max().reindex(own)
    left = ((last.to_numpy() - times.to_numpy()) / np.timedelta64(1, "m")).astype(np.float64)
    left = np.nan_to_num(np.maximum(left, 0.0))  # a bar on a day that the calendar does not have is its last
    quarters = np.minimum((left - LAST_HOUR) // QUARTER, MOST_QUARTERS)
    return np.where(left < LAST_HOUR, left, LAST_HOUR + quarters).astype(np.int64)


_CALENDAR: dict[str, Callable[..., np.ndarray]] = {
    "days_to_holiday": _to_holiday,
    "days_after_holiday": _after_holiday,
    "half_day": _half_day,
    "days_to_month_end": _to_month_end,
    "days_to_expiry": _to_expiry,
    "minutes_to_close": _to_close,
}
