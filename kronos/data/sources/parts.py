"""What all parts of the bars have in common: how many bars there are at each time, and the last session with one."""

import numpy as np
import pandas as pd

from kronos.data.bars import day_text, places_of
from kronos.data.calendar_detection import Fit
from kronos.data.cleaning import OFF_CALENDAR
from kronos.data.open_bars import drop_open_bars
from kronos.data.spool import Held
from kronos.utils.errors import UserError

MANY_TIMES = 5_000_000  # times of parts that wait to be joined


class TimeCounts:
    """The number of bars at each time, of bars that come part by part."""

    def __init__(self) -> None:
        self._counts: list[pd.Series] = []
        self._waiting = 0

    def add(self, times: pd.Series) -> None:
        """Count times, datetime64 [N]."""
        self._counts.append(times.value_counts(sort=False))
        self._waiting += len(self._counts[-1])
        if self._waiting > MANY_TIMES:
            self._counts, self._waiting = [self.all()], 0

    def all(self) -> pd.Series:
        """Return the counts by time, sorted."""
        return pd.concat(self._counts).groupby(level=0).sum()


def last_session_of(
    parts: list[Held], sessions: pd.DatetimeIndex, fit: Fit, freq: str, clock: pd.Timestamp
) -> int:
    """Find the place of the last session with a bar whose interval is over at `clock`.

    Raises UserError where there is none, and where too many bars are at no session.
    """
    total, strays, last, example = 0, 0, -1, ""
    for part in parts:
        times = part.get(columns=["instrument", "datetime"])
        frame, _ = drop_open_bars(times, fit.calendar, freq, fit.label, clock)
        if frame.empty:
            continue
        place = places_of(frame["datetime"], sessions)
        off = place < 0
        if off.any() and not strays:
            row = frame.iloc[int(np.flatnonzero(off)[0])]
            example = f"{row['instrument']} at {day_text([row['datetime']])[0]}"
        total, strays, last = total + len(place), strays + int(off.sum()), max(last, int(place.max()))
    if not total:
        raise UserError(
            "the interval of every bar is not over by the clock of this machine: there is no whole bar"
        )
    if strays > OFF_CALENDAR * total and not fit.extended and fit.past is None:
        raise UserError(
            f"{strays:,} of {total:,} bars are at no {freq} session of calendar {fit.calendar}, the first is "
            f"{example}: give the --calendar they were traded on and the --freq they have"
        )
    return last
