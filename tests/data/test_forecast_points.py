"""Forecast points, contexts and future stamps."""

from collections.abc import Callable
from datetime import date

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import Flag, align
from kronos.data.cleaning import clean
from kronos.data.forecast_points import contexts, forecast_points, future_stamps
from kronos.data.store import BarStore
from kronos.data.store_writer import store_sessions
from kronos.utils.errors import UserError

MakeBars = Callable[..., pd.DataFrame]
MakeStore = Callable[..., BarStore]


def test_points_and_excluded_are_every_pair_of_the_range_once(sample_store: BarStore) -> None:
    points = forecast_points(sample_store, date(2010, 5, 28), date(2010, 8, 20), 60)
    pairs = {
        (sample_store.instruments[i], int(s)) for i, s in zip(points.instrument, points.session, strict=True)
    }
    left_out = set(zip(points.excluded["instrument"], points.excluded["session"], strict=True))
    sessions = int(points.session.max() - points.session.min()) + 1
    assert len(pairs) == len(points) and not pairs & left_out
    assert len(pairs | left_out) == len(pairs) + len(left_out) == sessions * 524
    assert not points.excluded["reason"].isna().any()


def test_points_are_sorted_by_day_then_instrument(sample_store: BarStore) -> None:
    points = forecast_points(sample_store, date(2010, 7, 1), date(2010, 7, 9), 60)
    order = np.lexsort((points.instrument, points.session))
    assert (order == np.arange(len(points))).all()
    assert (sample_store.session[points.row] == points.session).all()
    assert (sample_store.instrument_of_row[points.row] == points.instrument).all()


def test_each_reason_is_given(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars(30, missing={"AAA": [10, 11, 12, 13, 14], "BBB": [20]}))
    days = pd.DatetimeIndex(store.sessions)
    points = forecast_points(store, days[9].date(), days[22].date(), 8)
    excluded = points.excluded.set_index(["instrument", "session"])["reason"]
    assert excluded.loc["AAA"].to_dict() == {
        10: "no bar, filled", 11: "no bar, filled", 12: "no bar, filled", 13: "no bar", 14: "no bar",
        15: "fewer than 8 bars in a row", 16: "fewer than 8 bars in a row", 17: "fewer than 8 bars in a row",
        18: "fewer than 8 bars in a row", 19: "fewer than 8 bars in a row", 20: "fewer than 8 bars in a row",
        21: "fewer than 8 bars in a row",
    }  # fmt: skip
    assert excluded.loc["BBB"].to_dict() == {20: "no bar, filled"}


def test_a_bar_outside_the_universe_is_context_but_no_point(
    make_bars: MakeBars, make_store: MakeStore
) -> None:
    frame, _ = clean(make_bars(30, names=["AAA"]))
    frame.loc[:14, "flag"] |= np.uint8(Flag.NONMEMBER)
    aligned = align(frame, store_sessions("XNYS", frame["datetime"].min(), frame["datetime"].max()))
    store = make_store(aligned.drop(columns="session"))
    days = pd.DatetimeIndex(store.sessions)
    points = forecast_points(store, days[0].date(), days[29].date(), 10)
    assert points.session.tolist() == list(range(15, 30))
    assert points.excluded["reason"].tolist() == ["not a member"] * 15


def test_the_last_day_is_forecast(sample_store: BarStore) -> None:
    points = forecast_points(sample_store, date(2010, 8, 20), date(2010, 8, 20), 60)
    assert len(points) > 490 and (points.session == 251).all()


def test_contexts_end_at_the_as_of_bar_and_are_raw(sample_store: BarStore) -> None:
    points = forecast_points(sample_store, date(2010, 8, 2), date(2010, 8, 20), 32)
    bars, stamps = contexts(sample_store, points.row, 32)
    assert bars.shape == (len(points), 32, 6) and bars.dtype == np.float32
    assert stamps.shape == (len(points), 32, 5) and stamps.dtype == np.int64
    frame = sample_store.frame(["open", "high", "low", "close", "volume", "amount"])
    for i in (0, 77, len(points) - 1):
        rows = frame.iloc[points.row[i] - 31 : points.row[i] + 1]
        assert rows["instrument"].nunique() == 1
        np.testing.assert_array_equal(bars[i], rows.iloc[:, 2:].to_numpy())
        assert stamps[i, :, 3].tolist() == rows["datetime"].dt.day.tolist()
        assert rows["datetime"].iloc[-1] == pd.DatetimeIndex(sample_store.sessions)[points.session[i]]


def test_a_context_over_a_hole_is_refused_by_name(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars(30, missing={"BBB": range(10, 16)}))
    row = store.symbol_rows(1).start + 20
    with pytest.raises(UserError, match="BBB on 2020-02-05 has 8 bars in a row, lookback 9 needs as many"):
        contexts(store, np.array([5 + 8, row]), 9)


def test_future_stamps_come_from_the_calendar_and_not_from_bars(sample_store: BarStore) -> None:
    stamps, times = future_stamps(sample_store, np.array([48, 250, 251]), 5)
    days = [list(pd.DatetimeIndex(row).strftime("%Y-%m-%d")) for row in times]
    assert days[0] == ["2009-10-30", "2009-11-02", "2009-11-03", "2009-11-04", "2009-11-05"], (
        "sessions without bars too"
    )
    assert days[2] == ["2010-08-23", "2010-08-24", "2010-08-25", "2010-08-26", "2010-08-27"]
    assert stamps.shape == (3, 5, 5) and stamps[2, :, 2].tolist() == [0, 1, 2, 3, 4]
    assert stamps.dtype == times.dtype == np.int64


def test_horizons_beyond_the_stored_sessions_ask_the_calendar(sample_store: BarStore) -> None:
    _, times = future_stamps(sample_store, np.array([251, 10]), 200)
    assert pd.Timestamp(times[0, -1]) == pd.Timestamp("2011-06-07")
    assert (np.diff(times, axis=1) > 0).all()
    assert pd.Timestamp(times[0, 63]) == pd.Timestamp(sample_store.sessions[-1])


def test_a_range_without_sessions_has_no_points(sample_store: BarStore) -> None:
    points = forecast_points(sample_store, date(2015, 1, 1), date(2015, 2, 1), 32)
    assert len(points) == 0 and points.excluded.empty
    bars, stamps = contexts(sample_store, points.row, 32)
    assert bars.shape == (0, 32, 6) and stamps.shape == (0, 32, 5)
    assert future_stamps(sample_store, points.session, 5)[0].shape == (0, 5, 5)
