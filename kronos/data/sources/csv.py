"""Bars from CSV or parquet files: one file or a folder of them, one instrument per file or long tables."""

import shlex
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from kronos.data.bars import MARK, Finding, marked
from kronos.data.sources.base import BaseDataProcessor
from kronos.data.sources.csv_clock import Clock, from_zone
from kronos.data.sources.csv_date_order import DateOrders
from kronos.data.sources.csv_file import FileBars
from kronos.data.sources.csv_folder import bar_files, name_files, named_by
from kronos.data.sources.csv_join import join_files
from kronos.data.sources.csv_schema import Said, preview
from kronos.data.sources.csv_units import AGREES, UNITS_SAID, settle_units
from kronos.data.sources.csv_words import ROLES, squeeze
from kronos.data.spool import Held
from kronos.data.store import BarStore
from kronos.utils.digests import file_stats
from kronos.utils.errors import UserError
from kronos.utils.files import given_path

PART = 400_000  # rows yielded at a time: enough to be fast, few enough to keep memory small
AHEAD = 100_000_000  # bytes of files that are read at one time
SHOWN = 3  # files that a note names
DOUBTFUL_AMOUNTS = ("turnover", "value")
LEFT_OUT = "file that cannot be used"


class CsvDataProcessor(BaseDataProcessor):
    """Bars from the files at `data_path`, in the layouts of `csv_layouts` and others whose columns have usual names.

    Columns of adjusted closes or of splits adjust the prices; without them prices stay as they are.
    """

    source = {  # noqa: RUF012
        "survivorship": (
            "These are the files that were given: nothing says whether instruments that left the market are "
            "among them. If they are not, survivorship bias remains, and returns measured on these bars are too "
            "good."
        )
    }

    _looked_at: list[Path]  # the files that were found

    def process_raw_data(self) -> Iterator[pd.DataFrame]:
        """Yield frames of whole instruments. Files that cannot be used are left out, unless they are most of them."""
        config = self.config
        self._clock = Clock(getattr(config, "calendar", "auto"), getattr(config, "freq", "day"))
        self._files: dict[str, int] = {}  # notes, and how many files they are true of
        self._instruments: dict[str, int] = {}  # the same for instruments
        self._layouts: Counter[tuple[Any, ...]] = Counter()
        self._clocks: set[str] = set()
        self._orders: set[str] = set()
        self._found_units: Counter[str] = Counter()
        paths = self._looked_at = self._paths()
        names = name_files(paths)
        named = {path: names.of(path, named_by(path.name, path).instrument) for path in paths}
        paths = sorted(paths, key=lambda path: (named[path], path))
        said = Said.of(config)
        long: list[LongTable] = []
        waiting: list[pd.DataFrame] = []
        group: list[FileBars] = []
        problems: list[UserError] = []
        read, by_name = 0, False
        reader = DateOrders(paths, said)
        for path, found in zip(paths, _in_threads(reader.read, paths), strict=True):
            if isinstance(found, UserError):
                problems.append(found)
                continue
            read += 1
            for bars in found:
                bars.named = names.of(path, bars.named)
                self._report(bars)
                if bars.code is not None:
                    long.append(self._keep_long(bars))
                    continue
                if group and group[0].named != bars.named:
                    waiting.append(self._series(group))
                    group = []
                group.append(bars)
                by_name = True
            if sum(map(len, waiting)) >= PART:
                yield from _joined(waiting)
                waiting = []
        if group:
            waiting.append(self._series(group))
        self._left_out(problems, read)
        yield from _joined(waiting)
        if long:
            yield from self._long(long)
        if by_name:
            self.notes += names.notes
        self.notes += self._clock.notes
        self._say_notes()
        self.understood = {
            "layouts": [
                {
                    "tool": tool or None,
                    "files": count,
                    "form": form,
                    "columns": dict(used),
                    "unused": list(unused),
                }
                for (tool, form, used, unused), count in self._layouts.most_common()
            ],
            "files_left_out": [str(problem) for problem in problems],
            "times": sorted(self._clocks),
            "dates": sorted(self._orders),
            "units": dict(self._found_units),
        }

    def run_pipeline(self, key: str | None = None) -> BarStore:
        """Build the store; an error about files that were found names the command that shows what is understood."""
        self._looked_at = []
        try:
            return super().run_pipeline(key)
        except UserError as error:
            if not self._looked_at:
                raise
            if not self.understood:
                self.understood = {"layouts": preview(self._looked_at[0])}
            given = shlex.quote(str(self.config.data_path))
            raise UserError(
                f"{error}; to see what is understood: python -m kronos data --check {given}"
            ) from None

    def _report(self, bars: FileBars) -> None:
        """Take over what was found in a file; a note on many files is written once, with their number."""
        self.findings += bars.findings
        for note in bars.notes:
            self._files[note] = self._files.get(note, 0) + 1
        self._layouts[
            bars.layout.tool,
            bars.form,
            tuple(
                (role.removeprefix(MARK), bars.used[role].strip())
                for role in (*ROLES, *marked(bars.used))
                if role in bars.used
            ),
            bars.unused,
        ] += 1
        if bars.times.order:
            self._orders.add(f"{bars.times.order.rstrip('?')} first")
        self._clocks.add("with a time zone" if bars.times.utc else "without a time zone")

    def _left_out(self, problems: list[UserError], read: int) -> None:
        """Count the files that could not be used. Raises the first problem where they are most of the files."""
        if not problems:
            return
        if len(problems) > read:
            others = f" ({len(problems)} of {len(problems) + read} files)" if len(problems) + read > 1 else ""
            raise UserError(f"{problems[0]}{others}")
        items = [("*", "*", str(problem)) for problem in problems]
        self.findings.append(Finding(LEFT_OUT, "left out", len(problems), items))

    def _say_notes(self) -> None:
        for counts, what in ((self._files, "files"), (self._instruments, "instruments")):
            for note, count in counts.items():
                self.notes.append(note if count == 1 else f"{note[:-1]} ({count:,} {what}).")

    def _series(self, group: list[FileBars]) -> pd.DataFrame:
        """Make the frame of one instrument, from one file or from files of different days."""
        named = group[0].named
        folders = sorted({one.path.parent.name for one in group})
        if len(folders) > 1:
            shown = ", ".join(folders[:SHOWN]) + (", ..." if len(folders) > SHOWN else "")
            note = f"Files of one name in several folders ({shown}) are one instrument."
            self._instruments[note] = self._instruments.get(note, 0) + 1
        return join_files(
            group, [self._frame(one, np.full(len(one.times.ns), named, dtype=object)) for one in group]
        )

    def fingerprint(self) -> dict[str, Any]:
        """Size and time of change of every file that is read, by its path within `data_path`."""
        paths = self._paths()
        root = given_path(self.config.data_path)
        return {"files": file_stats(root.parent if root.is_file() else root, paths)}

    def _paths(self) -> list[Path]:
        given = self.config.data_path
        if given is None:
            raise UserError("data_source=csv needs --data-path: a CSV or parquet file, or a folder of them")
        return bar_files(given, self.symbols_wanted())

    def _keep_long(self, bars: FileBars) -> "LongTable":
        """Put the rows of a table of several instruments in the order of its instruments, and hold them."""
        labels, place = np.unique(np.array(bars.instruments, dtype=object), return_inverse=True)
        bars.code = place[bars.code]  # two texts may name one instrument
        if (np.diff(bars.code) < 0).any():
            bars.keep(np.argsort(bars.code, kind="stable"))
        ends = np.cumsum(np.bincount(bars.code, minlength=len(labels))).tolist()
        spans = dict(zip(labels.tolist(), zip([0, *ends], ends, strict=False), strict=True))
        names = pd.Categorical.from_codes(bars.code, pd.Index(labels))
        return LongTable(bars.path.name, list(bars.columns), spans, self.spool.put(self._frame(bars, names)))

    def _long(self, tables: list["LongTable"]) -> Iterator[pd.DataFrame]:
        """Yield tables of several instruments as frames of some whole instruments each."""
        evidence = [{"adj_close", "factor"} & set(one.columns) for one in tables]
        for one, columns in zip(tables, evidence, strict=True):
            if columns != evidence[0]:
                raise UserError(
                    f"{tables[0].name} has columns {', '.join(tables[0].columns)}, {one.name} has "
                    f"{', '.join(one.columns)}: long tables that belong together need the same ones of adjustment"
                )
        size: Counter[str] = Counter()
        for one in tables:
            size.update({name: end - begin for name, (begin, end) in one.spans.items()})
        part = max(PART, size.total() // 500)  # each part reads of every table
        waiting: list[str] = []
        for name in sorted(+size):  # without those that have no row
            waiting.append(name)
            if sum(size[one] for one in waiting) >= part:
                yield _gathered(tables, waiting)
                waiting = []
        if waiting:
            yield _gathered(tables, waiting)

    def _frame(self, bars: FileBars, instrument: np.ndarray | pd.Categorical) -> pd.DataFrame:
        """Make a frame with local times and with volume and amount in shares and currency."""
        columns = dict(bars.columns)
        if "adj_close" in columns:
            columns.pop("factor", None)
        elif "factor" in columns and getattr(self.config, "adjust", "auto") != "factor":
            del columns["factor"]
            note = (
                "Column factor is not used, since nothing says whether prices hold it already: with "
                "adjust=factor they are multiplied by it."
            )
            if note not in self.notes:
                self.notes.append(note)
        local = self._local(bars)
        if "amount" in columns:
            self._units(columns, bars, local)
        times = pd.Series(local.view("datetime64[ns]"))
        return pd.DataFrame({"instrument": instrument, "datetime": times, **columns}, copy=False)

    def _local(self, bars: FileBars) -> np.ndarray:
        """Return the times of a file on the clock of the exchange, int64 ns."""
        ns, utc, offset = bars.times[:3]
        zone = getattr(self.config, "time_zone", None)
        try:
            if not utc and zone:
                ns, utc, offset = from_zone(ns, zone), True, None
            elif not utc and not bars.layout.utc:
                utc = self._clock.is_utc(ns)
            if utc and not (bars.layout.utc and self._clock.calendar == "auto"):
                ns = self._clock.local(ns, offset)
        except UserError as error:
            raise UserError(f"{bars.path}: {error}") from None
        return ns

    def _units(self, columns: dict[str, np.ndarray], bars: FileBars, times: np.ndarray) -> None:
        doubtful = squeeze(bars.amount_name) in DOUBTFUL_AMOUNTS
        found = settle_units(columns, bars.code, times, doubtful, bars.layout.units)
        self._found_units.update(found)
        for text, count in found.items():
            if text != AGREES:
                shown = f"{text[:1].upper()}{text[1:]}, as amount / (volume x price) shows"
                note = UNITS_SAID.get(text, f"{shown}: converted to shares and currency.")
                self._instruments[note] = self._instruments.get(note, 0) + count


class LongTable(NamedTuple):
    """A table of several instruments: `spans` holds the rows (begin, end) of each."""

    name: str
    columns: list[str]  # of the file, by their meanings
    spans: dict[str, tuple[int, int]]
    bars: Held


def _gathered(tables: list[LongTable], names: list[str]) -> pd.DataFrame:
    """Join the bars of some instruments from all tables."""
    frames = []
    for one in tables:
        runs: list[list[int]] = []
        for begin, end in sorted(one.spans[name] for name in names if name in one.spans):
            if runs and runs[-1][1] == begin:
                runs[-1][1] = end
            else:
                runs.append([begin, end])
        frames += [one.bars.get(begin, end) for begin, end in runs if begin < end]
    for frame in frames:
        frame["instrument"] = frame["instrument"].astype(object)
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _joined(frames: list[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Join frames of equal columns: joined with others they would have holes that look like missing values."""
    alike: dict[str, list[pd.DataFrame]] = {}
    for frame in frames:
        alike.setdefault(",".join(frame.columns), []).append(frame)
    for same in alike.values():
        yield pd.concat(same, ignore_index=True)


def _in_threads(read: Callable[[Path], Any], paths: list[Path]) -> Iterator[Any]:
    """Map in a few threads, at most 16 files and AHEAD bytes ahead, so that few are in memory at once.

    A file that cannot be used gives its UserError.
    """

    def tried(path: Path) -> Any:
        try:
            return read(path)
        except UserError as error:
            return error
        except (pa.ArrowException, OSError) as error:
            return UserError(f"{path} cannot be read: {str(error).splitlines()[0]}")

    if len(paths) == 1:
        yield tried(paths[0])
        return
    left = deque(paths)
    ahead: deque[tuple[int, Future[Any]]] = deque()
    with ThreadPoolExecutor(4) as pool:
        while left or ahead:
            while left and len(ahead) < 16:
                size = left[0].stat().st_size
                if ahead and size + sum(bytes_ for bytes_, _ in ahead) > AHEAD:
                    break
                ahead.append((size, pool.submit(tried, left.popleft())))
            yield ahead.popleft()[1].result()
