"""A-share bars from Sina's public service, through the cache of living sources; no package is needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pandas as pd

from kronos.data import calendars
from kronos.data.bars import FEATURES
from kronos.data.sources.living import LivingDataProcessor, now
from kronos.data.sources.membership import Spans
from kronos.data.sources.sina_client import SinaClient
from kronos.data.sources.symbols import chinese_symbol, listed, read_symbols
from kronos.data.sources.topping_up import Page
from kronos.utils.errors import UserError
from kronos.utils.files import given_path

DAY_MINUTES = 240  # of trading
SCALES = {"day": DAY_MINUTES, "5min": 5, "15min": 15, "30min": 30, "60min": 60}


class SinaDataProcessor(LivingDataProcessor):
    """Bars of the configured symbols, as many as the service has, adjusted forward by its backward factors.

    Symbols for which the service has no factors keep their prices, unless adjust=splits asks to find splits in them.
    """

    service = "Sina"
    freqs = SCALES
    field = "sina_symbols"
    workers = 4
    has_factors = True

    def spelled(self, name: str) -> str:
        return sina_symbol(name)

    def instrument(self, symbol: str) -> str:
        return symbol.upper()

    def place(self) -> tuple[str, ...]:
        return "sina", urlsplit(self.config.sina_url).netloc or self.config.sina_url

    @contextmanager
    def connected(self) -> Iterator[None]:
        factor_url = self.config.sina_factor_url if self.wants_factors() else None
        with SinaClient(self.config.sina_url, factor_url, self.polite) as self._client:
            yield

    def wants_factors(self) -> bool:
        return super().wants_factors() and bool(self.config.sina_factor_url)

    def fetch(self, symbol: str, since: pd.Timestamp, due: pd.Timestamp) -> Page:
        """Return the last bars: the service counts them back from now."""
        wanted = self.config.sina_datalen
        if since > self.earliest:
            clock = now().tz_convert(calendars.timezone(self.calendar)).tz_localize(None)
            days = len(calendars.sessions(self.calendar, since, clock))
            wanted = min(wanted, days * DAY_MINUTES // SCALES[self.freq])
        bars = self._client.bars(symbol, SCALES[self.freq], wanted)
        frame = pd.DataFrame(bars, columns=("datetime", *FEATURES))
        frame["datetime"] = pd.to_datetime(frame["datetime"].replace("", None), format="ISO8601")
        return Page(frame, limited=wanted == self.config.sina_datalen)

    def fetch_factors(self, symbol: str) -> list[tuple[str, float]] | None:
        found = self._client.factors(symbol)
        return None if found is None else [(day, float(factor)) for day, factor in found]

    def _members(self) -> dict[str, Spans | None]:
        """Return symbols of `sina_symbols`, or of the universe of a Qlib store, that are among `symbols`."""
        given, config = self.config.sina_symbols, self.config
        if self.chosen_because:
            return dict(sorted(listed(config.symbols, "symbols", sina_symbol).items()))
        if given is None:
            universe = f"instruments/{config.instrument.lower()}.txt"
            file = given_path(config.qlib_data_path) / universe
            if not file.is_file():
                raise UserError(
                    "data_source=sina needs --sina-symbols: a list like sh600519,sz000001, a file with one symbol "
                    f"per line, or a universe file of a Qlib store ({file} is not there)"
                )
            members = read_symbols(file, sina_symbol)
        else:
            members = listed(given, self.field, sina_symbol)
        if config.symbols is not None:
            wanted = {sina_symbol(name) for name in config.symbols}
            members = {name: spans for name, spans in members.items() if name in wanted}
        if not members:
            raise UserError(
                f"sina_symbols {file if given is None else given} has no symbol: a list like sh600519,sz000001 was "
                "expected"
            )
        return dict(sorted(members.items()))


def sina_symbol(name: str) -> str:
    """Return `sh600519` for SH600519, 600519.SH, 600519.XSHG or 600519 (exchange by the first digit)."""
    return chinese_symbol(name, "sina_symbols")
