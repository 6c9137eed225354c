"""The future changed, the past unchanged: every bar after a day is replaced, and nothing up to it moves by a bit."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import Finding
from kronos.data.forecast_points import contexts, forecast_points, future_stamps
from kronos.data.sources import base as sources
from kronos.data.sources.sample import SampleDataProcessor
from kronos.data.splits import make_split
from kronos.data.store import BarStore
from kronos.data.windows import Windows

LOOKBACK, LENGTH = 30, 36
DAYS = {
    "the first day of a hole of every instrument": date(2009, 9, 8),
    "the day before a hole": date(2009, 10, 28),
    "inside a hole, its first three sessions": date(2009, 10, 30),
    "inside a hole, past what is filled": date(2009, 11, 3),
    "inside a hole of one instrument (ETFC)": date(2010, 6, 15),
    "the day before a split (DHR)": date(2010, 6, 11),
    "the day before a 1 for 10 split over a hole (ETFC)": date(2010, 6, 29),
    "the last day but one": date(2010, 8, 19),
}


def _corrupt(bars: pd.DataFrame, day: date) -> pd.DataFrame:
    """Other valid bars after `day`: unrelated prices, a third missing; some instruments end, ended ones come back."""
    generator = np.random.default_rng(day.toordinal())
    after = bars["datetime"] > pd.Timestamp(day)
    count = int(after.sum())
    prices = generator.lognormal(3, 1.5, (count, 4))
    volume = generator.lognormal(10, 3, count).round()
    later = bars[after].copy()
    later[["open", "close"]] = prices[:, :2]
    later["high"], later["low"], later["volume"] = prices.max(1), prices.min(1), volume
    names = bars["instrument"].unique()
    gone = names[generator.random(len(names)) < 0.1]
    kept = later[(generator.random(count) > 1 / 3) & ~later["instrument"].isin(gone)]
    ended = names[~np.isin(names, kept["instrument"]) & ~np.isin(names, gone)]
    back = bars[~after & bars["instrument"].isin(ended)].groupby("instrument", as_index=False).last()
    return pd.concat([bars[~after], kept, back.assign(datetime=bars["datetime"].max())], ignore_index=True)


@pytest.fixture(scope="module")
def bars(sample_bars: pd.DataFrame) -> pd.DataFrame:
    """A third of the sample's instruments, with all that split, ended or moved most."""
    names = sample_bars["instrument"].unique()
    special = ["AIG", "AMZN", "BDK", "BNI", "CAH", "CCE", "DF", "DHR", "ESRX", "ETFC", "ETFCD", "GIS", "MBI"]
    special += ["MFE", "NOVL", "RX", "SGP", "STR", "WY", "WYE", "XTO"]
    chosen = names[(np.arange(len(names)) % 3 == 0) | np.isin(names, special)]
    return sample_bars[sample_bars["instrument"].isin(chosen)].reset_index(drop=True)


@pytest.fixture(scope="module")
def true_store(bars: pd.DataFrame, settings: Any, tmp_path_factory: pytest.TempPathFactory) -> BarStore:
    return _build(settings, tmp_path_factory.mktemp("true") / "store", bars)


def _build(settings: Any, path: Path, bars: pd.DataFrame) -> BarStore:
    class Given(SampleDataProcessor):
        def process_raw_data(self) -> pd.DataFrame:
            return bars

    return Given(settings(str(path))).run_pipeline()


def _windows_until(store: BarStore, day: date) -> dict[str, np.ndarray]:
    """All windows that end by `day`, by instrument and first session, with their batches' content."""
    end = int(np.searchsorted(store.sessions, pd.Timestamp(day).as_unit("ns").value, side="right")) - 1
    whole = (date(2009, 8, 21), date(2010, 8, 20))
    split = make_split(store, "train", *whole, lookback=LOOKBACK, horizon=5, length=LENGTH)
    chosen = np.flatnonzero(store.session[split.starts + LENGTH - 1] <= end)
    batch = Windows(store, split, lookback=LOOKBACK, clip=5.0, seed=1).batch(chosen, epoch=0)
    names = np.array(store.instruments)[store.instrument_of_row[split.starts[chosen]]]
    return {
        "instrument": names,
        "session": store.session[split.starts[chosen]],
        "x": batch.x.numpy(),
        "stamp": batch.stamp.numpy(),
    }


def _batches_of_a_range_until(store: BarStore, day: date) -> dict[str, np.ndarray]:
    """The batches of a split whose range ends on `day`: draws and window numbers too."""
    split = make_split(store, "val", date(2009, 8, 21), day, lookback=8, horizon=2, length=10)
    batch = Windows(store, split, lookback=8, clip=5.0, seed=1).batch(np.arange(len(split)), epoch=2)
    return {name: getattr(batch, name).numpy() for name in batch._fields}


def _points_until(store: BarStore, day: date, lookback: int = 10) -> dict[str, np.ndarray]:
    points = forecast_points(store, date(2009, 8, 21), day, lookback)
    bars, stamps = contexts(store, points.row, lookback)
    future, times = future_stamps(store, points.session, 5)
    return {
        "instrument": np.array(store.instruments)[points.instrument],
        "session": points.session,
        "flags": np.array(store.flags[points.row]),
        "bars": bars,
        "stamps": stamps,
        "future": future,
        "times": times,
    }


def _differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    return [name for name in one if not np.array_equal(one[name], other[name])]


@pytest.mark.parametrize("day", DAYS.values(), ids=DAYS.keys())
def test_replacing_all_bars_after_a_day_changes_nothing_up_to_it(
    true_store: BarStore, bars: pd.DataFrame, settings: Any, tmp_path: Path, day: date
) -> None:
    other = _build(settings, tmp_path / "other", _corrupt(bars, day))
    assert other.digest != true_store.digest
    for until in (_windows_until, _batches_of_a_range_until, _points_until):
        true, changed = until(true_store, day), until(other, day)
        assert _differences(true, changed) == [], until.__name__
    if day > date(2010, 1, 1):
        assert len(_windows_until(true_store, day)["x"]) > 10_000
    assert len(_points_until(true_store, day)["bars"]) > 300


def _adjust_backward(frame: pd.DataFrame, sessions: pd.DatetimeIndex) -> tuple[pd.DataFrame, list[Finding]]:
    """The usual, not causal way: each instrument ends at its true price, and a split moves all earlier bars."""
    result, findings = adjust_forward(frame, sessions)
    columns = ["open", "high", "low", "close"]
    last = frame.groupby("instrument")["close"].transform("last")
    result[columns] = result[columns].mul(
        last / result.groupby("instrument")["close"].transform("last"), axis=0
    )
    return result, findings


def _drop_short(raw: pd.DataFrame, freq: str) -> tuple[pd.DataFrame, list[Finding]]:
    """Judging an instrument over the whole file."""
    frame, findings = clean(raw, freq)
    return frame[frame.groupby("instrument")["close"].transform("size") > 210].reset_index(
        drop=True
    ), findings


def _fill_only_what_comes_back(
    frame: pd.DataFrame, sessions: pd.DatetimeIndex, last_session: int
) -> pd.DataFrame:
    result = align(frame, sessions, last_session)
    last = frame.groupby("instrument")["datetime"].max()
    return result[result["datetime"] <= result["instrument"].map(last)].reset_index(drop=True)


adjust_forward, clean, align = sources.adjust_by_split_column, sources.clean, sources.align


@pytest.mark.parametrize(
    ("name", "mistake", "day"),
    [
        ("adjust_by_split_column", _adjust_backward, date(2010, 6, 11)),
        ("clean", _drop_short, date(2010, 6, 11)),
        ("align", _fill_only_what_comes_back, date(2009, 10, 30)),
    ],
)
def test_the_check_sees_rules_that_look_ahead(
    bars: pd.DataFrame,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    mistake: Callable[..., Any],
    day: date,
) -> None:
    monkeypatch.setattr(sources, name, mistake)
    true = _build(settings, tmp_path / "true", bars)
    other = _build(settings, tmp_path / "other", _corrupt(bars, day))
    found = [_differences(until(true, day), until(other, day)) for until in (_windows_until, _points_until)]
    assert any(found)
