"""Time features from the calendar: days that everybody can look up, the same for few times and for many."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from kronos.config.registries import CALENDAR_FEATURES, TIME_FEATURES
from kronos.data.calendars import next_sessions, sessions, time_features
from kronos.data.time_features import time_table
from kronos.model.time_embedding import CALENDAR_TABLES, TIME_TABLES

NAMES = (*TIME_FEATURES, *CALENDAR_FEATURES)


def table(name: str, times: pd.DatetimeIndex, freq: str = "day", label: str = "end") -> pd.DataFrame:
    found = time_table(times.as_unit("ns").asi8, NAMES, name, freq, label)
    return pd.DataFrame(found, times, columns=list(NAMES))


def test_the_model_has_tables_for_these_features_and_for_all_their_values() -> None:
    assert tuple(TIME_TABLES) == TIME_FEATURES and tuple(CALENDAR_TABLES) == CALENDAR_FEATURES
    for name, begin, freq in (
        ("XSHG", "2010-01-04", "day"),
        ("24/7", "2023-01-01", "60min"),
        ("XNYS", "2001-01-02", "day"),
    ):
        found = table(name, sessions(name, begin, pd.Timestamp(begin) + pd.Timedelta(days=900), freq), freq)
        rows = np.array([{**TIME_TABLES, **CALENDAR_TABLES}[column] for column in NAMES])
        assert (found.to_numpy() >= 0).all() and (found.to_numpy() < rows).all()
        np.testing.assert_array_equal(found[[*TIME_FEATURES]], time_features(found.index))


def test_thanksgiving_of_2024() -> None:
    found = table("XNYS", sessions("XNYS", "2024-11-11", "2024-12-06"))
    days = found.index.strftime("%m-%d")
    to, after, half = (dict(zip(days, found[name], strict=True)) for name in CALENDAR_FEATURES[:3])
    assert [to[day] for day in ("11-25", "11-26", "11-27")] == [2, 1, 0] and to["11-29"] == 10
    assert [after[day] for day in ("11-27", "11-29", "12-02", "12-03")] == [10, 0, 1, 2]
    assert [day for day in days if half[day]] == ["11-29"]


def test_the_spring_festival_of_2024_and_expiries() -> None:
    found = table("XSHG", sessions("XSHG", "2024-01-29", "2024-03-29"))
    day = found.loc["2024-02-08"]  # the last one before the festival; the next is the 19th
    assert (day["days_to_holiday"], found.loc["2024-02-19", "days_after_holiday"]) == (0, 0)
    assert found.loc["2024-02-07", "days_to_holiday"] == 1
    # The third Friday of February is within the festival, so that its last trading day before is marked.
    assert (day["days_to_expiry"], found.loc["2024-03-15", "days_to_expiry"]) == (0, 0)
    assert found.loc["2024-03-18", "days_to_expiry"] == 22
    ends = found.index[found["days_to_month_end"] == 0]
    assert list(ends.strftime("%m-%d")) == ["01-31", "02-29", "03-29"]


def test_expiry_is_the_third_friday_or_the_trading_day_before_it() -> None:
    days = sessions("XNYS", "2019-01-02", "2024-12-31")
    found = table("XNYS", days)
    expected = set()
    for year in range(2019, 2025):
        for month in range(1, 13):
            first = date(year, month, 1)
            friday = first + timedelta(days=(4 - first.weekday()) % 7 + 14)
            expected.add(days[days <= pd.Timestamp(friday)][-1])
    assert set(found.index[found["days_to_expiry"] == 0]) == expected  # with Good Fridays


@pytest.mark.parametrize(
    ("exchange", "before", "closed"),
    [("XNYS", "2001-09-10", "2001-09-11"), ("XHKG", "2023-07-14", "2023-07-17")],
)
def test_no_feature_says_that_an_unplanned_closing_is_coming(exchange: str, before: str, closed: str) -> None:
    days = sessions(exchange, pd.Timestamp(before) - pd.Timedelta(days=20), before)
    assert pd.Timestamp(closed) not in sessions(
        exchange, before, pd.Timestamp(before) + pd.Timedelta(days=10)
    )
    found = table(exchange, days)
    assert found.loc[before, "days_to_holiday"] == 10
    plain = pd.bdate_range(before, pd.Timestamp(before) + pd.offsets.MonthEnd(0))
    assert found.loc[before, "days_to_month_end"] == len(plain) - 1


def test_minutes_to_close_count_to_the_last_bar_of_the_day() -> None:
    for name, label in (("XNYS", "end"), ("XNYS", "start"), ("XSHG", "end")):
        bars = sessions(name, "2024-11-27", "2024-11-29", "5min", label)
        left = table(name, bars, "5min", label)["minutes_to_close"]
        last = bars.to_series().groupby(bars.normalize()).transform("max")
        minutes = ((last - bars) / pd.Timedelta(minutes=1)).to_numpy()
        expected = np.where(minutes < 60, minutes, 60 + (minutes - 60) // 15)
        np.testing.assert_array_equal(left, expected)
        assert (left.groupby(bars.normalize()).last() == 0).all()


@pytest.mark.parametrize(
    ("name", "freq", "label"),
    [("XNYS", "day", "end"), ("XSHG", "30min", "end"), ("24/7", "60min", "start"), ("XHKG", "week", "end"),
     ("observed Mon-Fri 09:35-11:30/5 13:05-15:00/5", "5min", "end"), ("observed XNYS Mon-Fri", "day", "end")],
)  # fmt: skip
def test_a_moment_has_the_same_features_alone_in_a_forecast_and_in_a_store(
    name: str, freq: str, label: str
) -> None:
    days = 400 if freq in ("day", "week") else 40
    times = sessions(name, "2023-01-03", pd.Timestamp("2023-01-03") + pd.Timedelta(days=days), freq, label)
    whole = table(name, times, freq, label)
    for place in np.random.default_rng(0).choice(len(times), 12, replace=False):
        pd.testing.assert_frame_equal(
            table(name, times[[place]], freq, label), whole.iloc[[place]], check_freq=False
        )
    after = next_sessions(name, times[len(times) // 2], 5, freq, label)
    pd.testing.assert_frame_equal(table(name, after, freq, label), whole.loc[after], check_freq=False)
