"""data_source=auto: the source by the form of the symbols, and one store for each market."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from services import Market
from test_today import akshare, ccxt, yfinance

from kronos.config.schema import Config
from kronos.data.sources import auto, living, polite
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.sources.symbols import market_of
from kronos.data.store import open_store
from kronos.stages import execute
from kronos.utils.errors import UserError

FOUR = ("600519", "AAPL", "BTC/USDT", "0700.HK")


def create(*symbols: str, freq: str = "auto") -> Any:
    config = SimpleNamespace(
        data_source="auto", symbols=symbols or None, freq=freq, dataset_path="store", exchange="binance",
        sina_symbols=None,
    )  # fmt: skip
    return DataProcessorFactory.create_processor("auto", config)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    names: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in names else None)
    monkeypatch.delenv("TUSHARE_TOKEN", raising=False)
    return names


def test_the_form_of_symbols_and_what_is_installed_choose_the_source(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(*symbols: str, freq: str = "auto") -> str:
        made = create(*symbols, freq=freq)
        assert f"from {made.library or 'sina'}" in made.chosen_because
        return made.library or "sina"

    assert name("BTC/USDT") == "ccxt" and name("AAPL", "MSFT") == "yfinance"  # whether installed or not
    assert name("600519") == "sina"
    installed |= {"tushare", "baostock"}
    assert name("600519", "sz000001") == "baostock"
    installed |= {"akshare"}
    assert name("600519") == "akshare"
    installed -= {"akshare", "baostock"}
    assert name("600519") == "sina"  # tushare would need a token
    monkeypatch.setenv("TUSHARE_TOKEN", "secret")
    assert name("600519") == "tushare" and name("600519", freq="5min") == "sina"


def test_several_markets_in_one_store_and_no_symbols_are_refused(installed: set[str]) -> None:
    with pytest.raises(
        UserError, match=r"several markets \(XSHG: 600519; XNYS: AAPL; crypto: BTC/USDT; XHKG: 0700"
    ):
        create(*FOUR)
    with pytest.raises(UserError, match="data_source=auto needs --symbols"):
        create()


class SeveralExchanges(Market):
    """A market whose symbols are traded on the exchanges that their endings name."""

    def bars(self, symbol: str) -> pd.DataFrame:
        return Market(market_of(symbol).calendar, self.begin, self.today).bars(symbol)


@pytest.mark.slow
def test_four_symbols_of_four_markets_make_four_stores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(polite, "PAUSE", 0.0)
    monkeypatch.setattr(living, "now", lambda: pd.Timestamp("2024-06-29 22:00", tz="UTC"))
    monkeypatch.setattr(auto, "_usable", lambda name, freq, processor: name == "akshare")
    for kind, made in (("akshare", akshare), ("yfinance", yfinance), ("ccxt", ccxt)):
        client = made(SeveralExchanges(begin="2023-12-01"))
        monkeypatch.setattr(DataProcessorFactory.class_of(kind), "client", lambda self, client=client: client)
    config = Config().replace(
        data_source="auto", symbols=FOUR, dataset_path="store", tracking_uri="sqlite:///t.db",
        dataset_begin_time="2023-12-01", lookback_window=10, predict_window=2,
        train_time_range=("2024-01-01", "2024-02-29"), val_time_range=("2024-03-01", "2024-04-12"),
        test_time_range=("2024-04-15", "2024-06-28"), backtest_time_range=("2024-05-20", "2024-06-28"),
    )  # fmt: skip
    results = execute("data", config, say=lambda line: None)
    assert list(results) == ["data of XSHG", "data of XNYS", "data of crypto", "data of XHKG"]
    for place, symbol, kind, calendar in (
        ("xshg", "SH600519", "akshare", "XSHG"), ("xnys", "AAPL", "yfinance", "XNYS"),
        ("crypto", "BTC/USDT", "ccxt", "24/7"), ("xhkg", "0700.HK", "yfinance", "XHKG"),
    ):  # fmt: skip
        store = open_store(f"store-{place}")
        assert store.instruments == (symbol,) and store.calendar == calendar
        assert any(f"they come from {kind}" in note for note in store.source["notes"])
