"""A-share bars from BaoStock, through the package baostock."""

import contextlib
import io
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pandas as pd

from kronos.data.frequency import minutes, within_day
from kronos.data.sources.living import LivingDataProcessor
from kronos.data.sources.polite import BadAnswer, UnknownSymbol
from kronos.data.sources.symbols import chinese_symbol
from kronos.data.sources.topping_up import Page
from kronos.utils.errors import UserError

ROWS = 9_000  # of an answer: the service gives pages of 10,000, of which the package cannot read a second one
DAY_MINUTES = 240  # of trading
SECONDS = 30.0  # without a byte
NETWORK = "10002"  # how the codes of network errors begin
UNKNOWN = ("10004011", "10004015", "10004006")  # codes for symbols that are none
NO_LOGIN = "10001001"
FIELDS = "open,high,low,close,volume,amount"


class BaostockDataProcessor(LivingDataProcessor):
    """Bars of shares in Shanghai and Shenzhen, as they were traded, with the service's backward factors."""

    library = "baostock"
    service = "BaoStock"
    freqs: ClassVar[dict[str, Any]] = {"day": "d", "5min": "5", "15min": "15", "30min": "30", "60min": "60"}
    has_factors = True
    universes = ("csi300", "csi500", "sse50")
    delay = pd.Timedelta(hours=3)  # daily bars are there at half past five, those within a day later

    @property
    def earliest(self) -> pd.Timestamp:
        return pd.Timestamp("1990-12-19" if self.freq == "day" else "2019-01-02")

    def spelled(self, name: str) -> str:
        symbol = chinese_symbol(name, "symbols")
        return f"{symbol[:2]}.{symbol[2:]}"

    def instrument(self, symbol: str) -> str:
        return symbol.replace(".", "").upper()

    @contextmanager
    def connected(self) -> Iterator[None]:
        self._client = self.client()
        self._logged_in = False
        try:
            yield
        finally:
            if self._logged_in:
                with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
                    self._client.logout()

    def fetch(self, symbol: str, since: pd.Timestamp, due: pd.Timestamp) -> Page:
        a_day = DAY_MINUTES // minutes(self.freq) if within_day(self.freq) else 1
        last = min(since + pd.Timedelta(days=ROWS / a_day), due)
        names = f"date,{FIELDS}" if self.freq == "day" else f"time,{FIELDS}"
        bars = self._table(
            symbol, lambda: self._client.query_history_k_data_plus(
                symbol, names, start_date=f"{since:%Y-%m-%d}", end_date=f"{last:%Y-%m-%d}",
                frequency=self.freqs[self.freq], adjustflag="3",
            ),
        )  # fmt: skip
        time = names.partition(",")[0]
        self.expect(bars, tuple(names.split(",")))
        form = "%Y-%m-%d" if self.freq == "day" else "%Y%m%d%H%M%S%f"
        bars["datetime"] = pd.to_datetime(bars[time], format=form)
        following = last.normalize() + pd.Timedelta(days=1)
        return Page(bars, following if following <= due else None)

    def fetch_factors(self, symbol: str) -> list[tuple[str, float]] | None:
        table = self._table(
            symbol, lambda: self._client.query_adjust_factor(
                symbol, start_date="1990-01-01", end_date=f"{self.due(symbol):%Y-%m-%d}"
            ),
        )  # fmt: skip
        self.expect(table, ("dividOperateDate", "backAdjustFactor"))
        if table.empty:
            return None
        # Before the first event the factor is 1, which the service does not list.
        rows = zip(table["dividOperateDate"], table["backAdjustFactor"].astype(float), strict=True)
        return [("1990-01-01", 1.0), *sorted(rows)]

    def fetch_members(self, universe: str) -> list[str]:
        name = {"csi300": "hs300", "csi500": "zz500", "sse50": "sz50"}[universe]
        table = self._table(universe, lambda: getattr(self._client, f"query_{name}_stocks")())
        self.expect(table, ("code",))
        return [str(code) for code in table["code"]]

    def _table(self, symbol: str, query: Callable[[], Any]) -> pd.DataFrame:
        return self.polite.ask(symbol, self.service, lambda: self._ask(query))

    def _ask(self, query: Callable[[], Any]) -> pd.DataFrame:
        """Log in where that has not been done, and ask. The package prints what goes wrong, which is caught here."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                if not self._logged_in:
                    _guard(self._client)
                    answer = self._client.login()
                    self._refuse(answer, said)
                    self._logged_in = True
                answer = query()
                self._refuse(answer, said)
            except (OSError, AttributeError, IndexError, ValueError, TypeError) as error:
                self._logged_in = False
                raise BadAnswer(f"{type(error).__name__}: {error}") from None
        return pd.DataFrame(answer.data, columns=answer.fields)

    def _refuse(self, answer: Any, said: io.StringIO) -> None:
        code = str(answer.error_code)
        if code == "0":
            return
        text = " ".join([str(answer.error_msg), *said.getvalue().split()])
        if code in UNKNOWN:
            raise UnknownSymbol
        self._logged_in = False
        if code.startswith(NETWORK) or code == NO_LOGIN:
            raise BadAnswer(
                f"no whole answer from {self._client.common.contants.BAOSTOCK_SERVER_IP} ({text})"
            )
        if code.startswith("10001"):
            raise UserError(f"BaoStock refuses the login: {text} (code {code})")
        raise BadAnswer(f"{text} (code {code})")


def _guard(client: Any) -> None:
    """Give the package connections that time out and that say when they are closed.

    Its own loop reads for ever where the service closes a connection in the middle of an answer.
    """

    class Connection(socket.socket):
        def recv(self, *arguments: Any) -> bytes:
            found = super().recv(*arguments)
            if not found:
                raise ConnectionError("the service closed the connection in the middle of an answer")
            return found

    def connect(_: Any, api_key: str) -> None:
        names = client.common.contants
        vip = api_key.startswith("bs-")
        connection = Connection(socket.AF_INET, socket.SOCK_STREAM)
        client.common.context.default_socket = None
        connection.settimeout(SECONDS)
        host = names.BAOSTOCK_VIP_SERVER_IP if vip else names.BAOSTOCK_SERVER_IP
        connection.connect((host, names.BAOSTOCK_SERVER_PORT))
        client.common.context.default_socket = connection

    client.util.socketutil.SocketUtil.connect = connect
