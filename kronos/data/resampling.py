"""Coarser bars from finer ones, session by session: no bar crosses a break, a night or the end of a trading day."""

from typing import Any

import numpy as np
import pandas as pd

from kronos.data import calendars
from kronos.data.bars import Finding, Flag, marked, places_of
from kronos.data.cleaning import note
from kronos.data.frequency import PERIODS, finer, minutes, within_day
from kronos.data.observed import is_observed, minutes_of_day, observe, pattern_of
from kronos.data.store_writer import store_sessions
from kronos.utils.errors import UserError

INCOMPLETE = "incomplete last bar of the resampling"
FIRST, LAST = Flag.OPEN_UP | Flag.OPEN_DOWN, Flag.CLOSE_UP | Flag.CLOSE_DOWN | Flag.NONMEMBER
ANY = {"repaired": int(Flag.REPAIRED), "adjusted": int(Flag.ADJUSTED)}
A_MONTH = pd.Timedelta(days=31)


class Resampling:
    """The coarser calendar of a store, and the coarser bar that each session of the finer one belongs to."""

    def __init__(
        self, calendar: str, freq: str, label: str, sessions: pd.DatetimeIndex, last: int, to: str
    ) -> None:
        """`sessions` are those of the finer bars, some after the `last` one with a bar among them."""
        if not finer(freq, to):
            raise UserError(
                f"resample={to} from bars of {freq}: longer bars were expected, of a whole number of them"
            )
        self.fine = sessions
        self.times = coarse_times(calendar, sessions, freq, label, to)
        # where a session after the last bar belongs to the same coarser bar, that one is not complete
        self.incomplete = self.times[last] if self.times[last + 1] == self.times[last] else None
        self.label = label if within_day(to) else "end"
        whole = self.times[: last + 1].unique()
        whole = whole[whole != self.incomplete]
        if not len(whole):
            raise UserError(f"resample={to}: the bars are too few for one whole bar")
        self.calendar = calendar
        if is_observed(calendar):
            exchange = pattern_of(calendar).exchange
            ones = np.ones(len(whole), np.int64)
            self.calendar, whole = observe(whole, ones, to, self.label, exchange)
            self.sessions = store_sessions(self.calendar, whole[0], whole[-1], to, self.label, whole)
        else:
            self.sessions = store_sessions(calendar, whole[0], whole[-1], to, self.label)
        self.last_session = int(places_of(whole[-1:], self.sessions)[0])

    def apply(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding]]:
        """Return the coarser bars of adjusted bars at the finer sessions; of further columns the last values."""
        flag, further = frame["flag"], marked(frame.columns)
        columns = {
            name: frame[name]
            for name in ("instrument", "open", "high", "low", "close", "volume", "amount", *further)
        }
        columns |= {"datetime": pd.Series(self.times[places_of(frame["datetime"], self.fine)], frame.index)}
        columns |= {"first": flag & int(FIRST), "last": flag & int(LAST)}
        columns |= {name: flag & one for name, one in ANY.items()}
        how = {
            "open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum", "amount": "sum",
            "first": "first", "last": "last", **dict.fromkeys(ANY, "max"), **dict.fromkeys(further, "last"),
        }  # fmt: skip
        bars = pd.DataFrame(columns).groupby(["instrument", "datetime"], sort=False).agg(how).reset_index()
        flags = bars[["first", "last", *ANY]]
        bars["flag"] = np.bitwise_or.reduce(flags.to_numpy(np.uint8), axis=1)
        bars = bars.drop(columns=flags.columns)
        findings: list[Finding] = []
        if self.incomplete is not None:
            short = (bars["datetime"] == self.incomplete).to_numpy()
            note(bars, short, INCOMPLETE, "left out", findings)
            bars = bars[~short].reset_index(drop=True)
        return bars, findings

    def closes(self, series: pd.Series) -> pd.Series:
        """Return the last value of a series of closes in each coarser bar."""
        place = places_of(series.index, self.fine)
        known = series[place >= 0]
        return pd.Series(known.groupby(self.times[place[place >= 0]]).last(), name=series.name)


def coarse_times(
    calendar: str, sessions: pd.DatetimeIndex, freq: str, label: str, to: str
) -> pd.DatetimeIndex:
    """Return the time of the coarser bar that each session belongs to."""
    if not within_day(to):
        days = calendars.trading_days(calendar, sessions, freq, label)
        if to == "day":
            return days
        after = calendars.sessions(calendar, days[-1], days[-1] + A_MONTH)
        whole = pd.DatetimeIndex(days.append(after).unique().sort_values())
        period = whole.to_period(PERIODS[to])
        last = pd.Series(whole, period).groupby(level=0).last()
        return pd.DatetimeIndex(last.loc[days.to_period(PERIODS[to])])
    if is_observed(calendar):
        return _of_stretches(calendar, sessions, freq, label, to)
    day = pd.Timedelta(days=1)
    grid = calendars.sessions(calendar, _within(calendar, sessions[0] - day), sessions[-1] + day, to, label)
    if label == "end":
        return grid[np.minimum(grid.searchsorted(sessions, side="left"), len(grid) - 1)]
    return grid[np.maximum(grid.searchsorted(sessions, side="right") - 1, 0)]


def _within(calendar: str, day: pd.Timestamp) -> pd.Timestamp:
    exchange = calendars.exchange_of(calendar)
    return max(day, calendars.known_range(exchange)[0]) if exchange else day


def _of_stretches(
    calendar: str, sessions: pd.DatetimeIndex, freq: str, label: str, to: str
) -> pd.DatetimeIndex:
    """Cut the stretches of trading of an observed day, from where each begins."""
    pattern, step, length = pattern_of(calendar), minutes(freq), minutes(to)
    ahead = 1 if label == "end" else 0
    minute = minutes_of_day(pattern, sessions, label)
    slots = np.array(sorted({slot for day in pattern.slots for slot in day}))
    slots = np.unique((slots - pattern.begins - ahead) % calendars.DAY_MINUTES + ahead)
    far = np.diff(slots) > step
    starts = slots[np.append(True, far)] - ahead * step
    ends = slots[np.append(far, True)] + (1 - ahead) * step
    place = np.maximum(np.searchsorted(starts, minute - ahead, side="right") - 1, 0)
    begin = starts[place] + (minute - ahead - starts[place]) // length * length
    finish = np.maximum(np.minimum(begin + length, ends[place]), minute)
    shift: Any = (finish if label == "end" else begin) - minute
    return sessions + pd.to_timedelta(shift, unit="min")
