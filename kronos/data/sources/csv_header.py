"""Where the bars of a text begin and end, what separates its columns, and what they are called."""

import csv
import re
from collections import Counter
from typing import NamedTuple

from kronos.data.bars import PRICES
from kronos.data.sources.csv_columns import meaning
from kronos.data.sources.csv_numbers import NONE, is_number
from kronos.data.sources.csv_words import TIMES, role_of, squeeze
from kronos.utils.errors import UserError

HEAD = 65536  # bytes in which the first bars must be found
SAMPLE = 200  # lines that are looked at
FEWEST = 5  # columns of bars: a time and four prices
LONGEST_HEADER = 3  # lines
MARKS = ("\t", ";", "|", ",", " ")  # what separates columns, in the order in which equals are preferred
DATE = re.compile(
    r"\s*(\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}|1\d\d[-/.年]\d{1,2}[-/.月]\d{1,2}|\d{1,2}[-/. ]\d{1,2}[-/. ]\d{2,4}"
    r"|\d{1,2}[-/. ]{0,2}[^\W\d_]{3,9}\.?[-/ ,]+\d{2,4}"
    r"|[A-Za-z]{3,9}\.? \d{1,2},? \d{4}|(19|20|21)\d{6}([ T]?\d{4,9})?(\.\d+)?\b|\d{9,19}(\.0*)?\s*$)"
)
WORDS = re.compile(r"[^\W\d_]")
KINDS = {  # words that stand beside a field and name no instrument, as in Bid Open and OPEN_PRICE
    "price", "prices", "px", "prc", "bid", "ask", "mid", "adj", "adjusted", "adjustment", "raw", "unadj",
    "unadjusted", "prev", "previous", "last", "next", "trade", "day", "daily", "session", "mean", "avg",
}  # fmt: skip
TUPLE = re.compile(r"""\(\s*['"](.*?)['"]\s*,\s*['"](.*?)['"]\s*\)""")  # ('Close', 'AAPL'), of pandas
CODE = re.compile(r"\d{6}")  # of an instrument, over its columns in a wide table
FIELDS = {*PRICES, "volume", "amount", "adj_close"}  # what a wide table has for each instrument


class Header(NamedTuple):
    """The columns of a text. `skipped` are the lines before the first bar; `wide` says whose field a column is.

    `delimiter` is one character; a blank stands for any number of blanks and tabs. `names` are empty where the text
    has no header.
    """

    delimiter: str
    names: tuple[str, ...]
    skipped: int
    width: int
    wide: tuple[tuple[str, str] | None, ...] | None = None  # (field, instrument) of each column


def cells(line: str, delimiter: str) -> list[str]:
    """Split a line into its cells without blanks around them."""
    if delimiter == " ":
        return line.split()
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    try:
        return [
            cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        ]
    except csv.Error:
        return [cell.strip() for cell in line.split(delimiter)]


def find_header(data: bytes) -> Header:
    """Find the header of a text of bars.

    Raises UserError where the columns are not understood: it says which are missing, and which there are.
    """
    lines = data[:HEAD].decode("utf-8", errors="ignore").split("\n")[:SAMPLE]
    first = lines[0]
    mark = max(",;\t", key=first.count)
    names = tuple(cells(first, mark))
    if len(names) >= FEWEST and _complete(names):
        begin = _after_units([cells(line, mark) for line in lines[: LONGEST_HEADER + 2]], 1)
        return Header(mark, names, begin, _width(lines[begin:], mark, len(names)))
    return _search(lines)


def understood(header: Header) -> int:
    """Return how many of the columns have known names."""
    return sum(bool(role_of(name)[0]) for name in header.names)


def _complete(names: tuple[str, ...]) -> bool:
    try:
        return not meaning(names).missing()
    except UserError:
        return False


def _width(lines: list[str], mark: str, named: int) -> int:
    """Return the number of columns of the bars, which may be one more or less than those of the header."""
    counts = Counter(len(cells(line, mark)) for line in lines[:20] if line.strip())
    usual = counts.most_common(1)[0][0] if counts else named
    return usual if abs(usual - named) <= 1 and counts[usual] > counts.get(named, 0) else named


def _search(lines: list[str]) -> Header:
    mark, width = _delimiter(lines)
    rows = [cells(line, mark) for line in lines]
    known = next(
        (place for place, row in enumerate(rows) if len(row) >= FEWEST and _complete(tuple(row))), None
    )
    if known is not None:
        begin = _after_units(rows, known + 1)
        return Header(mark, tuple(rows[known]), begin, _width(lines[begin:], mark, len(rows[known])))
    end = next((place for place, row in enumerate(rows) if _is_bar(row)), len(rows))
    if end < len(rows):
        width = len(rows[end])
    above = [
        place for place in range(end) if len(rows[place]) >= max(3, width - 1) and _is_header(rows[place])
    ]
    block = above[-LONGEST_HEADER:]
    while block and block[-1] - block[0] != len(block) - 1:
        block = block[1:]  # the lines next to the bars
    if not block:
        if end == len(rows):
            shown = next((line.strip() for line in lines if line.strip()), "")
            raise UserError(
                f"no bars are found in it, its first line is {shown[:60]!r}: a header and bars were expected"
            )
        return Header(mark, (), end, width)
    levels = [rows[place] for place in block]
    if end == len(rows):
        width = len(levels[-1])
    wide = _wide(levels, width)
    if wide is not None:
        return Header(mark, wide[0], end, width, wide[1])
    return Header(mark, tuple(levels[-1]), end, width)


def _delimiter(lines: list[str]) -> tuple[str, int]:
    """Return what separates most lines into equally many columns, and how many."""
    best, found = (0.0, ",", 0), False
    filled = [line for line in lines if line.strip()]
    for mark in MARKS:
        if mark == " " and found:
            continue
        counts = Counter(len(cells(line, mark)) for line in filled)
        width, rows = max(
            ((width, rows) for width, rows in counts.items() if width >= FEWEST),
            key=lambda one: (one[1], one[0]), default=(0, 0),
        )  # fmt: skip
        if rows > 1.1 * best[0] or (rows and not found):
            best, found = (float(rows), mark, width), True
    return best[1], best[2]


def _is_bar(row: list[str]) -> bool:
    """Return whether a row has a time and at least four other numbers."""
    dated = any(DATE.match(cell) for cell in row)
    return dated and len(row) >= FEWEST and sum(is_number(cell) for cell in row) >= 4


def _is_header(row: list[str]) -> bool:
    """Return whether a row has words and neither numbers nor times."""
    filled = [cell for cell in row if cell.lower() not in NONE]
    plain = [cell for cell in filled if not CODE.fullmatch(cell) and (is_number(cell) or DATE.match(cell))]
    return any(WORDS.search(cell) for cell in filled) and len(plain) * 3 < len(filled)


def _after_units(rows: list[list[str]], begin: int) -> int:
    """Return the line after further lines of a header, of units or of names in another language."""
    for place in range(begin, min(begin + LONGEST_HEADER - 1, len(rows))):
        filled = [cell for cell in rows[place] if cell]
        if (
            not filled
            or any(is_number(cell) or DATE.match(cell) for cell in filled)
            or not _is_header(rows[place])
        ):
            return place
        if not any(_is_bar(row) for row in rows[place + 1 : place + 3]):
            return place
    return min(begin + LONGEST_HEADER - 1, len(rows))


def _wide(
    levels: list[list[str]], width: int
) -> tuple[tuple[str, ...], tuple[tuple[str, str] | None, ...]] | None:
    """Understand a header of several lines, or of names made of two parts; None where it is neither.

    Returns names and, for every column, its (field, instrument), None for columns that all instruments share.
    """
    padded = [[*level, *[""] * (width - len(level))][:width] for level in levels]
    for fields in padded:
        of_fields = ["", *(_field(cell) for cell in fields[1:])]  # the first column holds the times
        if len({one for one in of_fields if one} & set(PRICES)) < len(PRICES):
            continue
        others = [level for level in padded if level is not fields]
        owner = next((one for one in others if _owns(one, of_fields)), None)
        if owner is None:
            continue
        owners = _filled(owner)
        wide = tuple(
            (field, name) if field and name else None for field, name in zip(of_fields, owners, strict=True)
        )
        names = []
        for place, one in enumerate(wide):
            cell = next((level[place] for level in reversed(padded) if level[place]), "")
            shared = [level[place] for level in padded if role_of(level[place])[0] in TIMES]
            names.append(f"{one[1]} {one[0]}" if one else shared[0] if shared else "" if place == 0 else cell)
        return tuple(names), wide
    return two_part_names(tuple(padded[-1]))


def two_part_names(
    names: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[tuple[str, str] | None, ...]] | None:
    """Understand names such as `AAPL.Open`, `close_MSFT` and `('Close', 'AAPL')`; None where none is whole."""
    pairs = [TUPLE.fullmatch(name.strip()) for name in names]
    if any(role_of(name)[0] == "instrument" for name in names):
        return None
    for first in (True, False):
        wide: list[tuple[str, str] | None] = []
        for name, both in zip(names, pairs, strict=True):
            if both:
                parts = [both[1], both[2]]
            elif first:
                parts = re.split(r"[.:_/ ]", name.strip(), maxsplit=1)
            else:
                parts = _last_part(name.strip())
            pair = [part.strip() for part in parts]
            field = _field(pair[0 if first else -1]) if len(pair) == 2 else ""
            field = "" if field and squeeze(pair[1 if first else 0]) in KINDS else field
            wide.append((field, pair[1 if first else 0]) if field and all(pair) else None)
        owners = [name for field, name in filter(None, wide) if field == "close"]
        whole = [name for name in owners if all((price, name) in wide for price in PRICES)]
        if whole:
            return names, tuple(one if one and one[1] in whole else None for one in wide)
    return None


def _last_part(text: str) -> list[str]:
    found = re.fullmatch(r"(.*?)\s*(?:,\s*|[.:_/ ])([^.:_/, ]+(?: close)?)", text, flags=re.I)
    return [found[1], found[2]] if found else [text]


def _field(cell: str) -> str:
    role = role_of(cell)[0]
    return role if role in FIELDS else ""


def _owns(level: list[str], fields: list[str]) -> bool:
    """Return whether a line of a header names an instrument over every field, written once or repeated."""
    under = [cell for cell, field in zip(level, fields, strict=True) if field]  # codes may be numbers
    names = {cell for cell in under if cell}
    return bool(names) and bool(under[0]) and not any(_field(name) for name in names)


def _filled(level: list[str]) -> list[str]:
    """Fill empty cells with the one before, as merged cells of spreadsheets are written."""
    last, found = "", []
    for cell in level:
        last = cell or last
        found.append(last)
    return found
