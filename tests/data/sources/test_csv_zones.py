"""Times with a zone, in every form of date: the moments that were written come back, or a line says what to give."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from csv_cases import read
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.data.calendars import sessions
from kronos.data.sources.csv_times import DateForm, Times, read_times
from kronos.utils.errors import UserError

DATES = {
    "iso": "%Y-%m-%d %H:%M:%S", "iso t": "%Y-%m-%dT%H:%M:%S", "digits": "%Y%m%d %H%M%S",
    "points": "%d.%m.%Y %H:%M:%S.000",
    "day first": "%d/%m/%Y %H:%M", "month first": "%m/%d/%Y %I:%M:%S %p", "slashes": "%Y/%m/%d %H:%M",
    "short year": "%d.%m.%y %H:%M:%S", "named": "%d-%b-%Y %H:%M", "american": "%b %d, %Y %I:%M %p",
    "script": "%a %b %d %Y %H:%M:%S", "mail": "%a, %d %b %Y %H:%M:%S", "day of year": "%Y%j %H:%M",
}  # fmt: skip
ABBREVIATIONS = {
    "America/New_York": ("EST", "EDT"), "Europe/Berlin": ("CET", "CEST"), "Asia/Tokyo": ("JST", "JST"),
    "Asia/Hong_Kong": ("HKT", "HKT"), "America/Los_Angeles": ("PST", "PDT"), "UTC": ("UTC", "Z"),
}  # fmt: skip
LONG = {"EST": "Eastern Standard Time", "EDT": "Eastern Daylight Time"}
ZONES = ["+0100", "+01:00", " +0100", " +01:00", " GMT+0100", " UTC+1", " GMT+01:00", " name", " area", " (name)",
         "+01:00[area]", " GMT+0100 (long)"]  # fmt: skip


def column(texts: list[str], form: DateForm | None = None) -> Times:
    return read_times(pa.chunked_array([pa.array(texts, pa.string())]), form or DateForm())


def zone_text(style: str, moment: pd.Timestamp, area: str) -> str:
    """Write the zone of a moment as a style of ZONES shows it for one hour ahead of UTC."""
    minutes = int(moment.utcoffset().total_seconds() // 60)  # type: ignore[union-attr]
    sign, hours, rest = "-" if minutes < 0 else "+", abs(minutes) // 60, abs(minutes) % 60
    name = ABBREVIATIONS[area][bool(moment.dst())]
    text = style.replace("+01:00", f"{sign}{hours:02}:{rest:02}").replace(
        "+0100", f"{sign}{hours:02}{rest:02}"
    )
    text = text.replace("UTC+1", f"UTC{sign}{hours}" + (f":{rest:02}" if rest else ""))
    return text.replace("name", name).replace("area", area).replace("long", LONG.get(name, name))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_moments_come_back_from_every_form_of_date_with_every_form_of_zone(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pattern, area, style = (
        str(generator.choice(sorted(of))) for of in (DATES.values(), ABBREVIATIONS, ZONES)
    )
    mixed = generator.random() < 0.5  # zones of several places in one column
    moments = pd.date_range("2024-03-04 14:30", "2024-04-05 14:30", freq="23h", tz="UTC")
    texts = []
    for moment in moments:
        place = str(generator.choice(sorted(ABBREVIATIONS))) if mixed else area
        local = moment.tz_convert(place)
        shown = str(generator.choice(ZONES)) if mixed else style
        texts.append(local.strftime(pattern) + zone_text(shown, local, place))
    found = column(texts)
    assert found.utc and not found.bad.any()
    assert (found.ns == moments.as_unit("ns").asi8).all()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Mon Feb 26 09:30:00 EST 2024", "2024-02-26 14:30"),  # as `date` writes it
        ("26.02.2024, 15:30 Uhr MEZ", "2024-02-26 14:30"),
        ("2024/2/26 下午 3:30 北京时间", "2024-02-26 07:30"),
        ("20240226T093000Z", "2024-02-26 09:30"),
        ("2024-02-26 09:30:00\u22120500", "2024-02-26 14:30"),  # a typographic minus
        ("26/Feb/2024:09:30:00 +0530", "2024-02-26 04:00"),
        ("2024-02-26 09:30 EST5EDT", "2024-02-26 14:30"),
        ("2024-02-26 09:30 Etc/GMT+5", "2024-02-26 14:30"),
        ("/Date(1708957800000)/", "2024-02-26 14:30"),
    ],
)
def test_zones_in_rare_forms(text: str, wanted: str) -> None:
    found = column([text])
    assert found.utc and found.ns[0] == pd.Timestamp(wanted).value


@pytest.mark.parametrize("name", ["IST", "CST", "BST", "MST"])
@pytest.mark.parametrize("date", ["2024-02-26 09:30 {}", "26.02.2024 09:30 {}"])
def test_abbreviations_of_several_places_need_the_field_or_another_one_beside_them(
    name: str, date: str
) -> None:
    with pytest.raises(UserError, match=f"the time zone {name} is used in .*: give --time-zone, such as"):
        column([date.format(name)])
    found = column([date.format(name)], DateForm(zone_given=True))
    assert not found.utc and found.ns[0] == pd.Timestamp("2024-02-26 09:30").value
    beside, hours = {"IST": ("IDT", 2), "CST": ("CDT", -6), "BST": ("GMT", 1), "MST": ("MDT", -7)}[name]
    found = column([date.format(name), "27.06.2024 12:00 " + beside])
    assert found.ns[0] == pd.Timestamp("2024-02-26 09:30").value - hours * 3600 * 10**9


def test_ends_of_intervals_are_no_offsets() -> None:
    for step in (30, 60):
        begins = pd.date_range("2024-01-02 09:30", "2024-01-02 13:30", freq=f"{step}min")
        for count in (2, len(begins)):
            texts = [
                f"{one:%Y-%m-%d %H:%M}-{one + pd.Timedelta(minutes=step):%H:%M}" for one in begins[:count]
            ]
            with pytest.raises(UserError, match="if they are intervals"):
                column(texts)
    assert column(["2024-01-02-09:30"]).bad.all()  # neither an offset nor a known form


BARS = sessions("XNYS", "2024-02-26", "2024-03-22", "30min", "start")  # the clock is changed on March 10


def written(root: Path, header: str, texts: list[str]) -> Path:
    rows = [
        f"{text},{10 + place},{12 + place},{9 + place},{11 + place},5" for place, text in enumerate(texts)
    ]
    path = root / "AAPL.csv"
    path.write_text("\n".join([f"{header},Open,High,Low,Close,Volume", *rows]) + "\n")
    return path


def in_zone(zone: str, pattern: str = "%Y-%m-%d %H:%M:%S") -> list[str]:
    return [f"{one:{pattern}}" for one in BARS.tz_localize("America/New_York").tz_convert(zone)]


def come_back(path: Path, bars: pd.DatetimeIndex = BARS, **fields: str) -> None:
    found, _ = read(path, **{"freq": "auto", **fields})
    assert [bar[1] for bar in found] == [f"{one:%Y-%m-%d %H:%M}" for one in bars]
    np.testing.assert_allclose([bar[2] for bar in found], 10 + np.arange(len(bars)))


@pytest.mark.parametrize(
    ("header", "zone"),
    [
        ("Time (GMT+1)", "Etc/GMT-1"),
        ("Time (UTC-04:00)", "Etc/GMT+4"),
        ("Date (UTC)", "UTC"),
        ("Time [America/New_York]", "America/New_York"),
        ("Datetime_UTC", "UTC"),
        ("timestampUTC", "UTC"),
        ("Gmt time", "UTC"),
        ("utctime", "UTC"),
        ("时间(北京时间)", "Asia/Shanghai"),
        ("Time (ET)", "America/New_York"),
        ("Datetime Europe/Berlin", "Europe/Berlin"),
        ("bar_time_JST", "Asia/Tokyo"),
    ],
)
def test_the_zone_in_the_name_of_a_column_is_that_of_its_times(
    tmp_path: Path, header: str, zone: str
) -> None:
    come_back(written(tmp_path, header, in_zone(zone)))


@pytest.mark.parametrize(
    ("header", "zone", "given"),
    [("Time (EST)", "Etc/GMT+5", "Etc/GMT+5"), ("Datetime_CET", "Europe/Berlin", "Europe/Berlin")],
)
def test_an_abbreviation_of_a_part_of_the_year_in_a_columns_name_is_asked_for_in_the_other_part(
    tmp_path: Path, header: str, zone: str, given: str
) -> None:
    path = written(tmp_path, header, in_zone(zone))
    if zone == "Europe/Berlin":
        come_back(path)  # before the clocks of Europe are changed
        path = written(tmp_path, header, [text.replace("2024-03", "2024-04") for text in in_zone(zone)])
    with pytest.raises(UserError, match=rf"column {header[:4]}.* names .*: give --time-zone .*, or Etc/GMT"):
        read(path, freq="auto")
    if zone != "Europe/Berlin":
        come_back(path, time_zone=given)


def test_an_abbreviation_of_several_places_in_a_columns_name_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "Time (CST)", in_zone("America/Chicago"))
    with pytest.raises(UserError, match=r"column Time \(CST\) names CST, which is used in America, China"):
        read(path, freq="auto")
    come_back(path, time_zone="America/Chicago")


def test_a_column_of_local_times_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path, "Local time", in_zone("America/New_York"))
    come_back(path)
    assert "Column Local time is taken for the clock of the exchange" in " ".join(
        read(path, freq="auto")[1].notes
    )


def test_a_zone_behind_a_time_of_day_in_a_column_of_its_own(tmp_path: Path) -> None:
    moments = BARS.tz_localize("America/New_York").tz_convert("Europe/Berlin")
    texts = [f"{one:%d.%m.%Y},{one:%H:%M:%S} GMT{one:%z}" for one in moments]
    come_back(written(tmp_path, "Date,Time", texts))
    texts = [f"{one:%d.%m.%Y},{one:%H:%M}" for one in moments.tz_convert("Etc/GMT-1")]
    come_back(written(tmp_path, "Date,Time (UTC+1)", texts))


@pytest.mark.parametrize("how", ["area", "name", "hours", "seconds"])
def test_a_column_of_zones_is_that_of_the_times_beside_it(tmp_path: Path, how: str) -> None:
    texts = []
    for place, one in enumerate(BARS.tz_localize("America/New_York")):
        area = ["America/New_York", "Europe/Berlin", "Asia/Tokyo"][place % 3]
        local = one.tz_convert(area)
        seconds = int(local.utcoffset().total_seconds())
        shown = {"area": area, "name": ABBREVIATIONS[area][bool(local.dst())], "hours": seconds // 3600,
                 "seconds": seconds}[how]  # fmt: skip
        texts.append(f"{local:%d.%m.%Y},{local:%H:%M},{shown}")
    come_back(
        written(tmp_path, "Date,Time,GMT Offset" if how in ("hours", "seconds") else "Date,Time,TZ", texts)
    )
    path = written(tmp_path, "Date,Time,TZ", [text.rsplit(",", 1)[0] + ",Mars" for text in texts])
    with pytest.raises(
        UserError, match="column TZ has 'mars', which is no time zone that is known: give --time"
    ):
        read(path, freq="auto")


@pytest.mark.parametrize("calendar", ["auto", "XNYS"])
def test_times_without_a_zone_are_in_utc_where_the_first_bar_moves_with_an_exchanges_clock(
    tmp_path: Path, calendar: str
) -> None:
    path = written(tmp_path, "Date", in_zone("UTC"))
    come_back(path, calendar=calendar)
    notes = " ".join(read(path, freq="auto", calendar=calendar)[1].notes)
    assert (
        "taken for UTC, since the first bar of the day moves by an hour with the clock of America/New_York"
        in notes
    )
    come_back(path, time_zone="UTC")


def test_times_on_a_clock_that_is_never_changed_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "Date", in_zone("Etc/GMT+5"))
    for calendar in ("auto", "XNYS"):
        with pytest.raises(UserError, match=r"with the clock of America/New_York.*: give --time-zone"):
            read(path, freq="auto", calendar=calendar)
    come_back(path, time_zone="Etc/GMT+5")


def test_times_in_utc_of_sessions_over_midnight_and_of_extended_hours(tmp_path: Path) -> None:
    sydney = sessions("ASX", "2024-03-18", "2024-04-19", "30min", "start")
    texts = [f"{one:%Y-%m-%d %H:%M}" for one in sydney.tz_localize("Australia/Sydney").tz_convert("UTC")]
    come_back(written(tmp_path, "Date", texts), sydney)
    days = pd.DatetimeIndex(np.unique(BARS.normalize()))
    longer = pd.DatetimeIndex(
        [day + pd.Timedelta(minutes=30 * half) for day in days for half in range(8, 40)]
    )
    texts = [f"{one:%Y-%m-%d %H:%M}" for one in longer.tz_localize("America/New_York").tz_convert("UTC")]
    come_back(written(tmp_path, "Date", texts), longer)


@pytest.mark.parametrize("exchange", ["XNYS", "XETR", "XSHG"])
def test_local_times_over_a_change_of_the_clock_stay_as_they_are(tmp_path: Path, exchange: str) -> None:
    bars = sessions(exchange, "2024-02-26", "2024-04-12", "30min", "start")
    come_back(written(tmp_path, "Date", [f"{one:%Y-%m-%d %H:%M}" for one in bars]), bars)


def test_files_that_do_not_show_utc_before_one_that_does_are_refused(tmp_path: Path) -> None:
    texts = in_zone("UTC")
    written(tmp_path, "Date", texts[:60]).rename(tmp_path / "A.csv")
    written(tmp_path, "Date", texts)
    with pytest.raises(UserError, match=r"AAPL\.csv: the times seem to be in UTC, .*: give --time-zone UTC"):
        read(tmp_path, freq="auto")


@pytest.mark.slow
def test_times_in_utc_that_fit_several_clocks_are_refused_with_them(tmp_path: Path) -> None:
    london = sessions("XLON", "2024-03-11", "2024-04-19", "30min", "start")  # with the hours of Paris
    utc = london.tz_localize("Europe/London").tz_convert("UTC")
    path = written(tmp_path, "Date", [f"{one:%Y-%m-%d %H:%M}" for one in utc])
    with pytest.raises(
        UserError, match=r"time zones that fit: .*Europe/.*: give --time-zone, such as UTC, and --calendar"
    ):
        read(path, freq="auto")
    come_back(path, london, calendar="XLON")
