"""The bar store: plain memory-mapped arrays and an index that describes and checks them.

A store is a folder: `values.npy` float32 [N, 6], `session.npy` int32 [N], `flags.npy` uint8 [N], `offsets.npy`
int64 [I + 1], `sessions.npy` int64 [S], perhaps `benchmark.npy` float64 [S] and `extra.npy` float32 [N, E],
`findings.json`, `data_report.md`, and `index.json` with the sizes and digests of the rest.
N rows, sorted by instrument then session; I instruments; S sessions; E further columns.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES
from kronos.data.calendars import time_features, trading_days
from kronos.data.extra_columns import ExtraColumn, plain_name
from kronos.utils import files
from kronos.utils.digests import canonical, file_digest
from kronos.utils.errors import Damaged, UserError

FORMAT = 2
INDEX = "index.json"
SESSIONS_AFTER = 64  # forecasts at the last bar need stamps beyond it; longer horizons use the calendar
ARRAYS: dict[str, tuple[str, tuple[int | str, ...]]] = {  # name: (type, shape) in the letters above
    "values": ("<f4", ("N", len(FEATURES))),
    "session": ("<i4", ("N",)),
    "flags": ("|u1", ("N",)),
    "offsets": ("<i8", ("I+1",)),
    "sessions": ("<i8", ("S",)),
}
BENCHMARK: tuple[str, tuple[int | str, ...]] = ("<f8", ("S",))
FURTHER: tuple[str, tuple[int | str, ...]] = ("<f4", ("N", "E"))


@dataclass(frozen=True, eq=False)
class BarStore:
    """Bars of many instruments on one calendar; the arrays are read-only maps of the files."""

    path: Path
    instruments: tuple[str, ...]
    sessions: np.ndarray  # int64 ns [S]: from the first bar to SESSIONS_AFTER sessions after the last
    last_session: int  # place in `sessions` of the last one with a bar
    freq: str
    calendar: str
    values: np.ndarray  # float32 [N, 6]: open high low close volume amount
    session: np.ndarray  # int32 [N]
    flags: np.ndarray  # uint8 [N]: bars.Flag
    offsets: np.ndarray  # int64 [I + 1]
    digest: str  # of the content: the same for equal bars on any machine
    source: dict[str, Any]
    key: str  # cache key, given by the writer: what the store was made from
    label: str = "end"  # which end of its interval labels a bar within a day
    benchmark_name: str | None = None  # the universe's index, where the source has it
    across_days: bool = True  # whether windows and contexts may span several days; a reader's choice
    extra: tuple[ExtraColumn, ...] = ()  # further columns
    further: np.ndarray | None = None  # float32 [N, E]: their numbers and codes, NaN where there is no value

    def __len__(self) -> int:
        return len(self.session)

    @cached_property
    def findings(self) -> list[dict[str, Any]]:
        """What cleaning found, as written by `Finding.as_dict`; read on first use."""
        found: list[dict[str, Any]] = files.read_json(self.path / "findings.json")
        return found

    @cached_property
    def benchmark(self) -> pd.Series | None:
        """Closes of the universe's index by session (NaN where it has none); None where there is no index."""
        if self.benchmark_name is None:
            return None
        closes = _map(self.path, "benchmark", {"S": len(self.sessions)}, BENCHMARK)
        days = pd.DatetimeIndex(self.sessions.astype("datetime64[ns]"), name="datetime")
        return pd.Series(np.array(closes), index=days, name=self.benchmark_name)

    @cached_property
    def day(self) -> np.ndarray:
        """Number of the trading day that each session belongs to, int64 [S]."""
        sessions = pd.DatetimeIndex(self.sessions.astype("datetime64[ns]"))
        return trading_days(self.calendar, sessions, self.freq, self.label).as_unit("ns").asi8 // (
            24 * 3600 * 10**9
        )

    @cached_property
    def times(self) -> np.ndarray:
        """Time of each row, int64 ns [N]."""
        return self.sessions[self.session]

    @cached_property
    def stamps(self) -> np.ndarray:
        """Minute, hour, weekday, day, month of each session, int64 [S, 5]."""
        return time_features(self.sessions)

    @cached_property
    def instrument_of_row(self) -> np.ndarray:
        """Place in `instruments` of each row, int32 [N]."""
        return np.repeat(np.arange(len(self.instruments), dtype=np.int32), np.diff(self.offsets))

    @cached_property
    def history(self) -> np.ndarray:
        """Number of consecutive rows up to and including each row, int32 [N]: the longest context that ends there.

        With `across_days=False` a row counts from the first one of its day.
        """
        breaks = np.ones(len(self), bool)
        breaks[1:] = np.diff(self.session) != 1
        if not self.across_days:
            breaks[1:] |= np.diff(self.day[self.session]) != 0
        breaks[self.offsets[:-1]] = True
        row = np.arange(len(self))
        return (row - np.maximum.accumulate(np.where(breaks, row, 0)) + 1).astype(np.int32)

    def symbol_rows(self, instrument: int) -> slice:
        """Return the rows of one instrument."""
        return slice(int(self.offsets[instrument]), int(self.offsets[instrument + 1]))

    def frame(self, columns: Sequence[str] = FEATURES) -> pd.DataFrame:
        """Return a long frame: instrument, datetime and the columns given (features, `flag`, `session`, further).

        A further column of categories is a categorical of its words.
        """
        words = {one.name: one.categories for one in self.extra if one.categories is not None}
        known = (*FEATURES, *(one.name for one in self.extra), "flag", "session")
        unknown = [name for name in columns if name not in known]
        if unknown:
            raise UserError(f"a store has no column {', '.join(unknown)}: choose from {', '.join(known)}")
        data: dict[str, Any] = {
            "instrument": np.array(self.instruments, dtype=object)[self.instrument_of_row],
            "datetime": self.times.astype("datetime64[ns]"),
        }
        for name in columns:
            whole = {"flag": self.flags, "session": self.session}
            data[name] = np.array(whole[name] if name in whole else self.column(name))
            if name in words:
                code = np.nan_to_num(data[name], nan=-1).astype(np.int64)
                data[name] = pd.Categorical.from_codes(code, pd.Index(words[name], dtype=object))
        return pd.DataFrame(data)

    def column(self, name: str) -> np.ndarray:
        """Return a column by its name, float32 [N]: open, ..., amount, or a further one (codes of categories).

        Raises UserError with the columns that there are for any other name.
        """
        name = plain_name(name)
        if name in FEATURES:
            return np.asarray(self.values[:, FEATURES.index(name)])
        names = [one.name for one in self.extra]
        if name not in names or self.further is None:
            raise UserError(
                f"the store at {self.path} has no column {name!r}: it has {', '.join((*FEATURES, *names))}"
            )
        return np.asarray(self.further[:, names.index(name)])


def describe_file(file: Path) -> dict[str, Any]:
    """Return the size and digest of a file, as the index has them."""
    return {"bytes": os.stat(file).st_size, "sha256": file_digest(file)}


def open_store(path: str | Path, verify: bool = True) -> BarStore:
    """Open a store: index, sizes and shapes are checked, and with `verify` the digest of every file.

    A digest is computed once per process, at about 1 GB/s: 0.1 s for 3 million rows. Raises UserError when there
    is no store or a newer version wrote it, and Damaged when a file is missing or altered.
    """
    folder = Path(path)
    index = read_index(folder)
    for file, expected in index["files"].items():
        _check_file(folder, file, expected, verify)
    extra = tuple(map(ExtraColumn.of, index.get("extra", ())))
    sizes = {"N": index["rows"], "I+1": len(index["instruments"]) + 1, "E": len(extra)}
    arrays = {name: _map(folder, name, sizes) for name in ARRAYS}
    sessions, offsets = np.array(arrays["sessions"]), np.array(arrays["offsets"])
    return BarStore(
        path=folder,
        instruments=tuple(index["instruments"]),
        sessions=sessions,
        last_session=index["last_session"],
        freq=index["freq"],
        calendar=index["calendar"],
        values=arrays["values"],
        session=arrays["session"],
        flags=arrays["flags"],
        offsets=offsets,
        digest=index["digest"],
        source=index["source"],
        key=index["key"],
        label=index["label"],
        benchmark_name=index["benchmark"],
        extra=extra,
        further=_map(folder, "extra", sizes, FURTHER) if extra else None,
    )


def read_index(folder: Path) -> dict[str, Any]:
    """Return the index of a store. Raises UserError where there is none or it is of a newer version, else Damaged."""
    if not (folder / INDEX).is_file():
        raise UserError(
            f"no store at {folder} ({INDEX} missing): run  python -m kronos data  or give --dataset-path"
        )
    try:
        index = files.read_json(folder / INDEX)
    except UserError as error:
        raise _damaged(folder, str(error)) from None
    _check_index(folder, index)
    return dict(index)


def _damaged(folder: Path, what: str) -> Damaged:
    return Damaged(f"the store at {folder} is damaged: {what}", "build it again with  python -m kronos data")


def _check_index(folder: Path, index: Any) -> None:
    if not isinstance(index, dict) or not isinstance(index.get("format"), int):
        raise _damaged(folder, "index.json has no format number")
    if index["format"] > FORMAT:
        raise UserError(
            f"the store at {folder} has format {index['format']}, this version reads up to {FORMAT}: update kronos "
            "or build the store again with  python -m kronos data"
        )
    if index["format"] != FORMAT:
        raise _damaged(folder, f"index.json has format {index['format']}, expected {FORMAT}")
    signed = {name: value for name, value in index.items() if name != "index_digest"}
    if index.get("index_digest") != files.digest_bytes(canonical(signed)):
        raise _damaged(folder, "index.json was edited (its digest differs)")


def _check_file(folder: Path, file: str, expected: dict[str, Any], verify: bool) -> None:
    try:
        size = os.stat(folder / file).st_size
    except OSError:
        raise _damaged(folder, f"{file} is missing") from None
    if size != expected["bytes"]:
        raise _damaged(folder, f"{file} has {size} bytes, expected {expected['bytes']}")
    if verify and file_digest(folder / file) != expected["sha256"]:
        raise _damaged(folder, f"{file} was altered (its digest differs)")


def _map(
    folder: Path, name: str, sizes: dict[str, int], kind: tuple[str, tuple[int | str, ...]] | None = None
) -> np.ndarray:
    dtype, shape = kind or ARRAYS[name]
    try:
        array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{name}.npy cannot be read ({error})") from None
    wanted = tuple(sizes.get(str(axis), axis) for axis in shape)
    matches = array.ndim == len(wanted) and all(
        have == want or want == "S" for have, want in zip(array.shape, wanted, strict=True)
    )
    if array.dtype.str != dtype or not matches:
        raise _damaged(folder, f"{name}.npy is {array.dtype} {array.shape}, expected {dtype} {wanted}")
    return array
