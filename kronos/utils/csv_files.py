"""CSV files that a spreadsheet may open: text stays text, whatever it begins with."""

from pathlib import Path
from typing import Any, TextIO

import pandas as pd

# A spreadsheet takes a cell that begins with one of the first four for a formula. The apostrophe itself is among
# them, so that a text that begins with one can be read back.
GUARDED = ("=", "+", "-", "@", "'")


def write_csv(frame: pd.DataFrame, path: Path | TextIO, **options: Any) -> None:
    """Write a table by `DataFrame.to_csv`; texts that begin like a formula get an apostrophe in front.

    This is the usual protection: spreadsheets show such a cell as text. Texts are those of columns and of the index;
    numbers stay as they are. `data_source=csv` reads instruments back without the apostrophe.
    """
    safe = frame.copy(deep=False)
    for place, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_datetime64_any_dtype(kind):
            safe.isetitem(place, frame.iloc[:, place].map(guarded).array)
    if len(frame.index) and not pd.api.types.is_numeric_dtype(frame.index.dtype):
        safe.index = frame.index.map(guarded)
    safe.to_csv(path, **options)


def guarded(value: Any) -> Any:
    """Return a text with an apostrophe in front where it begins like a formula; anything else unchanged."""
    return f"'{value}" if isinstance(value, str) and value.startswith(GUARDED) else value
