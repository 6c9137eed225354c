"""The csv source: layouts, spellings of columns and times, encodings, factors; the files for development."""

import gzip
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import FEATURES, Flag
from kronos.data.cleaning import NO_VOLUME
from kronos.data.sources import csv as csv_files
from kronos.data.sources.csv import CsvDataProcessor
from kronos.data.store import BarStore

MakeBars = Callable[..., pd.DataFrame]
NAMES = ("000001", "AAA", "BBB")


@pytest.fixture
def raw(make_bars: MakeBars) -> pd.DataFrame:
    return make_bars(50, names=NAMES).assign(amount=lambda frame: frame["volume"] * 7)


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., BarStore]:
    def make(path: Path, **changes: Any) -> BarStore:
        given = {
            "data_source": "csv", "data_path": str(path), "freq": "day", "dataset_begin_time": date(2011, 1, 1),
            "dataset_end_time": date(2025, 1, 1), "calendar": "auto", "adjust": "none", "symbols": None,
            "dataset_path": str(tmp_path / "store"),
        }  # fmt: skip
        return CsvDataProcessor(SimpleNamespace(**{**given, **changes})).run_pipeline()

    return make


def _folder(raw: pd.DataFrame, root: Path, suffix: str) -> Path:
    root.mkdir()
    for name, part in raw.groupby("instrument"):
        bare = part.drop(columns="instrument")
        if suffix == ".parquet":
            bare.to_parquet(root / f"{name}.parquet", index=False)
        else:
            data = bare.to_csv(index=False).encode()
            (root / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    return root


def _long_csv(raw: pd.DataFrame, root: Path) -> Path:
    raw.to_csv(root, index=False)
    return root


def _by_time(raw: pd.DataFrame, root: Path) -> Path:
    raw.sort_values("datetime", kind="stable").to_parquet(root, index=False)
    return root


def _monthly(raw: pd.DataFrame, root: Path) -> Path:
    root.mkdir()
    for month, part in raw.groupby(raw["datetime"].dt.month):
        part.to_csv(root / f"2020-{month:02}.csv", index=False)
    return root


LAYOUTS: dict[str, Callable[[pd.DataFrame, Path], Path]] = {
    "a folder of csv": lambda raw, root: _folder(raw, root / "bars", ".csv"),
    "a folder of compressed csv": lambda raw, root: _folder(raw, root / "bars", ".csv.gz"),
    "a folder of parquet": lambda raw, root: _folder(raw, root / "bars", ".parquet"),
    "one long csv": lambda raw, root: _long_csv(raw, root / "bars.csv"),
    "one long parquet by time": lambda raw, root: _by_time(raw, root / "bars.parquet"),
    "long tables by month": lambda raw, root: _monthly(raw, root / "bars"),
}


@pytest.mark.parametrize("part", [400_000, 60])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_gives_the_same_store(
    raw: pd.DataFrame,
    build: Callable[..., BarStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: Callable[[pd.DataFrame, Path], Path],
    part: int,
) -> None:
    monkeypatch.setattr(csv_files, "PART", part)
    store = build(layout(raw, tmp_path))
    assert store.instruments == NAMES, "a code keeps its leading zeros"
    frame = store.frame()
    assert (frame["datetime"] == raw["datetime"]).all()
    np.testing.assert_allclose(frame[list(FEATURES)], raw[list(FEATURES)], rtol=1e-6)
    assert {one["kind"] for one in store.findings} <= {"bar earlier than the one before it"}


SPELLINGS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "capitals": lambda one: one.rename(columns={name: name.capitalize() for name in one.columns}),
    "guide": lambda one: one.rename(columns={"volume": "vol", "amount": "amt", "datetime": "timestamps"}),
    "tushare": lambda one: one.rename(columns={"datetime": "trade_date", "volume": "vol"}).assign(
        trade_date=one["datetime"].dt.strftime("%Y%m%d")
    ),
    "chinese": lambda one: one.rename(
        columns={"datetime": "日期", "open": "开盘", "high": "最高", "low": "最低", "close": "收盘",
                 "volume": "成交量", "amount": "成交额"}
    ),
    "turnover": lambda one: one.rename(columns={"amount": "turnover", "datetime": "date"}),
    "day first": lambda one: one.assign(datetime=one["datetime"].dt.strftime("%d/%m/%Y")),
    "month first": lambda one: one.assign(datetime=one["datetime"].dt.strftime("%m/%d/%Y")),
    "text with time": lambda one: one.assign(datetime=one["datetime"].dt.strftime("%Y-%m-%d 00:00:00")),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_common_spellings_and_encodings_are_read(
    raw: pd.DataFrame,
    build: Callable[..., BarStore],
    tmp_path: Path,
    spelling: Callable[[pd.DataFrame], pd.DataFrame],
    encoding: str,
) -> None:
    one = raw[raw["instrument"] == "AAA"].drop(columns="instrument")
    (tmp_path / "AAA.csv").write_bytes(spelling(one).to_csv(index=False).encode(encoding))
    store = build(tmp_path / "AAA.csv")
    assert store.instruments == ("AAA",)
    np.testing.assert_allclose(store.values, one[list(FEATURES)], rtol=1e-6)
    assert (store.frame()["datetime"].to_numpy() == one["datetime"].to_numpy()).all()


@pytest.mark.parametrize("style", ["seconds", "milliseconds", "zoned text", "zoned parquet"])
def test_times_with_a_zone_become_the_exchanges_clock(
    make_bars: MakeBars, build: Callable[..., BarStore], tmp_path: Path, style: str
) -> None:
    from kronos.data.calendars import sessions

    local = sessions("XSHG", "2024-06-03", "2024-06-05", "30min")
    one = make_bars(24, names=["A"]).drop(columns="instrument").assign(datetime=local)
    zoned = local.tz_localize("Asia/Shanghai")
    utc = zoned.tz_convert("UTC")
    path = tmp_path / "A.csv"
    if style == "zoned parquet":
        path = tmp_path / "A.parquet"
        one.assign(datetime=utc).to_parquet(path, index=False)
    elif style == "zoned text":
        one.assign(datetime=[time.isoformat() for time in zoned]).to_csv(path, index=False)
    else:
        unit = 10**9 if style == "seconds" else 10**6
        one.assign(datetime=utc.as_unit("ns").asi8 // unit).to_csv(path, index=False)
    store = build(path, freq="30min", calendar="XSHG")
    assert (store.frame()["datetime"].to_numpy() == local.to_numpy()).all()
    found = build(path, freq="30min")
    assert found.calendar == "XSHG" and found.digest == store.digest


def test_adjusted_closes_give_a_factor_that_never_changes_the_past(
    raw: pd.DataFrame, build: Callable[..., BarStore], tmp_path: Path
) -> None:
    one = raw[raw["instrument"] == "AAA"].drop(columns=["instrument", "amount"]).reset_index(drop=True)
    halved = one.copy()
    halved.loc[25:, ["open", "high", "low", "close"]] *= 0.5
    halved["adj_close"] = halved["close"] * np.where(np.arange(50) < 25, 0.5, 1.0)
    (tmp_path / "bars").mkdir()
    halved.to_csv(tmp_path / "bars" / "AAA.csv", index=False)
    store = build(tmp_path / "bars", adjust="auto")
    np.testing.assert_allclose(store.values[:, :4], one[["open", "high", "low", "close"]], rtol=1e-5)
    assert (np.asarray(store.flags) == np.where(np.arange(50) < 25, 0, Flag.ADJUSTED)).all()
    assert [(one["kind"], one["count"]) for one in store.findings] == [("adjustment factor changes", 1)]
    halved.iloc[:25].assign(adj_close=halved["close"]).to_csv(tmp_path / "bars" / "AAA.csv", index=False)
    np.testing.assert_array_equal(build(tmp_path / "bars", adjust="auto").values, store.values[:25])


@pytest.mark.parametrize("name", ["Stock Splits", "splitFactor", "SPLIT_RATIO"])
def test_a_column_of_splits_in_any_spelling_adjusts_and_prices_alone_do_not(
    raw: pd.DataFrame, build: Callable[..., BarStore], tmp_path: Path, name: str
) -> None:
    one = raw[raw["instrument"] == "AAA"].drop(columns=["instrument", "amount"]).reset_index(drop=True)
    halved = one.copy()
    halved.loc[25:, ["open", "high", "low", "close"]] *= 0.5
    halved.to_csv(tmp_path / "AAA.csv", index=False)
    store = build(tmp_path / "AAA.csv", adjust="auto")
    np.testing.assert_allclose(store.values[:, 3], halved["close"], rtol=1e-6)
    assert not store.flags.any() and "move over 25 %" in {one["kind"] for one in store.findings}
    halved[name] = np.where(np.arange(50) == 25, 2.0, 0.0)
    halved.to_csv(tmp_path / "AAA.csv", index=False)
    store = build(tmp_path / "AAA.csv", adjust="auto")
    np.testing.assert_allclose(store.values[:, 3], one["close"], rtol=1e-6)
    assert [(one["kind"], one["count"]) for one in store.findings] == [("split", 1)]


def test_a_factor_alone_is_left_unused_and_said(
    raw: pd.DataFrame, build: Callable[..., BarStore], tmp_path: Path
) -> None:
    one = raw[raw["instrument"] == "AAA"].drop(columns="instrument").assign(factor=np.linspace(1, 2, 50))
    one.to_csv(tmp_path / "AAA.csv", index=False)
    plain = build(tmp_path / "AAA.csv")
    assert any("Column factor is not used" in note for note in plain.source["notes"])
    used = build(tmp_path / "AAA.csv", adjust="factor")
    np.testing.assert_allclose(used.values[:, 3], one["close"] * one["factor"], rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (("`abc", "abc", "XYZ"), ("XYZ", "`abc", "abc")),
        (("'000001", " AAA ", "`BBB"), ("000001", "AAA", "BBB")),
    ],
)
def test_marks_around_names_go_where_no_two_names_become_one(
    raw: pd.DataFrame,
    build: Callable[..., BarStore],
    tmp_path: Path,
    names: tuple[str, ...],
    read: tuple[str, ...],
) -> None:
    marked = raw.assign(instrument=raw["instrument"].map(dict(zip(NAMES, names, strict=True))))
    marked.to_parquet(tmp_path / "bars.parquet")
    assert build(tmp_path / "bars.parquet").instruments == read


def test_symbols_choose_among_files_and_rows(
    raw: pd.DataFrame, build: Callable[..., BarStore], tmp_path: Path
) -> None:
    for layout in ("a folder of csv", "one long csv"):
        path = LAYOUTS[layout](raw, tmp_path)
        assert build(path, symbols=("BBB", "000001")).instruments == ("000001", "BBB")


def test_an_index_without_volume_is_whole(
    raw: pd.DataFrame, build: Callable[..., BarStore], tmp_path: Path
) -> None:
    one = raw[raw["instrument"] == "AAA"][["datetime", "open", "high", "low", "close"]]
    one.to_csv(tmp_path / "AAA.csv", index=False)
    store = build(tmp_path / "AAA.csv")
    assert len(store) == 50 and not store.values[:, 4:].any()
    assert [one["kind"] for one in store.findings] == [NO_VOLUME]


def test_the_input_digest_follows_every_file_that_is_read_and_no_other(
    raw: pd.DataFrame, tmp_path: Path
) -> None:
    folder = _folder(raw, tmp_path / "bars", ".csv")

    def digest(**changes: Any) -> str:
        config = SimpleNamespace(**{"data_path": str(folder), "symbols": None, **changes})
        return CsvDataProcessor(config).input_digest()

    before, chosen = digest(), digest(symbols=("AAA",))
    (folder / "notes.md").write_text("not bars")
    assert digest() == before
    os.utime(folder / "BBB.csv", ns=(1, 1))
    changed = digest()
    assert changed != before and digest(symbols=("AAA",)) == chosen
    (folder / "BBB.csv").rename(folder / "CCC.csv")
    renamed = digest()
    assert renamed not in (before, changed)
    (folder / "DDD.csv").write_bytes((folder / "AAA.csv").read_bytes())
    assert digest() not in (before, changed, renamed)
    one = digest(data_path=str(folder / "AAA.csv"))
    with open(folder / "AAA.csv", "a") as file:
        file.write("2020-12-01,1,1,1,1,1,1\n")
    assert digest(data_path=str(folder / "AAA.csv")) != one
