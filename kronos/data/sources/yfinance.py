"""Bars from Yahoo Finance, through the package yfinance."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pandas as pd

from kronos.data.sources.living import LivingDataProcessor
from kronos.data.sources.polite import BadAnswer, UnknownSymbol
from kronos.data.sources.symbols import YAHOO, yahoo_calendar
from kronos.data.sources.topping_up import Page
from kronos.utils.errors import UserError

COLUMNS = {
    "Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume", "Adj Close": "adj_close",
    "Stock Splits": "split",
}  # fmt: skip
# How many days back Yahoo has bars within a day, and how many it gives at once.
REACH = {"1min": 29, "5min": 59, "15min": 59, "30min": 59, "60min": 729}
AT_ONCE = {"1min": 7}


class YFinanceDataProcessor(LivingDataProcessor):
    """Bars of any symbol of Yahoo's: AAPL, 0700.HK, BTC-USD.

    Yahoo's prices hold splits already, in the past too. Daily bars come with closes that hold dividends as well,
    which adjust=auto follows; bars within a day hold splits only. The amount of money is not known.
    """

    library = "yfinance"
    service = "Yahoo Finance"
    calendar = "auto"
    freqs: ClassVar[dict[str, Any]] = {
        "day": "1d", "1min": "1m", "5min": "5m", "15min": "15m", "30min": "30m", "60min": "60m",
    }  # fmt: skip
    workers = 4
    label = "start"

    def spelled(self, name: str) -> str:
        symbol, _, ending = name.strip().upper().partition(".")
        of_a_class = len(ending) == 1 and ending not in YAHOO  # BRK.B, which Yahoo writes as BRK-B
        return f"{symbol}-{ending}" if of_a_class else name.strip().upper()

    def exchange(self, symbol: str) -> str:
        return yahoo_calendar(symbol)

    @contextmanager
    def connected(self) -> Iterator[None]:
        client = self.client()
        client.set_tz_cache_location(str(self.folder() / "zones"))
        client.config.debug.hide_exceptions = False
        yield

    def fetch(self, symbol: str, since: pd.Timestamp, due: pd.Timestamp) -> Page:
        """Return bars by Ticker.history: all of them at once, those of a minute by the week."""
        end = due.normalize() + pd.Timedelta(days=1)  # the end is not included
        begin, last = since.normalize(), end
        if self.freq in REACH:
            begin = max(begin, end - pd.Timedelta(days=REACH[self.freq]))
        if self.freq in AT_ONCE:
            last = min(end, begin + pd.Timedelta(days=AT_ONCE[self.freq]))
        bars = self.polite.ask(symbol, self.service, lambda: self._history(symbol, begin, last))
        if not len(bars):
            return Page(bars, None if last >= end else last, limited=begin > since)
        self.expect(bars, tuple(COLUMNS))
        zone = str(pd.DatetimeIndex(bars.index).tz)
        bars = bars.rename(columns=COLUMNS)[list(COLUMNS.values())]
        bars.insert(0, "datetime", pd.DatetimeIndex(bars.index).tz_localize(None))
        if self.freq != "day":
            bars = bars.drop(columns="adj_close")  # within a day it repeats the close
        following = None if last >= end else last
        return Page(bars.reset_index(drop=True), following, limited=begin > since, zone=zone)

    def _history(self, symbol: str, begin: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
        client = self.client()
        errors = client.exceptions
        try:
            # The package keeps answers, bad ones too, so that a retry would read the same again.
            client.data.YfData().cache_get.cache_clear()
            found: pd.DataFrame = client.Ticker(symbol).history(
                start=f"{begin:%Y-%m-%d}", end=f"{end:%Y-%m-%d}", interval=self.freqs[self.freq],
                auto_adjust=False, actions=True,
            )  # fmt: skip
        except errors.YFRateLimitError:
            raise BadAnswer("too many requests: it asks to slow down") from None
        except errors.YFTickerMissingError:
            raise UnknownSymbol from None
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{symbol}: the package yfinance does not understand the answer of {self.service} "
                f"({type(error).__name__}: {error}): run  pip install -U yfinance"
            ) from None
        except Exception as error:  # of curl, of JSON, or one of its own
            raise BadAnswer(f"{type(error).__name__}: {error}".splitlines()[0]) from None
        return found
