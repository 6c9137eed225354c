"""One text that holds a date: the forms in which tools and languages write it, with a time of day and a zone."""

import re
import unicodedata
from datetime import date, timedelta
from functools import lru_cache
from typing import NamedTuple

from kronos.data.sources.csv_time_of_day import plain_halves, time_of_day
from kronos.data.sources.csv_zones import NONE, split_zone

DAY = 86400 * 10**9
EPOCHS = (
    (1e8, 1e11, 10**9),
    (1e11, 1e14, 10**6),
    (1e14, 1e17, 10**3),
    (1e17, 1e19, 1),
)  # from, below, ns of one
FIRST = date(1970, 1, 1).toordinal()
YEARS_BEFORE = 1911  # of the calendar of the Republic of China, which Taiwan's exchanges write
EMPTY = ("", "nat", "nan", "none", "null", "-")
DAY_NUMBERS = re.compile(r"((?:19|20|21)\d\d)(\d\d)(\d\d)(?:\.0*$|[ t_:]*(.*))")
DAY_OF_YEAR = re.compile(r"((?:19|20)\d\d)-?(\d{3})(?:\.0*$|(?!\d)[ t_:]*(.*))")
WEEK_DAY = re.compile(r"(\d{4})-?w(\d\d)-?([1-7])")
DIGITS = re.compile(r"(\d\d)(\d\d)(\d\d)(?:\.0*)?(?:[ t_:]+(\d.*))?")
DIGITS_YEAR_LAST = re.compile(r"(\d\d)(\d\d)((?:19|20)\d\d)(?:[ t_:]+(\d.*))?")
EPOCH = re.compile(r"(\d{8,19})(?:\.(\d{1,9}))?")
SERIAL = re.compile(r"\d{5}(?:\.\d+)?")
JSON_DATE = re.compile(r"\\?/?date\((-?\d{8,19})(?:[+-]\d{4})?\)\\?/?")
YEAR_FIRST = re.compile(r"(\d{4})\s*[-/.年년]\s*(\d{1,2})\s*[-/.月월]\s*(\d{1,2})[日일.]?(.*)")
YEAR_LAST = re.compile(r"(\d{1,2})([-/. ])\s?(\d{1,2})\2\s?(\d{4}|\d\d)(?!\d)\.?(.*)")
MINGUO = re.compile(
    r"(?:民[國国])?\s*(1\d\d)\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})日?(.*)"
)  # 113/01/02
_NAME = r"([^\W\d_]{3,12})\.?"
DAY_NAME_YEAR = re.compile(
    rf"(\d{{1,2}})(?:(?:st|nd|rd|th|er|º)(?![^\W\d_]))?[-/ .]*{_NAME}[-/ ,.]*(\d{{4}}|\d\d)(?!\d)\.?(.*)"
)
NAME_DAY_YEAR = re.compile(rf"{_NAME}[-/ ]*(\d{{1,2}})(?:st|nd|rd|th)?[-/ ,.]+(\d{{4}}|\d\d)(?!\d)(.*)")
YEAR_NAME_DAY = re.compile(rf"(\d{{4}})[-/ .]*{_NAME}[-/ .]*(\d{{1,2}})(?!\d)(.*)")
YEAR_MONTH = re.compile(r"(\d{4})(?:[-/.]|\s*[年년]\s*)(\d{1,2})\s*[月월]?")
OF_UNIX = re.compile(  # Mon Feb 26 09:30:00 EST 2024, as `date` and C write it
    rf"({_NAME}\s+\d{{1,2}})\s+(\d\d?:\d\d(?::\d\d)?)(?:\s+([a-z]{{3,4}}|[+-]\d{{4}}))?\s+(\d{{4}})"
)
OF = re.compile(r"(?<=[\d\w])\s+(?:de|del|di|г\.?|r\.)(?=\s|$)|(?<=\d)\s+г\.")
_MONTHS = """jan ene gen januar янв oca sty tammi, feb fév fev febb фев şub sub lut helmi,
    mar mär mrz marz märz maa maar mrt мар márc maalis, apr abr avr апр nis kwi ápr huhti,
    may mai mag май мая maj mei máj touko, jun juin giu июн haz cze kesä, jul juil lug июл tem lip heinä,
    aug ago août aou aoû авг ağu agu agt sie elo, sep set сен eyl wrz szep syys, oct okt out ott окт eki paź paz loka,
    nov ноя kas lis marr, dec dez dic déc дек ara gru des joulu"""
MONTHS = {name[:4]: place for place, names in enumerate(_MONTHS.split(","), 1) for name in names.split()}
_WEEKDAYS = """mon tue tues wed thu thur thurs fri sat sun monday tuesday wednesday thursday friday saturday sunday
    mo di mi do fr sa so montag dienstag mittwoch donnerstag freitag samstag sonnabend sonntag
    lun mar mer jeu ven sam dim lundi mardi mercredi jeudi vendredi samedi dimanche
    mié mie jue vie sáb sab dom lunes martes miércoles jueves viernes sábado domingo
    gio lunedì martedì mercoledì giovedì venerdì sabato domenica
    seg ter qua qui sex segunda terça quarta quinta sexta segunda-feira terça-feira quarta-feira quinta-feira
    sexta-feira ma wo vr za zo maandag dinsdag woensdag donderdag vrijdag zaterdag zondag
    mån tis ons tor tors fre lör sön måndag tisdag onsdag torsdag fredag lördag söndag man tir lør søn
    пн вт ср чт пт сб вс понедельник вторник среда четверг пятница суббота воскресенье
    pon wt śr sr czw pt pią sob nie ndz pzt sal çar per cum cmt paz"""
WEEKDAYS = frozenset(_WEEKDAYS.split())
DAY_NAME = re.compile(r"([^\W\d_]+(?:-feira)?)\.?,?\s*(?=\d)")  # in front of a date
BEFORE_NAME = re.compile(r"([^\W\d_]+(?:-feira)?)\.?,?\s+(?=[^\W\d_]+\.?\s+\d)")  # Monday, February 26
DAY_BEHIND = re.compile(
    r"[,/\s]*(?:(?:周|星期|礼拜)?[一二三四五六日]"
    r"|[(\s](?:周|星期)?[一二三四五六日月火水木金土월화수목금토일](?:曜日?|요일)?\)?)$"
)
IN_THE_MIDDLE = re.compile(r"\s*\((?:周|星期)?[一二三四五六日月火水木金土월화수목금토일](?:曜日?|요일)?\)")
NO_DAY = re.compile(r"\d{2,4}\s*[-/]?\s*[qwk]\s*\d{1,2}|(?:q|w|kw|wk|week)\s*\d{1,2}[-/ ,]*\d{2,4}")  # 2024Q1


class Piece(NamedTuple):
    """What one text says: a moment on its clock in ns, or the numbers of a date whose order the column tells.

    `kind` is empty for what is no time, `none` for an empty text, `moment`, `epoch` (in UTC), `minguo`, `serial`
    (days as spreadsheets count them), or `numbers`, with the time of day in `ns` and what stands between them.
    """

    kind: str = ""
    ns: int = NONE
    zone: str | None = None
    numbers: tuple[str, str, str] = ("", "", "")
    mark: str = ""


@lru_cache(maxsize=50_000)
def read_piece(word: str) -> Piece:
    """Read one text."""
    text = _plain(word)
    if text in EMPTY:
        return Piece("none")
    if SERIAL.fullmatch(text):
        return Piece("serial")
    if (found := EPOCH.fullmatch(text)) is not None and not DAY_NUMBERS.fullmatch(text):
        return _numbers(found[1][:2], found[1][2:4], found[1][4:], "", None, "") if (
            DIGITS_YEAR_LAST.fullmatch(text)
        ) else Piece("epoch", _since_1970(int(found[1]), found[2] or ""))  # fmt: skip
    if (found := JSON_DATE.fullmatch(text)) is not None:
        return Piece("epoch", _since_1970(int(found[1]), ""))
    bare, zone = split_zone(text)
    if (found := YEAR_FIRST.fullmatch(bare)) is not None:
        return _moment(int(found[1]), int(found[2]), int(found[3]), found[4], zone)
    if (found := DAY_NUMBERS.fullmatch(bare)) is not None:
        piece = _moment(int(found[1]), int(found[2]), int(found[3]), found[4] or "", zone)
        if piece.kind:
            return piece
    if (found := EPOCH.fullmatch(bare)) is not None and not DIGITS_YEAR_LAST.fullmatch(bare):
        return Piece("epoch", _since_1970(int(found[1]), found[2] or ""))
    return _others(bare, zone)


def _others(bare: str, zone: str | None) -> Piece:
    if (found := DAY_OF_YEAR.fullmatch(bare)) is not None and 1 <= int(found[2]) <= 366:
        day = date(int(found[1]), 1, 1) + timedelta(int(found[2]) - 1)
        return _moment(int(found[1]), day.month, day.day, found[3] or "", zone) if (
            day.year == int(found[1])
        ) else Piece()  # fmt: skip
    if (found := MINGUO.fullmatch(bare)) is not None:
        year = int(found[1]) + YEARS_BEFORE
        return _moment(year, int(found[2]), int(found[3]), found[4], zone)._replace(kind="minguo")
    for form in (YEAR_LAST, DIGITS, DIGITS_YEAR_LAST):
        if (found := form.fullmatch(bare)) is not None:
            mark = found[2] if form is YEAR_LAST else ""
            first, second, third = (found[place] for place in ((1, 3, 4) if mark else (1, 2, 3)))
            return _numbers(first, second, third, found[5 if mark else 4] or "", zone, mark)
    if (found := DAY_NAME_YEAR.fullmatch(bare)) is not None and (month := _month(found[2])):
        return _moment(year_of(found[3]), month, int(found[1]), found[4], zone)
    if (found := NAME_DAY_YEAR.fullmatch(bare)) is not None and (month := _month(found[1])):
        return _moment(year_of(found[3]), month, int(found[2]), found[4], zone)
    if (found := YEAR_NAME_DAY.fullmatch(bare)) is not None and (month := _month(found[2])):
        return _moment(int(found[1]), month, int(found[3]), found[4], zone)
    if (found := YEAR_MONTH.fullmatch(bare)) is not None:
        return _moment(int(found[1]), int(found[2]), 1, "", zone)
    if (found := WEEK_DAY.fullmatch(bare)) is not None and 1 <= int(found[2]) <= 52:
        day = date.fromisocalendar(int(found[1]), int(found[2]), int(found[3]))
        return _moment(day.year, day.month, day.day, "", zone)
    return Piece()


def _plain(word: str) -> str:
    """Return a text in lower case, with usual characters, without a day of the week, and with English halves."""
    text = word.strip().strip("\"'").strip()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    text = text.lower()
    if not text.isascii():
        text = IN_THE_MIDDLE.sub("", DAY_BEHIND.sub("", text))
    for form in (DAY_NAME, BEFORE_NAME):
        if (found := form.match(text)) is not None and found[1] in WEEKDAYS:
            rest = text[found.end() :]
            named = found[1][:3] in MONTHS and form is DAY_NAME and not YEAR_FIRST.match(rest)
            text = text if named and not YEAR_LAST.match(rest) and not DAY_NAME_YEAR.match(rest) else rest
            break
    if (found := OF_UNIX.fullmatch(text)) is not None:
        text = " ".join(filter(None, (found[1], found[5], found[3], found[4])))
    return plain_halves(OF.sub("", text) if " " in text else text)


def _moment(year: int, month: int, day: int, rest: str, zone: str | None) -> Piece:
    """Return a day and a time of day; a Piece of no kind for one that does not exist."""
    within, start = time_of_day(rest), day_ns(year, month, day)
    return Piece() if within is None or start == NONE else Piece("moment", start + within, zone)


def _numbers(first: str, second: str, third: str, rest: str, zone: str | None, mark: str) -> Piece:
    within = time_of_day(rest)
    return Piece() if within is None else Piece("numbers", within, zone, (first, second, third), mark)


def day_ns(year: int, month: int, day: int) -> int:
    """Return the begin of a day in ns since 1970; NaT for one that does not exist."""
    try:
        return (date(year, month, day).toordinal() - FIRST) * DAY if 1680 < year < 2260 else NONE
    except ValueError:
        return NONE


def year_of(text: str) -> int:
    """Return a year of four digits; of two, the one between 1970 and 2069."""
    return int(text) if len(text) == 4 else int(text) + (2000 if int(text) < 70 else 1900)


def _month(name: str) -> int:
    return MONTHS.get(name[:4]) or MONTHS.get(name[:3], 0)


def _since_1970(number: int, digits: str) -> int:
    for least, below, unit in EPOCHS:
        if least <= number < below:
            return number * unit + (int(digits.ljust(9, "0")) * unit // 10**9 if digits else 0)
    return NONE


def names_no_day(text: str) -> bool:
    """Return whether a text names a week or a quarter."""
    return NO_DAY.fullmatch(_plain(text)) is not None
