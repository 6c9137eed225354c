"""Headers in the languages of exchanges and charting sites, units in headers, and columns that may be the volume."""

from pathlib import Path

import pytest
from csv_cases import read

HEADERS = {  # as the sites write them: time, open, high, low, close, volume
    "pt": "Data;Abertura;Máxima;Mínima;Último;Vol.",
    "pt exchange": "DATA;ABERTURA;MAXIMO;MINIMO;FECHAMENTO;VOLUME",
    "es": "Fecha;Apertura;Máximo;Mínimo;Último;Vol.",
    "es close": "Fecha;Apertura;Máx.;Mín.;Cierre;Volumen",
    "fr": "Date;Ouv.;Plus Haut;Plus Bas;Dernier;Vol.",
    "fr close": "Date;Ouverture;+ Haut;+ Bas;Clôture;Volume",
    "it": "Data;Apertura;Massimo;Minimo;Ultimo;Vol.",
    "it close": "Data;Apertura;Max;Min;Chiusura;Quantità Volumi",
    "de": "Datum;Eröffn.;Hoch;Tief;Zuletzt;Vol.",
    "de pieces": "Datum;Eröffnung;Tageshoch;Tagestief;Schluss;Umsatz in Stück",
    "de piece": "Datum;Erster;Höchst;Tiefst;Schlusskurs;Stück",
    "nl": "Datum;Open;Hoog;Laag;Laatste;Vol.",
    "nl close": "Datum;Openen;Hoogste;Laagste;Slot;Aantal",
    "sv": "Datum;Öppen;Högst;Lägst;Senaste;Vol.",
    "sv close": "Datum;Öppningskurs;Högsta;Lägsta;Slutkurs;Volym",
    "da": "Dato;Åbning;Høj;Lav;Seneste;Volumen",
    "pl": "Data;Otwarcie;Max.;Min.;Ostatnio;Wol.",
    "pl close": "Data;Otwarcie;Najwyższy;Najniższy;Zamknięcie;Wolumen",
    "pl bare": "Data;Otwarcie;Najwyzszy;Najnizszy;Zamkniecie;Wolumen",
    "tr": "Tarih;Açılış;Yüksek;Düşük;Şimdi;Hac.",
    "tr capitals": "TARİH;AÇILIŞ;YÜKSEK;DÜŞÜK;KAPANIŞ;HACİM",
    "id": "Tanggal;Pembukaan;Tertinggi;Terendah;Terakhir;Vol.",
    "vi": "Ngày;Mở;Cao;Thấp;Lần cuối;KL",
    "ru": "Дата;Откр.;Макс.;Мин.;Цена;Объём",
    "ru close": "Дата;Открытие;Максимум;Минимум;Закрытие;Кол-во",
    "uk": "Дата;Відкриття;Максимум;Мінімум;Остання ціна;Обсяг",
    "ja": "日付け;始値;高値;安値;終値;出来高",
    "ko": "날짜;시가;고가;저가;종가;거래량",
    "th": "วันที่;เปิด;สูงสุด;ต่ำสุด;ล่าสุด;ปริมาณ",
    "ar": "التاريخ;افتتاح;مرتفع;منخفض;الأخير;الحجم",
    "el": "Ημερομηνία;Άνοιγμα;Υψηλό;Χαμηλό;Τελευταία;Όγκος",
    "latest": "Time;Open;High;Low;Latest;Volume",
    "Bloomberg": "Dates;PX_OPEN;PX_HIGH;PX_LOW;PX_LAST;PX_VOLUME",
    "Bloomberg words": "Date;Px Open;Px High;Px Low;Px Last;TotVol",
    "nested": "time;mid.o;mid.h;mid.l;mid.c;Tick Volume",
    "one side": "DateTime;BidOpen;BidHigh;BidLow;BidClose;TickQty",
    "India": "Date;Open;High;Low;Close;Tot. Trad. Qtty",
}
UNITS = {
    "Volume (Mio.)": 1e6, "Volume (in millions)": 1e6, "Volume, mln": 1e6, "Volume (mn)": 1e6, "Volume (m)": 1e6,
    "Volume (k)": 1e3, "Volume in Lakhs": 1e5, "Volume (in Crores)": 1e7, "Volume(千股)": 1e3, "出来高(千株)": 1e3,
    "거래량(천주)": 1e3, "成交量(万股)": 1e4, "成交量（手）": 100, "成交量(张)": 1, "Volume [shs]": 1,
    "Volumen (Tsd.)": 1e3,
    "Объём (тыс.)": 1e3, "Volume (000s)": 1e3, "Volume '000": 1e3, "Volume (x1000)": 1e3,
    "Volume (1,000 shares)": 1e3,
    "Volume (mn shares)": 1e6, "成交量(百万股)": 1e6, "Volume (lots)": 100, "Объем, млн шт": 1e6,
    "Hacim (bin adet)": 1e3,
    "Volume (00s)": 100, "Volumen (Mio. Stück)": 1e6, "Volume (000's)": 1e3, "Volume_mn": 1e6,
}  # fmt: skip


def rows(volume: str = "7;8", count: int = 2) -> str:
    volumes = volume.split(";")
    return "".join(f"2024-01-{2 + place:02};1.5;3;0.5;2.5;{volumes[place]}\n" for place in range(count))


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_headers_of_many_languages_are_understood(tmp_path: Path, header: str) -> None:
    for text in (header, header.upper(), header.replace(";", " ;"), "\ufeff" + header):
        path = tmp_path / "X.csv"
        path.write_text(f"{text}\n{rows()}", encoding="utf-8")
        found, _ = read(path)
        assert found == [("X", "2024-01-02", 1.5, 2.5, 7), ("X", "2024-01-03", 1.5, 2.5, 8)], text


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_in_a_header_is_applied_and_said(tmp_path: Path, name: str) -> None:
    path = tmp_path / "X.csv"
    path.write_text(f"date;open;high;low;close;{name}\n{rows()}")
    found, reader = read(path)
    assert [bar[4] for bar in found] == pytest.approx([7 * UNITS[name], 8 * UNITS[name]])
    assert any("is multiplied by" in note for note in reader.notes) == (UNITS[name] != 1)
    assert not any("not understood" in note for note in reader.notes)


def test_a_unit_of_money_makes_an_amount_and_an_unknown_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "X.csv"
    path.write_text(f"date;open;high;low;close;Volume (furlongs)\n{rows()}")
    found, reader = read(path)
    assert [bar[4] for bar in found] == [7, 8]
    assert any("unit furlongs of column Volume (furlongs) is not understood" in note for note in reader.notes)
    path.write_text("date;open;high;low;close;Volume (USD mn);Shares\n2024-01-02;1.5;3;0.5;2.5;0.000016;8\n")
    _, reader = read(path, volume_column="Shares")
    assert any("Volume (USD mn) is multiplied by 1,000,000" in note for note in reader.notes)


def test_trades_at_rising_and_at_falling_prices_are_the_volume_together(tmp_path: Path) -> None:
    path = tmp_path / "X.csv"
    path.write_text(
        "Date,Open,High,Low,Close,Up,Down\n2024-01-02,1.5,3,0.5,2.5,7,2\n2024-01-03,1.5,3,0.5,2.5,8,0\n"
    )
    found, reader = read(path)
    assert [bar[4] for bar in found] == [9, 8] and "Volume is Up + Down." in reader.notes
    path.write_text(
        "Date,Open,High,Low,Close,Up,Down\n2024-01-02,1.5,3,0.5,2.5,1,0\n2024-01-03,1.5,3,0.5,2.5,0,1\n"
    )
    found, reader = read(path)
    assert [bar[4] for bar in found] == [0, 0] and any("Volume is 0" in note for note in reader.notes)


def test_a_column_that_may_be_the_volume_is_named_and_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "X.csv"
    text = "".join(f"2024-01-{day:02},1.5,3,0.5,2.5,{100 + day},0.5,A\n" for day in range(2, 12))
    path.write_text(f"date,open,high,low,close,umtrunk,beta,note\n{text}")
    found, reader = read(path)
    assert {bar[4] for bar in found} == {0}
    assert "Is umtrunk the volume? --volume-column umtrunk takes it." in reader.notes
    found, _ = read(path, volume_column="umtrunk")
    assert [bar[4] for bar in found] == [100.0 + day for day in range(2, 12)]
