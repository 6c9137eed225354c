"""The length of bars: found from their times, daily ones at midnight, instruments with bars of another length."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from kronos.data.bars import MAX_ITEMS, Finding
from kronos.data.cleaning import note
from kronos.data.frequency import DAYS, PERIODS, minutes, within_day
from kronos.utils.errors import UserError

ENOUGH_STEPS = 8  # fewer steps between bars do not determine a frequency
SPARSE_DAYS = 4  # a long weekend; weekly bars are 7 days apart
REGULAR = 0.8  # share of the steps near the middle one: bars of that length, not a rarely traded instrument
NEAR_DAYS = 1.5  # weeks and months with holidays
PAUSE_MINUTES = 4 * 60  # pauses and nights say nothing about the length of a bar
WHOLE = 60  # minutes: longer bars are often cut short by a break or the close
A_DAY = 20 * 60  # minutes between daily bars at least, over daylight saving
DAILY = 0.95  # share of the steps that are no shorter, of bars of a day or more
LONGEST = 720  # minutes of a bar within a day
USUAL_STEP = 0.6  # how often a step is seen, compared with the most frequent one, to be a bar's length
WITHIN_DAYS = "bars within days among daily ones"
OTHER_LENGTH = "bars of another length"


def settle_days(frame: pd.DataFrame, freq: str, findings: list[Finding]) -> pd.DataFrame:
    """Move daily bars to midnight, and count those that had a time of day.

    Instruments with several times on one day are left out and counted. Raises UserError where they are most of the
    instruments, and for daily bars where minutes were asked for.
    """
    times = pd.DatetimeIndex(frame["datetime"])
    timed = (times != times.normalize()).any()
    if within_day(freq):
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
            apart = int((times[row + 1] - times[row]) / pd.Timedelta(minutes=1))
            raise UserError(
                f"freq={freq}, but {frame['instrument'].iloc[row]} has bars at {times[row]:%Y-%m-%d %H:%M} and "
                f"{times[row + 1]:%H:%M}, {apart} minutes apart: give --freq {apart}min or daily bars"
            )
        items = [(str(names[one]), "*", "") for one in wrong[:MAX_ITEMS]]
        findings.append(Finding(WITHIN_DAYS, "the instrument is left out", len(wrong), items))
        frame = frame[~np.isin(code, wrong)].reset_index(drop=True)
        times = pd.DatetimeIndex(frame["datetime"])
        days = times.normalize()
    note(frame, np.asarray(times != days), "daily bar with a time of day", "taken for its day", findings)
    return frame.assign(datetime=days)


def settle_periods(
    frame: pd.DataFrame, freq: str, grid: pd.DatetimeIndex, findings: list[Finding]
) -> pd.DataFrame:
    """Move weekly or monthly bars to the session of their week or month, and count those that were named otherwise.

    The second bar of an instrument in a week is dropped: services add the latest day to weekly bars.
    """
    times = pd.DatetimeIndex(frame["datetime"])
    period, own = times.to_period(PERIODS[freq]).asi8, grid.to_period(PERIODS[freq]).asi8
    place = np.minimum(np.searchsorted(own, period), len(own) - 1)
    moved = pd.DatetimeIndex(
        np.where(own[place] == period, grid[place].asi8, times.asi8).astype("datetime64[ns]")
    )
    note(
        frame,
        np.asarray(moved != times),
        f"bar of a {freq} named by another day",
        "at its last session",
        findings,
    )
    code = pd.factorize(frame["instrument"])[0]
    again = np.append(False, (code[1:] == code[:-1]) & (moved[1:] == moved[:-1]))[: len(frame)]
    note(frame, again, f"second bar of a {freq}", "dropped, the first is kept", findings)
    return frame.assign(datetime=moved)[~again].reset_index(drop=True)


def found_freq(code: np.ndarray, times: np.ndarray) -> str:
    """Return the length of bars, as `freq` names it, from their int64 ns times, sorted within instruments.

    Raises UserError for bars of seconds.
    """
    steps = np.diff(times)[np.diff(code) == 0] / (60 * 10**9)
    steps = steps[steps > 0]
    if not len(steps) or (steps >= A_DAY).mean() >= DAILY:
        days = float(np.median(steps)) / (24 * 60) if len(steps) else 1.0
        return "day" if days <= SPARSE_DAYS else "week" if days <= 2 * DAYS["week"] else "month"
    length, count = np.unique(steps[steps < A_DAY], return_counts=True)
    found = float(length[count >= USUAL_STEP * count.max()][0])
    if found < 1:
        raise UserError(f"the bars are {60 * found:g} seconds apart: bars of 1min at least were expected")
    return f"{min(int(found), LONGEST)}min"


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
    step, whose = np.diff(time)[same] / (60 if within_day(freq) else 86400), code[1:][same]
    if within_day(freq):
        short = step < max(PAUSE_MINUTES, minutes(freq) + 1)
        step, whose = step[short], whose[short]
    count = np.bincount(whose, minlength=len(names))
    order = np.lexsort((step, whose))
    first = np.append(0, np.cumsum(count))[:-1]
    judged = np.flatnonzero(count >= ENOUGH_STEPS)
    middle = step[order][first[judged] + count[judged] // 2]
    wrong = {}
    for place in np.flatnonzero(_is_other(middle, freq)).tolist():
        one = judged[place]
        steps = step[order][first[one] : first[one] + count[one]]
        near = (
            np.abs(steps - middle[place]) <= NEAR_DAYS if not within_day(freq) else steps % middle[place] == 0
        )
        finer = within_day(freq) and (steps % minutes(freq) != 0).mean() > 1 - REGULAR
        if finer or near.mean() >= REGULAR:
            wrong[str(names[one])] = float(middle[place])
    return Spacing(len(judged), wrong)


def _is_other(middle: np.ndarray, freq: str) -> np.ndarray:
    """Return which middle steps, in days or minutes, are not those of bars of `freq`."""
    if freq == "day":
        return np.asarray(middle > SPARSE_DAYS)
    if freq in PERIODS:
        return np.asarray((middle < 0.7 * DAYS[freq]) | (middle > 1.3 * DAYS[freq]))
    if minutes(freq) > WHOLE:
        return np.asarray(middle < minutes(freq) / 2)
    return np.asarray(middle != minutes(freq))


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
    what = "minutes" if within_day(freq) else "days"
    if 2 * len(wrong) >= judged:
        name, middle = next(iter(wrong.items()))
        raise UserError(
            f"freq={freq}, but the bars of {name} are {middle:g} {what} apart ({len(wrong)} of {judged} instruments "
            "here): give bars of one frequency, or leave it out with --symbols"
        )
    items = [(name, "*", f"{middle:g} {what} apart") for name, middle in list(wrong.items())[:MAX_ITEMS]]
    return [Finding(OTHER_LENGTH, "the instrument is left out", len(wrong), items)]
