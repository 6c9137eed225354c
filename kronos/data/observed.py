"""A calendar observed from bars: the times at which most instruments have one, and their pattern in a week.

The past sessions are the observed times themselves. What follows the last bar comes from the pattern, which is
written out in the calendar's name: `observed Mon-Fri 09:35-11:30/5 13:05-15:00/5` is a bar every five minutes in
two stretches, `observed from 21:00 ...` a trading day that begins with a night session, and `observed XNYS ...`
follows the days of an exchange.
"""

from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd

from kronos.data.frequency import PERIODS, minutes, within_day

OBSERVED = "observed"
DAY_MINUTES = 24 * 60
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
SUNDAY = 6
MOST = 0.5  # share of a day's instruments that have a bar at a session, and of the weeks that have a regular slot
NEAR = 21  # sessions before a day whose number of bars it is compared with
A_FEW = 0.1  # share of their middle number: a day with fewer bars has stray ones only
RECENT = 60  # days that show the hours to come: earlier ones may be of another season
LONGEST_CLOSURE = 14  # days: a longer pause is a gap in the bars, not a holiday
PAUSE = 60  # minutes without a bar that part a night session from the day before
EVENING = 15 * 60  # minute of the day from which a session that spans midnight begins
NIGHT, LONG_PAUSE = 20 * 60, 3 * 60  # and one that does not, after how many minutes without a bar


class Pattern(NamedTuple):
    """The regular week: minutes of the day of its bars on each weekday (0 alone for daily bars)."""

    slots: tuple[tuple[int, ...], ...]  # seven weekdays, Monday first
    begins: int = (
        0  # minute at which the trading day begins; above 0 it is named by the date on which it ends
    )
    exchange: str = ""  # whose days it follows

    @property
    def weekdays(self) -> tuple[int, ...]:
        return tuple(day for day in range(7) if self.slots[day])


def is_observed(name: str) -> bool:
    return name.split(" ")[0] == OBSERVED


def name_of(pattern: Pattern) -> str:
    """Write a pattern as the name of its calendar."""
    groups: dict[str, list[int]] = {}
    for day in pattern.weekdays:
        groups.setdefault(_times_text(pattern.slots[day]), []).append(day)
    parts = [f"{_days_text(days)} {text}".strip() for text, days in groups.items()]
    begins = f"from {_clock(pattern.begins)}" if pattern.begins else ""
    return " ".join(part for part in (OBSERVED, pattern.exchange, begins, "; ".join(parts)) if part)


@lru_cache
def pattern_of(name: str) -> Pattern:
    """Read the pattern from the name of a calendar."""
    words = name.replace(";", "").split(" ")[1:]
    exchange = "" if words[0] == "from" or words[0][:3] in WEEKDAYS else words.pop(0)
    begins = 0
    if words[0] == "from":
        begins = _minute(words[1])
        words = words[2:]
    slots: list[list[int]] = [[] for _ in range(7)]
    days: list[int] = []
    for word in words:
        if word[:3] in WEEKDAYS:
            days = _weekdays(word)
            bare = True
        for day in days:
            slots[day] = [0] if word[:3] in WEEKDAYS else [*([] if bare else slots[day]), *_minutes_of(word)]
        bare = word[:3] in WEEKDAYS
    return Pattern(tuple(tuple(one) for one in slots), begins, exchange)


def pattern_sessions(
    pattern: Pattern, days: pd.DatetimeIndex, freq: str, before: pd.Timestamp, after: pd.Timestamp
) -> pd.DatetimeIndex:
    """Return the sessions of the pattern on `days`, at or after `before` and earlier than `after`."""
    if not within_day(freq):
        return last_of_periods(days[days.day_of_week.isin(pattern.weekdays)], freq)
    found = [
        (
            days[days.day_of_week == day].as_unit("ns").asi8[:, None] + np.array(slots, np.int64) * 60 * 10**9
        ).ravel()
        for day, slots in enumerate(pattern.slots)
    ]
    times = pd.DatetimeIndex(np.sort(np.concatenate(found)).astype("datetime64[ns]"))
    return times[(times >= before) & (times < after)]


def last_of_periods(days: pd.DatetimeIndex, freq: str) -> pd.DatetimeIndex:
    """Return the last day of each week or month; all days for daily bars."""
    if freq == "day" or not len(days):
        return days
    period = days.to_period(PERIODS[freq]).asi8
    return days[np.append(period[1:] != period[:-1], True)]


def observe(
    times: pd.DatetimeIndex, counts: np.ndarray, freq: str, label: str, exchange: str = ""
) -> tuple[str, pd.DatetimeIndex]:
    """Return the calendar's name, and its sessions up to the last bar; `counts` are the instruments at each time."""
    solid = times[_solid(times, counts, freq)]
    days = pd.DatetimeIndex(np.unique(solid.normalize()))
    slots = _regular(solid, days, freq)
    pattern = Pattern(slots, _begin_of_day(slots, label) if within_day(freq) else 0, exchange)
    return name_of(pattern), _with_gaps(solid, days, pattern, freq)


def regularity(times: pd.DatetimeIndex, counts: np.ndarray, freq: str) -> float:
    """Return how regular the times are: the share of times in common among bars and the pattern's sessions, 0 to 1.

    Days without any bar count for daily bars only: within a day they may be holidays, and of a week the hours between
    its first and last bar.
    """
    solid = times[_solid(times, counts, freq)]
    days = pd.DatetimeIndex(np.unique(solid.normalize()))
    slots = _regular(solid, days, freq, len(days))
    whole = pd.date_range(days[0], days[-1]) if freq == "day" else days
    pattern = Pattern(slots)
    expected = pattern_sessions(pattern, whole.as_unit("ns"), freq, solid[0], solid[-1] + pd.Timedelta(1))
    if within_day(freq) and len(expected):
        moments = pd.Series(solid).groupby(solid.normalize())
        span, on = moments.agg(["min", "max"]), expected.normalize()
        first, last = (pd.DatetimeIndex(span.loc[on, name]) for name in ("min", "max"))
        expected = expected[np.asarray((expected >= first) & (expected <= last))]
    common = int(solid.isin(expected).sum())
    return common / max(len(solid), len(expected), 1)


def guess_label(times: pd.DatetimeIndex, freq: str) -> str:
    """Return which end of its interval labels a bar: the first bars of stretches, or the last, are at rounder times.

    Without a difference it is the start, as in the exports of markets that trade around the clock.
    """
    if not within_day(freq) or not len(times):
        return "end"
    far = np.diff(times.asi8) > 2 * minutes(freq) * 60 * 10**9
    minute = times.minute.to_numpy()
    firsts, lasts = minute[np.append(True, far)], minute[np.append(far, True)]

    def round_share(found: np.ndarray) -> float:
        return float((found % 30 == 0).mean() + (found % 60 == 0).mean())

    return "end" if round_share(lasts) > round_share(firsts) else "start"


def trading_days(pattern: Pattern, times: pd.DatetimeIndex, label: str) -> pd.DatetimeIndex:
    """Return the trading day of each time: the date of the day session that it belongs to."""
    shifted = times - pd.Timedelta(1) if label == "end" else times
    days = shifted.normalize()
    if not pattern.begins:
        return days
    minute = ((shifted - days) // pd.Timedelta(minutes=1)).to_numpy()
    morning = _end_of_night(pattern)
    main = (minute >= morning) & (minute < pattern.begins)
    known = np.unique(days[main].asi8)
    wanted = (days + pd.to_timedelta((minute >= pattern.begins).astype(int), unit="D")).asi8
    place = np.searchsorted(known, wanted)
    found = np.where(place < len(known), known[np.minimum(place, len(known) - 1)] if len(known) else 0, -1)
    beyond = (place >= len(known)) & ~main
    if beyond.any():
        found[beyond] = [_next_main(pattern, pd.Timestamp(day)).value for day in wanted[beyond]]
    return pd.DatetimeIndex(np.where(main, days.asi8, found).astype("datetime64[ns]"))


def day_sessions(pattern: Pattern) -> tuple[int, ...]:
    """Return the weekdays that are trading days: those with more than the start or the end of a night session."""
    if not pattern.begins:
        return pattern.weekdays
    morning = _end_of_night(pattern)
    return tuple(
        day for day in range(7) if any(morning <= slot < pattern.begins for slot in pattern.slots[day])
    )


def minutes_of_day(pattern: Pattern, times: pd.DatetimeIndex, label: str) -> np.ndarray:
    """Return the minutes since the trading day began; bars labelled by their end are never at 0."""
    clock = ((times - times.normalize()) // pd.Timedelta(minutes=1)).to_numpy()
    ahead = 1 if label == "end" else 0
    return np.asarray((clock - pattern.begins - ahead) % DAY_MINUTES + ahead)


def _solid(times: pd.DatetimeIndex, counts: np.ndarray, freq: str) -> np.ndarray:
    """Return which times are sessions of most instruments, judged by the same day or by the days before."""
    table = pd.Series(counts, times)
    if within_day(freq):
        usual = table.groupby(times.normalize()).transform("median") * MOST
    else:
        usual = table.rolling(NEAR, min_periods=1).median() * A_FEW
    return np.asarray(table.to_numpy() >= usual.to_numpy())


def _regular(
    times: pd.DatetimeIndex, days: pd.DatetimeIndex, freq: str, recent: int = RECENT
) -> tuple[tuple[int, ...], ...]:
    """Return the minutes of the day at which most of the last days of each weekday have a bar."""
    last = days[-recent:]
    weeks = max((last[-1] - last[0]).days / 7, 1)
    per_weekday = np.bincount(last.day_of_week, minlength=7)
    usual = per_weekday >= MOST * weeks if (per_weekday >= MOST * weeks).any() else per_weekday > 0
    if not within_day(freq):
        return tuple((0,) if usual[day] else () for day in range(7))
    times = times[times >= last[0]]
    minute = ((times - times.normalize()) // pd.Timedelta(minutes=1)).to_numpy()
    counts = np.bincount(times.day_of_week * DAY_MINUTES + minute, minlength=7 * DAY_MINUTES).reshape(
        7, DAY_MINUTES
    )
    often = counts >= MOST * np.maximum(per_weekday, 1)[:, None]
    often &= (counts > 0) & usual[:, None]
    often = often if often.any() else counts > 0
    return tuple(tuple(np.flatnonzero(row).tolist()) for row in often)


def _with_gaps(
    times: pd.DatetimeIndex, days: pd.DatetimeIndex, pattern: Pattern, freq: str
) -> pd.DatetimeIndex:
    """Add the pattern's sessions where there is no bar for longer than a market closes: bars are missing there."""
    longest = pd.Timedelta(days=LONGEST_CLOSURE * (1 if freq not in PERIODS else 5))
    after = np.flatnonzero(np.diff(days.asi8) > longest.value).tolist()
    missing = [
        pattern_sessions(
            pattern, pd.date_range(days[place], days[place + 1]).as_unit("ns"), freq,
            days[place] + pd.Timedelta(days=1), days[place + 1],
        )
        for place in after
    ]  # fmt: skip
    whole = times
    for one in missing:
        whole = pd.DatetimeIndex(whole.append(one[(one > days[0]) & ~one.isin(days)]))
    return pd.DatetimeIndex(whole.unique().sort_values())


def _begin_of_day(slots: tuple[tuple[int, ...], ...], label: str) -> int:
    """Return the minute at which the trading day begins: 0, or the start of a session that is the next day's."""
    ahead = 1 if label == "end" else 0
    union = np.array(sorted({minute for day in slots for minute in day}))
    if not len(union) or not any(slots[day] for day in range(5)):
        return 0
    steps = np.diff(union)
    step = int(np.median(steps)) if len(steps) else DAY_MINUTES
    sunday, saturday = slots[SUNDAY], slots[SUNDAY - 1]
    if sunday and min(sunday) > DAY_MINUTES // 2 and (not saturday or max(saturday) < DAY_MINUTES // 2):
        return int(min(sunday)) - ahead * step
    pauses = np.flatnonzero(steps >= max(PAUSE, 2 * step))
    if not len(pauses):
        return 0
    begin, pause = int(union[pauses[-1] + 1]), int(steps[pauses[-1]])
    spans = union[-1] >= DAY_MINUTES - step - ahead and union[0] <= step
    if (begin >= EVENING and spans) or (begin >= NIGHT and pause >= LONG_PAUSE):
        return begin - ahead * step
    return 0


def _end_of_night(pattern: Pattern) -> int:
    """Return the minute at which what began on the evening before is over; 0 where it does not pass midnight."""
    union = np.array(sorted({minute for day in pattern.slots for minute in day if minute < pattern.begins}))
    if not len(union):
        return 0
    steps = np.diff(union)
    step = int(np.median(steps)) if len(steps) else DAY_MINUTES
    pauses = np.flatnonzero(steps >= max(PAUSE, 2 * step))
    return int(union[pauses[0]]) + step if union[0] <= step and len(pauses) else 0


def _next_main(pattern: Pattern, day: pd.Timestamp) -> pd.Timestamp:
    """Return the first day from `day` on whose weekday has a day session."""
    usual = day_sessions(pattern)
    for ahead in range(8):
        following = day + pd.Timedelta(days=ahead)
        if following.day_of_week in usual:
            return following
    return day


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _minute(text: str) -> int:
    hour, _, rest = text.partition(":")
    return int(hour) * 60 + int(rest)


def _times_text(slots: tuple[int, ...]) -> str:
    """Write minutes of the day as stretches of equal steps: 09:35-11:30/5."""
    if slots == (0,):
        return ""
    found: list[str] = []
    place = 0
    while place < len(slots):
        end = place + 1
        step = slots[end] - slots[place] if end < len(slots) else 0
        while end + 1 < len(slots) and slots[end + 1] - slots[end] == step:
            end += 1
        if end - place < 2:
            found.append(_clock(slots[place]))
            place += 1
            continue
        found.append(f"{_clock(slots[place])}-{_clock(slots[end])}/{step}")
        place = end + 1
    return " ".join(found)


def _minutes_of(text: str) -> list[int]:
    span, _, step = text.partition("/")
    first, _, last = span.partition("-")
    return list(range(_minute(first), _minute(last) + 1, int(step))) if last else [_minute(first)]


def _days_text(days: list[int]) -> str:
    runs = [[day for _, day in run] for _, run in groupby(enumerate(days), lambda one: one[1] - one[0])]
    return ",".join(
        WEEKDAYS[run[0]] if len(run) == 1 else f"{WEEKDAYS[run[0]]}-{WEEKDAYS[run[-1]]}" for run in runs
    )


def _weekdays(text: str) -> list[int]:
    days: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        days += range(WEEKDAYS.index(first), WEEKDAYS.index(last or first) + 1)
    return days
