"""The values of a file's columns: times, numbers, and which column is the volume."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kronos.data.bars import CODE
from kronos.data.cleaning import OFF_CALENDAR
from kronos.data.frequency import within_day
from kronos.data.sources.csv_clock_columns import check_nights
from kronos.data.sources.csv_codes import coded
from kronos.data.sources.csv_columns import NOT_A_VOLUME, Meaning
from kronos.data.sources.csv_dates import DAY
from kronos.data.sources.csv_file import EVENT, NOT_A_NUMBER, FileBars
from kronos.data.sources.csv_numbers import NONE as EMPTY
from kronos.data.sources.csv_numbers import (
    PLAIN,
    comma_is_decimal,
    only_point_groups,
    point_is_thousands,
    to_floats,
)
from kronos.data.sources.csv_schema import Said
from kronos.data.sources.csv_table import Cells
from kronos.data.sources.csv_time_of_day import read_times_of_day
from kronos.data.sources.csv_times import DateForm, Times, in_zones, read_times
from kronos.data.sources.csv_units import amount_ratio
from kronos.data.sources.csv_words import SIDES, TIMES
from kronos.data.sources.csv_zones import MINUTE, NONE, header_minutes
from kronos.utils.errors import UserError

QUARTER, FARTHEST = (
    15 * 60 * 10**9,
    14 * 3600 * 10**9,
)  # clocks are whole quarters of an hour apart, at most 14 hours
SINCE_1970 = re.compile(r"\d{10}(\.0*)?|\d{13}|\d{16}|\d{19}")
TAIWAN = {"成交股數", "成交張數", "開盤價", "收盤價"}  # of Taiwan's exchanges, which count years from 1911

EAST_ASIA = 0x2E80  # the first character of its scripts
EVENT_WORDS = r"(?i)dividend|split|capital gain|分红|派息|股息|拆股|配当|分割|배당|분할|дивиденд|temettü"


def times_of(table: pa.Table, known: Meaning, names: Sequence[str], said: Said) -> Times:
    """Read the column of times, or the columns of dates and times of day together."""
    form = DateForm(said.date_order, any(name.strip() in TAIWAN for name in names), bool(said.time_zone))
    places = {role: known.places[role][0] for role in TIMES if role in known.places}
    if "date" in places and "time" not in places and _holds_times_of_day(table, places.get("datetime")):
        places["time"] = places.pop("datetime")
    columns = {role: table[str(place)] for role, place in places.items()}
    if known.parts:
        columns["date"], places["date"] = (
            _of_parts([table[str(place)] for place in known.parts]),
            known.parts[0],
        )
    time = columns.get("time")
    within = None if time is None or len(columns) == 1 else read_times_of_day(time)
    chosen = _whole(columns, within is not None)
    days = [role for role in ("date", "datetime") if role in columns]
    if within is None and time is not None and len(days) == 1:
        found = _together(columns[days[0]], time, form) or read_times(columns[chosen], form)
    else:
        found = read_times(columns[chosen], form)
    if within is not None and days == ["datetime"] and not found.utc and not _timed(found):
        chosen = "date"  # days alone, whatever the name says
        columns["date"], places["date"] = columns["datetime"], places["datetime"]
    if (said.freq == "auto" or within_day(said.freq)) and within is None and not _timed(found):
        for other in ("time", "epoch", "datetime"):  # the date alone is repeated beside a full time
            if other in columns and other != chosen and _timed(full := read_times(columns[other], form)):
                found, chosen = full, other
                break
    if within is not None and "date" in columns and not (chosen == "datetime" and _timed(found)):
        dates = found if chosen == "date" else read_times(columns["date"], form)
        if found.utc:
            raise UserError(
                f"column {names[places['date']]} has a time zone, and the time of day is apart from it"
            )
        if not _timed(found) or (within != 0).any():
            check_nights(dates.ns, within, names[places["time"]].strip())
            ns = np.where(dates.ns == NONE, NONE, dates.ns // DAY * DAY + within)
            found = dates._replace(ns=ns, utc=False, offset=None)
            chosen = "time" if places["time"] in known.zones else "date"
    place = places[chosen]
    zone = known.zones.get(place)
    if found.utc or (said.time_zone and (zone or "zone" in known.places)):
        return found
    if zone is not None:
        return _of_header(found, names[place].strip(), zone)
    if not _timed(found):
        return found
    if "zone" in known.places:
        beside = known.places["zone"][0]
        return in_zones(found, table[str(beside)], names[beside].strip())
    return _beside_epochs(found, table, known)


def _of_parts(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Join years, months and days, or years and days of the year, to dates."""
    texts = [
        pc.replace_substring_regex(pc.utf8_trim_whitespace(column.cast(pa.string())), r"\.0*$", "")
        for column in columns
    ]
    if len(texts) == 2:
        texts[1] = pc.utf8_lpad(texts[1], 3, "0")
    return pc.binary_join_element_wise(*texts, "-")


def _holds_times_of_day(table: pa.Table, place: int | None) -> bool:
    """Return whether a column that could hold days too has times of day alone."""
    if place is None:
        return False
    sample = table[str(place)].slice(0, 100)
    words = [str(word).strip() for word in sample.to_pylist() if word]
    short = all(len(word) <= 12 if ":" in word else len(word) <= 5 for word in words)
    return bool(words) and short and read_times_of_day(sample) is not None


def _together(date: pa.ChunkedArray, time: pa.ChunkedArray, form: DateForm) -> Times | None:
    """Read dates and times of day that have a zone, or forms in which they are only understood together."""
    if not pa.types.is_string(date.type) or not pa.types.is_string(time.type):
        return None
    found = read_times(pc.binary_join_element_wise(date, time, " "), form)
    return found if _timed(found) and not found.bad.any() else None


def _of_header(found: Times, name: str, zone: str) -> Times:
    """Put times of a column whose name says their zone into UTC; days stay days."""
    if not _timed(found):
        return found._replace(utc=zone in ("utc", "gmt"))
    ahead = header_minutes(name, zone, found.ns)
    ns = np.where(found.ns == NONE, NONE, found.ns - ahead * MINUTE)
    return found._replace(ns=ns, utc=True, offset=ahead if ahead.any() else None)


def _beside_epochs(found: Times, table: pa.Table, known: Meaning) -> Times:
    """Learn the zone of times within days from another column that holds the same times as numbers since 1970."""
    for place in (place for role in TIMES for place in known.places.get(role, ())):
        column = table[str(place)]
        example = next((str(one) for one in column.slice(0, 100).to_pylist() if one), "")
        if not SINCE_1970.fullmatch(example):
            continue
        epochs = read_times(column)
        both = (epochs.ns != NONE) & (found.ns != NONE)
        ahead = np.where(both, found.ns - epochs.ns, 0)
        if epochs.utc and both.any() and not (ahead % QUARTER).any() and np.abs(ahead).max() <= FARTHEST:
            ns = np.where(both, epochs.ns, NONE)
            return found._replace(ns=ns, utc=True, offset=ahead // MINUTE if ahead.any() else None)
    return found


def _whole(columns: dict[str, Any], has_time_of_day: bool) -> str:
    if has_time_of_day and "date" in columns and "datetime" not in columns:
        return "date"
    return next(role for role in TIMES if role in columns)


def _timed(times: Times) -> bool:
    known = times.ns != NONE
    return bool((times.ns[known] % DAY).any())


def numbers_of(
    bars: FileBars, table: pa.Table, places: Sequence[int], names: Sequence[str], opened: Cells, said: Said
) -> dict[int, np.ndarray]:
    """Read columns of numbers. A few values that are no numbers are missing ones, and counted; many are refused."""
    text = {place: table[str(place)] for place in places if pa.types.is_string(table[str(place)].type)}
    decimal: bool | None = False
    if text:
        cells = [str(word) for column in text.values() for word in column.slice(0, 1000).to_pylist() if word]
        decimal = _decimal_comma(cells, list(text.values()), opened, said)
    found = {}
    for place in places:
        values, bad = to_floats(table[str(place)], bool(decimal))
        found[place] = values
        count = int(bad.sum())
        if not count:
            continue
        first = int(np.flatnonzero(bad)[0])
        shown = str(table[str(place)][first].as_py())
        name = names[place].strip() or f"number {place + 1}"
        if count > OFF_CALENDAR * len(bad):
            row = first if bars.rows is None else int(bars.rows[first])
            raise UserError(
                f"column {name} has {shown!r} in row {row + opened.header.skipped + 1}, a number was expected "
                f"({count} such values)"
            )
        bars.count(NOT_A_NUMBER, "taken for missing", count, [f"{name} {shown[:30]!r}"])
    return found


def conditions_of(column: pa.ChunkedArray, decimal_comma: bool) -> np.ndarray:
    """Read a further column that may hold words: float64 [N], or object [N] with None for the words of NONE."""
    numbers, bad = to_floats(column, decimal_comma)
    if not bad.any() and not _has_text(column.type):
        return numbers
    code, words = coded(column if _has_text(column.type) else column.cast(pa.string()))
    if not bad.any() and not any(map(CODE.fullmatch, words)):
        return numbers
    texts = [None if word.strip().lower() in EMPTY else word.strip() for word in words]
    return np.array([*texts, None], dtype=object)[code]


def _has_text(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def without_events(bars: FileBars, table: pa.Table, places: Sequence[int]) -> pa.Table:
    """Leave out lines of dividends and splits, which web pages write between the bars, and count them.

    Prices of such pages hold the splits already, so that the lines are no evidence for another adjustment.
    """
    event = np.zeros(table.num_rows, bool)
    for column in (table[str(place)] for place in places):
        if pa.types.is_string(column.type):
            event |= pc.fill_null(pc.match_substring_regex(column, EVENT_WORDS), False).to_numpy()
    if not event.any():
        return table
    shown = [
        str(next(table[str(place)][int(row)] for place in places if table[str(place)][int(row)].is_valid))
        for row in np.flatnonzero(event)[:5]
    ]
    bars.count(EVENT, "left out", int(event.sum()), shown)
    bars.keep(~event)
    bars.rows = np.flatnonzero(~event) if bars.rows is None else bars.rows[~event]
    return table.filter(pa.array(~event))


def _decimal_comma(cells: list[str], columns: list[pa.ChunkedArray], opened: Cells, said: Said) -> bool:
    """Return whether the comma is the decimal sign, so that a point separates thousands."""
    if said.decimal_sign != "auto":
        return said.decimal_sign == "comma"
    delimiter, sign = opened.header.delimiter, ","
    found = comma_is_decimal(cells, delimiter)
    if found is False and delimiter != "," and only_point_groups(cells):
        found = point_is_thousands([[str(word) for word in column.to_pylist() if word] for column in columns])
        sign = "."
        if found is None and any(ord(char) >= EAST_ASIA for name in opened.names for char in name):
            found = False  # East Asia writes decimals with a point
    if found is None:
        example = next(cell for cell in cells if sign in cell)
        raise UserError(
            f"the number {example} can be read two ways (thousands or decimals) and no row tells: give "
            "--decimal-sign comma or --decimal-sign point"
        )
    return found


def choose_volume(
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
        volume, amount = _by_price(bars, full, values)
        bars.columns["volume"] = values[volume]
        bars.used["volume"] = names[volume]
        if amount is not None:
            bars.columns["amount"] = values[amount]
            bars.amount_name = names[amount].strip()
            bars.used["amount"] = names[amount]
        if volume != full[0]:
            bars.notes.append(
                f"Volume is column {names[volume].strip()} and not {names[full[0]].strip()}, since with it the "
                "amount is volume x price."
            )
        elif full[0] != places[0]:
            bars.notes.append(
                f"Volume is column {names[full[0]].strip()}, since {names[places[0]].strip()} has none."
            )
        elif guessed:
            bars.notes.append(
                f"Volume is column {names[full[0]].strip()}; --volume-column names another one."
            )
        return
    chosen = values[places[0]] if places else np.zeros(size)
    if np.isnan(chosen).all() or not places:
        chosen = np.zeros(size)
        what = f"column {names[places[0]].strip()} is empty" if places else "no column holds it"
        bars.notes.append(f"Volume is 0, since {what}; --volume-column names another one.")
    else:
        bars.used["volume"] = names[places[0]]
    bars.columns["volume"] = chosen


def _by_price(bars: FileBars, full: Sequence[int], values: dict[int, np.ndarray]) -> tuple[int, int | None]:
    """Return the place of the volume, and of an amount among the columns of volumes.

    Of several columns the one with which the amount is volume x price is the volume: other ones count contracts, or
    the other currency of a pair.
    """
    if len(full) < 2 or not {"low", "high"} <= set(bars.columns):
        return full[0], None
    low, high = bars.columns["low"], bars.columns["high"]
    if "amount" in bars.columns:
        amount = bars.columns["amount"]
        return next(
            (one for one in full if amount_ratio(low, high, values[one], amount) == 1.0), full[0]
        ), None
    for volume in full:
        for other in full:
            if other != volume and amount_ratio(low, high, values[volume], values[other]) == 1.0:
                return volume, other
    return full[0], None


def apply_scales(
    bars: FileBars, known: Meaning, singles: dict[str, int], volumes: Sequence[int], names: Sequence[str]
) -> None:
    """Apply the units that the names of the columns have in brackets."""
    for role, place in (("volume", volumes[0] if volumes else -1), ("amount", singles.get("amount", -1))):
        scale = known.scales.get(place, 1.0)
        if place in known.unread and role in bars.columns:
            bars.notes.append(
                f"The unit {known.unread[place]} of column {names[place].strip()} is not understood: its numbers are "
                "taken as they are."
            )
        if scale != 1.0 and role in bars.columns:
            bars.columns[role] = bars.columns[role] * scale
            bars.notes.append(
                f"Column {names[place].strip()} is multiplied by {scale:,.0f}, the unit in its name."
            )


def sum_sides(bars: FileBars, known: Meaning, values: dict[int, np.ndarray], names: Sequence[str]) -> bool:
    """Take the volume from its two columns of trades at rising and at falling prices, where it has none of its own.

    Columns of marks, which are 0 or 1, are no volumes.
    """
    places = [known.places[side][0] for side in SIDES if side in known.places]
    if "volume" in known.places or len(places) < len(SIDES):
        return False
    volume = np.nansum([values[place] for place in places], axis=0)
    if not (volume > 1).any():
        return False
    bars.columns["volume"] = volume
    bars.used |= {side: names[place] for side, place in zip(SIDES, places, strict=True)}
    bars.notes.append(f"Volume is {' + '.join(names[place].strip() for place in places)}.")
    return True


def name_candidates(bars: FileBars, sample: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    """Name the columns of numbers that may be the volume of a file that has none: none of them is taken unasked."""
    taken = {*bars.used.values()}
    found = []
    for place, name in enumerate(names):
        cells = [row[place] for row in sample if len(row) == len(names) and row[place] not in EMPTY]
        if name in taken or not name.strip() or NOT_A_VOLUME.search(name.lower()) or len(set(cells)) < 2:
            continue
        numbers = [
            float(cell.replace(",", "")) if PLAIN.fullmatch(cell.replace(",", "")) else -1.0 for cell in cells
        ]
        whole = sum(number == int(number) for number in numbers)
        if min(numbers) >= 0 and whole >= 0.9 * len(numbers) and len(set(numbers)) > len(numbers) / 2:
            found.append(name.strip())
    if found:
        bars.notes.append(
            f"Is {' or '.join(found[:3])} the volume? --volume-column {shlex.quote(found[0])} takes it."
        )
