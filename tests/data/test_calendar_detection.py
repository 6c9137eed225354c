"""Which calendar bars fit: every exchange by its own sessions, and a calendar observed from bars that fit none."""

import numpy as np
import pandas as pd
import pytest

from kronos.data import calendar_detection, calendars
from kronos.data.calendar_detection import fit_calendar
from kronos.data.calendars import exchanges, next_sessions, sessions
from kronos.data.observed import is_observed, name_of, observe, pattern_of, trading_days
from kronos.utils.errors import UserError

SAMPLE = ("XNYS", "XSHG", "XHKG", "XTKS", "XLON", "XETR", "XASX", "XTSE", "XBOM", "XSAU", "BVMF", "CMES")


def minutes_of(days: pd.DatetimeIndex, *stretches: tuple[str, str], step: int = 15) -> pd.DatetimeIndex:
    """Bars of `step` minutes, labelled by their end, in stretches of each day."""
    found: list[pd.Timestamp] = []
    for day in days:
        for first, last in stretches:
            begin, end = (day + pd.Timedelta(f"{text}:00") for text in (first, last))
            found += list(pd.date_range(begin + pd.Timedelta(minutes=step), end, freq=f"{step}min"))
    return pd.DatetimeIndex(sorted(found)).as_unit("ns")


def futures(first: str = "2021-03-01", last: str = "2021-06-30") -> pd.DatetimeIndex:
    """A Chinese commodity: day sessions, and a night session before each day that no holiday precedes."""
    days = sessions("XSHG", first, last)
    by_day = minutes_of(days, ("09:00", "10:15"), ("10:30", "11:30"), ("13:30", "15:00"))
    nights = days[:-1][np.diff(days.asi8) <= pd.Timedelta(days=3).value]
    return pd.DatetimeIndex(by_day.append(minutes_of(nights, ("21:00", "23:00"))).sort_values())


def currencies(first: str = "2023-01-01", last: str = "2023-10-27") -> pd.DatetimeIndex:
    """Hours of a currency, labelled by their start: from Sunday 17:00 to Friday 17:00, but for Good Friday."""
    times = pd.date_range(f"{first} 17:00", f"{last} 16:00", freq="1h").as_unit("ns")
    day, hour = times.day_of_week, times.hour
    open_ = (day < 4) | ((day == 4) & (hour < 17)) | ((day == 6) & (hour >= 17))
    return times[open_ & (times.normalize() != pd.Timestamp("2023-04-07"))]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_year_of_an_exchanges_days_finds_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar_detection, "exchanges", lambda: SAMPLE)
    times = sessions(name, "2023-01-02", "2024-02-29")
    fit = fit_calendar(times, "day")
    assert fit.calendar == name, fit.reason
    assert fit_calendar(times[np.arange(len(times)) % 40 != 3], "day").calendar == name, (
        "with some days missing"
    )


@pytest.mark.parametrize("name", ["XTKS", "XASX", "XBOM"])
@pytest.mark.parametrize("label", ["start", "end"])
def test_hours_tell_an_exchange_and_the_label(name: str, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar_detection, "exchanges", lambda: SAMPLE)
    times = sessions(name, "2024-04-01", "2024-06-14", "15min", label)
    fit = fit_calendar(times, "15min")
    assert (fit.calendar, fit.label) == (name, label), fit.reason


@pytest.mark.slow
@pytest.mark.parametrize(("freq", "first"), [("day", "2022-06-01"), ("30min", "2023-10-02")])
def test_every_exchange_is_found_by_its_own_sessions_or_by_equal_ones(freq: str, first: str) -> None:
    """Some exchanges have the same sessions; then the reason names them, but for a preferred one."""
    unknown = []
    for name in exchanges():
        try:
            times = sessions(name, first, "2023-12-29", freq)
        except UserError as error:
            unknown.append(name)
            assert "give --calendar observed" in str(error)
            continue
        fit = fit_calendar(times, freq)
        if fit.calendar != name:
            equal = sessions(fit.calendar, times[0], times[-1], freq, fit.label)
            equal = equal[(equal >= times[0]) & (equal <= times[-1])]
            assert equal.equals(times), (name, fit.reason)
            assert fit.calendar in calendars.NAMES or name in fit.reason, fit.reason
        again = fit_calendar(times, freq, name)
        assert (again.calendar, again.label) == (name, "end")
    assert len(unknown) <= 6


@pytest.mark.slow
def test_fewer_holidays_to_compute_leave_the_sessions_of_the_package_as_they_are() -> None:
    import warnings

    import exchange_calendars

    for name in exchanges():
        try:
            own = sessions(name, "2022-01-03", "2023-12-29")
        except UserError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = exchange_calendars.get_calendar(name, start="2022-01-03", end="2023-12-29").sessions
        assert own.equals(theirs.tz_localize(None).as_unit("ns")), name


def test_an_exchange_that_fits_as_well_is_named_and_the_preferred_one_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calendar_detection, "exchanges", lambda: ("XAMS", "XBRU", "XTKS"))
    fit = fit_calendar(sessions("XAMS", "2023-01-02", "2024-06-28"), "day")
    assert fit.calendar == "XAMS" and "XBRU fits as well: --calendar names another" in fit.reason


def test_a_night_session_belongs_to_the_next_trading_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar_detection, "exchanges", lambda: ("XNYS", "XSHG", "XTKS"))
    times = futures()
    fit = fit_calendar(times, "15min")
    assert is_observed(fit.calendar) and fit.label == "end"
    assert fit.past is not None and fit.past.equals(times)
    days = calendars.trading_days(fit.calendar, times, "15min", "end")
    by_hand = {
        "2021-03-05 15:00": "2021-03-05", "2021-03-05 21:15": "2021-03-08", "2021-03-08 09:15": "2021-03-08",
        "2021-03-08 23:00": "2021-03-09",
    }  # fmt: skip
    for time, day in by_hand.items():
        assert days[times.get_loc(pd.Timestamp(time))] == pd.Timestamp(day), time
    assert days.is_monotonic_increasing
    assert set(days) == set(sessions("XSHG", "2021-03-01", "2021-06-30"))
    friday = pd.Timestamp("2021-06-25 15:00")
    after = next_sessions(fit.calendar, friday, 9, "15min", "end")
    assert after[0] == pd.Timestamp("2021-06-25 21:15") and after[8] == pd.Timestamp("2021-06-28 09:15")


def test_a_night_session_that_spans_midnight_is_one_with_the_next_day() -> None:
    days = sessions("XSHG", "2021-03-01", "2021-04-02")
    early = minutes_of(days + pd.Timedelta(days=1), ("00:00", "02:30"))
    times = minutes_of(days, ("09:00", "10:15"), ("10:30", "11:30"), ("13:30", "15:00"), ("21:00", "24:00"))
    times = pd.DatetimeIndex(times.append(early).sort_values())
    name, _ = observe(times, np.ones(len(times), int), "15min", "end")
    pattern = pattern_of(name)
    assert pattern.begins == 21 * 60
    found = trading_days(pattern, times, "end")
    for time, day in (("2021-03-05 21:15", "2021-03-08"), ("2021-03-06 00:00", "2021-03-08"),
                      ("2021-03-06 02:30", "2021-03-08"), ("2021-03-08 15:00", "2021-03-08")):  # fmt: skip
        assert found[times.get_loc(pd.Timestamp(time))] == pd.Timestamp(day), time


def test_a_week_of_currencies_is_observed_and_its_weekends_and_holidays_are_no_holes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calendar_detection, "exchanges", lambda: ("XNYS", "CMES"))
    times = currencies()
    fit = fit_calendar(times, "60min")
    assert is_observed(fit.calendar) and fit.label == "start", fit.reason
    assert fit.past is not None and fit.past.equals(times)
    assert pattern_of(fit.calendar).begins == 17 * 60
    days = calendars.trading_days(fit.calendar, times, "60min", "start")
    assert set(days.day_of_week) == set(range(5))
    assert days[times.get_loc(pd.Timestamp("2023-01-15 17:00"))] == pd.Timestamp("2023-01-16")
    after = next_sessions(fit.calendar, times[-1], 2, "60min", "start")
    assert list(after) == [pd.Timestamp("2023-10-29 17:00"), pd.Timestamp("2023-10-29 18:00")]
    assert set(sessions(fit.calendar, "2024-01-01", "2024-12-31").day_of_week) == set(range(5))


def test_weekdays_without_a_holiday_become_an_observed_calendar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar_detection, "exchanges", lambda: ("XNYS", "XLON"))
    days = pd.bdate_range("2022-01-03", "2023-12-29").as_unit("ns")
    closed = [pd.Timestamp(day) for day in ("2022-04-15", "2022-12-26", "2023-01-02", "2023-12-25")]
    fit = fit_calendar(days[~days.isin(closed)], "day")
    assert fit.calendar == "observed Mon-Fri" and fit.past is not None
    assert not fit.past.isin(closed).any()
    assert fit_calendar(days, "day").calendar == "weekdays"


def test_half_days_and_short_days_stay_as_they_are() -> None:
    """Ramadan's hours and a day that ends early: no session is made up after the last bar of a day."""
    days = sessions("XSHG", "2024-01-02", "2024-06-28")
    ramadan = (days >= pd.Timestamp("2024-03-11")) & (days <= pd.Timestamp("2024-04-09"))
    times = minutes_of(days[~ramadan][1:], ("10:00", "15:00")).append(
        minutes_of(days[ramadan], ("10:00", "13:30"))
    )
    times = pd.DatetimeIndex(times.append(minutes_of(days[:1], ("10:00", "12:00"))).sort_values())
    fit = fit_calendar(times, "15min", "observed")
    assert fit.past is not None and fit.past.equals(times)
    assert len(next_sessions(fit.calendar, times[-1], 20, "15min", fit.label).normalize().unique()) == 1


def test_bars_of_a_few_instruments_at_another_time_are_no_sessions() -> None:
    days = sessions("XNYS", "2024-01-02", "2024-03-28")
    stray = pd.DatetimeIndex([pd.Timestamp("2024-01-15"), pd.Timestamp("2024-02-10")]).as_unit("ns")
    times = pd.DatetimeIndex(days.append(stray).sort_values())
    counts = np.where(times.isin(stray), 1, 50)
    fit = fit_calendar(times, "day", "observed", counts)
    assert fit.past is not None and fit.past.equals(days)


def test_bars_that_are_missing_for_weeks_are_no_holiday() -> None:
    days = sessions("XNYS", "2024-01-02", "2024-12-30")
    gap = (days > pd.Timestamp("2024-05-01")) & (days < pd.Timestamp("2024-06-10"))
    fit = fit_calendar(days[~gap], "day", "observed")
    assert fit.past is not None
    inside = fit.past[(fit.past > pd.Timestamp("2024-05-01")) & (fit.past < pd.Timestamp("2024-06-10"))]
    assert inside.equals(pd.bdate_range("2024-05-02", "2024-06-07").as_unit("ns"))


def test_rare_trades_stay_on_the_calendar_that_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar_detection, "exchanges", lambda: ("XNYS", "XTSE"))
    generator = np.random.default_rng(3)
    times = pd.date_range("2024-01-01", "2024-02-29", freq="1min").as_unit("ns")
    assert fit_calendar(times[generator.random(len(times)) < 0.55], "1min").calendar == "24/7"
    times = sessions("XNYS", "2023-01-03", "2024-02-29", "30min")
    assert fit_calendar(times[generator.random(len(times)) < 0.3], "30min").calendar == "XNYS"


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [("last session", "XSHG"), ("first session", "XSHG"), ("monday", "24/7"), ("sunday", "24/7")],
)
def test_weeks_tell_an_exchange_by_the_days_that_name_them(
    labelled: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calendar_detection, "exchanges", lambda: ("XNYS", "XSHG", "XTKS"))
    days = sessions("XSHG", "2022-01-04", "2024-12-31")
    weeks = pd.Series(days, days.to_period("W-SUN")).groupby(level=0)
    begins = pd.DatetimeIndex([one.start_time for one in weeks.groups])
    times = {"last session": weeks.last(), "first session": weeks.first(), "monday": begins,
             "sunday": begins + pd.Timedelta(days=6)}[labelled]  # fmt: skip
    fit = fit_calendar(pd.DatetimeIndex(times).as_unit("ns"), "week")
    assert fit.calendar == expected, fit.reason


@pytest.mark.parametrize(
    "name",
    [
        "observed Mon-Fri 09:35-11:30/5 13:05-15:00/5",
        "observed from 17:00 Mon-Thu 00:00-23:00/60; Fri 00:00-16:00/60; Sun 17:00-23:00/60",
        "observed XNYS Mon-Fri 04:01-20:00/1",
        "observed Mon,Wed-Thu 09:00 09:45; Fri",
        "observed Mon-Fri",
    ],
)
def test_the_name_of_an_observed_calendar_holds_its_pattern(name: str) -> None:
    assert name_of(pattern_of(name)) == name
    found = next_sessions(name, "2024-06-07 20:00", 30, "5min")
    assert len(found) == 30 and found.is_monotonic_increasing and found[0] > pd.Timestamp("2024-06-07 20:00")
    shown = pattern_of(name)
    for time in found:
        assert time.hour * 60 + time.minute in shown.slots[time.day_of_week]
