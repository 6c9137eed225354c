"""Top up the cache of one symbol: ask for what is new, compare it with what is known, write each page down."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from kronos.data.bars import FEATURES, PRICES, day_text
from kronos.data.frequency import minutes, within_day
from kronos.data.sources.at_once import Work
from kronos.data.sources.bar_cache import Record, SymbolCache, compare
from kronos.data.sources.polite import NoAnswer, UnknownSymbol

OVERLAP = 5  # bars requested again with the new ones, to compare with the cache
ASK_AGAIN = pd.Timedelta(hours=1)  # for a bar that is due and did not come: a service may be late
NEEDED = ("datetime", *PRICES, "volume")
KEPT = ("datetime", *FEATURES, "adj_close", "split")  # columns of the cache


@dataclass
class Page:
    """The answer to one request: `bars` with datetime, open, high, low, close, volume, perhaps amount and others.

    `next` is where the following page begins, None after the last one. `limited` says that the service has nothing
    earlier, however early bars are asked for; `zone` names the clock of the times where it is not the calendar's.
    """

    bars: pd.DataFrame
    next: pd.Timestamp | None = None
    limited: bool = False
    zone: str = ""


@dataclass(frozen=True)
class TopUp:
    """Tops up symbols of one service, whose requests are made by `fetch` and `fetch_factors`."""

    service: str
    freq: str
    label: str
    fetch: Callable[[str, pd.Timestamp, pd.Timestamp], Page]
    fetch_factors: Callable[[str], list[tuple[str, float]] | None]
    expect: Callable[[pd.DataFrame, tuple[str, ...]], None]
    now: Callable[[], pd.Timestamp]

    def is_due(self, record: Record, due: pd.Timestamp) -> bool:
        """Return whether bars are to be asked for: new ones are due, or the last that were due did not come."""
        if record.until is None or pd.Timestamp(record.until) < due:
            return True
        day = (due - pd.Timedelta(1, "ns")).normalize() if within_day(self.freq) else due
        late = record.last is not None and record.last < day
        return bool(late and self.now() - pd.Timestamp(record.asked) >= ASK_AGAIN)

    def bars(
        self, symbol: str, cache: SymbolCache, record: Record, begin: pd.Timestamp, due: pd.Timestamp
    ) -> Work[None]:
        """Ask page by page, from the last cached bars on, and write each page down: yields the requests."""
        tail = cache.tail(record, OVERLAP)
        since = pd.Timestamp(record.next or begin) if tail is None else tail["datetime"].iloc[0]
        older: pd.DataFrame | None = None  # cached bars that the service has no more, on its new basis
        while True:
            try:
                page = yield partial(self.fetch, symbol, since, due)
            except UnknownSymbol:
                page = Page(pd.DataFrame())
            bars = self._checked(page, record, due)
            if tail is not None and len(bars):
                change = compare(tail, bars)
                if change.rebased:
                    record.rebased.append(change.rebased)
                    older = _on_basis(cache.frame(record), change.ratio)
                    record.parts, record.until, tail, since = [], None, None, begin
                    continue
                if not change.common:
                    self._accept_gap(symbol, page, record, tail, bars)
                record.revised += [time for time in change.revised if time not in record.revised]
                bars = bars[bars["datetime"] > tail["datetime"].iloc[-1]]
            tail = None
            if older is not None:
                kept = (
                    older[older["datetime"] < bars["datetime"].min()] if page.limited and len(bars) else None
                )
                bars, older = bars if kept is None else pd.concat([kept, bars], ignore_index=True), None
            elif record.last is not None:
                bars = bars[bars["datetime"] > record.last]
            record.zone, record.asked = page.zone or record.zone, str(self.now())
            record.next = None if page.next is None else str(page.next)
            if page.next is None:
                record.until = str(due)
            cache.add(record, bars.reset_index(drop=True))
            if page.next is None:
                return
            since = page.next

    def _checked(self, page: Page, record: Record, due: pd.Timestamp) -> pd.DataFrame:
        """Return the bars of a page that are final and have prices, in order of time."""
        bars = page.bars
        if not len(bars):
            return pd.DataFrame(columns=list(NEEDED)).astype({"datetime": "datetime64[ns]"})
        self.expect(bars, NEEDED)
        bars = bars[[name for name in KEPT if name in bars.columns]]
        for name in bars.columns[1:]:
            bars[name] = pd.to_numeric(bars[name], errors="coerce").astype("float64")
        bars["datetime"] = pd.to_datetime(bars["datetime"]).astype("datetime64[ns]")
        undated = bars["datetime"].isna().any()
        bars = (
            bars.dropna(subset="datetime")
            .drop_duplicates("datetime", keep="last")
            .sort_values("datetime", ignore_index=True)
        )
        length = pd.Timedelta(minutes=minutes(self.freq)) if within_day(self.freq) else pd.Timedelta(0)
        bars = bars[bars["datetime"] + (length if self.label == "start" else pd.Timedelta(0)) <= due]
        empty = bars[list(PRICES)].isna().any(axis=1)
        left_out = {*record.left_out, *_texts(bars.loc[empty, "datetime"]), *[""] * int(undated)}
        bars = bars[~empty].reset_index(drop=True)
        record.left_out = sorted(left_out.difference(_texts(bars["datetime"])))
        return bars

    def _accept_gap(
        self, symbol: str, page: Page, record: Record, tail: pd.DataFrame, bars: pd.DataFrame
    ) -> None:
        """Note bars between the cache and the answer that the service has no more; raise NoAnswer if it should."""
        days = day_text([tail["datetime"].iloc[-1], bars["datetime"].iloc[0]])
        if not page.limited:
            raise NoAnswer(
                f"{symbol}: the answer of {self.service} begins at {days[1]} and lacks the bars asked for, from the "
                f"last cached ones at {days[0]} on"
            )
        record.gaps.append(" to ".join(days))

    def factors(self, cache: SymbolCache, record: Record, symbol: str, due: pd.Timestamp) -> Work[None]:
        """Ask for the factors again, and compare those of the past with the ones that are known."""
        try:
            given = yield partial(self.fetch_factors, symbol)
        except UnknownSymbol:
            given = None
        found: list[list[Any]] = [[day, float(factor)] for day, factor in given or []]
        if record.factors and record.factors_until is not None:
            then = record.factors_until[:10]
            before, known = ([row for row in rows if row[0] <= then] for rows in (found, record.factors))
            if _steps(before) != _steps(known):
                record.rebased.append(f"adjustment factors up to {record.factors_until[:10]}")
        record.factors, record.factors_until = found, str(due)
        cache.write(record)


def _texts(times: pd.Series) -> list[str]:
    return day_text(times) if len(times) else []


def _on_basis(bars: pd.DataFrame | None, ratio: float) -> pd.DataFrame | None:
    """Put cached bars on the basis that the service uses now."""
    if bars is None or ratio == 1:
        return bars
    prices = [name for name in (*PRICES, "adj_close") if name in bars]
    bars[prices] = bars[prices] * ratio
    bars["volume"] = bars["volume"] / ratio
    return bars


def _steps(factors: list[list[Any]]) -> list[tuple[str, float]]:
    """Return the days of adjustments with the factor over the first one, to the digits that services give."""
    return [(str(day)[:10], round(float(factor) / float(factors[0][1]), 5)) for day, factor in factors]
