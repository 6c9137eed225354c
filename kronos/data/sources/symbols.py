"""Symbols as users write them: which market their form tells, and lists of them in a field or a file."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kronos.data.sources.membership import Spans, index_history, read_universe, text_lines
from kronos.utils.errors import UserError

CHINESE = re.compile(r"(?i)^(?:(sh|sz|bj)[._]?(\d{6})|(\d{6})(?:[._](sh|sz|bj|ss|xshg|xshe))?)$")
SUFFIXES = {"ss": "sh", "xshg": "sh", "xshe": "sz"}
BOARDS = {"6": "sh", "9": "sh", "5": "sh", "0": "sz", "1": "sz", "2": "sz", "3": "sz", "4": "bj", "8": "bj"}
PAIR = re.compile(r"^[A-Za-z0-9]+/[A-Za-z0-9]+(?::[A-Za-z0-9]+)?$")  # BTC/USDT, and BTC/USDT:USDT of a swap
# Exchanges by the ending of a symbol at Yahoo; without an ending it is one of the United States.
YAHOO = {
    "": "XNYS", "HK": "XHKG", "SS": "XSHG", "SZ": "XSHG", "T": "XTKS", "L": "XLON", "DE": "XETR", "PA": "XPAR",
    "AS": "XAMS", "MI": "XMIL", "MC": "XMAD", "SW": "XSWX", "ST": "XSTO", "TO": "XTSE", "AX": "XASX", "NS": "XBOM",
    "BO": "XBOM", "KS": "XKRX", "KQ": "XKRX", "TW": "XTAI", "SI": "XSES", "SA": "BVMF",
}  # fmt: skip
HISTORY = "history:"  # before the name of an index: all its members with their spans
FILES = (".txt", ".csv", ".tsv", ".parquet")  # endings of files of symbols
SPAN = re.compile(r"^[^\s,]+[\s,]+\d{4}-?\d\d-?\d\d")  # symbol and first day of membership
SPAN_HEADER = re.compile(r"(?i)^(instrument|symbol|code|ticker)[\s,]+(from|first|start|begin|in)\b")
YAHOO_COINS = re.compile(r"^[A-Z0-9]+-(USD|EUR|GBP|BTC)$")  # BTC-USD


class Market(NamedTuple):
    """Where a symbol is traded, as its form tells: the kind of services that know it, and its calendar."""

    kind: str  # chinese, pair or yahoo
    calendar: str


def market_of(symbol: str) -> Market:
    """Return the market that the form of a symbol tells: 600519, BTC/USDT, 0700.HK, AAPL."""
    if CHINESE.match(symbol):
        return Market("chinese", "XSHG")
    if PAIR.match(symbol):
        return Market("pair", "24/7")
    return Market("yahoo", yahoo_calendar(symbol))


def yahoo_calendar(symbol: str) -> str:
    """Return the calendar of a symbol at Yahoo: that of the exchange its ending names."""
    if YAHOO_COINS.match(symbol.upper()):
        return "24/7"
    return YAHOO.get(symbol.upper().partition(".")[2], "XNYS")


def chinese_symbol(name: str, field: str) -> str:
    """Return `sh600519` for SH600519, 600519.SH, 600519.XSHG or 600519 (exchange by the first digit)."""
    found = CHINESE.match(name.strip())
    if found is None:
        raise UserError(
            f"{field}: {name!r} is not a symbol: sh, sz or bj and six digits, like sh600519, was expected"
        )
    board, digits, bare, suffix = found.groups()
    if board is None:
        board = SUFFIXES.get((suffix or "").lower(), suffix) or (
            "bj" if bare.startswith("92") else BOARDS.get(bare[0])
        )
    if board is None:
        raise UserError(f"{field}: {name!r} does not tell its exchange: write sh, sz or bj before it")
    return f"{board.lower()}{digits or bare}"


def listed(
    given: str | tuple[str, ...] | list[str], field: str, spelled: Callable[[str], str]
) -> dict[str, Spans | None]:
    """Return the symbols of a list, as `spelled` writes them, with their membership spans where a file has them.

    The list is a text with commas or spaces, or several of them; a single one may be the name of a file, or
    `history:INDEX`. Raises UserError for a file that is not there.
    """
    texts = [given] if isinstance(given, str) else list(given)
    parts = [part for text in texts for part in re.split(r"[,\s]+", text) if part]
    path = os.path.expanduser(texts[0]) if len(texts) == 1 else ""
    if path.startswith(HISTORY):
        members = index_history(path.removeprefix(HISTORY).lower())
        return {spelled(name): spans for name, spans in members.items()}
    if os.path.isfile(path):  # unlike Path.is_file, False for a list that is too long for a file name
        return read_symbols(Path(path), spelled)
    looks_like_a_file = "/" in path or Path(path).suffix.lower() in FILES
    if looks_like_a_file and len(parts) == 1 and not PAIR.match(parts[0]):
        raise UserError(
            f"{field} {path} does not exist: give an existing file, or a list like sh600519,sz000001"
        )
    return {spelled(part): None for part in parts}


def universe_of(symbols: tuple[str, ...] | list[str]) -> dict[str, Spans | None]:
    """Return the instruments of the field `symbols`, spelled as the bars have them, with the spans that a file says.

    A single text that ends like a file, or `history:INDEX`, is one; anything else is the name of an instrument.
    """
    single = symbols[0] if len(symbols) == 1 else ""
    if single.startswith(HISTORY) or Path(single).suffix.lower() in FILES:
        return listed(symbols, "symbols", str)
    return dict.fromkeys(symbols)


def read_symbols(file: Path, spelled: Callable[[str], str]) -> dict[str, Spans | None]:
    """Read rows of symbol, first day, last day, as Qlib's universes have them, or lines of symbols alone.

    In a list of symbols alone `#` begins a comment.
    """
    found: dict[str, Spans | None] = {}
    of_spans = file.suffix.lower() == ".parquet"
    lines = [] if of_spans else [line.split("#")[0].strip() for line in text_lines(file)]
    if of_spans or any(SPAN.match(line) for line in lines) or SPAN_HEADER.match("".join(lines[:1])):
        for name, spans in read_universe(file, loose=True).items():
            found[spelled(name)] = [
                *(found.get(spelled(name)) or []),
                *spans,
            ]  # a name may be spelled in several ways
    else:
        found = {spelled(part): None for line in lines for part in re.split(r"[,\s]+", line) if part}
    if not found:
        raise UserError(f"symbols: {file} names no instrument")
    return found
