"""The files of a folder of bars, and the instrument that a file's name says it holds."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kronos.data.sources.csv_text import PACKED, SPREADSHEETS, SUFFIXES, is_hidden
from kronos.utils.errors import UserError
from kronos.utils.files import given_path
from kronos.utils.names import name_of

INTERVAL = r"\d{1,3}(?:s|m|h|d|w|min|mins|minute|minutes|hour|hours|day)|[mh]\d{1,2}|d1|w1|mn1|daily|day"
STAMP = r"(?:19|20)\d\d(?:[-_.]?(?:0[1-9]|1[0-2])(?:[-_.]?(?:0[1-9]|[12]\d|3[01])(?:\d{4}|\d{6})?)?)?"
TAIL = re.compile(rf"(?:^|[-_. ]+)(?:{STAMP}|(?P<interval>{INTERVAL}))$", re.IGNORECASE)


TOOLS = tuple(  # how tools name the files of an instrument, beside those that end with an interval and dates
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"DAT_(?:ASCII|MT|NT|MS|XLSX?)_(?P<name>.+?)_(?P<interval>M1|T)_\d+",  # HistData
        r"(?P<name>.+?)_Candlestick_(?P<interval>\d+_[A-Z]+)_(?:BID|ASK)_.+",  # Dukascopy
        r"(?P<name>.+?)-(?P<interval>[mh]\d+|d1|w1|mn1)-(?:bid|ask)(?:-.+)?",
        r"(?P<name>.+), (?P<interval>\d+[SDWM]?|[DWM])(?:_[0-9a-f]{4,8})?",  # TradingView
        r"(?P<name>.+?) (?:Stock Price |Historical )(?:Data|Prices|History)",  # Investing.com
        r"(?P<name>.+)\.(?:Last|Bid|Ask)",  # NinjaTrader
        r"(?P<name>.+?)_(?:full_)?(?P<interval>\d+(?:min|hour|day))_(?:unadjusted|adjsplit|adjsplitdiv)",  # FirstRate
    )
)
COPY = re.compile(r" \(\d+\)$")  # of a browser that had a file of the name


class Named(NamedTuple):
    """The instrument of a file without such a column, and the length of its bars where the name tells it.

    `dated` is the instrument with the dates of the name, and `days` the first and last of those days: the dates
    belong to the instrument where bars lie outside of them, as in a file of a futures contract. A name that
    `file_name` wrote is read back: BTC~2FUSDT.csv holds BTC/USDT.
    """

    instrument: str
    interval: str
    dated: str
    days: tuple[pd.Timestamp, pd.Timestamp] | None


def bar_files(given: str, symbols: tuple[str, ...] | None) -> list[Path]:
    """Return the files of bars at a path, in folders of any depth, without hidden and empty ones.

    Where every one of `symbols` has a file, only theirs. Raises UserError where there are none.
    """
    root = given_path(given)
    if root.is_file():
        if root.suffix.lower() in SPREADSHEETS:
            raise UserError(f"{root} is a spreadsheet: save it as CSV")
        return [root]
    if not root.is_dir():
        raise UserError(f"data_path {given} does not exist: give a CSV or parquet file, or a folder of them")
    files = [
        path for path in sorted(root.rglob("*")) if path.is_file() and not is_hidden(path.relative_to(root))
    ]
    found = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    if not found:
        sheets = [path.name for path in files if path.suffix.lower() in SPREADSHEETS]
        instead = f": save {sheets[0]} as CSV" if sheets else ""
        raise UserError(f"data_path {given} has no file that ends in {', '.join(SUFFIXES[:9])}{instead}")
    filled = [path for path in found if path.stat().st_size] or found
    own = [path for path in filled if named_by(path.name, path).instrument in (symbols or ())]
    if own and {named_by(path.name, path).instrument for path in own} == set(symbols or ()):
        return own
    return filled


def named_by(name: str, path: Path) -> Named:
    """Return the instrument that a file (or a member of the archive `path`) is named by.

    Intervals and dates at the end are no part of it: BTCUSDT-1h-2024-01.zip holds BTCUSDT. A file
    named by a date alone is named by its folder.
    """
    bare = COPY.sub("", stem_of(name))
    interval, dated = "", ""
    tool = next((found for one in TOOLS if (found := one.fullmatch(bare))), None)
    if tool is not None:
        bare, interval = tool["name"], str(tool.groupdict().get("interval") or "").lower()
    days: list[pd.Timestamp] = []
    while (found := TAIL.search(bare)) is not None:
        if found["interval"]:
            interval = interval or found["interval"].lower()
        else:
            dated = dated or bare
            days += _days_of(re.sub(r"\D", "", found[0]))
        bare = bare[: found.start()]
    return Named(
        name_of(bare or path.parent.name or stem_of(name)),
        interval,
        dated,
        (min(days), max(days)) if days else None,
    )


def _days_of(digits: str) -> list[pd.Timestamp]:
    """Return the first and last day of a year, a month or a day, written in 4, 6 or at least 8 digits."""
    first = pd.Timestamp(int(digits[:4]), int(digits[4:6] or 1), 1)
    try:
        if len(digits) >= 8:
            return [first.replace(day=int(digits[6:8]))] * 2
    except ValueError:
        return [first, first + pd.offsets.MonthEnd(0)]
    return [first, first + (pd.offsets.MonthEnd(0) if len(digits) == 6 else pd.offsets.YearEnd(0))]


def stem_of(name: str) -> str:
    """Return a file's name without its suffix, and without that of a compressed file."""
    if name.lower().endswith(PACKED):
        name = name.rsplit(".", 1)[0]
    return name.rsplit(".", 1)[0] if "." in name else name


def by_folder(paths: list[Path]) -> dict[Path, str]:
    """Name files by their folders where all have files of the same names, as AAPL/daily.csv and MSFT/daily.csv.

    Returns the instruments of those files; none where the names of the files differ.
    """
    names = Counter(named_by(path.name, path).instrument for path in paths)
    folders = {path.parent for path in paths}
    if len(folders) > 1 and names and min(names.values()) == len(folders):
        own = {path: name_of(path.parent.name) for path in paths}
        if len(names) == 1 and len(set(own.values())) == len(folders):
            return own
    return {}
