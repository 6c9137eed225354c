"""The cells of a file of bars as an Arrow table: plain files by Arrow's own types, others as text."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from kronos.data.sources.csv_header import DATE, HEAD, Header, cells, find_header, two_part_names, understood
from kronos.data.sources.csv_numbers import NONE, is_number, only_point_groups
from kronos.data.sources.csv_text import FEATHER, PARQUET, as_utf8, texts
from kronos.utils.errors import UserError

LONGEST_FOOTER = 50  # lines
KEPT_ROWS = 20  # texts of unreadable rows that are kept
NULLS = sorted(
    {*NONE, *(word.upper() for word in NONE), *(word.title() for word in NONE), "NaN", "None", "N/A"}
)


class Cells(NamedTuple):
    """One text of a file, or a parquet file, before its cells are read; columns are named by their places."""

    path: Path
    name: str  # of the file, or of the member of an archive
    header: Header
    body: bytes
    begin: int  # of the first bar in `body`
    sample: tuple[tuple[str, ...], ...]  # the first rows

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns; empty ones where there is no header."""
        return self.header.names or ("",) * self.header.width


class Rows(NamedTuple):
    """A table, how many rows of the file had too many or too few cells, and some of their texts."""

    table: pa.Table
    unreadable: int
    examples: list[str]


def open_cells(path: Path) -> list[Cells]:
    """Open a file: the texts in it, or one for a parquet file.

    Raises UserError where a text is empty, in no known encoding, or without an understood header.
    """
    if path.suffix.lower() in (*PARQUET, *FEATHER):
        stored = _schema(path).names
        names = tuple("" if name.startswith("__index_level_") else str(name) for name in stored)
        wide = two_part_names(names)
        return [
            Cells(path, path.name, Header("", names, 0, len(names), wide[1] if wide else None), b"", 0, ())
        ]
    return [_open_text(path, name, data) for name, data in texts(path)]


def _open_text(path: Path, name: str, data: bytes) -> Cells:
    found: list[tuple[int, Header, bytes]] = []
    problems: list[UserError] = []
    for text in as_utf8(data, path):
        try:
            header = find_header(text)
        except UserError as error:
            problems.append(error)
            continue
        found.append((understood(header), header, text))
    if not found:
        raise UserError(f"{path}: {problems[0]}")
    _, header, text = max(found, key=lambda one: one[0])  # the first of equals
    return _with_body(path, name, text, header)


def _with_body(path: Path, name: str, text: bytes, header: Header) -> Cells:
    begin = 0
    for _ in range(header.skipped):
        place = text.find(b"\n", begin)
        begin = len(text) if place < 0 else place + 1
    if header.delimiter == " ":
        text = b"\n".join(b"\t".join(line.split()) for line in text[begin:].split(b"\n"))
        header, begin = header._replace(delimiter="\t"), 0
    text = _without_footer(text, header.delimiter, begin)
    lines = text[begin : begin + HEAD].decode("utf-8", errors="ignore").split("\n")[:50]
    sample = tuple(tuple(cells(line, header.delimiter)) for line in lines if line.strip())
    return Cells(path, name, _padded(header, sample, path), text, begin, sample)


def _without_footer(body: bytes, delimiter: str, start: int) -> bytes:
    """Leave out remarks below the bars, such as where they come from."""
    end = len(body)
    for _ in range(LONGEST_FOOTER):
        begin = max(body.rfind(b"\n", 0, max(end - 1, 0)) + 1, start)
        line = body[begin:end].decode("utf-8", errors="replace").strip("\n")
        if end <= start or (line.strip() and _has_bar(cells(line, delimiter))):
            break
        end = begin
    return body[:end]


def _padded(header: Header, sample: tuple[tuple[str, ...], ...], path: Path) -> Header:
    """Give every column of the bars a name: numbers of rows may lack one, and an empty last column may have none.

    Raises UserError where it cannot be told which name or column is missing.
    """
    names, width = header.names, header.width
    if not names or len(names) == width:
        return header
    rows = [row for row in sample if len(row) == width]
    if len(names) == width + 1 and not names[-1]:
        return header._replace(names=names[:width])
    if len(names) == width - 1 and all(not row[-1] for row in rows):
        return header._replace(names=(*names, ""))
    numbers = [row[0].strip('"') for row in rows]
    counted = [str(int(numbers[0]) + place) for place in range(len(rows))] if numbers[0].isdigit() else []
    if len(names) == width - 1 and numbers == counted:
        return header._replace(names=("", *names))
    raise UserError(
        f"{path} has {len(names)} names in its header and {width} columns in its bars, such as "
        f"{header.delimiter.join(rows[0])[:80]!r}"
    )


def read_rows(opened: Cells, places: Iterable[int], text: Iterable[int], all_text: bool = False) -> Rows:
    """Read the columns at `places`; those in `text` stay text: no leading zero is lost, and no date is guessed.

    Other columns are numbers where Arrow can read them as such, otherwise text. Raises UserError for a broken file.
    """
    wanted, as_text = sorted(set(places)), set(text)
    if opened.path.suffix.lower() in (*PARQUET, *FEATHER):
        return Rows(_parquet(opened, wanted, as_text), 0, [])
    header, body, begin = opened.header, opened.body, opened.begin
    if not opened.sample:
        raise UserError(f"{opened.path} has a header and no bars: remove the file or fill it")
    if header.delimiter != "," and (
        re.search(rb"\d,\d", body[begin : begin + HEAD])
        or only_point_groups(cell for row in opened.sample for cell in row if not DATE.match(cell))
    ):
        all_text = (
            True  # a comma or point within numbers: thousands or decimals, which only whole columns tell
        )
    quoted = body.find(b'"', begin) >= 0
    lines = sum(1 for line in body[begin:].split(b"\n") if line.strip()) if quoted else 0
    for quotes in (True, False) if quoted else (False,):
        for texts_only in (False, True) if not all_text else (True,):
            types = {str(place): pa.string() for place in wanted if texts_only or place in as_text}
            unreadable: list[str] = []
            count = [0]

            def skip(
                row: pa.csv.InvalidRow, unreadable: list[str] = unreadable, count: list[int] = count
            ) -> str:
                unreadable += [row.text or ""] if len(unreadable) < KEPT_ROWS else []
                count[0] += 1
                return "skip"

            try:
                table = pa.csv.read_csv(
                    pa.BufferReader(pa.py_buffer(body).slice(begin)),
                    read_options=pa.csv.ReadOptions(column_names=[str(place) for place in range(header.width)]),
                    parse_options=pa.csv.ParseOptions(
                        delimiter=header.delimiter, quote_char='"' if quotes else False, invalid_row_handler=skip
                    ),
                    convert_options=pa.csv.ConvertOptions(
                        column_types=types, include_columns=[str(place) for place in wanted], null_values=NULLS,
                        true_values=[], false_values=[],
                    ),
                )  # fmt: skip
            except pa.ArrowInvalid as error:
                if texts_only or "conversion error" not in str(error):
                    raise UserError(f"{opened.path} cannot be read: {str(error).splitlines()[0]}") from None
                continue
            if quotes and table.num_rows + count[0] < lines:
                break  # a quotation mark that is not closed has swallowed lines: read without quotation
            return Rows(table, count[0], unreadable)
    raise UserError(f"{opened.path} cannot be read: its quotation marks are not closed")


def _has_bar(row: list[str]) -> bool:
    """Return whether a row is a bar, perhaps a damaged one, rather than a remark."""
    return (any(DATE.match(cell) for cell in row[:3]) and len(row) > 1) or sum(map(is_number, row)) >= 2


def _parquet(opened: Cells, wanted: list[int], as_text: set[int]) -> pa.Table:
    kinds = _schema(opened.path)
    names = kinds.names
    codes = [
        names[place] for place in wanted if place in as_text and pa.types.is_string(kinds.field(place).type)
    ]
    chosen = [names[place] for place in wanted]
    if opened.path.suffix.lower() in FEATHER:
        table = pa.feather.read_table(opened.path, columns=chosen)
    else:
        table = pa.parquet.read_table(opened.path, columns=chosen, read_dictionary=codes)
    return table.select(chosen).rename_columns([str(place) for place in wanted])


def _schema(path: Path) -> pa.Schema:
    """Return the columns of a parquet or feather file."""
    if path.suffix.lower() in FEATHER:
        return pa.feather.read_table(path, memory_map=True).schema
    return pa.parquet.read_schema(path)
