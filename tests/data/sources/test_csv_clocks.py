"""Dates and times of day in rare forms and columns: the bars that were written come back, or a line refuses them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from csv_cases import read
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.data.calendars import sessions
from kronos.data.sources.csv_times import read_times
from kronos.utils.errors import UserError

MONTHS = {
    "en": "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janv. févr. mars avr. mai juin juil. août sept. oct. nov. déc.",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "pt": "jan fev mar abr mai jun jul ago set out nov dez",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "nl": "januari februari maart april mei juni juli augustus september oktober november december",
    "pl": "stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia",
    "ru": "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
    "tr": "Oca Şub Mar Nis May Haz Tem Ağu Eyl Eki Kas Ara",
    "fi": "tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta heinäkuuta elokuuta syyskuuta lokakuuta "
    "marraskuuta joulukuuta",
    "sv": "jan feb mars april maj juni juli aug sep okt nov dec",
}
DAYS = {
    "en": "Mon Tue Wed Thu Fri Sat Sun", "de": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
    "fr": "lun. mar. mer. jeu. ven. sam. dim.", "es": "lunes martes miércoles jueves viernes sábado domingo",
    "pt": "seg ter qua qui sex sáb dom", "it": "lun mar mer gio ven sab dom", "nl": "ma di wo do vr za zo",
    "pl": "pon wt śr czw pt sob nie", "ru": "пн вт ср чт пт сб вс", "tr": "Pzt Sal Çar Per Cum Cmt Paz",
    "sv": "mån tis ons tor fre lör sön",
}  # fmt: skip
EAST = {"上午 下午": "", "午前 午後": "", "오전 오후": " "}


def in_words(moment: pd.Timestamp, language: str, style: int) -> str:
    month = MONTHS[language].split()[moment.month - 1]
    day = DAYS[language].split()[moment.day_of_week] if language in DAYS else ""
    return [
        f"{moment.day} {month} {moment.year}",
        f"{moment.day:02}-{month.strip('.')}-{moment.year % 100:02}",
        f"{day}, {moment.day}. {month} {moment.year}".lstrip(", "),
        f"{day} {moment:%d.%m.%Y}".strip(),
        f"{month} {moment.day}, {moment.year}",
        f"{moment.day}{month}{moment.year}",
    ][style]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_dates_in_words_of_many_languages_and_halves_of_the_day_come_back(seed: int) -> None:
    generator = np.random.default_rng(seed)
    language, style = str(generator.choice(sorted(MONTHS))), int(generator.integers(6))
    count = generator.integers(380, 400)
    moments = pd.date_range(
        "2023-01-02 09:31", periods=count, freq="1451min"
    )  # all days and months of a year
    texts = [in_words(moment, language, style) for moment in moments]
    clock = int(generator.integers(6))
    if clock == 0:
        moments = moments.normalize()
    elif clock == 1:
        texts = [f"{text} {one:%H:%M}" for text, one in zip(texts, moments, strict=True)]
    elif clock == 2:
        marks = str(generator.choice(["am pm", "AM PM", "a.m. p.m.", "a. m. p. m."]))
        halves = [marks[: len(marks) // 2].strip(), marks[len(marks) // 2 :].strip()]
        texts = [
            f"{text} {one:%I:%M} {halves[one.hour >= 12]}" for text, one in zip(texts, moments, strict=True)
        ]
    else:
        marks, blank = list(EAST.items())[clock - 3]
        halves = marks.split()
        pattern = str(generator.choice(["%Y年%m月%d日", "%Y/%m/%d", "%Y-%m-%d"]))
        texts = [
            f"{one:{pattern}} {halves[one.hour >= 12]}{blank}{(one.hour - 1) % 12 + 1}:{one:%M}"
            for one in moments
        ]
    found = read_times(pa.chunked_array([pa.array(texts, pa.string())]))
    assert not found.utc and not found.bad.any()
    assert (found.ns == moments.as_unit("ns").asi8).all()


BARS = sessions("XNYS", "2024-02-26", "2024-03-08", "30min", "start")
DAILY = sessions("XNYS", "2024-01-02", "2024-04-30")


def written(root: Path, header: str, texts: list[str], name: str = "AAPL.csv") -> Path:
    rows = [
        f"{text},{10 + place},{12 + place},{9 + place},{11 + place},5" for place, text in enumerate(texts)
    ]
    (root / name).write_text("\n".join([f"{header},Open,High,Low,Close,Volume", *rows]) + "\n")
    return root / name


def come_back(path: Path, bars: pd.DatetimeIndex, **fields: str) -> str:
    found, reader = read(path, **{"freq": "auto", **fields})
    assert [bar[1] for bar in found] == [f"{one:%Y-%m-%d %H:%M}".removesuffix(" 00:00") for one in bars]
    np.testing.assert_allclose([bar[2] for bar in found], 10 + np.arange(len(bars)))
    return " ".join(reader.notes)


@pytest.mark.parametrize(
    "name", ["UpdateTime", "Zeit", "Uhrzeit", "heure", "hora", "tid", "時刻", "BarTime", "t2", "x"]
)
@pytest.mark.parametrize("pattern", ["%H:%M", "%H:%M:%S", "%H:%M:%S.000", "%I:%M %p"])
def test_times_of_day_under_any_name_are_known_by_their_values(
    tmp_path: Path, name: str, pattern: str
) -> None:
    come_back(written(tmp_path, f"Date,{name}", [f"{one:%Y%m%d},{one:{pattern}}" for one in BARS]), BARS)


@pytest.mark.parametrize(
    "header", ["TradeDate,Time", "trade_date,Uhrzeit", "timestamp,time", "Date,Timestamp", "date,datetime"]
)
@pytest.mark.parametrize("pattern", ["%Y%m%d,%H:%M", "%d.%m.%Y,%H%M"])
def test_days_and_times_of_day_under_names_of_both(tmp_path: Path, header: str, pattern: str) -> None:
    come_back(written(tmp_path, header, [f"{one:{pattern}}" for one in BARS]), BARS)


@pytest.mark.parametrize("name", ["Time", "BarTime", "t2", "hhmm"])
@pytest.mark.parametrize("how", ["hhmm", "minutes", "seconds"])
def test_numbers_of_times_of_day(tmp_path: Path, name: str, how: str) -> None:
    texts = []
    for one in BARS:
        minutes = one.hour * 60 + one.minute
        clock = {"hhmm": f"{one:%H%M}".lstrip("0"), "minutes": minutes, "seconds": minutes * 60}[how]
        texts.append(f"{one:%Y-%m-%d},{clock}")
    come_back(written(tmp_path, f"Date,{name}", texts), BARS)


def test_hours_and_minutes_in_columns_of_their_own(tmp_path: Path) -> None:
    texts = [f"{one:%Y-%m-%d},{one.hour},{one.minute}" for one in BARS]
    come_back(written(tmp_path, "Date,Hour,Minute", texts), BARS)


def test_several_columns_of_times_of_day_are_asked_for(tmp_path: Path) -> None:
    ends = BARS + pd.Timedelta(minutes=30)
    texts = [f"{a:%Y-%m-%d},{a:%H:%M},{b:%H:%M}" for a, b in zip(BARS, ends, strict=True)]
    path = written(tmp_path, "Date,from,to", texts)
    with pytest.raises(
        UserError, match="columns from and to hold times of day: give --column-names from=time"
    ):
        read(path, freq="auto")
    come_back(path, BARS, column_names=("from=time",))  # type: ignore[arg-type]


def test_sorted_codes_and_counters_are_no_times_of_day(tmp_path: Path) -> None:
    for values in (range(900, 913), range(13)):
        texts = [f"{day:%Y-%m-%d},{value}" for day in DAILY[:20] for value in values]
        with pytest.raises(UserError, match="is it the instrument"):
            read(written(tmp_path, "Date,Key", texts), freq="auto")


@pytest.mark.parametrize("name", ["Time", "UpdateTime"])
def test_evenings_of_trading_days_are_refused(tmp_path: Path, name: str) -> None:
    clocks = ["21:00", "21:30", "22:00", "09:00", "09:30", "10:30"]
    texts = [f"{day:%Y%m%d},{clock}" for day in DAILY[:20] for clock in clocks]
    with pytest.raises(UserError, match=f"the days beside column {name} are trading days"):
        read(written(tmp_path, f"TradingDay,{name}", texts), freq="auto")


SERIAL = pd.Timestamp("1899-12-30")


@pytest.mark.parametrize("digits", [4, 6, 10])
def test_numbers_of_days_of_spreadsheets(tmp_path: Path, digits: int) -> None:
    texts = [f"{(one - SERIAL) / pd.Timedelta(days=1):.{digits}f}" for one in BARS]
    assert "as spreadsheets count them" in come_back(written(tmp_path, "Date", texts), BARS)
    come_back(written(tmp_path, "Date", [str((one - SERIAL).days) for one in DAILY]), DAILY)


def test_numbers_of_days_that_tell_too_little_or_count_from_1904_are_refused(tmp_path: Path) -> None:
    short = [f"{(one - SERIAL) / pd.Timedelta(days=1):.3f}" for one in BARS]
    with pytest.raises(UserError, match="has too few digits for a time"):
        read(written(tmp_path, "Date", short), freq="auto")
    with pytest.raises(UserError, match="seems to be counted from 1904"):
        read(written(tmp_path, "Date", [str((one - pd.Timestamp("1904-01-01")).days) for one in DAILY]))


@pytest.mark.parametrize(
    "pattern",
    [
        "%y%m%d",
        "%Y%j",
        "%Y-%j",
        "%d%m%Y",
        "%a %d/%m/%Y",
        "%A, %B %d, %Y",
        "%Y/%m/%d(月)",
        "%G-W%V-%u",
        "%d%b%Y",
    ],
)
def test_other_forms_of_days(tmp_path: Path, pattern: str) -> None:
    texts = [f'"{one:{pattern}}"' for one in DAILY]
    come_back(written(tmp_path, "Date", texts), DAILY)


@pytest.mark.parametrize(
    ("header", "pattern"),
    [
        ("Year,Month,Day", "%Y,%m,%d"),
        ("Jahr,Monat,Tag", "%Y,%b,%d"),
        ("year,doy", "%Y,%j"),
        ("Year,Day", "%Y,%j"),
    ],
)
def test_days_spread_over_columns(tmp_path: Path, header: str, pattern: str) -> None:
    come_back(written(tmp_path, header, [f"{one:{pattern}}" for one in DAILY]), DAILY)
    texts = [f"{one:{pattern}},{one:%H:%M}" for one in BARS]
    come_back(written(tmp_path, f"{header},Time", texts), BARS)


def test_a_year_beside_whole_days_is_not_used(tmp_path: Path) -> None:
    come_back(written(tmp_path, "Date,Year,Month", [f"{one:%Y-%m-%d,%Y,%m}" for one in DAILY]), DAILY)


def test_json_dates_of_scripts(tmp_path: Path) -> None:
    come_back(written(tmp_path, "Date", [f"/Date({one.value // 10**6})/" for one in DAILY]), DAILY)


@pytest.mark.parametrize("text", ["2024Q1", "Q1 2024", "2024-W09", "W09 2024"])
def test_weeks_and_quarters_are_no_days(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="names a week or a quarter and no day: write the last day of each"):
        read(written(tmp_path, "Date", [text, text.replace("4", "3")]))


def test_years_and_months_in_six_digits_are_read_where_nothing_else_can_be_meant(tmp_path: Path) -> None:
    months = pd.date_range("2009-01-01", "2024-12-01", freq="MS")
    come_back(written(tmp_path, "Date", [f"{one:%Y%m}" for one in months]), months)
    with pytest.raises(UserError, match="can be read two ways"):
        read(written(tmp_path, "Date", ["201201", "201202", "201203"]))


def test_years_of_two_digits_before_months_days_and_times_are_no_numbers_since_1970(tmp_path: Path) -> None:
    come_back(written(tmp_path, "Time", [f"{one:%y%m%d%H%M}" for one in BARS]), BARS)
    come_back(written(tmp_path, "Time", [f"{one:%y%m%d%H%M%S}" for one in BARS]), BARS)
    with pytest.raises(UserError, match="can be read two ways"):
        read(written(tmp_path, "Time", [f"{one - pd.DateOffset(years=9):%y%m%d%H%M}" for one in BARS[:20]]))
    since_1970 = [str(one.tz_localize("America/New_York").value // 10**9) for one in BARS]
    come_back(written(tmp_path, "Time", since_1970), BARS)
    old = pd.date_range("1980-01-02", "2003-01-02", freq="7D")
    assert len(read(written(tmp_path, "Time", [str(one.value // 10**6) for one in old]))[0]) == len(old)
