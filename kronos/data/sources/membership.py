"""Membership of a universe by day: spans of days, from a file or from the package index-constitution."""

import importlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from kronos.data.bars import MAX_ITEMS, Finding, Flag
from kronos.data.calendars import FOREVER
from kronos.utils.error_messages import OPTIONAL
from kronos.utils.errors import UserError

Spans = list[tuple[pd.Timestamp, pd.Timestamp]]  # first and last days, last day included
POINT_IN_TIME = (
    "Membership is point in time, as the file of symbols states it: the bars are free of survivorship bias as far as "
    "that file is complete and the source has those that left the market."
)
HISTORIES = "index_constitution"  # the package that has the members of indices


def read_universe(file: Path, loose: bool = False) -> dict[str, Spans]:
    """Read lines of symbol, first day, last day; a symbol may have several. Parquet: three columns in that order.

    If `loose`, the first line may name the columns, and no last day means a member to this day. Sorted by symbol.
    """
    if file.suffix.lower() == ".parquet":
        try:
            table = pd.read_parquet(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} cannot be read as parquet: {error}") from None
        rows = [
            ["" if pd.isna(cell) else str(cell) for cell in row]
            for row in table.iloc[:, :3].itertuples(index=False)
        ]
        return _spans(file, enumerate(rows, 1), loose)
    rows = [
        [cell.strip() for cell in (line.split("\t") if "\t" in line else line.split(","))]
        if "\t" in line or "," in line
        else line.split()
        for line in text_lines(file)
    ]
    head = loose and len(rows[0]) > 1 and not any(letter.isdigit() for letter in rows[0][1])
    return _spans(file, list(enumerate(rows, 1))[1 if head else 0 :], loose)


def _spans(file: Path, rows: Iterable[tuple[int, list[str]]], loose: bool) -> dict[str, Spans]:
    found: dict[str, Spans] = {}
    for number, row in rows:
        try:
            name, first = row[0], pd.Timestamp(row[1])
            last = FOREVER if loose and not any(row[2:3]) else pd.Timestamp(row[2])
            if not name or pd.isna(first) or pd.isna(last):
                raise ValueError
        except (ValueError, IndexError):
            raise UserError(
                f"{file}, line {number}: {' '.join(row)!r} is not  SYMBOL  first day  last day"
            ) from None
        if loose and last < first:
            raise UserError(f"{file}, line {number}: {name} leaves on {row[2]}, before it comes on {row[1]}")
        found.setdefault(name, []).append((first, last))
    return dict(sorted(found.items()))


def index_history(index: str) -> dict[str, Spans]:
    """Return the members of an index at any time with their spans, as the package index-constitution has them.

    Raises UserError with the line that installs it, and for an index that it does not have.
    """
    try:
        package = importlib.import_module(HISTORIES)
    except ImportError:
        raise UserError(
            f"history:{index} needs the package index-constitution, which is not installed: run  "
            f"{OPTIONAL[HISTORIES]}"
        ) from None
    known = package.list_indices()
    if index not in known:
        raise UserError(f"symbols history:{index}: index-constitution has {', '.join(known)}")
    found: dict[str, Spans] = {}
    table = package.history(index)
    for name, first, left in zip(table["symbol"], table["opt-in"], table["opt-out"], strict=True):
        last = FOREVER if pd.isna(left) else pd.Timestamp(left) - pd.Timedelta(days=1)
        found.setdefault(str(name), []).append((pd.Timestamp(first), last))
    return dict(sorted(found.items()))


def membership(times: pd.DatetimeIndex, spans: Spans) -> np.ndarray:
    """Return whether each time lies in a membership span; a last day without a time of day is included."""
    inside = np.zeros(len(times), bool)
    for first, last in spans:
        until = last + pd.Timedelta(days=1) if last == last.normalize() else last + pd.Timedelta(1, "ns")
        inside |= (times >= first) & (times < until)
    return inside


def mark_members(frame: pd.DataFrame, universe: dict[str, Spans | None]) -> pd.DataFrame:
    """Mark the bars of instruments on days outside their spans as NONMEMBER: context, but not forecast or scored."""
    flags = frame["flag"].to_numpy(np.uint8, copy=True) if "flag" in frame else np.zeros(len(frame), np.uint8)
    for name, rows in frame.groupby("instrument", observed=True).indices.items():
        spans = universe[str(name)]
        if spans is not None:
            inside = membership(pd.DatetimeIndex(frame["datetime"].to_numpy()[rows]), spans)
            flags[rows] |= np.where(inside, np.uint8(0), np.uint8(Flag.NONMEMBER))
    return frame.assign(flag=flags)


def described(
    name: str, universe: dict[str, Spans | None], absent: list[str]
) -> tuple[dict[str, str], list[Finding]]:
    """Return what a report says of a universe with spans, and its members without bars as a finding."""
    about = {
        "universe": (
            f"{name}: {len(universe) - len(absent)} instruments that were members at some time, each scored only on "
            "its days of membership"
        ),
        "survivorship": POINT_IN_TIME,
    }
    items = [(one, "*", "the source has no bar of it") for one in absent[:MAX_ITEMS]]
    kind = "member without bars in the source"
    return about, [Finding(kind, "left out", len(absent), items)] if absent else []


def text_lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not empty. Raises UserError for another encoding than UTF-8."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
