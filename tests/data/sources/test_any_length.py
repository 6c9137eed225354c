"""Files of bars of any length: found, resampled, with and without extended hours, and never cut by a default."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.config.schema import Config
from kronos.data import calendar_detection
from kronos.data.calendars import sessions
from kronos.data.forecast_points import latest_points
from kronos.data.sources.csv import CsvDataProcessor
from kronos.data.splits import settle_ranges
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

NONE: dict[str, Any] = dict.fromkeys(("train", "val", "test", "backtest"))


def build(path: Path, **fields: Any) -> BarStore:
    values = Config().data.model_dump() | {
        "data_source": "csv", "data_path": str(path), "dataset_path": str(path.parent / "store"),
    }  # fmt: skip
    return CsvDataProcessor(SimpleNamespace(**values | fields)).run_pipeline()


def write(path: Path, times: pd.DatetimeIndex, names: tuple[str, ...] = ("A", "B")) -> Path:
    timed = bool((times != times.normalize()).any())
    shown = times.strftime("%Y-%m-%d %H:%M" if timed else "%Y-%m-%d")
    rows = [
        f"{name},{time},{100 + place % 7},{112 + place % 7},{99 + place % 7},{101 + place % 7},{100 + place}"
        for name in names
        for place, time in enumerate(shown)
    ]
    path.write_text("\n".join(["symbol,datetime,open,high,low,close,volume", *rows]) + "\n")
    return path


def kinds(store: BarStore) -> dict[str, int]:
    return {one["kind"]: one["count"] for one in store.findings}


@pytest.mark.parametrize(
    ("calendar", "freq"),
    [("24/7", "1min"), ("24/7", "240min"), ("24/7", "720min"), ("XNYS", "3min"), ("XNYS", "60min"), ("XSHG", "45min"),
     ("XNYS", "day"), ("XSHG", "week"), ("XSHG", "month")],
)  # fmt: skip
def test_the_length_of_bars_is_found(tmp_path: Path, calendar: str, freq: str) -> None:
    first = {"month": "2015-01-05", "week": "2021-01-04"}.get(freq, "2024-04-01")
    last = "2024-04-10" if freq == "1min" else "2024-06-28"
    times = sessions(calendar, first, last, freq, "start")
    store = build(write(tmp_path / "bars.csv", times))
    assert (store.freq, store.calendar) == (freq, calendar)
    assert store.frame()["datetime"].nunique() == len(times) and not store.findings


@pytest.mark.parametrize(
    "last", ["1999-03-05", "2015-12-31", "2024-01-31", "2025-06-05", "2025-06-06", "2026-10-30"]
)
def test_no_default_cuts_bars_and_forecasts_start_from_the_last(tmp_path: Path, last: str) -> None:
    times = sessions("XNYS", pd.Timestamp(last) - pd.Timedelta(days=400), last)
    store = build(write(tmp_path / "bars.csv", times))
    stored = pd.DatetimeIndex(np.unique(store.frame()["datetime"]))
    assert stored.equals(times) and stored[-1] == pd.Timestamp(last)
    ranges = settle_ranges(store, **NONE, lookback=20, horizon=5)
    assert ranges.backtest[1] == ranges.test[1] == pd.Timestamp(last).date()
    assert set(latest_points(store, 20).session) == {store.last_session}


@pytest.mark.parametrize("resample", [None, "30min"])
@pytest.mark.parametrize("hours", ["regular", "all"])
def test_hours_before_and_after_an_exchanges_own_are_left_out_or_kept(
    tmp_path: Path, hours: str, resample: str | None
) -> None:
    days = sessions("XNYS", "2024-03-04", "2024-03-15")
    times = pd.DatetimeIndex([day + pd.Timedelta(minutes=m) for day in days for m in range(240, 1200, 5)])
    store = build(write(tmp_path / "bars.csv", times), hours=hours, resample=resample)
    outside = {} if hours == "all" else {"bar outside the regular hours of XNYS": 2 * len(days) * (192 - 78)}
    assert kinds(store) == outside
    a_day = {("regular", None): 78, ("all", None): 192, ("regular", "30min"): 13, ("all", "30min"): 32}
    assert store.last_session + 1 == len(days) * a_day[hours, resample]
    step = "5" if resample is None else "30"
    assert store.calendar == (
        "XNYS" if hours == "regular" else f"observed XNYS Mon-Fri 04:00-19:{60 - int(step)}/{step}"
    )
    assert store.source.get("resampled_from") == (resample and "5min")
    following = pd.DatetimeIndex(store.sessions)[store.last_session + 1]
    assert following == pd.Timestamp("2024-03-18 09:30" if hours == "regular" else "2024-03-18 04:00")


def test_weeks_are_stored_at_their_last_session_and_a_second_bar_of_a_week_is_dropped(tmp_path: Path) -> None:
    """Services name a week by its first day and add the latest day as a bar of its own."""
    days = sessions("XNYS", "2022-01-03", "2024-06-26")
    weeks = pd.Series(days, days.to_period("W-SUN")).groupby(level=0)
    times = pd.DatetimeIndex([*weeks.first(), days[-1]])
    store = build(write(tmp_path / "bars.csv", times))
    assert (store.freq, store.calendar) == ("week", "XNYS")
    stored = pd.DatetimeIndex(np.unique(store.frame()["datetime"]))
    assert stored.equals(pd.DatetimeIndex([*weeks.last()[:-1], pd.Timestamp("2024-06-28")]).as_unit("ns"))
    assert kinds(store)["second bar of a week"] == 2


def test_an_incomplete_last_bar_is_left_out_of_the_store_and_counted(tmp_path: Path) -> None:
    times = sessions("24/7", "2024-03-01", "2024-03-20", "60min", "start")[:-3]
    store = build(write(tmp_path / "bars.csv", times), resample="240min")
    assert (store.freq, store.calendar) == ("240min", "24/7")
    assert kinds(store) == {"incomplete last bar of the resampling": 2}
    assert pd.Timestamp(int(store.sessions[store.last_session])) == pd.Timestamp("2024-03-20 16:00")
    assert "Bars of 60min are resampled to 240min" in " ".join(store.source["notes"])
    volume = store.frame()["volume"].to_numpy()[:3].tolist()
    assert volume == [sum(range(100 + 4 * place, 104 + 4 * place)) for place in range(3)]


def test_an_observed_holiday_is_no_flat_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar_detection, "exchanges", lambda: ("XNYS", "XLON"))
    days = pd.bdate_range("2022-01-03", "2023-12-29")
    closed = pd.DatetimeIndex(["2022-04-15", "2022-12-26", "2023-01-02", "2023-12-25"])
    store = build(write(tmp_path / "bars.csv", days[~days.isin(closed)]))
    assert store.calendar == "observed Mon-Fri" and not store.findings
    assert not np.asarray(store.flags).any()
    assert store.day[0] == days[0].value // (24 * 3600 * 10**9)


def test_bars_of_seconds_are_refused_in_one_line(tmp_path: Path) -> None:
    times = pd.date_range("2024-03-04 09:30", periods=200, freq="15s")
    text = "\n".join(f"{time:%Y-%m-%d %H:%M:%S},1,3,0.5,2,9" for time in times)
    path = tmp_path / "A.csv"
    path.write_text(f"datetime,open,high,low,close,volume\n{text}\n")
    with pytest.raises(UserError, match="the bars are 15 seconds apart: bars of 1min at least were expected"):
        build(path)


@pytest.mark.slow
@pytest.mark.parametrize(("exchange", "zone"), [("XTKS", "Asia/Tokyo"), ("XASX", "Australia/Sydney")])
def test_utc_minutes_of_any_exchange_are_put_on_its_clock(tmp_path: Path, exchange: str, zone: str) -> None:
    local = sessions(exchange, "2024-06-03", "2024-07-12", "5min", "start")
    utc = local.tz_localize(zone).tz_convert("UTC")
    text = "\n".join(f"{one:%Y-%m-%dT%H:%M:%SZ},1,3,0.5,2,9" for one in utc)
    path = tmp_path / "A.csv"
    path.write_text(f"date,open,high,low,close,volume\n{text}\n")
    store = build(path)
    assert (store.calendar, store.freq, store.label) == (exchange, "5min", "start")
    assert (store.frame()["datetime"].to_numpy() == local.to_numpy()).all()
    assert any(f"converted to {zone}" in note for note in store.source["notes"])
