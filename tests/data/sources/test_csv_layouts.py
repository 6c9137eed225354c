"""Files as traders' tools write them: each is read with its instruments, times, prices and volumes, or refused."""

from pathlib import Path

import numpy as np
import pytest
from csv_cases import Case, check

CASES = {
    "a long table with a column Name": Case(
        "date,open,high,low,close,volume,Name\n2013-02-08,15.07,15.12,14.63,14.75,8407500,AAL\n"
        "2013-02-08,67.71,68.40,66.89,67.85,158168416,AAPL\n2013-02-08,5.10,5.30,5.00,5.20,120000,NA\n",
        [("AAL", "2013-02-08", 15.07, 14.75, 8407500), ("AAPL", "2013-02-08", 67.71, 67.85, 158168416),
         ("NA", "2013-02-08", 5.10, 5.20, 120000)]),
    "yfinance history over daylight saving": Case(
        "Date,Open,High,Low,Close,Volume,Dividends,Stock Splits\n"
        "2024-03-08 00:00:00-05:00,168.0,172.7,167.9,169.7,76114600,0.0,0.0\n"
        "2024-03-11 00:00:00-04:00,171.9,173.4,171.1,171.7,60139500,0.0,0.0\n",
        [("X", "2024-03-08", 168.0, 169.7, 76114600), ("X", "2024-03-11", 171.9, 171.7, 60139500)]),
    "yfinance download of one ticker": Case(
        "Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,\n"
        "2024-01-02,184.29,187.07,182.55,185.79,82488700\n",
        [("AAPL", "2024-01-02", 185.79, 184.29, 82488700)]),
    "yfinance download of two tickers, of which one is listed later": Case(
        "Price,Close,Close,High,High,Low,Low,Open,Open,Volume,Volume\n"
        "Ticker,AAPL,MSFT,AAPL,MSFT,AAPL,MSFT,AAPL,MSFT,AAPL,MSFT\nDate,,,,,,,,,,\n"
        "2024-01-02,184.29,,187.07,,182.55,,185.79,,82488700,\n"
        "2024-01-03,183.91,370.6,185.5,373.0,183.0,368.5,183.9,369.0,58414500,23083500\n",
        [("AAPL", "2024-01-02", 185.79, 184.29, 82488700), ("AAPL", "2024-01-03", 183.9, 183.91, 58414500),
         ("MSFT", "2024-01-03", 369.0, 370.6, 23083500)]),
    "yfinance download grouped by ticker": Case(
        "Ticker,AAPL,,,,,MSFT,,,,\nPrice,Open,High,Low,Close,Volume,Open,High,Low,Close,Volume\nDate,,,,,,,,,,\n"
        "2024-01-03,183.9,185.5,183.0,183.91,58414500,369.0,373.0,368.5,370.6,23083500\n",
        [("AAPL", "2024-01-03", 183.9, 183.91, 58414500), ("MSFT", "2024-01-03", 369.0, 370.6, 23083500)]),
    "names of two parts": Case(
        '"","AAPL.Open","AAPL.High","AAPL.Low","AAPL.Close","AAPL.Volume","AAPL.Adjusted"\n'
        '"2024-01-03",183.9,185.5,183.0,183.91,58414500,183.0\n',
        [("AAPL", "2024-01-03", 183.9, 183.91, 58414500)]),
    "MetaTrader 5 export": Case(
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        "2026.01.02\t00:05:00\t4013.55\t4016.10\t4012.70\t4015.20\t655\t0\t20\n"
        "2026.01.02\t00:10:00\t4015.20\t4016.10\t4012.70\t4015.30\t321\t0\t20\n",
        [("XAUUSD", "2026-01-02 00:05", 4013.55, 4015.20, 655),
         ("XAUUSD", "2026-01-02 00:10", 4015.20, 4015.30, 321)],
        name="XAUUSD_M5_202601020005_202601020010.csv", fields={"freq": "5min"}, notes="Volume is column <TICKVOL>"),
    "MetaTrader 5 in Python": Case(
        "time,open,high,low,close,tick_volume,spread,real_volume\n1767312000,1.17,1.18,1.16,1.175,655,2,0\n"
        "1767398400,1.175,1.18,1.16,1.17,700,2,0\n",
        [("X", "2026-01-02", 1.17, 1.175, 655), ("X", "2026-01-03", 1.175, 1.17, 700)],
        notes="Volume is column tick_volume"),
    "CryptoDataDownload": Case(
        "https://www.CryptoDataDownload.com\n"
        "unix,date,symbol,open,high,low,close,Volume BTC,Volume USDT,tradecount\n"
        "1704074400000,2024-01-01 02:00:00,BTC/USDT,42550,42700,42500,42600,10,426000,900\n"
        "1704070800000,2024-01-01 01:00:00,BTC/USDT,42500,42600,42400,42550,12.3,522000,1000\n",
        [("BTC/USDT", "2024-01-01 01:00", 42500, 42550, 12.3), ("BTC/USDT", "2024-01-01 02:00", 42550, 42600, 10)],
        fields={"freq": "60min"}, amounts=(522000, 426000)),
    "Binance futures, microseconds": Case(
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,"
        "ignore\n1736351700000000,95261.8,95291.6,95196.2,95223.1,180.76,1736351759999999,17214864.0,3401,124.0,"
        "11813167.6,0\n",
        [("BTCUSDT", "2025-01-08 15:55", 95261.8, 95223.1, 180.76)],
        name="BTCUSDT-1m-2025-01-08.csv", fields={"freq": "1min"}, amounts=(17214864.0,)),
    "Binance spot without a header": Case(
        "1704067200000,42283.58,42554.57,42261.02,42475.23,1271.68,1704070799999,53957248.97,47134,682.5,28957416.8,0\n"
        "1704070800000,42475.23,42775.00,42431.65,42613.56,1196.37,1704074399999,50984557.18,44000,600.1,25000000.1,0\n",
        [("BTCUSDT", "2024-01-01", 42283.58, 42475.23, 1271.68),
         ("BTCUSDT", "2024-01-01 01:00", 42475.23, 42613.56, 1196.37)],
        name="BTCUSDT-1h-2024-01.csv", fields={"freq": "60min"}),
    "TradingView, an index": Case(
        "time,open,high,low,close,Volume\n2024-01-02T00:00:00Z,1.1040,1.1060,1.0930,1.0945,\n"
        "2024-01-03T00:00:00Z,1.0945,1.0960,1.0930,1.0950,\n",
        [("X", "2024-01-02", 1.1040, 1.0945, 0), ("X", "2024-01-03", 1.0945, 1.0950, 0)],
        notes="Volume is 0, since column Volume is empty"),
    "Tiingo": Case(
        "date,close,high,low,open,volume,adjClose,adjHigh,adjLow,adjOpen,adjVolume,divCash,splitFactor\n"
        "2020-08-31T00:00:00.000Z,129.0,131.0,126.0,127.6,225702688,129.0,131.0,126.0,127.6,225702688,0.0,4.0\n",
        [("X", "2020-08-31", 127.6, 129.0, 225702688)]),
    "baostock minutes": Case(
        "date,time,code,open,high,low,close,volume,amount,adjustflag\n"
        "2026-06-15,20260615093500000,sh.600000,9.15,9.18,9.13,9.17,1234500,11307712.00,3\n"
        "2026-06-15,20260615094000000,sh.600000,9.17,9.18,9.13,9.15,1000,9150.00,3\n",
        [("sh.600000", "2026-06-15 09:35", 9.15, 9.17, 1234500), ("sh.600000", "2026-06-15 09:40", 9.17, 9.15, 1000)],
        fields={"freq": "5min"}, amounts=(11307712.0, 9150.0)),
    "Tushare": Case(
        "ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount\n"
        "000001.SZ,20240628,10.20,10.31,10.15,10.15,10.24,-0.09,-0.88,812345.67,829876.54\n"
        "000001.SZ,20240627,10.30,10.34,10.20,10.24,10.30,-0.06,-0.58,600000.00,615000.00\n",
        [("000001.SZ", "2024-06-27", 10.30, 10.24, 60000000), ("000001.SZ", "2024-06-28", 10.20, 10.15, 81234567)],
        notes="Volume in lots of 100, amount in thousands", amounts=(615000000.0, 829876540.0)),
    "AKShare from Eastmoney": Case(
        "日期,股票代码,开盘,收盘,最高,最低,成交量,成交额,振幅,涨跌幅,涨跌额,换手率\n"
        "2024-06-28,000001,10.20,10.15,10.31,10.15,812346,829876540.0,1.56,-0.88,-0.09,0.42\n",
        [("000001", "2024-06-28", 10.20, 10.15, 81234600)], notes="Volume in lots of 100", amounts=(829876540.0,)),
    "AKShare from Sina, where turnover is no money": Case(
        "date,open,high,low,close,volume,outstanding_share,turnover\n"
        "2024-06-28,10.20,10.31,10.15,10.15,81234567.0,19405918198.0,0.004186\n",
        [("X", "2024-06-28", 10.20, 10.15, 81234567)], notes="turnover is a share of the capital", amounts=(np.nan,)),
    "TDX": Case(
        "600519 贵州茅台 日线 前复权\n      日期\t    开盘\t    最高\t    最低\t    收盘\t    成交量\t    成交额\n"
        "2026/04/10\t1390.00\t1395.00\t1379.00\t1384.00\t1000\t138400000.00\n#数据来源:通达信\n",
        [("SH#600519", "2026-04-10", 1390, 1384, 100000)],
        name="SH#600519.txt", encoding="gb18030", notes="Volume in lots of 100"),
    "TDX minutes": Case(
        "600519 贵州茅台 5分钟线 不复权\n"
        "      日期\t    时间\t    开盘\t    最高\t    最低\t    收盘\t    成交量\t    成交额\n"
        "2026/04/10\t0935\t1390.00\t1395.00\t1379.00\t1384.00\t1000\t1384000.00\n"
        "2026/04/10\t0940\t1384.00\t1395.00\t1379.00\t1390.00\t1000\t1384000.00\n#数据来源:通达信\n",
        [("SH#600519", "2026-04-10 09:35", 1390, 1384, 1000), ("SH#600519", "2026-04-10 09:40", 1384, 1390, 1000)],
        name="SH#600519.txt", encoding="gb18030", fields={"freq": "5min"}),
    "Wind": Case(
        "代码,简称,日期,前收盘价(元),开盘价(元),最高价(元),最低价(元),收盘价(元),成交量(股),成交金额(元),涨跌(元),涨跌幅(%)\n"
        "600519.SH,贵州茅台,2024-06-28,1450.0,1455.0,1470.0,1440.0,1467.0,2000000,2920000000.0,17.0,1.17\n",
        [("600519.SH", "2024-06-28", 1455.0, 1467.0, 2000000)], amounts=(2920000000.0,)),
    "a bhavcopy with two series of a symbol": Case(
        "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP\n"
        "ABC,N1,1000,1010,990,1005,1005,1000,10,10050,01-JAN-2019\n"
        "ABC,EQ,100,101,99,100.5,100.5,100,1000,100500,01-JAN-2019\n"
        "NULL,EQ,10,11,9,10,10,10,500,5000,01-JAN-2019\n",
        [("ABC", "2019-01-01", 100, 100.5, 1000), ("NULL", "2019-01-01", 10, 10, 500)]),
    "Investing.com": Case(
        '\ufeff"Date","Price","Open","High","Low","Vol.","Change %"\n'
        '"01/31/2024","1,184.40","1,187.04","1,187.10","1,184.35","55.47M","-1.94%"\n'
        '"01/30/2024","1,188.04","1,190.94","1,191.80","1,187.47","55.86K","-1.92%"\n',
        [("X", "2024-01-30", 1190.94, 1188.04, 55860), ("X", "2024-01-31", 1187.04, 1184.40, 55470000)]),
    "Nasdaq": Case(
        "Date,Close/Last,Volume,Open,High,Low\n01/31/2024,$184.40,55467800,$187.04,$187.10,$184.35\n",
        [("X", "2024-01-31", 187.04, 184.40, 55467800)]),
    "Stooq": Case(
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
        "AAPL.US,D,20240102,000000,187.15,188.44,183.885,185.64,82496943,0\n",
        [("AAPL.US", "2024-01-02", 187.15, 185.64, 82496943)]),
    "MetaTrader 4 without a header": Case(
        "2024.01.02,00:00,1.1040,1.1060,1.0930,1.0945,655\n2024.01.02,00:05,1.0945,1.0960,1.0930,1.0950,70\n",
        [("EURUSD", "2024-01-02", 1.1040, 1.0945, 655), ("EURUSD", "2024-01-02 00:05", 1.0945, 1.0950, 70)],
        name="EURUSD5.csv".replace("5", "_M5"), fields={"freq": "5min"}),
    "HistData without a header": Case(
        "20240102 170000;1.306600;1.306700;1.306560;1.306570;0\n"
        "20240102 170100;1.306570;1.306570;1.306560;1.306560;0\n",
        [("X", "2024-01-02 17:00", 1.3066, 1.30657, 0), ("X", "2024-01-02 17:01", 1.30657, 1.30656, 0)],
        fields={"freq": "1min"}),
    "a German file with decimal commas": Case(
        "Datum;Erster;Hoch;Tief;Schlusskurs;Stücke;Volumen\n31.01.2024;1.187,04;1.187,10;1.184,35;1.184,40;1.000;\n"
        "30.01.2024;1.190,94;1.191,80;1.187,47;1.188,04;2.500;\n",
        [("X", "2024-01-30", 1190.94, 1188.04, 2500), ("X", "2024-01-31", 1187.04, 1184.40, 1000)],
        encoding="cp1252"),
    "two columns in brackets": Case(
        "Timestamp,Open,High,Low,Close,Volume_(BTC),Volume_(Currency),Weighted_Price\n"
        "1420070400,313.0,314.0,312.0,313.5,10.0,3130.0,313.0\n",
        [("X", "2015-01-01", 313.0, 313.5, 10.0)], amounts=(3130.0,)),
    "a nameless first column of days": Case(
        ",open,close,high,low,volume,money\n2024-06-28,10.20,10.15,10.31,10.15,81234567,829876540.0\n",
        [("X", "2024-06-28", 10.20, 10.15, 81234567)], amounts=(829876540.0,)),
    "Tonghuashun with weekdays": Case(
        "时间\t开盘\t最高\t最低\t收盘\t涨幅\t振幅\t总手\t金额\t换手%\n"
        "2024-06-28,五\t10.20\t10.31\t10.15\t10.15\t-0.88%\t1.56%\t812,346\t829,876,540\t0.42\n",
        [("X", "2024-06-28", 10.20, 10.15, 81234600)], encoding="gb18030", name="X.txt", amounts=(829876540.0,)),
    "UTF-16 with tabs": Case(
        "Date\tOpen\tHigh\tLow\tClose\tVolume\n2024-01-02\t1\t3\t0.5\t2\t10\n", [("X", "2024-01-02", 1, 2, 10)],
        encoding="utf-16"),
    "codes behind apostrophes": Case(
        "股票代码,日期,开盘价,最高价,最低价,收盘价,成交量\n'000001,2024年6月28日,10.20,10.31,10.15,10.15,81.2万\n",
        [("000001", "2024-06-28", 10.20, 10.15, 812000)]),
    "tickers that are words for none": Case(
        "ticker,date,open,high,low,close,volume\n"
        + "".join(f"{name},2024-01-02,1,3,0.5,2,10\n" for name in ("INF", "NA", "NAN", "NULL", "TRUE")),
        [(name, "2024-01-02", 1, 2, 10) for name in ("INF", "NA", "NAN", "NULL", "TRUE")]),
    "minutes without trades": Case(
        "ticker,datetime,open,high,low,close,volume\nBIG,2026-06-01 09:31,10.00,10.10,9.90,10.00,900\n"
        "TINY,2026-06-01 09:33,1.00,1.00,1.00,1.00,100\nTINY,2026-06-01 09:37,1.01,1.01,1.01,1.01,100\n",
        [("BIG", "2026-06-01 09:31", 10, 10, 900), ("TINY", "2026-06-01 09:33", 1, 1, 100),
         ("TINY", "2026-06-01 09:37", 1.01, 1.01, 100)], fields={"freq": "1min"}),
    "futures with a night session": Case(
        "symbol,datetime,open,high,low,close,volume\n"
        "RB2201.SHF,2021-08-16 23:00:00,5325.0,5327.0,5322.0,5323.0,4757\n"
        "RB2201.SHF,2021-08-17 09:01:00,5326.0,5342.0,5326.0,5338.0,16059\n",
        [("RB2201.SHF", "2021-08-16 23:00", 5325, 5323, 4757), ("RB2201.SHF", "2021-08-17 09:01", 5326, 5338, 16059)],
        fields={"freq": "1min"}),
    "instruments under an unknown name": Case(
        "date,open,high,low,close,volume,line\n2024-01-02,1,3,0.5,2,10,AA\n2024-01-02,11,13,10,12,20,BB\n"
        "2024-01-03,2,3,0.5,2,11,AA\n2024-01-03,12,13,10,12,21,BB\n",
        [("AA", "2024-01-02", 1, 2, 10), ("AA", "2024-01-03", 2, 2, 11), ("BB", "2024-01-02", 11, 12, 20),
         ("BB", "2024-01-03", 12, 12, 21)], notes="Column line is taken for the instrument"),
    "columns that the user names": Case(
        "stamp,p1,p2,p3,p4,n\n2024-01-02,1,3,0.5,2,10\n", [("X", "2024-01-02", 1, 2, 10)],
        fields={"column_names": ("stamp=datetime", "p1=open", "p2=high", "p3=low", "p4=close"),
                "volume_column": "n"}),
    "an instrument of two columns": Case(
        "root,month,date,open,high,low,close,volume\nRB,2201,2021-08-16,1,3,0.5,2,10\nRB,2205,2021-08-16,1,3,0.5,2.5,10\n",
        [("RB.2201", "2021-08-16", 1, 2, 10), ("RB.2205", "2021-08-16", 1, 2.5, 10)],
        fields={"instrument_column": "root,month"}),
    "times of a zone that the user names": Case(
        "time,open,high,low,close,volume\n2024-07-01 13:31,1,3,0.5,2,10\n2024-07-01 13:32,2,3,0.5,2,11\n",
        [("X", "2024-07-01 09:31", 1, 2, 10), ("X", "2024-07-01 09:32", 2, 2, 11)],
        fields={"freq": "1min", "time_zone": "UTC", "calendar": "XNYS"}),
    "minutes with offsets": Case(
        "Datetime,Open,High,Low,Close,Volume\n"
        "2024-03-08 09:30:00-05:00,1,3,0.5,2,10\n2024-03-11 09:30:00-04:00,2,3,0.5,2,11\n",
        [("X", "2024-03-08 09:30", 1, 2, 10), ("X", "2024-03-11 09:30", 2, 2, 11)],
        fields={"freq": "1min"}),
    "headers from a spreadsheet with a title and units": Case(
        "Export of 2024-07-01\n\nDate;Open;High;Low;Close;Volume\n;USD;USD;USD;USD;shares\n"
        "28.06.2024;1,5;3,5;0,5;2,5;10\n",
        [("X", "2024-06-28", 1.5, 2.5, 10)]),
    "Hong Kong days by milliseconds": Case(
        "t,o,h,l,c,v\n1704124800000,1,3,0.5,2,10\n1704211200000,2,3,0.5,2,11\n",
        [("X", "2024-01-02", 1, 2, 10), ("X", "2024-01-03", 2, 2, 11)], fields={"calendar": "XHKG"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_layout_gives_its_instruments_times_prices_and_volumes(tmp_path: Path, case: Case) -> None:
    check(tmp_path, case)
