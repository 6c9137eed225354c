"""A client of Sina's public K-line service."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx

from kronos.data.bars import PRICES
from kronos.data.sources.polite import BadAnswer, Polite
from kronos.utils.errors import UserError

PATH = "/cn/api/jsonp_v2.php/=/CN_MarketDataService.getKLineData"
FACTOR_PATH = "/realstock/company/{symbol}/hfq.js"
COLUMNS = (*PRICES, "volume")
BUSY = (408, 425, 429, 456)  # 456 is Sina's own "too many requests"
TIMEOUT = httpx.Timeout(10.0, connect=5.0)  # without a byte
WHOLE_ANSWER = 30.0  # seconds from the request to the last byte

Bar = tuple[str, ...]  # day, open, high, low, close, volume, amount (empty where there is none), as they came


class SinaClient:
    """Makes the two kinds of requests. Raises NoAnswer when it gives up, with the symbol and the last reason."""

    def __init__(self, url: str, factor_url: str | None, polite: Polite) -> None:
        self.url, self.factor_url, self.polite = url.rstrip("/"), (factor_url or "").rstrip("/"), polite
        headers = {"User-Agent": "Mozilla/5.0 (kronos-pipeline)", "Referer": "https://finance.sina.com.cn/"}
        self._client = httpx.Client(timeout=TIMEOUT, headers=headers, follow_redirects=True)

    def __enter__(self) -> "SinaClient":
        return self

    def __exit__(self, *error: Any) -> None:
        self._client.close()

    def bars(self, symbol: str, scale: int, datalen: int) -> list[Bar]:
        """Return the last `datalen` bars of `scale` minutes, oldest first; none for an unknown symbol."""
        query = {"symbol": symbol, "scale": str(scale), "ma": "no", "datalen": str(datalen)}
        found: list[Bar] = self._request(symbol, self.url + PATH, query, parse_bars) or []
        return found

    def factors(self, symbol: str) -> list[tuple[str, str]] | None:
        """Return (first day, factor) of each backward adjustment, under which old prices stay; None without any."""
        found: list[tuple[str, str]] | None = self._request(
            symbol, self.factor_url + FACTOR_PATH.format(symbol=symbol), {}, parse_factors
        )
        return found

    def _request(self, symbol: str, url: str, query: dict[str, str], parse: Callable[[str], Any]) -> Any:
        """Request and parse an answer, several times where that may help; None for a file that does not exist."""
        try:
            return self.polite.ask(symbol, url, lambda: self._try(url, query, parse))
        except httpx.InvalidURL as error:
            raise UserError(f"{url} is not an address ({error}): check --sina-url") from None

    def _try(self, url: str, query: dict[str, str], parse: Callable[[str], Any]) -> Any:
        try:
            text = self._get(url, query)
            return None if text is None else parse(text)
        except httpx.TransportError as error:
            raise BadAnswer(str(error) or type(error).__name__) from None

    def _get(self, url: str, query: dict[str, str]) -> str | None:
        began = time.monotonic()
        data = bytearray()
        try:
            with self._client.stream("GET", url, params=query) as answer:
                if answer.status_code == 404 and not query:
                    return None  # no such file of factors
                if answer.status_code in BUSY or answer.status_code >= 500:
                    seconds = answer.headers.get("Retry-After", "")
                    slow = ", too many requests: it asks to slow down" if answer.status_code in BUSY else ""
                    raise BadAnswer(
                        f"status {answer.status_code}{slow}", float(seconds) if seconds.isdigit() else 0.0
                    )
                if answer.status_code != 200:
                    raise UserError(
                        f"{url} answers with status {answer.status_code}: check --sina-url and --sina-factor-url"
                    )
                for chunk in answer.iter_bytes():
                    data += chunk
                    if time.monotonic() - began > WHOLE_ANSWER:
                        raise BadAnswer(f"no whole answer in {WHOLE_ANSWER:g} s ({len(data):,} bytes so far)")
        except httpx.TimeoutException:
            raise BadAnswer(f"nothing for {TIMEOUT.read:g} s") from None
        except httpx.DecodingError as error:
            raise BadAnswer(f"an answer that cannot be decoded ({error})") from None
        for encoding in ("utf-8", "gb18030"):
            try:
                return bytes(data).decode(encoding)
            except UnicodeDecodeError:
                continue
        raise BadAnswer(f"{len(data):,} bytes that are neither UTF-8 nor GB18030 text")


def _payload(text: str, pattern: str, what: str) -> Any:
    """Parse the JSON within a line of JavaScript."""
    bare = re.sub(r"/\*.*?\*/", "", text, flags=re.S).strip()
    if bare[:1] == "<":
        raise BadAnswer("a page of HTML, as it sends for too many requests or a wrong address: slow down")
    found = re.search(pattern, bare, flags=re.S)
    if found is None:
        raise BadAnswer(
            f"an empty answer, {what} expected" if not bare else f"{bare[:40]!r}..., {what} expected"
        )
    try:
        return json.loads(found[1])
    except json.JSONDecodeError as error:
        raise BadAnswer(f"{what} that break off ({error.msg} at character {error.pos})") from None


def parse_bars(text: str) -> list[Bar] | None:
    """Parse bars from `=([{...}, ...]);`, None for `=(null);`. Raises BadAnswer for anything else.

    A bar that the service gives without prices has empty texts for them, and one that is null an empty day too.
    """
    rows = _payload(text, r"=\s*\((.*)\)\s*;?\s*$", "bars in JSONP")
    if rows is None:
        return None
    if not isinstance(rows, list):
        raise BadAnswer(f"a {type(rows).__name__}, a list of bars was expected")
    bars = []
    for row in rows:
        try:
            row = {name: "" for name in ("day", *COLUMNS)} if row is None else row
            bar = tuple("" if row[name] is None else str(row[name]) for name in ("day", *COLUMNS))
            for value in bar[1:]:
                float(value or "nan")
        except (KeyError, TypeError, ValueError):
            raise BadAnswer(f"an invalid bar: {json.dumps(row, ensure_ascii=False)[:120]}") from None
        bars.append((*bar, str(row.get("amount") or "")))
    return bars


def parse_factors(text: str) -> list[tuple[str, str]] | None:
    """Parse days and factors from `var ...={"total":N,"data":[...]}`, oldest first; None where there are none."""
    content = _payload(text, r"=\s*(\{.*\})", "adjustment factors")
    try:
        pairs = [(str(row["d"]), str(row["f"])) for row in content["data"]]
        total = int(content.get("total", len(pairs)))
        sound = all(float(factor) > 0 for _, factor in pairs)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadAnswer(f"invalid factors: {text.strip()[:80]!r}") from None
    if total != len(pairs) or not sound:
        raise BadAnswer(f"{len(pairs)} factors where {total} positive ones were announced")
    return sorted(pairs) or None
