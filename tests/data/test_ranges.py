"""Splits: which windows a range has, when there is none, and that no bar is scored twice."""

from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import Flag
from kronos.data.splits import check_ranges, make_split
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

MakeBars = Callable[..., pd.DataFrame]
MakeStore = Callable[..., BarStore]


def _by_hand(store: BarStore, first: int, last: int, length: int) -> list[int]:
    """Starts of windows, found one by one with Python sets."""
    starts = []
    for i in range(len(store.instruments)):
        rows = store.symbol_rows(i)
        sessions = store.session[rows].tolist()
        place = dict(zip(sessions, range(rows.start, rows.stop), strict=True))
        for session, row in place.items():
            wanted = range(session, session + length)
            if first <= session and wanted[-1] <= last and all(day in place for day in wanted):
                starts.append(row)
    return starts


@pytest.mark.parametrize(("first", "last"), [(0, 59), (7, 41), (20, 30)])
def test_split_has_every_whole_window_and_no_other(
    make_bars: MakeBars, make_store: MakeStore, first: int, last: int
) -> None:
    missing = {"AAA": [3, 4, 20, 21, 22, 23, 24, 25], "BBB": [40, 41, 42, 43], "CCC": range(50, 60)}
    store = make_store(make_bars(60, names=["AAA", "BBB", "CCC"], missing=missing))
    days = pd.DatetimeIndex(store.sessions)
    split = make_split(store, "train", days[first].date(), days[last].date(), lookback=3, horizon=1, length=5)
    assert split.starts.tolist() == _by_hand(store, first, last, 5)
    assert (split.first_session, split.last_session) == (first, last)
    assert split.starts.dtype == np.int64 and len(split) == len(split.starts)


def test_no_window_crosses_a_hole_that_is_not_filled(sample_store: BarStore) -> None:
    split = make_split(
        sample_store, "train", date(2009, 8, 21), date(2010, 8, 20), lookback=30, horizon=5, length=36
    )
    first, last = split.starts, split.starts + 35
    assert (sample_store.session[last] - sample_store.session[first] == 35).all()
    assert (sample_store.instrument_of_row[last] == sample_store.instrument_of_row[first]).all()
    days = pd.DatetimeIndex(sample_store.sessions)
    hole = days.get_loc(pd.Timestamp("2009-11-04"))
    spans = (sample_store.session[first] <= hole) & (sample_store.session[last] >= hole)
    assert not spans.any() and len(split) > 50_000


def test_windows_of_a_range_lie_wholly_inside_it(sample_store: BarStore) -> None:
    begin, end = date(2009, 12, 25), date(2010, 3, 31)
    split = make_split(sample_store, "val", begin, end, lookback=30, horizon=5, length=36)
    times = pd.DatetimeIndex(sample_store.times)
    assert times[split.starts].min() == pd.Timestamp("2009-12-28")
    assert times[split.starts + 35].max() == pd.Timestamp(end)


@pytest.mark.parametrize(
    ("name", "begin", "end", "length", "message"),
    [
        ("val", date(2010, 1, 4), date(2010, 1, 29), 100,
         "validation has no window: 2010-01-04..2010-01-29 is 19 days, lookback 90 + horizon 10 needs 100"),
        ("train", date(2010, 1, 4), date(2010, 1, 29), 101,
         "training has no window: 2010-01-04..2010-01-29 is 19 days, lookback 90 + horizon 10 + 1 for the next "
         "token needs 101"),
        ("test", date(2024, 4, 1), date(2025, 6, 5), 100,
         "test has no window: 2024-04-01..2025-06-05 is 0 days, lookback 90 + horizon 10 needs 100 (the store has "
         "2009-08-21..2010-08-20)"),
        ("val", date(2009, 8, 21), date(2010, 2, 10), 100,
         "validation has no window: 2009-08-21..2010-02-10 is 119 days, lookback 90 + horizon 10 needs 100; the "
         "longest run of bars without a hole is 66"),
    ],
)  # fmt: skip
def test_empty_split_gives_the_arithmetic(
    sample_store: BarStore, name: str, begin: date, end: date, length: int, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        make_split(sample_store, name, begin, end, lookback=90, horizon=10, length=length)
    assert str(caught.value) == message


@pytest.fixture
def guide_store(make_store: MakeStore) -> BarStore:
    """One made-up instrument over the guide's period."""
    from kronos.data.calendars import sessions

    days = sessions("XNYS", "2011-01-03", "2025-06-05")
    frame = pd.DataFrame({"instrument": "AAA", "datetime": days, "volume": range(len(days))})
    for name in ("open", "high", "low", "close"):
        frame[name] = 10.0
    return make_store(frame)


GUIDE = {
    "train": (date(2011, 1, 1), date(2022, 12, 31)),
    "val": (date(2022, 9, 1), date(2024, 6, 30)),
    "test": (date(2024, 4, 1), date(2025, 6, 5)),
    "backtest": (date(2024, 7, 1), date(2025, 6, 5)),
}


def test_the_guides_ranges_that_overlap_by_the_lookback_are_accepted(guide_store: BarStore) -> None:
    check_ranges(guide_store, **GUIDE, lookback=90)
    for name in ("train", "val", "test"):
        assert len(make_split(guide_store, name, *GUIDE[name], lookback=90, horizon=10, length=101))


def test_a_shorter_lookback_makes_the_same_ranges_overlap_and_the_days_are_named(
    guide_store: BarStore,
) -> None:
    with pytest.raises(UserError) as caught:
        check_ranges(guide_store, **GUIDE, lookback=60)
    lines = str(caught.value).splitlines()
    assert lines == [
        "train_time_range and val_time_range both score 2022-11-28..2022-12-30 (24 days): val_time_range is scored "
        "from 2022-11-28 (its start 2022-09-01 + lookback 60); end train_time_range by 2022-11-25 or begin "
        "val_time_range later",
        "val_time_range and test_time_range both score 2024-06-26..2024-06-28 (3 days): test_time_range is scored "
        "from 2024-06-26 (its start 2024-04-01 + lookback 60); end val_time_range by 2024-06-25 or begin "
        "test_time_range later",
    ]


def test_overlap_is_refused_from_its_first_day_on(guide_store: BarStore) -> None:
    last = date(2023, 1, 11)  # the 90th session from 2022-09-01 on is 2023-01-10: scored from 2023-01-11
    check_ranges(guide_store, **{**GUIDE, "train": (date(2011, 1, 1), last - timedelta(days=1))}, lookback=90)
    with pytest.raises(UserError, match=r"both score 2023-01-11\.\.2023-01-11 \(1 days\)"):
        check_ranges(guide_store, **{**GUIDE, "train": (date(2011, 1, 1), last)}, lookback=90)


@pytest.mark.parametrize(
    ("changes", "pair"),
    [
        ({"backtest": (date(2022, 6, 1), date(2025, 6, 5))}, "train_time_range and backtest_time_range"),
        ({"backtest": (date(2024, 6, 3), date(2025, 6, 5))}, "val_time_range and backtest_time_range"),
        ({"test": (date(2022, 4, 1), date(2025, 6, 5))}, "train_time_range and test_time_range"),
        ({"val": (date(2011, 1, 3), date(2012, 6, 30))}, "train_time_range and val_time_range"),
    ],
)
def test_every_pair_that_may_not_share_days_is_checked(
    guide_store: BarStore, changes: dict, pair: str
) -> None:
    with pytest.raises(UserError, match=pair):
        check_ranges(guide_store, **{**GUIDE, **changes}, lookback=90)


def test_a_scored_bar_of_validation_is_never_in_a_training_window(sample_store: BarStore) -> None:
    train, val = (date(2009, 8, 21), date(2010, 4, 8)), (date(2010, 2, 25), date(2010, 6, 30))
    rest = (date(2010, 7, 1), date(2010, 8, 20))
    check_ranges(sample_store, train, val, rest, rest, lookback=30)
    arguments = {"lookback": 30, "horizon": 5, "length": 36}
    trained = make_split(sample_store, "train", *train, **arguments)
    validated = make_split(sample_store, "val", *val, **arguments)
    seen = np.unique(trained.starts[:, None] + np.arange(36))
    scored = np.unique(validated.starts[:, None] + np.arange(30, 36))
    assert not np.intersect1d(seen, scored).size
    assert np.intersect1d(seen, validated.starts).size, "context may lie in the training range"


def test_filled_bars_stay_in_windows(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars(20, names=["AAA"], missing={"AAA": [9]}))
    days = pd.DatetimeIndex(store.sessions)
    split = make_split(store, "train", days[0].date(), days[19].date(), lookback=3, horizon=1, length=5)
    assert len(split) == 16 and store.flags[9] == Flag.FILLED
