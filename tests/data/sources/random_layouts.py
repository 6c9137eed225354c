"""Known bars written in layouts drawn at random."""

import csv
import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES
from kronos.data.calendars import sessions, timezone
from kronos.data.sources.csv_words import squeeze

NAMES = {
    "instrument": [
        "symbol",
        "Ticker",
        "ts_code",
        "<TICKER>",
        "代码",
        "股票代码",
        "Name",
        "证券代码",
        "銘柄コード",
        "종목코드",
        "Código",
    ],
    "datetime": [
        "datetime",
        "Date",
        "Timestamp",
        "日期",
        "<DATE>",
        "trade_date",
        "open_time",
        "日付",
        "Datum",
        "Дата",
    ],
    "open": [
        "open",
        "Open",
        "<OPEN>",
        "开盘",
        "开盘价(元)",
        "1. open",
        "o",
        "始値",
        "시가",
        "Eröffnung",
        "Открытие",
    ],
    "high": [
        "high",
        "High",
        "<HIGH>",
        "最高",
        "最高价(元)",
        "2. high",
        "h",
        "高値",
        "고가",
        "Hoch",
        "Максимум",
    ],
    "low": ["low", "Low", "<LOW>", "最低", "最低价(元)", "3. low", "l", "安値", "저가", "Tief", "Минимум"],
    "close": [
        "close",
        "Close/Last",
        "<CLOSE>",
        "收盘",
        "收盘价(元)",
        "4. close",
        "Price",
        "終値",
        "종가",
        "Schluss",
        "Закрытие",
    ],
    "volume": [
        "volume",
        "Vol.",
        "<VOL>",
        "成交量",
        "成交量(股)",
        "5. volume",
        "v",
        "出来高",
        "거래량",
        "Stücke",
        "Объем",
    ],
    "amount": [
        "amount",
        "money",
        "成交额",
        "成交金额(元)",
        "quote_volume",
        "total_turnover",
        "売買代金",
        "거래대금",
    ],
}
CODES = ["000001", "600519.SH", "NA", "NULL", "TRUE", "AAPL", "BTC/USDT", "BRK.B"]


def true_bars(generator: np.random.Generator, exchange: str, freq: str) -> pd.DataFrame:
    """Bars of one to three instruments with prices of two decimals."""
    length = {"day": 80, "5min": 150, "60min": 60}[freq]
    times = sessions(exchange, "2024-01-15", "2024-12-31", freq)[:length]
    frames = []
    for name in generator.choice(CODES, generator.integers(1, 4), replace=False):
        close = np.round(generator.uniform(5, 2000) * np.exp(np.cumsum(generator.normal(0, 0.01, length))), 2)
        opening = np.round(close * np.exp(generator.normal(0, 0.004, length)), 2)
        high = np.round(np.maximum(opening, close) * 1.01, 2)
        low = np.round(np.minimum(opening, close) / 1.01, 2)
        volume = np.round(generator.lognormal(10, 1, length)) * 100
        amount = np.round(volume * (high + low) / 2, 2)
        frames.append(
            pd.DataFrame({"instrument": name, "datetime": times, "open": opening, "high": high, "low": low,
                          "close": close, "volume": volume, "amount": amount})
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def grouped(text: str, mark: str) -> str:
    whole, point, rest = text.partition(".")
    return f"{int(whole):,}".replace(",", mark) + point + rest


def decorated(table: pd.DataFrame, generator: np.random.Generator, with_amount: bool) -> pd.DataFrame:
    """Add what tools put around names and codes, and columns that are nothing of a bar."""
    how = generator.choice(["", "brackets", "blanks", "upper", "numbers"])
    if how == "brackets":
        table = table.rename(columns=lambda name: name if name[0] == "<" else f"<{name}>")
    elif how == "blanks":
        table = table.rename(columns=lambda name: f" {name} ")
    elif how == "upper":
        table = table.rename(columns=str.upper)
    elif how == "numbers":
        table.insert(0, "", [str(place) for place in range(len(table))])
    if generator.random() < 0.3:
        table.insert(int(generator.integers(1, len(table.columns))), "pct_chg", "0.1%")
    if generator.random() < 0.3:
        table.insert(int(generator.integers(1, len(table.columns))), "note", "a, b; c")
    return table


def wide(
    table: pd.DataFrame, spelled: dict[str, str], generator: np.random.Generator
) -> tuple[pd.DataFrame, list[list[str]]]:
    """Put the instruments of a table beside each other, with two lines of a header or names of two parts."""
    plain = {squeeze(name): name for name in table.columns}
    fields = [plain[squeeze(spelled[name])] for name in spelled if name in FEATURES]
    when, who = plain[squeeze(spelled["datetime"])], plain[squeeze(spelled["instrument"])]
    turned = table.pivot(index=when, columns=who, values=fields).reindex(table[when].drop_duplicates())
    pairs = [(str(field), str(name)) for field, name in turned.columns]
    order = generator.permutation(len(pairs))
    turned = turned.iloc[:, order].reset_index()
    pairs = [pairs[place] for place in order]
    if generator.random() < 0.5:
        return turned, [["Date", *(f"('{field}', '{name}')" for field, name in pairs)]]
    lines = [["Price", *(field for field, _ in pairs)], ["Ticker", *(name for _, name in pairs)]]
    return turned, [*lines, ["Date", *([""] * len(pairs))]]


def write(
    bars: pd.DataFrame, generator: np.random.Generator, root: Path, freq: str, exchange: str
) -> tuple[Path, dict[str, Any]]:
    """Write bars in a layout drawn at random; return the path, and the fields that this layout needs."""
    pick = generator.choice
    fields: dict[str, Any] = {}
    delimiter = str(pick([",", ";", "\t", "|"]))
    decimal = "," if delimiter != "," and generator.random() < 0.3 else "."
    table = pd.DataFrame(index=bars.index)
    for name in ("open", "high", "low", "close"):
        table[name] = [f"{value:.2f}" for value in bars[name]]
    lots = generator.random() < 0.4
    table["volume"] = [f"{value / (100 if lots else 1):.0f}" for value in bars["volume"]]
    with_amount = lots or generator.random() < 0.6
    if with_amount:
        scale = pick([1, 1000])
        table["amount"] = [f"{value / scale:.4f}" for value in bars["amount"]]
    if generator.random() < 0.3 and (delimiter != "," or decimal == "."):
        for name in table.columns:
            table[name] = [grouped(value, ",") for value in table[name]]
            if decimal == ",":
                table[name] = [value.translate(str.maketrans(",.", ".,")) for value in table[name]]
    elif decimal == ",":
        for name in table.columns:
            table[name] = [value.replace(".", ",") for value in table[name]]
    if generator.random() < 0.2:
        for name in ("open", "close"):
            table[name] = str(pick(["$", "¥", "€"])) + table[name]
    if not lots and generator.random() < 0.15:
        mark, unit = (("万", 1e4), ("K", 1e3))[int(generator.integers(2))]
        decimals = [f"{value / unit:.2f}" for value in bars["volume"]]
        table["volume"] = [text.replace(".", decimal) + mark for text in decimals]
    local = pd.DatetimeIndex(bars["datetime"])
    styles = ["iso", "slashes", "digits", "dots", "named", "day first"]
    style = str(
        pick(
            [*styles, "apart", "utc", "epoch", "offset", "named zone", "half days", "beside epochs"]
            if freq != "day"
            else [*styles, "utc day", "epoch"]
        )
    )
    zoned = local.tz_localize(timezone(exchange), ambiguous=True)
    clock = "" if freq == "day" else " %H:%M:%S"
    if style == "apart":
        table["date"] = local.strftime(str(pick(["%Y-%m-%d", "%Y%m%d", "%d.%m.%Y"])))
        table["time"] = local.strftime(str(pick(["%H:%M", "%H%M", "%H%M%S", "%H:%M:%S"])))
    elif style == "utc":
        table["datetime"] = zoned.tz_convert("UTC").strftime("%Y-%m-%dT%H:%M:%SZ")
    elif style == "named zone":
        table["datetime"] = [f"{moment:%Y%m%d %H:%M:%S} {timezone(exchange)}" for moment in local]
    elif style == "half days":
        table["datetime"] = local.strftime("%d-%b-%Y %I:%M %p")
    elif style == "beside epochs":
        table["datetime"] = zoned.tz_convert("UTC").strftime("%Y-%m-%d %H:%M:%S")
        table["unix"] = (zoned.as_unit("ns").asi8 // 10**9).astype(str)
    elif style == "offset":
        table["datetime"] = [moment.isoformat() for moment in zoned]
    elif style == "epoch":
        moments = local.tz_localize("UTC") if freq == "day" else zoned
        table["datetime"] = (moments.as_unit("ns").asi8 // 10 ** int(pick([0, 3, 6, 9]))).astype(str)
    elif style == "utc day":
        table["datetime"] = local.strftime("%Y-%m-%dT00:00:00.000Z")
    else:
        pattern = {"iso": f"%Y-%m-%d{clock}", "slashes": f"%Y/%m/%d{clock}", "dots": f"%Y.%m.%d{clock}",
                   "digits": "%Y%m%d" + clock.replace(":", "").strip(), "named": f"%d-%b-%Y{clock}",
                   "day first": f"%d/%m/%Y{clock}"}[style]  # fmt: skip
        table["datetime"] = local.strftime(pattern)
    if style in ("utc", "epoch", "offset", "named zone", "beside epochs") and freq != "day":
        fields["calendar"] = exchange
    several = bars["instrument"].nunique() > 1
    spelled = {name: str(pick(NAMES[name])) for name in table.columns if name in NAMES}
    if several or generator.random() < 0.5:
        table["instrument"] = bars["instrument"]
        spelled["instrument"] = str(pick(NAMES["instrument"]))
    if (
        spelled.get("close") == "Price"
        and spelled["instrument" if "instrument" in spelled else "open"] == "Name"
    ):
        spelled["close"] = "close"
    table = decorated(
        table[generator.permutation(table.columns)].rename(columns=spelled), generator, with_amount
    )
    order = pick(["as it is", "newest first", "by time", "shuffled"])
    if order == "newest first":
        table = table[::-1]
    elif order == "by time":
        table = table.loc[bars.sort_values("datetime", kind="stable").index]
    elif order == "shuffled":
        table = table.loc[generator.permutation(bars.index)]
    if several and style not in ("apart", "beside epochs") and generator.random() < 0.15:
        table, header = wide(table, spelled, generator)
        lines = io.StringIO()
        csv.writer(lines, delimiter=delimiter, lineterminator="\n").writerows(header)
        text = lines.getvalue() + table.to_csv(index=False, header=False, sep=delimiter)
    else:
        quoting = csv.QUOTE_ALL if generator.random() < 0.2 else csv.QUOTE_MINIMAL
        end = str(pick(["\n", "\r\n"]))
        text = table.to_csv(index=False, sep=delimiter, lineterminator=end, quoting=quoting)
    if generator.random() < 0.3:
        text = str(pick(["Bars of the year\n", "https://example.com/bars\n\n", "报表 日线\n"])) + text
    if generator.random() < 0.3:
        text += str(pick(["\n", "#end\n", "数据来源: none\n", "\n\nNo warranty is given.\n"]))
    encodings = ["utf-8", "utf-8-sig", "utf-16"] + ([] if "€" in text else ["gb18030"])
    data = text.encode(str(pick(encodings)))
    name = str(bars["instrument"].iloc[0]).replace("/", "-")
    packing = pick(["", ".gz", ".zip"])
    path = root / f"{name}.csv"
    if packing == ".gz":
        path = root / f"{name}.csv.gz"
        data = gzip.compress(data)
    elif packing == ".zip":
        path = root / f"{name}.zip"
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(f"{name}.csv", data)
        data = packed.getvalue()
    path.write_bytes(data)
    return path, fields
