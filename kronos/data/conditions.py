"""Conditions from a store: their values at each row, and how a predictor's config.json describes them.

N rows of a store, C columns. A column is read from the store, or computed from its bars (`BUILT_IN`). The value at a
row is known at its time: it depends on no later bar.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kronos.config.registries import BUILT_IN
from kronos.data.bars import AMOUNT, FEATURES, Flag, cell_text
from kronos.data.extra_columns import plain_name
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

BUCKETS = 10
MOST_CATEGORIES = 1000  # of one column


class Values(NamedTuple):
    """One column: float32 [N] of numbers or codes (NaN: missing), and the categories that the codes are places in."""

    values: np.ndarray
    categories: tuple[str, ...] | None


def describe(store: BarStore, names: Sequence[str], rows: np.ndarray, lookback: int) -> list[dict[str, Any]]:
    """Return the columns as config.json has them, from their values in the `rows` of the training range alone.

    A category that is not in these rows is missing in the description too: there is nothing to learn about it.
    Raises UserError for a column that the store does not have, and for one with too many categories.
    """
    return [_described(name, _column(store, name, lookback), rows, lookback) for name in names]


def table(store: BarStore, columns: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return float32 [N, C]: the values of the columns that a predictor describes, categories by their names.

    A category that the predictor does not know is NaN, a missing value. Raises UserError where the store does not
    have a column, or has numbers where the predictor knows categories or the reverse.
    """
    found = np.empty((len(store), len(columns)), np.float32)
    for place, column in enumerate(columns):
        found[:, place] = _as_described(column, _column(store, column["name"], column.get("bars", 0)))
    return found


def from_frame(
    frame: pd.DataFrame, columns: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Return (float32 [rows, C] of a frame with columns of these names, the categories that are unknown, by column).

    A column that is not there, an empty cell and an unknown category are NaN, a missing value. Raises UserError for
    text in a column of numbers.
    """
    found = np.full((len(frame), len(columns)), np.nan, np.float32)
    unknown: dict[str, list[str]] = {}
    for place, column in enumerate(columns):
        name = plain_name(column["name"])
        if name not in frame:
            continue
        if column["kind"] == "number":
            found[:, place] = _numbers(frame[name])
            continue
        texts = frame[name].astype(object).map(cell_text)
        codes = {category: code for code, category in enumerate(column["categories"])}
        found[:, place] = texts.map(codes).astype("float32")
        if others := sorted(set(texts.dropna()) - codes.keys()):
            unknown[column["name"]] = others
    return found, unknown


def _numbers(column: pd.Series) -> np.ndarray:
    try:
        return column.to_numpy(dtype=np.float32, na_value=np.nan)
    except (TypeError, ValueError):
        raise UserError(f"column {column.name} holds {column.dtype} values, expected numbers") from None


def lacking(store: BarStore, columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the columns that the store does not have and that are not computed from its bars."""
    there = {*FEATURES, *BUILT_IN, *(one.name for one in store.extra)}
    return [column["name"] for column in columns if plain_name(column["name"]) not in there]


def unknown_categories(store: BarStore, columns: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the categories of the store that the predictor does not know, by the name of the column."""
    stored = {one.name: one.categories for one in store.extra if one.categories is not None}
    known = {one["name"]: set(one.get("categories", ())) for one in columns}
    found = {
        name: [one for one in stored[name] if one not in known[name]] for name in known if name in stored
    }
    return {name: names for name, names in found.items() if names}


def _column(store: BarStore, name: str, lookback: int) -> Values:
    if name in BUILT_IN:
        return Values(size_bucket(store, lookback), tuple(str(number + 1) for number in range(BUCKETS)))
    stored, name = {one.name: one for one in store.extra}, plain_name(name)
    if name not in stored and name not in FEATURES:
        there = ", ".join((*FEATURES, *stored, *BUILT_IN))
        raise UserError(
            f"the condition {name!r} is not among the columns of the store at {store.path} ({there}): build it with "
            f"python -m kronos data --condition-columns {name},..."
        )
    return Values(store.column(name), None if name in FEATURES else stored[name].categories)


def _described(name: str, column: Values, rows: np.ndarray, lookback: int) -> dict[str, Any]:
    values = column.values[rows]
    values = values[np.isfinite(values)].astype(np.float64)
    more = {"bars": lookback} if name in BUILT_IN else {}
    if column.categories is None:
        deviation = float(values.std()) if len(values) else 0.0
        mean = float(values.mean()) if len(values) else 0.0
        return {"name": name, "kind": "number", "mean": mean, "deviation": deviation or 1.0, **more}
    names = [column.categories[code] for code in np.unique(values).astype(np.int64)]
    if not names:
        raise UserError(f"condition_columns: {name} has no value in the training range: leave it out")
    if len(names) > MOST_CATEGORIES:
        raise UserError(
            f"condition_columns: {name} has {len(names)} categories in the training range, expected at most "
            f"{MOST_CATEGORIES}: group them, or leave it out"
        )
    return {"name": name, "kind": "category", "categories": names, **more}


def _as_described(column: Mapping[str, Any], stored: Values) -> np.ndarray:
    """Return the values of a stored column in the codes of the description."""
    if (column["kind"] == "category") != (stored.categories is not None):
        kinds = ("categories", "numbers") if column["kind"] == "category" else ("numbers", "categories")
        raise UserError(
            f"the condition {column['name']} has {kinds[1]} in the store, the predictor was trained on {kinds[0]}"
        )
    if stored.categories is None:
        return stored.values
    places = {name: place for place, name in enumerate(column["categories"])}
    codes = np.array([places.get(name, np.nan) for name in (*stored.categories, None)], np.float32)
    missing = len(stored.categories)  # the last of the codes is that of None, NaN
    return codes[np.where(np.isfinite(stored.values), stored.values, missing).astype(np.int64)]


def size_bucket(store: BarStore, bars: int) -> np.ndarray:
    """Return float32 [N]: the tenth, 0 to 9, in which an instrument's traded money is among those of its session.

    The money is the mean amount of the instrument's last `bars` bars, this one included, of as many as there are.
    Equal amounts have the same place. NaN on days on which the instrument is no member, and where nothing was traded.
    """
    money = np.empty(len(store))
    for number in range(len(store.instruments)):
        # Each by itself, so that no rounding depends on other instruments' later bars.
        rows = store.symbol_rows(number)
        total = np.concatenate([[0.0], np.cumsum(store.values[rows, AMOUNT], dtype=np.float64)])
        end = np.arange(1, len(total))
        begin = np.maximum(end - bars, 0)
        money[rows] = (total[end] - total[begin]) / (end - begin)
    member = (np.asarray(store.flags) & int(Flag.NONMEMBER)) == 0
    kept = np.flatnonzero(member & (money > 0))
    session = np.asarray(store.session)[kept]
    order = np.lexsort((money[kept], session))
    kept, session = kept[order], session[order]
    if not len(kept):
        return np.full(len(store), np.nan, np.float32)
    begins = np.flatnonzero(np.diff(session, prepend=session[0] - 1))
    counts = np.diff(np.append(begins, len(kept)))
    place = np.arange(len(kept))
    first = np.repeat(begins, counts)
    new = (place == first) | (np.diff(money[kept], prepend=np.nan) != 0)
    rank = np.maximum.accumulate(np.where(new, place, 0)) - first
    found = np.full(len(store), np.nan, np.float32)
    found[kept] = rank * BUCKETS // np.repeat(counts, counts)
    return found
