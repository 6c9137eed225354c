"""Forms of numbers, units, dates and headers, each with the bars that it holds."""

from pathlib import Path

import pytest
from csv_cases import Case, check

CASES = {
    "volume in thousands": Case(
        "Date,Open,High,Low,Close,Volume (000s)\n2024-01-02,1,3,0.5,2,10\n2024-01-03,1,3,0.5,2,10\n",
        [("X", "2024-01-02", 1, 2, 10000), ("X", "2024-01-03", 1, 2, 10000)],
        notes="Column Volume (000s) is multiplied by"),
    "volume in millions": Case(
        "Date,Open,High,Low,Close,Volume (m)\n2024-01-02,1,3,0.5,2,10\n2024-01-03,1,3,0.5,2,10\n",
        [("X", "2024-01-02", 1, 2, 10000000), ("X", "2024-01-03", 1, 2, 10000000)],
        notes="Column Volume (m) is multiplied by"),
    "units in Chinese": Case(
        "日期,开盘,最高,最低,收盘,成交量(万手),成交额(亿)\n2024-01-02,1,3,0.5,2,10,0.2\n"
        "2024-01-03,1,3,0.5,2,10,0.2\n",
        [("X", "2024-01-02", 1, 2, 10000000), ("X", "2024-01-03", 1, 2, 10000000)],
        amounts=(20000000, 20000000), notes="Column 成交量(万手) is multiplied by"),
    "a zone behind the time": Case(
        "Date,Open,High,Low,Close,Volume\n2024-01-02 09:30:00 EST,1,3,0.5,2,10\n"
        "2024-01-02 09:35:00 EST,1,3,0.5,2,10\n",
        [("X", "2024-01-02 09:30", 1, 2, 10), ("X", "2024-01-02 09:35", 1, 2, 10)],
        fields={"freq": "5min", "calendar": "XNYS"}),
    "a time of twelve hours with a zone": Case(
        'Date,Open,High,Low,Close,Volume\n"Jul 1, 2024 9:30 AM EDT",1,3,0.5,2,10\n'
        '"Jul 1, 2024 9:35 AM EDT",1,3,0.5,2,10\n',
        [("X", "2024-07-01 09:30", 1, 2, 10), ("X", "2024-07-01 09:35", 1, 2, 10)],
        fields={"freq": "5min", "calendar": "XNYS"}),
    "dates of mail": Case(
        'Date,Open,High,Low,Close,Volume\n"Mon, 01 Jul 2024 00:00:00 GMT",1,3,0.5,2,10\n'
        '"Tue, 02 Jul 2024 00:00:00 GMT",1,3,0.5,2,10\n',
        [("X", "2024-07-01", 1, 2, 10), ("X", "2024-07-02", 1, 2, 10)]),
    "days of the week": Case(
        "Date,Open,High,Low,Close,Volume\nMon 01/07/2024,1,3,0.5,2,10\nTue 16/07/2024,1,3,0.5,2,10\n",
        [("X", "2024-07-01", 1, 2, 10), ("X", "2024-07-16", 1, 2, 10)]),
    "German days of the week": Case(
        "Datum;Open;High;Low;Close;Volume\nMo, 01.07.2024;1;3;0,5;2;10\nDi, 02.07.2024;1;3;0,5;2;10\n",
        [("X", "2024-07-01", 1, 2, 10), ("X", "2024-07-02", 1, 2, 10)]),
    "German months": Case(
        "Datum;Open;High;Low;Close;Volume\n1. März 2024;1;3;0,5;2;10\n4. März 2024;1;3;0,5;2;10\n",
        [("X", "2024-03-01", 1, 2, 10), ("X", "2024-03-04", 1, 2, 10)]),
    "French months": Case(
        "Date;Ouv;Haut;Bas;Clot;Volume\n1 févr. 2024;1;3;0,5;2;10\n2 févr. 2024;1;3;0,5;2;10\n",
        [("X", "2024-02-01", 1, 2, 10), ("X", "2024-02-02", 1, 2, 10)]),
    "Spanish months": Case(
        "Fecha;Apertura;Maximo;Minimo;Cierre;Volumen\n02-ene-2024;1;3;0,5;2;10\n03-ene-2024;1;3;0,5;2;10\n",
        [("X", "2024-01-02", 1, 2, 10), ("X", "2024-01-03", 1, 2, 10)]),
    "numbers with exponents": Case(
        "Date,Open,High,Low,Close,Volume\n2024-01-02,1,3,0.5,2,1.5E+07\n2024-01-03,1,3,0.5,2,1.6E+07\n",
        [("X", "2024-01-02", 1, 2, 15000000), ("X", "2024-01-03", 1, 2, 16000000)]),
    "Indian groups of digits": Case(
        "Date,Open,High,Low,Close,Volume\n"
        '01-Jan-2024,"1,23,456.50","1,23,999.00","1,22,000.00","1,23,500.00","12,34,567"\n'
        '02-Jan-2024,"1,23,456.50","1,23,999.00","1,22,000.00","1,23,500.00","12,34,567"\n',
        [("X", "2024-01-01", 123456.5, 123500, 1234567), ("X", "2024-01-02", 123456.5, 123500, 1234567)]),
    "Swiss apostrophes": Case(
        "Date;Open;High;Low;Close;Volume\n02.01.2024;1'234.50;1'299.00;1'200.00;1'250.00;1'000'000\n"
        "03.01.2024;1'234.50;1'299.00;1'200.00;1'250.00;1'000'000\n",
        [("X", "2024-01-02", 1234.5, 1250, 1000000), ("X", "2024-01-03", 1234.5, 1250, 1000000)]),
    "volumes in shares and dollars": Case(
        "Date,Open,High,Low,Close,Dollar Volume,Volume\n2024-01-02,1,3,0.5,2,20,10\n"
        "2024-01-03,1,3,0.5,2,20,10\n",
        [("X", "2024-01-02", 1, 2, 10), ("X", "2024-01-03", 1, 2, 10)],
        amounts=(20, 20)),
    "a turnover that is a share": Case(
        "date,code,open,high,low,close,volume,turnover\n"
        "2024-06-28,000001,10.20,10.31,10.15,10.15,81234567,0.42\n"
        "2024-07-01,000001,10.20,10.31,10.15,10.15,81234567,0.42\n",
        [("000001", "2024-06-28", 10.2, 10.15, 81234567), ("000001", "2024-07-01", 10.2, 10.15, 81234567)]),
    "seconds and milliseconds": Case(
        "time,open,high,low,close,volume\n1704153600,1,3,0.5,2,10\n1704240000000,1,3,0.5,2,10\n",
        [("X", "2024-01-02", 1, 2, 10), ("X", "2024-01-03", 1, 2, 10)]),
    "hours apart from the day": Case(
        "Date,Hour,Open,High,Low,Close,Volume\n2024-01-02,9,1,3,0.5,2,10\n2024-01-02,10,1,3,0.5,2,10\n",
        [("X", "2024-01-02 09:00", 1, 2, 10), ("X", "2024-01-02 10:00", 1, 2, 10)],
        fields={"freq": "60min"}),
    "months": Case(
        "Date,Open,High,Low,Close,Volume\n2024-01,1,3,0.5,2,10\n2024-02,1,3,0.5,2,10\n",
        [("X", "2024-01-01", 1, 2, 10), ("X", "2024-02-01", 1, 2, 10)]),
    "lines of a title": Case(
        "Symbol: AAPL\nInterval: Daily\n\nDate,Open,High,Low,Close,Volume\n2024-01-02,1,3,0.5,2,10\n",
        [("X", "2024-01-02", 1, 2, 10)]),
    "comments": Case(
        "# exported 2024\n# AAPL\nDate,Open,High,Low,Close,Volume\n2024-01-02,1,3,0.5,2,10\n",
        [("X", "2024-01-02", 1, 2, 10)]),
    "a mark before the header": Case(
        "#Date,Open,High,Low,Close,Volume\n2024-01-02,1,3,0.5,2,10\n",
        [("X", "2024-01-02", 1, 2, 10)]),
    "columns of blanks": Case(
        "Date        Open    High    Low    Close   Volume\n2024-01-02  1.0     3.0     0.5    2.0     10\n"
        "2024-01-03  1.0     3.0     0.5    2.0     10\n",
        [("X", "2024-01-02", 1, 2, 10), ("X", "2024-01-03", 1, 2, 10)]),
    "the close before": Case(
        "Date,PrevClose,Open,High,Low,Close,VWAP,Volume\n2024-01-02,9,1,3,0.5,2,2,10\n",
        [("X", "2024-01-02", 1, 2, 10)]),
    "futures with last and settle": Case(
        "Date,Open,High,Low,Last,Change,Settle,Volume,Previous Day Open Interest\n"
        "2024-01-02,1,3,0.5,2,,2.1,10,5\n2024-01-03,1,3,0.5,2,,2.1,10,5\n",
        [("X", "2024-01-02", 1, 2.1, 10), ("X", "2024-01-03", 1, 2.1, 10)],
        notes="Close is column Settle, the official price of the day; --column-names Last=close takes the"),
    "Chinese futures": Case(
        "日期,合约,前结算,今开盘,最高价,最低价,今收盘,今结算,涨跌1,成交量,成交额,持仓量\n"
        "2024-01-02,rb2405,3900,4000,4005,3995,4001,4000,1,4757,19028,150\n"
        "2024-01-03,rb2405,3900,4000,4005,3995,4001,4000,1,4757,19028,150\n",
        [("rb2405", "2024-01-02", 4000, 4001, 4757), ("rb2405", "2024-01-03", 4000, 4001, 4757)],
        amounts=(19028000, 19028000)),
    "Tokyo shares of a contest": Case(
        "RowId,Date,SecuritiesCode,Open,High,Low,Close,Volume,AdjustmentFactor,ExpectedDividend,Supervisi"
        "onFlag,Target\n20170104_1301,2017-01-04,1301,2734.0,2755.0,2730.0,2742.0,31400,1.0,,False,0.0007\n"
        "20170104_1332,2017-01-04,1332,568.0,576.0,563.0,571.0,2798500,1.0,,False,0.012\n",
        [("1301", "2017-01-04", 2734, 2742, 31400), ("1332", "2017-01-04", 568, 571, 2798500)],
        notes="Column factor is not used"),
    "numbers of assets": Case(
        "timestamp,Asset_ID,Count,Open,High,Low,Close,Volume,VWAP,Target\n"
        "1514764860,2,40,2376.58,2399.5,2357.14,2374.59,19.23,2373.1,-0.004\n"
        "1514764860,0,5,8.53,8.53,8.53,8.53,78.38,8.53,-0.014\n"
        "1514764920,2,40,2376.58,2399.5,2357.14,2374.59,19.23,2373.1,-0.004\n"
        "1514764920,0,5,8.53,8.53,8.53,8.53,78.38,8.53,-0.014\n",
        [("0", "2018-01-01 00:01", 8.53, 8.53, 78.38), ("0", "2018-01-01 00:02", 8.53, 8.53, 78.38),
         ("2", "2018-01-01 00:01", 2376.58, 2374.59, 19.23),
         ("2", "2018-01-01 00:02", 2376.58, 2374.59, 19.23)],
        fields={"freq": "1min", "calendar": "24/7"}),
    "KuCoin": Case(
        "time,open,close,high,low,volume,turnover\n"
        "1704067200,42283.5,42475.2,42554.5,42261.0,27.5,1168068\n"
        "1704153600,42475.2,42613.5,42775.0,42431.6,19.3,822440\n",
        [("X", "2024-01-01", 42283.5, 42475.2, 27.5), ("X", "2024-01-02", 42475.2, 42613.5, 19.3)],
        amounts=(1168068, 822440)),
    "Bitfinex without a header": Case(
        "1704067200000,42283.5,42475.2,42554.5,42261.0,27.5\n"
        "1704153600000,42475.2,42613.5,42775.0,42431.6,19.3\n",
        [("X", "2024-01-01", 42283.5, 42475.2, 27.5), ("X", "2024-01-02", 42475.2, 42613.5, 19.3)]),
    "BitMEX": Case(
        "timestamp,symbol,open,high,low,close,trades,volume,vwap,lastSize,turnover,homeNotional,foreignNo"
        "tional\n"
        "2024-01-01T00:00:00.000Z,XBTUSD,42283.5,42554.5,42261.0,42475.2,100,1168068,42400,100,2750000000"
        ",27.5,1168068\n"
        "2024-01-02T00:00:00.000Z,XBTUSD,42475.2,42775.0,42431.6,42613.5,100,822440,42500,100,1930000000,"
        "19.3,822440\n",
        [("XBTUSD", "2024-01-01", 42283.5, 42475.2, 1168068),
         ("XBTUSD", "2024-01-02", 42475.2, 42613.5, 822440)],
        amounts=(2750000000, 1930000000), notes="The amount fits no unit"),
    "minutes with the offset of India": Case(
        "date,open,high,low,close,volume\n2015-02-02 09:15:00+05:30,1,3,0.5,2,10\n"
        "2015-02-02 09:16:00+05:30,1,3,0.5,2,10\n",
        [("X", "2015-02-02 09:15", 1, 2, 10), ("X", "2015-02-02 09:16", 1, 2, 10)],
        fields={"freq": "1min"}, notes="taken as they are written"),
    "Sharadar": Case(
        "ticker,date,open,high,low,close,volume,closeadj,closeunadj,lastupdated\n"
        "AAPL,2024-01-02,187.15,188.44,183.885,185.64,82488700,184.9,185.64,2024-01-03\n"
        "MSFT,2024-01-02,373.86,375.9,366.77,370.87,25258600,370.0,370.87,2024-01-03\n",
        [("AAPL", "2024-01-02", 187.15, 185.64, 82488700),
         ("MSFT", "2024-01-02", 373.86, 370.87, 25258600)]),
    "yfinance stacked": Case(
        "Date,Ticker,Adj Close,Close,High,Low,Open,Volume\n"
        "2024-01-02,AAPL,184,184.29,187.07,182.55,185.79,82488700\n"
        "2024-01-02,MSFT,370,370.6,373.0,368.5,369.0,23083500\n",
        [("AAPL", "2024-01-02", 185.79, 184.29, 82488700), ("MSFT", "2024-01-02", 369, 370.6, 23083500)]),
    "OptionMetrics": Case(
        "secid,date,low,high,close,volume,return,cfadj,open,cfret,shrout\n"
        "101594,20240102,183.885,188.44,185.64,82488700,-0.03,1,187.15,1,15552752\n",
        [("101594", "2024-01-02", 187.15, 185.64, 82488700)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_file_gives_its_instruments_times_prices_and_volumes(tmp_path: Path, case: Case) -> None:
    check(tmp_path, case)
