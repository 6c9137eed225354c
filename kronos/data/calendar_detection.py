"""Find the calendar that bars were traded on, and say why it was chosen."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from kronos.data.bars import day_text
from kronos.data.calendars import LABELS, NAMES, ROUND_THE_CLOCK, sessions
from kronos.utils.errors import UserError

ON_SESSIONS = (
    0.95  # share of the bars' times that must be sessions: on another exchange's calendar it is lower
)
POOR = 0.5  # of sessions and bars together: below, many sessions have no bar at all
EXTENDED_COVER = 0.9  # share of an exchange's sessions that bars of extended hours have at least
EXTENDED_DAYS = 0.99  # share of their days that must be its trading days
NIGHT = pd.Timedelta(hours=4)  # without any bar: trading around the clock has no such pause


class Fit(NamedTuple):
    """A calendar, which end of its interval labels a bar within a day, and why they were chosen.

    `extended` says that there are bars before and after its hours too.
    """

    calendar: str
    label: str
    reason: str
    extended: bool = False


def fit_calendar(times: pd.DatetimeIndex, freq: str, calendar: str = "auto") -> Fit:
    """Choose the calendar (`auto`) and, within a day, the label, that fit the times at which there is any bar.

    The fit is the share of common times among the times of bars and of sessions together. Raises UserError where no
    calendar has at least 95 % of the bars' times among its sessions, or nearly all of its sessions among bars of
    extended hours.
    """
    labels = LABELS if freq != "day" else ("end",)
    found = []
    extended: dict[tuple[str, str], float] = {}
    for name in NAMES if calendar == "auto" else (calendar,):
        for label in labels:
            try:
                grid = sessions(name, times[0], times[-1], freq, label)
            except UserError:
                if calendar != "auto":
                    raise
                continue
            grid = grid[(grid >= times[0]) & (grid <= times[-1])]
            common = int(times.isin(grid).sum())
            if common < ON_SESSIONS * len(times) and covers_with_more_hours(times, grid, common, name):
                extended[name, label] = common / len(grid)
            found.append((common / (len(times) + len(grid) - common), common / len(times), name, label))
    # max keeps the first of equals: exchanges before round-the-clock calendars, bars labelled by their end
    allowed = [one for one in found if one[1] >= ON_SESSIONS] or (found if calendar != "auto" else [])
    if extended and not any(one[2] not in ROUND_THE_CLOCK and one[1] >= ON_SESSIONS for one in found):
        return _fit_ofcovers_with_more_hours(extended, times, calendar)
    if not allowed:
        _, share, name, _ = max(found, key=lambda one: one[1])
        raise UserError(
            f"the bars ({day_text(times[:1])[0]}..{day_text(times[-1:])[0]}, {freq}) fit no calendar: the "
            f"nearest, {name}, has {100 * share:.0f} % of their times among its sessions; give --calendar and "
            "--freq, and times in the exchange's local time"
        )
    fit, share, name, label = max(allowed, key=lambda one: one[0])
    how = "chosen by fit" if calendar == "auto" else "as configured"
    reason = f"calendar {name}, {how}: {100 * share:.1f} % of the bars' times are its sessions"
    if freq != "day":
        reason += f", each bar labelled by the {label} of its {freq}"
    others = [one for one in found if one[2] != name]
    if others:
        reason += (
            f"; next best {max(others)[2]}, {100 * max(others)[0]:.1f} % against {100 * fit:.1f} % in common"
        )
    if fit < POOR:
        reason += f"; only {100 * fit:.0f} % of its sessions have a bar"
    return Fit(name, label, reason)


def covers_with_more_hours(times: pd.DatetimeIndex, grid: pd.DatetimeIndex, common: int, name: str) -> bool:
    """Return whether bars cover an exchange's sessions and go on before and after its hours, but not at night."""
    if name in ROUND_THE_CLOCK or not len(grid) or common < EXTENDED_COVER * len(grid):
        return False
    days = times.normalize()
    if days.isin(grid.normalize()).mean() < EXTENDED_DAYS:
        return False
    within = np.unique((times - days).as_unit("ns").asi8)
    pauses = np.diff(np.append(within, within[0] + pd.Timedelta(days=1).value))
    return bool(pauses.max() >= NIGHT.value)


def _fit_ofcovers_with_more_hours(
    found: dict[tuple[str, str], float], times: pd.DatetimeIndex, calendar: str
) -> Fit:
    """Choose the exchange whose sessions are covered best; the first or last bar of a day is at a full hour."""
    name, label = max(found, key=lambda one: found[one])
    within = times - times.normalize()
    by_hours = "end" if within.max() % pd.Timedelta(hours=1) == pd.Timedelta(0) else "start"
    label = by_hours if (name, by_hours) in found else label
    how = "chosen by fit" if calendar == "auto" else "as configured"
    reason = (
        f"calendar {name}, {how}: {100 * found[name, label]:.1f} % of its sessions have a bar, labelled by the "
        f"{label} of its interval; bars before and after its hours are left out"
    )
    return Fit(name, label, reason, True)
