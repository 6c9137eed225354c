"""Bars from a Qlib data folder, read without Qlib: calendars, universes and features are plain files.

`calendars/FREQ.txt` lists the sessions; `instruments/NAME.txt` has a line (symbol, first day, last day) for each
span of membership; `features/SYMBOL/FIELD.FREQ.bin` is little-endian float32: the place of the first value in the
calendar, then one value per session, NaN for none.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import MARK, MAX_ITEMS, PRICES, Finding, Flag
from kronos.data.extra_columns import refuse_missing
from kronos.data.sources.base import BaseDataProcessor, days_asked, days_text
from kronos.data.sources.membership import Spans, membership, read_universe, text_lines
from kronos.utils.digests import file_stats
from kronos.utils.errors import UserError
from kronos.utils.files import given_path
from kronos.utils.names import RESERVED, file_name, name_of

INDICES = {  # by universe
    "csi300": "SH000300", "csi500": "SH000905", "csi800": "SH000906", "csi1000": "SH000852",
}  # fmt: skip
INDEX = re.compile(r"(?i)^(sh000|sz399)\d{3}$")  # the codes that Shanghai and Shenzhen give to indices
FIELDS = (*PRICES, "volume", "amount", "vwap")
COMMUNITY = "github.com/chenditc/investment_data/releases"
OLD = pd.Timedelta(days=366)  # since the last bar: a store that nobody tops up
PART = 400_000  # rows yielded at a time


class QlibDataProcessor(BaseDataProcessor):
    """Bars of every instrument that was a member of the universe in the configured days, with its full history.

    Prices are adjusted already, as Qlib holds them. Days outside an instrument's membership are marked NONMEMBER:
    they may be context, but are not forecast, scored or traded. The universe `all` of a folder also lists indices,
    which nobody can buy: they are left out unless `symbols` names them.
    """

    usual_freq = "day"

    def process_raw_data(self) -> Iterator[pd.DataFrame]:
        config = self.config
        store = QlibStore(config.qlib_data_path, self.freq, self.wanted.names)
        if pd.Timestamp.now() - store.calendar[-1] > OLD:
            self.notes.append(f"{ended(store)}.")
        wanted, indices = self._members(store)
        for name in self.wanted.names:
            if not any(store.field_file(member, name).is_file() for member in wanted):
                refuse_missing(
                    name, self.wanted, store.fields(next(iter(wanted))), f"{store.root}/features has"
                )
        if indices:
            items = [
                (name, "*", "an index, not an instrument that is traded") for name in indices[:MAX_ITEMS]
            ]
            self.findings.append(Finding("index in the universe", "left out", len(indices), items))
        self.about = {
            "universe": (
                f"{config.instrument}: {len(wanted)} instruments that were members at some time, each scored only on "
                "its days of membership"
            ),
            "survivorship": (
                f"Membership is point in time, as {store.root.name}/instruments/{config.instrument}.txt states it: "
                "the bars are free of survivorship bias as far as that file and the folder are complete."
            ),
        }
        absent = []
        waiting: list[pd.DataFrame] = []
        read = partial(_read_member, store)
        with ThreadPoolExecutor(4) as pool:
            for name, frame in zip(wanted, pool.map(read, wanted.items()), strict=True):
                if frame is None:
                    absent.append((name, "*", "no folder or no price file under features/"))
                    continue
                waiting.append(frame)
                if sum(map(len, waiting)) >= PART:
                    yield pd.concat(waiting, ignore_index=True)
                    waiting = []
        if waiting:
            yield pd.concat(waiting, ignore_index=True)
        if absent:
            self.findings.append(Finding("member without bars in the store", "left out", len(absent), absent))
        if len(absent) == len(wanted):
            raise UserError(
                f"{store.root}/features has no {self.freq} bars for any of the {len(wanted)} members of "
                f"{config.instrument}: check --qlib-data-path and --freq"
            )

    def _members(self, store: "QlibStore") -> tuple[dict[str, Spans], list[str]]:
        """Return the members of the universe in the configured days with their spans, and the indices left out."""
        config = self.config
        begin, end = days_asked(config)
        wanted = {
            name: spans
            for name, spans in store.universe(config.instrument).items()
            if any(first <= end + pd.Timedelta(days=1) and last >= begin for first, last in spans)
        }
        symbols, indices = self.symbols_wanted(), []
        if symbols is not None:
            wanted = {name: spans for name, spans in wanted.items() if name_of(name) in symbols}
        elif config.instrument.lower() == "all":
            indices = [name for name in wanted if INDEX.match(name)]
            wanted = {name: spans for name, spans in wanted.items() if name not in indices}
        if not wanted:
            raise UserError(
                f"universe {config.instrument} of {store.root} has no member in {days_text(config)}"
                + (f" among the symbols {', '.join(symbols)}" if symbols is not None else "")
                + (f"; {ended(store)}" if begin > store.calendar[-1] else "")
            )
        return wanted, indices

    def _index(self) -> str | None:
        return INDICES.get(self.config.instrument.lower())

    def benchmark(self) -> pd.Series | None:
        """Return the closes of the universe's own index, where there is one and the store has it."""
        index = self._index()
        return None if index is None else closes(self.config.qlib_data_path, index, self.freq)

    def fingerprint(self) -> dict[str, Any]:
        """Size and time of change of every file that is read: calendar, universe, members' fields, index."""
        store = QlibStore(self.config.qlib_data_path, self.freq)
        fields = (*FIELDS, *self.wanted.names)
        paths = [store.calendar_file, store.universe_file(self.config.instrument)]
        paths += [store.field_file(name, field) for name in self._members(store)[0] for field in fields]
        if (index := self._index()) is not None:
            paths.append(store.field_file(index, "close"))
        return {"files": file_stats(store.root, paths)}


class QlibStore:
    """A Qlib data folder. Raises UserError where the folder is not one, or lacks the frequency."""

    def __init__(self, path: str | Path, freq: str, further: tuple[str, ...] = ()) -> None:
        self.root, self.freq, self.further = given_path(path), freq, further
        self.calendar_file = file = self.root / "calendars" / f"{freq}.txt"
        if not file.is_file():
            has = sorted(one.stem for one in file.parent.glob("*.txt") if not one.stem.endswith("_future"))
            what = f"it has {', '.join(has)}" if has else "download and unpack the bars there"
            raise UserError(
                f"{self.root} is not a Qlib store of {freq} bars (calendars/{freq}.txt is missing): {what}, or give "
                "--qlib-data-path"
            )
        lines = text_lines(file)
        try:
            self.calendar = pd.DatetimeIndex(pd.to_datetime(lines, format="ISO8601")).as_unit("ns")
        except ValueError as error:
            raise UserError(f"{file} has a line that is not a time: {str(error).splitlines()[0]}") from None
        if not len(lines) or not self.calendar.is_monotonic_increasing or not self.calendar.is_unique:
            raise UserError(
                f"{file} is empty or not in order: times were expected, one per line, each later than the one before"
            )

    def universe_file(self, name: str) -> Path:
        """Return the file of a universe. Raises UserError with the existing ones where there is none."""
        file = self.root / "instruments" / f"{name.lower()}.txt"
        if not file.is_file():
            has = sorted(one.stem for one in file.parent.glob("*.txt"))
            raise UserError(
                f"{self.root} has no universe {name!r}: it has {', '.join(has) or 'none'}; give one as --instrument"
            )
        return file

    def universe(self, name: str) -> dict[str, Spans]:
        """Return {symbol: its (first, last) days of membership}, last day included, sorted by symbol."""
        return read_universe(self.universe_file(name))

    def least_bars(self, universe: str, begin: Any, end: Any) -> int:
        """A low estimate of the bars of a universe's members of begin..end, from the sizes of their files."""
        first = pd.Timestamp(begin) if begin else self.calendar[0]
        last = pd.Timestamp(end) + pd.Timedelta(days=1) if end else self.calendar[-1]
        inside = int(self.calendar.searchsorted(last) - self.calendar.searchsorted(first))
        outside = len(self.calendar) - inside
        files = [
            self.field_file(name, "close")
            for name, spans in self.universe(universe).items()
            if any(start <= last and stop >= first for start, stop in spans)
        ]
        return sum(max(0, file.stat().st_size // 4 - 1 - outside) for file in files if file.is_file())

    def field_file(self, instrument: str, field: str) -> Path:
        """Return the path of the file that holds a field of an instrument, whether or not it exists."""
        return self.root / "features" / folder_name(instrument) / f"{field}.{self.freq}.bin"

    def fields(self, instrument: str) -> list[str]:
        """Return the names of the fields of an instrument, sorted."""
        ending = f".{self.freq}.bin"
        found = self.field_file(instrument, "close").parent.glob(f"*{ending}")
        return sorted(file.name.removesuffix(ending) for file in found)

    def field(self, instrument: str, field: str) -> np.ndarray | None:
        """Read a field over the whole calendar, float32, NaN where there is no value; None without a file."""
        file = self.field_file(instrument, field)
        if not file.is_file():
            return None
        data = np.fromfile(file, "<f4")
        begin = data[0] if len(data) else np.nan
        if file.stat().st_size % 4 or not np.isfinite(begin) or begin < 0 or begin != int(begin):
            raise UserError(
                f"{file} is damaged: {file.stat().st_size} bytes, the place in the calendar and then float32 values "
                "were expected"
            )
        if int(begin) + len(data) - 1 > len(self.calendar):
            raise UserError(
                f"{file} is damaged: its values end at session {int(begin) + len(data) - 1}, the calendar has "
                f"{len(self.calendar)}"
            )
        values = np.full(len(self.calendar), np.nan, np.float32)
        values[int(begin) : int(begin) + len(data) - 1] = data[1:]
        return values

    def frame(self, instrument: str) -> pd.DataFrame | None:
        """Return the bars of an instrument that have any price (float64); None without price files.

        Fields of `further` are columns too, NaN where the instrument has none.
        """
        fields = {name: values for name in FIELDS if (values := self.field(instrument, name)) is not None}
        if not any(name in fields for name in PRICES):
            return None
        lacking = [name for name in PRICES if name not in fields]
        if lacking:
            raise UserError(
                f"{self.root}/features/{folder_name(instrument)} lacks {', '.join(lacking)} for {self.freq}"
            )
        quoted = np.isfinite(np.stack([fields[name] for name in PRICES])).any(0)
        data = {name: values[quoted].astype(np.float64) for name, values in fields.items()}
        for name in self.further:
            values = self.field(instrument, name)
            data[MARK + name] = np.full(len(quoted), np.nan) if values is None else values.astype(np.float64)
            data[MARK + name] = data[MARK + name][quoted]
        return pd.DataFrame({"instrument": instrument, "datetime": self.calendar[quoted], **data})


def ended(store: QlibStore) -> str:
    """Say when a store ends and where later bars are."""
    return (
        f"{store.root} ends on {store.calendar[-1]:%Y-%m-%d} (Qlib's own download does in September 2020): later "
        f"bars are in a community release of a Qlib store ({COMMUNITY}, qlib_bin.tar.gz), to unpack in its place, or "
        "in a source of today, such as --data-source akshare --instrument csi300, which  python -m kronos to_qlib "
        "FOLDER  writes in Qlib's own format"
    )


def closes(path: str | Path, instrument: str, freq: str = "day") -> pd.Series | None:
    """Return the closes of an instrument, such as an index, by time and named by it; None where it has none."""
    store = QlibStore(path, freq)
    values = store.field(instrument, "close")
    if values is None:
        return None
    series = pd.Series(values.astype(np.float64), index=store.calendar, name=instrument)
    return series.dropna().rename_axis("datetime")


def folder_name(instrument: str) -> str:
    """Return the folder of a symbol as Qlib names it: lower case, with a prefix where systems reserve the name.

    A symbol that is no name of a single folder gets that of its `file_name`.
    """
    if set(instrument) & set("/\\\0") or instrument in ("", ".", ".."):
        return file_name(instrument).lower()
    return f"_qlib_{instrument}".lower() if instrument.lower() in RESERVED else instrument.lower()


def _read_member(store: QlibStore, member: tuple[str, Spans]) -> pd.DataFrame | None:
    name, spans = member
    frame = store.frame(name)
    if frame is None or frame.empty:
        return None
    if "amount" not in frame and "vwap" in frame:
        frame["amount"] = frame["vwap"] * frame["volume"]
    inside = membership(pd.DatetimeIndex(frame["datetime"]), spans)
    frame["flag"] = np.where(inside, np.uint8(0), np.uint8(Flag.NONMEMBER))
    frame["instrument"] = name_of(name)  # folders of `write_qlib_store` have names such as BTC~2FUSDT
    return frame.drop(columns="vwap", errors="ignore")
