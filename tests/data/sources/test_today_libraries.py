"""The sources of today through their real client libraries, which servers on loopback answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pandas as pd
import pytest
import services
from services import SPLIT_DAY, Market, serve, serve_baostock

from kronos.data.calendars import timezone
from kronos.data.sources import living, polite
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

pytestmark = pytest.mark.slow

Patch = pytest.MonkeyPatch


@contextmanager
def akshare(market: Market, patch: Patch) -> Iterator[None]:
    """Requests go through the adapter of the package requests, which sends them to loopback."""
    requests = pytest.importorskip("requests")
    pytest.importorskip("akshare")
    real = requests.adapters.HTTPAdapter.send

    def send(self: Any, request: Any, **options: Any) -> Any:
        here = urlsplit(market.url)
        request.url = urlunsplit((here.scheme, here.netloc, *urlsplit(request.url)[2:]))
        return real(self, request, **{**options, "proxies": {}})

    patch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with serve(market, services.eastmoney):
        yield


@contextmanager
def tushare(market: Market, patch: Patch) -> Iterator[None]:
    client = pytest.importorskip("tushare").pro.client
    patch.setenv("TUSHARE_TOKEN", "secret")
    with serve(market, services.tushare):
        patch.setattr(client.DataApi, "_DataApi__http_url", market.url)
        yield


@contextmanager
def baostock(market: Market, patch: Patch) -> Iterator[None]:
    names = pytest.importorskip("baostock").common.contants
    with serve_baostock(market) as port:
        patch.setattr(names, "BAOSTOCK_SERVER_IP", "127.0.0.1")
        patch.setattr(names, "BAOSTOCK_SERVER_PORT", port)
        yield


@contextmanager
def yfinance(market: Market, patch: Patch) -> Iterator[None]:
    """The address is a constant of two modules. The cookie, which Yahoo's charts do not need, is not asked for."""
    client = pytest.importorskip("yfinance")
    patch.setattr(client.data.YfData, "_get_cookie_and_crumb", lambda self, timeout=30: (None, "basic"))
    client.data.YfData().cache_get.cache_clear()
    with serve(market, services.yahoo):
        patch.setattr(client.base, "_BASE_URL_", market.url)
        patch.setattr(client.scrapers.history, "_BASE_URL_", market.url)
        yield


@contextmanager
def ccxt(market: Market, patch: Patch) -> Iterator[None]:
    client = pytest.importorskip("ccxt")
    with serve(market, services.binance):
        real = client.binance.describe

        def describe(self: Any) -> Any:
            own = real(self)
            own["urls"]["api"] = {name: f"{market.url}/{name}" for name in own["urls"]["api"]}
            own["options"]["fetchMarkets"] = {"types": ["spot"]}
            own["options"]["fetchCurrencies"] = False
            own["rateLimit"] = 0
            return own

        patch.setattr(client.binance, "describe", describe)
        yield


@dataclass(frozen=True)
class Case:
    """One source: how it is served, three symbols as they are given, asked for and stored."""

    served: Callable[[Market, Patch], Any]
    given: tuple[str, str, str]
    asked: tuple[str, str, str]
    stored: tuple[str, str, str]
    calendar: str = "XSHG"
    requests: int = 2  # for each symbol
    slow_down: Any = (429, "slow down")
    half: Any = field(default=lambda text: text[: len(text) // 2])
    lacks_amount: bool = False
    changed: Any = None  # what makes other columns of an answer


CHINESE = {
    "given": ("600519", "000001.SZ", "sz300750"), "asked": ("600519", "000001", "300750"),
    "stored": ("SH600519", "SZ000001", "SZ300750"),
}  # fmt: skip
TOO_OFTEN = '{"code": 40203, "msg": "抱歉，您每分钟最多访问该接口50次", "data": null}'
CASES = {
    "akshare": Case(akshare, **CHINESE, changed=services.changed_lines, slow_down=(200, "<html>busy</html>")),
    "tushare": Case(tushare, **CHINESE, changed=services.changed_fields, slow_down=(200, TOO_OFTEN)),
    "baostock": Case(
        baostock, **CHINESE, changed=services.changed_packet, slow_down=lambda data: b"",
        half=lambda data: data[: len(data) // 2],
    ),
    "yfinance": Case(
        yfinance, ("aapl", "MSFT", "KO"), ("AAPL", "MSFT", "KO"), ("AAPL", "MSFT", "KO"), "XNYS", requests=1,
        lacks_amount=True, changed=services.changed_chart,
    ),
    "ccxt": Case(
        ccxt, ("BTC/USDT", "ETH/USDT", "sol/usdt"), ("BTCUSDT", "ETHUSDT", "SOLUSDT"),
        ("BTC/USDT", "ETH/USDT", "SOL/USDT"), "24/7", lacks_amount=True,
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def source(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def case(source: str) -> Case:
    return CASES[source]


@pytest.fixture
def market(case: Case, monkeypatch: Patch) -> Iterator[Market]:
    monkeypatch.setattr(polite, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(polite, "LONGEST_WAIT", 0.002)
    monkeypatch.setattr(polite, "PAUSE", 0.0)
    monkeypatch.setattr(polite, "TRIES", 3)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Market(case.calendar)
    end_of(made, "2024-06-28", monkeypatch)
    with case.served(made, monkeypatch):
        yield made


def end_of(market: Market, day: str, monkeypatch: Patch) -> None:
    market.today = day
    local = pd.Timestamp(day) + pd.Timedelta(hours=23 if market.calendar != "24/7" else 24, minutes=30)
    moment = local.tz_localize(timezone(market.calendar)).tz_convert("UTC")
    monkeypatch.setattr(living, "now", lambda: moment)


@pytest.fixture
def settings(source: str, case: Case, tmp_path: Path) -> Callable[..., Any]:
    def make(place: str = "cache", **changes: Any) -> Any:
        given = {
            "data_source": source, "dataset_path": str(tmp_path / f"store of {place}"),
            "cache_path": str(tmp_path / place), "dataset_begin_time": pd.Timestamp("2024-05-06").date(),
            "dataset_end_time": None, "freq": "auto", "symbols": case.given, "adjust": "auto", "calendar": "auto",
            "instrument": "csi300", "least_share": 0.9, "exchange": "binance",
        }  # fmt: skip
        return SimpleNamespace(**{**given, **changes})

    return make


def build(config: Any) -> BarStore:
    return DataProcessorFactory.create_processor(config.data_source, config).run_pipeline()


def test_the_bars_are_those_of_the_service(market: Market, case: Case, settings: Callable[..., Any]) -> None:
    store = build(settings())
    assert store.instruments == tuple(sorted(case.stored)) and store.calendar == case.calendar
    frame = store.frame()
    for stored, asked in zip(case.stored, case.asked, strict=True):
        mine, expected = frame[frame["instrument"] == stored], market.bars(asked)
        assert list(mine["datetime"]) == list(expected["datetime"])
        for name in (
            "open",
            "high",
            "low",
            "close",
            "volume",
            *(["amount"] if not case.lacks_amount else []),
        ):
            np.testing.assert_allclose(mine[name], expected[name], rtol=1e-6)
    assert store.findings == []


def test_topped_up_with_a_split_in_between_and_killed_at_any_request_it_ends_the_same(
    market: Market, case: Case, settings: Callable[..., Any], monkeypatch: Patch, source: str
) -> None:
    market.splits = {case.asked[0]: 0.5} if case.calendar != "24/7" else {}
    first = build(settings())
    one_day = len(market.answered)
    end_of(market, "2024-07-05", monkeypatch)
    second = build(settings())
    requests = len(market.answered)
    assert second.digest != first.digest and requests > one_day >= 3 * case.requests
    assert build(settings()).digest == second.digest and len(market.answered) == requests
    assert second.digest == build(settings("anew")).digest
    if market.splits:
        prices = second.frame().query(f"instrument == '{case.stored[0]}'").set_index("datetime")["close"]
        raw = market.bars(case.asked[0]).set_index("datetime")["close"]
        whole = np.where(raw.index < SPLIT_DAY, raw, raw * 2)
        np.testing.assert_allclose(prices / prices.iloc[0], whole / raw.iloc[0], rtol=1e-4)
    real = polite.Polite._try
    for stop in range(0, requests, 2):
        market.answered.clear()
        count = iter(range(1000))

        def interrupted(self: Any, request: Any, stop: int = stop, count: Any = count) -> Any:
            if next(count) == stop:
                raise KeyboardInterrupt
            return real(self, request)

        monkeypatch.setattr(polite.Polite, "_try", interrupted)
        killed = 0
        for day, digest in (("2024-06-28", first.digest), ("2024-07-05", second.digest)):
            end_of(market, day, monkeypatch)
            try:
                store = build(settings(f"killed at {stop}"))
            except KeyboardInterrupt:
                killed += 1
                store = build(settings(f"killed at {stop}"))
            assert store.digest == digest
        monkeypatch.setattr(polite.Polite, "_try", real)
        assert killed == 1
        # Nothing is asked twice, but what shows that a symbol is on another basis, and the days of its first page.
        # A list of factors in three pages, as Tushare's, is kept when it is whole: each symbol may ask for two again.
        assert len(market.answered) <= requests + 1 + (3 * 2 if source == "tushare" else 0)


@pytest.mark.parametrize("fault", ["slow down", "half an answer", "a status"])
def test_a_fault_that_passes_changes_nothing_and_one_that_stays_is_told_in_one_line(
    market: Market, case: Case, settings: Callable[..., Any], fault: str, source: str
) -> None:
    expected = build(settings()).digest
    broken = {"slow down": case.slow_down, "half an answer": case.half, "a status": (500, "broken")}[fault]
    if source == "baostock" and fault == "a status":
        broken = lambda data: b"nothing of the kind<![CDATA[]]>\n"  # noqa: E731
    for place in range(3):  # the first requests of some are those of a login, a zone or a list of markets
        market.faults = [*place * [None], broken]
        assert build(settings(f"again {place}")).digest == expected and not market.faults
    market.faults = 40 * [broken]
    with pytest.raises(UserError, match="in 3 tries, the last time: ") as caught:
        build(settings("broken"))
    assert "\n" not in str(caught.value) and "0 of 3 symbols are in" in str(caught.value)
    market.faults = []
    assert build(settings("broken")).digest == expected


def test_an_unknown_symbol_is_listed_and_an_empty_day_is_no_fault(
    market: Market, case: Case, settings: Callable[..., Any], monkeypatch: Patch
) -> None:
    market.unknown = (case.asked[2],)
    store = build(settings())
    assert store.instruments == tuple(sorted(case.stored[:2]))
    assert [(one["kind"], one["count"]) for one in store.findings] == [("symbol without bars", 1)]
    end_of(market, "2024-07-02", monkeypatch)
    market.today = "2024-06-28"  # the service has no bar of the last days yet
    assert build(settings()).digest == store.digest


@pytest.mark.parametrize("source", [name for name, one in CASES.items() if one.changed is not None])
def test_columns_that_changed_are_told_in_one_line_with_what_to_do(
    market: Market, case: Case, settings: Callable[..., Any]
) -> None:
    market.faults = 40 * [case.changed]
    with pytest.raises(UserError, match=r"pip install -U|update the package") as caught:
        build(settings())
    assert "\n" not in str(caught.value)


def test_without_a_network_it_is_one_line(
    market: Market, case: Case, settings: Callable[..., Any], monkeypatch: Patch, source: str
) -> None:
    market.url = "http://127.0.0.1:1"
    if source == "baostock":
        monkeypatch.setattr("baostock.common.contants.BAOSTOCK_SERVER_PORT", 1)
    elif source == "tushare":
        monkeypatch.setattr("tushare.pro.client.DataApi._DataApi__http_url", market.url)
    elif source == "yfinance":
        monkeypatch.setattr("yfinance.base._BASE_URL_", market.url)
        monkeypatch.setattr("yfinance.scrapers.history._BASE_URL_", market.url)
    with pytest.raises(UserError, match="gave no bars in 3 tries, the last time: ") as caught:
        build(settings())
    assert "\n" not in str(caught.value)


def test_a_refused_token_is_one_line(monkeypatch: Patch, tmp_path: Path) -> None:
    market = Market()
    config = SimpleNamespace(
        data_source="tushare", dataset_path=str(tmp_path / "store"), cache_path=str(tmp_path), symbols=("600519",),
        dataset_begin_time=None, dataset_end_time=None, freq="auto", adjust="auto", calendar="auto", least_share=0.9,
    )  # fmt: skip
    with tushare(market, monkeypatch):
        monkeypatch.setenv("TUSHARE_TOKEN", "wrong")
        with pytest.raises(UserError, match="Tushare refuses the token in TUSHARE_TOKEN: 您的token不对"):
            build(config)
        monkeypatch.delenv("TUSHARE_TOKEN")
        with pytest.raises(UserError, match="needs your token in the environment variable TUSHARE_TOKEN"):
            build(config)


def test_an_unknown_exchange_is_named_with_the_nearest(monkeypatch: Patch, tmp_path: Path) -> None:
    pytest.importorskip("ccxt")
    config = SimpleNamespace(
        data_source="ccxt", dataset_path=str(tmp_path / "store"), cache_path=str(tmp_path), symbols=("BTC/USDT",),
        dataset_begin_time=None, dataset_end_time=None, freq="auto", adjust="auto", calendar="auto", least_share=0.9,
        exchange="binanse",
    )  # fmt: skip
    with pytest.raises(UserError, match="exchange: ccxt has no 'binanse', did you mean binance"):
        build(config)
