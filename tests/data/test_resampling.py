"""Coarser bars from finer ones against pandas' own resample, stretch by stretch of trading."""

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import Flag
from kronos.data.calendar_detection import fit_calendar
from kronos.data.calendars import sessions
from kronos.data.resampling import INCOMPLETE, Resampling
from kronos.data.store_writer import store_sessions
from kronos.utils.errors import UserError

HOW = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum", "amount": "sum"}


def bars_at(times: pd.DatetimeIndex, names: tuple[str, ...] = ("A", "B"), share: float = 0.9) -> pd.DataFrame:
    """Bars of each name at most of the times; the first name has the first and the last."""
    generator = np.random.default_rng(len(times))
    frames = []
    for name in names:
        kept = generator.random(len(times)) < share
        kept[[0, -1]] |= name == names[0]
        own = times[kept]
        close = 50 * np.exp(np.cumsum(generator.normal(0, 0.01, len(own))))
        frame = pd.DataFrame({"instrument": name, "datetime": own, "close": close})
        frame["open"] = close * np.exp(generator.normal(0, 0.005, len(own)))
        frame["high"] = frame[["open", "close"]].max(axis=1) * 1.01
        frame["low"] = frame[["open", "close"]].min(axis=1) * 0.99
        frame["volume"] = generator.integers(1, 1000, len(own)).astype(float)
        frame["amount"] = frame["volume"] * close
        frame["flag"] = np.uint8(0)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def resampled(
    frame: pd.DataFrame, calendar: str, freq: str, label: str, to: str, past: pd.DatetimeIndex | None = None
) -> tuple[pd.DataFrame, Resampling]:
    times = pd.DatetimeIndex(np.unique(frame["datetime"]))
    grid = store_sessions(calendar, times[0], times[-1], freq, label, past)
    coarser = Resampling(calendar, freq, label, grid, int(grid.get_loc(times[-1])), to)
    return coarser.apply(frame)[0], coarser


def by_pandas(
    frame: pd.DataFrame, stretches: list[tuple[pd.Timestamp, pd.Timestamp]], to: str, label: str
) -> pd.DataFrame:
    """pandas' resample of each instrument and stretch of trading, from where the stretch begins."""
    side = "right" if label == "end" else "left"
    found = []
    for name, own in frame.groupby("instrument"):
        own = own.set_index("datetime")
        for begin, end in stretches:
            part = own[(own.index > begin) & (own.index <= end)] if label == "end" else own[
                (own.index >= begin) & (own.index < end)]  # fmt: skip
            if len(part):
                table = (
                    part.resample(to, closed=side, label=side, origin=begin).agg(HOW).dropna(subset="open")
                )
                if label == "end":
                    table.index = table.index.where(table.index <= end, end)
                found.append(table.assign(instrument=name))
    return pd.concat(found).rename_axis("datetime").reset_index()


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    columns = ["instrument", "datetime", *HOW]
    left, right = (one[columns].sort_values(columns[:2]).reset_index(drop=True) for one in (found, expected))
    pd.testing.assert_frame_equal(left, right, check_dtype=False, check_index_type=False)


def stretches_of(calendar: str, first: str, last: str) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    starts = sessions(calendar, first, last, "1min", "start")
    cut = np.flatnonzero(np.diff(starts.asi8) > pd.Timedelta(minutes=1).value) + 1
    return [(part[0], part[-1] + pd.Timedelta(minutes=1)) for part in np.split(starts, cut)]  # type: ignore[misc]


@pytest.mark.parametrize("label", ["start", "end"])
@pytest.mark.parametrize(
    ("calendar", "first", "last", "freq", "to"),
    [
        ("XSHG", "2024-06-03", "2024-06-07", "5min", "60min"),  # a break at noon
        ("XSHG", "2024-06-03", "2024-06-07", "15min", "240min"),
        ("XNYS", "2024-03-06", "2024-03-13", "30min", "60min"),  # daylight saving begins
        ("XNYS", "2024-07-01", "2024-07-05", "30min", "240min"),  # half a day
        ("XTKS", "2024-11-01", "2024-11-08", "15min", "45min"),  # longer hours since November
    ],
)
def test_bars_within_a_day_are_pandas_own_for_each_stretch_of_trading(
    calendar: str, first: str, last: str, freq: str, to: str, label: str
) -> None:
    frame = bars_at(sessions(calendar, first, last, freq, label))
    found, coarser = resampled(frame, calendar, freq, label, to)
    assert coarser.incomplete is None
    same(found, by_pandas(frame, stretches_of(calendar, first, last), to, label))
    assert found["datetime"].isin(coarser.sessions).all() and coarser.calendar == calendar


@pytest.mark.parametrize(("to", "rule"), [("240min", "4h"), ("720min", "12h"), ("day", "D")])
def test_round_the_clock_bars_are_pandas_own(to: str, rule: str) -> None:
    frame = bars_at(sessions("24/7", "2024-03-29", "2024-04-02", "60min", "start"))
    found, _ = resampled(frame, "24/7", "60min", "start", to)
    expected = frame.set_index("datetime").groupby("instrument").resample(rule).agg(HOW).reset_index()
    same(found, expected)


@pytest.mark.parametrize(("to", "rule"), [("week", "W-SUN"), ("month", "M")])
def test_weeks_and_months_are_pandas_periods_at_their_last_session(to: str, rule: str) -> None:
    frame = bars_at(sessions("XSHG", "2023-01-03", "2024-06-28"))
    found, coarser = resampled(frame, "XSHG", "day", "end", to)
    period = frame["datetime"].dt.to_period(rule)
    expected = frame.groupby(["instrument", period]).agg(HOW).reset_index()
    days = sessions("XSHG", "2023-01-01", "2024-06-30")
    last = pd.Series(days, days.to_period(rule)).groupby(level=0).last()
    same(found, expected.assign(datetime=last.loc[expected["datetime"]].to_numpy()))
    assert coarser.sessions.equals(store_sessions("XSHG", last.iloc[0], last.iloc[-1], to))
    assert coarser.last_session == len(last) - 1


@pytest.mark.parametrize("last", ["2024-06-28 13:00", "2024-06-27 15:00", "2024-06-28 15:00"])
def test_an_incomplete_last_bar_is_left_out_and_counted(last: str) -> None:
    times = sessions("XSHG", "2024-06-03", "2024-06-28", "30min")
    frame = bars_at(times[times <= pd.Timestamp(last)], share=1.0)
    for to, whole in (
        ("day", "2024-06-28 15:00"),
        ("week", "2024-06-28 15:00"),
        ("60min", "2024-06-28 15:00"),
    ):
        found, coarser = resampled(frame, "XSHG", "30min", "end", to)
        complete = last == whole or (to != "week" and last.endswith("15:00"))
        _, findings = coarser.apply(frame)
        counted = {one.kind: one.count for one in findings}
        if to == "60min" and last.endswith("13:00"):
            complete = True  # its last bar is at 11:30
        assert counted == ({} if complete else {INCOMPLETE: 2}), (to, last)
        day = pd.Timestamp(last).normalize()
        assert (found["datetime"].max() < day) == (not complete)


def test_a_currencys_day_ends_in_new_york_and_its_hours_count_from_there() -> None:
    times = pd.date_range("2024-03-03 17:00", "2024-03-29 16:00", freq="1h").as_unit("ns")
    day, hour = times.day_of_week, times.hour
    times = times[(day < 4) | ((day == 4) & (hour < 17)) | ((day == 6) & (hour >= 17))]
    frame = bars_at(times)
    fit = fit_calendar(times, "60min", "observed")
    assert fit.label == "start"
    for to in ("day", "240min"):
        found, coarser = resampled(frame, fit.calendar, "60min", "start", to, fit.past)
        shifted = frame.assign(datetime=frame["datetime"] + pd.Timedelta(hours=7)).set_index("datetime")
        expected = shifted.groupby("instrument").resample("D" if to == "day" else "4h").agg(HOW)
        expected = expected.dropna(subset="open").reset_index()
        back = pd.Timedelta(0) if to == "day" else pd.Timedelta(hours=7)
        same(found, expected.assign(datetime=expected["datetime"] - back))
        assert found["datetime"].isin(coarser.sessions).all()


def test_flags_of_the_open_come_from_the_first_bar_and_of_the_close_from_the_last() -> None:
    frame = bars_at(sessions("XSHG", "2024-06-03", "2024-06-03", "60min"), ("A",), share=1.0)
    frame["flag"] = np.array(
        [
            Flag.OPEN_UP | Flag.CLOSE_UP,
            Flag.REPAIRED | Flag.OPEN_DOWN,
            Flag.ADJUSTED,
            Flag.CLOSE_DOWN | Flag.OPEN_UP,
        ],
        np.uint8,
    )
    found, _ = resampled(frame, "XSHG", "60min", "end", "day")
    assert found["flag"].tolist() == [Flag.OPEN_UP | Flag.REPAIRED | Flag.ADJUSTED | Flag.CLOSE_DOWN]


@pytest.mark.parametrize(
    ("freq", "to"), [("60min", "30min"), ("60min", "90min"), ("week", "month"), ("day", "60min")]
)
def test_bars_that_do_not_nest_are_refused(freq: str, to: str) -> None:
    grid = sessions("XNYS", "2024-01-02", "2024-06-28", freq)
    with pytest.raises(UserError, match=f"resample={to} from bars of {freq}: longer bars were expected"):
        Resampling("XNYS", freq, "end", grid, 5, to)
