"""Which column of a file is which: by the names in its header, by the user's words, or by the values themselves."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from kronos.data.bars import FEATURES, PRICES
from kronos.data.extra_columns import Wanted, refuse_missing, wanted_columns
from kronos.data.sources import csv_layouts
from kronos.data.sources.csv_columns import Meaning, meaning, renamed
from kronos.data.sources.csv_header import DATE
from kronos.data.sources.csv_table import Cells, open_cells
from kronos.data.sources.csv_time_of_day import read_times_of_day
from kronos.data.sources.csv_times import read_times
from kronos.data.sources.csv_words import TIMES
from kronos.utils.errors import UserError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Said(NamedTuple):
    """What the user said about the files: the fields of the configuration of these names."""

    instrument_column: str | None = None
    time_column: str | None = None
    volume_column: str | None = None
    column_names: tuple[str, ...] | None = None
    freq: str = "auto"
    time_zone: str | None = None
    decimal_sign: str = "auto"
    further: Wanted = Wanted((), ())  # columns beside those of bars
    date_order: str = ""  # not the user's word, but what other files of the folder show

    @staticmethod
    def of(config: Any) -> "Said":
        """Take the fields of a configuration; one that it does not have is empty."""
        given: dict[str, Any] = {
            name: getattr(config, name, None)
            for name in ("instrument_column", "time_column", "volume_column", "column_names", "time_zone")
        }
        return Said(
            **given,
            freq=getattr(config, "freq", "auto"),
            decimal_sign=getattr(config, "decimal_sign", "auto"),
            further=wanted_columns(config),
        )


def name_columns(opened: Cells, said: Said) -> tuple[tuple[str, ...], Meaning]:
    """Return the names of the columns and their meaning; of a file without a header by its values."""
    headless = not opened.header.names
    own = said.further.names
    names = renamed(csv_layouts.without_misleading(opened.names), _renames(said), headless, own)
    if headless and not said.column_names:
        names = csv_layouts.headless_names(opened.sample) or _headless(opened.sample)
    try:
        known = meaning(_without(names, own))
    except UserError as error:
        raise UserError(f"{opened.path}: {error}") from None
    if not any(role in known.places for role in TIMES) or "" in names[:1]:
        names = _nameless_time(names, known, opened)
        known = meaning(_without(names, own))
    for column in (said.time_column, said.volume_column):
        if column and column not in [name.strip() for name in opened.names] and not headless:
            raise UserError(f"{opened.path} has no column {column!r}: its columns are {', '.join(names)}")
    missing = [name for name in known.missing() if not (opened.header.wide and name in PRICES)]
    if missing:
        raise UserError(
            f"{opened.path} has no column for {', '.join(missing)}: its columns are {', '.join(names) or 'none'}; "
            f"rename them to datetime, {', '.join(FEATURES)} (and instrument), or give --column-names"
        )
    return names, known


def _without(names: tuple[str, ...], own: Sequence[str]) -> tuple[str, ...]:
    """The names without those of further columns, such as `turnover`, which would be taken for the amount."""
    return tuple("further column" if name.strip() in own else name for name in names) if own else names


def further_places(opened: Cells, names: Sequence[str], said: Said) -> dict[str, int]:
    """Return the places of the further columns by their names. Raises UserError for one that the file lacks."""
    stripped = [name.strip() for name in names]
    for name in said.further.names:
        if name not in stripped:
            refuse_missing(name, said.further, stripped, f"{opened.path} has")
        if opened.header.wide:
            raise UserError(
                f"{opened.path} has a column for each instrument, and no place for {name!r}: give a table with a row "
                "for each bar"
            )
    return {name: stripped.index(name) for name in said.further.names}


def form_of(opened: Cells) -> str:
    """Describe what separates the columns of a text, and where its bars begin."""
    header = opened.header
    if not header.delimiter:
        return "parquet"
    mark = {",": "commas", "\t": "tabs or blanks", ";": "semicolons", "|": "bars |"}[header.delimiter]
    begins = f"bars from line {header.skipped + 1}" if header.names else "no header"
    return f"columns separated by {mark}, {begins}"


def preview(path: Path) -> list[dict[str, Any]]:
    """Return what is known of the columns of a file that was refused; nothing of one without an understood header."""
    try:
        found = []
        for opened in open_cells(path)[:1]:
            places = meaning(opened.names).places
            used = {role: opened.names[one[0]].strip() for role, one in places.items()}
            unused = [
                name.strip() for name in opened.names if name.strip() and name.strip() not in used.values()
            ]
            found.append({"tool": csv_layouts.match(opened.names).tool or None, "files": 1, "form": form_of(opened),
                          "columns": used, "unused": unused})  # fmt: skip
        return found
    except (UserError, pa.ArrowException, OSError):
        return []


def _renames(said: Said) -> tuple[str, ...]:
    pairs = list(said.column_names or ())
    pairs += [f"{said.time_column}=datetime"] if said.time_column else []
    return tuple(pairs + ([f"{said.volume_column}=volume"] if said.volume_column else []))


def said_instrument(names: Sequence[str], said: Said) -> list[int]:
    """Return the places of `instrument_column`, which may be several columns, separated by commas."""
    if not said.instrument_column:
        return []
    stripped = [name.strip() for name in names]
    asked = [one.strip() for one in said.instrument_column.split(",")]
    absent = [one for one in asked if one not in stripped]
    if absent:
        raise UserError(
            f"instrument_column: there is no column {absent[0]!r}: the columns are {', '.join(stripped)}"
        )
    return [stripped.index(one) for one in asked]


def _headless(sample: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Name the columns of a file without a header by the types of their values."""
    width = max(map(len, sample))
    columns = [[row[place] for row in sample if len(row) == width] for place in range(width)]
    names = [""] * width
    dates = [
        place for place, words in enumerate(columns) if words and all(DATE.match(word) for word in words)
    ]
    if not dates:
        raise UserError(
            "there is no header, and no column holds times: give --column-names, such as 1=datetime"
        )
    names[dates[0]] = "datetime"
    after = dates[0] + 1
    if after < width and _times_of_day(columns[after], columns[dates[0]]):
        names[dates[0]], names[after] = "date", "time"
    numbers = np.full((len(columns[0]), width), np.nan)
    for place, words in enumerate(columns):
        if not names[place] and place not in dates and all(map(_plain, words)):
            numbers[:, place] = [float(word) for word in words]
    ordered = np.argsort(
        read_times(pa.chunked_array([pa.array(columns[dates[0]], pa.string())])).ns, kind="stable"
    )
    for name, place in _price_places(numbers[ordered], dates[0]).items():
        names[place] = name
    free = [place for place, words in enumerate(columns) if not names[place] and _look_like_codes(words)]
    if free and free[0] < names.index("open"):
        names[free[0]] = "instrument"
    return tuple(names)


def _times_of_day(words: list[str], dates: list[str]) -> bool:
    """Return whether a column behind the dates holds times of day; digits alone do where dates repeat."""
    if not words or read_times_of_day(pa.chunked_array([pa.array(words, pa.string())])) is None:
        return False
    if all(":" in word for word in words):
        return True
    repeated = len(set(dates)) < len(dates) or not any(word.strip("0") for word in words)
    return repeated and all(word.isdigit() and len(word) in (3, 4, 6) for word in words)


def _plain(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _nameless_time(names: tuple[str, ...], known: Meaning, opened: Cells) -> tuple[str, ...]:
    """Name the column of times that has no known name: the first one without a name, or the only one with dates."""
    used = {place for places in known.places.values() for place in places}
    rows = [row for row in opened.sample if len(row) == len(names)]
    dated = [
        place
        for place in range(len(names))
        if place not in used
        and rows
        and all(DATE.match(row[place]) and not _plain(row[place]) for row in rows)
    ]
    timed = any(role in known.places for role in TIMES)
    if not opened.sample and "" in names and not timed:
        dated = [names.index("")]  # the index of a parquet file
    if timed and not (dated and dated[0] == 0 and not names[0]):
        return names
    if not dated or (len(dated) > 1 and names[dated[0]]):
        return names
    changed = list(names)
    changed[dated[0]] = "date" if timed else "datetime"
    if timed and "date" in known.places:
        changed[known.places["date"][0]] = "time"
    return tuple(changed)


def _price_places(sample: np.ndarray, time: int) -> dict[str, int]:
    """Find open, high, low, close and volume among columns of numbers without names, float64 [rows, columns].

    The rows are in order of time, which column `time` holds. NaN columns are no numbers. The prices are the first
    four in a row of which one is never below the others and one never above them. Raises UserError where their order
    cannot be told: of high and low first, and behind other numbers, many rows must prove it.
    """
    count = sample.shape[1]
    for begin in range(count - 3):
        four = sample[:, begin : begin + 4]
        if np.isnan(four).any() or (four <= 0).any():
            continue
        top = [place for place in range(4) if (four[:, place] >= four.max(1) * (1 - 1e-9)).all()]
        bottom = [place for place in range(4) if (four[:, place] <= four.min(1) * (1 + 1e-9)).all()]
        for high, low in ((1, 2), (2, 3), (2, 1), (0, 1), (1, 0)):
            if high in top and low in bottom:
                opening, close = (place for place in range(4) if place not in (high, low))
                proven = _check_order(four[:, opening], four[:, close])
                behind_numbers = not np.isnan(sample[:, time + 1 : begin]).all()
                if not proven and ({high, low} == {0, 1} or behind_numbers):
                    break  # whether the open or the close comes first cannot be seen
                found = {"open": opening, "high": high, "low": low, "close": close}
                places = {name: begin + place for name, place in found.items()}
                after = begin + 4
                if (
                    after < count
                    and not np.isnan(sample[:, after]).all()
                    and (np.nan_to_num(sample[:, after]) >= 0).all()
                ):
                    places["volume"] = after
                return places
    raise UserError(
        "there is no header, and no four columns in a row are open, high, low and close: give "
        f"--column-names 1=datetime,{','.join(f'{place}={name}' for place, name in enumerate(PRICES, 2))}"
    )


def _check_order(opening: np.ndarray, close: np.ndarray) -> bool:
    """Return whether an open is near to the close of the row before, which only many rows prove.

    Raises UserError where the later column looks like the open.
    """
    if len(opening) < 10:
        return False
    usual = np.abs(np.log(opening[1:] / close[:-1])).mean()
    other = np.abs(np.log(close[1:] / opening[:-1])).mean()
    if other < 0.5 * usual:
        raise UserError(
            "there is no header, and the columns of open and close are in no usual order: give --column-names, such "
            "as 1=datetime,2=close,3=high,4=low,5=open"
        )
    return bool(usual < 0.5 * other)


def _look_like_codes(words: list[str]) -> bool:
    """Return whether cells of a column without a name are instruments: words, or codes of six digits."""
    filled = [word for word in words if word]
    if all(word.lower()[:3] in DAYS for word in filled):
        return False
    return bool(filled) and all(
        re.fullmatch(r"[A-Za-z0-9.#:/_=^-]*[A-Za-z][A-Za-z0-9.#:/_=^-]*|\d{6}", word) for word in filled
    )
