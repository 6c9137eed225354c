"""One file of bars: from its cells to times, numbers and instruments, with what was found on the way."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from kronos.data.bars import FEATURES, MARK, PRICES, Finding
from kronos.data.cleaning import OFF_CALENDAR
from kronos.data.sources import csv_layouts
from kronos.data.sources.csv_clock_columns import clock_column
from kronos.data.sources.csv_codes import coded
from kronos.data.sources.csv_columns import like_a_volume
from kronos.data.sources.csv_dates import DAY, names_no_day
from kronos.data.sources.csv_file import (
    HEADER_AGAIN,
    NAMELESS,
    NO_TIME,
    OTHER_SERIES,
    QUOTE,
    UNREADABLE,
    FileBars,
)
from kronos.data.sources.csv_folder import named_by, stem_of
from kronos.data.sources.csv_instruments import (
    choose_series,
    find_instrument,
    in_order,
    repeated_rows,
    too_many,
)
from kronos.data.sources.csv_numbers import code_texts
from kronos.data.sources.csv_schema import Said, form_of, further_places, name_columns, said_instrument
from kronos.data.sources.csv_table import Cells, open_cells, read_rows
from kronos.data.sources.csv_times import NONE, TwoWays
from kronos.data.sources.csv_values import (
    apply_scales,
    choose_volume,
    conditions_of,
    name_candidates,
    numbers_of,
    sum_sides,
    times_of,
    without_events,
)
from kronos.data.sources.csv_words import PARTS, SIDES, TIMES
from kronos.utils.errors import UserError

LENGTH = re.compile(
    r"\d*\s*[_-]?(?:s|m|h|d|w|mn|min|mins|minute|minutes|hour|hours|day|daily|week|weekly|month)|\d+", re.I
)
NANO = 1e6  # prices above it are whole numbers of 1e-9
EXTRAS = ("adj_close", "factor", "split", "limit_up", "limit_down")


def read_file(path: Path, said: Said) -> list[FileBars]:
    """Read every text of a file. Raises UserError, beginning with the path, for one that is not understood."""
    found = []
    for opened in open_cells(path):
        try:
            found.append(_read(opened, said))
        except UserError as error:
            text = str(error)
            kind = TwoWays if isinstance(error, TwoWays) else UserError
            raise kind(text if text.startswith(str(path)) else f"{path}: {text}") from None
    return found


def _read(opened: Cells, said: Said) -> FileBars:
    named = named_by(opened.name, opened.path)
    headless = not opened.header.names
    own = csv_layouts.headless_instrument(stem_of(opened.name), opened.sample) if headless else None
    if own is not None:
        named = named._replace(instrument=own[0], interval=own[1])
    names, known = name_columns(opened, said)
    layout = csv_layouts.match(names)
    wide = opened.header.wide
    instrument = said_instrument(names, said) or list(known.places.get("instrument", ()))[:1]
    singles = {
        role: places[0] for role, places in known.places.items() if role in (*PRICES, "amount", *EXTRAS)
    }
    if layout.split_adjusted:
        singles.pop("split", None)
    further = further_places(opened, names, said)
    words = [further[name] for name in said.further.conditions if name not in said.further.features]
    volumes = list(known.places.get("volume", ()))
    guessed = [] if volumes or wide else like_a_volume(names, known)
    volumes += guessed if len(guessed) == 1 else []
    clocks = [place for role in (*TIMES, "zone") for place in known.places.get(role, ())]
    clocks += [place for place in known.parts if place not in clocks]
    series = [] if wide else list(known.places.get("series", ()))[:1]
    lengths = list(known.places.get("interval", ()))
    sides = [known.places[side][0] for side in SIDES if side in known.places and not volumes]
    numbers = (
        [place for place, one in enumerate(wide) if one]
        if wide
        else [*singles.values(), *volumes, *sides, *(further[name] for name in said.further.features)]
    )
    texts = [*instrument, *clocks, *series, *lengths, *words]
    rows = read_rows(opened, [*numbers, *texts], texts, all_text=said.decimal_sign == "comma")
    table = rows.table
    if not table.num_rows:
        raise UserError(f"{opened.path} has no row with as many columns as its header")
    bars = FileBars(
        opened.path,
        stem_of(opened.name),
        named.instrument,
        named.interval,
        times_of(table, known, names, said),
        {},
        None,
        [],
        layout,
    )
    if rows.unreadable > max(OFF_CALENDAR * (table.num_rows + rows.unreadable), 1):
        total = table.num_rows + rows.unreadable
        raise UserError(
            f"{opened.path} cannot be read: {rows.unreadable:,} of {total:,} rows have more or fewer columns than "
            f"the others, such as {rows.examples[0][:60]!r}"
        )
    if named.dated and named.days is not None and not _within(bars.times.ns, named.days):
        bars.named = named.dated
    bars.count(UNREADABLE, "left out", rows.unreadable, rows.examples)
    for place in lengths:
        _check_lengths(names[place].strip(), table[str(place)])
    _note_times(bars, [names[known.places[role][0]] for role in TIMES if role in known.places])
    table = _with_times(bars, table, clocks, names, opened.header.skipped)
    table = without_events(bars, table, numbers)
    values = numbers_of(bars, table, numbers, names, opened, said)
    bars.form = form_of(opened)
    bars.used = {role: names[place] for role, place in singles.items()}
    bars.used |= {
        role: names[place]
        for role in (*TIMES, *PARTS, "zone")
        for place in known.places.get(role, ())[:1]
        if place in clocks
    }
    if wide:
        bars.used |= {one[0]: name for one, name in zip(reversed(wide), reversed(names), strict=True) if one}
        others = bars.used.values()
        bars.unused = tuple(
            name for name, one in zip(names, wide, strict=True) if name and not one and name not in others
        )
        bars.used["instrument"] = "the names of the columns"
        _stack_wide(bars, wide, values)
        return bars
    for role, place in singles.items():
        bars.columns[role] = values[place]
    for name, place in further.items():
        conditions = (
            conditions_of(table[str(place)], said.decimal_sign == "comma") if place in words else None
        )
        bars.columns[MARK + name] = values[place] if conditions is None else conditions
        bars.used[MARK + name] = names[place]
    _scale_prices(bars, headless and csv_layouts.in_ten_thousandths(opened.sample))
    _drop_limits(bars)
    if "amount" in singles and np.isnan(bars.columns["amount"]).all():
        del bars.columns["amount"], bars.used["amount"]  # an empty column is no amount
        singles.pop("amount")
    if "amount" in singles:
        bars.amount_name = names[singles["amount"]].strip()
    bars.notes += known.notes
    if not sum_sides(bars, known, values, names):
        choose_volume(bars, volumes, values, names, bool(guessed), said)
    if not volumes and not sides:
        name_candidates(bars, opened.sample, names)
    apply_scales(bars, known, singles, volumes, names)
    if instrument:
        table = _codes(bars, table, instrument)
    if layout.quotes_negative:
        table = _without_quotes(bars, table)
    if instrument and series:
        _one_series(bars, table[str(series[0])].to_pandas())
    else:
        _tell_apart(bars, opened, names, texts + numbers, instrument)
    if bars.code is not None and instrument:
        bars.used["instrument"] = ",".join(names[place].strip() for place in instrument)
    if series:
        bars.used["series"] = names[series[0]]
    taken = {*bars.used.values(), *(names[place] for place in instrument)}
    bars.unused = tuple(name.strip() for name in names if name.strip() and name not in taken)
    return bars


def _note_times(bars: FileBars, names: Sequence[str]) -> None:
    """Say how times are read that can be meant otherwise."""
    if bars.times.note:
        bars.notes.append(bars.times.note)
    local = [name.strip() for name in names if re.search(r"(?i)local|本地", name)]
    if local and not bars.times.utc and (bars.times.ns % DAY).any():
        bars.notes.append(
            f"Column {local[0]} is taken for the clock of the exchange; --time-zone names another one."
        )


def _check_lengths(name: str, column: pa.ChunkedArray) -> None:
    """Raise UserError where a column says that the bars have several lengths."""
    found = sorted({str(one).strip() for one in column.unique().to_pylist() if one})
    if len(found) > 1 and all(LENGTH.fullmatch(one) for one in found):
        raise UserError(
            f"column {name} says that the bars are of several lengths ({', '.join(found[:5])}): give a file of one "
            "length"
        )


def _scale_prices(bars: FileBars, ten_thousandths: bool) -> None:
    """Put prices that a layout writes as whole numbers of a small unit into the currency."""
    prices = _prices(bars)
    nano = bars.layout.nano_prices and bool((prices > NANO).mean() > 0.5)  # NaN is not
    if not nano and not ten_thousandths:
        return
    unit = 1e-9 if nano else 1e-4
    for name in PRICES:
        bars.columns[name] = bars.columns[name] * unit
    bars.notes.append(f"Prices are whole numbers of {unit:g} in the file, and are multiplied by it.")


def _drop_limits(bars: FileBars) -> None:
    """Leave out columns of price limits that hold no prices of limits, such as marks of the days that reached one."""
    for name, side, sign in (("limit_up", "high", 1.0), ("limit_down", "low", -1.0)):
        if name not in bars.columns:
            continue
        limit, price = bars.columns[name], bars.columns[side]
        given = (limit > 0) & (price > 0)
        if given.any() and (sign * (limit[given] / price[given] - 1) >= -1e-3).mean() >= 0.9:
            continue
        del bars.columns[name]
        column = bars.used.pop(name).strip()
        bars.notes.append(f"Column {column} is not used: it holds no prices that {side} stays within.")


def _without_quotes(bars: FileBars, table: pa.Table) -> pa.Table:
    """Leave out bars whose close is negative: means of bid and ask of days without a trade."""
    quoted = bars.columns["close"] < 0
    if not quoted.any():
        return table
    bars.count(QUOTE, "left out, a hole", int(quoted.sum()))
    bars.keep(~quoted)
    bars.rows = np.arange(len(quoted))[~quoted] if bars.rows is None else bars.rows[~quoted]
    return table.filter(pa.array(~quoted))


def _within(ns: np.ndarray, days: tuple[pd.Timestamp, pd.Timestamp]) -> bool:
    """Return whether most times lie on the days of a file's name, or a day beside them on another clock."""
    known = ns[ns != NONE]
    first, last = (days[0] - pd.Timedelta(days=1)).value, (days[1] + pd.Timedelta(days=2)).value
    return bool(((known >= first) & (known < last)).mean() > 0.5) if len(known) else True


def _with_times(
    bars: FileBars, table: pa.Table, clocks: Sequence[int], names: Sequence[str], skipped: int
) -> pa.Table:
    """Leave out rows without a time, and count them; headers in the middle, of files put together, are such rows.

    Returns the table without them. Raises UserError where they are many.
    """
    missing = bars.times.ns == NONE
    if not missing.any():
        return table
    words = table[str(clocks[0])].cast(pa.string()).to_pandas().fillna("").str.strip()
    header = missing & (words == names[clocks[0]].strip()).to_numpy() & (words != "").to_numpy()
    others = missing & ~header
    if others.sum() > OFF_CALENDAR * len(others) or missing.all():
        bad = np.flatnonzero(bars.times.bad & others)
        if not len(bad):
            raise UserError(f"the time is empty in {int(others.sum())} of {len(others)} rows")
        if names_no_day(words.iloc[bad[0]]):
            raise UserError(
                f"{words.iloc[bad[0]]!r} in row {bad[0] + skipped + 1} names a week or a quarter and no day: write "
                "the last day of each"
            )
        like = f" like {words.iloc[0]!r}" if bad[0] else ""
        raise UserError(
            f"{words.iloc[bad[0]]!r} in row {bad[0] + skipped + 1} is not a time{like} "
            f"({int(others.sum())} such rows)"
        )
    bars.count(HEADER_AGAIN, "left out", int(header.sum()))
    bars.count(NO_TIME, "left out", int(others.sum()), list(words[others][:5]))
    bars.keep(~missing)
    bars.rows = np.flatnonzero(~missing)
    return table.filter(pa.array(~missing))


def _codes(bars: FileBars, table: pa.Table, places: Sequence[int]) -> pa.Table:
    """Set the instruments of the rows, of one column or of several joined.

    Returns the table of the rows that have one; the others are counted. Raises UserError where they are many.
    """
    parts = [
        coded(column if _is_text(column.type) else column.cast(pa.string())) for column in _of(table, places)
    ]
    code, words = parts[0]
    words = [*code_texts(words), ""]
    for other, more in parts[1:]:
        more = [*code_texts(more), ""]
        code, pairs = pd.factorize(code * len(more) + other)
        words = [f"{words[one // len(more)]}.{more[one % len(more)]}" for one in pairs.tolist()]
    bars.code, bars.instruments = code, words
    empty = np.array([not word for word in words], bool)[code]
    if empty.all():
        bars.code, bars.instruments = None, []  # the file's name says which one it is
    if not empty.any() or empty.all():
        return table
    if empty.sum() > OFF_CALENDAR * len(empty):
        raise UserError(f"column instrument is empty in {int(empty.sum())} of {len(empty)} bars")
    bars.count(NAMELESS, "left out", int(empty.sum()))
    bars.keep(~empty)
    bars.rows = np.arange(len(empty))[~empty] if bars.rows is None else bars.rows[~empty]
    return table.filter(pa.array(~empty))


def _of(table: pa.Table, places: Sequence[int]) -> list[pa.ChunkedArray]:
    return [table[str(place)] for place in places]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type))


def _prices(bars: FileBars) -> np.ndarray:
    return np.stack([bars.columns[name] for name in PRICES], axis=1)


def _tell_apart(
    bars: FileBars, opened: Cells, names: Sequence[str], used: Sequence[int], instrument: Sequence[int]
) -> None:
    """Find what tells rows apart that repeat a time (of their instrument) with other prices.

    A column of words is taken for the instrument where there is no other column of instruments. Raises UserError with
    the candidates where the user must choose.
    """
    if in_order(bars.times.ns, bars.code):
        return
    repeated = repeated_rows(bars.times.ns, _prices(bars), bars.code)
    if not too_many(repeated):
        return
    others = [place for place in range(len(names)) if place not in used]
    columns = {}
    if others:
        table = read_rows(opened, others, others, all_text=True).table
        table = table if bars.rows is None else table.take(pa.array(bars.rows))
        for place, column in zip(others, _of(table, others), strict=True):
            columns[names[place].strip() or f"number {place + 1}"] = (
                column.cast(pa.string()).to_pandas().fillna("")
            )
    if (clock := clock_column(bars.times, _prices(bars), columns, bars.code)) is not None:
        bars.used["time"], times = clock
        bars.times = bars.times._replace(ns=times)
        bars.notes.append(f"Column {clock[0]} is taken for the time of day, since rows repeat days alone.")
        del columns[clock[0]]
        repeated = repeated_rows(times, _prices(bars), bars.code)
        if not too_many(repeated):
            return
    own = ",".join(names[place].strip() for place in instrument)
    chosen = find_instrument(bars.times.ns, _prices(bars), columns, repeated, bars.code, own)
    code, words = pd.factorize(columns[chosen])
    bars.code, bars.instruments = code, code_texts(map(str, words))
    bars.used["instrument"] = ",".join([own, chosen]) if own else chosen
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


def _stack_wide(
    bars: FileBars, wide: Sequence[tuple[str, str] | None], values: dict[int, np.ndarray]
) -> None:
    """Put the instruments of a wide table under each other; where one has no price at all it has no bar."""
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
    if "volume" not in bars.columns:
        bars.columns["volume"] = np.zeros(size * len(whole))
        bars.notes.append("Volume is 0, since no column holds it.")
    times, repeat = bars.times, len(whole)
    offset = None if times.offset is None else np.tile(times.offset, repeat)
    bars.times = times._replace(ns=np.tile(times.ns, repeat), offset=offset, bad=np.tile(times.bad, repeat))
    bars.code, bars.instruments = np.repeat(np.arange(repeat), size), whole
    prices = _prices(bars)
    bars.keep(~np.isnan(prices).all(1))
