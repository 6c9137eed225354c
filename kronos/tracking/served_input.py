"""Check what a request to the served model asks for: its bars and its params. Each mistake is one sentence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES, PRICES, cell_text, rename_aliases
from kronos.utils.errors import UserError

WHOLE = ("pred_len", "top_k", "sample_count", "seed")
REAL = ("T", "top_p")
BANDS = ("calibrated", "raw")
PARAMS = (*WHOLE, *REAL, "quantiles", "bands")
LEAST_T, LARGEST_T = 0.001, 1000  # beyond, the probabilities are those of the likeliest id, or equal
MAX_QUANTILES = 100
LEAST_PRICE = 1e-9
LARGEST = 1e16  # of a price, volume or amount: the squares of the normalisation still fit in float32
ROUNDING = 1e-6  # relative: adjusted prices may have a close this much above the high
YEARS = (1900, 2200)
NUMBER = int | float | np.integer | np.floating


def shown(value: Any) -> str:
    """Return a value of a request for use in a message: on one line, cut to 40 characters."""
    text = repr(value)[1:-1] if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_params(params: Any) -> dict[str, Any]:
    """Return the params of a request. Raises UserError for an unknown name, a wrong type or an impossible value."""
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise UserError("params must be an object of names and values")
    for name, value in params.items():
        if name not in PARAMS:
            raise UserError(f"unknown param {shown(name)}: a request may set {', '.join(PARAMS)}")
        if name == "quantiles":
            _check_quantiles(value)
        elif name == "bands":
            if not isinstance(value, str) or value not in BANDS:
                raise UserError(f"bands is {shown(value)}, expected {' or '.join(BANDS)}")
        elif name in WHOLE:
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise UserError(f"{name} is {shown(value)}, expected a whole number")
            if not -(2**63) <= value < 2**63:
                raise UserError(f"{name} is {shown(value)}, expected a number of at most 64 bits")
        elif not _is_number(value):
            raise UserError(f"{name} is {shown(value)}, expected a number")
    for name in ("pred_len", "sample_count"):
        if params.get(name, 1) < 1:
            raise UserError(f"{name} is {params[name]}, at least 1 was expected")
    if not LEAST_T <= params.get("T", 1.0) <= LARGEST_T:
        raise UserError(
            f"T is {params['T']}, expected {LEAST_T} to {LARGEST_T} (for the likeliest path, top_k = 1)"
        )
    return dict(params)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, NUMBER) and bool(-math.inf < value < math.inf)


def _check_quantiles(levels: Any) -> None:
    if not isinstance(levels, list | tuple | np.ndarray) or not all(
        _is_number(level) and 0 <= level <= 1 for level in levels
    ):
        raise UserError(f"quantiles are {shown(levels)}, expected a list of numbers from 0 to 1")
    if len(levels) > MAX_QUANTILES or len(set(levels)) < len(levels):
        raise UserError(f"{len(levels)} quantiles were given, expected at most {MAX_QUANTILES}, each once")


def check_bars(
    table: pd.DataFrame,
    max_rows: int,
    conditions: Sequence[Mapping[str, Any]] = (),
    columns: Sequence[str] = FEATURES,
) -> pd.DataFrame:
    """Return the table of a request as bars: instrument, datetime and the features as float64, rows as given.

    The features are the usual six and the `columns` of the tokenizer. A table without instruments is one series.
    Volume is 0 where the whole column is missing, amount is then volume times the mean price. Of the `conditions`
    that a predictor describes the columns that there are follow; an empty cell is a missing value. Other columns are
    left out, as MLflow does. Raises UserError for anything that is not a bar and for times that do not rise within an
    instrument; rows are numbered from 0.
    """
    table = rename_aliases(table)
    needed = [name for name in columns if name not in ("volume", "amount")]
    missing = [name for name in ("datetime", *needed) if name not in table]
    if missing:
        raise UserError(f"columns {', '.join(missing)} are missing: expected datetime, {', '.join(needed)}")
    numbers = dict.fromkeys((*FEATURES, *columns))
    further = {column["name"]: column["kind"] for column in conditions if column["name"] not in numbers}
    known = [name for name in table.columns if name in ("instrument", "datetime", *numbers, *further)]
    if len(set(known)) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise UserError(f"column {twice} is there twice: rename or remove one")
    if not len(table):
        raise UserError("the table has no rows: at least one bar was expected")
    if len(table) > max_rows:
        raise UserError(
            f"the table has {len(table)} rows, over max_rows = {max_rows}: ask for fewer series at once"
        )
    table = table.reset_index(drop=True)
    bars = pd.DataFrame({"instrument": _instruments(table), "datetime": _times(table["datetime"])})
    for name in needed:
        bars[name] = _numbers(table[name])
    bars["volume"] = _numbers(table["volume"]) if _given(table, "volume") else 0.0
    bars["amount"] = (
        _numbers(table["amount"])
        if _given(table, "amount")
        else bars["volume"] * bars[list(PRICES)].mean(axis=1)
    )
    _check_values(bars)
    _check_order(bars)
    for name, kind in further.items():
        if name in table:
            bars[name] = _numbers(table[name], gaps=True) if kind == "number" else _words(table[name])
    return bars


def _given(table: pd.DataFrame, name: str) -> bool:
    return name in table and not table[name].isna().all()


def _instruments(table: pd.DataFrame) -> Any:
    if not _given(table, "instrument"):
        return "series"
    column = table["instrument"]
    names: list[str] = []
    for row, name in enumerate(column.tolist()):
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if name is None or name is pd.NA or name == "" or (isinstance(name, float) and math.isnan(name)):
            raise UserError(
                f"row {row} has no instrument, but other rows have one: name it in every row or in none"
            )
        if not isinstance(name, str):
            raise UserError(f"instrument in row {row} is {shown(name)}, expected text")
        if not name.strip() or not name.isprintable():
            raise UserError(f"instrument in row {row} is blank or has characters that cannot be printed")
        names.append(name)
    return names


def _times(column: pd.Series) -> pd.Series:
    """Return times as datetime64[ns]. ISO 8601 alone is read, since 01/02/2024 is January or February."""
    if not (pd.api.types.is_datetime64_any_dtype(column) or column.dtype == object or _is_text(column)):
        raise UserError("column datetime holds numbers: give text such as 2024-06-18 or 2024-06-18 09:35")
    if column.dtype == object:
        for row, value in enumerate(column.tolist()):
            if not (value is None or isinstance(value, str | pd.Timestamp)):
                raise UserError(f"datetime in row {row} is {shown(value)}, expected text such as 2024-06-18")
    try:
        times = pd.to_datetime(column, format="ISO8601", errors="coerce")
    except (ValueError, TypeError, OverflowError):
        times = None
    if times is None or getattr(times.dt, "tz", None) is not None:
        raise UserError(
            "column datetime has a time zone: convert it to the exchange's local time without one"
        )
    bad = times.isna() | (times.dt.year < YEARS[0]) | (times.dt.year > YEARS[1])
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"datetime in row {row} is {shown(column[row])}, expected a time such as 2024-06-18 or 2024-06-18 09:35, "
            f"of the years {YEARS[0]} to {YEARS[1]}"
        )
    return times.astype("datetime64[ns]")


def _is_text(column: pd.Series) -> bool:
    return pd.api.types.is_string_dtype(column)


def _words(column: pd.Series) -> pd.Series:
    """Return the texts of a category; None for a missing value."""
    for row, value in enumerate(column.tolist()):
        if isinstance(value, bool) or not (
            value is None or value is pd.NA or isinstance(value, str | NUMBER)
        ):
            raise UserError(f"{column.name} in row {row} is {shown(value)}, expected text")
    texts = column.astype(object).map(cell_text)
    return texts.astype(object).where(texts.notna(), None)


def _numbers(column: pd.Series, gaps: bool = False) -> np.ndarray:
    """Return numbers as float64; with `gaps` missing values stay NaN, as does what is too large for any use."""
    if column.dtype.kind not in "iuf":
        for row, value in enumerate(column.tolist()):
            if value is None or value is pd.NA:
                continue
            if isinstance(value, bool) or not isinstance(value, NUMBER):
                raise UserError(f"{column.name} in row {row} is {shown(value)}, expected a number")
    try:
        values = column.to_numpy(np.float64, na_value=np.nan)
    except OverflowError:
        raise UserError(f"{column.name} has a number over {LARGEST:g}") from None
    if np.isnan(values).any() and not gaps:
        raise UserError(
            f"{column.name} is missing in row {int(np.argmax(np.isnan(values)))}: fill or drop the bar"
        )
    return values


def _check_values(bars: pd.DataFrame) -> None:
    opened, high, low, close = (bars[name].to_numpy() for name in PRICES)
    for name in bars.columns[2:]:
        values = bars[name].to_numpy()
        if name not in FEATURES:
            _refuse(values < -LARGEST, bars, name, f"expected at least {-LARGEST:g}")
        elif name in PRICES:
            _refuse(values <= 0, bars, name, "prices must be above 0")
            _refuse(values < LEAST_PRICE, bars, name, f"prices must be at least {LEAST_PRICE:g}")
        else:
            _refuse(values < 0, bars, name, f"{name} must be 0 or more")
        _refuse(values > LARGEST, bars, name, f"expected at most {LARGEST:g}")
    _refuse(high < low, bars, "high", "it is below the low")
    above, below = high * (1 + ROUNDING), low * (1 - ROUNDING)
    for name, values in (("open", opened), ("close", close)):
        _refuse((values > above) | (values < below), bars, name, "it is outside low to high")


def _refuse(wrong: np.ndarray, bars: pd.DataFrame, name: str, reason: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(f"{name} is {bars[name][row]:g} in row {row}: {reason}")


def _check_order(bars: pd.DataFrame) -> None:
    code = pd.factorize(bars["instrument"])[0]
    place = np.argsort(code, kind="stable")
    step = np.diff(bars["datetime"].to_numpy().astype(np.int64)[place])
    wrong = (step <= 0) & (np.diff(code[place]) == 0)
    if wrong.any():
        row = int(place[1:][wrong].min())
        raise UserError(
            f"datetime must increase within an instrument: in row {row}, for {shown(bars['instrument'][row])}, it "
            "is not later than before"
        )
