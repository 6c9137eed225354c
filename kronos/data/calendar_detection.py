"""Find the calendar that bars were traded on, and say why it was chosen."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from kronos.data.calendars import LABELS, NAMES, ROUND_THE_CLOCK, exchanges, sessions
from kronos.data.frequency import PERIODS, within_day
from kronos.data.observed import OBSERVED, guess_label, observe, regularity
from kronos.utils.errors import UserError

ON_SESSIONS = (
    0.95  # share of the bars' times that must be sessions: on another exchange's calendar it is lower
)
ON_OTHERS = 0.995  # the same for exchanges that are not preferred: with so many, one is near by chance
POOR = 0.5  # of sessions and bars together: below, many sessions have no bar at all
SURE = 0.985  # of a preferred calendar, over a year at least: on another exchange's holidays it is lower
A_YEAR = 250  # sessions
RECENT = pd.Timedelta(days=500)  # of bars that all exchanges are compared with; the best ones with all bars
RECENT_WITHIN_DAY = pd.Timedelta(days=60)
NEAR = 0.02  # how much less than the best an exchange may have in common, to be compared with all bars
EXTENDED_COVER = 0.9  # share of an exchange's sessions that bars of extended hours have at least
EXTENDED_DAYS = 0.99  # share of their days that must be its trading days
NIGHT = pd.Timedelta(hours=4)  # without any bar, midnight among them: other trading has no such pause
REGULAR = 0.9  # how regular bars are that show their own calendar
ROUND = 0.9  # of sessions and bars together: below, what trades around the clock has pauses of its own
CLEAR = (
    0.02  # by how much the days of an exchange must name weeks and months better than those of all days do
)


class Fit(NamedTuple):
    """A calendar, which end of its interval labels a bar within a day, and why they were chosen.

    `extended` says that there are bars before and after its hours too; `past` are the sessions of an observed one.
    """

    calendar: str
    label: str
    reason: str
    extended: bool = False
    past: pd.DatetimeIndex | None = None


class Score(NamedTuple):
    """How well a calendar fits: times in common among those of bars and of sessions together, and among the bars'."""

    common: float
    share: float
    name: str
    label: str
    covered: float = 0.0  # share of its sessions with a bar, where bars go on before and after its hours


def fit_calendar(
    times: pd.DatetimeIndex,
    freq: str,
    calendar: str = "auto",
    counts: np.ndarray | None = None,
    hours: str = "regular",
) -> Fit:
    """Choose the calendar (`auto`) and, within a day, the label, that fit the times at which there is any bar.

    `counts` are the instruments that have a bar at each time. The fit is the share of common times among the times
    of bars and of sessions together. Where no calendar has at least 95 % of the bars' times among its sessions, or
    nearly all of its sessions among bars of extended hours, the calendar is observed from the bars. So it is with
    `hours="all"` for bars of extended hours, and where bars pause that only fit trading around the clock.
    """
    counts = np.ones(len(times), np.int64) if counts is None else counts
    if calendar == OBSERVED:
        return _observed(times, counts, freq, "as configured")
    if freq in PERIODS:
        return _fit_periods(times, counts, freq, calendar)
    auto = calendar == "auto"
    found = _scores(times, freq, NAMES if auto else (calendar,), strict=not auto)
    if auto and not _is_sure(found, times, freq):
        found += _scores(times, freq, _best_of_all(times, freq))
    fitting = [
        one for one in found if one.share >= (ON_SESSIONS if one.name in NAMES or not auto else ON_OTHERS)
    ]
    extended = [one for one in found if one.covered]
    if extended and not any(one.name not in ROUND_THE_CLOCK for one in fitting):
        return _fit_with_more_hours(extended, times, counts, freq, auto, hours)
    if not fitting and auto:
        near = max(found, key=lambda one: one.share)
        return _observed(
            times, counts, freq,
            f"since no exchange's sessions hold them (the nearest, {near.name}, has {100 * near.share:.1f} % of "
            "their times)",
        )  # fmt: skip
    # max keeps the first of equals: preferred calendars first; bars labelled by their end, but around the clock
    best = max(fitting or found, key=lambda one: one.common)
    if auto and best.name in ROUND_THE_CLOCK and best.common < (1 if best.name == "weekdays" else ROUND):
        regular = regularity(times, counts, freq)
        if regular >= REGULAR:
            return _observed(
                times, counts, freq,
                f"since they are regular ({100 * regular:.0f} %) and {best.name} has more sessions than they have",
            )  # fmt: skip
    return Fit(best.name, best.label, _reason(best, found, freq, auto))


def covers_with_more_hours(times: pd.DatetimeIndex, grid: pd.DatetimeIndex, common: int, name: str) -> bool:
    """Return whether bars cover an exchange's sessions and go on before and after its hours, but not at midnight."""
    if name in ROUND_THE_CLOCK or not len(grid) or common < EXTENDED_COVER * len(grid):
        return False
    days = times.normalize()
    if days.isin(grid.normalize()).mean() < EXTENDED_DAYS:
        return False
    within = np.unique((times - days).as_unit("ns").asi8)
    over_midnight = within[0] + pd.Timedelta(days=1).value - within[-1]
    return bool(over_midnight >= NIGHT.value)


def _scores(times: pd.DatetimeIndex, freq: str, names: Iterable[str], strict: bool = False) -> list[Score]:
    found = []
    for name in names:
        labels = LABELS if within_day(freq) else LABELS[:1]
        for label in labels[::-1] if name in ROUND_THE_CLOCK else labels:
            try:
                grid = sessions(name, times[0], times[-1], freq, label)
            except UserError:
                if strict:
                    raise
                continue
            grid = grid[(grid >= times[0]) & (grid <= times[-1])]
            common = int(times.isin(grid).sum())
            more = common < ON_SESSIONS * len(times) and covers_with_more_hours(times, grid, common, name)
            found.append(
                Score(
                    common / (len(times) + len(grid) - common), common / len(times), name, label,
                    common / len(grid) if more else 0.0,
                )
            )  # fmt: skip
    return found


def _is_sure(found: list[Score], times: pd.DatetimeIndex, freq: str) -> bool:
    """Return whether a preferred calendar fits so well that no other exchange needs to be tried.

    Few other exchanges have all times of a year among their sessions; fewer days, or the hours alone, say less.
    """
    fitting = [one for one in found if one.share >= ON_SESSIONS]
    if all(one.name in ROUND_THE_CLOCK for one in fitting) and any(one.covered >= SURE for one in found):
        return True
    if not fitting:
        return False
    best = max(fitting, key=lambda one: one.common)
    if best.name in ROUND_THE_CLOCK:  # no exchange has sessions on all weekends, but many on most weekdays
        return best.common >= (ROUND if best.name == "24/7" else 1)
    a_year = len(np.unique(times.normalize())) >= A_YEAR
    if best.share == 1 and (a_year or not within_day(freq)):
        return best.common >= ROUND or a_year
    return best.common == 1 or (best.common >= SURE and a_year)


def _best_of_all(times: pd.DatetimeIndex, freq: str) -> list[str]:
    """Return the exchanges that fit recent bars best: by their days, then within a day by their hours."""
    days = pd.DatetimeIndex(np.unique(times[times >= times[-1] - RECENT].normalize()))
    by_day = []
    for name in exchanges():
        by_day += _scores(days, "day", [name])
    chosen = _nearest(by_day)
    if not within_day(freq):
        return chosen
    scores = _scores(times[times >= times[-1] - RECENT_WITHIN_DAY], freq, chosen)
    fitting = [one for one in scores if one.share >= ON_SESSIONS] or [one for one in scores if one.covered]
    return _nearest(fitting)


def _nearest(scores: list[Score]) -> list[str]:
    best = max((one.common for one in scores), default=0.0)
    return list(dict.fromkeys(one.name for one in scores if one.common >= best - NEAR))


def _reason(best: Score, found: list[Score], freq: str, auto: bool) -> str:
    how = "chosen by fit" if auto else "as configured"
    reason = f"calendar {best.name}, {how}: {100 * best.share:.1f} % of the bars' times are its sessions"
    if within_day(freq):
        reason += f", each bar labelled by the {best.label} of its {freq}"
    others = [one for one in found if one.name != best.name]
    equal = list(dict.fromkeys(one.name for one in others if one.common == best.common))
    if equal:
        reason += (
            f"; {', '.join(equal)} fit{'s' if len(equal) == 1 else ''} as well: --calendar names another"
        )
    elif others:
        after = max(others)
        reason += f"; next best {after.name}, {100 * after.common:.1f} % against {100 * best.common:.1f} % in common"
    if best.common < POOR:
        reason += f"; only {100 * best.common:.0f} % of its sessions have a bar"
    return reason


def _observed(
    times: pd.DatetimeIndex,
    counts: np.ndarray,
    freq: str,
    why: str,
    label: str | None = None,
    exchange: str = "",
) -> Fit:
    label = guess_label(times, freq) if label is None else label
    name, past = observe(times, counts, freq, label, exchange)
    reason = f"the calendar is observed from the bars, {why}: {name.removeprefix(OBSERVED + ' ')}"
    if within_day(freq):
        reason += f", each bar labelled by the {label} of its {freq}"
    return Fit(name, label, reason, past=past)


def _fit_with_more_hours(
    found: list[Score], times: pd.DatetimeIndex, counts: np.ndarray, freq: str, auto: bool, hours: str
) -> Fit:
    """Choose the exchange whose sessions are covered best; the first or last bar of a day is at a full hour."""
    best = max(found, key=lambda one: one.covered)
    within = times - times.normalize()
    by_hours = "end" if within.max() % pd.Timedelta(hours=1) == pd.Timedelta(0) else "start"
    label = by_hours if any((one.name, one.label) == (best.name, by_hours) for one in found) else best.label
    if hours == "all":
        why = f"with all hours on the days of {best.name}, as hours=all asks"
        return _observed(times, counts, freq, why, label, best.name)
    how = "chosen by fit" if auto else "as configured"
    covered = next(one.covered for one in found if (one.name, one.label) == (best.name, label))
    reason = (
        f"calendar {best.name}, {how}: {100 * covered:.1f} % of its sessions have a bar, labelled by the {label} of "
        "its interval; bars before and after its hours are left out (hours=all keeps them)"
    )
    return Fit(best.name, label, reason, True)


def _fit_periods(times: pd.DatetimeIndex, counts: np.ndarray, freq: str, calendar: str) -> Fit:
    """Choose the exchange of weekly or monthly bars by the weeks that have bars and by the days that name them.

    Bars named by a Monday or the first of a month say little: they are put at the last day of the calendar's week
    or month, by which they are known whatever the exchange.
    """
    period = times.to_period(PERIODS[freq])
    table = pd.DataFrame({"day": times, "count": counts, "period": period}).sort_values(
        "count", kind="stable"
    )
    usual = pd.DatetimeIndex(
        table.groupby("period")["day"].last()
    )  # the day that most instruments name it by
    scores = []
    auto = calendar == "auto"
    for name in dict.fromkeys(("24/7", *NAMES, *exchanges())) if auto else (calendar,):
        try:
            days = sessions(name, period[0].start_time, period[-1].end_time)
        except UserError:
            if not auto:
                raise
            continue
        own = days.to_period(PERIODS[freq])
        common = len(np.intersect1d(own.asi8, period.asi8))
        edges = (days[np.append(True, np.diff(own.asi8) > 0)], days[np.append(np.diff(own.asi8) > 0, True)])
        share = max(float(usual.isin(edge).mean()) for edge in edges)
        scores.append(
            Score(common / max(len(own.unique()) + len(period.unique()) - common, 1), share, name, "end")
        )
        clear = scores[-1].share > scores[0].share + CLEAR
        if auto and name in NAMES and clear and min(scores[-1].common, scores[-1].share) >= SURE:
            break
    any_day = scores[0]
    best = max(scores, key=lambda one: one.common + one.share)
    if auto and (
        best.share < ON_SESSIONS or best.common + best.share < any_day.common + any_day.share + CLEAR
    ):
        best = any_day
    how = "chosen by fit" if auto else "as configured"
    reason = (
        f"calendar {best.name}, {how}: {100 * best.common:.1f} % of its {freq}s have a bar; each is stored at its "
        "last session"
    )
    if auto and best is any_day:
        reason += f", since the days that name the {freq}s tell no exchange: --calendar names it"
    return Fit(best.name, "end", reason)
