"""Bars that wait on disk are the same as bars that wait in memory."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kronos.data import spool as spools
from kronos.data.sources import csv
from kronos.data.spool import Spool
from kronos.data.store import BarStore

DAYS = pd.bdate_range("2020-02-18", "2020-04-09")  # all sessions of New York


def bars(names: list[str], days: pd.DatetimeIndex) -> pd.DataFrame:
    """Bars of random walks: an instrument's prices depend on its name alone."""
    frames = []
    for name in names:
        walk = np.random.default_rng(sum(map(ord, name))).normal(0, 0.01, len(DAYS)).cumsum()
        close = np.round(50 * np.exp(walk), 2)
        frames.append(pd.DataFrame({
            "symbol": name, "date": DAYS, "open": close, "high": close + 0.5, "low": close - 0.5,
            "close": close, "volume": 1000 + np.arange(len(DAYS)),
        }))  # fmt: skip
    frame = pd.concat(frames, ignore_index=True)
    return frame[frame["date"].isin(days)].sort_values(["date", "symbol"], ignore_index=True)


def build(source: Path, target: Path) -> BarStore:
    config = SimpleNamespace(
        data_source="csv", data_path=str(source), dataset_path=str(target), freq="day",
        dataset_begin_time="2019-01-01", dataset_end_time="2021-01-01", calendar="XNYS", adjust="auto",
    )  # fmt: skip
    return csv.CsvDataProcessor(config).run_pipeline()


@pytest.fixture(params=["a file per instrument", "a table per day", "one table"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Bars of 20 instruments in three layouts; in the last one, no instrument has all days."""
    folder = tmp_path / "bars"
    folder.mkdir()
    whole = bars([f"N{place:02}" for place in range(20)], DAYS)
    if request.param == "a file per instrument":
        for name, own in whole.groupby("symbol"):
            own.drop(columns="symbol").to_csv(folder / f"{name}.csv", index=False)
    elif request.param == "a table per day":
        for day, own in whole.groupby("date"):
            own.to_parquet(folder / f"{day:%Y%m%d}.parquet")
    else:
        whole.sample(frac=0.9, random_state=1).to_csv(folder / "all.csv", index=False)
    return folder


@pytest.mark.parametrize("budget", [0, 20_000])
def test_a_store_built_through_the_disk_is_the_same(
    tmp_path: Path, source: Path, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = build(source, tmp_path / "straight")
    monkeypatch.setattr(spools, "BUDGET", budget)
    monkeypatch.setattr(spools, "FILE", 5_000)
    monkeypatch.setattr(csv, "PART", 100)
    found = build(source, tmp_path / "spooled")
    assert (found.digest, found.findings, found.source) == (
        expected.digest,
        expected.findings,
        expected.source,
    )
    assert {path.name for path in tmp_path.iterdir()} == {"bars", "straight", "spooled"}, "no file is left"


def test_rows_and_columns_come_back_and_memory_is_counted(tmp_path: Path) -> None:
    frame = bars(["A", "B"], DAYS)
    frame["symbol"] = frame["symbol"].astype("category")
    array = np.arange(60, dtype="<f4").reshape(20, 3)
    near, far = Spool(tmp_path), Spool(tmp_path, budget=0)
    for spool in (near, far):
        first, second, last = spool.put(frame), spool.put(array), spool.put(frame[:0])
        assert (len(first), len(second), len(last)) == (2 * len(DAYS), 20, 0)
        pd.testing.assert_frame_equal(first.get(), frame)
        expected = frame.iloc[7:9].reset_index(drop=True)[["close", "symbol"]]
        pd.testing.assert_frame_equal(first.get(7, 9, columns=["close", "symbol"]), expected)
        np.testing.assert_array_equal(second.get(3, 20), array[3:])
        assert (spool.in_memory > 0) == (spool is near)
        assert list(tmp_path.iterdir()) == [], "its files have no name: none is left after a kill"
        pd.testing.assert_frame_equal(first.take(), frame)
        np.testing.assert_array_equal(second.take(), array)
        last.drop()
        assert spool.in_memory == 0
