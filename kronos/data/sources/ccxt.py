"""Candles of crypto exchanges, through the package ccxt."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pandas as pd

from kronos.data.frequency import minutes, within_day
from kronos.data.sources.living import LivingDataProcessor
from kronos.data.sources.polite import BadAnswer, UnknownSymbol, named, short
from kronos.data.sources.topping_up import Page
from kronos.utils.errors import UserError

COLUMNS = ["datetime", "open", "high", "low", "close", "volume"]
USUAL_ROWS = 300  # of an answer, where ccxt does not know how many an exchange gives


class CcxtDataProcessor(LivingDataProcessor):
    """Candles of pairs like BTC/USDT (or swaps like BTC/USDT:USDT) of one exchange, in UTC.

    The service is asked page by page from the configured begin on, as many candles as the exchange gives at once.
    Volume is in the base currency.
    """

    library = "ccxt"
    calendar = "24/7"
    freqs: ClassVar[dict[str, Any]] = {
        "day": "1d", "1min": "1m", "3min": "3m", "5min": "5m", "15min": "15m", "30min": "30m", "60min": "1h",
        "120min": "2h", "240min": "4h", "360min": "6h", "480min": "8h", "720min": "12h",
    }  # fmt: skip
    label = "start"
    delay = pd.Timedelta(minutes=1)
    pause = 0.0  # ccxt keeps to the rate of each exchange
    universes = ("top10", "top50", "top100")

    @property
    def earliest(self) -> pd.Timestamp:
        return pd.Timestamp("2017-01-01")

    @property
    def service(self) -> str:  # type: ignore[override]
        return str(self.config.exchange)

    def place(self) -> tuple[str, ...]:
        return "ccxt", self.config.exchange

    def spelled(self, name: str) -> str:
        return name.strip().upper()

    @contextmanager
    def connected(self) -> Iterator[None]:
        client, name = self.client(), self.config.exchange
        if name not in client.exchanges:
            close = difflib.get_close_matches(name, client.exchanges, 1)
            raise UserError(
                f"exchange: ccxt has no {name!r}" + (f", did you mean {close[0]}?" if close else "")
            )
        options = {"enableRateLimit": True, "timeout": 20_000, "enableLastJsonResponse": True}
        self._client = getattr(client, name)(options)
        if self._client.timeframes and self.freqs[self.freq] not in self._client.timeframes:
            known = [freq for freq, one in self.freqs.items() if one in self._client.timeframes]
            raise UserError(f"{name} has no {self.freq} candles: give --freq, one of {', '.join(known)}")
        yield

    def fetch(self, symbol: str, since: pd.Timestamp, due: pd.Timestamp) -> Page:
        """Return one page of fetch_ohlcv. After an empty one the next begins where it would have ended."""
        rows = self.polite.ask(symbol, self.service, lambda: self._candles(symbol, since))
        try:
            bars = pd.DataFrame([row[: len(COLUMNS)] for row in rows], columns=COLUMNS)
        except (ValueError, TypeError):
            raise UserError(
                f"{self.service} gave candles that are no {', '.join(COLUMNS)}: {str(rows[0])[:80]}; run  pip "
                "install -U ccxt"
            ) from None
        bars["datetime"] = pd.to_datetime(bars["datetime"], unit="ms")
        step = pd.Timedelta(days=1) if not within_day(self.freq) else pd.Timedelta(minutes=minutes(self.freq))
        last = bars["datetime"].max() if len(bars) else since + (self._rows(symbol) - 1) * step
        following = max(last + step, since + step)
        return Page(bars, None if following + step > due + pd.Timedelta(days=1) else following)

    def fetch_members(self, universe: str) -> list[str]:
        """Return the pairs against USDT (USD where there are none) that were traded most in the last day."""
        tickers = self.polite.ask(universe, self.service, lambda: self._call("*", self._client.fetch_tickers))
        for quote in ("/USDT", "/USD"):
            volumes = {
                name: float(one.get("quoteVolume") or 0)
                for name, one in tickers.items()
                if name.endswith(quote)
            }
            if volumes:
                wanted = int(universe.removeprefix("top"))
                return sorted(volumes, key=lambda name: -volumes[name])[:wanted]
        raise UserError(f"{self.service} lists no pair against USDT or USD: give --symbols")

    def _rows(self, symbol: str) -> int:
        found = self._client.featureValue(symbol, "fetchOHLCV", "limit", USUAL_ROWS)
        return int(found or USUAL_ROWS)

    def _candles(self, symbol: str, since: pd.Timestamp) -> list[list[float]]:
        def ask() -> Any:
            if not self._client.load_markets():
                self._client.markets = None  # or it would not be asked for again
                raise ValueError("a list of markets without any")
            milliseconds = int(since.timestamp() * 1000)
            found = self._client.fetch_ohlcv(symbol, self.freqs[self.freq], milliseconds, self._rows(symbol))
            if not found and self._client.last_json_response is None:  # which ccxt takes for no candles
                raise ValueError("no JSON, or half of it")
            return found

        found: list[list[float]] = self._call(symbol, ask)
        return found

    def _call(self, symbol: str, request: Any) -> Any:
        errors = self.client()
        try:
            return request()
        except errors.BadSymbol:
            raise UnknownSymbol from None
        except errors.RateLimitExceeded as error:
            raise BadAnswer(f"too many requests: it asks to slow down ({short(error)})") from None
        except (errors.AuthenticationError, errors.NotSupported) as error:
            raise UserError(f"{self.service} gives no candles to everybody: {short(error)}") from None
        except errors.BaseError as error:
            raise BadAnswer(named(error)) from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:  # half an answer
            raise BadAnswer(f"an answer that ccxt does not understand ({short(error)})") from None
