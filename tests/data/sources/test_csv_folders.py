"""Folders as people have them, files that name one instrument together, and files that are refused in one line."""

import gzip
import io
import zipfile
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from csv_cases import HEADER, bars, folder

from kronos.data import calendar_detection
from kronos.data.calendars import sessions
from kronos.data.cleaning import NO_VOLUME
from kronos.data.sources import base
from kronos.data.sources.csv import CsvDataProcessor
from kronos.data.store import BarStore
from kronos.utils.errors import UserError


def processor(path: Path, **fields: Any) -> CsvDataProcessor:
    given = {
        "data_source": "csv", "data_path": str(path), "freq": "day", "dataset_begin_time": date(2000, 1, 1),
        "dataset_end_time": date(2027, 1, 1), "calendar": "auto", "adjust": "auto", "symbols": None,
        "dataset_path": str(path.parent / "store"),
    }  # fmt: skip
    return CsvDataProcessor(SimpleNamespace(**{**given, **fields}))


def read(path: Path, **fields: Any) -> tuple[pd.DataFrame, CsvDataProcessor]:
    reader = processor(path, **fields)
    table = pd.concat(list(reader.process_raw_data()), ignore_index=True)
    return table.sort_values(["instrument", "datetime"], kind="stable").reset_index(drop=True), reader


def build(path: Path, **fields: Any) -> BarStore:
    return processor(path, **fields).run_pipeline()


def with_symbol(text: str, name: str, title: str = "symbol") -> str:
    lines = text.splitlines()
    return "\n".join([f"{title},{lines[0]}", *(f"{name},{line}" for line in lines[1:])]) + "\n"


def packed(name: str, text: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, text)
        archive.writestr("__MACOSX/._" + name, b"\x00\x05\x16\x07")
    return data.getvalue()


def test_what_is_no_bars_in_a_folder_is_left_out_and_counted(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        {"AAPL.csv": bars(), "MSFT.csv": bars(price=20), "sub/NA.csv.gz": gzip.compress(bars(price=30).encode()),
         "._AAPL.csv": b"\x00\x05\x16\x07\x00\x02", "EMPTY.csv": b"", ".hidden/X.csv": bars(),
         "symbols_valid_meta.csv": "Symbol,Security Name,ETF\nAAPL,Apple,N\n", "notes.md": "no bars"},
    )  # fmt: skip
    found, reader = read(root)
    assert found["instrument"].unique().tolist() == ["AAPL", "MSFT", "NA"]
    (finding,) = reader.findings
    assert finding.count == 1 and "symbols_valid_meta.csv has no column for" in finding.items[0][2]
    with pytest.raises(UserError, match=r"A\.csv: no bars are found in it.* \(2 of 3 files\)"):
        read(folder(tmp_path / "b", {"A.csv": "p,q\nx,y\n", "B.csv": "p,q\nx,y\n", "C.csv": bars()}))
    with pytest.raises(UserError, match="is empty"):
        read(folder(tmp_path / "c", {"A.csv": b""}))


def test_files_of_different_days_are_one_instrument(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        {"BTCUSDT-1d-2024-01.zip": packed("BTCUSDT-1d-2024-01.csv", bars(0, 10)),
         "BTCUSDT-1d-2024-02.zip": packed("BTCUSDT-1d-2024-02.csv", bars(21, 10)),
         "ETHUSDT-1d-2024-01.zip": packed("ETHUSDT-1d-2024-01.csv", bars(0, 10, price=5))},
    )  # fmt: skip
    found, _ = read(root)
    assert found["instrument"].value_counts().to_dict() == {"BTCUSDT": 20, "ETHUSDT": 10}
    by_day = {f"2024/{day:%Y%m%d}.csv": with_symbol(f"{HEADER}\n{day:%Y-%m-%d},1,2,0.5,1.5,{place}\n", "A")
              for place, day in enumerate(sessions("XNYS", "2024-01-02", "2024-01-10"))}  # fmt: skip
    found, _ = read(folder(tmp_path / "b", by_day))
    assert found["volume"].tolist() == list(range(7)) and set(found["instrument"]) == {"A"}
    found, _ = read(folder(tmp_path / "c", {"AAPL/daily.csv": bars(), "MSFT/daily.csv": bars()}))
    assert found["instrument"].unique().tolist() == ["AAPL", "MSFT"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"sh/000001.csv": bars(), "sz/000001.csv": bars(price=20), "sz/000002.csv": bars()},
         r"000001 comes from two files, sh/000001\.csv and sz/000001\.csv"),
        ({"A-1h-2024.csv": bars(0, 5), "A-5m-2024.csv": bars(5, 5)}, "A comes in files of 1h, 5m"),
    ],
)  # fmt: skip
def test_files_that_cannot_belong_together_are_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(folder(tmp_path, files))


def test_files_with_and_without_volume_and_adjusted_closes_keep_all_their_bars(tmp_path: Path) -> None:
    plain = "\n".join(",".join(line.split(",")[:5]) for line in bars().splitlines()) + "\n"
    adjusted = "\n".join(
        line + ("," + line.split(",")[4] if place else ",adj close")
        for place, line in enumerate(bars().splitlines())
    )
    store = build(folder(tmp_path, {"A.csv": bars(), "B.csv": plain, "C.csv": adjusted}))
    assert len(store) == 90 and [(one["kind"], one["count"]) for one in store.findings] == [(NO_VOLUME, 1)]
    assert any("Volume is 0, since no column holds it" in note for note in store.source["notes"])


LONG = "date,open,high,low,close,volume,{title}\n" + "".join(
    f"2024-01-{2 + place // 9:02},{1 + place},{3 + place},{0.5 + place},{2 + place},9,{{{place % 9}}}\n"
    for place in range(27)
)


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        (LONG.format(*range(100, 109), title="key"), {},
         r"24 of 27 rows repeat .*: column key has 9 values: is it the instrument\? give --instrument-column key"),
        (LONG.format(*[7] * 9, title="key"), {}, r"no column tells them apart \(columns: key\)"),
        ("symbol,exchange,date,open,high,low,close\nA,X,2024-01-02,1,3,0.5,2\nA,Y,2024-01-02,2,4,0.5,3\n"
            "A,X,2024-01-03,1,3,0.5,2\nA,Y,2024-01-03,2,4,0.5,3\n", {},
         "column exchange has 2 values: give --instrument-column symbol,exchange"),
        ("date,open,high,low,close\n01/02/2024,1,3,0.5,2\n02/03/2024,1,3,0.5,2\n", {}, "can be read two ways"),
        ("date;open;high;low;close;volume\n2024-01-02;1,234;1,300;1,200;1,250;9\n", {}, "can be read two ways"),
        (bars(), {"instrument_column": "Code"}, "instrument_column: there is no column 'Code'"),
        (bars(), {"volume_column": "Vol"}, "has no column 'Vol'"),
        (bars(), {"time_zone": "Mars"}, "time_zone=Mars is not known"),
        ("date,AAPL,MSFT,GOOG,IBM\n2024-01-02,1,2,3,4\n", {}, "has no column for open, high, low, close"),
        ("2024-01-02,5,1,4,2,9\n2024-01-03,5,1,4,2,9\n2024-01-04,1,5,4,3,9\n", {}, "no header, and no four columns"),
        ("time,open,high,low,close,volume\n2024-01-02T14:31:00Z,1,3,0.5,2,9\n", {"freq": "1min"}, "give --calendar"),
        ("date,open,high,low,close,volume\n2024-01-02,1,3,0.5,2,1,007\n2024-01-03,1,3,0.5,2,1,008\n", {},
         "has 6 names in its header and 7 columns in its bars"),
    ],
)  # fmt: skip
def test_what_can_be_read_two_ways_is_refused_with_the_choice(
    tmp_path: Path, text: str, fields: dict[str, Any], message: str
) -> None:
    path = tmp_path / "bars.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read(path, **fields)
    assert "\n" not in str(caught.value)


def test_the_column_that_a_refusal_names_is_read_when_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    path.write_text(LONG.format(*range(100, 109), title="key"))
    found, _ = read(path, instrument_column="key")
    assert found["instrument"].value_counts().to_dict() == {str(100 + place): 3 for place in range(9)}


def test_one_weekly_or_rarely_traded_instrument_does_not_refuse_the_others(tmp_path: Path) -> None:
    lines = bars(count=200).splitlines()
    weekly = "\n".join([lines[0], *lines[1::5]])
    rare = "\n".join([lines[0], *(line for place, line in enumerate(lines[1:]) if place % 7 in (0, 5))])
    store = build(folder(tmp_path, {"A.csv": bars(count=200), "RARE.csv": rare, "WEEKLY.csv": weekly}))
    assert store.instruments == ("A", "RARE")
    (found,) = [one for one in store.findings if one["kind"] == "bars of another length"]
    assert found["count"] == 1 and found["items"][0][0] == "WEEKLY"
    minutes = bars(count=300, freq="1min").splitlines()
    tiny = "\n".join([minutes[0], *(line for place, line in enumerate(minutes[1:]) if place % 9 in (0, 4))])
    store = build(folder(tmp_path / "b", {"BIG.csv": "\n".join(minutes), "TINY.csv": tiny}), freq="1min")
    assert store.instruments == ("BIG", "TINY")


def test_minutes_before_and_after_the_hours_are_left_out_and_counted(tmp_path: Path) -> None:
    days = sessions("XNYS", "2024-03-04", "2024-03-08")
    times = [day + pd.Timedelta(minutes=minute) for day in days for minute in range(4 * 60, 20 * 60)]
    text = "\n".join([HEADER, *(f"{one:%Y-%m-%d %H:%M},1,3,0.5,2,9" for one in times)])
    store = build(folder(tmp_path, {"A.csv": text}), freq="1min", calendar="auto")
    assert store.calendar == "XNYS" and store.label == "start"
    (found,) = [one for one in store.findings if one["kind"] == "bar outside the regular hours of XNYS"]
    assert found["count"] == 5 * (960 - 390)
    assert int(np.count_nonzero(np.asarray(store.flags) == 0)) == 5 * 390


def test_an_open_candle_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path, {"A.csv": bars(0, 20)})
    last = sessions("XNYS", "2024-01-02", "2024-12-31")[19]
    for hour, length in ((12, 19), (17, 20)):  # the exchange closes at 16:00
        clock = (last + pd.Timedelta(hours=hour)).tz_localize("America/New_York")
        monkeypatch.setattr(base, "now", lambda clock=clock: clock)
        store = build(path)
        assert len(store) == length
        counts = {one["kind"]: one["count"] for one in store.findings}
        assert counts == ({"bar whose interval is not over": 1} if length == 19 else {})


def test_a_halving_without_a_listed_split_stays(tmp_path: Path) -> None:
    rows = "2024-05-01,20.10,20.40,19.90,20.00,900000\n2024-05-02,10.05,10.60,9.60,9.90,31000000\n"
    store = build(folder(tmp_path, {"A.csv": f"{HEADER}\n{rows}"}))
    np.testing.assert_allclose(store.values[:, 3], [20.0, 9.9], rtol=1e-6)


def test_utc_minutes_are_put_on_the_clock_of_the_exchange_that_they_fit(tmp_path: Path) -> None:
    local = sessions("XHKG", "2024-06-03", "2024-06-07", "5min")
    utc = local.tz_localize("Asia/Hong_Kong").tz_convert("UTC")
    text = "\n".join([HEADER, *(f"{one:%Y-%m-%dT%H:%M:%SZ},1,3,0.5,2,9" for one in utc)])
    store = build(folder(tmp_path, {"A.csv": text}), freq="5min")
    assert store.calendar == "XHKG" and calendar_detection.POOR < 1
    assert (store.frame()["datetime"].to_numpy() == local.to_numpy()).all()
    assert any("converted to Asia/Hong_Kong" in note for note in store.source["notes"])
