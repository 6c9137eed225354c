"""The base class of sources of bars: a subclass reads one source, the base class builds the store from it."""

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from kronos.data.adjustment import (
    adjust_by_factor,
    adjust_by_split_column,
    adjust_splits,
    big_moves,
    suspected_splits,
)
from kronos.data.bars import Finding, align, has_limits, merge_findings, places_of, to_frame
from kronos.data.calendar_detection import Fit, fit_calendar
from kronos.data.calendars import FOREVER, known_end
from kronos.data.cleaning import carry_features, clean, drop_off_calendar, note_without_volume
from kronos.data.extra_columns import Wanted, mark, wanted_columns
from kronos.data.frequency import PERIODS
from kronos.data.open_bars import drop_open_bars
from kronos.data.quality_report import empty_sessions, hole_findings
from kronos.data.resampling import Resampling
from kronos.data.sources.membership import Spans, described, mark_members
from kronos.data.sources.parts import TimeCounts, last_session_of
from kronos.data.sources.source_code import source_code_digest
from kronos.data.sources.symbols import HISTORY, universe_of
from kronos.data.spacing import (
    Spacing,
    found_freq,
    judge_spacing,
    leave_out,
    settle_days,
    settle_periods,
    spacing,
)
from kronos.data.spool import Held, Spool
from kronos.data.store import FORMAT, BarStore
from kronos.data.store_writer import StoreParts, refuse_foreign_folder, store_sessions, write_store
from kronos.utils.errors import UserError
from kronos.utils.files import digest_bytes

LIMITS_GIVEN = "columns limit_up and limit_down"
EARLIEST = pd.Timestamp("1700-01-01")  # before all bars
KEY_FIELDS = (
    "freq", "dataset_begin_time", "dataset_end_time", "calendar", "adjust", "symbols", "instrument", "data_path",
    "qlib_data_path", "sina_url", "sina_factor_url", "sina_symbols", "sina_datalen", "exchange",
    "least_share",
    "instrument_column", "time_column", "volume_column", "time_zone", "column_names", "decimal_sign",
    "resample", "hours",
)  # fmt: skip


class BaseDataProcessor:
    """Builds a store from one source. Subclass it, return the bars from `process_raw_data`, register the class.

    `config` needs `data_source`, `dataset_begin_time`, `dataset_end_time`, `dataset_path` and `freq`; `calendar`,
    `adjust` and `symbols` are used where it has them.
    """

    usual_freq: ClassVar[str] = "auto"  # length of the bars where freq=auto; auto: as their times show
    calendar: ClassVar[str] = "auto"  # exchange whose sessions the bars are on: XSHG, XNYS, ...; auto: by fit
    source: ClassVar[dict[str, Any]] = {}  # name, universe, survivorship, notes for the report

    def __init__(self, config: Any) -> None:
        self.config = config
        self.findings: list[Finding] = []  # a source may add what it found while reading
        self.notes: list[str] = []  # and what a reader of the report should know
        self.about: dict[str, Any] = {}  # parts of `source` that are only known while reading
        self.spool = Spool(Path(getattr(config, "dataset_path", "")).parent)  # where read bars wait
        self.chosen_because = ""  # why data_source=auto took this source
        self.wanted: Wanted = wanted_columns(config)  # further columns
        self.understood: dict[str, Any] = {}  # how the source was read, for `python -m kronos data --check`

    @property
    def freq(self) -> str:
        """The length of the source's bars: as configured, else its usual one; auto: as their times show."""
        asked = str(getattr(self.config, "freq", "auto"))
        return self.usual_freq if asked == "auto" else asked

    def download_data(self) -> None:
        """Fetch what `process_raw_data` reads; nothing by default."""

    def process_raw_data(self) -> pd.DataFrame | Iterable[pd.DataFrame]:
        """Return the bars: instrument, datetime, open, high, low, close, volume (or vol) and perhaps amount (amt).

        Order, repeats, impossible bars and days outside the configured range are handled afterwards. Bars of many
        instruments may come as several frames, each instrument in one of them only. A column `factor` (prices are
        multiplied by it), `adj_close` or `split` (new shares for each old one, on the day of the split) adjusts
        prices; `limit_up` and `limit_down` (prices of the day's limits, before any adjustment) say what is locked;
        `flag` may mark bars as `bars.Flag.NONMEMBER`. The columns that `feature_list` and `condition_columns` name
        beside these are kept as they are: never adjusted, and of longer bars the last value.
        """
        raise UserError(f"{type(self).__name__} needs process_raw_data(): return the bars as a DataFrame")

    def symbols_wanted(self) -> tuple[str, ...] | None:
        """Return the instruments that the store is restricted to, as the bars name them; None for all."""
        universe = self.universe()
        return None if universe is None else tuple(universe)

    def universe(self) -> dict[str, Spans | None] | None:
        """Return the instruments of `symbols` with their spans, None for those of a list; None for all."""
        symbols = getattr(self.config, "symbols", None)
        return None if symbols is None else universe_of(symbols)

    def benchmark(self) -> pd.Series | None:
        """Return the closes of the universe's index by time, named by its code; None where the source has none."""
        return None

    def fingerprint(self) -> dict[str, Any] | str | None:
        """Return what identifies the bars besides the configuration and the code, for example each file's size.

        Equal fingerprints mean equal bars. None, the default, means that nothing identifies them: a store of this
        source is built again every time, never reused.
        """
        return None

    @property
    def reusable(self) -> bool:
        """Whether equal input digests mean equal bars, so that a store may be reused."""
        return self._input() is not None

    def input_digest(self) -> str:
        """Return a digest of the fingerprint and the source code of a class of your own.

        A random text where the bars are not reusable: it equals no other.
        """
        known = self._input()
        return uuid.uuid4().hex if known is None else digest_bytes(known.encode())

    def _input(self) -> str | None:
        fingerprint, code = self.fingerprint(), source_code_digest(type(self))  # type: ignore[arg-type]  # mypy: a class is hashable
        if fingerprint is None or code is None:
            return None
        universe = {name: spans for name, spans in (self.universe() or {}).items() if spans is not None}
        return json.dumps([fingerprint, code, *([universe] if universe else [])], sort_keys=True, default=str)

    def key(self) -> str:
        """Return a digest of everything but code of this package that decides what the store holds.

        Equal keys mean equal stores; the key of a source that is not reusable equals no other.
        """
        parts = {
            "format": FORMAT,
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "input": self.input_digest(),
            "calendar": self.calendar,
            "fields": {name: str(getattr(self.config, name, None)) for name in KEY_FIELDS},
            **({"columns": self.wanted.text} if self.wanted.text else {}),
        }
        return digest_bytes(json.dumps(parts, sort_keys=True).encode())

    def run_pipeline(self, key: str | None = None) -> BarStore:
        """Read, clean, adjust, align and store the bars at `config.dataset_path`; return the open store.

        `key` is kept in the store (`store.key`); the default is `self.key()`, taken before the bars are read.
        """
        config = self.config
        refuse_foreign_folder(config.dataset_path)
        self.findings, self.notes, self.about = [], [], {}
        self.download_data()
        key = self.key() if key is None else key
        self.spool = Spool(Path(config.dataset_path).parent)
        parts, counts, freq, findings = self._clean_parts()
        times = pd.DatetimeIndex(counts.index)
        asked, hours = getattr(config, "calendar", "auto"), getattr(config, "hours", "regular")
        asked = self.calendar if asked == "auto" else asked
        fit = fit_calendar(times, freq, asked, counts.to_numpy(), hours)
        first = times[0].to_period(PERIODS[freq]).start_time if freq in PERIODS else times[0]
        sessions = store_sessions(fit.calendar, first, times[-1], freq, fit.label, fit.past)
        if freq in PERIODS:
            parts, counts = self._settled(parts, freq, sessions, findings)
        clock = now()
        last_session = last_session_of(counts, parts, sessions, fit, freq, clock)
        to = getattr(config, "resample", None) or freq
        coarser = (
            Resampling(fit.calendar, freq, fit.label, sessions, last_session, to) if to != freq else None
        )
        stored_at = sessions if coarser is None else coarser.sessions
        last_stored = last_session if coarser is None else coarser.last_session
        has_bar = np.zeros(last_stored + 1, bool)
        stored = StoreParts(self.spool)
        while parts:
            frame, found = drop_open_bars(parts.pop(0).take(), fit.calendar, freq, fit.label, clock)
            findings += found
            frame, found = drop_off_calendar(frame, sessions, fit.calendar, fit.extended)
            findings += found
            if frame.empty:
                continue
            frame, found = self._adjust(frame, sessions)
            findings += found
            if coarser is not None:
                frame, found = coarser.apply(frame)
                findings += found
                if frame.empty:
                    continue
            has_bar[places_of(frame["datetime"], stored_at)] = True
            aligned = align(frame, stored_at, last_stored)
            findings += hole_findings(aligned, stored_at, last_stored)
            stored.add(aligned)
        findings += empty_sessions(has_bar, stored_at)
        benchmark = self.benchmark()
        return write_store(
            config.dataset_path,
            stored,
            sessions=stored_at,
            last_session=last_stored,
            calendar=fit.calendar if coarser is None else coarser.calendar,
            label=fit.label if coarser is None else coarser.label,
            freq=to,
            source=self._described(fit, stored_at, freq, to),
            findings=merge_findings(findings),
            benchmark=benchmark if coarser is None or benchmark is None else coarser.closes(benchmark),
            key=key,
        )

    def _clean_parts(self) -> tuple[list[Held], pd.Series, str, list[Finding]]:
        """The bars of the configured days, cleaned, part by part.

        Returns them with the number of bars at each time, the length of the bars, and what was found.
        """
        config = self.config
        freq = self.freq
        begin, end = days_asked(config)
        symbols, universe = self.symbols_wanted(), self.universe() or {}
        by_day = any(spans is not None for spans in universe.values())
        given = self.process_raw_data()
        parts: list[Held] = []
        counts = TimeCounts()
        findings: list[Finding] = []
        names: set[str] = set()
        days: list[pd.Timestamp] = []
        outside = 0
        spacings: list[Spacing] = []
        for raw in [given] if isinstance(given, pd.DataFrame) or given is None else given:
            if isinstance(raw, pd.DataFrame) and has_limits(raw):
                self.about["price_limits"] = LIMITS_GIVEN
            frame = to_frame(mark(raw, self.wanted), findings)
            if frame.empty:
                continue
            twice = names & set(frame["instrument"].unique()) if names else set()
            if twice:
                raise UserError(
                    f"{min(twice)} comes from two files: its bars belong in one, or in long tables"
                )
            names |= set(frame["instrument"].unique())
            if symbols is not None:
                frame = frame[frame["instrument"].isin(symbols)].reset_index(drop=True)
                if frame.empty:
                    continue
            if by_day:
                frame = mark_members(frame, universe)
            days += [frame["datetime"].min(), frame["datetime"].max()]
            inside = (
                (frame["datetime"] >= begin) & (frame["datetime"] < end + pd.Timedelta(days=1))
            ).to_numpy()
            outside += int((~inside).sum())
            if not inside.all():
                frame = frame[inside].reset_index(drop=True)
            if frame.empty:
                continue
            if freq == "auto":
                freq = found_freq(
                    pd.factorize(frame["instrument"])[0], frame["datetime"].to_numpy().view(np.int64)
                )
                self.notes.append(
                    f"The bars are of {freq}, as their times show (--freq names another length)."
                )
            frame = settle_days(frame, freq, findings)
            frame, found = clean(frame, freq)
            findings += found
            note_without_volume(frame, findings)
            frame = carry_features(frame, self.wanted.features, findings)
            spacings.append(spacing(frame, freq))
            frame = leave_out(frame, spacings[-1])
            if len(frame):
                parts.append(self.spool.put(frame))
                counts.add(frame["datetime"])
        findings += judge_spacing(spacings, freq)
        absent = sorted(set(symbols or ()) - names)
        if by_day:
            name = Path(config.symbols[0].removeprefix(HISTORY)).stem
            about, found = described(name, universe, absent)
            self.about |= about
            findings += found
        if absent and (not by_day or len(absent) == len(universe)):
            raise UserError(
                f"symbols: the source has no {', '.join(absent[:10])} among its {len(names)} instruments"
                + (f" ({', '.join(sorted(names)[:5])}, ...)" if names else "")
            )
        if not parts:
            self._refuse_empty(days, bool(findings))
        if outside:
            self.notes.append(
                f"{outside:,} bars of days outside {days_text(config)} (dataset_begin_time.."
                f"dataset_end_time) are left out; the source has {min(days):%Y-%m-%d}..{max(days):%Y-%m-%d}."
            )
        own = [part for one in self.findings if (part := one.within(begin.date(), end.date())).count]
        return parts, counts.all(), freq, own + findings

    def _settled(
        self, parts: list[Held], freq: str, sessions: pd.DatetimeIndex, findings: list[Finding]
    ) -> tuple[list[Held], pd.Series]:
        """Name the bars of weeks or months by their last sessions. Returns them and their number at each time."""
        settled, counts = [], TimeCounts()
        for part in parts:
            frame = settle_periods(part.take(), freq, sessions, findings)
            counts.add(frame["datetime"])
            settled.append(self.spool.put(frame))
        return settled, counts.all()

    def _refuse_empty(self, days: list[pd.Timestamp], found: bool) -> None:
        begin, end = days_asked(self.config)
        source, asked = f"data_source={self.config.data_source}", days_text(self.config)
        if found and days and min(days) <= end and max(days) >= begin:
            raise UserError(
                f"{source} has no usable bar in {asked}: every bar has a missing or impossible value"
            )
        if not days:
            raise UserError(f"{source} has no bar at all")
        raise UserError(
            f"{source} has no bar in {asked} (dataset_begin_time..dataset_end_time): it has "
            f"{min(days):%Y-%m-%d}..{max(days):%Y-%m-%d}"
        )

    def _adjust(self, frame: pd.DataFrame, sessions: pd.DatetimeIndex) -> tuple[pd.DataFrame, list[Finding]]:
        """Adjust prices forward on the evidence that the field `adjust` allows, and list the jumps that stay."""
        how = getattr(self.config, "adjust", "auto")
        has_factor = "factor" in frame.columns or "adj_close" in frame.columns
        if how == "factor" and not has_factor:
            raise UserError("adjust=factor needs a column factor or adj_close, which these bars do not have")
        if has_factor and how in ("auto", "factor"):
            frame, found = adjust_by_factor(frame.drop(columns="split_so_far", errors="ignore"))
            return frame, found + suspected_splits(frame, sessions) + big_moves(frame, sessions)
        frame = frame.drop(columns=["factor", "adj_close"], errors="ignore")
        if "split_so_far" in frame.columns and how in ("auto", "splits"):
            return adjust_by_split_column(frame, sessions)
        frame = frame.drop(columns="split_so_far", errors="ignore")
        if how == "splits":
            return adjust_splits(frame, sessions)
        return frame, suspected_splits(frame, sessions) + big_moves(frame, sessions)

    def _described(self, fit: Fit, sessions: pd.DatetimeIndex, freq: str, to: str) -> dict[str, Any]:
        """Describe the source for the report."""
        described = {"name": self.config.data_source, **self.source, **self.about}
        notes = [
            *described.get("notes", []),
            *([self.chosen_because] if self.chosen_because else []),
            *self.notes,
        ]
        if "price_limits" in described:
            notes.append(f"What is locked at a price limit is told by the {LIMITS_GIVEN} of the bars.")
        if self.calendar == "auto" or getattr(self.config, "calendar", "auto") != "auto":
            notes.append(fit.reason[0].upper() + fit.reason[1:] + ".")
        if to != freq:
            described["resampled_from"] = freq
            notes.append(
                f"Bars of {freq} are resampled to {to}: no bar crosses a break or the end of a trading day."
            )
        end = known_end(fit.calendar)
        if sessions[-1].normalize() > end:
            notes.append(f"Calendar {fit.calendar} is known to {end:%Y-%m-%d}: later sessions are weekdays.")
        return {**described, "notes": notes} if notes else described


def days_asked(config: Any) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first and last day of bars to load; days before and after all bars where none are configured."""
    begin, end = config.dataset_begin_time, config.dataset_end_time
    return EARLIEST if begin is None else pd.Timestamp(begin), FOREVER if end is None else pd.Timestamp(end)


def days_text(config: Any) -> str:
    """Format the configured days for messages."""
    begin, end = config.dataset_begin_time, config.dataset_end_time
    return f"{'the first bar' if begin is None else begin}..{'the last bar' if end is None else end}"


def now() -> pd.Timestamp:
    """Return the time by the clock, in UTC."""
    return pd.Timestamp.now("UTC")
