"""Times without a zone that are in UTC: the day's first bar moves by an hour when an exchange's clock is changed."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd

from kronos.data import calendars
from kronos.data.sources.csv_dates import DAY
from kronos.data.sources.csv_zones import NONE

HOUR = 3600 * 10**9
NIGHT = 4 * HOUR  # without a bar, before the first one of a session
FEWEST = 4  # sessions
OFTEN = 2 * DAY  # between sessions: weekends alone are pauses of trading around the clock
SAME = 0.95  # share of sessions that begin at one time of day, where nothing moves them
SAME_THERE = 0.985  # the same on an exchange's clock: others are changed a week or more apart


@lru_cache(maxsize=1)
def changing_zones() -> tuple[str, ...]:
    """Return the time zones of exchanges, the preferred ones first."""
    names = [
        name for name in (*calendars.NAMES, *calendars.exchanges()) if name not in calendars.ROUND_THE_CLOCK
    ]
    return tuple(dict.fromkeys(str(calendars.timezone(name)) for name in names))


def zones_of_utc(ns: np.ndarray, zones: Iterable[str] | None = None) -> list[str]:
    """Return the zones on whose clock times in UTC, int64 ns, begin each session at one time of day.

    None are returned for times that do so in UTC too, and for trading without pauses.
    """
    begins = _begins(ns)
    if len(begins) < FEWEST or _share(begins) >= SAME or np.median(np.diff(begins)) > OFTEN:
        return []
    found = []
    for zone in changing_zones() if zones is None else zones:
        ahead = _ahead(zone, begins)
        if np.ptp(ahead) == HOUR and _share(begins + ahead) >= SAME_THERE:
            found.append(zone)
    return found


def _begins(ns: np.ndarray) -> np.ndarray:
    moments = np.unique(ns[ns != NONE])
    return moments[1:][np.diff(moments) >= NIGHT]


def _share(times: np.ndarray) -> float:
    """Return the share of times at the most usual time of day."""
    return float(np.unique(times % DAY, return_counts=True)[1].max() / len(times))


def _ahead(zone: str, utc: np.ndarray) -> np.ndarray:
    moments = pd.DatetimeIndex(utc.astype("datetime64[ns]"), tz="UTC").tz_convert(zone)
    return moments.tz_localize(None).as_unit("ns").asi8 - utc
