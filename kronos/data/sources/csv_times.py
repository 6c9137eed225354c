"""Columns of times as files write them: of a time type, of numbers since 1970 or 1899, or of text."""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kronos.data.sources.csv_codes import coded
from kronos.data.sources.csv_dates import DAY, EMPTY, EPOCHS, YEARS_BEFORE, Piece, day_ns, read_piece, year_of
from kronos.data.sources.csv_zones import MINUTE, NONE, is_zone, minutes_ahead, zone_minutes
from kronos.utils.errors import UserError

ISO = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?")
OFFSET = re.compile(ISO.pattern.removesuffix("?") + r"[+-]\d\d:\d\d")
WITHOUT_SECONDS = len("2024-01-02 09:30-05:00")
SHORT = len("2402260930")
APART = 5  # how many times further apart the days of another reading must be, to be ruled out
DAYS_TO_1970 = 25569  # of spreadsheets, which count from 1899-12-30
HOURS_AT_MOST = 14  # of an offset: larger numbers are seconds
LATEST = 73050  # the year 2100
FEWEST_DAYS = 4  # in a row, before their days of the week tell from when a spreadsheet counts
SERIALS = "Dates are numbers of days since 1899-12-30, as spreadsheets count them."


class TwoWays(UserError):
    """The dates of a file can be read two ways; other files of its folder may tell which one is right."""


class DateForm(NamedTuple):
    """What is known of dates before they are read: the `order` of day, month and year, Taiwan's years, the zone."""

    order: str = ""  # day, month or year: what stands first
    minguo: bool = False
    zone_given: bool = False  # whether the user said in which zone times are that name none


NOTHING_KNOWN = DateForm()


class Times(NamedTuple):
    """Times of N rows as int64 ns, NaT for those that are none.

    `utc` says that they are in UTC; then `offset` may hold the minutes that the file writes them ahead of it.
    Otherwise they are as the file's clock shows them. `bad` marks values that are neither a time nor empty. `order`
    is what stands first in dates that end with the year (day, month, year) where the values prove it, and a word with
    a question mark where they only suggest it. `note` says how unusual numbers were read.
    """

    ns: np.ndarray
    utc: bool
    offset: np.ndarray | None
    bad: np.ndarray
    order: str = ""
    note: str = ""


def read_times(column: pa.ChunkedArray, form: DateForm = NOTHING_KNOWN) -> Times:
    """Read a column of times: of a time type, of numbers, or of text.

    Raises TwoWays where a date can be read two ways.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        ns = column.cast(pa.timestamp("ns", getattr(kind, "tz", None))).cast(pa.int64())
        return Times(_nullable(ns), getattr(kind, "tz", None) is not None, None, np.zeros(len(column), bool))
    if pa.types.is_floating(kind):
        column = pa.chunked_array([pa.array(_whole_text(column.to_numpy()), pa.string())])
    elif not pa.types.is_dictionary(kind) and not pa.types.is_string(kind):
        column = column.cast(pa.string())
    if pa.types.is_string(kind) and len(column):
        try:
            quick = _of_one_form(column, str(column[0]))
        except pa.ArrowInvalid:
            quick = None  # other forms among them
        if quick is not None:
            return quick
    code, words = coded(column)
    found = _parse(words, form)
    offset = None if found.offset is None else np.append(found.offset, 0)[code]
    bad = np.append(found.bad, False)[code]
    return found._replace(ns=np.append(found.ns, NONE)[code], offset=offset, bad=bad)


def _of_one_form(column: pa.ChunkedArray, first: str) -> Times | None:
    """Read the common forms all at once; None for other forms. Raises ArrowInvalid where forms differ."""
    nothing = np.zeros(len(column), bool)
    if ISO.fullmatch(first):
        return Times(_nullable(column.cast(pa.timestamp("ns")).cast(pa.int64())), False, None, nothing)
    if ISO.fullmatch(first.removesuffix("Z")):
        return Times(_nullable(column.cast(pa.timestamp("ns", "UTC")).cast(pa.int64())), True, None, nothing)
    if OFFSET.fullmatch(first) and pc.all(pc.equal(pc.utf8_length(column), len(first))).as_py():
        code, zones = coded(pc.utf8_slice_codeunits(column, len(first) - 6))
        if len(zones) > 2 or (
            len(zones) == 2 and len(first) == WITHOUT_SECONDS and first[17:] > first[11:16]
        ):
            return None  # perhaps the ends of intervals
        offset = np.append([int(zone_minutes(zone, np.zeros(1, np.int64))) for zone in zones], 0)[code]
        wall = pc.utf8_slice_codeunits(column, 0, len(first) - 6).cast(pa.timestamp("ns")).cast(pa.int64())
        return Times(_nullable(wall) - offset * MINUTE, True, offset if offset.any() else None, nothing)
    if re.fullmatch(r"\d{13}|\d{16}|\d{19}|1\d{9}", first):
        number = _nullable(column.cast(pa.int64()))
        if len(first) == SHORT and _short_years(number) is not None:
            return None  # perhaps a year, month, day, hour and minute of two digits each
        ns = np.full(len(number), NONE, np.int64)
        for least, below, unit in EPOCHS:
            within = (number >= least) & (number < below)
            ns[within] = number[within] * unit
        return Times(ns, True, None, ns == NONE) if (ns != NONE).all() else None
    return None


def _nullable(column: pa.ChunkedArray) -> np.ndarray:
    return column.fill_null(NONE).to_numpy()


def _whole_text(values: np.ndarray) -> list[str | None]:
    """Return numbers as text without an exponent: whole seconds as such, others with nanoseconds."""
    return [
        None if not np.isfinite(one) else str(int(one)) if one == int(one) else f"{one:.9f}"
        for one in values.tolist()
    ]


def _parse(words: list[str], form: DateForm) -> Times:
    """Read different texts, in the order in which they came first."""
    pieces = [read_piece(word) for word in words]
    kinds = np.array([piece.kind for piece in pieces], dtype="U8")
    ns = np.array([piece.ns for piece in pieces], np.int64)
    empty = kinds == "none"
    order = note = ""
    serial = np.flatnonzero(kinds == "serial")
    if len(serial) and len(serial) == (~empty).sum():
        ns[serial] = _of_spreadsheets([words[row] for row in serial])
        note = SERIALS if (ns[serial] != NONE).any() else ""
    split = np.flatnonzero(kinds == "numbers")
    if len(split):
        form = form._replace(minguo=form.minguo or bool((kinds == "minguo").any()))
        ns[split], order = _ordered([pieces[row] for row in split], words[split[0]], form)
    epochs = np.flatnonzero(kinds == "epoch")
    if len(epochs) and (digits := _of_short_years([words[row] for row in epochs], ns[epochs])) is not None:
        ns[epochs], kinds[epochs] = digits, "moment"
    ahead, zoned = minutes_ahead([piece.zone for piece in pieces], ns, form.zone_given)
    zoned |= kinds == "epoch"
    good = ns != NONE
    utc = bool(zoned[good].sum() > (good & ~zoned).sum())
    ns[zoned != utc] = NONE  # a few rows of the other kind cannot be placed
    good = ns != NONE
    ns[good] -= ahead[good] * MINUTE
    return Times(ns, utc, ahead if utc and ahead.any() else None, (ns == NONE) & ~empty, order, note)


def in_zones(times: Times, column: pa.ChunkedArray, name: str) -> Times:
    """Put times into UTC by a column of zones, or of the hours or seconds that they are ahead of it.

    Raises UserError for what is no zone.
    """
    code, words = coded(column.cast(pa.string()) if not pa.types.is_string(column.type) else column)
    zones = [_zone_of(word.strip().lower(), name) for word in words]
    ahead, zoned = minutes_ahead([*zones, None], times.ns, False, code)
    if not zoned.any():
        return times
    ns = np.where((times.ns == NONE) | ~zoned, NONE, times.ns - ahead * MINUTE)
    return times._replace(ns=ns, utc=True, offset=ahead if ahead.any() else None)


def _zone_of(word: str, name: str) -> str | None:
    if word in EMPTY:
        return None
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", word):
        number = float(word)
        minutes = round(number / 60 if abs(number) > HOURS_AT_MOST else number * 60)
        return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    if not is_zone(word):
        raise UserError(f"column {name} has {word!r}, which is no time zone that is known: give --time-zone")
    return word


def _of_short_years(words: list[str], since_1970: np.ndarray) -> np.ndarray | None:
    """Read yymmddHHMM and yymmddHHMMSS, which also are numbers since 1970; None where they can only be those.

    Raises TwoWays where the seconds since 1970 lie in the past and may be meant.
    """
    if {len(word) for word in words} not in ({SHORT}, {SHORT + 2}) or not all(map(str.isdigit, words)):
        return None
    number = np.array(words, dtype=np.int64)
    long = len(words[0]) > SHORT
    found = _short_years(number // 100 if long else number)
    if found is None or (long and (number % 100 > 59).any()):
        return None
    if not long and (since_1970 < pd.Timestamp.now().value).all():
        if len(words) < FEWEST_DAYS:
            return None
        raise TwoWays(
            f"the time {words[0]} can be read two ways (seconds since 1970, or year, month, day, hour and minute): "
            "write times as 2024-06-18 09:30"
        )
    return found + (number % 100 * 10**9 if long else 0)


def _short_years(number: np.ndarray) -> np.ndarray | None:
    """Read numbers yymmddHHMM as int64 ns; None where some are no such times."""
    year, month, day, hour, minute = (number // 100**place % 100 for place in (4, 3, 2, 1, 0))
    if ((month < 1) | (month > 12) | (day < 1) | (hour > 23) | (minute > 59)).any():
        return None
    months = (year + np.where(year < 70, 30, -70)) * 12 + month - 1
    first = months.astype("datetime64[M]")
    days = first.astype("datetime64[D]") + (day - 1)
    if (days.astype("datetime64[M]") != first).any():
        return None
    return days.astype(np.int64) * DAY + (hour * 60 + minute) * MINUTE


def _of_spreadsheets(words: list[str]) -> np.ndarray:
    """Read numbers of days since 1899-12-30 as int64 ns, to the second or minute that their digits tell.

    Raises UserError where days of the week show that they are counted from 1904, and where the digits tell no minute.
    """
    days = np.array([int(word[:5]) for word in words], np.int64)
    if not ((days >= DAYS_TO_1970) & (days < LATEST)).all():
        return np.full(len(words), NONE, np.int64)
    digits = max(len(word[6:].rstrip("0")) for word in words)
    part = np.array([float(f"0.{word[6:] or 0}") for word in words])
    minutes = part * 1440
    if digits < 4 and (np.abs(minutes - np.round(minutes)) > 1e-6).any():
        raise UserError(
            f"the day number {max(words, key=len)} has too few digits for a time: write times as 2024-06-18 09:30"
        )
    within = (
        np.round(minutes).astype(np.int64) * 60 if digits < 5 else np.round(part * 86400).astype(np.int64)
    )
    weekday = (np.unique(days) - DAYS_TO_1970 + 3) % 7  # 0 is a Monday
    if len(weekday) > FEWEST_DAYS and (weekday == 5).any() and not (weekday == 0).any():
        raise UserError(
            f"the day number {words[0]} seems to be counted from 1904, since there are Saturdays and no Mondays "
            "counted from 1900: write dates as 2024-06-18"
        )
    return (days - DAYS_TO_1970) * DAY + within * 10**9


def _ordered(split: list[Piece], example: str, form: DateForm) -> tuple[np.ndarray, str]:
    """Read dates of three numbers of which the first is no year of four digits: int64 ns, and what stands first.

    The reading in which most of them are days is right. Where there are several such readings, the form that is known
    decides; then days that follow each other; then points between the numbers, which mean that the day is first.
    Raises TwoWays where nothing tells.
    """
    short = all(len(piece.numbers[2]) <= 2 for piece in split)
    within = np.array([piece.ns for piece in split], np.int64)
    if short and form.minguo:
        return _in_order(split, within, "minguo"), ""
    orders = ("day", "month", "year") if short else ("day", "month")
    if short and all(not piece.mark for piece in split):
        orders = (*orders, "months")
    readings = {order: _in_order(split, within, order) for order in orders}
    known = {order: int((times != NONE).sum()) for order, times in readings.items()}
    readings = {order: times for order, times in readings.items() if known[order] == max(known.values())}
    first = next(iter(readings))
    if len(readings) == 1:
        return readings[first], "" if first == "months" else first
    if all((times == readings[first]).all() for times in readings.values()):
        return readings[first], ""
    if form.order in readings:
        return readings[form.order], form.order
    if "year" in readings and "months" not in readings:
        gaps = {order: _gap(times) for order, times in readings.items()}
        if gaps["year"] < np.inf and gaps["year"] * APART <= min(
            gap for order, gap in gaps.items() if order != "year"
        ):
            return readings["year"], "year?"
        if min(gaps.values()) * APART <= gaps["year"] < np.inf:
            del readings["year"]
            if len(readings) == 1:
                return readings[first], f"{first}?"
    likely = [order for order, times in readings.items() if _daily(times)]
    if len(likely) == 1:
        return readings[likely[0]], f"{likely[0]}?"
    if "day" in readings and "year" not in readings and all(piece.mark == "." for piece in split):
        return readings["day"], "day?"
    ways = "day, month or year first" if "year" in readings else "day or month first"
    raise TwoWays(
        f"the date {example} can be read two ways ({ways}) and no row tells: write dates as 2024-06-18"
    )


def _in_order(split: list[Piece], within: np.ndarray, order: str) -> np.ndarray:
    """Return dates of three numbers in ns; NaT where they are none, and for years of two digits that are to come."""
    this_year = pd.Timestamp.now().year

    def day(numbers: tuple[str, str, str]) -> int:
        if order == "minguo":
            return day_ns(int(numbers[0]) + YEARS_BEFORE, int(numbers[1]), int(numbers[2]))
        if order == "months":  # the year and the month alone
            return day_ns(int(numbers[0] + numbers[1]), int(numbers[2]), 1)
        if order == "year":
            late = int(numbers[0]) + 2000 > this_year
            return NONE if late else day_ns(year_of(numbers[0]), int(numbers[1]), int(numbers[2]))
        first, second = (1, 0) if order == "day" else (0, 1)
        return day_ns(year_of(numbers[2]), int(numbers[first]), int(numbers[second]))

    days = np.array([day(piece.numbers) for piece in split], np.int64)
    return np.where(days == NONE, NONE, days + within)


def _gap(times: np.ndarray) -> float:
    """Return the usual number of days between the days of times; infinite for a single day."""
    days = np.unique(times[times != NONE] // (86400 * 10**9))
    return float(np.median(np.diff(days))) if len(days) > 1 else np.inf


def _daily(times: np.ndarray) -> bool:
    """Return whether times are in order, or in the opposite order, with days that follow each other closely."""
    days = np.unique(times // (86400 * 10**9))
    steps = np.diff(times)
    in_order = bool((steps > 0).all() or (steps < 0).all())
    return len(days) >= 4 and in_order and float(np.median(np.diff(days))) <= 4
