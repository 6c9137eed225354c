"""The cache of fetched bars: a folder for each symbol, to which pages of bars are added, atomically.

`record.json` lists the Parquet files of the bars with their digests, and what the service said beside them. A page is
written under a new name first and then listed, so that whoever is interrupted at any place finds the pages before.
"""

import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.utils import files
from kronos.utils.digests import file_digest, read_object, with_own_digest
from kronos.utils.errors import UserError

RECORD = "record.json"
PART_ROWS = 20_000  # rows of a file, to which the next page is joined: a page rewrites no more than these


@dataclass
class Record:
    """What is known of one symbol.

    `begin` is the first day that was asked for, `until` the time up to which the service has been asked, and `next`
    where the following page begins, all as text; `factors` are (first day, factor), `revised` and `rebased` what the
    service has changed since.
    """

    begin: str | None = None
    until: str | None = None
    next: str | None = None
    factors_until: str | None = None
    asked: str = ""
    zone: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)
    factors: list[list[Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    revised: list[str] = field(default_factory=list)
    rebased: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(part["rows"] for part in self.parts)

    @property
    def last(self) -> pd.Timestamp | None:
        """The time of the last bar."""
        return pd.Timestamp(self.parts[-1]["last"]) if self.parts else None

    def content(self) -> dict[str, Any]:
        """Everything that decides which bars come of it; not when they were asked for."""
        return {**asdict(self), "begin": "", "until": "", "next": "", "factors_until": "", "asked": ""}


class SymbolCache:
    """The folder of one symbol. One process writes at a time: the caller holds the lock of the whole cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> Record | None:
        """Read the record and compare the files with it; None where nothing is there. Raises UserError if damaged."""
        if not (self.folder / RECORD).is_file():
            return None
        content = read_object(self.folder / RECORD, "it is fetched again")
        try:
            record = Record(**{name: content[name] for name in asdict(Record())})
            for part in record.parts:
                if file_digest(self.folder / part["file"]) != part["digest"]:
                    raise UserError(f"{self.folder / part['file']} was altered")
        except (KeyError, TypeError, OSError) as error:
            raise UserError(f"{self.folder} is damaged ({error})") from None
        return record

    def frame(self, record: Record) -> pd.DataFrame | None:
        """Read all bars in order of time; None where there are none."""
        return self._joined(record.parts)

    def tail(self, record: Record, bars: int) -> pd.DataFrame | None:
        """Read the last bars, at least `bars` of them where there are as many."""
        chosen, rows = len(record.parts), 0
        while chosen and rows < bars:
            chosen -= 1
            rows += record.parts[chosen]["rows"]
        found = self._joined(record.parts[chosen:])
        return None if found is None else found.tail(bars).reset_index(drop=True)

    def add(self, record: Record, bars: pd.DataFrame) -> None:
        """Append later bars, and write the record."""
        if len(bars):
            if record.parts and record.parts[-1]["rows"] + len(bars) <= PART_ROWS:
                bars = pd.concat([self._joined([record.parts.pop()]), bars], ignore_index=True)
            record.parts.append(self._write(bars))
        self.write(record)
        self._sweep([part["file"] for part in record.parts])

    def write(self, record: Record) -> None:
        """Write the record."""
        files.write_json(self.folder / RECORD, with_own_digest(asdict(record)))

    def clear(self) -> None:
        """Forget the symbol."""
        (self.folder / RECORD).unlink(missing_ok=True)
        self._sweep([])

    def _sweep(self, kept: list[str]) -> None:
        """Delete the files of bars that no record lists: replaced ones, and what a killed process left."""
        for file in self.folder.glob("*.parquet"):
            if file.name not in kept:
                file.unlink(missing_ok=True)

    def _joined(self, parts: list[dict[str, Any]]) -> pd.DataFrame | None:
        frames = [pd.read_parquet(self.folder / part["file"]) for part in parts]
        return pd.concat(frames, ignore_index=True) if frames else None

    def _write(self, bars: pd.DataFrame) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="bars-", suffix=".parquet", dir=self.folder)
        os.close(handle)
        bars.to_parquet(name, index=False)
        last = str(bars["datetime"].iloc[-1])
        return {"file": Path(name).name, "rows": len(bars), "last": last, "digest": file_digest(name)}


@dataclass(frozen=True)
class Changed:
    """How fetched bars differ from cached ones of the same times.

    `rebased` says in words that the service has put its past on another basis; `ratio` is new prices / old ones.
    `revised` are the times of single bars that are different. `common` counts the bars of the same times.
    """

    common: int
    rebased: str = ""
    ratio: float = 1.0
    revised: tuple[str, ...] = ()


SAME_PRICE = 1e-6  # relative: less is the rounding of single precision, which some services answer in
SAME_RATIO = 2e-3  # relative: prices on another basis are rounded to cents
SAME_FACTOR = 1e-5  # relative, as in `data/adjustment.py`: less is rounding


def compare(cached: pd.DataFrame, fetched: pd.DataFrame) -> Changed:
    """Compare the bars at common times: the same, single ones revised, or the whole past on another basis."""
    both = cached.merge(fetched, on="datetime", suffixes=("", "_new"))
    if both.empty:
        return Changed(0)
    prices = [
        (both[name].to_numpy(), both[f"{name}_new"].to_numpy()) for name in ("open", "high", "low", "close")
    ]
    differs = np.any([np.abs(new - old) > SAME_PRICE * np.abs(old) for old, new in prices], axis=0)
    ratio = prices[3][1] / prices[3][0]
    day = f"{both['datetime'].iloc[-1]:%Y-%m-%d}"
    if (
        differs.all()
        and ratio.max() / ratio.min() - 1 < SAME_RATIO
        and abs(np.median(ratio) - 1) > SAME_RATIO
    ):
        middle = float(np.median(ratio))
        return Changed(len(both), f"prices up to {day} x {middle:.6g}", middle)
    for name, old, new in _factors(both):
        change = new / old
        if np.any(np.abs(change - 1) > SAME_FACTOR) and not differs.any():
            return Changed(len(both), f"{name} up to {day} x {float(np.median(change)):.6g}")
    volume = both["volume"].to_numpy(), both["volume_new"].to_numpy()
    differs |= ~np.isclose(*volume, rtol=SAME_PRICE, equal_nan=True)
    pattern = "%Y-%m-%d" if (both["datetime"].dt.normalize() == both["datetime"]).all() else "%Y-%m-%d %H:%M"
    return Changed(len(both), revised=tuple(both.loc[differs, "datetime"].dt.strftime(pattern)))


def _factors(both: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The adjustment factors of cached and fetched bars, where they come with the bars."""
    found = []
    if "factor_new" in both:
        found.append(("factors", both["factor"].to_numpy(), both["factor_new"].to_numpy()))
    if "adj_close_new" in both:
        old, new = both["adj_close"] / both["close"], both["adj_close_new"] / both["close_new"]
        found.append(("adjusted closes", old.to_numpy(), new.to_numpy()))
    return found
