"""The bar frame: column names, types, order and sessions (`cleaning` checks the bars themselves).

A bar frame is long: columns `instrument datetime open high low close volume amount` and perhaps `flag`, sorted by
instrument and time, without repeats. Every rule here is causal: what becomes of a bar depends on that bar and
earlier ones, never on what follows.
"""

import re
import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from enum import IntFlag
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.features import OTHER_NAMES, PRICES
from kronos.utils.errors import UserError

FEATURES = (*PRICES, "volume", "amount")
OPEN, HIGH, LOW, CLOSE, VOLUME, AMOUNT = range(len(FEATURES))  # their places in an array of bars
EXTRA = ("factor", "adj_close", "split_so_far", "flag")  # columns of a raw frame kept beside the features
MARK = "extra:"  # before the names of further columns, see `extra_columns`
CODE = re.compile(r"0\d+")  # 01 is the code of something, and no number
ALIASES = {  # names that a DataFrame may use instead
    **OTHER_NAMES, "symbol": "instrument", "date": "datetime", "timestamps": "datetime",
}  # fmt: skip
SPELLINGS = {  # names that the columns of files are found under, in lower case, the preferred one first
    "instrument": ("instrument", "symbol", "code", "ticker", "ts_code", "stock_code", "sec_code", "stock", "sid",
                   "股票代码", "证券代码", "代码"),
    "datetime": ("datetime", "timestamps", "timestamp", "date", "time", "day", "trade_date", "tradedate", "dt",
                 "日期", "交易日期", "时间"),
    "open": ("open", "o", "open_price", "开盘", "开盘价"),
    "high": ("high", "h", "high_price", "最高", "最高价"),
    "low": ("low", "l", "low_price", "最低", "最低价"),
    "close": ("close", "c", "close_price", "收盘", "收盘价"),
    "volume": ("volume", "vol", "v", "成交量"),
    "amount": ("amount", "amt", "turnover", "money", "value", "成交额"),
    "adj_close": ("adj_close", "adj close", "adjclose", "adjusted_close"),
    "factor": ("factor", "adj_factor", "adjfactor"),
    "split": ("split", "split_ratio", "splitratio", "split_factor", "splitfactor", "stock splits", "stock_splits",
              "splits"),
    "limit_up": ("limit_up", "up_limit", "high_limit", "limit_up_price", "upper_limit", "涨停价"),
    "limit_down": ("limit_down", "down_limit", "low_limit", "limit_down_price", "lower_limit", "跌停价"),
}  # fmt: skip

LIMIT_ROUNDING = 1e-6  # relative: a price this near to its limit is at it
MAX_ITEMS = 1000  # (instrument, day, text) kept per finding: beyond, only the count is exact
MAX_FILL = 3  # sessions of a hole that are filled flat: a longer absence is not a missing print


class Flag(IntFlag):
    """What was done to a bar, and which of its prices are at a limit that its source gives; one byte per row."""

    FILLED = 1
    REPAIRED = 2
    ADJUSTED = 4
    NONMEMBER = 8
    OPEN_UP = 16
    OPEN_DOWN = 32
    CLOSE_UP = 64
    CLOSE_DOWN = 128


@dataclass(frozen=True)
class Finding:
    """One kind of problem found in the bars: what was done, how many times, and (instrument, day, text) of each.

    At most `MAX_ITEMS` of the items are kept; `count` counts all cases. Instrument or day `*` means all of them.
    """

    kind: str
    action: str
    count: int
    items: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def examples(self) -> list[tuple[str, str, str]]:
        return self.items[:5]

    def within(self, begin: date, end: date) -> "Finding":
        """Return the part of it on the days begin..end; a finding with more items than are kept stays as it is."""
        if self.count > len(self.items):
            return self
        items = [item for item in self.items if item[1] == "*" or str(begin) <= item[1][:10] <= str(end)]
        return Finding(self.kind, self.action, len(items), items)

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON types."""
        return {
            "kind": self.kind,
            "action": self.action,
            "count": self.count,
            "items": [list(item) for item in self.items],
        }


def merge_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Merge to one finding per (kind, action), in the order of their first appearance."""
    merged: dict[tuple[str, str], Finding] = {}
    for one in findings:
        before = merged.get((one.kind, one.action))
        if before is None:
            merged[one.kind, one.action] = Finding(one.kind, one.action, one.count, one.items[:MAX_ITEMS])
        else:
            items = before.items + one.items[: MAX_ITEMS - len(before.items)]
            merged[one.kind, one.action] = Finding(one.kind, one.action, before.count + one.count, items)
    return list(merged.values())


def day_text(times: Any) -> list[str]:
    """Format times: the day alone when no time of day is set, otherwise to the minute."""
    index = pd.DatetimeIndex(times)
    pattern = "%Y-%m-%d" if bool((index == index.normalize()).all()) else "%Y-%m-%d %H:%M"
    return list(index.strftime(pattern))


def rename_aliases(frame: pd.DataFrame) -> pd.DataFrame:
    """Rename the columns of ALIASES: `vol` becomes `volume` where there is no column of that name, and so on."""
    chosen: dict[str, str] = {}
    for alias, name in ALIASES.items():
        if alias in frame.columns and name not in frame.columns and name not in chosen.values():
            chosen[alias] = name
    return frame.rename(columns=chosen)


def to_frame(raw: pd.DataFrame, findings: list[Finding] | None = None) -> pd.DataFrame:
    """Convert a table to the columns, types and order of a bar frame; repeats and bad values stay in.

    The names of ALIASES are understood; a missing `volume` is 0; `factor`, `adj_close` and `flag` are kept. `split`,
    the new shares for each old one on the day of a split (0, 1 or empty: none), becomes `split_so_far`, their product
    up to each bar. `limit_up` and `limit_down`, the prices beyond which nothing trades that day (0 or empty: none),
    become flags of the open and the close. Columns marked `extra:NAME` are kept as `typed` makes them, and others
    left out. Rows that were out of time order are counted in `findings`. Raises UserError for a missing column, text
    where numbers belong, a negative split, a time without a day, or an instrument's name with a control character.
    """
    if not isinstance(raw, pd.DataFrame):
        raise UserError(f"bars must come as a pandas DataFrame, got {type(raw).__name__}")
    frame = _rename_evidence(rename_aliases(raw))
    twice = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
    if twice:
        raise UserError(f"bars have column {', '.join(twice)} twice: rename or remove one of them")
    missing = [name for name in ("instrument", "datetime", *PRICES) if name not in frame.columns]
    if missing:
        raise UserError(
            f"bars lack {', '.join(missing)}: the columns are {', '.join(map(str, raw.columns))}, expected "
            f"instrument, datetime, {', '.join(FEATURES)}"
        )
    nameless = (
        frame["instrument"].isna().to_numpy() | (frame["instrument"].astype(str).str.strip() == "").to_numpy()
    )
    if nameless.any():
        raise UserError(f"column instrument is empty in {int(nameless.sum())} of {len(frame)} bars")
    columns: dict[str, Any] = {"instrument": frame["instrument"].astype(str)}
    refuse_unusable_names(columns["instrument"].unique())
    columns["datetime"] = _times(frame["datetime"])
    for name in (*FEATURES, "factor", "adj_close", "split", "split_so_far"):
        if name not in frame.columns:
            if name == "volume":
                columns[name] = np.zeros(len(frame))
            continue
        columns[name] = _numbers(frame[name], name)
    columns |= {name: typed(frame[name]) for name in marked(frame.columns)}
    if "flag" in frame.columns:
        columns["flag"] = frame["flag"].astype("uint8")
    if has_limits(frame):
        given = columns.get("flag", pd.Series(np.zeros(len(frame), np.uint8), frame.index))
        columns["flag"] = given | _limit_flags(frame, columns["open"], columns["close"])
    result = _sorted(pd.DataFrame(columns).reset_index(drop=True), findings)
    return _cumulate_splits(result) if "split" in result.columns else result


def marked(columns: Iterable[Any]) -> list[str]:
    """Return the names `extra:NAME` among the columns of a frame."""
    return [name for name in map(str, columns) if name.startswith(MARK)]


def typed(column: pd.Series) -> pd.Series:
    """Return a column as float64 where all its values are numbers, else as a categorical of texts.

    A missing value, an empty text included, is NaN. A text like 01 is no number: it is the code of a category.
    """
    if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.categories.inferred_type in (
        "string",
        "empty",
    ):
        return column
    if pd.api.types.is_numeric_dtype(column.dtype):
        return pd.Series(column.to_numpy("float64", na_value=np.nan), column.index)
    text = column.map(cell_text)
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    words = text.dropna()
    if numbers[words.index].notna().all() and not words.map(CODE.fullmatch).any():
        return numbers
    return text.astype(pd.CategoricalDtype(sorted(words.unique())))


def cell_text(value: Any) -> str | float:
    """Return a cell as the text that a category has in a store; NaN for a missing value and an empty text."""
    if isinstance(value, float):
        return np.nan if np.isnan(value) else np.format_float_positional(value, trim="-")
    return np.nan if value is None or value is pd.NA else str(value).strip() or np.nan


def refuse_unusable_names(names: Iterable[str]) -> None:
    """Raise UserError for a name with a control character, one that ends a line, or half of a surrogate pair."""
    for name in names:
        found = [char for char in name if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
        if found:
            raise UserError(
                f"instrument {name!a} has the control character U+{ord(found[0]):04X}: rename it in the source"
            )


def has_limits(raw: pd.DataFrame) -> bool:
    """Return whether a raw frame has columns of price limits, in any of their spellings."""
    known = {*SPELLINGS["limit_up"], *SPELLINGS["limit_down"]}
    return any(str(name).strip().lower() in known for name in raw.columns)


def _limit_flags(frame: pd.DataFrame, opening: pd.Series, close: pd.Series) -> pd.Series:
    """Return the flags of prices at the limits that the columns give, to within rounding."""
    flags = np.zeros(len(frame), np.uint8)
    for name, sign, at_open, at_close in (
        ("limit_up", 1, Flag.OPEN_UP, Flag.CLOSE_UP), ("limit_down", -1, Flag.OPEN_DOWN, Flag.CLOSE_DOWN),
    ):  # fmt: skip
        if name not in frame.columns:
            continue
        limit = _numbers(frame[name], name).to_numpy()
        known = limit > 0
        for price, flag in ((opening, at_open), (close, at_close)):
            beyond = sign * (price.to_numpy() / np.where(known, limit, np.nan) - 1) >= -LIMIT_ROUNDING
            flags |= np.where(known & beyond, np.uint8(flag), np.uint8(0))
    return pd.Series(flags, frame.index)


def _rename_evidence(frame: pd.DataFrame) -> pd.DataFrame:
    """Rename the columns of adjusted closes, splits and limits from their spellings, `Stock Splits` for example."""
    chosen: dict[Any, str] = {}
    for name in ("adj_close", "split", "limit_up", "limit_down"):
        found = [one for one in frame.columns if str(one).strip().lower() in SPELLINGS[name]]
        if found and name not in frame.columns:
            chosen[min(found, key=lambda one: SPELLINGS[name].index(str(one).strip().lower()))] = name
    return frame.rename(columns=chosen)


def _cumulate_splits(frame: pd.DataFrame) -> pd.DataFrame:
    """Replace `split` by the product of an instrument's splits so far; each day has one at most."""
    split = frame["split"].to_numpy()
    wrong = (split < 0) | np.isinf(split)
    if wrong.any():
        first = frame[wrong].iloc[0]
        raise UserError(
            f"column split has {first['split']:g} for {first['instrument']} at {day_text([first['datetime']])[0]}: "
            "the new shares for each old one were expected, 0 or 1 for none"
        )
    is_split = ~np.isnan(split) & (split != 0) & (split != 1)
    days = pd.DataFrame({"instrument": frame["instrument"], "day": frame["datetime"].dt.normalize()})
    again = days[is_split].duplicated()
    places = np.flatnonzero(is_split)[~again.to_numpy()]  # bars within a day may all name the day's split
    ratio = np.ones(len(frame))
    ratio[places] = split[places]
    so_far = pd.Series(ratio, frame.index).groupby(frame["instrument"], sort=False).cumprod()
    return frame.drop(columns="split").assign(split_so_far=so_far)


def _times(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        raise UserError(
            "column datetime holds numbers: give times, or text like 2024-06-18, so that none is misread"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a format that cannot be guessed is read one by one
            times = pd.to_datetime(column)
        if times.dt.tz is not None:
            raise UserError(
                f"column datetime has the time zone {times.dt.tz}: convert it to the exchange's local time"
            )
        times = times.astype("datetime64[ns]")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"column datetime has a value that is not a time: {error}") from None
    if bool(times.isna().any()):
        raise UserError(f"column datetime is empty in {int(times.isna().sum())} of {len(times)} bars")
    return times


def _numbers(column: pd.Series, name: str) -> pd.Series:
    try:
        return pd.to_numeric(column).astype("float64")
    except (ValueError, TypeError) as error:
        raise UserError(f"column {name} has a value that is not a number: {error}") from None


def _sorted(frame: pd.DataFrame, findings: list[Finding] | None) -> pd.DataFrame:
    """Sort by instrument and time, stably; a frame in order, as most sources give it, is returned as it is."""
    code = pd.factorize(frame["instrument"], sort=True)[0]
    time = frame["datetime"].to_numpy().astype(np.int64)
    step, later = np.diff(code), np.diff(time)
    if ((step > 0) | ((step == 0) & (later >= 0))).all():
        return frame
    grouped = np.argsort(code, kind="stable")
    same = np.diff(code[grouped]) == 0
    early = grouped[1:][same & (np.diff(time[grouped]) < 0)]
    if findings is not None and len(early):
        rows = frame.iloc[np.sort(early)[:MAX_ITEMS]]
        items = list(zip(rows["instrument"], day_text(rows["datetime"]), [""] * len(rows), strict=True))
        findings.append(
            Finding("bar earlier than the one before it", "put in order of time", len(early), items)
        )
    order = np.lexsort((np.arange(len(time)), time, code))
    return frame.iloc[order].reset_index(drop=True)


def places_of(times: Any, sessions: pd.DatetimeIndex) -> np.ndarray:
    """Return the place of each time in the calendar, int64 [N]; -1 where it is at no session."""
    known = sessions.as_unit("ns").asi8
    wanted = pd.DatetimeIndex(times).as_unit("ns").asi8
    place = np.searchsorted(known, wanted)
    found = known[np.minimum(place, len(known) - 1)] == wanted if len(known) else np.zeros(len(wanted), bool)
    return np.where(found, place, -1).astype(np.int64)


def session_places(frame: pd.DataFrame, sessions: pd.DatetimeIndex) -> np.ndarray:
    """Return the place of each bar in the calendar, int64 [N]. Raises UserError for a bar at no session of it."""
    place = places_of(frame["datetime"], sessions)
    if (place < 0).any():
        first = frame[place < 0].iloc[0]
        raise UserError(
            f"{first['instrument']} has a bar at {day_text([first['datetime']])[0]}, which is not a session of "
            f"the calendar ({int((place < 0).sum())} such bars): drop them or choose the calendar they were traded on"
        )
    return place


def align(frame: pd.DataFrame, sessions: pd.DatetimeIndex, last_session: int | None = None) -> pd.DataFrame:
    """Add each bar's `session` (place in the calendar) and fill the beginning of every hole with flat bars.

    The first `MAX_FILL` missing sessions after a bar become bars at its close with volume 0, flagged FILLED,
    whether or not the instrument ever trades again, but never past `last_session`, by default the last one with a
    bar. A longer hole stays one: `session` jumps there, so that bars on its two sides are never adjacent.
    Raises UserError for a bar that is not at a session of the calendar.
    """
    if frame.empty:
        raise UserError(
            "there is no bar left to store: check the source, dataset_begin_time and dataset_end_time"
        )
    place = session_places(frame, sessions)
    instrument = frame["instrument"].to_numpy()
    following = np.append(place[1:], 0)
    last_of_instrument = np.append(instrument[1:] != instrument[:-1], True)
    following[last_of_instrument] = (int(place.max()) if last_session is None else last_session) + 1
    copies = 1 + np.minimum(following - place - 1, MAX_FILL)

    row = np.repeat(np.arange(len(frame)), copies)
    since_bar = np.arange(len(row)) - np.repeat(np.cumsum(copies) - copies, copies)
    filled = since_bar > 0
    result = frame.iloc[row].reset_index(drop=True)
    result["session"] = (place[row] + since_bar).astype("int32")
    result["datetime"] = sessions.as_unit("ns")[result["session"].to_numpy()]
    for name in ("open", "high", "low"):
        result[name] = result["close"].where(filled, result[name])
    for name in ("volume", "amount"):
        result[name] = result[name].where(~filled, 0.0)
    flag = result["flag"].to_numpy() if "flag" in result.columns else np.zeros(len(result), "uint8")
    inherited = flag & np.uint8(Flag.ADJUSTED | Flag.NONMEMBER)
    result["flag"] = np.where(filled, inherited | np.uint8(Flag.FILLED), flag).astype("uint8")
    return result
