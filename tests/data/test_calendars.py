"""Calendars: holidays, the end of what is known, and the time features."""

import numpy as np
import pandas as pd
import pytest

from kronos.data.calendars import (
    known_end,
    next_sessions,
    sessions,
    time_features,
)
from kronos.utils.errors import UserError

MINUTES = {f"{length}min": length for length in (1, 5, 15, 30, 60)}


def test_exchanges_close_on_their_own_holidays() -> None:
    assert pd.Timestamp("2009-11-26") not in sessions("XNYS", "2009-11-20", "2009-11-30")
    assert list(next_sessions("XSHG", "2024-09-30", 1)) == [pd.Timestamp("2024-10-08")]
    assert len(sessions("XNYS", "2009-08-21", "2010-08-20")) == 252
    assert len(sessions("24/7", "2024-02-01", "2024-03-01")) == 30


@pytest.mark.parametrize("name", ["XNYS", "XSHG", "XHKG", "24/7"])
def test_next_sessions_follow_and_are_as_many_as_asked(name: str) -> None:
    found = next_sessions(name, "2020-06-30", 300)
    assert len(found) == 300 and found.is_monotonic_increasing and found[0] > pd.Timestamp("2020-06-30")
    assert found.equals(sessions(name, "2020-07-01", found[-1]))


def test_past_the_known_end_sessions_are_weekdays_with_the_usual_hours() -> None:
    end = known_end("XSHG")
    found = next_sessions("XSHG", end - pd.Timedelta(days=14), 64)
    assert len(found) == 64
    after = found[found > end]
    assert after.equals(pd.bdate_range(after[0], after[-1]).as_unit("ns")) and after[0] - end < pd.Timedelta(
        days=4
    )
    assert len(sessions("XSHG", after[0], after[0], "5min")) == 48
    assert known_end("24/7").year == known_end("XNYS").year == 2200
    with pytest.raises(UserError, match=r"calendar XSHG is known from 1990-12-03, asked for 1980-01-01"):
        sessions("XSHG", "1980-01-01", "1981-01-01")


def test_bars_of_a_day_follow_its_hours_lunch_and_early_closes() -> None:
    minutes = lambda found: [f"{time:%H:%M}" for time in found]  # noqa: E731
    day = sessions("XSHG", "2024-06-18", "2024-06-18", "30min")
    assert minutes(day) == ["10:00", "10:30", "11:00", "11:30", "13:30", "14:00", "14:30", "15:00"]
    starts = sessions("XSHG", "2024-06-18", "2024-06-18", "30min", "start")
    assert starts.equals(day - pd.Timedelta(minutes=30))
    assert minutes(sessions("XNYS", "2024-07-05", "2024-07-05", "60min"))[-2:] == ["15:30", "16:00"]
    assert minutes(sessions("XNYS", "2024-07-03", "2024-07-03", "60min"))[-1] == "13:00"
    assert [len(sessions("XSHG", "2024-06-18", "2024-06-18", freq)) for freq in MINUTES] == [
        240,
        48,
        16,
        8,
        4,
    ]
    assert len(sessions("24/7", "2024-06-18", "2024-06-18", "5min", "start")) == 288
    assert sessions("24/7", "2024-06-18", "2024-06-18", "60min").equals(
        sessions("24/7", "2024-06-18", "2024-06-18", "60min", "start")
    )


def test_next_bars_cross_lunch_night_weekend_and_holiday() -> None:
    after = next_sessions("XSHG", "2024-09-30 11:25", 26, "5min")
    assert [f"{time:%m-%d %H:%M}" for time in after[[0, 1, 24, 25]]] == [
        "09-30 11:30", "09-30 13:05", "09-30 15:00", "10-08 09:35",
    ]  # fmt: skip
    for freq in MINUTES:
        assert len(next_sessions("XNYS", "2024-06-18 15:00", 1024, freq, "start")) == 1024


def test_unknown_calendar_names_the_known() -> None:
    with pytest.raises(
        UserError, match="no calendar 'NYSE2': choose one of XNYS, XSHG, XHKG, 24/7, weekdays, observed"
    ):
        sessions("NYSE2", "2020-01-01", "2020-02-01")


def test_time_features_are_minute_hour_weekday_day_month() -> None:
    times = np.array([["2024-06-18 11:15", "2024-02-29"]], dtype="datetime64[ns]")
    expected = [[[15, 11, 1, 18, 6], [0, 0, 3, 29, 2]]]
    assert time_features(times).tolist() == expected
    assert time_features(times.astype("int64")).tolist() == expected
    assert time_features(times).dtype == np.int64


@pytest.mark.parametrize("freq", MINUTES)
@pytest.mark.parametrize("name", ["XNYS", "XSHG", "XHKG", "24/7"])
def test_bars_are_the_hours_of_trading_cut_into_steps(name: str, freq: str) -> None:
    """By hand, day by day: stretches between opening, break and close, the last step of each cut short."""
    hours = {
        "XNYS": {"usual": [(570, 960)], "2024-07-03": [(570, 780)], "2024-12-24": [(570, 780)]},
        "XSHG": {"usual": [(570, 690), (780, 900)]},
        "XHKG": {"usual": [(570, 720), (780, 960)], "2024-12-24": [(570, 720)], "2024-12-31": [(570, 720)]},
        "24/7": {"usual": [(0, 1440)]},
    }[name]
    step = MINUTES[freq]
    days = [*sessions(name, "2024-06-24", "2024-07-08"), *sessions(name, "2024-12-23", "2025-01-03")]
    expected: dict[str, list[pd.Timestamp]] = {"start": [], "end": []}
    for day in days:
        for opens, closes in hours.get(f"{day:%Y-%m-%d}", hours["usual"]):
            for minute in range(opens, closes, step):
                expected["start"].append(day + pd.Timedelta(minutes=minute))
                expected["end"].append(day + pd.Timedelta(minutes=min(minute + step, closes)))
    found = sessions(name, "2024-06-24", "2024-07-08", freq, "start").append(
        sessions(name, "2024-12-23", "2025-01-03", freq, "start")
    )
    assert list(found) == expected["start"]
    if name != "24/7":  # the end of its last bar is the next midnight, which belongs to the next day
        found = sessions(name, "2024-06-24", "2024-07-08", freq).append(
            sessions(name, "2024-12-23", "2025-01-03", freq)
        )
        assert list(found) == expected["end"]


def test_past_the_known_end_bars_keep_the_hours_of_the_last_known_day() -> None:
    end = known_end("XSHG")
    found = sessions("XSHG", end - pd.Timedelta(days=20), end + pd.Timedelta(days=20), "30min")
    assert set(found.normalize()) == set(sessions("XSHG", found[0], found[-1]))
    assert (pd.Series(1, found).groupby(found.normalize()).sum() == 8).all() and found.is_monotonic_increasing
