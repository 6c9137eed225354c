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
    counts: pd.Series,
    parts: list[Held],
    sessions: pd.DatetimeIndex,
    fit: Fit,
    freq: str,
    clock: pd.Timestamp,
) -> int:
    """Find the place of the last session with a bar whose interval is over at `clock`.

    `counts` are the bars of all parts at each time. Raises UserError where there is none, and where too many bars are
    at no session.
    """
    over, _ = drop_open_bars(
        pd.DataFrame({"instrument": "*", "datetime": counts.index, "bars": counts.to_numpy()}),
        fit.calendar, freq, fit.label, clock,
    )  # fmt: skip
    if over.empty:
        raise UserError(
            "the interval of every bar is not over by the clock of this machine: there is no whole bar"
        )
    place = places_of(over["datetime"], sessions)
    strays, total = over.loc[place < 0, "bars"].sum(), over["bars"].sum()
    if strays > OFF_CALENDAR * total and not fit.extended and fit.past is None:
        raise UserError(
            f"{strays:,} of {total:,} bars are at no {freq} session of calendar {fit.calendar}, the first is "
            f"{_first_of(parts, over.loc[place < 0, 'datetime'])}: give the --calendar they were traded on and the "
            "--freq they have"
        )
    return int(place.max())


def _first_of(parts: list[Held], times: pd.Series) -> str:
    """Name the first bar at one of the times."""
    for part in parts:
        frame = part.get(columns=["instrument", "datetime"])
        found = np.flatnonzero(frame["datetime"].isin(times))
        if len(found):
            row = frame.iloc[int(found[0])]
            return f"{row['instrument']} at {day_text([row['datetime']])[0]}"
    raise AssertionError("the times are those of the parts")
