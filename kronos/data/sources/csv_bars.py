"""One file of bars: from its cells to times, numbers and instruments, with what was found on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from kronos.data.bars import FEATURES, PRICES, Finding
from kronos.data.cleaning import OFF_CALENDAR
from kronos.data.sources import csv_layouts
from kronos.data.sources.csv_columns import TIMES, Meaning, like_a_volume, squeeze
from kronos.data.sources.csv_folder import named_by, stem_of
from kronos.data.sources.csv_instruments import choose_series, find_instrument, repeated_rows, too_many
from kronos.data.sources.csv_numbers import code_text, comma_is_decimal, to_floats
from kronos.data.sources.csv_schema import Said, name_columns, said_instrument
from kronos.data.sources.csv_table import Cells, open_cells, read_rows
from kronos.data.sources.csv_times import NONE, Times, coded, read_times, read_times_of_day
from kronos.utils.errors import UserError

EXTRAS = ("adj_close", "factor", "split", "limit_up", "limit_down")
UNREADABLE = "row that cannot be read"
NOT_A_NUMBER = "value that is no number"
NO_TIME = "row without a time that can be read"
NAMELESS = "row without an instrument"
HEADER_AGAIN = "header repeated among the bars"
OTHER_SERIES = "bar of another series of its symbol"
DOUBTFUL_AMOUNTS = ("turnover", "value", "money")


@dataclass
class FileBars:
    """The bars of one text: times, columns of float64 [N], and for each row its place among `instruments`.

    `code` is None where the file has no instruments; `named` is then the instrument that its name says.
    """

    path: Path
    stem: str  # of the file, or of the member of an archive
    named: str
    interval: str
    times: Times
    columns: dict[str, np.ndarray]
    code: np.ndarray | None
    instruments: list[str]
    layout: csv_layouts.Match
    scales: dict[str, float] = field(default_factory=dict)  # by the names of volume and amount
    amount_name: str = ""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def keep(self, rows: np.ndarray) -> None:
        """Keep the rows that are set in bool [N]."""
        ns, utc, offset, bad = self.times
        self.times = Times(ns[rows], utc, None if offset is None else offset[rows], bad[rows])
        self.columns = {name: values[rows] for name, values in self.columns.items()}
        self.code = None if self.code is None else self.code[rows]


def read_file(path: Path, said: Said) -> list[FileBars]:
    """Read every text of a file. Raises UserError, beginning with the path, for one that is not understood."""
    found = []
    for opened in open_cells(path):
        try:
            found.append(_read(opened, said))
        except UserError as error:
            text = str(error)
            raise UserError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    return found


def _read(opened: Cells, said: Said) -> FileBars:
    named = named_by(opened.name, opened.path)
    names, known = name_columns(opened, said)
    layout = csv_layouts.match(names)
    wide = opened.header.wide
    instrument = said_instrument(names, said) or list(known.places.get("instrument", ()))[:1]
    singles = {
        role: places[0] for role, places in known.places.items() if role in (*PRICES, "amount", *EXTRAS)
    }
    if layout.split_adjusted:
        singles.pop("split", None)
    volumes = list(known.places.get("volume", ()))
    guessed = [] if volumes or wide else like_a_volume(names, known)
    volumes += guessed if len(guessed) == 1 else []
    clocks = [place for role in TIMES for place in known.places.get(role, ())]
    series = [] if wide else list(known.places.get("series", ()))[:1]
    numbers = [place for place, one in enumerate(wide) if one] if wide else [*singles.values(), *volumes]
    texts = [*instrument, *clocks, *series]
    rows = read_rows(opened, [*numbers, *texts], texts)
    table = rows.table
    if not table.num_rows:
        raise UserError(f"{opened.path} has no row with as many columns as its header")
    bars = FileBars(
        opened.path,
        stem_of(opened.name),
        named.instrument,
        named.interval,
        _times(table, known, names, said.freq),
        {},
        None,
        [],
        layout,
    )
    _count(bars, UNREADABLE, "left out", rows.unreadable, table.num_rows, rows.examples)
    values = _numbers(bars, table, numbers, names, opened)
    if wide:
        stack_wide(bars, wide, values)
    else:
        for role, place in singles.items():
            bars.columns[role] = values[place]
        if "amount" in singles:
            bars.amount_name = names[singles["amount"]].strip()
        _volume(bars, volumes, values, names, bool(guessed), said)
        _scales(bars, known, singles, volumes, names)
    kept = _with_times(bars, table, clocks, names, opened)
    if instrument and not wide:
        has_name = _codes(bars, [table[str(place)].filter(pa.array(kept)) for place in instrument])
        if not has_name.all():
            bars.keep(has_name)
            kept[np.flatnonzero(kept)[~has_name]] = False
    if instrument and series:
        _one_series(bars, table[str(series[0])].to_pandas()[kept])
    elif not wide:
        _tell_apart(bars, opened, names, texts + numbers, kept, instrument)
    return bars


def _times(table: pa.Table, known: Meaning, names: Sequence[str], freq: str) -> Times:
    """Read the column of times, or the columns of dates and times of day together."""
    columns = {role: table[str(known.places[role][0])] for role in TIMES if role in known.places}
    utc = any(place in known.utc for role in TIMES for place in known.places.get(role, ())[:1])
    time = columns.get("time")
    within = None if time is None or len(columns) == 1 else read_times_of_day(time)
    chosen = _whole(columns, within is not None)
    found = read_times(columns[chosen])
    if freq != "day" and within is None and not _timed(found):
        for other in ("time", "epoch", "datetime"):  # the date alone is repeated beside a full time
            if other in columns and other != chosen and _timed(full := read_times(columns[other])):
                found = full
                break
    if within is not None and "date" in columns and not (chosen == "datetime" and _timed(found)):
        days = found.ns if chosen == "date" else read_times(columns["date"]).ns
        if found.utc:
            raise UserError(
                f"column {names[known.places['date'][0]]} has a time zone, and the time of day is apart from it"
            )
        if not _timed(found) or (within != 0).any():
            days = np.where(days == NONE, NONE, days // (86400 * 10**9) * (86400 * 10**9) + within)
            found = Times(days, False, None, found.bad)
    return found._replace(utc=True) if utc and not found.utc else found


def _whole(columns: dict[str, Any], has_time_of_day: bool) -> str:
    if has_time_of_day and "date" in columns and "datetime" not in columns:
        return "date"
    return next(role for role in TIMES if role in columns)


def _timed(times: Times) -> bool:
    known = times.ns != NONE
    return bool((times.ns[known] % (86400 * 10**9)).any())


def _numbers(
    bars: FileBars, table: pa.Table, places: Sequence[int], names: Sequence[str], opened: Cells
) -> dict[int, np.ndarray]:
    """Read columns of numbers. A few values that are no numbers are missing ones, and counted; many are refused."""
    text = {place: table[str(place)] for place in places if pa.types.is_string(table[str(place)].type)}
    decimal: bool | None = False
    if text:
        cells = [str(word) for column in text.values() for word in column.slice(0, 1000).to_pylist() if word]
        decimal = comma_is_decimal(cells, opened.header.delimiter)
        if decimal is None:
            example = next(cell for cell in cells if "," in cell)
            raise UserError(
                f"{opened.path}: the number {example} can be read two ways (thousands or decimals) and no row tells: write "
                "numbers with a decimal point"
            )
    found = {}
    for place in places:
        values, bad = to_floats(table[str(place)], bool(decimal))
        found[place] = values
        count = int(bad.sum())
        if not count:
            continue
        first = int(np.flatnonzero(bad)[0])
        shown = table[str(place)][first].as_py()
        name = names[place].strip() or f"number {place + 1}"
        if count > max(OFF_CALENDAR * len(bad), _repeated_headers(table, place, names[place])):
            raise UserError(
                f"{opened.path}: column {name} has {str(shown)!r} in row {first + opened.header.skipped + 1}, a number was "
                f"expected ({count} such values)"
            )
        others = count - _repeated_headers(table, place, names[place])
        if others:
            bars.findings.append(
                Finding(
                    NOT_A_NUMBER,
                    "taken for missing",
                    others,
                    [(bars.named, "*", f"{name} {str(shown)[:30]!r}")],
                )
            )
    return found


def _repeated_headers(table: pa.Table, place: int, name: str) -> int:
    return (
        sum(str(word).strip() == name.strip() for word in table[str(place)].to_pylist())
        if name.strip()
        else 0
    )


def _with_times(
    bars: FileBars, table: pa.Table, clocks: Sequence[int], names: Sequence[str], opened: Cells
) -> np.ndarray:
    """Leave out rows without a time, and count them; return which rows of the table stay, bool [N]."""
    missing = bars.times.ns == NONE
    size = len(missing)
    if not missing.any():
        return np.ones(size, bool)
    words = table[str(clocks[0])].cast(pa.string()).to_pandas().fillna("")
    header = (words.str.strip() == names[clocks[0]].strip()).to_numpy()
    if len(words) != size:  # wide tables: a row of the file for every instrument
        header = np.resize(header, size)
    others = missing & ~header
    if others.sum() > OFF_CALENDAR * size or missing.all():
        if not bars.times.bad.any():
            raise UserError(f"{opened.path}: the time is empty in {int(missing.sum())} of {size} rows")
        first = int(np.flatnonzero(bars.times.bad)[0])
        raise UserError(
            f"{opened.path}: {words.iloc[first]!r} in row {first + opened.header.skipped + 1} is not a time like "
            f"{words.iloc[0]!r} ({int(others.sum())} such rows)"
        )
    _count(bars, HEADER_AGAIN, "left out", int(header.sum()), size, [])
    _count(bars, NO_TIME, "left out", int(others.sum()), size, list(words[others[: len(words)]][:5]))
    bars.keep(~missing)
    return ~missing[: len(words)]


def _count(bars: FileBars, kind: str, action: str, count: int, size: int, examples: Sequence[str]) -> None:
    """Add a finding. Raises UserError where most rows are concerned."""
    if not count:
        return
    if count > max(OFF_CALENDAR * (size + count), 1) and kind == UNREADABLE:
        raise UserError(
            f"{bars.path} cannot be read: {count:,} of {size + count:,} rows have more or fewer columns than the others, "
            f"such as {examples[0][:60]!r}"
        )
    items = [(bars.named, "*", text[:80]) for text in examples] or [(bars.named, "*", "")]
    bars.findings.append(Finding(kind, action, count, items))


def _volume(
    bars: FileBars,
    places: Sequence[int],
    values: dict[int, np.ndarray],
    names: Sequence[str],
    guessed: bool,
    said: Said,
) -> None:
    """Choose the first column of volumes that has any, and say where it is none of the usual ones."""
    full = [place for place in places if np.nan_to_num(values[place]).any()]
    size = len(bars.times.ns)
    if full and not said.volume_column:
        bars.columns["volume"] = values[full[0]]
        if full[0] != places[0]:
            bars.notes.append(
                f"Volume is column {names[full[0]].strip()}, since {names[places[0]].strip()} has none."
            )
        elif guessed:
            bars.notes.append(
                f"Volume is column {names[full[0]].strip()}; --volume-column names another one."
            )
        if "amount" not in bars.columns and len(full) > 1 and squeeze(names[full[1]]).startswith("volume"):
            bars.columns["amount"] = values[
                full[1]
            ]  # in the other currency of a pair; checked against the price
            bars.amount_name = names[full[1]].strip()
        return
    chosen = values[places[0]] if places else np.zeros(size)
    if np.isnan(chosen).all() or not places:
        chosen = np.zeros(size)
        what = f"column {names[places[0]].strip()} is empty" if places else "no column holds it"
        bars.notes.append(f"Volume is 0, since {what}; --volume-column names another one.")
    bars.columns["volume"] = chosen


def _scales(
    bars: FileBars, known: Meaning, singles: dict[str, int], volumes: Sequence[int], names: Sequence[str]
) -> None:
    """Apply the units that the names of the columns have in brackets."""
    for role, place in (("volume", volumes[0] if volumes else -1), ("amount", singles.get("amount", -1))):
        scale = known.scales.get(place, 1.0)
        if scale != 1.0 and role in bars.columns:
            bars.columns[role] = bars.columns[role] * scale
            bars.notes.append(
                f"Column {names[place].strip()} is multiplied by {scale:g}, the unit in its name."
            )


def _codes(bars: FileBars, columns: Sequence[pa.ChunkedArray]) -> np.ndarray:
    """Set the instruments of the rows; return which rows have one, bool [N]. Raises UserError where many have none."""
    parts = [coded(column if _is_text(column.type) else column.cast(pa.string())) for column in columns]
    code, words = parts[0]
    words = [*map(code_text, words), ""]
    for other, more in parts[1:]:
        more = [*map(code_text, more), ""]
        joined = pd.factorize(pd.Series(code * len(more) + other))
        words = [f"{words[one // len(more)]}.{more[one % len(more)]}" for one in joined[1].tolist()]
        code = joined[0]
    empty = np.array([not word for word in words], bool)[code]
    if empty.any():
        if empty.sum() > OFF_CALENDAR * len(empty):
            raise UserError(
                f"{bars.path}: column instrument is empty in {int(empty.sum())} of {len(empty)} bars"
            )
        _count(bars, NAMELESS, "left out", int(empty.sum()), len(empty), [])
    bars.code, bars.instruments = code, words
    return ~empty


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type))


def _prices(bars: FileBars) -> np.ndarray:
    return np.stack([bars.columns[name] for name in PRICES], axis=1)


def _tell_apart(
    bars: FileBars,
    opened: Cells,
    names: Sequence[str],
    used: Sequence[int],
    kept: np.ndarray,
    instrument: Sequence[int],
) -> None:
    """Find what tells rows apart that repeat a time (of their instrument) with other prices.

    A column of words is taken for the instrument where there is no other column of instruments. Raises UserError with the
    candidates where the user must choose.
    """
    repeated = repeated_rows(bars.times.ns, _prices(bars), bars.code)
    if not too_many(repeated):
        return
    others = [place for place in range(len(names)) if place not in used]
    table = read_rows(opened, others, others, all_text=True).table if others else None
    columns = {} if table is None else {
        names[place].strip() or f"number {place + 1}": table[str(place)].cast(pa.string()).to_pandas().fillna("")[kept]
        for place in others
    }  # fmt: skip
    own = ",".join(names[place].strip() for place in instrument)
    chosen = find_instrument(bars.times.ns, _prices(bars), columns, repeated, bars.code, own)
    _codes(bars, [pa.chunked_array([pa.array(columns[chosen].tolist(), pa.string())])])
    bars.notes.append(f"Column {chosen} is taken for the instrument: it tells the rows of each time apart.")


def _one_series(bars: FileBars, series: pd.Series) -> None:
    """Keep one series of each instrument, by the rule of `choose_series`."""
    code = bars.code if bars.code is not None else np.zeros(0, np.int64)
    kept, several = choose_series(
        pd.Series(np.array(bars.instruments, dtype=object)[code]), series.fillna("")
    )
    if not kept.all():
        action = "left out: EQ is kept, or the series with the most rows"
        items = [(name, "*", "") for name in several[:100]]
        bars.findings.append(Finding(OTHER_SERIES, action, int((~kept).sum()), items))
        bars.keep(kept)


def stack_wide(bars: FileBars, wide: Sequence[tuple[str, str] | None], values: dict[int, np.ndarray]) -> None:
    """Put the instruments of a wide table under each other; rows in which one has no price at all are none of its bars."""
    names = list(dict.fromkeys(one[1] for one in wide if one))
    whole = [name for name in names if all((price, name) in wide for price in PRICES)]
    if not whole:
        raise UserError(f"{bars.path}: no instrument has all of {', '.join(PRICES)}, such as {names[0]}")
    fields = [name for name in (*FEATURES, "adj_close") if any((name, one) in wide for one in whole)]
    size = len(bars.times.ns)
    blank = np.full(size, np.nan)
    for name in fields:
        found = [values[wide.index((name, one))] if (name, one) in wide else blank for one in whole]
        bars.columns[name] = np.concatenate(found)
    bars.columns.setdefault("volume", np.zeros(size * len(whole)))
    ns, utc, offset, bad = bars.times
    repeat = len(whole)
    bars.times = Times(
        np.tile(ns, repeat), utc, None if offset is None else np.tile(offset, repeat), np.tile(bad, repeat)
    )
    bars.code, bars.instruments = np.repeat(np.arange(repeat), size), whole
    prices = _prices(bars)
    bars.keep(~np.isnan(prices).all(1))
