"""From times with a zone to the exchange's local time: by the calendar that is given, or by what the times show."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from kronos.data import calendars
from kronos.data.calendar_detection import ON_SESSIONS, POOR, covers_with_more_hours
from kronos.data.frequency import within_day
from kronos.data.observed import OBSERVED
from kronos.data.sources.csv_openings import zones_of_utc
from kronos.data.sources.csv_zones import NONE
from kronos.data.spacing import found_freq
from kronos.utils.errors import UserError

DAY = 86400 * 10**9
RECENT = 60 * DAY  # of bars that all exchanges are compared with
Fitting = tuple[float, str, str]  # how well moments fit, the time zone and the calendar
LAST_MINUTE = DAY - 60 * 10**9
CLEAR = 0.1  # how much better than on any other exchange's clock times must fit


class Clock:
    """Turns times in UTC into local ones. What is found for the first file holds for all files of a source.

    `calendar` and `freq` are the fields of these names.
    """

    def __init__(self, calendar: str, freq: str) -> None:
        self.calendar, self.freq = calendar, freq
        self.zone: str | None = None  # found from times within days
        self.written = False  # found: the files' own offsets show the exchange's time
        self.notes: list[str] = []
        self._plain = False  # found: times without a zone that were taken as they are
        self._in_utc = False  # found: times without a zone are in UTC

    def is_utc(self, ns: np.ndarray) -> bool:
        """Return whether times without a zone, int64 ns, are in UTC, as the first bars of their days show.

        Raises UserError where an earlier file was read otherwise.
        """
        if self._in_utc or not (ns[ns != NONE] % DAY).any() or self.calendar == OBSERVED:
            return self._in_utc
        given = None if self.calendar == "auto" else [str(calendars.timezone(self.calendar))]
        self._settle_freq(ns[ns != NONE])
        zones = zones_of_utc(ns, given) if within_day(self.freq) else []
        if not zones:
            self._plain = True
            return False
        why = f"the first bar of the day moves by an hour with the clock of {zones[0]}"
        if self._plain:
            raise UserError(
                f"the times seem to be in UTC, since {why}, and other files do not show it: give --time-zone UTC"
            )
        known = ns[ns != NONE]
        if given is None:
            try:
                self._find(known, False, zones)
            except UserError:
                raise UserError(
                    f"{why}, as times in UTC do, and calendar=auto does not tell the exchange's (time zones that "
                    f"fit: {', '.join(zones[:5])}): give --time-zone, such as UTC, and --calendar"
                ) from None
        elif not any(self._fits(np.unique(known), [self.calendar])):
            raise UserError(
                f"{why}, and in UTC the times are not those of {self.calendar}: give --time-zone, the clock that "
                "they show, such as Etc/GMT+5"
            )
        self._in_utc = True
        self.notes.append(f"Times without a time zone are taken for UTC, since {why}.")
        return True

    def local(self, ns: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
        """Return local times, int64 ns [N], of times in UTC; `offset` are the minutes that they were written ahead.

        Daily bars at midnight, in UTC or in the zone they are written in, name their day. Raises UserError where the
        exchange's time zone cannot be told.
        """
        known = ns != NONE
        written = ns if offset is None else np.where(known, ns + offset * 60 * 10**9, NONE)
        self._settle_freq(ns[known])
        if not within_day(self.freq):
            return self._days(ns, written, known)
        if self.calendar not in ("auto", OBSERVED):
            return _shifted(ns, str(calendars.timezone(self.calendar)))
        if self.zone is None and not self.written:
            self._find(ns[known], offset is not None)
        return written if self.written else _shifted(ns, str(self.zone))

    def _settle_freq(self, ns: np.ndarray) -> None:
        if self.freq == "auto" and len(ns):
            moments = np.unique(ns)
            self.freq = found_freq(np.zeros(len(moments), np.int64), moments)

    def _days(self, ns: np.ndarray, written: np.ndarray, known: np.ndarray) -> np.ndarray:
        within = written[known] % DAY
        if not within.any() or (within >= LAST_MINUTE).all():
            return written // DAY * DAY
        zones = (
            [str(calendars.timezone(self.calendar))]
            if self.calendar not in ("auto", OBSERVED)
            else list(dict.fromkeys(str(calendars.timezone(name)) for name in calendars.NAMES))
        )
        shifted = {zone: _shifted(ns, zone) for zone in zones}
        if len(zones) == 1:
            return shifted[zones[0]]
        midnight = [zone for zone, times in shifted.items() if not (times[known] % DAY).any()]
        if midnight:
            return shifted[midnight[0]]
        days = np.stack([times[known] // DAY for times in shifted.values()])
        if len(np.unique(written[known] // DAY)) < known.sum() // 2 or (days == days[0]).all():
            return written  # bars within days, which are refused as such, or the same day everywhere
        raise UserError(
            "the times have a time zone and a time of day, and calendar=auto does not tell the exchange's days: give "
            f"--calendar, one of {', '.join(calendars.NAMES)}"
        )

    def _find(self, ns: np.ndarray, with_offset: bool, zones: list[str] | None = None) -> None:
        """Choose the exchange on whose clock the times are its sessions, or round-the-clock trading in UTC.

        All exchanges are tried where the preferred ones do not fit and no offset shows a local time; where `zones`
        are given, those with such a clock.
        """
        moments = np.unique(ns)

        def possible(names: Iterable[str]) -> list[str]:
            return [name for name in names if zones is None or str(calendars.timezone(name)) in zones]

        found, longer = self._fits(moments, possible(calendars.NAMES))
        if not with_offset and not longer and all(one[0] < POOR for one in found):
            recent = moments[moments >= moments[-1] - RECENT]
            more, more_longer = self._fits(recent, possible(calendars.exchanges()))
            found, longer = found + more, longer + more_longer
        if longer and all(one[2] in calendars.ROUND_THE_CLOCK for one in found):
            found = longer
        best = max(found, default=(0.0, "", ""))
        others = max((one[0] for one in found if one[1] != best[1]), default=0.0)
        if with_offset and best[2] in calendars.ROUND_THE_CLOCK:
            best = (0.0, "", "")  # a file that writes another zone than UTC shows a market's own clock
        if best[0] >= max(POOR, others + CLEAR):
            self.zone = best[1]
            self.notes.append(
                f"Times with a time zone are converted to {best[1]}, on whose clock they fit {best[2]}."
            )
        elif with_offset:
            self.written = True
            self.notes.append(
                "Times with a time zone are taken as they are written, since they fit no calendar better."
            )
        elif self.calendar == OBSERVED:
            self.zone = "UTC"
            self.notes.append("Times with a time zone are kept in UTC, since they fit no exchange's clock.")
        else:
            raise UserError(
                "the times have a time zone, and calendar=auto does not tell the exchange's: give --calendar, one of "
                + ", ".join(calendars.NAMES)
            )

    def _fits(self, moments: np.ndarray, names: Iterable[str]) -> tuple[list[Fitting], list[Fitting]]:
        """Return how well moments in UTC fit calendars, and exchanges whose sessions they cover with more hours."""
        found, longer = [], []
        for name in names:
            for label in calendars.LABELS:
                try:
                    zone = str(calendars.timezone(name))
                    local = pd.DatetimeIndex(_shifted(moments, zone).astype("datetime64[ns]"))
                    grid = calendars.sessions(name, local[0], local[-1], self.freq, label)
                except UserError:
                    continue
                grid = grid[(grid >= local[0]) & (grid <= local[-1])]
                common = int(local.isin(grid).sum())
                if common >= ON_SESSIONS * len(local):
                    found.append((common / max(len(local) + len(grid) - common, 1), zone, name))
                elif covers_with_more_hours(local, grid, common, name):
                    longer.append((common / len(grid), zone, name))
        return found, longer


def from_zone(ns: np.ndarray, zone: str) -> np.ndarray:
    """Return times in UTC, int64 ns [N], of times that the clock of `zone` showed. Raises UserError for no zone."""
    known = ns != NONE
    local = pd.DatetimeIndex(ns[known].astype("datetime64[ns]"))
    result = ns.copy()
    moments = local.tz_localize(_zone(zone), ambiguous=np.ones(len(local), bool), nonexistent="shift_forward")
    result[known] = moments.tz_convert("UTC").as_unit("ns").asi8
    return result


def _shifted(ns: np.ndarray, zone: str) -> np.ndarray:
    known = ns != NONE
    result = ns.copy()
    utc = pd.DatetimeIndex(ns[known].astype("datetime64[ns]"), tz="UTC")
    result[known] = utc.tz_convert(_zone(zone)).tz_localize(None).as_unit("ns").asi8
    return result


@lru_cache
def _zone(name: str) -> Any:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(
            f"time_zone={name} is not known: give a name such as UTC or America/New_York"
        ) from None
