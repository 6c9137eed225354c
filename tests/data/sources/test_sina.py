"""The sina source against a service on loopback: faults, interruption, topping up, adjustment."""

import signal
import time
from collections.abc import Callable, Iterator
from datetime import date
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import httpx
import numpy as np
import pandas as pd
import pytest
from sina_server import Service, send, series, serve

from kronos.data.bars import Flag
from kronos.data.sources import living, polite, sina, sina_client, topping_up
from kronos.data.sources.polite import BadAnswer, Polite
from kronos.data.sources.sina import SinaDataProcessor, sina_symbol
from kronos.data.sources.sina_client import SinaClient, parse_bars, parse_factors
from kronos.data.store import BarStore, open_store
from kronos.utils.errors import UserError


def set_clock(monkeypatch: pytest.MonkeyPatch, local: str) -> None:
    moment = pd.Timestamp(local).tz_localize("Asia/Shanghai").tz_convert("UTC")
    for module in (living, sina):
        monkeypatch.setattr(module, "now", lambda: moment)


SYMBOLS = ("sh600519", "sz000001", "sz000002")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(polite, "PAUSE", 0.0)
    monkeypatch.setattr(polite, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(sina_client, "TIMEOUT", httpx.Timeout(0.3))
    monkeypatch.setattr(sina_client, "WHOLE_ANSWER", 0.5)
    monkeypatch.setattr(polite, "TRIES", 3)
    monkeypatch.setattr(SinaDataProcessor, "workers", 1)  # faults are those of the first, second, ... request
    set_clock(monkeypatch, "2024-06-29 12:00")
    made = Service(
        bars={symbol: series(symbol) for symbol in SYMBOLS}, factors={"sh600519": [("1900-01-01", "1.0")]}
    )
    with serve(made) as running:
        yield running


@pytest.fixture
def settings(service: Service, tmp_path: Path) -> Callable[..., Any]:
    def make(**changes: Any) -> Any:
        given = {
            "data_source": "sina", "dataset_path": str(tmp_path / "data"), "cache_path": str(tmp_path / "cache"),
            "dataset_begin_time": date(2024, 1, 1), "dataset_end_time": date(2025, 1, 1), "freq": "day",
            "sina_url": service.url, "sina_factor_url": service.url, "sina_symbols": ",".join(SYMBOLS),
            "sina_datalen": 1970, "adjust": "auto", "calendar": "auto", "symbols": None, "instrument": "csi300",
            "qlib_data_path": str(tmp_path / "qlib"), "least_share": 0.9,
        }  # fmt: skip
        return SimpleNamespace(**{**given, **changes})

    return make


def build(config: Any) -> BarStore:
    return SinaDataProcessor(config).run_pipeline()


def test_bars_are_those_of_the_service(service: Service, settings: Callable[..., Any]) -> None:
    store = build(settings())
    assert store.instruments == ("SH600519", "SZ000001", "SZ000002") and store.calendar == "XSHG"
    expected = series("sz000001")
    frame = store.frame().query("instrument == 'SZ000001'")
    assert [f"{day:%Y-%m-%d}" for day in frame["datetime"]] == [row["day"] for row in expected]
    for name in ("open", "high", "low", "close", "volume", "amount"):
        np.testing.assert_allclose(frame[name], [float(row[name]) for row in expected], rtol=1e-6)
    assert not store.flags.any() and store.findings == []


def test_a_second_run_asks_nothing_and_a_later_one_only_for_what_is_new(
    service: Service, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = build(settings())
    before = service.answered.copy()
    assert build(settings()).digest == first.digest and service.answered == before
    set_clock(monkeypatch, "2024-07-05 16:00")
    service.bars = {symbol: series(symbol, until="2024-07-05") for symbol in SYMBOLS}
    service.asked.clear()
    topped = build(settings())
    assert {int(query["datalen"]) for query in service.asked} == {5 + topping_up.OVERLAP}
    whole = build(settings(cache_path=str(tmp_path / "empty"), dataset_path=str(tmp_path / "whole")))
    assert topped.digest == whole.digest != first.digest


def test_a_day_that_is_not_over_is_left_out(
    service: Service, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, "2024-06-28 14:00")
    store = build(settings())
    assert pd.Timestamp(int(store.times.max())) == pd.Timestamp("2024-06-27")
    assert any("asked until 2024-06-27" in note for note in store.source["notes"])


@pytest.mark.parametrize("when", ["before the request", "after the answer"])
def test_interrupted_at_any_request_and_started_again_it_ends_the_same(
    service: Service, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str
) -> None:
    whole = build(settings()).digest
    requests = service.answered.total()
    assert requests == 2 * len(SYMBOLS)
    real = SinaClient._get
    for stop in range(requests):
        service.answered.clear()
        count = iter(range(100))

        def interrupted(self: SinaClient, url: str, query: Any, stop: int = stop, count: Any = count) -> Any:
            this = next(count)
            if this == stop and when == "before the request":
                raise KeyboardInterrupt
            answer = real(self, url, query)
            if this == stop:
                raise KeyboardInterrupt
            return answer

        config = settings(
            cache_path=str(tmp_path / f"cache{stop}"), dataset_path=str(tmp_path / f"data{stop}")
        )
        monkeypatch.setattr(SinaClient, "_get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(config)
        assert not Path(config.dataset_path).exists()
        finished = stop
        monkeypatch.setattr(SinaClient, "_get", real)
        assert build(config).digest == whole
        repeated = {name for name, times in service.answered.items() if times > 1}
        if when == "before the request":
            assert service.answered.total() == requests and not repeated
        else:  # the answer that was never written down is asked for again, and no other
            assert service.answered.total() == requests + 1 and len(repeated) == 1
        assert finished == stop


def _status(status: int, headers: dict[str, str] | None = None) -> Callable[[Any], None]:
    return lambda handler: send(handler, status, b"<html>busy</html>", headers)


def _body(body: bytes) -> Callable[[Any], None]:
    return lambda handler: send(handler, 200, body)


def _slow(handler: Any) -> None:
    time.sleep(0.5)


def _trickle(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(6):
        handler.wfile.write(b"=([{")
        handler.wfile.flush()
        time.sleep(0.15)


def _broken_off(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b"=([{")
    handler.close_connection = True


ROW = b'{"day":"2024-01-02","open":"1","high":"1","low":"1","close":"1","volume":"1"}'
FAULTS = {
    "slow": (_slow, "nothing for 0.3 s"),
    "trickle": (_trickle, "no whole answer in 0.5 s"),
    "connection closed": (_broken_off, "peer closed connection without sending complete message body"),
    "empty": (_body(b""), "an empty answer, bars in JSONP expected"),
    "truncated": (_body(b'=([{"day":"2024-01-02","open":"1"'), "bars in JSONP expected"),
    "truncated inside": (_body(b'=([{"day":"2024-01-02","op);'), "bars in JSONP that break off"),
    "429": (_status(429, {"Retry-After": "0"}), "status 429, too many requests: it asks to slow down"),
    "456": (_status(456), "status 456, too many requests: it asks to slow down"),
    "500": (_status(500), "status 500"),
    "503": (_status(503), "status 503"),
    "html": (_body(b"<!DOCTYPE html><title>403</title>"), "a page of HTML, as it sends for too many requests"),
    "utf-16": (_body(b"\xff\xfe=\x00(\x00[\x00"), "bytes that are neither UTF-8 nor GB18030 text"),
    "an object": (_body(b'=({"error": 3});'), "a dict, a list of bars was expected"),
    "a bar without close": (_body(b"=([" + ROW.replace(b"close", b"clos") + b"]);"), "an invalid bar"),
    "a price that is none": (_body(b"=([" + ROW.replace(b'"1"', b'"--"') + b"]);"), "an invalid bar"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_that_passes_changes_nothing_and_one_that_stays_is_named(
    service: Service, settings: Callable[..., Any], tmp_path: Path, fault: tuple[Callable[[Any], None], str]
) -> None:
    behave, message = fault
    config = settings(sina_symbols="sh600519,sz000001", sina_factor_url=None)
    service.faults = [behave]
    store = build(config)
    assert len(store.instruments) == 2 and not service.faults

    again = settings(
        sina_symbols="sh600519,sz000001", sina_factor_url=None, cache_path=str(tmp_path / "other"),
        dataset_path=str(tmp_path / "other data"),
    )  # fmt: skip
    service.answered.clear()
    service.faults = [lambda handler: send(handler, *service.answer(*_parts(handler)))] + polite.TRIES * [
        behave
    ]
    with pytest.raises(UserError) as caught:
        build(again)
    said = str(caught.value)
    assert f"sz000001: {service.url}" in said and "gave no bars in 3 tries, the last time: " in said
    assert message in said and "1 of 2 symbols are in" in said and "\n" not in said
    assert not Path(again.dataset_path).exists()
    assert build(again).digest == store.digest
    assert service.answered["sh600519"] == 1


def _parts(handler: Any) -> tuple[str, dict[str, str]]:
    url = httpx.URL(handler.path)
    return url.path, dict(url.params)


def test_waiting_doubles_heeds_retry_after_and_requests_keep_their_distance(service: Service) -> None:
    waited: list[float] = []
    with SinaClient(service.url, None, Polite(sleep=waited.append)) as client:
        service.faults = [_status(500), _status(429, {"Retry-After": "7"})]
        assert len(client.bars("sh600519", 240, 10)) == 10
    assert waited[1::2] == [0.001, 7.0]


def test_waits_double_up_to_the_longest_one(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polite, "TRIES", 6)
    monkeypatch.setattr(polite, "FIRST_WAIT", 2.0)
    monkeypatch.setattr(polite, "LONGEST_WAIT", 10.0)
    waited: list[float] = []
    service.faults = [_status(500), _status(429, {"Retry-After": "99"}), *4 * [_status(500)]]
    with (
        SinaClient(service.url, None, Polite(sleep=waited.append)) as client,
        pytest.raises(UserError, match="gave no bars in 6 tries, the last time: status 500"),
    ):
        client.bars("sh600519", 240, 10)
    assert waited[1::2] == [2.0, 10.0, 8.0, 10.0, 10.0] and not service.faults


def test_an_address_that_is_none_is_refused_at_once(service: Service) -> None:
    for url, message in (
        (service.url + "/nothing", "answers with status 418: check --sina-url"),
        ("no address", "gave no bars in 3 tries"),
        ("http://127.0.0.1:1", "gave no bars in 3 tries, the last time: .*refused"),
    ):
        service.faults = [_status(418)] if "nothing" in url else []
        with (
            SinaClient(url, None, Polite(sleep=lambda seconds: None)) as client,
            pytest.raises(UserError, match=message),
        ):
            client.bars("sh600519", 240, 10)


def test_a_gbk_comment_is_no_obstacle(service: Service, settings: Callable[..., Any]) -> None:
    text = "/* 新浪 */=([" + ROW.decode() + "]);"
    service.faults = [_body(text.encode("gbk"))]
    with SinaClient(service.url, None, Polite()) as client:
        assert client.bars("sh600519", 240, 1) == [("2024-01-02", "1", "1", "1", "1", "1", "")]


def test_unknown_symbols_are_counted_and_not_asked_for_again(
    service: Service, settings: Callable[..., Any]
) -> None:
    config = settings(sina_symbols="sh600519,sz999999")
    store = build(config)
    assert [(one["kind"], one["items"][0][0]) for one in store.findings] == [
        ("symbol without bars", "SZ999999")
    ]
    build(config)
    assert service.answered["sz999999"] == 1
    with pytest.raises(UserError, match="knows none of the 1 symbols"):
        build(settings(sina_symbols="sz999999"))


def test_factors_adjust_forward_and_the_past_keeps_its_prices(
    service: Service, settings: Callable[..., Any]
) -> None:
    rows = service.bars["sh600519"]
    split = 40
    for row in rows[split:]:
        for name in ("open", "high", "low", "close"):
            row[name] = f"{float(row[name]) / 1.5:.4f}"
    service.factors["sh600519"] = [("2001-01-01", "2.0"), (rows[split]["day"], "3.0")]
    store = build(settings(sina_symbols="sh600519"))
    plain = [float(row["close"]) for row in series("sh600519")]
    np.testing.assert_allclose(store.values[:, 3], plain, rtol=1e-4)
    assert (np.asarray(store.flags) == np.where(np.arange(len(rows)) < split, 0, Flag.ADJUSTED)).all()
    assert [(one["kind"], one["count"]) for one in store.findings] == [("adjustment factor changes", 1)]


def test_a_changed_bar_is_counted_and_the_first_reading_kept(
    service: Service, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(settings(sina_symbols="sz000001"))
    set_clock(monkeypatch, "2024-07-01 16:00")
    service.bars["sz000001"] = series("sz000001", until="2024-07-01")
    service.bars["sz000001"][-3]["close"] = "1.5"
    store = build(settings(sina_symbols="sz000001"))
    assert len(store) == len(first) + 1
    np.testing.assert_array_equal(store.values[:-1], first.values)
    assert [one["kind"] for one in store.findings] == ["bar that the service has changed since it was cached"]


def test_a_damaged_file_of_the_cache_is_fetched_anew_and_counted(
    service: Service, settings: Callable[..., Any], tmp_path: Path
) -> None:
    digest = build(settings()).digest
    for name in ("record.json", "*.parquet"):
        (file,) = tmp_path.glob(f"cache/sina/*/day/sz000001*/{name}")
        file.write_bytes(file.read_bytes()[:100])
        store = build(settings())
        assert store.digest == digest
        assert [one["kind"] for one in store.findings] == ["damaged file of the cache"]


def test_five_minute_bars(service: Service, settings: Callable[..., Any]) -> None:
    service.bars["sh600519"] = series("sh600519", "5min", begin="2024-06-03")
    store = build(settings(freq="5min", sina_symbols="600519", sina_datalen=400))
    assert (store.freq, len(store), service.asked[0]["scale"]) == ("5min", 400, "5")
    with pytest.raises(UserError, match="data_source=sina has no 1min bars: give --freq, one of day, 5min"):
        build(settings(freq="1min"))


def test_symbols_come_from_a_list_a_file_or_a_universe_with_its_membership(
    service: Service, settings: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "symbols.txt"
    file.write_text("SH600519  # liquor\n\n000001.SZ\n")
    for given in (
        str(file), (str(file),), "600519.SH,sz000001", ("SH600519", "000001.XSHE"), ["sh600519, 000001"],
        "000001.SZ," + 100 * "sh600519,",
    ):  # fmt: skip
        assert list(SinaDataProcessor(settings(sina_symbols=given))._members()) == ["sh600519", "sz000001"]
    assert build(settings(sina_symbols=(str(file),))).instruments == ("SH600519", "SZ000001")
    universe = tmp_path / "qlib" / "instruments" / "csi300.txt"
    universe.parent.mkdir(parents=True)
    universe.write_text("SH600519\t2024-02-01\t2024-03-29\n")
    store = build(settings(sina_symbols=None))
    times = pd.DatetimeIndex(store.times.astype("datetime64[ns]"))
    inside = (times >= "2024-02-01") & (times <= "2024-03-29")
    assert ((np.asarray(store.flags) == 0) == inside).all()


def test_the_input_digest_follows_the_bars_the_symbols_and_their_membership(
    service: Service, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def digest(**changes: Any) -> str:
        return SinaDataProcessor(settings(**changes)).input_digest()

    before = digest()
    assert digest(sina_symbols=SYMBOLS[::-1]) == before != digest(sina_symbols=SYMBOLS[:2])
    file = tmp_path / "universe.txt"
    file.write_text("SH600519\t2024-02-01\t2024-03-29\n")
    member = digest(sina_symbols=(str(file),))
    file.write_text("SH600519\t2024-02-01\t2024-04-30\n")
    assert digest(sina_symbols=(str(file),)) != member
    set_clock(monkeypatch, "2024-07-05 16:00")
    service.bars = {symbol: series(symbol, until="2024-07-05") for symbol in SYMBOLS}
    assert digest() != before


@pytest.mark.parametrize(
    ("text", "symbol"),
    [("sh600519", "sh600519"), ("SZ000001", "sz000001"), ("600519.SH", "sh600519"), ("000001.XSHE", "sz000001"),
     ("688001", "sh688001"), ("300750", "sz300750"), ("830799", "bj830799"), ("920001", "bj920001"),
     ("600519.SS", "sh600519"), ("sh.600519", "sh600519")],
)  # fmt: skip
def test_spellings_of_symbols(text: str, symbol: str) -> None:
    assert sina_symbol(text) == symbol


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (None, "data_source=sina needs --sina-symbols: a list like sh600519,sz000001"),
        ("AAPL", "'AAPL' is not a symbol: sh, sz or bj and six digits"),
        ("nowhere/list.txt", "sina_symbols nowhere/list.txt does not exist"),
        (("list.txt",), "sina_symbols list.txt does not exist"),
        (("sh600519", "list.txt"), "'list.txt' is not a symbol"),
        ((), "has no symbol"),
        (" , ", "has no symbol"),
    ],
)
def test_what_is_no_list_of_symbols_is_refused(
    settings: Callable[..., Any], symbols: str | tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build(settings(sina_symbols=symbols))


def test_a_bar_without_prices_is_left_out_and_counted(service: Service, settings: Callable[..., Any]) -> None:
    empty = ROW.replace(b'"1"', b'""').replace(b"01-02", b"01-03")
    later = ROW.replace(b"01-02", b"01-04").replace(b"}", b',"amount":null}')
    service.faults = [_body(b"=([" + b",".join([ROW, empty, b"null", later]) + b"]);")]
    store = build(settings(sina_symbols="sh600519", sina_factor_url=None))
    counts = {one["kind"]: one["count"] for one in store.findings}
    assert counts["bar that the service gives without prices"] == 2
    real = store.frame()[(np.asarray(store.flags) & Flag.FILLED) == 0]
    assert real["datetime"].dt.day.tolist() == [2, 4]


def test_answers_are_read_with_and_without_their_wrapping() -> None:
    bar = [("2024-01-02", "1", "1", "1", "1", "1", "")]
    row = ROW.decode()
    for text in (f"=([{row}]);", f"var _sh600519_240=([{row}]);\n", f"/*<script>f();</script>*/\n=([{row}])"):
        assert parse_bars(text) == bar
    assert parse_bars("=(null);") is None and parse_bars("=([]);") == []
    factors = 'var sh600519hfq={"total":2,"data":[{"d":"2020-01-02","f":"1.5"},{"d":"1900-01-01","f":"1.0"}]}'
    assert parse_factors(factors + "\n/* x */") == [("1900-01-01", "1.0"), ("2020-01-02", "1.5")]
    assert parse_factors('var a={"total":0,"data":[]}') is None
    for damaged in (
        factors.replace('"total":2', '"total":3'),
        factors.replace("1.5", "-1"),
        "var a={}",
        "<html>",
    ):
        with pytest.raises(BadAnswer):
            parse_factors(damaged)


@pytest.mark.slow
def test_killed_outright_at_a_request_and_started_again_it_ends_the_same(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at the second, fourth and sixth request: the answers before it are asked for no more."""

    def command(name: str) -> list[str]:
        fields = {
            "data-source": "sina", "sina-symbols": ",".join(SYMBOLS), "sina-url": service.url,
            "sina-factor-url": service.url, "cache-path": tmp_path / name / "cache",
            "dataset-path": tmp_path / name / "data", "dataset-begin-time": "2024-01-01",
            "dataset-end-time": "2024-06-28", "train-time-range": "2024-01-02,2024-03-14",
            "val-time-range": "2024-03-01,2024-04-16", "test-time-range": "2024-04-01,2024-06-28",
            "backtest-time-range": "2024-06-03,2024-06-28", "lookback-window": 10, "predict-window": 3,
        }  # fmt: skip
        return ["data", *(text for field, value in fields.items() for text in (f"--{field}", str(value)))]

    def start(name: str) -> ForkServerProcess:
        return forked.start(forked.kronos, command(name), output=tmp_path / f"{name}.txt")

    def run(name: str) -> tuple[int | None, str]:
        process = start(name)
        process.join(timeout=300)
        failed = process.exitcode != 0
        said = (tmp_path / f"{name}.txt").read_text()
        return process.exitcode, said if failed else open_store(tmp_path / name / "data").digest

    monkeypatch.chdir(tmp_path)
    status, whole = run("whole")
    assert status == 0, whole
    requests = service.answered.total()
    for before in (1, 3, 5):
        service.answered.clear()
        process: list[ForkServerProcess] = []
        service.faults = [service.respond] * before + [lambda _, process=process: process[0].kill()]
        process.append(start(f"killed{before}"))
        process[0].join(timeout=300)
        assert process[0].exitcode == -signal.SIGKILL
        assert not (tmp_path / f"killed{before}" / "data").exists()
        assert run(f"killed{before}") == (0, whole)
        assert service.answered.total() == requests and set(service.answered.values()) == {1}
