"""The sources of today on the tables that their client libraries return; the libraries need not be installed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from services import Market

from kronos.data.calendars import exchanges, timezone
from kronos.data.sources import living, polite
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.sources.symbols import YAHOO, market_of
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

EASTMONEY = {
    "open": "开盘",
    "close": "收盘",
    "high": "最高",
    "low": "最低",
    "volume": "成交量",
    "amount": "成交额",
}


def akshare(market: Market) -> Any:
    def hist(symbol: str, period: str, adjust: str, start_date: str, end_date: str) -> pd.DataFrame:
        bars = market.between(symbol, start_date, end_date)
        bars["volume"] /= 100
        table = bars.rename(columns={"datetime": "日期", **EASTMONEY})
        return table.assign(日期=table["日期"].dt.date, 股票代码=symbol, 振幅=0.1).drop(columns="factor")

    factors = pd.DataFrame(
        {"date": pd.to_datetime(["2010-01-04", "1900-01-01"]), "hfq_factor": ["2.0", "1.0"]}
    )
    members = pd.DataFrame({"成分券代码": ["600519", "000001"]})
    return SimpleNamespace(
        stock_zh_a_hist=hist,
        fund_etf_hist_em=hist,
        stock_zh_a_daily=lambda symbol, adjust: factors,
        index_stock_cons_csindex=lambda symbol: members,
    )


def tushare(market: Market) -> Any:
    def daily(ts_code: str, start_date: str, end_date: str) -> pd.DataFrame:
        bars = market.between(ts_code[:6], start_date, end_date)
        bars["vol"], bars["amount"] = bars["volume"] / 100, bars["amount"] / 1000
        table = bars.assign(ts_code=ts_code, trade_date=bars["datetime"].dt.strftime("%Y%m%d"))
        return table.drop(columns=["datetime", "volume", "factor"]).iloc[::-1]

    def adj_factor(ts_code: str, start_date: str, end_date: str) -> pd.DataFrame:
        bars = market.between(ts_code[:6], start_date, end_date)
        return pd.DataFrame({"trade_date": bars["datetime"].dt.strftime("%Y%m%d"), "adj_factor": 3.5}).iloc[
            ::-1
        ]

    def index_weight(index_code: str, start_date: str, end_date: str) -> pd.DataFrame:
        codes = ["600519.SH", "000001.SZ", "300750.SZ"]
        return pd.DataFrame({"con_code": codes, "trade_date": ["20240628", "20240628", "20240531"]})

    api = SimpleNamespace(daily=daily, adj_factor=adj_factor, index_weight=index_weight)
    return SimpleNamespace(pro_api=lambda token: api)


def baostock(market: Market) -> Any:
    def answer(table: pd.DataFrame) -> Any:
        return SimpleNamespace(
            error_code="0", error_msg="", data=table.to_numpy().tolist(), fields=list(table.columns)
        )

    def history(
        code: str, names: str, start_date: str, end_date: str, frequency: str, adjustflag: str
    ) -> Any:
        bars = market.between(code[3:], start_date, end_date).astype({"volume": str})
        return answer(bars.assign(date=bars["datetime"].dt.strftime("%Y-%m-%d"))[names.split(",")])

    factors = pd.DataFrame(columns=["code", "dividOperateDate", "foreAdjustFactor", "backAdjustFactor"])
    members = pd.DataFrame({"updateDate": "", "code": ["sh.600519", "sz.000001"]})
    empty = SimpleNamespace(error_code="0", error_msg="")
    return SimpleNamespace(
        login=lambda: empty, logout=lambda: empty, query_history_k_data_plus=history,
        query_adjust_factor=lambda code, start_date, end_date: answer(factors),
        query_hs300_stocks=lambda: answer(members),
        util=SimpleNamespace(socketutil=SimpleNamespace(SocketUtil=SimpleNamespace())),
    )  # fmt: skip


def yfinance(market: Market) -> Any:
    class Ticker:
        def __init__(self, symbol: str) -> None:
            self.symbol = symbol

        def history(
            self, start: str, end: str, interval: str, auto_adjust: bool, actions: bool
        ) -> pd.DataFrame:
            bars = market.between(self.symbol, start, str(pd.Timestamp(end) - pd.Timedelta(days=1)))
            zone = "Asia/Hong_Kong" if self.symbol.endswith(".HK") else "America/New_York"
            index = pd.DatetimeIndex(bars.pop("datetime")).tz_localize(zone)
            bars.columns = [name.capitalize() for name in bars.columns]
            return bars.assign(
                **{"Adj Close": bars["Close"], "Stock Splits": 0.0, "Dividends": 0.0}
            ).set_index(index)

    return SimpleNamespace(
        Ticker=Ticker, set_tz_cache_location=lambda place: None,
        config=SimpleNamespace(debug=SimpleNamespace(hide_exceptions=True)),
        exceptions=SimpleNamespace(YFRateLimitError=ZeroDivisionError, YFTickerMissingError=ArithmeticError),
        data=SimpleNamespace(YfData=lambda: SimpleNamespace(cache_get=SimpleNamespace(cache_clear=lambda: None))),
    )  # fmt: skip


def ccxt(market: Market) -> Any:
    class Binance:
        timeframes: dict[str, str] = {"1d": "1d", "1h": "1h"}  # noqa: RUF012
        last_json_response: list[Any] = []  # noqa: RUF012

        def __init__(self, options: Any) -> None:
            pass

        def load_markets(self) -> dict[str, Any]:
            return {"BTC/USDT": {}}

        def featureValue(self, *names: Any) -> int:
            return 20

        def fetch_ohlcv(self, symbol: str, length: str, since: int, limit: int) -> list[list[float]]:
            bars = market.between(symbol, str(pd.Timestamp(since, unit="ms")), None).head(limit)
            times = bars["datetime"].to_numpy().astype("datetime64[ms]").astype(int)
            return np.column_stack([times, bars[["open", "high", "low", "close", "volume"]]]).tolist()

        def fetch_tickers(self) -> dict[str, Any]:
            names = [f"C{number:02d}/USDT" for number in range(30)]
            return {name: {"quoteVolume": place} for place, name in enumerate(names)} | {
                "A/BTC": {"quoteVolume": 99}
            }

    names = (
        "BadSymbol", "RateLimitExceeded", "AuthenticationError", "NotSupported", "BaseError",
    )  # fmt: skip
    errors = {name: type(name, (ArithmeticError,), {}) for name in names}
    return SimpleNamespace(exchanges=["binance"], binance=Binance, **errors)


CASES = {
    "akshare": (akshare, "XSHG", {"600519": "SH600519", "510300.SH": "SH510300"}),
    "tushare": (tushare, "XSHG", {"600519": "SH600519", "sz000001": "SZ000001"}),
    "baostock": (baostock, "XSHG", {"600519": "SH600519", "000001": "SZ000001"}),
    "yfinance": (yfinance, "XNYS", {"AAPL": "AAPL", "msft": "MSFT"}),
    "ccxt": (ccxt, "24/7", {"BTC/USDT": "BTC/USDT", "ETH/USDT": "ETH/USDT"}),
}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Return the configuration of a source whose client library is made up."""
    monkeypatch.setattr(polite, "PAUSE", 0.0)
    monkeypatch.setenv("TUSHARE_TOKEN", "secret")

    def make(name: str, market: Market | None = None, **changes: Any) -> Any:
        made, calendar, symbols = CASES[name]
        market = market or Market(calendar)
        market.calendar = calendar
        client = made(market)
        processor = DataProcessorFactory.create_processor(name, _settings(tmp_path, name, tuple(symbols)))
        monkeypatch.setattr(type(processor), "client", lambda self: client)
        moment = pd.Timestamp("2024-06-29 00:30") if calendar == "24/7" else pd.Timestamp("2024-06-28 20:00")
        clock = moment.tz_localize(timezone(calendar)).tz_convert("UTC")
        monkeypatch.setattr(living, "now", lambda: clock)
        return SimpleNamespace(**{**vars(processor.config), **changes})

    return make


def _settings(folder: Path, name: str, symbols: tuple[str, ...]) -> Any:
    return SimpleNamespace(
        data_source=name, dataset_path=str(folder / "store"), cache_path=str(folder / "cache"), symbols=symbols,
        dataset_begin_time=pd.Timestamp("2024-05-06").date(), dataset_end_time=None, freq="auto", adjust="auto",
        calendar="auto", instrument="csi300", least_share=0.9, exchange="binance",
    )  # fmt: skip


def build(config: Any) -> BarStore:
    return DataProcessorFactory.create_processor(config.data_source, config).run_pipeline()


@pytest.mark.parametrize("name", CASES)
def test_tables_of_the_library_become_its_bars_in_shares_and_money(
    name: str, source: Callable[..., Any]
) -> None:
    market = Market()
    store = build(source(name, market))
    _, calendar, symbols = CASES[name]
    assert (
        store.calendar == calendar and set(store.instruments) == set(symbols.values()) and not store.findings
    )
    frame = store.frame()
    for given, stored in symbols.items():
        expected = market.bars(given.upper() if name in ("yfinance", "ccxt") else stored[2:])
        mine = frame[frame["instrument"] == stored]
        assert list(mine["datetime"]) == list(expected["datetime"])
        for column in ("open", "high", "low", "close", "volume", *(["amount"] if calendar == "XSHG" else [])):
            np.testing.assert_allclose(mine[column], expected[column], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "universe", "members"),
    [
        ("akshare", "csi300", 2), ("tushare", "csi300", 2), ("baostock", "csi300", 2), ("ccxt", "top10", 10),
    ],
)  # fmt: skip
def test_universes_are_known_by_name(
    name: str, universe: str, members: int, source: Callable[..., Any]
) -> None:
    store = build(source(name, symbols=None, instrument=universe))
    assert len(store.instruments) == members and store.source["universe"].startswith(
        f"{universe}: its {members}"
    )
    if name == "ccxt":  # those with the most trade
        assert store.instruments == tuple(f"C{number}/USDT" for number in range(20, 30))


@pytest.mark.parametrize("name", CASES)
def test_a_library_that_is_not_installed_is_told_with_the_line_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    monkeypatch.setenv("TUSHARE_TOKEN", "secret")
    symbols = ("BTC/USDT",) if name == "ccxt" else ("600519",)
    with pytest.raises(UserError, match=rf"needs the package {name}, .* run  pip install '\.\[{name}\]'"):
        build(_settings(tmp_path, name, symbols))


def test_symbols_of_several_clocks_are_refused(source: Callable[..., Any]) -> None:
    with pytest.raises(
        UserError, match="clocks of America/New_York, Asia/Hong_Kong: make one store for each"
    ):
        build(source("yfinance", symbols=("AAPL", "0700.HK")))


def test_a_table_with_other_columns_is_told(source: Callable[..., Any]) -> None:
    config = source("akshare")
    processor = DataProcessorFactory.create_processor("akshare", config)
    real = processor.client().stock_zh_a_hist
    processor.client().stock_zh_a_hist = lambda **asked: real(**asked).rename(columns={"成交量": "量"})
    with pytest.raises(UserError, match=r"gave no column 成交量 .*so update the package akshare"):
        build(config)


@pytest.mark.parametrize(
    ("symbol", "kind", "calendar"),
    [
        ("600519", "chinese", "XSHG"), ("sz000001", "chinese", "XSHG"), ("600519.SS", "chinese", "XSHG"),
        ("BTC/USDT", "pair", "24/7"), ("BTC/USDT:USDT", "pair", "24/7"), ("AAPL", "yahoo", "XNYS"),
        ("BRK-B", "yahoo", "XNYS"), ("0700.HK", "yahoo", "XHKG"), ("BTC-USD", "yahoo", "24/7"),
        ("7203.T", "yahoo", "XTKS"), ("^GSPC", "yahoo", "XNYS"),
    ],
)  # fmt: skip
def test_the_form_of_a_symbol_tells_its_market(symbol: str, kind: str, calendar: str) -> None:
    assert market_of(symbol) == (kind, calendar)


def test_the_exchanges_of_endings_are_known() -> None:
    assert set(YAHOO.values()) <= set(exchanges())
