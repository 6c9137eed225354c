"""A-share bars from Sina's public service, through a cache: bars that were fetched are not requested again."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from kronos.data import calendars
from kronos.data.bars import FEATURES, MAX_ITEMS, Finding, Flag
from kronos.data.sources.base import BaseDataProcessor, days_asked
from kronos.data.sources.qlib import Spans, membership, read_universe
from kronos.data.sources.sina_client import Bar, SinaClient
from kronos.utils import files
from kronos.utils.digests import read_object, with_own_digest
from kronos.utils.errors import UserError
from kronos.utils.files import given_path
from kronos.utils.names import file_name
from kronos.utils.progress import Progress

CALENDAR = "XSHG"
SCALES = {"day": 240, "5min": 5, "15min": 15, "30min": 30, "60min": 60}
SETTLED = pd.Timedelta(hours=15, minutes=30)  # bars are final by then; the close is at 15:00
OVERLAP = 5  # bars requested again with the new ones, to compare with the cache
PART = 400_000  # rows yielded at a time
SYMBOL = re.compile(r"(?i)^(?:(sh|sz|bj)[._]?(\d{6})|(\d{6})(?:[._](sh|sz|bj|ss|xshg|xshe))?)$")
SUFFIXES = {"ss": "sh", "xshg": "sh", "xshe": "sz"}
BOARDS = {"6": "sh", "9": "sh", "5": "sh", "0": "sz", "1": "sz", "2": "sz", "3": "sz", "4": "bj", "8": "bj"}


def now() -> pd.Timestamp:
    """Return the current local time of the exchange."""
    return pd.Timestamp.now(tz=calendars.timezone(CALENDAR)).tz_localize(None)


class SinaDataProcessor(BaseDataProcessor):
    """Bars of the configured symbols, as many as the service has, adjusted forward by its backward factors.

    Symbols for which the service has no factors keep their prices, unless adjust=splits asks to find splits in them.
    Each finished request is a file in `cache_path`: an interrupted run continues after the last of them, and a later
    run requests only the sessions since. Days that are not over are left out.
    """

    usual_freq = "day"
    calendar = CALENDAR
    source = {  # noqa: RUF012
        "survivorship": (
            "The symbols were chosen by name: those that left the market before are missing unless they were named, "
            "so that survivorship bias remains, and returns measured on these bars are too good."
        )
    }

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if self.freq not in SCALES:
            raise UserError(
                f"data_source=sina has no {self.freq} bars: give --freq, one of {', '.join(SCALES)}"
            )
        self.members: dict[str, Spans | None] = {}

    def download_data(self) -> None:
        self.members = self._members()
        due = self.due()
        self.notes.append(
            f"The service was asked until {due:%Y-%m-%d}; days that were not over by then are left out."
        )
        with SinaClient(self.config.sina_url, self._factor_url()) as client, Progress("sina") as progress:
            for place, symbol in enumerate(self.members):
                try:
                    self._update_cache(client, symbol, due)
                except UserError as error:
                    raise UserError(
                        f"{error}; {place} of {len(self.members)} symbols are in {self._cache()} and are not asked "
                        "for again: start again later, or leave this one out"
                    ) from None
                progress(place + 1, len(self.members))

    def process_raw_data(self) -> Iterator[pd.DataFrame]:
        without: list[pd.DataFrame] = []
        waiting: list[pd.DataFrame] = []
        unknown = []
        for symbol, spans in self.members.items():
            frame = self._frame(symbol, spans)
            if frame is None:
                unknown.append((symbol.upper(), "*", "the service knows no bars of it"))
                continue
            (waiting if "factor" in frame else without).append(frame)
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
            if len(unknown) == len(self.members):
                raise UserError(
                    f"{self.config.sina_url} knows none of the {len(unknown)} symbols ({unknown[0][0]}, ...): "
                    "symbols are sh, sz or bj and six digits"
                )

    def due(self) -> pd.Timestamp:
        """Return the last session that is over, or dataset_end_time where that is earlier."""
        return min(self._closed(), days_asked(self.config)[1])

    def fingerprint(self) -> dict[str, Any]:
        """The last session that is requested, and the symbols with their membership spans."""
        return {"until": f"{self.due():%Y-%m-%d}", "members": self._members()}

    def _closed(self) -> pd.Timestamp:
        moment = now()
        last = (
            moment.normalize()
            if moment >= moment.normalize() + SETTLED
            else moment.normalize() - pd.Timedelta(days=1)
        )
        return calendars.sessions(CALENDAR, last - pd.Timedelta(days=30), last)[-1]

    def _factor_url(self) -> str | None:
        wanted = getattr(self.config, "adjust", "auto") in ("auto", "factor")
        return self.config.sina_factor_url if wanted else None

    def _members(self) -> dict[str, Spans | None]:
        """Return symbols as the service spells them, with their membership spans where a universe file has them.

        `sina_symbols` is a list, or text with commas or spaces; a single element may be the name of a file.
        """
        given, config = self.config.sina_symbols, self.config
        if given is None:
            universe = f"instruments/{config.instrument.lower()}.txt"
            file = given_path(config.qlib_data_path) / universe
            if not file.is_file():
                raise UserError(
                    "data_source=sina needs --sina-symbols: a list like sh600519,sz000001, a file with one symbol "
                    f"per line, or a universe file of a Qlib store ({file} is not there)"
                )
            members = _read_symbols(file)
        else:
            texts = [given] if isinstance(given, str) else list(given)
            parts = [part for text in texts for part in re.split(r"[,\s]+", text) if part]
            path = os.path.expanduser(texts[0]) if len(texts) == 1 else ""
            if os.path.isfile(path):  # unlike Path.is_file, False for a list that is too long for a file name
                members = _read_symbols(Path(path))
            elif len(parts) == 1 and not SYMBOL.match(parts[0]) and ("/" in path or Path(path).suffix):
                raise UserError(
                    f"sina_symbols {path} does not exist: give an existing file, or a list like sh600519,sz000001"
                )
            else:
                members = {sina_symbol(part): None for part in parts}
        symbols = getattr(config, "symbols", None)
        if symbols is not None:
            wanted = {sina_symbol(name) for name in symbols}
            members = {name: spans for name, spans in members.items() if name in wanted}
        if not members:
            raise UserError(
                f"sina_symbols {file if given is None else given} has no symbol: a list like sh600519,sz000001 was "
                "expected"
            )
        return dict(sorted(members.items()))

    def _cache(self) -> Path:
        host = urlsplit(self.config.sina_url).netloc or self.config.sina_url
        return given_path(self.config.cache_path) / "sina" / file_name(host, lower=True)

    def _update_cache(self, client: SinaClient, symbol: str, due: pd.Timestamp) -> None:
        """Request what the cache lacks of a symbol, and add it to the cache."""
        closed, scale = self._closed(), SCALES[self.freq]
        file = self._cache() / str(scale) / f"{symbol}.json"
        cached = self._read(file)
        if cached is None or pd.Timestamp(cached["until"]) < due:
            datalen = self.config.sina_datalen
            if cached is not None and cached["bars"]:
                bars_per_day = len(calendars.sessions(CALENDAR, closed, closed, self.freq))
                since = len(calendars.sessions(CALENDAR, cached["until"], now()))
                datalen = min(datalen, since * bars_per_day + OVERLAP)
            bars = client.bars(symbol, scale, datalen)
            after = closed + pd.Timedelta(days=1)
            left_out = {bar[0] for bar in bars if not all(bar[1:6])} | set((cached or {}).get("left_out", ()))
            bars = [bar for bar in bars if all(bar[1:6])]
            over = [bar for bar in bars if pd.to_datetime(bar[0], errors="coerce") < after]
            merged, revised = _merge([tuple(bar) for bar in cached["bars"]] if cached else [], over)
            revised += cached["revised"] if cached else 0
            content = {"until": f"{closed:%Y-%m-%d}", "revised": revised, "bars": merged}
            content["left_out"] = sorted(left_out - {bar[0] for bar in merged})
            files.write_json(file, with_own_digest(content))
        if client.factor_url:
            file = self._cache() / "factors" / f"{symbol}.json"
            cached = self._read(file)
            if cached is None or pd.Timestamp(cached["until"]) < due:
                content = {"until": f"{closed:%Y-%m-%d}", "factors": client.factors(symbol)}
                files.write_json(file, with_own_digest(content))

    def _read(self, file: Path) -> dict[str, Any] | None:
        """Read a file of the cache; a damaged one is fetched again, and counted."""
        if not file.is_file():
            return None
        try:
            content = read_object(file, "it is fetched again")
            pd.Timestamp(content["until"])
            if not ({"factors", "bars"} & content.keys()):
                raise KeyError("bars")
        except (UserError, KeyError, TypeError, ValueError):
            item = (file.stem.upper(), "*", str(file))
            self.findings.append(Finding("damaged file of the cache", "fetched again", 1, [item]))
            return None
        return dict(content)

    def _frame(self, symbol: str, spans: Spans | None) -> pd.DataFrame | None:
        """Return the cached bars of a symbol, with its factor where there is one; None without any bar."""
        cached = self._read(self._cache() / str(SCALES[self.freq]) / f"{symbol}.json")
        if cached is None or not cached["bars"]:
            return None
        if cached["revised"]:
            item = (symbol.upper(), "*", f"{cached['revised']} bars")
            kind = "bar that the service has changed since it was cached"
            self.findings.append(Finding(kind, "the first value kept", cached["revised"], [item]))
        if without := cached.get("left_out"):
            items = [(symbol.upper(), day or "*", "") for day in without]
            self.findings.append(
                Finding("bar that the service gives without prices", "left out", len(without), items)
            )
        columns = ("datetime", *FEATURES)
        frame = pd.DataFrame(cached["bars"], columns=columns)
        frame.insert(0, "instrument", symbol.upper())
        frame["datetime"] = _times(frame["datetime"], symbol)
        for name in columns[1:]:
            frame[name] = pd.to_numeric(frame[name].replace("", np.nan))
        if frame["amount"].isna().all():
            del frame["amount"]
        if spans is not None:
            inside = membership(pd.DatetimeIndex(frame["datetime"]), spans)
            frame["flag"] = np.where(inside, np.uint8(0), np.uint8(Flag.NONMEMBER))
        if self._factor_url():
            factors = (self._read(self._cache() / "factors" / f"{symbol}.json") or {}).get("factors")
            if factors:
                frame["factor"] = _factor_at(pd.DatetimeIndex(frame["datetime"]), factors)
        return frame


def _read_symbols(file: Path) -> dict[str, Spans | None]:
    """Read a universe file of Qlib, or a file of symbols alone; `#` begins a comment."""
    lines = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    if any("\t" in line for line in lines):
        return {sina_symbol(name): spans for name, spans in read_universe(file).items()}
    return {sina_symbol(part): None for line in lines for part in re.split(r"[,\s]+", line) if part}


def sina_symbol(name: str) -> str:
    """Return `sh600519` for SH600519, 600519.SH, 600519.XSHG or 600519 (exchange by the first digit)."""
    found = SYMBOL.match(name.strip())
    if found is None:
        raise UserError(
            f"sina_symbols: {name!r} is not a symbol: sh, sz or bj and six digits, like sh600519, was expected"
        )
    board, digits, bare, suffix = found.groups()
    if board is None:
        board = SUFFIXES.get((suffix or "").lower(), suffix) or (
            "bj" if bare.startswith("92") else BOARDS.get(bare[0])
        )
    if board is None:
        raise UserError(f"sina_symbols: {name!r} does not tell its exchange: write sh, sz or bj before it")
    return f"{board.lower()}{digits or bare}"


def _times(days: pd.Series, symbol: str) -> pd.Series:
    times = pd.to_datetime(days, errors="coerce", format="ISO8601")
    if times.isna().any():
        raise UserError(f"{symbol}: the service gave {days[times.isna()].iloc[0]!r} as a day")
    return times


def _merge(cached: list[Bar], fetched: list[Bar]) -> tuple[list[Bar], int]:
    """Append new bars to the cached ones; also count the cached ones that the service has changed since."""
    have = {bar[0]: bar for bar in cached}
    revised = sum(1 for bar in fetched if bar[0] in have and not _same(have[bar[0]], bar))
    new = [bar for bar in fetched if bar[0] not in have]
    return (cached + new if cached else fetched), revised


def _same(one: Bar, other: Bar) -> bool:
    return [float(value) for value in one[1:6]] == [float(value) for value in other[1:6]]


def _factor_at(times: pd.DatetimeIndex, factors: list[list[str]]) -> np.ndarray:
    """Return the factor at each time: that of the last day on or before it, or the first one."""
    days = pd.DatetimeIndex([day for day, _ in factors])
    place = np.maximum(days.searchsorted(times.normalize(), side="right") - 1, 0)
    return np.array([float(factor) for _, factor in factors])[place]
