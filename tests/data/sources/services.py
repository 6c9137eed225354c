"""Made-up markets, and servers on loopback that speak as the services of `data/sources/` do."""

import json
import socketserver
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd

from kronos.data.calendars import sessions

SPLIT_DAY = "2024-07-03"


@dataclass
class Market:
    """What there is to know at the end of `today`, and what was asked; `faults` are used up one a request.

    A symbol in `splits` has prices x its ratio from SPLIT_DAY on.
    """

    calendar: str = "XSHG"
    begin: str = "2024-05-06"
    today: str = "2024-06-28"
    unknown: tuple[str, ...] = ()
    splits: dict[str, float] = field(default_factory=dict)
    faults: list[Any] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    url: str = ""

    def bars(self, symbol: str) -> pd.DataFrame:
        """The bars of a symbol as they were traded, and `factor`, under which they are on one basis."""
        times = sessions(self.calendar, self.begin, self.today)
        generator = np.random.default_rng(sum(map(ord, symbol)))
        close = np.round(50 * np.exp(np.cumsum(generator.normal(0, 0.01, 400))), 2)[: len(times)]
        ratio = np.where(times >= SPLIT_DAY, self.splits.get(symbol, 1.0), 1.0)
        volume = (1000.0 + np.arange(len(times))) * 100
        price = {"open": close - 0.1, "high": close + 0.2, "low": close - 0.3, "close": close}
        return pd.DataFrame({
            "datetime": times, **{name: np.round(value * ratio, 4) for name, value in price.items()},
            "volume": volume, "amount": np.round(close * ratio * volume, 2), "factor": 1 / ratio,
        })  # fmt: skip

    def between(self, symbol: str, first: str | None, last: str | None) -> pd.DataFrame:
        bars = self.bars(symbol)
        low = pd.Timestamp(first) if first else bars["datetime"].min()
        high = pd.Timestamp(last) if last else bars["datetime"].max()
        return bars[(bars["datetime"] >= low) & (bars["datetime"] <= high)].reset_index(drop=True)


def eastmoney(market: Market, path: str, query: dict[str, str], body: bytes) -> tuple[int, str]:
    """Eastmoney's K-lines and Sina's factors, which akshare asks."""
    if path.endswith("hfq.js"):
        symbol = path.split("/")[-2]
        market.answered.append(f"factors of {symbol}")
        rows = (
            [{"d": SPLIT_DAY, "f": str(1 / market.splits[symbol[2:]])}] if _split(market, symbol[2:]) else []
        )
        rows.append({"d": "1900-01-01", "f": "1.0"})
        return 200, f"var {symbol}hfq={json.dumps({'total': len(rows), 'data': rows})}\n/* note */"
    symbol = query["secid"].partition(".")[2]
    market.answered.append(f"{symbol} {query['beg']}")
    if symbol in market.unknown:
        return 200, json.dumps({"data": None})
    lines = [
        f"{row.datetime:%Y-%m-%d},{row.open},{row.close},{row.high},{row.low},{row.volume / 100:.0f},{row.amount},"
        "1,2,3,4"
        for row in market.between(symbol, query["beg"], query["end"]).itertuples()
    ]
    return 200, json.dumps({"data": {"klines": lines}})


def _split(market: Market, symbol: str) -> bool:
    return symbol in market.splits and market.today >= SPLIT_DAY


def tushare(market: Market, path: str, query: dict[str, str], body: bytes) -> tuple[int, str]:
    asked = json.loads(body)
    if asked["token"] != "secret":
        return 200, json.dumps({"code": 40101, "msg": "您的token不对，请确认。", "data": None})
    given = asked["params"]
    symbol = given["ts_code"].partition(".")[0]
    market.answered.append(f"{asked['api_name']} {symbol} {given['start_date']}")
    bars = market.between(symbol, given["start_date"], given["end_date"]).iloc[::-1]
    day = bars["datetime"].dt.strftime("%Y%m%d")
    if asked["api_name"] == "adj_factor":
        table = pd.DataFrame(
            {"ts_code": given["ts_code"], "trade_date": day, "adj_factor": bars["factor"] * 7}
        )
    else:
        table = bars.assign(ts_code=given["ts_code"], trade_date=day, vol=bars["volume"] / 100)
        table["amount"] /= 1000
        table = table[["ts_code", "trade_date", "open", "high", "low", "close", "vol", "amount"]]
    table = table.iloc[:0] if symbol in market.unknown else table
    data = {"fields": list(table.columns), "items": table.to_numpy().tolist()}
    return 200, json.dumps({"code": 0, "msg": None, "data": data})


def yahoo(market: Market, path: str, query: dict[str, str], body: bytes) -> tuple[int, str]:
    symbol = path.rpartition("/")[2]
    if symbol in market.unknown:
        error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
        return 404, json.dumps({"chart": {"result": None, "error": error}})
    zone, hour = "America/New_York", pd.Timedelta(hours=9, minutes=30)
    bars = market.bars(symbol)
    opens = (bars["datetime"] + hour).dt.tz_localize(zone)
    seconds = opens.map(lambda time: int(time.timestamp()))
    if "period1" in query:
        inside = (seconds >= int(query["period1"])) & (seconds < int(query["period2"]))
        market.answered.append(f"{symbol} {pd.Timestamp(int(query['period1']), unit='s'):%Y-%m-%d}")
    else:
        inside = seconds == seconds.max()  # it is asked for the zone
    split = market.splits.get(symbol, 1.0) if _split(market, symbol) else 1.0
    basis = np.where(bars["datetime"] < SPLIT_DAY, split, 1.0)
    bars[["open", "high", "low", "close"]] = bars[["open", "high", "low", "close"]].mul(basis, axis=0)
    bars["volume"] = bars["volume"] / basis
    day, seconds = bars[inside], seconds[inside].tolist()
    events = {}
    if split != 1 and SPLIT_DAY in day["datetime"].dt.strftime("%Y-%m-%d").tolist():
        at = int((pd.Timestamp(SPLIT_DAY) + hour).tz_localize(zone).timestamp())
        one = {"date": at, "numerator": 1 / split, "denominator": 1, "splitRatio": f"{1 / split:g}:1"}
        events = {"splits": {str(at): one}}
    quote = {name: day[name].tolist() for name in ("open", "high", "low", "close", "volume")}
    period = {"timezone": "EDT", "start": 0, "end": 1, "gmtoffset": -14400}
    meta = {
        "currency": "USD", "symbol": symbol, "exchangeName": "NMS", "instrumentType": "EQUITY", "timezone": "EDT",
        "exchangeTimezoneName": zone, "gmtoffset": -14400, "priceHint": 2, "dataGranularity": "1d", "range": "",
        "validRanges": ["1d", "max"], "firstTradeDate": 0, "regularMarketTime": (seconds or [0])[-1],
        "currentTradingPeriod": {"pre": period, "regular": period, "post": period},
    }  # fmt: skip
    result = {
        "meta": meta, "timestamp": seconds, "events": events,
        "indicators": {"quote": [quote], "adjclose": [{"adjclose": day["close"].tolist()}]},
    }  # fmt: skip
    return 200, json.dumps({"chart": {"result": [result], "error": None}})


def binance(market: Market, path: str, query: dict[str, str], body: bytes) -> tuple[int, str]:
    if path.endswith("exchangeInfo"):
        names = [name for name in ("BTC", "ETH", "SOL") if f"{name}USDT" not in market.unknown]
        listed = [
            {"symbol": f"{name}USDT", "status": "TRADING", "baseAsset": name, "quoteAsset": "USDT",
             "permissions": ["SPOT"], "baseAssetPrecision": 8, "quotePrecision": 8, "quoteAssetPrecision": 8,
             "orderTypes": [], "isSpotTradingAllowed": True, "isMarginTradingAllowed": False, "filters": [],
             "permissionSets": [["SPOT"]]}
            for name in names
        ]  # fmt: skip
        return 200, json.dumps({"timezone": "UTC", "serverTime": 0, "rateLimits": [], "symbols": listed})
    since = pd.Timestamp(int(query["startTime"]), unit="ms")
    market.answered.append(f"{query['symbol']} {since:%Y-%m-%d}")
    bars = market.between(query["symbol"], str(since), None).head(min(30, int(query["limit"])))
    rows = [
        [int(row.datetime.timestamp() * 1000), str(row.open), str(row.high), str(row.low), str(row.close),
         str(row.volume), 0, "0", 1, "0", "0", "0"]
        for row in bars.itertuples()
    ]  # fmt: skip
    return 200, json.dumps(rows)


Answer = Callable[[Market, str, dict[str, str], bytes], tuple[int, str]]


@contextmanager
def serve(market: Market, answer: Answer) -> Iterator[Market]:
    """Serve a market over HTTP. A fault is (status, text) or a function of the text that becomes of an answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = market.faults.pop(0) if market.faults else None
            if isinstance(fault, tuple):
                status, text = fault
            else:
                status, text = answer(market, parts.path, query, body)
                text = fault(text) if fault else text
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with _running(server):
        market.url = f"http://127.0.0.1:{server.server_port}"
        yield market


@contextmanager
def _running(server: Any) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serve_baostock(market: Market) -> Iterator[int]:
    """Serve a market by BaoStock's protocol over a socket; yields the port. A fault is a function of the bytes."""

    def record(method: str, rows: list[list[str]], *after: str) -> str:
        return "\1".join(
            ["0", "success", method, "anonymous", "1", "10000", json.dumps({"record": rows}), *after]
        )

    def answer(kind: str, body: list[str]) -> tuple[str, str]:
        if kind == "00":
            return "01", "\1".join(["0", "success", "login", "anonymous"])
        if kind == "02":
            return "03", "\1".join(["0", "success", "logout", "anonymous"])
        code = body[4]
        symbol = code[3:]
        if symbol in market.unknown:
            return "04", "\1".join(["10004011", "无效的证券代码"])
        if kind == "15":
            market.answered.append(f"factors of {symbol}")
            ratio = market.splits.get(symbol)
            rows = [[code, SPLIT_DAY, "1", str(1 / ratio), "1"]] if ratio and _split(market, symbol) else []
            names = "code,dividOperateDate,foreAdjustFactor,backAdjustFactor,adjustFactor"
            return "16", record(body[0], rows, code, body[5], body[6], names) + "\n"
        names, first, last, length, flag = body[5:10]
        market.answered.append(f"{symbol} {first}")
        rows = [
            [f"{row.datetime:%Y-%m-%d}", *(str(getattr(row, name)) for name in names.split(",")[1:])]
            for row in market.between(symbol, first, last).itertuples()
        ]
        return "96", record(body[0], rows, code, names, first, last, length, flag) + "\n"

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                _, kind, rest = line.decode().rstrip("\n").split("\1", 2)
                reply, text = answer(kind, rest[10:].split("\1"))
                data = zlib.compress(text.encode()) if reply == "96" else text.encode()
                whole = f"00.9.40\1{reply}\1{len(data):010d}".encode() + data + b"<![CDATA[]]>\n"
                fault = market.faults.pop(0) if market.faults else None
                given = fault(whole) if fault else whole
                self.wfile.write(given)
                if not given.endswith(b"<![CDATA[]]>\n"):
                    return  # the connection is closed

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", 0), Handler)
    with _running(server):
        yield server.server_address[1]


def changed_chart(text: str) -> str:
    """Yahoo's chart without volumes."""
    return text.replace('"volume"', '"turnover"')


def changed_lines(text: str) -> str:
    """Eastmoney's K-lines without their last column."""
    return text.replace(',4"', '"')


def changed_fields(text: str) -> str:
    """Tushare's table with another name for volumes."""
    return text.replace('"vol"', '"turnover"')


def changed_packet(data: bytes) -> bytes:
    """BaoStock's table with another name for volumes."""
    if not data.startswith(b"00.9.40\x0196"):
        return data
    text = zlib.decompress(data[21:]).decode().replace("close,volume", "close,turnover")
    body = zlib.compress(text.encode())
    return f"00.9.40\x0196\x01{len(body):010d}".encode() + body + b"<![CDATA[]]>\n"
