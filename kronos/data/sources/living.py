"""Sources of bars of today: a public service asked through a cache, so that what was fetched is not asked for again.

A subclass says how one request is made; the cache, topping up, politeness, the unfinished bar, a past that the
service has changed, and symbols that fail are the same for all.
"""

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from filelock import Timeout

from kronos.data import calendars
from kronos.data.bars import MAX_ITEMS, Finding, Flag, day_text
from kronos.data.frequency import minutes, within_day
from kronos.data.open_bars import end_of_day
from kronos.data.sources.at_once import Work, at_once
from kronos.data.sources.bar_cache import Record, SymbolCache
from kronos.data.sources.base import BaseDataProcessor, days_asked
from kronos.data.sources.membership import POINT_IN_TIME, Spans, membership
from kronos.data.sources.polite import NoAnswer, Polite
from kronos.data.sources.symbols import listed
from kronos.data.sources.topping_up import Page, TopUp
from kronos.utils.error_messages import OPTIONAL
from kronos.utils.errors import UserError
from kronos.utils.files import digest_bytes, given_path, lock_of
from kronos.utils.names import file_name
from kronos.utils.progress import Progress

AWAY = 3  # symbols that fail before any comes: the service is away
PART = 400_000  # rows yielded at a time
TODAY_ONLY = (
    "The symbols were chosen by name: those that left the market before are missing unless they were named, "
    "so that survivorship bias remains, and returns measured on these bars are too good."
)


def now() -> pd.Timestamp:
    """Return the time by the clock, in UTC."""
    return pd.Timestamp.now("UTC")


class ToppedUp(NamedTuple):
    """What came of topping up one symbol: its record, up to when bars were due, and whether anything was asked."""

    record: Record
    due: pd.Timestamp
    asked: bool
    findings: list[Finding]


class LivingDataProcessor(BaseDataProcessor):
    """Bars of the configured symbols up to the last one that is final, topped up in `cache_path`.

    Each finished request is written down: an interrupted run continues after the last of them, and a later run asks
    for what is new, with a few bars before to compare. Where the service has put its past on another basis, the
    symbol is fetched anew. Symbols that do not come are listed; `least_share` of them must come. With several
    `workers` that many symbols are asked for at once, at the same rate of requests; the bars are the same.
    """

    usual_freq = "day"
    calendar = "XSHG"
    source = {"survivorship": TODAY_ONLY}  # noqa: RUF012
    library: ClassVar[str] = ""  # client library, whose extra has the same name
    service: ClassVar[str] = ""  # as messages name it
    freqs: ClassVar[dict[str, Any]] = {}  # what the service calls bars of each length
    label: ClassVar[str] = "end"  # end of its interval that names a bar within a day
    delay: ClassVar[pd.Timedelta] = pd.Timedelta(minutes=30)  # after which a bar is final
    pause: ClassVar[float | None] = None  # seconds between requests; None: the usual ones
    workers: ClassVar[int] = 1  # symbols asked for at once, where the client and the service bear several
    has_factors: ClassVar[bool] = False  # whether `fetch_factors` is to be asked
    field: ClassVar[str] = "symbols"  # that lists the symbols
    universes: ClassVar[tuple[str, ...]] = ()  # lists of symbols that the service knows by name

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if self.freq not in self.freqs:
            raise UserError(
                f"data_source={config.data_source} has no {self.freq} bars: give --freq, one of "
                f"{', '.join(self.freqs)}"
            )
        self.members: dict[str, Spans | None] = {}
        self.records: dict[str, Record] = {}
        self.failed: dict[str, str] = {}
        self.asked_until: dict[str, pd.Timestamp] = {}
        self.polite = Polite(self.pause)
        self._topped_up = False
        self._universe = ""
        self._seen: list[Finding] = []  # found while the cache was topped up

    # What a subclass defines.

    def spelled(self, name: str) -> str:
        """Return a symbol as the service writes it. Raises UserError for what is none."""
        return name

    def instrument(self, symbol: str) -> str:
        """Return the name of a symbol in the store."""
        return symbol

    def exchange(self, symbol: str) -> str:
        """Return the calendar whose days and clock the bars of a symbol have."""
        return self.calendar

    def place(self) -> tuple[str, ...]:
        """Return the names of the folders in the cache that belong to this service."""
        return (self.library or type(self).__name__,)

    def connected(self) -> AbstractContextManager[Any]:
        """Return a context in which requests are made, where the service has a login."""
        return nullcontext()

    def fetch(self, symbol: str, since: pd.Timestamp, due: pd.Timestamp) -> Page:
        """Return the bars from `since` on, as many as one request gives; one request, retried politely.

        Times have no zone and are those of the exchange's clock. Raises UnknownSymbol, NoAnswer for this symbol, and
        UserError for what concerns all symbols.
        """
        raise NotImplementedError

    def fetch_factors(self, symbol: str) -> list[tuple[str, float]] | None:
        """Return (first day, factor) of each adjustment, under which old prices stay; None without any."""
        raise NotImplementedError

    def fetch_members(self, universe: str) -> list[str]:
        """Return the symbols of a list that the service knows by name, one of `universes`."""
        raise NotImplementedError

    # What is the same for all.

    @property
    def earliest(self) -> pd.Timestamp:
        """The first day that is asked for where none is configured."""
        return pd.Timestamp("1990-01-01")

    def client(self) -> ModuleType:
        """Import the client library. Raises UserError with the line that installs it."""
        try:
            return importlib.import_module(self.library)
        except ImportError as error:
            if (error.name or "").partition(".")[0] not in (self.library, ""):
                raise UserError(f"the package {self.library} cannot be imported: {error}") from None
            raise UserError(
                f"data_source={self.config.data_source} needs the package {self.library}, which is not installed: "
                f"run  {OPTIONAL[self.library]}"
            ) from None

    def universe(self) -> dict[str, Spans | None] | None:
        """Return None: the bars are those of the symbols asked for, however they were spelled, and marked already."""
        return None

    def fingerprint(self) -> dict[str, Any]:
        """Top the cache up and return digests of what it holds of each symbol, and which symbols did not come."""
        self.download_data()
        held = {
            symbol: digest_bytes(repr(sorted(record.content().items())).encode())
            for symbol, record in self.records.items()
        }
        return {"held": held, "members": self.members, "failed": sorted(self.failed)}

    def download_data(self) -> None:
        """Top up the cache, once in the life of this object."""
        if self._topped_up:
            return
        lock = lock_of(self.folder() / "cache", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            print(f"another process is writing to {self.folder()}: waiting for it", flush=True)
            lock.acquire(timeout=-1)
        try:
            with self.connected():
                self.members = self._members()
                self._top_up_all()
        finally:
            lock.release()
        self._topped_up = True

    def pending(self) -> dict[str, tuple[pd.Timestamp | None, pd.Timestamp]]:
        """Return the symbols that would be asked for: the last cached bar and the time up to which bars are due."""
        given = self.config.symbols
        if given is None and str(self.config.instrument).lower() in self.universes:
            raise UserError(
                "the members of a universe are asked from the service: give --symbols to see what is due"
            )
        found = {}
        top_up = self._topper()
        for symbol in self._members():
            record, due = self._read(symbol), self.due(symbol)
            if record is None or top_up.is_due(record, due):
                found[self.instrument(symbol)] = (None if record is None else record.last, due)
        return found

    def process_raw_data(self) -> Iterator[pd.DataFrame]:
        self.findings += self._seen
        self._say_what_came()
        without: list[pd.DataFrame] = []
        waiting: list[pd.DataFrame] = []
        unknown = []
        for symbol, record in self.records.items():
            frame = self._frame(symbol, record)
            if frame is None:
                unknown.append((self.instrument(symbol), "*", "the service knows no bars of it"))
                continue
            (waiting if {"factor", "adj_close"} & set(frame.columns) else without).append(frame)
            if sum(map(len, waiting)) >= PART:
                yield pd.concat(waiting, ignore_index=True)
                waiting = []
        for frames in (waiting, without):
            if frames:
                yield pd.concat(frames, ignore_index=True)
        if unknown:
            self.findings.append(
                Finding("symbol without bars", "left out", len(unknown), unknown[:MAX_ITEMS])
            )

    def due(self, symbol: str) -> pd.Timestamp:
        """Return the time up to which bars are final, on the clock of the exchange, or the end of the days asked."""
        calendar = self.exchange(symbol)
        clock = (now() - self.delay).tz_convert(calendars.timezone(calendar)).tz_localize(None)
        last_day = days_asked(self.config)[1]
        today, day = clock.normalize(), pd.Timedelta(days=1)
        last = today if clock >= end_of_day(calendar, today) else today - day
        whole = calendars.sessions(calendar, last - 30 * day, last)[-1]  # the last session that is over
        if not within_day(self.freq):
            return min(whole, last_day)
        begun = calendars.sessions(calendar, today, today, self.freq, "end")
        trading = whole < today and len(begun) > 0 and begun[0] <= clock
        over = clock.floor(f"{minutes(self.freq)}min") if trading else whole + day
        return min(over, last_day + day)

    def folder(self) -> Path:
        names = (file_name(name, lower=True) for name in self.place())
        return given_path(self.config.cache_path).joinpath(*names)

    def _members(self) -> dict[str, Spans | None]:
        """Return the symbols that are asked for, with their membership spans where a file has them."""
        given = self.config.symbols
        name = str(getattr(self.config, "instrument", "")).lower()
        if given is None and name in self.universes:
            members: dict[str, Spans | None] = {self.spelled(one): None for one in self.fetch_members(name)}
            self._universe = f"{name}: its {len(members)} members of today"
        elif given is None:
            named = f", or --instrument {', '.join(self.universes)}" if self.universes else ""
            raise UserError(
                f"data_source={self.config.data_source} needs --symbols: a list, or a file with one symbol per line"
                + named
            )
        else:
            members = listed(given, self.field, self.spelled)
        if not members:
            raise UserError(f"{self.field} {given} has no symbol")
        return dict(sorted(members.items()))

    def _top_up_all(self) -> None:
        allowed = len(self.members) - ceil(round(self.config.least_share * len(self.members), 6))
        answered = False
        works = [self._top_up(symbol) for symbol in self.members]
        with (
            Progress(str(self.config.data_source)) as progress,
            closing(at_once(works, self.workers, self.polite.stop)) as outcomes,
        ):
            for place, (symbol, outcome) in enumerate(zip(self.members, outcomes, strict=True), start=1):
                if isinstance(outcome, NoAnswer):
                    self.failed[symbol] = str(outcome)
                    if len(self.failed) > allowed or (len(self.failed) >= AWAY and not answered):
                        raise UserError(
                            f"{outcome}; {len(self.records)} of {len(self.members)} symbols are in {self.folder()} "
                            "and are not asked for again: start again later, or leave this one out (--least-share "
                            "says what share must come)"
                        )
                else:
                    self.records[symbol], self.asked_until[symbol] = outcome.record, outcome.due
                    self._seen += outcome.findings
                    answered = answered or outcome.asked
                progress(place, len(self.members))
        if not any(record.rows for record in self.records.values()):
            some = ", ".join(list(self.members)[:3])
            raise UserError(f"{self.service} knows none of the {len(self.members)} symbols ({some}, ...)")

    def _top_up(self, symbol: str) -> Work[ToppedUp]:
        """Request what the cache lacks of a symbol, and add it: yields the requests."""
        findings: list[Finding] = []
        cache, record = self._cache(symbol), self._read(symbol, findings)
        due, begin = self.due(symbol), max(days_asked(self.config)[0], self.earliest)
        if record is not None and record.begin is not None and pd.Timestamp(record.begin) > begin:
            items = [(self.instrument(symbol), "*", record.begin)]
            findings.append(Finding("earlier bars asked for than before", "fetched again", 1, items))
            record = None
        record = Record(begin=str(begin)) if record is None else record
        top_up = self._topper()
        asked = top_up.is_due(record, due)
        if asked:
            yield from top_up.bars(symbol, cache, record, begin, due)
        if self.wants_factors() and (
            record.factors_until is None or pd.Timestamp(record.factors_until) < due
        ):
            yield from top_up.factors(cache, record, symbol, due)
            asked = True
        return ToppedUp(record, due, asked, findings)

    def _topper(self) -> TopUp:
        return TopUp(self.service, self.freq, self.label, self.fetch, self.fetch_factors, self.expect, now)

    def wants_factors(self) -> bool:
        """Return whether a list of adjustment factors is to be asked for."""
        return self.has_factors and getattr(self.config, "adjust", "auto") in ("auto", "factor")

    def expect(self, frame: pd.DataFrame, names: tuple[str, ...]) -> None:
        """Raise UserError where an answer lacks columns: the service or its library has changed."""
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise UserError(
                f"{self.service} gave no column {', '.join(missing)} (it gave {', '.join(map(str, frame.columns))}): "
                f"it has changed its answers, so update the package {self.library or 'kronos'}, or take another "
                "--data-source"
            )

    def _cache(self, symbol: str) -> SymbolCache:
        return SymbolCache(self.folder() / self.freq / file_name(symbol))

    def _read(self, symbol: str, findings: list[Finding] | None = None) -> Record | None:
        """Read what the cache has of a symbol; where `findings` are given, damage is added to them and forgotten."""
        cache = self._cache(symbol)
        try:
            return cache.read()
        except UserError as error:
            if findings is not None:
                items = [(self.instrument(symbol), "*", str(error))]
                findings.append(Finding("damaged file of the cache", "fetched again", 1, items))
                cache.clear()
            return None

    def _say_what_came(self) -> None:
        if self._universe:
            self.about["universe"] = self._universe
        if all(spans is not None for spans in self.members.values()):
            self.about["survivorship"] = POINT_IN_TIME
        until = day_text([max(self.asked_until.values())])[0]
        self.notes.append(
            f"The service was asked until {until}; bars that were not final by then are left out."
        )
        zones = {record.zone for record in self.records.values() if record.rows and record.zone}
        if len(zones) > 1:
            raise UserError(
                f"the symbols are traded on clocks of {', '.join(sorted(zones))}: make one store for each, with its "
                "own --symbols and --dataset-path"
            )
        for kind, action, texts in (
            ("symbol that did not come", "left out", {name: [text] for name, text in self.failed.items()}),
            ("past that the service has put on another basis", "fetched anew",
             {name: record.rebased for name, record in self.records.items()}),
            ("bar that the service has changed since it was cached", "the first value kept",
             {name: record.revised for name, record in self.records.items()}),
            ("bar that the service gives without prices", "left out",
             {name: record.left_out for name, record in self.records.items()}),
            ("bars that the service no longer has", "missing",
             {name: record.gaps for name, record in self.records.items()}),
        ):  # fmt: skip
            items = [
                (self.instrument(name), one if one[:4].isdigit() and len(one) <= 16 else "*", one)
                for name, several in texts.items() for one in several
            ]  # fmt: skip
            if items:
                self.findings.append(Finding(kind, action, len(items), items[:MAX_ITEMS]))

    def _frame(self, symbol: str, record: Record) -> pd.DataFrame | None:
        """Return the cached bars of a symbol, with its factor where there is one; None without any bar."""
        frame = self._cache(symbol).frame(record)
        if frame is None or frame.empty:
            return None
        frame.insert(0, "instrument", self.instrument(symbol))
        if "amount" in frame and frame["amount"].isna().all():
            del frame["amount"]
        spans = self.members[symbol]
        if spans is not None:
            inside = membership(pd.DatetimeIndex(frame["datetime"]), spans)
            frame["flag"] = np.where(inside, np.uint8(0), np.uint8(Flag.NONMEMBER))
        if self.wants_factors() and record.factors:
            frame["factor"] = _factor_at(pd.DatetimeIndex(frame["datetime"]), record.factors)
        return frame


def _factor_at(times: pd.DatetimeIndex, factors: list[list[Any]]) -> np.ndarray:
    """Return the factor at each time: that of the last day on or before it, or the first one."""
    days = pd.DatetimeIndex([day for day, _ in factors])
    place = np.maximum(days.searchsorted(times.normalize(), side="right") - 1, 0)
    return np.array([float(factor) for _, factor in factors])[place]
