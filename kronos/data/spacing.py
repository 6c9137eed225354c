"""The length of bars: daily ones at midnight, and instruments whose bars are of another length than asked for."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from kronos.data.bars import MAX_ITEMS, Finding
from kronos.data.calendars import MINUTES
from kronos.data.cleaning import note
from kronos.utils.errors import UserError

ENOUGH_STEPS = 8  # fewer steps between bars do not determine a frequency
SPARSE_DAYS = 4  # a long weekend; weekly bars are 7 days apart
REGULAR = 0.8  # share of the steps near the middle one: bars of that length, not a rarely traded instrument
NEAR_DAYS = 1.5  # weeks and months with holidays
PAUSE_MINUTES = 4 * 60  # pauses and nights say nothing about the length of a bar
WITHIN_DAYS = "bars within days among daily ones"
OTHER_LENGTH = "bars of another length"


def settle_days(frame: pd.DataFrame, freq: str, findings: list[Finding]) -> pd.DataFrame:
    """Move daily bars to midnight, and count those that had a time of day.

    Instruments with several times on one day are left out and counted. Raises UserError where they are most of the
    instruments, and for daily bars where minutes were asked for.
    """
    times = pd.DatetimeIndex(frame["datetime"])
    timed = (times != times.normalize()).any()
    if freq != "day":
        if not timed:
            raise UserError(f"freq={freq}, but the bars are daily (no time of day): give --freq day")
        return frame
    if not timed:
        return frame
    code, names = pd.factorize(frame["instrument"])
    days = times.normalize()
    several = np.append(False, (code[1:] == code[:-1]) & (days[1:] == days[:-1]) & (times[1:] != times[:-1]))
    if several.any():
        wrong = np.unique(code[several])
        if 2 * len(wrong) >= len(names):
            row = int(np.flatnonzero(several)[0]) - 1
            minutes = int((times[row + 1] - times[row]) / pd.Timedelta(minutes=1))
            raise UserError(
                f"freq=day, but {frame['instrument'].iloc[row]} has bars at {times[row]:%Y-%m-%d %H:%M} and "
                f"{times[row + 1]:%H:%M}, {minutes} minutes apart: give --freq {minutes}min or daily bars"
            )
        items = [(str(names[one]), "*", "") for one in wrong[:MAX_ITEMS]]
        findings.append(Finding(WITHIN_DAYS, "the instrument is left out", len(wrong), items))
        frame = frame[~np.isin(code, wrong)].reset_index(drop=True)
        times = pd.DatetimeIndex(frame["datetime"])
        days = times.normalize()
    note(frame, np.asarray(times != days), "daily bar with a time of day", "taken for its day", findings)
    return frame.assign(datetime=days)


class Spacing(NamedTuple):
    """How many instruments have enough bars to judge their distances, and the middle one of each wrong one."""

    judged: int
    wrong: dict[str, float]


def spacing(frame: pd.DataFrame, freq: str) -> Spacing:
    """Find the instruments whose bars are further apart or closer than `freq`: weeks, or minutes of another length.

    A rarely traded instrument has irregular steps, which are multiples of `freq`: its bars have holes and are right.
    """
    code, names = pd.factorize(frame["instrument"])
    if not len(code):
        return Spacing(0, {})
    time = frame["datetime"].to_numpy().astype("datetime64[s]").astype(np.int64)
    same = code[1:] == code[:-1]
    unit = 86400 if freq == "day" else 60
    step, whose = np.diff(time)[same] / unit, code[1:][same]
    if freq != "day":
        short = step < PAUSE_MINUTES
        step, whose = step[short], whose[short]
    count = np.bincount(whose, minlength=len(names))
    order = np.lexsort((step, whose))
    first = np.append(0, np.cumsum(count))[:-1]
    judged = np.flatnonzero(count >= ENOUGH_STEPS)
    middle = step[order][first[judged] + count[judged] // 2]
    wrong = {}
    for place in np.flatnonzero(middle > SPARSE_DAYS if freq == "day" else middle != MINUTES[freq]).tolist():
        one = judged[place]
        steps = step[order][first[one] : first[one] + count[one]]
        near = np.abs(steps - middle[place]) <= NEAR_DAYS if freq == "day" else steps % middle[place] == 0
        finer = freq != "day" and (steps % MINUTES[freq] != 0).mean() > 1 - REGULAR
        if finer or near.mean() >= REGULAR:
            wrong[str(names[one])] = float(middle[place])
    return Spacing(len(judged), wrong)


def leave_out(frame: pd.DataFrame, found: Spacing) -> pd.DataFrame:
    """Return the frame without the instruments whose bars are of another length."""
    return (
        frame[~frame["instrument"].isin(list(found.wrong))].reset_index(drop=True) if found.wrong else frame
    )


def judge_spacing(found: list[Spacing], freq: str) -> list[Finding]:
    """Count the instruments that were left out. Raises UserError where they are half of those judged, or more."""
    judged = sum(one.judged for one in found)
    wrong = {name: middle for one in found for name, middle in one.wrong.items()}
    if not wrong:
        return []
    what = "days" if freq == "day" else "minutes"
    if 2 * len(wrong) >= judged:
        name, middle = next(iter(wrong.items()))
        raise UserError(
            f"freq={freq}, but the bars of {name} are {middle:g} {what} apart ({len(wrong)} of {judged} instruments "
            "here): give bars of one frequency, or leave it out with --symbols"
        )
    items = [(name, "*", f"{middle:g} {what} apart") for name, middle in list(wrong.items())[:MAX_ITEMS]]
    return [Finding(OTHER_LENGTH, "the instrument is left out", len(wrong), items)]
