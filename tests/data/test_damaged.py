"""A table of damaged inputs: each is refused in one sentence, or repaired by a stated rule that is counted."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import Flag
from kronos.data.calendars import sessions
from kronos.data.sources.csv import CsvDataProcessor
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

Rows = list[list[str]]
HEADER = ["date", "open", "high", "low", "close", "volume", "amount"]


def good(days: int = 60, calendar: str = "XNYS", freq: str = "day", seed: int = 1) -> Rows:
    """Sound bars as text, header first."""
    generator = np.random.default_rng(seed)
    times = sessions(calendar, "2020-01-02", "2022-12-30", freq)[:days]
    rows = [list(HEADER)]
    price = 50.0
    for place, moment in enumerate(times):
        opening = price
        price *= float(np.exp(generator.normal(0, 0.01)))
        high, low = max(opening, price) * 1.004, min(opening, price) / 1.004
        volume = 1000 + 7 * place
        pattern = "%Y-%m-%d" if freq == "day" else "%Y-%m-%d %H:%M"
        values = [f"{value:.4f}" for value in (opening, high, low, price)]
        rows.append([f"{moment:{pattern}}", *values, str(volume), f"{volume * price:.2f}"])
    return rows


def text(rows: Rows, delimiter: str = ",") -> bytes:
    return "".join(delimiter.join(row) + "\n" for row in rows).encode()


def write(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def build(path: Path | str | None, tmp_path: Path, **changes: Any) -> BarStore:
    given = {
        "data_source": "csv", "data_path": None if path is None else str(path), "freq": "day",
        "dataset_begin_time": date(2019, 1, 1), "dataset_end_time": date(2023, 1, 1), "calendar": "auto",
        "adjust": "auto", "symbols": None, "dataset_path": str(tmp_path / "store"),
    }  # fmt: skip
    return CsvDataProcessor(SimpleNamespace(**{**given, **changes})).run_pipeline()


def cell(row: int, column: str, value: str | Callable[[list[str]], str]) -> Callable[[], bytes]:
    def damaged() -> bytes:
        rows = good()
        rows[row][HEADER.index(column)] = value if isinstance(value, str) else value(rows[row])
        return text(rows)

    return damaged


def header(*names: str) -> Callable[[], bytes]:
    return lambda: text([list(names), *good()[1:]])


def column(name: str, change: Callable[[str], str]) -> Callable[[], bytes]:
    def damaged() -> bytes:
        rows = good()
        for row in rows[1:]:
            row[HEADER.index(name)] = change(row[HEADER.index(name)])
        return text(rows)

    return damaged


def weekly() -> bytes:
    rows = good(200)
    return text([rows[0], *rows[1::5]])


def minutes(step: str, days: int = 300) -> Callable[[], bytes]:
    return lambda: text(good(days, "XSHG", step))


def two_spacings() -> bytes:
    rows = good(200)
    long = [
        ["symbol", *rows[0]],
        *(["AAA", *row] for row in rows[1:]),
        *(["BBB", *row] for row in rows[1::5]),
    ]
    return text(long)


REFUSED: dict[str, tuple[Callable[[], bytes | dict[str, bytes]], dict[str, Any], str]] = {
    "empty file": (lambda: b"", {}, r"A\.csv is empty: remove the file or fill it"),
    "header alone": (lambda: text(good()[:1]), {}, "has a header and no bars"),
    "no known column": (header("p", "q", "r", "s", "t", "u", "w"), {},
                        "has no column for open, high, low, close: its columns are p, q, r"),
    "no close": (header("date", "open", "high", "low", "final", "volume", "amount"), {}, "has no column for close"),
    "close twice": (header("date", "open", "close", "low", "close", "volume", "amount"), {},
                    "column close is there twice"),
    "text for a price": (column("close", lambda value: value + "x"), {},
                         r"column close has '.*x' in row 2, a number was expected \(60 such values\)"),
    "true for a volume": (column("volume", lambda _: "true"), {}, "column volume has 'true' in row 2"),
    "thousands without quotation": (lambda: text(good()).replace(b",10", b",1,0"), {},
                                    "has 7 names in its header and 8 columns in its bars"),
    "no times": (column("date", lambda _: ""), {}, "has no column for datetime|the time is empty in 60 of 60 rows"),
    "words for a day": (column("date", lambda _: "soon"), {}, "'soon' in row 2 is not a time"),
    "day or month first": (column("date", lambda day: "01/02/2020"), {},
                           "the date 01/02/2020 can be read two ways"),
    "small numbers as times": (column("date", lambda _: "43831"), {}, "repeat the time of another row"),
    "days that end in the evening of UTC": (column("date", lambda day: day + "T20:00:00Z"), {},
                                            "calendar=auto does not tell the exchange's days: give --calendar"),
    "an unknown encoding": (lambda: text(good()) + b"\xff\xff\xff", {}, "is neither UTF-8 nor GB18030 text"),
    "a parquet file that is none": (lambda: {"A.parquet": b"PAR1 not really"}, {}, r"A\.parquet cannot be read"),
    "a folder without bars": (lambda: {"notes.md": b"none"}, {}, r"has no file that ends in \.csv"),
    "weekly bars": (weekly, {}, r"freq=day, but the bars of A are 7 days apart"),
    "one instrument weekly": (two_spacings, {}, r"the bars of BBB are 7 days apart \(1 of 2 instruments here\)"),
    "minutes where days are expected": (minutes("5min"), {}, r"bars at .* 5 minutes apart: give --freq 5min"),
    "days where minutes are expected": (lambda: text(good()), {"freq": "5min"}, "but the bars are daily"),
    "one minute where five are expected": (minutes("1min"), {"freq": "5min"},
                                           "freq=5min, but the bars of A are 1 minutes apart"),
    "another exchange's days": (lambda: text(good(300, "24/7")), {"calendar": "XNYS"},
                                r"9\d of 300 bars are at no day session of calendar XNYS, .* A at 2020-01-04"),
    "an unknown calendar": (lambda: text(good()), {"calendar": "XMARS"}, "no calendar 'XMARS': choose one of XNYS"),
    "days before the calendar": (lambda: text(good()).replace(b"2020-", b"1920-"),
                                 {"calendar": "XSHG", "dataset_begin_time": date(1900, 1, 1)},
                                 "calendar XSHG is known from 1990-12-03"),
    "night bars that fit no calendar": (
        lambda: text(good(300, "XSHG", "5min")).replace(b" 09:", b" 02:").replace(b" 13:", b" 03:"),
        {"freq": "5min", "calendar": "XSHG"}, "bars are at no 5min session of calendar XSHG"),
    "no day in the range": (lambda: text(good()), {"dataset_end_time": date(2019, 6, 1)},
                            r"has no bar in 2019-01-01\.\.2019-06-01 .*: it has 2020-01-02\.\.2020-03-27"),
    "no bar that is possible": (column("close", lambda _: "nan"), {}, "every bar has a missing or impossible value"),
    "a symbol that is not there": (lambda: text(good()), {"symbols": ("A", "Z")},
                                   "symbols: the source has no Z among its 1 instruments"),
    "two files of one instrument that differ": (
        lambda: {"A.csv": text(good()), "A.txt": text(good(seed=2))}, {}, r"A\.csv.*A\.txt"),
    "long tables that differ": (
        lambda: {"1.csv": text([["symbol", *HEADER[:-1], "adj close"], ["A", *good()[1]]]),
                 "2.csv": text([["symbol", *HEADER[:-1]], ["A", *good()[2][:-1]]])}, {},
        r"1\.csv has columns .*, 2\.csv has"),
    "a nameless instrument": (lambda: text([["symbol", *HEADER], ["", *good()[1]], ["A", *good()[2]]]), {},
                              "column instrument is empty in 1 of 2 bars"),
    "a factor that is not there": (lambda: text(good()), {"adjust": "factor"},
                                   "adjust=factor needs a column factor or adj_close"),
    "prices beyond float32": (cell(5, "amount", "1e60"), {}, "A on 2020-01-08 has a value that is .* too large"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, case: tuple[Callable[[], Any], dict[str, Any], str]
) -> None:
    make, changes, message = case
    made = make()
    root = write(tmp_path / "bars", made if isinstance(made, dict) else {"A.csv": made})
    with pytest.raises(UserError, match=message) as caught:
        build(root, tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "data_source=csv needs --data-path"),
        ("/nowhere/bars.csv", "data_path /nowhere/bars.csv does not exist"),
    ],
)
def test_a_path_that_is_none_is_refused(tmp_path: Path, path: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(path, tmp_path)


def rows_changed(change: Callable[[Rows], Rows]) -> Callable[[], bytes]:
    return lambda: text(change(good()))


def flat(rows: Rows, first: int, last: int, volume: str) -> Rows:
    """Rows first..last as flat bars at the close before them."""
    close = rows[first - 1][4]
    for row in rows[first : last + 1]:
        row[1:5] = [close] * 4
        row[5:] = [volume, "0"]
    return rows


def equal(rows: Rows, first: int, last: int) -> Rows:
    for row in rows[first + 1 : last + 1]:
        row[1:] = rows[first][1:]
    return rows


def constant(rows: Rows) -> Rows:
    for row in rows[1:]:
        row[5] = "300"
    return rows


def scaled(rows: Rows, first: int, factor: float) -> Rows:
    for row in rows[first:]:
        row[1:5] = [f"{float(value) * factor:.4f}" for value in row[1:5]]
    return rows


def locked(rows: Rows) -> Rows:
    price = float(rows[20][4])
    for row in rows[21:24]:
        price *= 1.1
        row[1:5] = [f"{price:.4f}"] * 4
    return scaled(rows, 24, 1.1**3)


def swapped(row: list[str]) -> str:
    return row[HEADER.index("low")]


# case: (damage, what the report counts beside the holes that follow from it)
COUNTED: dict[str, tuple[Callable[[], bytes], dict[str, int]]] = {
    "newest first": (rows_changed(lambda rows: [rows[0], *rows[:0:-1]]), {"bar earlier than the one before it": 59}),
    "two rows swapped": (rows_changed(lambda rows: [*rows[:9], rows[10], rows[9], *rows[11:]]),
                         {"bar earlier than the one before it": 1}),
    "a row twice": (rows_changed(lambda rows: [*rows[:9], rows[8], *rows[9:]]), {"repeated bar": 1}),
    "a row twice with another close": (
        rows_changed(lambda rows: [*rows[:9], [*rows[8][:4], rows[8][3], *rows[8][5:]], *rows[9:]]),
        {"repeated bar": 1}),
    "a dash for a price": (cell(20, "open", "--"), {"missing value": 1}),
    "UTF-16": (lambda: text(good()).decode().encode("utf-16"), {}),
    "midnight in Shanghai": (column("date", lambda day: day + "T00:00:00+08:00"), {}),
    "close missing": (cell(20, "close", ""), {"missing value": 1}),
    "volume missing": (cell(20, "volume", "nan"), {"missing value": 1}),
    "price infinite": (cell(20, "high", "inf"), {"infinite value": 1}),
    "price zero": (cell(20, "low", "0"), {"price not positive": 1}),
    "price negative": (cell(20, "open", "-3"), {"price not positive": 1}),
    "volume negative": (cell(20, "volume", "-1"), {"volume negative": 1}),
    "high a little below close": (
        cell(20, "high", lambda row: f"{max(float(row[1]), float(row[4])) * 0.99:.4f}"),
        {"high and low do not contain open and close, by at most 5 %": 1}),
    "low far above close": (
        cell(20, "low", lambda row: f"{float(row[4]) * 1.2:.4f}"),
        {"high and low do not contain open and close, by more than 5 %": 1}),
    "amount missing": (cell(20, "amount", ""), {"amount missing": 1}),
    "amount negative": (cell(20, "amount", "-1"), {"amount missing": 1}),
    "a day without a bar": (rows_changed(lambda rows: rows[:20] + rows[21:]),
                            {"hole of at most 3 sessions": 1, "session without any bar": 1}),
    "two weeks without a bar": (rows_changed(lambda rows: rows[:20] + rows[30:]),
                                {"hole of more than 3 sessions": 1, "session without any bar": 10}),
    "suspended days written flat": (rows_changed(lambda rows: flat(rows, 20, 22, "0")),
                                    {"suspended day written as a flat bar without volume": 3}),
    "a feed that stands still": (rows_changed(lambda rows: equal(rows, 20, 24)),
                                 {"the same bar 3 times or more in a row": 3}),
    "equal bars with a volume that is common": (rows_changed(lambda rows: equal(constant(rows), 20, 24)),
                                                {"the same bar 3 times or more in a row, "
                                                 "of one price or with a common volume": 3}),
    "limit up three days": (rows_changed(locked), {"bar locked at one price after a move of 4.5 % or more": 3}),
    "a price that halves": (rows_changed(lambda rows: scaled(rows, 30, 0.5)),
                            {"suspected split": 1, "move over 25 %": 1}),
    "a move that is no split": (rows_changed(lambda rows: scaled(rows, 30, 1.4)), {"move over 25 %": 1}),
    "a bar on a Saturday": (rows_changed(lambda rows: [*rows[:13], ["2020-01-18", *rows[12][1:]], *rows[13:]]),
                           {"bar at no session of calendar XNYS": 1}),
    "a time of day on daily bars": (column("date", lambda day: day + " 16:00"), {"daily bar with a time of day": 60}),
}  # fmt: skip
HOLES = {"hole of at most 3 sessions", "session without any bar"}


@pytest.mark.parametrize("case", COUNTED.values(), ids=COUNTED.keys())
def test_what_is_repaired_or_left_out_is_counted_with_instrument_and_day(
    tmp_path: Path, case: tuple[Callable[[], bytes], dict[str, int]]
) -> None:
    make, expected = case
    store = build(write(tmp_path / "bars", {"A.csv": make()}), tmp_path)
    found = {one["kind"]: one["count"] for one in store.findings}
    assert {kind: count for kind, count in found.items() if kind in expected or kind not in HOLES} == expected
    for one in store.findings:
        assert len(one["items"]) == one["count"]
        assert all(name in ("A", "*") and day[:4] == "2020" for name, day, _ in one["items"])
    report = (store.path / "data_report.md").read_text()
    assert all(f"| {kind} | {count:,} |" in report for kind, count in found.items())
    changed = np.count_nonzero(np.asarray(store.flags))
    assert changed == 0 or found, "nothing is changed that is not counted"
    real = int(np.count_nonzero((np.asarray(store.flags) & Flag.FILLED) == 0))
    dropped = sum(
        one["count"]
        for one in store.findings
        if one["action"].startswith("dropped") and "first is kept" not in one["action"]
    )
    missing = 60 - real - dropped
    assert missing == {
        "a day without a bar": 1,
        "two weeks without a bar": 10,
        "a bar on a Saturday": -1,
    }.get(_name(case), 0)


def _name(case: object) -> str:
    return next(name for name, one in COUNTED.items() if one is case)


def test_the_table_is_long_enough_and_sound_bars_have_nothing_to_count(tmp_path: Path) -> None:
    assert len(REFUSED) + len(COUNTED) >= 60
    store = build(write(tmp_path / "bars", {"A.csv": text(good())}), tmp_path)
    assert store.findings == [] and len(store) == 60 and not store.flags.any()
    assert pd.Timestamp(int(store.times[0])) == pd.Timestamp("2020-01-02")


# case: (damage, the kind of the finding); the row is a hole, and nothing else is changed
ROWS_LEFT_OUT: dict[str, tuple[Callable[[], bytes], str]] = {
    "text in a price": (cell(20, "close", "12.3x"), "value that is no number"),
    "a comma too many": (lambda: text(good()).replace(b",1007,", b",1,007,"), "row that cannot be read"),
    "a line broken off": (lambda: text(good())[:-30], "row that cannot be read"),
    "no time": (cell(20, "date", ""), "row without a time that can be read"),
    "a day that is none": (cell(20, "date", "2020-02-31"), "row without a time that can be read"),
    "numbers of two kinds as times": (cell(20, "date", "1577923200"), "row without a time that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS_LEFT_OUT.values(), ids=ROWS_LEFT_OUT.keys())
def test_one_row_that_cannot_be_read_is_left_out_and_counted(
    tmp_path: Path, case: tuple[Callable[[], bytes], str]
) -> None:
    make, kind = case
    store = build(write(tmp_path / "bars", {"A.csv": make()}), tmp_path)
    assert [one["count"] for one in store.findings if one["kind"] == kind] == [1]
    real = (np.asarray(store.flags) & Flag.FILLED) == 0
    assert int(np.count_nonzero(real)) == 59
    whole = build(write(tmp_path / "whole", {"A.csv": text(good())}), tmp_path).frame()
    kept = store.frame()[real].merge(whole, on=["instrument", "datetime"], suffixes=("", "_whole"))
    assert len(kept) == 59 and (kept["close"] == kept["close_whole"]).all()
