"""Bars whose interval is not over: their prices still change."""

import numpy as np
import pandas as pd

from kronos.data.bars import Finding
from kronos.data.calendars import ROUND_THE_CLOCK, sessions, timezone
from kronos.data.cleaning import note
from kronos.data.frequency import minutes, within_day
from kronos.data.observed import is_observed

OPEN_BAR = "bar whose interval is not over"


def drop_open_bars(
    frame: pd.DataFrame, calendar: str, freq: str, label: str, now: pd.Timestamp
) -> tuple[pd.DataFrame, list[Finding]]:
    """Leave out the bars that end after `now`, a time with a zone, on the clock of the calendar."""
    clock = now.tz_convert(timezone(calendar)).tz_localize(None)
    times = pd.DatetimeIndex(frame["datetime"])
    if not len(times) or times.max() < clock.normalize() - pd.Timedelta(days=1):
        return frame, []
    if not within_day(freq):
        still_open = np.asarray(times > clock.normalize())
        if clock < end_of_day(calendar, clock.normalize()):
            still_open |= np.asarray(times == clock.normalize())
    else:
        length = pd.Timedelta(minutes=minutes(freq) if label == "start" else 0)
        still_open = np.asarray(times + length > clock)
    findings: list[Finding] = []
    note(frame, still_open, OPEN_BAR, "left out", findings)
    return frame[~still_open].reset_index(drop=True) if still_open.any() else frame, findings


def end_of_day(calendar: str, day: pd.Timestamp) -> pd.Timestamp:
    """Return when trading on a day ends; for days that are no session, and without known hours, its midnight."""
    midnight = day + pd.Timedelta(days=1)
    if calendar in ROUND_THE_CLOCK or is_observed(calendar):
        return midnight
    bars = sessions(calendar, day, day, "60min")
    return bars[-1] if len(bars) else midnight
