"""Read the body of a request to the served model, in MLflow's formats, as a table and params.

Only the columns of bars are taken out of the parsed JSON, so that no body becomes a table much larger than itself.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kronos.data.bars import ALIASES, FEATURES
from kronos.tracking.served_bounds import Bounds
from kronos.tracking.served_input import shown
from kronos.utils.errors import UserError

JSON, CSV = "application/json", "text/csv"
COLUMNS = frozenset({"instrument", "datetime", *FEATURES, *ALIASES})
MAX_COLUMNS = 100
FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def read_body(
    body: bytes,
    kind: str,
    bounds: Bounds,
    conditions: Sequence[Mapping[str, Any]] = (),
    columns: Sequence[str] = FEATURES,
) -> tuple[pd.DataFrame, Any]:
    """Return (the table, the params, None where there are none) of a JSON or CSV body; the cells stay as they came.

    The columns are those of bars, of the tokenizer, and of the conditions that a predictor describes.

    Raises UserError for a body over a bound, one that is not UTF-8 or not of the format, or with an unknown field.
    """
    if len(body) > bounds.max_body:
        raise UserError(over_body(bounds))
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the body is not UTF-8 text: byte {error.start} cannot be read") from None
    further = {column["name"]: column["kind"] for column in conditions} | dict.fromkeys(columns, "number")
    return (_csv(text, bounds, further), None) if kind == CSV else _json(text, bounds, {*COLUMNS, *further})


def over_body(bounds: Bounds) -> str:
    """Return the sentence for a body that is too large."""
    return f"the body is over max_body_mb = {bounds.max_body_mb:g} megabytes: ask for fewer series at once"


def over_rows(bounds: Bounds) -> str:
    """Return the sentence for a table that is too long."""
    return f"the table has more rows than max_rows = {bounds.max_rows}: ask for fewer series at once"


def _csv(text: str, bounds: Bounds, further: Mapping[str, str]) -> pd.DataFrame:
    """Read all cells as text first, since an instrument such as 000001 is not a number and NA is not missing."""
    if text.partition("\n")[0].count(",") >= MAX_COLUMNS:
        raise UserError(f"the CSV has over {MAX_COLUMNS} columns")
    if text.count("\n") > bounds.max_rows + 1:
        raise UserError(over_rows(bounds))
    try:
        table = pd.read_csv(
            io.StringIO(text),
            dtype=str,
            keep_default_na=False,
            usecols=lambda name: name in COLUMNS or name in further,
        )
    except (ValueError, pd.errors.ParserError):
        raise UserError(
            "the CSV cannot be read: expected one line of names and one line of values per bar"
        ) from None
    for name in table.columns:
        if ALIASES.get(name, name) in FEATURES or further.get(name) == "number":
            numbers = pd.to_numeric(table[name], errors="coerce")
            bad = numbers.isna() & ~table[name].str.lower().isin(["", "nan"])
            table[name] = table[name].astype(object) if bad.any() else numbers
    return table


def _json(text: str, bounds: Bounds, wanted: set[str]) -> tuple[pd.DataFrame, Any]:
    if text.count("[") + text.count("{") > bounds.max_rows + MAX_COLUMNS:  # each row is a list or an object
        raise UserError(over_rows(bounds))
    try:
        given = json.loads(text)
    except RecursionError:
        raise UserError("the JSON of the body is nested too deeply: a table has four levels") from None
    except json.JSONDecodeError as error:
        raise UserError(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        raise UserError("the body has a number with too many digits") from None
    if not isinstance(given, dict):
        raise UserError(f"the body must be a JSON object with one of {', '.join(FORMATS)}")
    unknown = [key for key in given if key not in (*FORMATS, "params")]
    if unknown:
        raise UserError(
            f"unknown field {shown(unknown[0])} in the body: expected {', '.join(FORMATS)} or params"
        )
    found = [name for name in FORMATS if name in given]
    if len(found) != 1:
        raise UserError(f"the body has {len(found)} tables: expected one of {', '.join(FORMATS)}")
    table = given[found[0]]
    read = {"dataframe_split": _split, "inputs": _columns}.get(found[0], _records)
    return read(table, wanted), given.get("params")


def _split(table: Any, wanted: set[str]) -> pd.DataFrame:
    if not isinstance(table, dict) or not {"columns", "data"} <= set(table) <= {"columns", "data", "index"}:
        raise UserError("dataframe_split must be an object with columns and data")
    names, rows = table["columns"], table["data"]
    if (
        not isinstance(names, list)
        or len(names) > MAX_COLUMNS
        or not all(isinstance(name, str) for name in names)
    ):
        raise UserError(f"columns of dataframe_split must be a list of at most {MAX_COLUMNS} names")
    if not isinstance(rows, list):
        raise UserError("data of dataframe_split must be a list of rows")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise UserError(
                f"row {number} of dataframe_split is not a list of {len(names)} values, one per column"
            )
    places = [place for place, name in enumerate(names) if name in wanted]
    columns = [_column(row[place] for row in rows) for place in places]
    frame = pd.DataFrame(dict(enumerate(columns)), index=range(len(rows)))
    frame.columns = pd.Index(
        [names[place] for place in places]
    )  # a name may be there twice, which is refused later
    return frame


def _records(rows: Any, wanted: set[str]) -> pd.DataFrame:
    if not isinstance(rows, list):
        raise UserError("the table must be a list of rows, each an object of names and values")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UserError(f"row {number} is not an object of names and values")
    names = dict.fromkeys(name for row in rows for name in row if name in wanted)
    return pd.DataFrame(
        {name: _column(row.get(name) for row in rows) for name in names}, index=range(len(rows))
    )


def _columns(table: Any, wanted: set[str]) -> pd.DataFrame:
    if isinstance(table, list):
        return _records(table, wanted)
    if not isinstance(table, dict):
        raise UserError("inputs must be an object of columns, each a list of values")
    columns = {name: values for name, values in table.items() if name in wanted}
    for name, values in columns.items():
        if not isinstance(values, list):
            raise UserError(f"column {name} of inputs must be a list of values")
    if len({len(values) for values in columns.values()}) > 1:
        raise UserError("the columns of inputs must have as many values as each other")
    return pd.DataFrame({name: _column(values) for name, values in columns.items()})


def _column(values: Any) -> pd.Series:
    """Return the cells of a column, of a plain type where they agree: numbers as numbers, the rest as it came."""
    cells: Sequence[Any] = list(values)
    if all(type(cell) is float or type(cell) is int for cell in cells):
        try:
            return pd.Series(cells, dtype="float64")
        except OverflowError:
            pass  # named later, with its column
    return pd.Series(cells, dtype=object)
