"""The files of a folder of bars, and the instrument that a file's name says it holds."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kronos.data.sources.csv_text import OTHER_FORMS, PACKED, SPREADSHEETS, SUFFIXES, ZIP, is_hidden
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
CONTENT = """
    data bars bar daily day prices price ohlc ohlcv candle candles kline klines quote quotes history historical
    hist historic historicaldata stock stocks table export download downloads output all full minute minutes
    hourly weekly monthly eod intraday trades time_series timeseries series 数据 行情 日线 日k 分钟
"""  # what files and folders are called by what is in them
KINDS = """
    raw adj adjusted unadj unadjusted split_adjusted qfq hfq none 前复权 后复权 不复权 old new backup bak archive
    archives latest current update updates test train csv txt parquet feather us usa cn hk jp eu uk index
    indices equity equities share shares etf etfs fund funds bond bonds crypto coins forex fx spot swap margin
    future futures option options um cm sh sz bj
"""  # further names of folders that are no instrument: of adjustment, age and market
EXCHANGES = """
    nasdaq nyse amex lse xetra euronext tsx asx sgx nse bse hkex tse jpx krx twse sse szse shse shfe dce czce
    cffex binance coinbase kraken okx bybit bitfinex xnys xnas xshg xshe xhkg xlon xtks xpar xetr
"""
PART = r"(?:part|parts|chunk|batch|page|file|split|shard|p|v)?[-_. ]?\d{1,3}|q[1-4]"
WORDS = rf"(?:{'|'.join(CONTENT.split())})(?:[-_. ]?\d{{1,3}})?"
GENERAL = re.compile(rf"{WORDS}|{PART}", re.IGNORECASE)  # of a file: the folder must tell the instrument
NO_INSTRUMENT = re.compile(  # of a folder; words in capitals may be tickers, as ALL is
    rf"(?i:{PART}|{STAMP}|{INTERVAL}|{'|'.join(EXCHANGES.split())})|{WORDS}|{'|'.join(KINDS.split())}"
)
AROUND = tuple(  # words that tools write before and behind the instrument, with what separates them
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:stock_day|time_series|(?:daily|intraday|weekly|monthly|historical|historic|history|stock|price|prices"
        r"|ohlcv|klines|candles|quotes|bars)(?:_adjusted)?)[-_ ]+(?=.)",
        r"(?<=.)(?:[-_ ]+(?:historical|historic|history|price[-_ ]?history|stock[-_ ]prices?|prices?|quotes"
        r"|ohlcv?|bars|candles|klines|data|full|eod)|(?-i:_[dw]))",
    )
)
COPY = re.compile(r" \(\d+\)$")  # of a browser that had a file of the name


class Named(NamedTuple):
    """The instrument of a file without such a column, and the length of its bars where the name tells it.

    `dated` is the instrument with the dates of the name, and `days` the first and last of those days: the dates
    belong to the instrument where bars lie outside of them, as in a file of a futures contract (`dated` is empty
    where the name has nothing else). A name that `file_name` wrote is read back: BTC~2FUSDT.csv holds BTC/USDT.
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
        if root.suffix.lower() in OTHER_FORMS:
            raise UserError(
                f"{root} is a {root.suffix} file: write it as CSV or parquet, for example with pandas"
            )
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
    named by a date alone is named by the nearest folder that is not itself a year, a part, an exchange or a kind.
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
        name_of(bare or folder_name(path) or path.parent.name or stem_of(name)),
        interval,
        dated if bare else "",
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


def folder_name(path: Path, root: Path | None = None) -> str:
    """Return the nearest folder over a file, below `root`, that can name an instrument; empty where none can."""
    for folder in path.parents:
        if folder == root:
            break
        if folder.name and not NO_INSTRUMENT.fullmatch(_capitals_alone(folder.name)):
            return folder.name
    return ""


def _capitals_alone(name: str) -> str:
    """Return a name in lower case unless it is in capitals, so that Data is a word and ALL may be a ticker."""
    return name if name.isupper() else name.lower()


def stem_of(name: str) -> str:
    """Return a file's name without its suffix, and without that of a compressed file."""
    if name.lower().endswith(PACKED):
        name = name.rsplit(".", 1)[0]
    return name.rsplit(".", 1)[0] if "." in name else name


class FileNames(NamedTuple):
    """The instruments of files where all names of the folder must be seen, and what is said about them.

    `of_path` are the files that are named by their folders; `of_name` has the better name for what `named_by` says.
    """

    of_path: dict[Path, str]
    of_name: dict[str, str]
    notes: list[str]

    def of(self, path: Path, named: str) -> str:
        """Return the instrument of a file that `named_by` gives the name `named`."""
        return self.of_path.get(path) or self.of_name.get(named, named)


def name_files(paths: list[Path]) -> FileNames:
    """Find the instruments of all files together.

    The name of a file names its instrument. The folder names it where files in several folders are named by what is
    in them, as AAPL/prices.csv and MSFT/prices.csv, and the folder is no year, part, exchange or kind. Words such as
    `daily_` that are part of every file's name belong to no instrument.
    """
    of_path = _by_folder(paths)
    notes = []
    if of_path:
        path, name = next(iter(of_path.items()))
        notes.append(
            f"Instruments are named by their folders, such as {name} of {path.parent.name}/{path.name}."
        )
    names = {named_by(path.name, path).instrument for path in paths if path not in of_path}
    found = dict(zip(names, names, strict=True))
    if not any(path.suffix.lower() == ZIP for path in paths):
        for pattern in AROUND:
            found = _without(found, pattern)
    changed = {name: bare for name, bare in found.items() if name != bare}
    if changed:
        name, bare = min(changed.items())
        notes.append(
            f"Instruments are named without the words that all names of files have: {bare} of {name}."
        )
    return FileNames(of_path, changed, notes)


def _by_folder(paths: list[Path]) -> dict[Path, str]:
    general = {
        path: stem_of(path.name) for path in paths if GENERAL.fullmatch(COPY.sub("", stem_of(path.name)))
    }
    folders: dict[str, set[Path]] = {}
    for path, stem in general.items():
        folders.setdefault(stem, set()).add(path.parent)
    if not any(len(one) > 1 for one in folders.values()):
        return {}
    root = Path(os.path.commonpath([path.parent for path in paths]))
    own = {path: name_of(folder_name(path, root)) for path in general}
    return {path: name for path, name in own.items() if name}


def _without(names: dict[str, str], pattern: re.Pattern[str]) -> dict[str, str]:
    """Remove from all names the words that are the same in each; where one has none, none is changed."""
    found = [
        next((one for one in pattern.finditer(name) if one.start() == 0 or one.end() == len(name)), None)
        for name in names.values()
    ]
    if None in found or len({one[0].lower() for one in found if one}) != 1:
        return names
    bare = {
        key: name_of(name[: one.start()] + name[one.end() :])
        for (key, name), one in zip(names.items(), found, strict=True)
        if one
    }
    usable = len(set(bare.values())) == len(bare) and not any(map(GENERAL.fullmatch, bare.values()))
    return bare if usable and all(bare.values()) else names
