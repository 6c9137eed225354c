"""Layouts of tools' files: how a file is recognised, and what its columns do not say themselves.

Most files need no entry: columns are understood by their names, times and units by their values. An entry adds what a
file does not show, such as the clock of its times. All entries are listed in the documentation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kronos.data.sources.csv_words import squeeze

LOTS_AND_THOUSANDS = (100.0, 1e3)
LOTS = (100.0, 1.0)


@dataclass(frozen=True)
class Layout:
    """One tool's files. `needs` and `lacks` are names of columns, as `csv_columns.squeeze` returns them.

    `utc`: times without a zone are in UTC, and those of round-the-clock markets stay there. `units`: factors of
    volume and amount, for instruments whose bars show none. `split_adjusted`: prices hold the splits that are listed.
    `misleading`: columns that are not what their names say. `nano_prices`: prices may be whole numbers of 1e-9.
    `quotes_negative`: a negative close is the mean of bid and ask of a day without a trade.
    """

    tool: str
    header: str
    understood: str
    needs: frozenset[str]
    lacks: frozenset[str] = frozenset()
    utc: bool = False
    units: tuple[float, float] | None = None
    split_adjusted: bool = False
    misleading: frozenset[str] = frozenset()
    nano_prices: bool = False
    quotes_negative: bool = False


def _names(header: str) -> frozenset[str]:
    return frozenset(squeeze(name) for name in header.split(","))


LAYOUTS = (
    Layout(
        "Binance archive", "open_time,open,high,low,close,volume,close_time,quote_volume,count",
        "UTC; milliseconds and microseconds; with or without a header; one zip a month or a day",
        _names("open_time,close_time,volume"), utc=True,
    ),
    Layout(
        "CryptoDataDownload", "unix,date,symbol,open,high,low,close,Volume BTC,Volume USDT",
        "UTC; the address above the header; volumes in both currencies", _names("unix,date,symbol"), utc=True,
    ),
    Layout(
        "MetaTrader 5 in Python", "time,open,high,low,close,tick_volume,spread,real_volume",
        "seconds on the broker's clock, taken as they are; tick volume where the real one is 0",
        _names("time,tick_volume,real_volume"), utc=True,
    ),
    Layout(
        "MetaTrader 5 export", "<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<TICKVOL>,<VOL>,<SPREAD>",
        "tabs; date and time apart; tick volume where the real one is 0", _names("date,tickvol,vol,spread"),
    ),
    Layout(
        "yfinance history", "Date,Open,High,Low,Close,Volume,Dividends,Stock Splits",
        "prices hold the splits that are listed; offsets that change with daylight saving",
        _names("Dividends,Stock Splits"), frozenset({"adjclose"}), split_adjusted=True,
    ),
    Layout(
        "Tushare", "ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount",
        "volume in lots of 100, amount in thousands", _names("ts_code,trade_date,pct_chg,vol,amount"),
        units=LOTS_AND_THOUSANDS,
    ),
    Layout(
        "AKShare, Eastmoney", "日期,股票代码,开盘,收盘,最高,最低,成交量,成交额,振幅,涨跌幅,涨跌额,换手率",
        "volume in lots of 100", _names("日期,成交额,振幅,换手率"), units=LOTS,
    ),
    Layout(
        "AKShare, Sina", "date,open,high,low,close,volume,outstanding_share,turnover",
        "turnover is a share of the capital, no money", _names("outstanding_share,turnover"),
    ),
    Layout(
        "baostock minutes", "date,time,code,open,high,low,close,volume,amount,adjustflag",
        "times of 17 digits; a halted day has no volume", _names("date,time,code,adjustflag"),
    ),
    Layout(
        "Tiingo", "date,close,high,low,open,volume,adjClose,adjHigh,adjLow,adjOpen,adjVolume,divCash,splitFactor",
        "days at midnight UTC; adjusted by adjClose", _names("adjClose,divCash,splitFactor"),
    ),
    Layout(
        "NSE bhavcopy", "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP",
        "series EQ of a symbol, otherwise its series with the most rows", _names("SYMBOL,SERIES,TIMESTAMP"),
    ),
    Layout(
        "CoinMarketCap", "timeOpen;timeClose;timeHigh;timeLow;name;open;high;low;close;volume;marketCap;timestamp",
        "UTC; a day ends at 23:59:59; the column name is a number of the currency, not the instrument",
        _names("timeOpen,timeClose,marketCap"), utc=True, misleading=_names("name"),
    ),
    Layout(
        "CRSP", "PERMNO,date,TICKER,PRC,VOL,RET,BIDLO,ASKHI,OPENPRC",
        "instruments by PERMNO; a negative PRC is the mean of bid and ask of a day without a trade, left out",
        _names("PRC,BIDLO,ASKHI"), quotes_negative=True,
    ),
    Layout(
        "Databento", "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol",
        "UTC; prices as numbers or as whole numbers of 1e-9", _names("ts_event,rtype,publisher_id"), nano_prices=True,
    ),
)  # fmt: skip
OTHERS = (  # known by their columns alone: (tool, header, what is understood)
    ("yfinance download", "Price,Close,High,Low,Open,Volume / Ticker,AAPL,... / Date", "one or several tickers"),
    ("TradingView", "time,open,high,low,close,Volume", "seconds or ISO in UTC; an empty volume is none"),
    ("TDX, 通达信", "日期 开盘 最高 最低 收盘 成交量 成交额", "GB18030; title and footer; lots by the amounts"),
    ("Wind", "代码,简称,日期,开盘价(元),最高价(元),最低价(元),收盘价(元),成交量(股)", "units in brackets"),
    ("MetaTrader 4, HistData, Kraken, FirstRate", "(no header)", "time, prices and volume by their values"),
    ("LEAN", "(no header)", "prices are whole numbers of 1e-4"),
    ("Stooq, Finam", "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>", "brackets; dates of 8 digits"),
    ("Investing.com, Nasdaq", "Date,Price,Open,High,Low,Vol.,Change %", "currency signs, K, M and B, percent"),
)  # fmt: skip
BINANCE_SPOT = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count", "taker_buy_volume",
    "taker_buy_quote_volume", "ignore",
)  # fmt: skip


class Match(NamedTuple):
    """What the layout of a file adds to its columns; all empty where it is none of LAYOUTS."""

    tool: str = ""
    utc: bool = False
    units: tuple[float, float] | None = None
    split_adjusted: bool = False
    nano_prices: bool = False
    quotes_negative: bool = False


def match(names: Sequence[str]) -> Match:
    """Find the layout with these columns."""
    one = _find(names)
    if one is None:
        return Match()
    return Match(one.tool, one.utc, one.units, one.split_adjusted, one.nano_prices, one.quotes_negative)


def without_misleading(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, of which those that a layout knows to mislead have another form."""
    one = _find(names)
    if one is None or not one.misleading:
        return tuple(names)
    return tuple(f"{name} of the file" if squeeze(name) in one.misleading else name for name in names)


def _find(names: Sequence[str]) -> Layout | None:
    known = frozenset(map(squeeze, names))
    return next((one for one in LAYOUTS if one.needs <= known and not one.lacks & known), None)


def headless_names(sample: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the columns of files that have no header but are known by their shape; none for others."""
    shaped = [row for row in sample if len(row) == len(BINANCE_SPOT)]
    if len(shaped) == len(sample) and all(
        row[0].isdigit() and row[6].isdigit() and len(row[0]) == len(row[6]) >= 13 for row in shaped
    ):
        return BINANCE_SPOT
    return ()


def headless_instrument(stem: str, sample: Sequence[Sequence[str]]) -> tuple[str, str] | None:
    """Return instrument and length of the bars of a file without a header that is named after both, else None.

    Kraken writes XBTUSD_60.csv with seconds since 1970 and a number of trades, MetaTrader 4 EURUSD1440.csv.
    """
    rows = [row for row in sample if len(row) in (7, 8)]
    if len(rows) < len(sample) or not rows:
        return None
    kraken = all(re.fullmatch(r"\d{10}", row[0]) and row[-1].isdigit() for row in rows)
    metatrader = all(re.fullmatch(r"\d{4}\.\d\d\.\d\d", row[0]) and ":" in row[1] for row in rows)
    if kraken and (found := re.fullmatch(r"(.+)_(1|5|15|30|60|240|720|1440)", stem)):
        return found[1], f"{found[2]}min"
    if metatrader and (
        found := re.fullmatch(r"([A-Za-z]{6,}[.#_]?)(1|5|15|30|60|240|1440|10080|43200)", stem)
    ):
        return found[1], f"{found[2]}min"
    return None


def in_ten_thousandths(sample: Sequence[Sequence[str]]) -> bool:
    """Return whether a file without a header has the shape of LEAN's: prices as whole numbers of 1e-4."""
    return bool(sample) and all(
        len(row) == 6
        and re.fullmatch(r"\d{8} \d\d:\d\d", row[0])
        and all(cell.isdigit() and int(cell) >= 1000 for cell in row[1:5])
        for row in sample
    )
