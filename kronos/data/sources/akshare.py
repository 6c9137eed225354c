"""A-share bars of Eastmoney with the adjustment factors of Sina, through the package akshare."""

from collections.abc import Callable
from typing import Any, ClassVar

import pandas as pd

from kronos.data.sources.living import LivingDataProcessor
from kronos.data.sources.polite import BadAnswer, named
from kronos.data.sources.qlib import INDICES
from kronos.data.sources.symbols import chinese_symbol
from kronos.data.sources.topping_up import Page
from kronos.utils.errors import UserError

LOT = 100  # shares: the service counts volume in lots
COLUMNS = {
    "开盘": "open",
    "收盘": "close",
    "最高": "high",
    "最低": "low",
    "成交量": "volume",
    "成交额": "amount",
}


class AkshareDataProcessor(LivingDataProcessor):
    """Bars of A-shares and funds, as they were traded, with Sina's backward factors that adjust=auto follows.

    Bars within a day go a few weeks back, as far as the service has them.
    """

    library = "akshare"
    service = "Eastmoney by akshare"
    freqs: ClassVar[dict[str, Any]] = {
        "day": "daily",
        **{f"{length}min": str(length) for length in (1, 5, 15, 30, 60)},
    }
    workers = 4
    has_factors = True
    universes = tuple(INDICES)

    def spelled(self, name: str) -> str:
        return chinese_symbol(name, "symbols")

    def instrument(self, symbol: str) -> str:
        return symbol.upper()

    def fetch(self, symbol: str, since: pd.Timestamp, due: pd.Timestamp) -> Page:
        """Return all bars from `since` on: the service gives them at once."""
        client, code = self.client(), symbol[2:]
        fund = symbol[:3] in ("sh5", "sz1")
        if self.freq == "day":
            function = client.fund_etf_hist_em if fund else client.stock_zh_a_hist
            days = {"start_date": f"{since:%Y%m%d}", "end_date": f"{due:%Y%m%d}"}
            time = "日期"
        else:
            function = client.fund_etf_hist_min_em if fund else client.stock_zh_a_hist_min_em
            days = {"start_date": f"{since:%Y-%m-%d} 00:00:00", "end_date": f"{due:%Y-%m-%d} 23:59:59"}
            time = "时间"
        asked = {"symbol": code, "period": self.freqs[self.freq], "adjust": "", **days}
        bars = self.polite.ask(symbol, self.service, lambda: self._call(symbol, lambda: function(**asked)))
        if not len(bars):
            return Page(pd.DataFrame())
        self.expect(bars, (time, *COLUMNS))
        bars = bars.rename(columns={time: "datetime", **COLUMNS})[["datetime", *COLUMNS.values()]]
        bars["volume"] = pd.to_numeric(bars["volume"], errors="coerce") * LOT
        return Page(bars, limited=self.freq != "day")

    def fetch_factors(self, symbol: str) -> list[tuple[str, float]] | None:
        client = self.client()
        if symbol.startswith("bj"):
            return None
        table = self.polite.ask(
            symbol, "Sina by akshare",
            lambda: self._call(symbol, lambda: client.stock_zh_a_daily(symbol=symbol, adjust="hfq-factor")),
        )  # fmt: skip
        if not len(table):
            return None
        self.expect(table, ("date", "hfq_factor"))
        days = pd.to_datetime(table["date"]).dt.strftime("%Y-%m-%d")
        return sorted(zip(days, table["hfq_factor"].astype(float), strict=True))

    def fetch_members(self, universe: str) -> list[str]:
        client, code = self.client(), INDICES[universe][2:]
        table = self.polite.ask(
            universe, "the index company by akshare",
            lambda: self._call(universe, lambda: client.index_stock_cons_csindex(symbol=code)),
        )  # fmt: skip
        self.expect(table, ("成分券代码",))
        return [str(one) for one in table["成分券代码"]]

    def _call(self, symbol: str, request: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        try:
            return request()
        except ValueError as error:
            if "factor not available" in str(error):  # a share without any adjustment
                return pd.DataFrame()
            if "Length mismatch" in str(error):
                raise UserError(
                    f"{self.service} gave other columns than akshare knows ({error}): run  pip install -U akshare"
                ) from None
            raise BadAnswer(f"an answer that cannot be read ({named(error)})") from None
        except OSError as error:  # of requests: no network, a status, a connection that broke
            raise BadAnswer(named(error)) from None
        except (KeyError, TypeError, IndexError, AttributeError, SyntaxError, NameError) as error:
            raise BadAnswer(f"an answer that akshare does not understand ({named(error)})") from None
