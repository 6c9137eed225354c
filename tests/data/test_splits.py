"""Fractions, the embargo, and windows that stay within a day."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import Flag
from kronos.data.calendars import sessions
from kronos.data.forecast_points import forecast_points
from kronos.data.holdout import held_out_of
from kronos.data.splits import check_ranges, make_split, session_range, settle_ranges
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

MakeBars = Callable[..., pd.DataFrame]
MakeStore = Callable[..., BarStore]


@pytest.fixture
def intraday(make_bars: MakeBars, make_store: MakeStore) -> BarStore:
    """Ten days of 48 bars of five minutes on XSHG."""
    times = sessions("XSHG", "2024-06-03", "2024-06-30", "5min")[:480]
    frame = make_bars(480, names=["SH600519"]).assign(datetime=times)
    return make_store(frame, exchange="XSHG", freq="5min")


NAMES = ("train", "val", "test", "backtest")
NONE: dict[str, Any] = dict.fromkeys(NAMES)


@pytest.mark.parametrize("lookback", [8, 30, 48, 90])
def test_fractions_cover_the_bars_and_score_none_twice(
    make_bars: MakeBars, make_store: MakeStore, intraday: BarStore, lookback: int
) -> None:
    for store in (make_store(make_bars(500)), intraday):
        ranges = settle_ranges(store, **NONE, lookback=lookback)
        (note,) = ranges.notes
        assert "do not fit the user guide's days and are cut 60 : 20 : 20" in note
        check_ranges(store, **ranges.days(), lookback=lookback)
        count = store.last_session + 1
        places = {name: session_range(store, *days) for name, days in ranges.days().items()}
        assert places["train"][0] == 0 and places["backtest"][1] == places["test"][1] == count - 1
        assert (
            abs(places["train"][1] + 1 - 0.6 * count) <= 48 and abs(places["val"][1] + 1 - 0.8 * count) <= 48
        )
        assert places["backtest"][0] == places["val"][1] + 1
        gap = places["val"][0] + lookback - places["train"][1] - 1
        assert 0 <= gap < 48, "validation is scored from the end of training on, but for a part of a day"


def daily_store(make_store: MakeStore, first: str, last: str) -> BarStore:
    days = sessions("XNYS", first, last)
    prices = dict.fromkeys(("open", "high", "low", "close"), 10.0)
    return make_store(
        pd.DataFrame({"instrument": "AAA", "datetime": days, **prices, "volume": range(len(days))})
    )


@pytest.mark.parametrize(("first", "last"), [("2011-01-03", "2025-06-05"), ("2005-03-01", "2026-10-30")])
def test_the_guides_ranges_are_taken_where_they_fit_and_reach_from_the_first_bar_to_the_last(
    make_store: MakeStore, first: str, last: str
) -> None:
    store = daily_store(make_store, first, last)
    ranges = settle_ranges(store, **NONE, lookback=90, horizon=10)
    assert ranges.notes == ("the ranges that are not given are those of the user guide",)
    begin, end = min(date(2011, 1, 1), date.fromisoformat(first)), date.fromisoformat(last)
    assert ranges.days() == {
        "train": (begin, date(2022, 12, 31)), "val": (date(2022, 9, 1), date(2024, 6, 30)),
        "test": (date(2024, 4, 1), end), "backtest": (date(2024, 7, 1), end),
    }  # fmt: skip
    check_ranges(store, **settle_ranges(store, **NONE, lookback=20, horizon=5).days(), lookback=20)


@pytest.mark.parametrize(
    ("first", "last"),
    [("2001-01-02", "2018-12-31"), ("2022-06-01", "2026-10-30"), ("2023-01-03", "2024-12-31")],
)
def test_bars_of_other_years_are_cut_by_fractions_up_to_the_last_one(
    make_store: MakeStore, first: str, last: str
) -> None:
    store = daily_store(make_store, first, last)
    ranges = settle_ranges(store, **NONE, lookback=30, horizon=5)
    assert "are cut 60 : 20 : 20" in ranges.notes[0]
    assert ranges.train[0] == date.fromisoformat(first)
    assert ranges.test[1] == ranges.backtest[1] == date.fromisoformat(last)


def test_ranges_that_are_given_are_never_moved(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars(500))
    days = pd.DatetimeIndex(store.sessions)
    own = {
        "train": (days[20].date(), days[250].date()), "val": (days[230].date(), days[330].date()),
        "test": (days[340].date(), days[450].date()), "backtest": (days[370].date(), days[440].date()),
    }  # fmt: skip
    assert settle_ranges(store, **own, lookback=30).days() == own
    for chosen in range(1, 2 ** len(NAMES)):
        given = {name: own[name] for place, name in enumerate(NAMES) if chosen >> place & 1}
        found = settle_ranges(store, **{**NONE, **given}, lookback=30).days()
        assert {name: found[name] for name in given} == given
        check_ranges(store, **found, lookback=30)
        for name in ("test", "backtest"):
            assert name in given or found[name][1] == days[499].date()
    elsewhere = {name: (date(1999, 1, 4), date(1999, 2, 1)) for name in NAMES}
    assert settle_ranges(store, **elsewhere, lookback=30).days() == elsewhere


def test_a_few_days_are_not_cut_by_fractions(make_bars: MakeBars, make_store: MakeStore) -> None:
    with pytest.raises(
        UserError, match=r"^2 days \(2020-01-02\.\.2020-01-03\) are too few to be cut into training"
    ):
        settle_ranges(make_store(make_bars(2)), **NONE, lookback=8)


@pytest.mark.parametrize("embargo", [1, 5, 20])
def test_an_embargo_leaves_bars_between_what_two_splits_score(
    make_bars: MakeBars, make_store: MakeStore, embargo: int
) -> None:
    store = make_store(make_bars(500))
    plain = settle_ranges(store, **NONE, lookback=30)
    ranges = settle_ranges(store, **plain.days(), lookback=30, embargo=embargo)
    places = {name: session_range(store, *days) for name, days in ranges.days().items()}
    assert places["val"][0] + 30 - places["train"][1] - 1 == embargo
    assert places["backtest"][0] - places["val"][1] - 1 == embargo
    assert len(ranges.notes) == 2 and f"embargo {embargo}: train_time_range ends" in ranges.notes[0]
    assert ranges.test == plain.test and ranges.backtest == plain.backtest


def test_an_embargo_within_days_ends_on_a_whole_day(intraday: BarStore) -> None:
    ranges = settle_ranges(intraday, **NONE, lookback=8, embargo=3)
    last = session_range(intraday, *ranges.train)[1]
    first = session_range(intraday, *ranges.val)[0]
    assert first + 8 - last - 1 >= 3 and (last + 1) % 48 == 0


def test_an_embargo_that_leaves_nothing_is_refused(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars(100))
    plain = settle_ranges(store, **NONE, lookback=8)
    with pytest.raises(UserError, match="embargo 90 leaves nothing of train_time_range"):
        settle_ranges(store, **plain.days(), lookback=8, embargo=90)


def test_windows_stay_within_a_day_where_they_are_told_to(intraday: BarStore) -> None:
    arguments: dict[str, Any] = {"lookback": 20, "horizon": 4, "length": 25}
    whole = (date(2024, 6, 1), date(2024, 6, 30))
    across = make_split(intraday, "train", *whole, **arguments)
    store = replace(intraday, across_days=False)
    within = make_split(store, "train", *whole, **arguments)
    assert len(across) == 480 - 24 and len(within) == 10 * 24
    day = store.day[store.session]
    assert (day[within.starts] == day[within.starts + 24]).all()
    assert set(within.starts) == {start for start in across.starts if day[start] == day[start + 24]}
    with pytest.raises(UserError, match="the longest run of bars without a hole within one day is 48"):
        make_split(store, "train", *whole, lookback=50, horizon=4, length=55)


def test_forecasts_within_a_day_leave_out_horizons_that_end_on_the_next(intraday: BarStore) -> None:
    store = replace(intraday, across_days=False)
    whole = (date(2024, 6, 1), date(2024, 6, 30))
    points = forecast_points(store, *whole, lookback=20, horizon=4)
    assert len(points) == 10 * (48 - 19 - 4)
    reasons = points.excluded["reason"].value_counts().to_dict()
    assert reasons == {"fewer than 20 bars in a row": 190, "the next 4 bars leave the day": 40}
    last = pd.DatetimeIndex(store.times[points.row].astype("datetime64[ns]"))
    assert max(f"{time:%H:%M}" for time in last) == "14:40"
    assert len(forecast_points(intraday, *whole, lookback=20, horizon=4)) == 480 - 19


def test_time_features_and_adjacency_over_lunch_and_night(intraday: BarStore) -> None:
    stamps = intraday.stamps[:49]
    assert stamps[23].tolist() == [30, 11, 0, 3, 6] and stamps[24].tolist() == [5, 13, 0, 3, 6]
    assert stamps[47].tolist() == [0, 15, 0, 3, 6] and stamps[48].tolist() == [35, 9, 1, 4, 6]
    assert (intraday.history == np.arange(1, 481)).all(), "the next bar after lunch or the night is adjacent"


def test_training_leaves_out_who_joins_later_so_that_later_bars_change_no_training_window(
    make_bars: MakeBars, make_store: MakeStore
) -> None:
    frame = make_bars(200, names=["EARLY", "LATE", "LEFT"]).assign(flag=np.uint8(0))
    days = np.sort(frame["datetime"].unique())
    begin, end = (pd.Timestamp(days[place]).date() for place in (0, 119))
    joins, leaves = days[150], days[80]
    late = (frame["instrument"] == "LATE") & (frame["datetime"] < joins)
    left = (frame["instrument"] == "LEFT") & (frame["datetime"] > leaves)
    frame.loc[late | left, "flag"] = np.uint8(Flag.NONMEMBER)
    known = frame[frame["datetime"] <= days[130]]
    stores = make_store(frame), make_store(known[known["instrument"] != "LATE"], "known")
    found = []
    for store in stores:
        split = make_split(store, "train", begin, end, lookback=20, horizon=5, length=26)
        names = np.array(store.instruments)[store.instrument_of_row[split.starts]]
        found.append(sorted(zip(names, store.session[split.starts].tolist(), strict=True)))
    assert found[0] == found[1] and {name for name, _ in found[0]} == {"EARLY", "LEFT"}
    later = make_split(
        stores[0], "train", begin, pd.Timestamp(days[-1]).date(), lookback=20, horizon=5, length=26
    )
    assert "LATE" in np.array(stores[0].instruments)[stores[0].instrument_of_row[later.starts]]


def test_held_out_instruments_have_windows_of_the_test_only(
    make_bars: MakeBars, make_store: MakeStore
) -> None:
    store = make_store(make_bars(200, names=["A", "B", "C"]))
    days = pd.DatetimeIndex(store.sessions.astype("datetime64[ns]"))
    begin, end = days[0].date(), days[-1].date()
    rules: dict[str, Any] = {"lookback": 20, "horizon": 5, "length": 25}
    for name in ("train", "val", "test"):
        whole = make_split(store, name, begin, end, **rules)
        split = make_split(store, name, begin, end, held_out=("B",), **rules)
        names = np.array(store.instruments)
        left = whole.starts[names[store.instrument_of_row[whole.starts]] != "B"]
        assert np.array_equal(split.starts, whole.starts if name == "test" else left)
    with pytest.raises(UserError, match="no window"):
        make_split(store, "train", begin, end, held_out=("A", "B", "C"), **rules)


def test_a_share_holds_out_the_same_instruments_whatever_the_order(tmp_path: Path) -> None:
    names = [f"SH60{place:04d}" for place in range(50)]
    found = held_out_of(names, ["0.1"])
    assert len(found) == 5 and found == held_out_of(names[::-1], ["0.1"])
    assert set(found) <= set(held_out_of(names, ["0.2"]))
    assert len(set(found) & set(held_out_of([*names, "SZ000001", "SZ000002"], ["0.1"]))) >= 3
    assert len(held_out_of(names[:3], ["0.1"])) == 1
    assert held_out_of(names, None) == () == held_out_of(names, [])
    assert held_out_of(names, [names[3], names[1]]) == (names[1], names[3])
    file = tmp_path / "held out.txt"
    file.write_text(f"{names[7]}\n# of another market\nAAPL\n")
    assert held_out_of(names, [str(file)]) == (names[7],)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["0"], "above 0 and at most 0.5"),
        (["0.9"], "above 0 and at most 0.5"),
        (["-1"], "above 0 and at most 0.5"),
        (["nan"], "above 0 and at most 0.5"),
        (["A", "X", "Y"], "the bars have no X, Y"),
        (["A", "B"], "holds out every instrument"),
        (["missing.txt"], "missing.txt does not exist"),
    ],
)
def test_held_out_instruments_that_cannot_be_are_refused(asked: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        held_out_of(["A", "B"], asked)
