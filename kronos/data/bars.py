"""What a bar frame is, and how raw bars become one: names, order, checks, repairs, sessions.

A bar frame is long: columns `instrument datetime open high low close volume amount` and perhaps `flag`, sorted by
instrument and time, without repeats. Every rule here is causal: what becomes of a bar depends on that bar and
earlier ones, never on what follows.
"""

from dataclasses import dataclass, field
from datetime import date
from enum import IntFlag
from typing import Any

import numpy as np
import pandas as pd

from kronos.errors import UserError

PRICES = ("open", "high", "low", "close")
FEATURES = (*PRICES, "volume", "amount")
ALIASES = {"vol": "volume", "amt": "amount", "symbol": "instrument", "date": "datetime"}

MAX_FILL = 3  # sessions of a hole that are filled flat: a longer absence is news, not a missing print
REPAIRABLE = 0.05  # rounding and late prints stay far below 5 %; beyond it nobody knows which price is wrong


class Flag(IntFlag):
    """What was done to a bar, stored as one byte a row."""

    FILLED = 1
    REPAIRED = 2
    ADJUSTED = 4
    NONMEMBER = 8


@dataclass(frozen=True)
class Finding:
    """One kind of thing that cleaning met: what was done, how many bars, and every (instrument, day, text)."""

    kind: str
    action: str
    count: int
    items: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def examples(self) -> list[tuple[str, str, str]]:
        return self.items[:5]

    def within(self, begin: date, end: date) -> "Finding":
        """The part of it on the days begin..end."""
        items = [item for item in self.items if str(begin) <= item[1][:10] <= str(end)]
        return Finding(self.kind, self.action, len(items), items)

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON types."""
        return {
            "kind": self.kind,
            "action": self.action,
            "count": self.count,
            "items": [list(item) for item in self.items],
        }


def day_text(times: Any) -> list[str]:
    """Times as text: the day alone when no time of day is set, else to the minute."""
    index = pd.DatetimeIndex(times)
    pattern = "%Y-%m-%d" if bool((index == index.normalize()).all()) else "%Y-%m-%d %H:%M"
    return list(index.strftime(pattern))


def to_frame(raw: pd.DataFrame) -> pd.DataFrame:
    """Give a user's table the columns, types and order of a bar frame; repeats and bad values stay in.

    `vol`, `amt`, `symbol` and `date` are taken as names; a missing `volume` is 0. Other columns are left out.
    Raises UserError for a missing column, text where numbers belong, or a time without a day.
    """
    if not isinstance(raw, pd.DataFrame):
        raise UserError(f"bars must come as a pandas DataFrame, got {type(raw).__name__}")
    frame = raw.rename(columns={old: new for old, new in ALIASES.items() if new not in raw.columns})
    missing = [name for name in ("instrument", "datetime", *PRICES) if name not in frame.columns]
    if missing:
        raise UserError(
            f"bars lack {', '.join(missing)}: the columns are {', '.join(map(str, raw.columns))}, expected "
            "instrument, datetime, open, high, low, close, volume, amount"
        )
    columns: dict[str, Any] = {"instrument": frame["instrument"].astype(str)}
    if pd.api.types.is_numeric_dtype(frame["datetime"]):
        raise UserError(
            "column datetime holds numbers: give times, or text like 2024-06-18, so that none is misread"
        )
    try:
        times = pd.to_datetime(frame["datetime"]).astype("datetime64[ns]")
    except (ValueError, TypeError) as error:
        raise UserError(f"column datetime has a value that is no time: {error}") from None
    if bool(times.isna().any()):
        raise UserError(f"column datetime is empty in {int(times.isna().sum())} of {len(times)} bars")
    columns["datetime"] = times
    for name in FEATURES:
        if name not in frame.columns:
            if name == "volume":
                columns[name] = np.zeros(len(frame))
            continue
        try:
            columns[name] = pd.to_numeric(frame[name]).astype("float64")
        except (ValueError, TypeError) as error:
            raise UserError(f"column {name} has a value that is no number: {error}") from None
    if "flag" in frame.columns:
        columns["flag"] = frame["flag"].astype("uint8")
    result = pd.DataFrame(columns)
    return result.sort_values(["instrument", "datetime"], kind="stable", ignore_index=True)


def clean(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding]]:
    """Make a sound bar frame: repeats and impossible bars are dropped, small contradictions repaired.

    Returns the frame (with `amount` and `flag`) and what was found. A dropped bar leaves a hole, which `align` fills
    or cuts. Each bar is judged on its own, so that later bars change nothing before them.
    """
    frame = to_frame(raw)
    findings: list[Finding] = []

    again = frame.duplicated(["instrument", "datetime"], keep="first").to_numpy()
    frame = _drop(frame, again, "repeated bar", "dropped, the first is kept", findings)

    numbers = frame[[*PRICES, "volume"]].to_numpy()
    missing = ~np.isfinite(numbers).all(1)
    frame = _drop(frame, missing, "missing value", "dropped, a hole", findings)

    impossible = (frame[list(PRICES)] <= 0).any(axis=1).to_numpy() | (frame["volume"] < 0).to_numpy()
    frame = _drop(frame, impossible, "price not positive or volume negative", "dropped, a hole", findings)

    frame = _mend_range(frame, findings)
    mean_price = (frame["open"] + frame["high"] + frame["low"] + frame["close"]) / 4
    if "amount" not in frame.columns:
        frame["amount"] = frame["volume"] * mean_price
    else:
        unknown = ~np.isfinite(frame["amount"]) | (frame["amount"] < 0)
        frame["amount"] = frame["amount"].where(~unknown, frame["volume"] * mean_price)
        _note(frame[unknown], "amount missing", "set to volume x mean of open, high, low, close", findings)
    return frame[["instrument", "datetime", *FEATURES, "flag"]], findings


def _mend_range(frame: pd.DataFrame, findings: list[Finding]) -> pd.DataFrame:
    """Widen high and low to contain open and close where they are off by at most 5 %, else drop the bar."""
    if "flag" not in frame.columns:
        frame["flag"] = np.zeros(len(frame), "uint8")
    top = frame[["open", "close"]].max(axis=1).to_numpy()
    bottom = frame[["open", "close"]].min(axis=1).to_numpy()
    high, low = frame["high"].to_numpy(), frame["low"].to_numpy()
    excess = np.maximum(top / high, low / bottom) - 1
    broken = excess > 0
    far = excess > REPAIRABLE
    kept = broken & ~far
    texts = [
        f"open {row.open:g} close {row.close:g} high {row.high:g} low {row.low:g} ({100 * off:.2g} % off)"
        for row, off in zip(frame[kept].itertuples(), excess[kept], strict=True)
    ]
    _note(
        frame[kept],
        "high and low do not contain open and close, by at most 5 %",
        "high and low widened to contain them",
        findings,
        texts,
    )
    frame.loc[kept, "high"] = np.maximum(top, high)[kept]
    frame.loc[kept, "low"] = np.minimum(bottom, low)[kept]
    frame.loc[kept, "flag"] |= np.uint8(Flag.REPAIRED)
    return _drop(
        frame,
        far,
        "high and low do not contain open and close, by more than 5 %",
        "dropped, a hole",
        findings,
    )


def _note(
    bars: pd.DataFrame, kind: str, action: str, findings: list[Finding], texts: list[str] | None = None
) -> None:
    if len(bars):
        texts = texts or [""] * len(bars)
        items = list(zip(bars["instrument"], day_text(bars["datetime"]), texts, strict=True))
        findings.append(Finding(kind, action, len(bars), items))


def _drop(
    frame: pd.DataFrame, unwanted: np.ndarray, kind: str, action: str, findings: list[Finding]
) -> pd.DataFrame:
    if not unwanted.any():
        return frame
    bars = frame[unwanted]
    texts = [
        f"open {row.open:g} high {row.high:g} low {row.low:g} close {row.close:g} volume {row.volume:g}"
        for row in bars.itertuples()
    ]
    _note(bars, kind, action, findings, texts)
    return frame[~unwanted].reset_index(drop=True)


def session_places(frame: pd.DataFrame, sessions: pd.DatetimeIndex) -> np.ndarray:
    """Place of each bar in the calendar, int64 [N]. Raises UserError for a bar at no session of it."""
    place = sessions.as_unit("ns").get_indexer(pd.DatetimeIndex(frame["datetime"]).as_unit("ns"))
    if (place < 0).any():
        first = frame[place < 0].iloc[0]
        raise UserError(
            f"{first['instrument']} has a bar at {day_text([first['datetime']])[0]}, which is no session of the "
            f"calendar ({int((place < 0).sum())} such bars): drop them or choose the calendar they were traded on"
        )
    return place


def align(frame: pd.DataFrame, sessions: pd.DatetimeIndex) -> pd.DataFrame:
    """Give each bar its `session` (place in the calendar) and fill the beginning of every hole flat.

    The first `MAX_FILL` missing sessions after a bar become bars at its close with volume 0, flagged FILLED,
    whether or not the instrument ever trades again, but never past the last session of the whole frame. A longer
    hole stays one: `session` jumps there, so that bars on its two sides are never adjacent.
    Raises UserError for a bar that is not at a session of the calendar.
    """
    if frame.empty:
        raise UserError("there is no bar left to store: check the source and the range of days asked for")
    place = session_places(frame, sessions)
    instrument = frame["instrument"].to_numpy()
    following = np.append(place[1:], 0)
    last_of_instrument = np.append(instrument[1:] != instrument[:-1], True)
    following[last_of_instrument] = place.max() + 1
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
