"""Calendars: holidays, the end of what is known, and the time features."""

import numpy as np
import pandas as pd
import pytest

from kronos.data.calendars import (
    known_range,
    known_sessions_after,
    next_sessions,
    sessions,
    time_features,
)
from kronos.errors import UserError


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


def test_end_of_a_calendars_knowledge_is_said() -> None:
    end = known_range("XSHG")[1]
    assert len(known_sessions_after("XSHG", end - pd.Timedelta(days=14), 64)) < 64
    assert len(known_sessions_after("XSHG", end, 64)) == 0
    with pytest.raises(
        UserError, match=rf"calendar XSHG is known to {end:%Y-%m-%d}: of the 64 sessions after"
    ):
        next_sessions("XSHG", end - pd.Timedelta(days=14), 64)
    with pytest.raises(UserError, match=r"calendar XSHG is known from 1990-12-03 to"):
        sessions("XSHG", "1980-01-01", "1981-01-01")


def test_unknown_calendar_names_the_known() -> None:
    with pytest.raises(UserError, match="no calendar 'NYSE2': choose one of XNYS, XSHG, XHKG, 24/7"):
        sessions("NYSE2", "2020-01-01", "2020-02-01")


def test_time_features_are_minute_hour_weekday_day_month() -> None:
    times = np.array([["2024-06-18 11:15", "2024-02-29"]], dtype="datetime64[ns]")
    expected = [[[15, 11, 1, 18, 6], [0, 0, 3, 29, 2]]]
    assert time_features(times).tolist() == expected
    assert time_features(times.astype("int64")).tolist() == expected
    assert time_features(times).dtype == np.int64
