"""Write the bar store: gather aligned bars part by part, then write a temporary folder, renamed on success."""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES, MARK, Finding, marked
from kronos.data.calendars import next_sessions
from kronos.data.calendars import sessions as calendar_sessions
from kronos.data.extra_columns import ExtraColumn, encoded, number_texts
from kronos.data.quality_report import report_markdown
from kronos.data.spool import Held, Spool
from kronos.data.store import ARRAYS, FORMAT, FURTHER, SESSIONS_AFTER, BarStore, describe_file, open_store
from kronos.utils import files
from kronos.utils.digests import canonical
from kronos.utils.errors import UserError

LARGE = ("values", "session", "flags")  # of ARRAYS: the ones with a row for each bar


def store_sessions(
    calendar: str,
    first: Any,
    last: Any,
    freq: str = "day",
    label: str = "end",
    past: pd.DatetimeIndex | None = None,
) -> pd.DatetimeIndex:
    """Return the exchange's sessions from `first` to SESSIONS_AFTER sessions after `last`.

    `past` are the sessions up to `last` where they were observed.
    """
    within = calendar_sessions(calendar, first, last, freq, label) if past is None else past
    within = within[(within >= pd.Timestamp(first)) & (within <= pd.Timestamp(last))]
    return pd.DatetimeIndex(within.append(next_sessions(calendar, last, SESSIONS_AFTER, freq, label)))


class StoreParts:
    """Aligned bars (see `bars.align`) collected part by part; each instrument is in one part only.

    Parts beyond the budget of `spool` wait on disk. Without one all stay in memory.
    """

    def __init__(self, spool: Spool | None = None) -> None:
        self._spool = spool or Spool(Path(), budget=sys.maxsize)
        self._names: list[str] = []
        self._spans: list[tuple[int, int, int]] = []  # of each name: its part, and its rows within it
        self._parts: list[dict[str, Held]] = []
        self._extra: list[dict[str, tuple[str, ...] | None]] = []  # of each part: its categories by column

    def add(self, frame: pd.DataFrame) -> None:
        """Add the bars of some instruments. Raises UserError where they are not sorted and unique."""
        session = frame["session"].to_numpy().astype("<i4")
        code, names = pd.factorize(frame["instrument"])
        step = np.diff(code)
        if not (((step == 1) | ((step == 0) & (np.diff(session) > 0))).all()):
            raise UserError(
                "bars are not sorted by instrument and session without repeats: clean and align them first"
            )
        with np.errstate(over="ignore"):  # refused below, in one line
            values = np.column_stack([frame[name].to_numpy().astype("<f4") for name in FEATURES])
        further = {name.removeprefix(MARK): encoded(frame[name]) for name in marked(frame.columns)}
        bad = ~np.isfinite(values).all(1)
        for column, _ in further.values():
            bad |= np.isinf(column)
        if bad.any():
            row = frame.iloc[int(np.flatnonzero(bad)[0])]
            raise UserError(
                f"{row['instrument']} on {row['datetime']:%Y-%m-%d} has a value that is missing or too large for "
                "float32: clean the bars first"
            )
        ends = np.cumsum(np.bincount(code, minlength=len(names))).tolist()
        self._names += [str(name) for name in names]
        self._spans += [(len(self._parts), begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        arrays = {"values": values, "session": session, "flags": frame["flag"].to_numpy("|u1")}
        if further:
            arrays["extra"] = np.column_stack([column for column, _ in further.values()])
        self._extra.append({name: words for name, (_, words) in further.items()})
        self._parts.append({name: self._spool.put(array) for name, array in arrays.items()})

    def in_order(self) -> tuple[list[str], np.ndarray, list[tuple[int, int, int]]]:
        """Return the names, sorted; their offsets, int64 [I + 1]; and the runs of rows (part, begin, end) to join.

        Raises UserError where there is no bar, or where an instrument came in two parts.
        """
        if not self._names:
            raise UserError(
                "there is no bar to store: check the source, dataset_begin_time and dataset_end_time"
            )
        if len(set(self._names)) < len(self._names):
            raise UserError("bars of one instrument came in two parts: they belong in one")
        order = sorted(range(len(self._names)), key=self._names.__getitem__)
        spans = [self._spans[place] for place in order]
        offsets = np.cumsum([0, *(end - begin for _, begin, end in spans)]).astype("<i8")
        runs = [spans[0]]
        for part, begin, end in spans[1:]:
            last = runs[-1]
            if (part, begin) == (last[0], last[2]):
                runs[-1] = (part, last[1], end)
            else:
                runs.append((part, begin, end))
        return [self._names[place] for place in order], offsets, runs

    def arrays(self, name: str, runs: list[tuple[int, int, int]]) -> Iterator[np.ndarray]:
        """Yield the rows of values, session or flags in the order of `runs`."""
        for part, begin, end in runs:
            yield self._parts[part][name].get(begin, end)

    def further(self) -> list[ExtraColumn]:
        """Return the further columns. One with words in some part is a category: its numbers are words too."""
        found = []
        for place, name in enumerate(self._extra[0]):
            if all(part[name] is None for part in self._extra):
                found.append(ExtraColumn(name, "number"))
                continue
            words = {word for part in range(len(self._extra)) for word in self._words(part, place, name)}
            found.append(ExtraColumn(name, "category", tuple(sorted(words))))
        return found

    def further_arrays(
        self, runs: list[tuple[int, int, int]], columns: Sequence[ExtraColumn]
    ) -> Iterator[np.ndarray]:
        """Yield the rows of the further columns in the order of `runs`, with codes of the categories of all parts."""
        recoded = [self._recoded(part, columns) for part in range(len(self._extra))]
        for part, begin, end in runs:
            rows = np.array(self._parts[part]["extra"].get(begin, end))
            for place, (keys, codes) in recoded[part].items():
                column = rows[:, place]
                known = ~np.isnan(column)
                column[known] = codes[np.searchsorted(keys, column[known])]
            yield rows

    def _recoded(self, part: int, columns: Sequence[ExtraColumn]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """For each column of categories: the different values of a part, in order, and their codes in the store."""
        found = {}
        for place, column in enumerate(columns):
            if column.categories is not None:
                code = {word: number for number, word in enumerate(column.categories)}
                words = self._words(part, place, column.name)
                given = self._extra[part][column.name] is None
                keys = self._numbers(part, place) if given else np.arange(len(words), dtype="<f4")
                found[place] = keys, np.array([code[word] for word in words], "<f4")
        return found

    def _words(self, part: int, place: int, name: str) -> Sequence[str]:
        words = self._extra[part][name]
        return number_texts(self._numbers(part, place)) if words is None else words

    def _numbers(self, part: int, place: int) -> np.ndarray:
        """The different numbers of a part's column, in order."""
        values = self._parts[part]["extra"].get()[:, place]
        return np.unique(values[~np.isnan(values)])

    def drop(self) -> None:
        """Free the memory and the disk space of all parts."""
        for part in self._parts:
            for held in part.values():
                held.drop()
        self._parts.clear()


def write_store(
    path: str | Path,
    bars: pd.DataFrame | StoreParts,
    *,
    sessions: pd.DatetimeIndex,
    last_session: int,
    calendar: str,
    freq: str,
    source: dict[str, Any],
    findings: Sequence[Finding],
    key: str = "",
    label: str = "end",
    benchmark: pd.Series | None = None,
) -> BarStore:
    """Write aligned bars as a store at `path` and open it; a store already there is replaced.

    `benchmark` holds the closes of the universe's index by time, under its name. Raises UserError when `path`
    holds something else, or when the bars are not sorted and unique.
    """
    target = Path(path)
    refuse_foreign_folder(target)
    if isinstance(bars, pd.DataFrame):
        parts = StoreParts()
        if len(bars):
            parts.add(bars)
        bars = parts
    names, offsets, runs = bars.in_order()
    small = {"offsets": offsets, "sessions": sessions.as_unit("ns").asi8.astype("<i8")}
    content: dict[str, Any] = {
        "freq": freq,
        "calendar": calendar,
        "label": label,
        "last_session": int(last_session),
        "instruments": names,
        "benchmark": None if benchmark is None else str(benchmark.name),
    }
    further = bars.further()
    if further:
        content["extra"] = [one.as_dict() for one in further]
    if benchmark is not None:
        small["benchmark"] = benchmark.reindex(sessions).to_numpy().astype("<f8")
    index: dict[str, Any] = {
        "format": FORMAT,
        **content,
        "rows": int(offsets[-1]),
        "source": source,
        "key": key,
        "files": {},
    }
    digest = hashlib.sha256(canonical(content))
    with files.atomic_folder(target) as folder:
        for name in LARGE:
            kind, (_, *columns) = ARRAYS[name]
            shape = (index["rows"], *columns)
            _write_array(folder / f"{name}.npy", kind, shape, bars.arrays(name, runs), digest)
        if further:
            shape = (index["rows"], len(further))
            pieces = bars.further_arrays(runs, further)
            _write_array(folder / "extra.npy", FURTHER[0], shape, pieces, digest)
        for name, array in small.items():
            _write_array(folder / f"{name}.npy", array.dtype.str, array.shape, [array], digest)
        bars.drop()
        index["digest"] = digest.hexdigest()
        for name in (*LARGE, *(["extra"] if further else []), *small):
            index["files"][f"{name}.npy"] = describe_file(folder / f"{name}.npy")
        files.write_json(folder / "findings.json", [finding.as_dict() for finding in findings])
        index["files"]["findings.json"] = describe_file(folder / "findings.json")
        index["index_digest"] = files.digest_bytes(canonical(index))
        files.write_json(folder / "index.json", index)
        files.write_text(folder / "data_report.md", report_markdown(open_store(folder, verify=False)))
    return open_store(target, verify=False)


def _write_array(
    path: Path, kind: str, shape: tuple[int | str, ...], pieces: Iterable[np.ndarray], digest: Any
) -> None:
    """Write pieces as one .npy file, and add their bytes to a digest."""
    with path.open("wb") as stream:
        header = {"descr": kind, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for piece in pieces:
            data = np.ascontiguousarray(piece).data.cast("B")
            stream.write(data)
            digest.update(data)


def refuse_foreign_folder(path: str | Path) -> None:
    """Raise UserError where `path` holds anything but a store: writing a store replaces what is there."""
    target = Path(path)
    if target.is_file() or (
        target.is_dir() and not (target / "index.json").is_file() and next(target.iterdir(), None)
    ):
        raise UserError(
            f"{target} exists and is not a bar store: it would be replaced; give another --dataset-path or move it"
        )
