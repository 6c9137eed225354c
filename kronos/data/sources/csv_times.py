"""Times as files write them: days, times of day, time zones, and numbers since 1970."""

import re
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kronos.utils.errors import UserError

EPOCHS = (
    (1e8, 1e11, 10**9),
    (1e11, 1e14, 10**6),
    (1e14, 1e17, 10**3),
    (1e17, 1e19, 1),
)  # from, below, ns of one
ISO = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?")
OFFSET = re.compile(ISO.pattern + r"[+-]\d\d:\d\d")
DAY_NUMBERS = re.compile(r"((?:19|20|21)\d\d)(\d\d)(\d\d)(?:\.0*$|[ t_:]*(.*))")
EPOCH = re.compile(r"(\d{8,19})(?:\.(\d{1,9}))?")
YEAR_FIRST = re.compile(r"(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})日?(.*)")
YEAR_LAST = re.compile(r"(\d{1,2})([-/. ])(\d{1,2})\2(\d{4}|\d\d)(?!\d)(.*)")
MINGUO = re.compile(
    r"(?:民[國国])?\s*(1\d\d)\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})日?(.*)"
)  # 113/01/02
BY_NAME = re.compile(
    r"(?:[^\W\d_]{3,9},?\s+)?(?:(\d{1,2})[-/ .]*([^\W\d_]{3,9})\.?|([^\W\d_]{3,9})\.?[-/ ]*(\d{1,2}))"
    r"[-/ ,.]+(\d{4}|\d\d)(?!\d)(.*)"
)
_MONTHS = """jan ene gen januar янв, feb fév fev févr fevr febb фев, mar mär mrz marz märz мар, apr abr avr апр,
    may mai mag май, jun juin giu июн, jul juil lug июл, aug ago août aout авг, sep set сен, oct okt out ott окт,
    nov ноя, dec dez dic déc дек"""
MONTHS = {name: place for place, names in enumerate(_MONTHS.split(","), 1) for name in names.split()}
YEAR_MONTH = re.compile(r"(\d{4})[-/.](\d{1,2})")
DAY_NAME = re.compile(  # in front of a date
    r"(?:mon|tue|wed|thu|fri|sat|sun|monday|tuesday|wednesday|thursday|friday|saturday|sunday|mo|di|mi|do|fr|sa|so)"
    r"\.?,?\s+(?=\d)"
)
CLOCK = re.compile(
    r"[t\s,_:]*(?:(\d{1,2})[:h时.]?(\d{2})(?:[:m分.]?(\d{2})(?:秒|[.,:]?(\d{1,9}))?)?"
    r"|(\d{1,2})[- ]?(?=[ap]m))\s*分?\s*([ap])?\.?(?:m\.?)?\s*"
)
WEEKDAY = re.compile(r"[,/\s]*(?:周|星期)?[一二三四五六日]$")
ZONE = re.compile(
    r"(.*\d.*?(?::\d\d|\d{4}|[ap]m(?![a-z])|t\d\d)[.\d]*)\s*\[?(z|(?:gmt|utc)?[+-]\d\d(?::?\d\d)?(?::\d\d)?|[a-z_]+/[a-z_/]+|(?!am\b|pm\b)[a-z]{3,4})\]?",
    re.I,
)
OFFSETS = {"z": 0, "utc": 0, "gmt": 0, "est": -300, "edt": -240, "pst": -480, "pdt": -420, "cet": 60, "cest": 120,
           "jst": 540, "hkt": 480, "msk": 180}  # fmt: skip
NONE = np.iinfo(np.int64).min  # NaT


YEARS_BEFORE = 1911  # of the calendar of the Republic of China, which Taiwan's exchanges write
APART = 5  # how many times further apart the days of another reading must be, to be ruled out


class TwoWays(UserError):
    """The dates of a file can be read two ways; other files of its folder may tell which one is right."""


class DateForm(NamedTuple):
    """What is known of dates before they are read: the `order` of day, month and year, and Taiwan's years."""

    order: str = ""  # day, month or year: what stands first
    minguo: bool = False


NOTHING_KNOWN = DateForm()


class Times(NamedTuple):
    """Times of N rows as int64 ns, NaT for those that are none.

    `utc` says that they are in UTC; then `offset` may hold the minutes that the file writes them ahead of it.
    Otherwise they are as the file's clock shows them. `bad` marks values that are neither a time nor empty. `order`
    is what stands first in dates that end with the year (day, month, year) where the values prove it, and a word with
    a question mark where they only suggest it.
    """

    ns: np.ndarray
    utc: bool
    offset: np.ndarray | None
    bad: np.ndarray
    order: str = ""


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
    return Times(np.append(found.ns, NONE)[code], found.utc, offset, bad, found.order)


def _of_one_form(column: pa.ChunkedArray, first: str) -> Times | None:
    """Read the common forms all at once; None for other forms. Raises ArrowInvalid where forms differ."""
    nothing = np.zeros(len(column), bool)
    if ISO.fullmatch(first):
        return Times(_nullable(column.cast(pa.timestamp("ns")).cast(pa.int64())), False, None, nothing)
    if ISO.fullmatch(first.removesuffix("Z")):
        return Times(_nullable(column.cast(pa.timestamp("ns", "UTC")).cast(pa.int64())), True, None, nothing)
    if OFFSET.fullmatch(first) and pc.all(pc.equal(pc.utf8_length(column), len(first))).as_py():
        code, zones = coded(pc.utf8_slice_codeunits(column, len(first) - 6))
        offset = np.append([_minutes(zone, 0) for zone in zones], 0)[code]
        wall = pc.utf8_slice_codeunits(column, 0, len(first) - 6).cast(pa.timestamp("ns")).cast(pa.int64())
        return Times(_nullable(wall) - offset * 60 * 10**9, True, offset if offset.any() else None, nothing)
    if re.fullmatch(r"\d{13}|\d{16}|\d{19}|1\d{9}", first):
        number = _nullable(column.cast(pa.int64()))
        ns = np.full(len(number), NONE, np.int64)
        for least, below, unit in EPOCHS:
            within = (number >= least) & (number < below)
            ns[within] = number[within] * unit
        return Times(ns, True, None, ns == NONE) if (ns != NONE).all() else None
    return None


def coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Return for each row the place of its text among the different ones, the number of those for none, and them."""
    joined = (
        column.combine_chunks()
        if not pa.types.is_dictionary(column.type)
        else column.unify_dictionaries().combine_chunks()
    )
    if not isinstance(joined, pa.DictionaryArray) and not isinstance(joined, pa.ChunkedArray):
        joined = joined.dictionary_encode()
    if isinstance(joined, pa.ChunkedArray):
        joined = joined.chunk(0)
    words = [str(word) for word in joined.dictionary.to_pylist()]
    return joined.indices.fill_null(len(words)).to_numpy(zero_copy_only=False).astype(np.int64), words


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
    ns = np.full(len(words), NONE, np.int64)
    offset = np.zeros(len(words), np.int64)
    zoned, empty = np.zeros(len(words), bool), np.zeros(len(words), bool)
    split: list[tuple[int, list[str], str]] = []  # row, the three numbers of a date, rest
    order = ""
    for row, word in enumerate(words):
        text = WEEKDAY.sub("", word.strip().strip("\"'")).lower()
        if (day := DAY_NAME.match(text)) is not None:
            text = text[day.end() :]
        if not text or text in ("nat", "nan", "none", "null", "-"):
            empty[row] = True
            continue
        bare, zone = _without_zone(text)
        if (found := YEAR_FIRST.fullmatch(bare)) is not None:
            ns[row] = _moment(int(found[1]), int(found[2]), int(found[3]), found[4])
        elif (found := DAY_NUMBERS.fullmatch(bare)) is not None and (
            moment := _moment(int(found[1]), int(found[2]), int(found[3]), found[4] or "")
        ) != NONE:
            ns[row] = moment
        elif (found := EPOCH.fullmatch(bare)) is not None:
            ns[row], zone = _since_1970(found), 0
        elif (found := MINGUO.fullmatch(bare)) is not None:
            ns[row], form = _minguo(found[1], found[2], found[3], found[4]), form._replace(minguo=True)
        elif (found := YEAR_LAST.fullmatch(bare)) is not None:
            split.append((row, [found[1], found[3], found[4], found[2]], found[5]))
        elif (found := BY_NAME.fullmatch(bare)) is not None:
            name = found[2] or found[3]
            month = MONTHS.get(name[:4]) or MONTHS.get(name[:3], 0)
            ns[row] = _moment(_year(found[5]), month, int(found[1] or found[4]), found[6])
        elif (found := YEAR_MONTH.fullmatch(bare)) is not None:
            ns[row] = _moment(int(found[1]), int(found[2]), 1, "")
        if zone is not None:
            zoned[row], offset[row] = True, _minutes(zone, ns[row])
    if split:
        ns[[one[0] for one in split]], order = _ordered(split, words, form)
    good = ns != NONE
    utc = bool(zoned[good].sum() > (good & ~zoned).sum())
    ns[zoned != utc] = NONE  # a few rows of the other kind cannot be placed
    good = ns != NONE
    ns[good] -= offset[good] * 60 * 10**9
    return Times(ns, utc, offset if utc and offset.any() else None, (ns == NONE) & ~empty, order)


def _without_zone(text: str) -> tuple[str, str | int | None]:
    """Split off a zone behind a time of day; None where there is none."""
    found = ZONE.fullmatch(text)
    if found is None or (found[2][0] in "+-" and re.fullmatch(r"\d{1,4}[-/.]\d{1,2}", found[1])):
        return text, None
    name = re.sub(r"^(?:gmt|utc)(?=[+-])", "", found[2].lower())
    return (found[1], name) if name in OFFSETS or name[0] in "+-" or "/" in name else (text, None)


def _minutes(zone: str | int, local: int) -> int:
    """Return how many minutes a zone is ahead of UTC, at a local time in ns."""
    if isinstance(zone, int):
        return zone
    if local == NONE:
        return 0
    if zone in OFFSETS:
        return OFFSETS[zone]
    if zone[0] in "+-":
        digits = zone[1:].replace(":", "")
        return (1 if zone[0] == "+" else -1) * (int(digits[:2]) * 60 + int(digits[2:4] or 0))
    area = "/".join(part.replace("_", " ").title().replace(" ", "_") for part in zone.split("/"))
    area = area.replace("Us/", "US/")
    try:
        moment = pd.Timestamp(local).tz_localize(ZoneInfo(area), ambiguous=True, nonexistent="shift_forward")
    except (ZoneInfoNotFoundError, ValueError):
        raise UserError(
            f"the time zone {zone!r} is not known: give --time-zone, such as America/New_York"
        ) from None
    return int((moment.utcoffset() or pd.Timedelta(0)).total_seconds() // 60)


def _since_1970(found: re.Match[str]) -> int:
    number = int(found[1])
    for least, below, unit in EPOCHS:
        if least <= number < below:
            part = int((found[2] or "").ljust(9, "0")) * unit // 10**9 if found[2] else 0
            return number * unit + part
    return NONE


def _year(text: str) -> int:
    return int(text) if len(text) == 4 else int(text) + (2000 if int(text) < 70 else 1900)


def _moment(year: int, month: int, day: int, rest: str) -> int:
    """Return a day and a time of day as ns; NaT for one that does not exist."""
    within = time_of_day(rest)
    if within is None or not (1 <= month <= 12 and 1 <= day <= 31 and 1680 < year < 2260):
        return NONE
    first = np.datetime64(f"{year:04}-{month:02}", "M")
    date = first.astype("datetime64[D]") + (day - 1)
    return (
        NONE
        if date.astype("datetime64[M]") != first
        else int(date.astype("datetime64[ns]").astype(np.int64)) + within
    )


def time_of_day(text: str) -> int | None:
    """Return a time of day as ns since midnight, 0 for an empty text, None for one that is no time of day."""
    if not text.strip(" t,"):
        return 0
    found = CLOCK.fullmatch(text)
    if found is None:
        return None
    hour, minute, second = int(found[1] or found[5]), int(found[2] or 0), int(found[3] or 0)
    if found[6]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if found[6] == "p" else 0)
    if hour > 24 or minute > 59 or second > 59 or (hour == 24 and (minute or second)):
        return None
    fraction = int((found[4] or "").ljust(9, "0"))
    return ((hour * 60 + minute) * 60 + second) * 10**9 + fraction


def read_times_of_day(column: pa.ChunkedArray) -> np.ndarray | None:
    """Read a column of times of day as int64 ns since midnight; None where some hold more or are none.

    Numbers such as 930 and 93000 have as many digits as the longest of the column; of two digits they are hours.
    """
    if pa.types.is_time(column.type):
        return column.cast(pa.time64("ns")).cast(pa.int64()).fill_null(0).to_numpy()
    if not pa.types.is_string(column.type):
        column = column.cast(pa.string())
    code, words = coded(column)
    bare = [word.strip().strip("\"'").lower() for word in words]
    if all(re.fullmatch(r"\d{1,9}(\.0*)?", word) for word in bare if word):
        bare = [word.split(".")[0] for word in bare]
        longest = max((len(word) for word in bare), default=0)
        if longest <= 2:
            bare, longest = [f"{word}00" if word else "" for word in bare], 4
        bare = [word.zfill(4 if longest <= 4 else 6 if longest <= 6 else 9) if word else "" for word in bare]
    found = [time_of_day(word) for word in bare]
    if any(one is None for one in found):
        return None
    return np.append(np.array(found, np.int64), 0)[code]


def _ordered(
    split: list[tuple[int, list[str], str]], words: list[str], form: DateForm
) -> tuple[np.ndarray, str]:
    """Read dates of three numbers of which the first is no year of four digits: int64 ns, and what stands first.

    The reading in which most of them are days is right. Where there are several such readings, the form that is known
    decides; then days that follow each other; then points between the numbers, which mean that the day is first.
    Raises TwoWays where nothing tells.
    """
    short = all(len(numbers[2]) <= 2 for _, numbers, _ in split)
    if short and form.minguo:
        taiwan = [_minguo(numbers[0], numbers[1], numbers[2], rest) for _, numbers, rest in split]
        return np.array(taiwan, np.int64), ""
    readings = {}
    for order in ("day", "month", "year") if short else ("day", "month"):
        readings[order] = np.array([_in_order(numbers, rest, order) for _, numbers, rest in split], np.int64)
    known = {order: int((times != NONE).sum()) for order, times in readings.items()}
    readings = {order: times for order, times in readings.items() if known[order] == max(known.values())}
    first = next(iter(readings))
    if len(readings) == 1:
        return readings[first], first
    if all((times == readings[first]).all() for times in readings.values()):
        return readings[first], ""
    if form.order in readings:
        return readings[form.order], form.order
    if "year" in readings:
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
    if "day" in readings and "year" not in readings and all(numbers[3] == "." for _, numbers, _ in split):
        return readings["day"], "day?"
    ways = "day, month or year first" if "year" in readings else "day or month first"
    raise TwoWays(
        f"the date {words[split[0][0]]} can be read two ways ({ways}) and no row tells: write dates as 2024-06-18"
    )


def _in_order(numbers: list[str], rest: str, order: str) -> int:
    """Return a date of three numbers as ns; NaT where it is none, and for years of two digits that are to come."""
    places = {"day": (2, 1, 0), "month": (2, 0, 1), "year": (0, 1, 2)}[order]
    year, month, day = (numbers[place] for place in places)
    if order == "year" and int(year) + 2000 > pd.Timestamp.now().year:
        return NONE
    return _moment(_year(year), int(month), int(day), rest)


def _minguo(year: str, month: str, day: str, rest: str) -> int:
    return _moment(int(year) + YEARS_BEFORE, int(month), int(day), rest)


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
