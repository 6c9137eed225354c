"""The values of a file's columns: times, numbers, and which column is the volume."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kronos.data.cleaning import OFF_CALENDAR
from kronos.data.sources.csv_columns import TIMES, Meaning, squeeze
from kronos.data.sources.csv_file import NOT_A_NUMBER, FileBars
from kronos.data.sources.csv_numbers import comma_is_decimal, to_floats
from kronos.data.sources.csv_schema import Said
from kronos.data.sources.csv_table import Cells
from kronos.data.sources.csv_times import NONE, Times, read_times, read_times_of_day
from kronos.utils.errors import UserError

DAY = 86400 * 10**9  # ns


def times_of(table: pa.Table, known: Meaning, names: Sequence[str], freq: str) -> Times:
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
            days = np.where(days == NONE, NONE, days // DAY * DAY + within)
            found = Times(days, False, None, found.bad)
    return found._replace(utc=True) if utc and not found.utc else found


def _whole(columns: dict[str, Any], has_time_of_day: bool) -> str:
    if has_time_of_day and "date" in columns and "datetime" not in columns:
        return "date"
    return next(role for role in TIMES if role in columns)


def _timed(times: Times) -> bool:
    known = times.ns != NONE
    return bool((times.ns[known] % DAY).any())


def numbers_of(
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
                f"the number {example} can be read two ways (thousands or decimals) and no row tells: write numbers "
                "with a decimal point"
            )
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
        bars.columns["volume"] = values[full[0]]
        bars.used["volume"] = names[full[0]]
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
            bars.used["amount"] = names[full[1]]
        return
    chosen = values[places[0]] if places else np.zeros(size)
    if np.isnan(chosen).all() or not places:
        chosen = np.zeros(size)
        what = f"column {names[places[0]].strip()} is empty" if places else "no column holds it"
        bars.notes.append(f"Volume is 0, since {what}; --volume-column names another one.")
    else:
        bars.used["volume"] = names[places[0]]
    bars.columns["volume"] = chosen


def apply_scales(
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
