"""A service on loopback that speaks as Sina's does, with faults on demand."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from kronos.data.calendars import sessions

COMMENT = "/*<script>location.href='//sina.com';</script>*/\n"


def series(
    symbol: str, freq: str = "day", until: str = "2024-06-28", begin: str = "2024-01-02"
) -> list[dict[str, str]]:
    """Made-up bars of a symbol, as the service writes them."""
    times = sessions("XSHG", begin, until, freq)
    generator = np.random.default_rng(int(symbol[2:]))
    close = np.round(20 * np.exp(np.cumsum(generator.normal(0, 0.01, len(times)))), 2)
    pattern = "%Y-%m-%d" if freq == "day" else "%Y-%m-%d %H:%M:%S"
    return [
        {"day": f"{time:{pattern}}", "open": f"{price:.3f}",
         "high": f"{price + 0.2:.3f}", "low": f"{price - 0.2:.3f}",
         "close": f"{price:.3f}", "volume": str(1000 + place), "amount": f"{price * (1000 + place):.2f}"}
        for place, (time, price) in enumerate(zip(times, close, strict=True))
    ]  # fmt: skip


@dataclass
class Service:
    """What the server knows and what happened: `faults` are used up one a request."""

    url: str = ""
    bars: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    factors: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    faults: list[Callable[[Any], None]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    asked: list[dict[str, str]] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        if path.endswith("getKLineData"):
            self.asked.append(query)
            rows = self.bars.get(query["symbol"])
            text = "null" if rows is None else json.dumps(rows[-int(query["datalen"]) :])
            self.answered[query["symbol"]] += 1
            return 200, f"{COMMENT}=({text});".encode()
        symbol = path.split("/")[-2]
        self.answered[f"factors of {symbol}"] += 1
        if symbol not in self.factors:
            return 404, b"<html>404</html>"
        rows = [{"d": day, "f": factor} for day, factor in self.factors[symbol]]
        text = json.dumps({"total": len(rows), "data": rows[::-1]})
        return 200, f"var {symbol}hfq={text}\n/* note */".encode()

    def respond(self, handler: Any) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        send(handler, *self.answer(parts.path, query))


def send(handler: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serve(service: Service) -> Iterator[Service]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if service.faults:
                service.faults.pop(0)(self)
                return
            service.respond(self)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
