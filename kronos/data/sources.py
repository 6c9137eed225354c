"""Where bars come from: a processor reads one source and builds the store; a factory finds it by name."""

import json
from typing import Any, ClassVar

import pandas as pd

from kronos import files
from kronos.data import sample
from kronos.data.adjust import adjust_splits
from kronos.data.bars import Finding, align, clean, to_frame
from kronos.data.describe import hole_findings
from kronos.data.store import FORMAT, BarStore, store_sessions, write_store
from kronos.errors import NotAvailable, UserError

RULES = (
    1  # raise it when cleaning, adjusting or aligning changes what is stored: old stores are then not current
)


class BaseDataProcessor:
    """Builds a store from one source: subclass it, get the bars in the two methods, register the class.

    `config` needs `data_source`, `dataset_begin_time`, `dataset_end_time`, `dataset_path` and `freq`.
    """

    calendar: ClassVar[str] = "XSHG"  # exchange whose sessions the bars are on: XSHG, XHKG, XNYS, 24/7, ...
    unadjusted: ClassVar[bool] = False  # True: splits are searched in the prices and adjusted
    source: ClassVar[dict[str, Any]] = {}  # name, universe, survivorship, notes for the report

    def __init__(self, config: Any) -> None:
        self.config = config
        self.findings: list[Finding] = []  # a source may add what it met while reading

    def download_data(self) -> None:
        """Fetch what `process_raw_data` reads; nothing by default."""

    def process_raw_data(self) -> pd.DataFrame:
        """Return the bars: instrument, datetime, open, high, low, close, volume (or vol) and perhaps amount (amt).

        Order, repeats and impossible bars are seen to afterwards, and so are days outside the configured range.
        """
        raise UserError(f"{type(self).__name__} needs process_raw_data(): return the bars as a DataFrame")

    def fingerprint(self) -> dict[str, Any]:
        """What the bars depend on besides the configuration (a package's version, a file's size); part of `key`."""
        return {}

    def key(self) -> str:
        """A digest of everything that decides what the store holds: equal keys, equal stores."""
        config = self.config
        parts = {
            "format": FORMAT,
            "rules": RULES,
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "fingerprint": self.fingerprint(),
            "calendar": self.calendar,
            "freq": config.freq,
            "begin": str(config.dataset_begin_time),
            "end": str(config.dataset_end_time),
        }
        return files.digest_bytes(json.dumps(parts, sort_keys=True).encode())

    def run_pipeline(self, key: str | None = None) -> BarStore:
        """Read, clean, adjust, align and store the bars at `config.dataset_path`; return the open store.

        `key` is kept in the store (`store.key`); without one it is `self.key()`.
        """
        self.findings = []
        self.download_data()
        frame, found = clean(self._within_range(to_frame(self.process_raw_data())))
        begin, end = self.config.dataset_begin_time, self.config.dataset_end_time
        findings = [part for one in self.findings if (part := one.within(begin, end)).count] + found
        if frame.empty:
            raise UserError(f"data_source={self.config.data_source} has no usable bar in {begin}..{end}")
        sessions = store_sessions(self.calendar, frame["datetime"].min(), frame["datetime"].max())
        if self.unadjusted:
            frame, found = adjust_splits(frame, sessions)
            findings += found
        aligned = align(frame, sessions)
        last_session = int(aligned["session"].max())
        findings += hole_findings(aligned, sessions)
        return write_store(
            self.config.dataset_path,
            aligned,
            sessions=sessions,
            last_session=last_session,
            calendar=self.calendar,
            freq=self.config.freq,
            source={"name": self.config.data_source, **self.source},
            findings=findings,
            key=self.key() if key is None else key,
        )

    def _within_range(self, frame: pd.DataFrame) -> pd.DataFrame:
        begin, end = self.config.dataset_begin_time, self.config.dataset_end_time
        days = frame["datetime"].dt.normalize()
        inside = frame[(days >= pd.Timestamp(begin)) & (days <= pd.Timestamp(end))].reset_index(drop=True)
        if inside.empty:
            has = (
                f"it has {days.min():%Y-%m-%d}..{days.max():%Y-%m-%d}"
                if len(frame)
                else "it has no bar at all"
            )
            raise UserError(
                f"data_source={self.config.data_source} has no bar in {begin}..{end} (dataset_begin_time.."
                f"dataset_end_time): {has}"
            )
        return inside


class SampleDataProcessor(BaseDataProcessor):
    """A year of S&P 500 members from an installed package (see `kronos.data.sample`)."""

    calendar = sample.CALENDAR
    unadjusted = True
    source = sample.SOURCE

    def process_raw_data(self) -> pd.DataFrame:
        raw, found = sample.read()
        self.findings += found
        return raw

    def fingerprint(self) -> dict[str, Any]:
        return sample.fingerprint()


class DataProcessorFactory:
    """Finds the processor of a `data_source`; `register` adds one of your own."""

    _classes: ClassVar[dict[str, type[BaseDataProcessor]]] = {"sample": SampleDataProcessor}
    _later: ClassVar[tuple[str, ...]] = ("qlib", "sina", "csv")

    @classmethod
    def register(cls, name: str, processor: type[BaseDataProcessor]) -> None:
        """Make `data_source=name` build its store with this class."""
        cls._classes[name.lower()] = processor

    @classmethod
    def create_processor(cls, data_source_type: str, config: Any, **kwargs: Any) -> BaseDataProcessor:
        """The processor for a `data_source`. Raises NotAvailable for sources to come, UserError for unknown ones."""
        name = data_source_type.lower()
        if name in cls._classes:
            return cls._classes[name](config, **kwargs)
        if name in cls._later or ":" in name:
            raise NotAvailable(f"data_source={data_source_type} is not available yet: use sample")
        raise UserError(f"no data_source {data_source_type!r}: choose from {', '.join(sorted(cls._classes))}")
