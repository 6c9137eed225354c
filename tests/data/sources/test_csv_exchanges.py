"""Files of exchanges and web pages in India, Brazil and Europe, each with the bars that it holds."""

from pathlib import Path

import pytest
from csv_cases import Case, check

CASES = {
    "Investing.com EU": Case(
        '"Datum","Zuletzt","Eröffn.","Hoch","Tief","Vol.","+/- %"\n'
        '"31.01.2024","1.184,40","1.187,04","1.187,10","1.184,35","55,47M","-1,94%"\n'
        '"30.01.2024","1.188,04","1.190,94","1.191,80","1.187,47","55,86K","-1,92%"\n',
        [("X", "2024-01-30", 1190.94, 1188.04, 55860), ("X", "2024-01-31", 1187.04, 1184.4, 55470000)]),
    "Investing.com no vol": Case(
        '"Date","Price","Open","High","Low","Vol.","Change %"\n'
        '"01/31/2024","1.0818","1.0843","1.0887","1.0795","","-0.24%"\n'
        '"01/30/2024","1.0844","1.0833","1.0857","1.0812","","0.12%"\n',
        [("EUR_USD", "2024-01-30", 1.0833, 1.0844, 0), ("EUR_USD", "2024-01-31", 1.0843, 1.0818, 0)],
        name="EUR_USD Historical Data.csv", notes="Volume is 0, since column Vol. is empty"),
    "NSE hist web": Case(
        '"Date ","series ","OPEN ","HIGH ","LOW ","PREV. CLOSE ","ltp ","close ","vwap ","52W H","52W L "'
        ',"VOLUME ","VALUE ","No of trades "\n'
        '"01-Feb-2024","EQ","2,850.00","2,870.00","2,840.00","2,853.00","2,860.00","2,861.50","2,855.00",'
        '"2,900.00","2,000.00","5,000,000","14,275,000,000.00","100,000"\n'
        '"31-Jan-2024","EQ","2,820.00","2,860.00","2,810.00","2,800.00","2,853.00","2,853.00","2,845.00",'
        '"2,900.00","2,000.00","4,000,000","11,380,000,000.00","90,000"\n',
        [("X", "2024-01-31", 2820, 2853, 4000000), ("X", "2024-02-01", 2850, 2861.5, 5000000)],
        amounts=(11380000000, 14275000000)),
    "NSE new bhavcopy UDiFF": Case(
        "TradDt,BizDt,Sgmt,Src,FinInstrmTp,FinInstrmId,ISIN,TckrSymb,SctySrs,XpryDt,FininstrmActlXpryDt,S"
        "trkPric,OptnTp,FinInstrmNm,OpnPric,HghPric,LwPric,ClsPric,LastPric,PrvsClsgPric,UndrlygPric,Sttl"
        "mPric,OpnIntrst,ChngInOpnIntrst,TtlTradgVol,TtlTrfVal,TtlNbOfTxsExctd,SsnId,NewBrdLotQty,Rmks\n"
        "2024-07-08,2024-07-08,CM,NSE,STK,2885,INE002A01018,RELIANCE,EQ,,,,,RELIANCE,3180,3217.9,3172,320"
        "1.8,3200,3177.2,,3201.8,,,8163020,26148000000,200000,F1,1,\n"
        "2024-07-08,2024-07-08,CM,NSE,STK,22,INE012A01025,ACC,EQ,,,,,ACC,2680,2690,2650,2660,2660,2677,,2"
        "660,,,163020,435000000,20000,F1,1,\n",
        [("ACC", "2024-07-08", 2680, 2660, 163020), ("RELIANCE", "2024-07-08", 3180, 3201.8, 8163020)],
        amounts=(435000000, 26148000000)),
    "NSE sec_bhavdata_full": Case(
        "SYMBOL, SERIES, DATE1, PREV_CLOSE, OPEN_PRICE, HIGH_PRICE, LOW_PRICE, LAST_PRICE, CLOSE_PRICE, A"
        "VG_PRICE, TTL_TRD_QNTY, TURNOVER_LACS, NO_OF_TRADES, DELIV_QTY, DELIV_PER\n"
        "ABC, EQ, 08-Jul-2024, 3177.2, 3180, 3217.9, 3172, 3200, 3201.8, 3195, 8163020, 260808.49, 200000"
        ", 4000000, 49\nXYZ, BE, 08-Jul-2024, 77.2, 80, 81.9, 77, 80, 80.8, 79, 63020, 49.8, 200, -, -\n",
        [("ABC", "2024-07-08", 3180, 3201.8, 8163020), ("XYZ", "2024-07-08", 80, 80.8, 63020)],
        amounts=(26080849000, 4980000), notes="Column TURNOVER_LACS is multiplied by"),
    "BSE": Case(
        "Date,Open Price,High Price,Low Price,Close Price,WAP,No.of Shares,No. of Trades,Total Turnover ("
        "Rs.),Deliverable Quantity,% Deli. Qty to Traded Qty,Spread High-Low,Spread Close-Open\n"
        "1-February-2024,2850.00,2870.00,2840.00,2861.50,2855.0,500000,10000,1427500000.00,200000,40.0,30"
        ".0,11.5,\n"
        "31-January-2024,2820.00,2860.00,2810.00,2853.00,2845.0,400000,9000,1138000000.00,200000,50.0,50."
        "0,33.0,\n",
        [("X", "2024-01-31", 2820, 2853, 400000), ("X", "2024-02-01", 2850, 2861.5, 500000)],
        amounts=(1138000000, 1427500000)),
    "BSE bhavcopy": Case(
        "SC_CODE,SC_NAME,SC_GROUP,SC_TYPE,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,NO_TRADES,NO_OF_SHRS,NET_TUR"
        "NOV,TDCLOINDI,ISIN_CODE,TRADING_DATE,FILLER2,FILLER3\n"
        "500325,RELIANCE,A,Q,2850,2870,2840,2861.5,2860,2853,10000,500000,1427500000,,INE002A01018,01-Feb"
        "-24,,\n",
        [("500325", "2024-02-01", 2850, 2861.5, 500000)],
        amounts=(1427500000,)),
    "B3 semicolon": Case(
        "Data;Código;Abertura;Máximo;Mínimo;Fechamento;Volume\n"
        '02/01/2024;PETR4;37,30;37,95;37,20;37,78;"1.234.567"\n'
        '15/01/2024;PETR4;37,80;38,00;37,50;37,90;"2.234.567"\n',
        [("PETR4", "2024-01-02", 37.3, 37.78, 1234567), ("PETR4", "2024-01-15", 37.8, 37.9, 2234567)],
        encoding="cp1252"),
    "B3 profit": Case(
        "Ativo;Data;Hora;Abertura;Máximo;Mínimo;Fechamento;Volume;Quantidade\n"
        "WINZ23;15/12/2023;09:00:00;130.500;130.900;130.400;130.700;123.456.789,00;9.876\n"
        "WINZ23;15/12/2023;09:05:00;130.700;130.900;130.400;130.800;12.456.789,00;876\n",
        [("WINZ23", "2023-12-15 09:00", 130500, 130700, 9876), ("WINZ23", "2023-12-15 09:05", 130700, 130800, 876)],
        encoding="cp1252", fields={"freq": "5min"}, amounts=(123456789, 12456789), notes="The amount fits no unit"),
    "German Ariva": Case(
        "Datum;Erster;Hoch;Tief;Schlusskurs;Stuecke;Volumen\n"
        "2024-01-31;171,04;172,10;169,35;170,40;1.000.500;170.485.200\n"
        "2024-01-30;170,94;171,80;167,47;168,04;900.100;152.116.900\n",
        [("X", "2024-01-30", 170.94, 168.04, 900100), ("X", "2024-01-31", 171.04, 170.4, 1000500)],
        encoding="cp1252", amounts=(152116900, 170485200)),
    "German Eröffnung;Schluss": Case(
        "Datum;Eröffnung;Hoch;Tief;Schluss;Volumen\n31.01.2024;171,04;172,10;169,35;170,40;1000500\n"
        "30.01.2024;170,94;171,80;167,47;168,04;900100\n",
        [("X", "2024-01-30", 170.94, 168.04, 900100), ("X", "2024-01-31", 171.04, 170.4, 1000500)],
        encoding="cp1252"),
    "French Boursorama": Case(
        "date;ouv;haut;bas;clot;vol;devise\n31/01/2024 00:00;171,04;172,10;169,35;170,40;1000500;EUR\n"
        "30/01/2024 00:00;170,94;171,80;167,47;168,04;900100;EUR\n",
        [("X", "2024-01-30", 170.94, 168.04, 900100), ("X", "2024-01-31", 171.04, 170.4, 1000500)],
        encoding="cp1252"),
    "French Euronext": Case(
        '"Historical Data"\n"From 2024-01-01 to 2024-01-31"\nFR0000120271\n'
        'Date;Open;High;Low;Last;Close;"Number of Shares";"Number of Trades";Turnover;vwap\n'
        "31/01/2024;60.1;60.5;59.8;60.2;60.2;1000500;10000;60230100;60.2\n"
        "30/01/2024;59.1;60.5;58.8;60.0;60.0;1000500;10000;59730100;59.7\n",
        [("X", "2024-01-30", 59.1, 60, 1000500), ("X", "2024-01-31", 60.1, 60.2, 1000500)],
        amounts=(59730100, 60230100)),
    "French": Case(
        "Date;Ouverture;Plus haut;Plus bas;Clôture;Volume\n"
        "31/01/2024;171,04;172,10;169,35;170,40;1 000 500\n30/01/2024;170,94;171,80;167,47;168,04;900 100\n",
        [("X", "2024-01-30", 170.94, 168.04, 900100), ("X", "2024-01-31", 171.04, 170.4, 1000500)]),
    "Russian words": Case(
        "Дата;Открытие;Максимум;Минимум;Закрытие;Объем\n31.01.2024;271,9;274,7;271,0;274,56;20123450\n"
        "30.01.2024;270,9;274,7;270,0;271,56;20123450\n",
        [("X", "2024-01-30", 270.9, 271.56, 20123450), ("X", "2024-01-31", 271.9, 274.56, 20123450)],
        encoding="cp1251"),
    "Russian investing": Case(
        '"Дата","Цена","Откр.","Макс.","Мин.","Объём","Изм. %"\n'
        '"31.01.2024","274,56","271,90","274,70","271,00","20,12M","1,00%"\n'
        '"30.01.2024","271,56","270,90","274,70","270,00","20,12M","0,50%"\n',
        [("X", "2024-01-30", 270.9, 271.56, 20120000), ("X", "2024-01-31", 271.9, 274.56, 20120000)]),
    "MOEX": Case(
        "TRADEDATE;SECID;BOARDID;OPEN;HIGH;LOW;CLOSE;VOLUME;VALUE\n"
        "2024-01-03;SBER;TQBR;271.9;274.7;271;274.56;20123450;5500000000\n"
        "2024-01-04;SBER;TQBR;274.67;275.48;273.7;274.12;15123450;4150000000\n",
        [("SBER", "2024-01-03", 271.9, 274.56, 20123450), ("SBER", "2024-01-04", 274.67, 274.12, 15123450)],
        amounts=(5500000000, 4150000000)),
    "MOEX ISS history": Case(
        "history\n\n"
        "BOARDID;TRADEDATE;SHORTNAME;SECID;NUMTRADES;VALUE;OPEN;LOW;HIGH;LEGALCLOSEPRICE;WAPRICE;CLOSE;VO"
        "LUME\nTQBR;2024-01-03;Сбербанк;SBER;58000;5500000000;271.9;271;274.7;274.56;273;274.56;20123450\n"
        "TQBR;2024-01-04;Сбербанк;SBER;48000;4150000000;274.67;273.7;275.48;274.12;274.5;274.12;15123450\n",
        [("SBER", "2024-01-03", 271.9, 274.56, 20123450), ("SBER", "2024-01-04", 274.67, 274.12, 15123450)],
        encoding="cp1251", amounts=(5500000000, 4150000000)),
    "Spanish": Case(
        "Fecha;Apertura;Máximo;Mínimo;Cierre;Volumen\n31/01/2024;10,5;11;10;10,8;1000\n"
        "30/01/2024;10,5;11;10;10,5;1000\n",
        [("X", "2024-01-30", 10.5, 10.5, 1000), ("X", "2024-01-31", 10.5, 10.8, 1000)]),
    "Italian": Case(
        "Data;Apertura;Massimo;Minimo;Ultimo;Volume\n31/01/2024;10,5;11;10;10,8;1000\n"
        "30/01/2024;10,5;11;10;10,5;1000\n",
        [("X", "2024-01-30", 10.5, 10.5, 1000), ("X", "2024-01-31", 10.5, 10.8, 1000)]),
    "Stooq pl": Case(
        "Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\n2024-01-02,100.5,102,99,101,12345\n"
        "2024-01-03,101,102,99,100,2345\n",
        [("X", "2024-01-02", 100.5, 101, 12345), ("X", "2024-01-03", 101, 100, 2345)]),
    "Nasdaq Nordic": Case(
        "sep=;\n"
        "Date;Bid;Ask;Opening price;High price;Low price;Closing price;Average price;Total volume;Turnove"
        "r;Trades;\n2024-01-31;170,1;170,3;171,04;172,10;169,35;170,40;170,2;1000500;170285100;10000;\n"
        "2024-01-30;168,0;168,1;170,94;171,80;167,47;168,04;169,0;900100;152116900;9000;\n",
        [("X", "2024-01-30", 170.94, 168.04, 900100), ("X", "2024-01-31", 171.04, 170.4, 1000500)],
        amounts=(152116900, 170285100)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_file_gives_its_instruments_times_prices_and_volumes(tmp_path: Path, case: Case) -> None:
    check(tmp_path, case)
