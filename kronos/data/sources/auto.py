"""`data_source=auto`: find the source by the form of the symbols, and split symbols of several markets."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

from kronos.data.sources.membership import Spans
from kronos.data.sources.symbols import Market, listed, market_of
from kronos.data.sources.tushare import TOKEN
from kronos.utils.errors import UserError

# The sources that know a kind of symbols, the preferred one first; sina needs no package.
KNOWN_BY = {
    "chinese": ("akshare", "baostock", "tushare", "sina"),
    "pair": ("ccxt",),
    "yahoo": ("yfinance",),
}
WHAT = {"chinese": "A-shares", "pair": "pairs of a crypto exchange", "yahoo": "symbols as Yahoo writes them"}


def by_market(symbols: Any) -> dict[str, tuple[str, ...]]:
    """Return the symbols of each market, by its calendar. Raises UserError without any."""
    found: dict[str, list[str]] = {}
    members = _members(symbols)
    for name in members:
        market = market_of(name)
        found.setdefault("crypto" if market.kind == "pair" else market.calendar, []).append(name)
    if len(found) > 1 and any(spans is not None for spans in members.values()):
        raise UserError(
            f"data_source=auto: {symbols[0]} has members of several markets ({', '.join(found)}): give one file for "
            "each market"
        )
    return {market: tuple(names) for market, names in found.items()}


def chosen_source(symbols: Any, freq: str, class_of: Callable[[str], Any]) -> tuple[str, str]:
    """Return the source of symbols of one market, and a sentence that says why.

    Of several sources it is the first whose package is installed and that has bars of this length; `class_of` gives
    the class of a source. Raises UserError for symbols of several markets.
    """
    markets = by_market(symbols)
    if len(markets) > 1:
        parts = "; ".join(f"{market}: {', '.join(names[:3])}" for market, names in markets.items())
        raise UserError(
            f"data_source=auto: the symbols are of several markets ({parts}), and a store has one:  python -m kronos "
            "data  makes one store for each; give the other stages its --symbols and --dataset-path"
        )
    market = _market(symbols)
    known = KNOWN_BY[market.kind]
    usable = [name for name in known if _usable(name, freq, class_of(name))]
    chosen = (usable or known)[0]
    others = [name for name in known if name != chosen]
    reason = f"The symbols have the form of {WHAT[market.kind]}, so they come from {chosen}" + (
        f" ({', '.join(others)} know them too)." if others else "."
    )
    return chosen, reason


def _members(symbols: Any) -> dict[str, Spans | None]:
    if not symbols:
        raise UserError("data_source=auto needs --symbols, whose form tells the source: 600519,AAPL,BTC/USDT")
    return listed(symbols, "symbols", str)


def _market(symbols: Any) -> Market:
    return market_of(next(iter(_members(symbols))))


def _usable(name: str, freq: str, processor: Any) -> bool:
    if name == "tushare" and not os.environ.get(TOKEN):
        return False
    if freq != "auto" and freq not in processor.freqs:
        return False
    return not processor.library or importlib.util.find_spec(processor.library) is not None
