"""Times of day in a column whose name does not say so: what makes days unique that rows repeat."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa

from kronos.data.sources.csv_dates import DAY
from kronos.data.sources.csv_instruments import repeated_rows
from kronos.data.sources.csv_time_of_day import read_times_of_day
from kronos.data.sources.csv_times import Times
from kronos.data.sources.csv_zones import MINUTE, NONE
from kronos.utils.errors import UserError

HOUR = 60 * MINUTE
OF_TIMES = re.compile(  # in names of columns whose numbers may be times: sorted codes look like them
    r"(?i)time|hh|min|hour|clock|zeit|uhr|hora|heure|ora|tid|czas|saat|врем|час|[时時分시]|^t\d?$"
)
EVENING, NOON, LATE = 18 * HOUR, 12 * HOUR, 23 * HOUR
OF_HOURS = re.compile(r"(?i)min(?:ute|uto|uut)?s?|mm|分|分钟|минут[аы]?")  # names of columns of minutes


def clock_column(
    times: Times, prices: np.ndarray, columns: dict[str, pd.Series], code: np.ndarray | None
) -> tuple[str, np.ndarray] | None:
    """Find the column of texts that holds the times of day of rows that repeat a day: its name, and the times.

    Times written with colons are such a column; numbers are it only where they rise or fall through each day, and
    the name speaks of times. None where there is none. Raises UserError where there are several, or where the days
    are no calendar days.
    """
    if times.offset is not None or (times.ns % HOUR).any():
        return None
    before = int(repeated_rows(times.ns, prices, code).sum())
    timed = bool((times.ns % DAY).any())
    found: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        within = _minutes(name, column) if timed else _within(name, times.ns, column, code)
        if within is not None and repeated_rows(times.ns + within, prices, code).sum() < before:
            found[name] = within
    if len(found) > 1:
        raise UserError(
            f"columns {' and '.join(found)} hold times of day: give --column-names {next(iter(found))}=time for the "
            "one that names the bars"
        )
    for name, within in found.items():
        check_nights(times.ns, within, name)
        return name, times.ns + within
    return None


def _minutes(name: str, column: pd.Series) -> np.ndarray | None:
    if not OF_HOURS.fullmatch(name.strip()) or not column.str.fullmatch(r"\s*[0-5]?\d(?:\.0*)?\s*").all():
        return None
    return column.astype(float).astype(np.int64).to_numpy() * MINUTE


def _within(name: str, days: np.ndarray, column: pd.Series, code: np.ndarray | None) -> np.ndarray | None:
    words = column.str.strip()
    if (words == "").any() or not words.str.match(r"\d|[^\W\d_]{2}\s?\d").all():
        return None
    within = read_times_of_day(pa.chunked_array([pa.array(words, pa.string())]))
    if within is None or len(np.unique(within)) < 2:
        return None
    if words.str.contains(":").all():
        return within
    return within if OF_TIMES.search(name.strip()) and _runs_through_days(days, within, code) else None


def _runs_through_days(days: np.ndarray, within: np.ndarray, code: np.ndarray | None) -> bool:
    """Return whether numbers go through each day of an instrument in one direction, and do not only count rows."""
    table = pd.DataFrame({"code": 0 if code is None else code, "day": days, "within": within})
    table = table.sort_values(["code", "day"], kind="stable")
    same = (table["day"].diff().eq(0) & table["code"].diff().eq(0)).to_numpy()[1:]
    steps = np.diff(table["within"].to_numpy())[same]
    if not len(steps) or not ((steps > 0).all() or (steps < 0).all()):
        return False
    counter = within.min() <= MINUTE and within.max() < LATE
    most = int(table.groupby(["code", "day"]).size().max())
    return not counter and len(np.unique(within)) <= 2 * most


def check_nights(days: np.ndarray, within: np.ndarray, name: str) -> None:
    """Raise UserError where the evening of a day stands before its morning: days are then trading days."""
    same = np.diff(days // DAY) == 0
    before, after = within[:-1][same], within[1:][same]
    if (before > after).sum() > (before < after).sum():  # the newest first
        before, after = after, before
    jumps = int(((before >= EVENING) & (after < NOON)).sum())
    other = int(((before < NOON) & (after >= EVENING)).sum())
    several = len(np.unique(days[days != NONE]))
    if jumps > max(1, several // 2) and 10 * other <= jumps:
        raise UserError(
            f"the days beside column {name} are trading days, since evenings stand before the mornings of the same "
            "day: give the column of calendar days (--column-names NAME=date)"
        )
