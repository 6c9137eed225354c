"""Daily A-share bars from Tushare Pro, through the package tushare and the user's token."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pandas as pd

from kronos.data.sources.living import LivingDataProcessor
from kronos.data.sources.polite import BadAnswer, named
from kronos.data.sources.symbols import chinese_symbol
from kronos.data.sources.topping_up import Page
from kronos.utils.errors import UserError

TOKEN = "TUSHARE_TOKEN"
LOT, THOUSAND = 100, 1000  # volume is in lots of shares, the amount in thousand yuan
SPAN = pd.Timedelta(days=5000)  # asked at once: an answer has at most 6,000 rows
INDICES = {"csi300": "399300.SZ", "csi500": "000905.SH", "csi1000": "000852.SH"}
COLUMNS = {"trade_date": "datetime", "vol": "volume"}
SLOW_DOWN, MINUTE = (
    "最多访问",
    60.0,
)  # what the service says where a token asks too often, and how long to wait
REFUSED = ("token", "权限", "积分")  # words of a token that is not right or may not ask


class TushareDataProcessor(LivingDataProcessor):
    """Daily bars of A-shares, as they were traded, with the service's adjustment factors."""

    library = "tushare"
    service = "Tushare"
    freqs: ClassVar[dict[str, Any]] = {"day": "D"}
    workers = 4
    has_factors = True
    universes = tuple(INDICES)
    delay = pd.Timedelta(hours=2)  # the service collects the day's bars until five in the afternoon

    def spelled(self, name: str) -> str:
        symbol = chinese_symbol(name, "symbols")
        return f"{symbol[2:]}.{symbol[:2].upper()}"

    def instrument(self, symbol: str) -> str:
        return f"{symbol[-2:]}{symbol[:6]}"

    @contextmanager
    def connected(self) -> Iterator[None]:
        client, token = self.client(), os.environ.get(TOKEN, "").strip()
        if not token:
            raise UserError(
                f"data_source=tushare needs your token in the environment variable {TOKEN}: it is on your page at "
                f"tushare.pro; set it with  export {TOKEN}=..."
            )
        self._client = client.pro_api(token)
        yield

    def fetch(self, symbol: str, since: pd.Timestamp, due: pd.Timestamp) -> Page:
        bars, following = self._span(symbol, "daily", since, due)
        self.expect(bars, ("trade_date", "open", "high", "low", "close", "vol", "amount"))
        bars = bars.rename(columns=COLUMNS)
        bars["datetime"] = pd.to_datetime(bars["datetime"], format="%Y%m%d")
        bars["volume"], bars["amount"] = bars["volume"] * LOT, bars["amount"] * THOUSAND
        return Page(bars, following)

    def fetch_factors(self, symbol: str) -> list[tuple[str, float]] | None:
        """Return the days on which the factor changes: the service repeats it for each day."""
        due, tables = self.due(symbol), []
        since: pd.Timestamp | None = self.earliest
        while since is not None:
            table, since = self._span(symbol, "adj_factor", since, due)
            self.expect(table, ("trade_date", "adj_factor"))
            tables.append(table)
        table = pd.concat(tables).sort_values("trade_date")
        if table.empty:
            return None
        table = table[table["adj_factor"] != table["adj_factor"].shift()]
        days = pd.to_datetime(table["trade_date"], format="%Y%m%d").dt.strftime("%Y-%m-%d")
        return list(zip(days, table["adj_factor"].astype(float), strict=True))

    def fetch_members(self, universe: str) -> list[str]:
        day = self.due("")
        days = {"start_date": f"{day - pd.Timedelta(days=40):%Y%m%d}", "end_date": f"{day:%Y%m%d}"}
        table = self._ask(universe, "index_weight", index_code=INDICES[universe], **days)
        self.expect(table, ("con_code", "trade_date"))
        newest = table[table["trade_date"] == table["trade_date"].max()]
        return [str(code) for code in newest["con_code"]]

    def _span(
        self, symbol: str, function: str, since: pd.Timestamp, due: pd.Timestamp
    ) -> tuple[pd.DataFrame, pd.Timestamp | None]:
        last = min(since + SPAN, due)
        days = {"start_date": f"{since:%Y%m%d}", "end_date": f"{last:%Y%m%d}"}
        table = self._ask(symbol, function, ts_code=symbol, **days)
        return table, last + pd.Timedelta(days=1) if last < due else None

    def _ask(self, symbol: str, function: str, **arguments: str) -> pd.DataFrame:
        request = getattr(self._client, function)
        return self.polite.ask(symbol, self.service, lambda: _call(lambda: request(**arguments)))


def _call(request: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    try:
        found = request()
    except OSError as error:  # of requests: no network, a connection that broke
        raise BadAnswer(named(error)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadAnswer(f"an answer that cannot be read ({named(error)})") from None
    except Exception as error:  # the package raises nothing narrower for what the service says
        if SLOW_DOWN in str(error):
            raise BadAnswer(f"too many requests: it asks to slow down ({error})", MINUTE) from None
        if any(word in str(error) for word in REFUSED):
            raise UserError(f"Tushare refuses the token in {TOKEN}: {error}") from None
        raise BadAnswer(named(error)) from None
    if not len(found.columns):  # what the package makes of a status that is no success
        raise BadAnswer("no answer, but a status that is no success")
    return found
