"""Bars from CSV or parquet files: one file or a folder of them, one instrument per file or long tables."""

import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from kronos.data import calendars
from kronos.data.bars import FEATURES, PRICES, SPELLINGS
from kronos.data.sources.base import BaseDataProcessor, file_stats
from kronos.utils.csv_files import GUARDED_TEXT
from kronos.utils.errors import UserError
from kronos.utils.names import name_of

SUFFIXES = (".csv", ".csv.gz", ".txt", ".parquet", ".pq")
PART = 400_000  # rows yielded at a time: enough to be fast, few enough to keep memory small
EPOCHS: Any = (  # numbers as times, by their size: since 1970, in UTC
    (1e8, 1e11, "s"), (1e11, 1e14, "ms"), (1e14, 1e17, "us"), (1e17, 1e19, "ns"),
)  # fmt: skip
SLASHED = re.compile(r"^\s*(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})")


class CsvDataProcessor(BaseDataProcessor):
    """Bars from `data_path`; its columns are found by `bars.SPELLINGS`.

    Columns of adjusted closes or of splits adjust the prices; without them prices stay as they are.
    """

    source = {  # noqa: RUF012
        "survivorship": (
            "These are the files that were given: nothing says whether instruments that left the market are "
            "among them. If they are not, survivorship bias remains, and returns measured on these bars are too "
            "good."
        )
    }

    def process_raw_data(self) -> Iterator[pd.DataFrame]:
        paths = self._paths()
        tables = _in_threads(self._table, paths)
        whole: list[tuple[Path, pa.Table]] = []
        waiting: list[pd.DataFrame] = []
        files: dict[str, Path] = {}
        for path, table in zip(paths, tables, strict=True):
            if "instrument" in table.column_names:
                whole.append((path, table))
                continue
            name = name_of(path.name.removesuffix(".gz").rsplit(".", 1)[0])
            if name in files:
                raise UserError(
                    f"{name} comes from two files, {files[name].name} and {path.name}: remove one, or name "
                    "the instrument in a column"
                )
            files[name] = path
            frame = self._frame(table, path)
            frame.insert(0, "instrument", name)
            waiting.append(frame)
            if sum(map(len, waiting)) >= PART:
                yield pd.concat(waiting, ignore_index=True)
                waiting = []
        if waiting:
            yield pd.concat(waiting, ignore_index=True)
        if whole:
            yield from self._long(whole)

    def fingerprint(self) -> dict[str, Any]:
        """Size and time of change of every file that is read, by its path within `data_path`."""
        paths = self._paths()
        root = Path(self.config.data_path).expanduser()
        return {"files": file_stats(root.parent if root.is_file() else root, paths)}

    def _paths(self) -> list[Path]:
        given = self.config.data_path
        if given is None:
            raise UserError("data_source=csv needs --data-path: a CSV or parquet file, or a folder of them")
        root = Path(given).expanduser()
        if root.is_file():
            return [root]
        if not root.is_dir():
            raise UserError(
                f"data_path {given} does not exist: give a CSV or parquet file, or a folder of them"
            )
        found = sorted(path for path in root.iterdir() if path.name.lower().endswith(SUFFIXES))
        if not found:
            raise UserError(f"data_path {given} has no file that ends in {', '.join(SUFFIXES)}")
        symbols = getattr(self.config, "symbols", None)
        own = [path for path in found if path.name.split(".")[0] in (symbols or ())]
        return own if own and len(own) == len(symbols or ()) else found

    def _table(self, path: Path) -> pa.Table:
        """Read a file with its columns under this project's names."""
        try:
            if path.suffix.lower() in (".parquet", ".pq"):
                with pa.parquet.ParquetFile(path) as opened:
                    names = _columns(opened.schema_arrow.names, path)
                    text = [old for new, old in names.items() if new == "instrument"]
                table = pa.parquet.read_table(path, columns=list(names.values()), read_dictionary=text)
            else:
                table, names = _read_csv(path)
        except (pa.ArrowInvalid, OSError) as error:
            problem = str(error).splitlines()[0]
            raise UserError(f"{path} cannot be read: {problem}") from None
        if table.num_rows == 0:
            raise UserError(f"{path} has a header and no bars: remove the file or fill it")
        return table.select(list(names.values())).rename_columns(list(names))

    def _long(self, tables: list[tuple[Path, pa.Table]]) -> Iterator[pd.DataFrame]:
        """Yield long tables as frames of some instruments each."""
        path = tables[0][0]
        names = tables[0][1].column_names
        for other, table in tables:
            if sorted(table.column_names) != sorted(names):
                raise UserError(
                    f"{path.name} has columns {', '.join(names)}, {other.name} has "
                    f"{', '.join(table.column_names)}: long tables that belong together need the same ones"
                )
        table = pa.concat_tables([one.select(names) for _, one in tables], promote_options="permissive")
        tables.clear()
        column = table["instrument"]
        if pa.types.is_dictionary(column.type):
            column = column.unify_dictionaries() if hasattr(column, "unify_dictionaries") else column
        else:
            column = column.cast(pa.string()).dictionary_encode()
        joined = column.combine_chunks()
        if isinstance(joined, pa.ChunkedArray):
            joined = joined.chunk(0)
        if joined.null_count:
            raise UserError(
                f"{path}: column instrument is empty in {joined.null_count} of {len(joined)} bars"
            )
        code = joined.indices.to_numpy(zero_copy_only=False)
        labels = [str(name) for name in joined.dictionary.to_pylist()]
        table = table.drop_columns(["instrument"])
        size = np.bincount(code, minlength=len(labels))
        group = np.zeros(len(labels), np.int64)
        order = np.argsort(labels, kind="stable")
        group[order] = (np.cumsum(size[order]) - size[order]) // PART
        contiguous = (np.diff(code) != 0).sum() + 1 == (size > 0).sum()
        part = group[code]
        if contiguous and (np.diff(part) >= 0).all():
            rows: Any = None
        else:
            rows = np.argsort(part, kind="stable")
        begins = np.searchsorted(part if rows is None else part[rows], np.arange(int(group.max()) + 2))
        del part
        for begin, end in itertools.pairwise(begins.tolist()):
            if begin == end:
                continue
            taken = slice(begin, end) if rows is None else rows[begin:end]
            piece = table.slice(begin, end - begin) if rows is None else table.take(pa.array(taken))
            frame = self._frame(piece, path)
            frame.insert(0, "instrument", np.array(labels, dtype=object)[code[taken]])
            yield frame

    def _frame(self, table: pa.Table, path: Path) -> pd.DataFrame:
        """Convert columns to numbers and times; a factor is left out where nothing says how to use it."""
        columns: dict[str, Any] = {"datetime": self._times(table["datetime"], path)}
        for name in table.column_names:
            if name not in ("datetime", "instrument"):
                columns[name] = _numbers(table[name], name, path)
        frame = pd.DataFrame(columns)
        if "adj_close" in frame:
            frame = frame.drop(columns="factor", errors="ignore")
        elif "factor" in frame and getattr(self.config, "adjust", "auto") != "factor":
            del frame["factor"]
            note = (
                "Column factor is not used, since nothing says whether prices hold it already: with "
                "adjust=factor they are multiplied by it."
            )
            if note not in self.notes:
                self.notes.append(note)
        return frame

    def _times(self, column: pa.ChunkedArray, path: Path) -> pd.Series:
        """Convert times to the exchange's local time, from their time zone or from epoch numbers (UTC)."""
        if pa.types.is_null(column.type):
            raise UserError(f"{path}: column of times is empty")
        series = column.to_pandas()
        if pa.types.is_date(column.type):
            series = pd.to_datetime(series)
        elif pd.api.types.is_numeric_dtype(series):
            series = _from_numbers(series, path)
        elif not pd.api.types.is_datetime64_any_dtype(series):
            series = _from_text(series, path)
        if bool(series.isna().any()):
            raise UserError(f"{path}: the time is empty in {int(series.isna().sum())} of {len(series)} rows")
        if series.dt.tz is not None:
            series = series.dt.tz_convert(self._clock(path)).dt.tz_localize(None)
        return series.astype("datetime64[ns]")

    def _clock(self, path: Path) -> Any:
        name = getattr(self.config, "calendar", "auto")
        if name == "auto":
            raise UserError(
                f"{path}: the times have a time zone, and calendar=auto does not tell the exchange's: give "
                f"--calendar, one of {', '.join(calendars.NAMES)}"
            )
        return calendars.timezone(name)


def _in_threads(read: Any, paths: list[Path]) -> Iterator[Any]:
    """Map in a few threads, at most 16 files ahead, so that thousands of files are not in memory at once."""
    if len(paths) == 1:
        yield read(paths[0])
        return
    with ThreadPoolExecutor(4) as pool:
        ahead = [pool.submit(read, path) for path in paths[:16]]
        for place in range(len(paths)):
            result = ahead.pop(0).result()
            if place + 16 < len(paths):
                ahead.append(pool.submit(read, paths[place + 16]))
            yield result


def _columns(given: list[str], path: Path) -> dict[str, str]:
    """Map our column names to the file's, for known columns. Raises UserError for missing and repeated ones."""
    clean = [name.strip().lower().lstrip("\ufeff") for name in given]
    found: dict[str, str] = {}
    for ours, spellings in SPELLINGS.items():
        places = [place for place, name in enumerate(clean) if name in spellings]
        places.sort(key=lambda place: spellings.index(clean[place]))
        if places and clean.count(clean[places[0]]) > 1:
            raise UserError(f"{path}: column {given[places[0]]} is there twice: rename or remove one")
        if places:
            found[ours] = given[places[0]]
    missing = [name for name in ("datetime", *PRICES) if name not in found]
    if missing:
        raise UserError(
            f"{path} has no column for {', '.join(missing)}: its columns are {', '.join(given) or 'none'}; rename "
            f"them to datetime, {', '.join(FEATURES)} (and instrument)"
        )
    return found


def _read_csv(path: Path) -> tuple[pa.Table, dict[str, str]]:
    """Read a CSV file; codes and times stay text, so that no leading zero is lost and no date is guessed."""
    with pa.input_stream(str(path)) as stream:  # decompresses by suffix
        data = stream.read()
    if not data.strip():
        raise UserError(f"{path} is empty: remove the file or fill it")
    if b"\x00" in data[:4096]:
        raise UserError(
            f"{path} is not text (it has zero bytes, as UTF-16 and spreadsheets do): save it as UTF-8 CSV"
        )
    encoding = "utf8"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        try:
            data = data.decode("gb18030").encode("utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"{path} is neither UTF-8 nor GB18030 text (byte {error.start}): save it as UTF-8"
            ) from None
    header = data.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode("utf-8").strip("\r")
    delimiter = max(",;\t", key=header.count)
    given = [name.strip().strip('"') for name in header.split(delimiter)]
    names = _columns(given, path)
    kinds = {names[name]: pa.string() for name in ("instrument", "datetime") if name in names}
    table = pa.csv.read_csv(
        pa.BufferReader(data),
        read_options=pa.csv.ReadOptions(encoding=encoding, column_names=given, skip_rows=1),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter),
        convert_options=pa.csv.ConvertOptions(
            column_types=kinds, include_columns=list(names.values()), strings_can_be_null=True
        ),
    )
    if "instrument" in names:
        place = table.column_names.index(names["instrument"])
        plain = pa.compute.replace_substring_regex(table.column(place), GUARDED_TEXT, r"\1")
        table = table.set_column(place, names["instrument"], plain)
    return table, names


def _numbers(column: pa.ChunkedArray, name: str, path: Path) -> np.ndarray:
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.float64()).to_numpy()
    if pa.types.is_decimal(column.type):
        return column.cast(pa.float64(), safe=False).to_numpy()
    series = column.to_pandas()
    numbers = pd.to_numeric(series, errors="coerce")
    bad = np.flatnonzero(numbers.isna().to_numpy() & series.notna().to_numpy())
    if len(bad) or not pd.api.types.is_numeric_dtype(numbers) or pd.api.types.is_bool_dtype(series):
        place = int(bad[0]) if len(bad) else 0
        raise UserError(
            f"{path}: column {name} has {str(series.iloc[place])!r} in row {place + 2}, a number was expected "
            f"({max(len(bad), 1)} such values)"
        )
    return numbers.to_numpy(dtype=np.float64)


def _from_numbers(series: pd.Series, path: Path) -> pd.Series:
    """Convert numbers to times: days like 20240618, or seconds to nanoseconds since 1970, told by their size."""
    values = series.to_numpy(dtype=np.float64)
    if np.isnan(values).any():
        raise UserError(f"{path}: the time is empty in {int(np.isnan(values).sum())} of {len(values)} rows")
    if ((values >= 19000101) & (values <= 22001231)).all():
        return _from_text(series.astype("int64").astype(str), path)
    for least, most, unit in EPOCHS:
        if ((values >= least) & (values < most)).all():
            return pd.to_datetime(series, unit=unit, utc=True)
    raise UserError(
        f"{path}: the time is the number {values[0]:g}: days like 20240618, seconds or milliseconds since "
        "1970, or text like 2024-06-18 09:35 were expected"
    )


def _from_text(series: pd.Series, path: Path) -> pd.Series:
    """Parse times of one format; a date that can be read two ways is refused."""
    text = series.fillna("").str.strip()
    empty = (text == "").to_numpy()
    if empty.any():
        raise UserError(f"{path}: the time is empty in {int(empty.sum())} of {len(text)} rows")
    if re.fullmatch(r"\d{8}", text.iloc[0]):
        kind: Any = {"format": "%Y%m%d"}
    elif re.fullmatch(r"\d{9,19}", text.iloc[0]):
        return _from_numbers(pd.to_numeric(text, errors="coerce"), path)
    elif SLASHED.match(text.iloc[0]):
        parts = text.str.extract(SLASHED).astype("float64")
        first, second = (int(parts[column].max()) if parts[column].notna().any() else 0 for column in (0, 1))
        if first <= 12 and second <= 12:
            raise UserError(
                f"{path}: the date {text.iloc[0]} can be read two ways (day or month first) and no row tells: "
                "write dates as 2024-06-18"
            )
        kind = {"dayfirst": first > 12}
    else:
        kind = {}
    try:
        return pd.to_datetime(text, **kind)
    except (ValueError, TypeError) as error:
        found = pd.to_datetime(text, errors="coerce", **kind)
        bad = np.flatnonzero(found.isna().to_numpy())
        if not len(bad):
            raise UserError(f"{path}: times cannot be read: {str(error).splitlines()[0]}") from None
        place = int(bad[0])
        raise UserError(
            f"{path}: {text.iloc[place]!r} in row {place + 2} is not a time like {text.iloc[0]!r} "
            f"({len(bad)} such rows)"
        ) from None
