"""Adjustment: on evidence alone, forward, and what looks like a split without being listed as one is named."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.data.adjustment import RATIOS, TOLERANCES, adjust_by_factor, adjust_splits, suspected_splits
from kronos.data.bars import PRICES, Flag, to_frame
from kronos.data.calendars import sessions
from kronos.data.cleaning import clean
from kronos.data.sources.base import BaseDataProcessor
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

CALENDAR = sessions("XNYS", "2020-01-02", "2022-12-30")
MakeBars = Callable[..., pd.DataFrame]
Build = Callable[..., BarStore]


def _split(raw: pd.DataFrame, session: int, ratio: float) -> pd.DataFrame:
    later = raw["datetime"] >= CALENDAR[session]
    raw.loc[later, list(PRICES)] *= ratio
    raw.loc[later, "volume"] /= ratio
    return raw


def _calm(days: int = 40) -> pd.DataFrame:
    """Bars that barely move around 100, so that a jump is exactly the one that a test makes."""
    close = 100 + 0.1 * (np.arange(days) % 3)
    opening = np.append(100.0, close[:-1])
    bars = {
        "open": opening,
        "high": np.maximum(opening, close) + 0.1,
        "low": np.minimum(opening, close) - 0.1,
    }
    frame = pd.DataFrame({"instrument": "AAA", "datetime": CALENDAR[:days], **bars, "close": close})
    return frame.assign(volume=1000.0 + 7 * np.arange(days))


@pytest.fixture
def build(tmp_path: Path, settings: Any) -> Build:
    """Build a store from a table, as a source without any rule of its own does."""

    def built(raw: pd.DataFrame, adjust: str = "auto", name: str = "store") -> BarStore:
        class Given(BaseDataProcessor):
            calendar = "XNYS"

            def process_raw_data(self) -> pd.DataFrame:
                return raw

        config = vars(settings(str(tmp_path / name), dataset_end_time=pd.Timestamp("2022-12-30")))
        return Given(SimpleNamespace(**config, adjust=adjust)).run_pipeline()

    return built


def _kinds(store: BarStore) -> dict[str, int]:
    return {one["kind"]: one["count"] for one in store.findings}


def _items(store: BarStore, kind: str) -> list[list[str]]:
    (found,) = [one["items"] for one in store.findings if one["kind"] == kind]
    return list(found)


JUMPS = {
    "a crash of 53 %": (0.47, "11 for 5"),
    "a takeover at +99 %": (1.99, "1 for 2"),
    "a reopening at 0.66": (0.66, "3 for 2"),
}


@pytest.mark.parametrize("case", JUMPS.values(), ids=JUMPS.keys())
def test_a_jump_without_evidence_is_stored_as_it_came_and_listed(
    build: Build, case: tuple[float, str]
) -> None:
    ratio, near = case
    raw = _calm()
    raw.loc[25:, list(PRICES)] *= ratio
    if ratio == 0.66:
        raw = raw.drop(index=range(10, 25))
    store = build(raw)
    frame = store.frame(["close", "flag"]).query("flag == 0").set_index("datetime")["close"]
    np.testing.assert_allclose(frame, raw["close"], rtol=1e-6)
    assert not (store.flags & Flag.ADJUSTED).any()
    ((name, day, text),) = _items(store, "suspected split")
    assert (name, day) == ("AAA", f"{CALENDAR[25]:%Y-%m-%d}")
    assert f"near {near}; volume" in text and "not reversed within 5 bars" in text


def test_one_bad_opening_print_changes_nothing_whatever_is_asked(build: Build) -> None:
    raw = _calm()
    raw.loc[25, "open"] = raw.loc[25, "low"] = raw.loc[24, "close"] / 2
    for adjust in ("auto", "splits"):
        store = build(raw, adjust, adjust)
        np.testing.assert_allclose(store.values[:, :4], raw[[*PRICES]], rtol=1e-6)
        assert not store.flags.any() and _kinds(store) == {"suspected split": 1}
        text = _items(store, "suspected split")[0][2]
        assert text == (
            "open, high, low, close / previous close = 0.500, 1.002, 0.500, 1.001, near 2 for 1; "
            "volume 1.1 x the mean of the 20 before; reversed by the close"
        )


def test_the_text_of_a_suspect_tells_the_days_and_how_far_the_bars_go(build: Build) -> None:
    raw = _calm()
    raw.loc[25:, list(PRICES)] *= 0.5
    raw.loc[28:, list(PRICES)] *= 2
    first, back = _items(build(raw.drop(index=24)), "suspected split")
    assert first[2].endswith("; reversed within 5 bars, over 2 sessions")
    assert "near 1 for 2" in back[2] and back[2].endswith("not reversed within 5 bars")
    (last,) = _items(build(raw.iloc[:27], name="short"), "suspected split")
    assert last[2].endswith("not reversed within 5 bars so far")


def test_later_bars_change_neither_an_adjusted_bar_nor_which_ones_are_suspected(build: Build) -> None:
    raw = _calm()
    raw.loc[20:, list(PRICES)] *= 2 / 3
    raw.loc[30:, list(PRICES)] *= 1.3
    for adjust in ("auto", "splits"):
        whole, part = build(raw, adjust, f"{adjust} 1"), build(raw.iloc[:28], adjust, f"{adjust} 2")
        np.testing.assert_array_equal(whole.values[:28], part.values)
        np.testing.assert_array_equal(whole.flags[:28], part.flags)
        kind = "split" if adjust == "splits" else "suspected split"
        assert _items(whole, kind)[0] == _items(part, kind)[0]


def test_a_price_fits_one_ratio_at_most() -> None:
    edges = np.sort(np.append(np.log(RATIOS) - TOLERANCES, np.log(RATIOS) + TOLERANCES)).reshape(-1, 2)
    np.testing.assert_allclose(edges.mean(1), np.log(RATIOS))
    assert (np.abs(np.log(RATIOS)) > 2 * TOLERANCES).all(), "nor is no split at all one"


WHOLE = [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20]


@pytest.mark.parametrize(
    "ratio",
    [*(1 / np.array(WHOLE)), *WHOLE, 2 / 3, 4 / 5, 3 / 2, 5 / 4, *(10 / np.array([13, 15, 18, 22, 25]))],
)
def test_a_split_that_is_asked_for_is_undone_from_its_bar_on(ratio: float) -> None:
    whole = clean(_calm())[0]
    raw = clean(_split(_calm(), 25, ratio))[0]
    frame, findings = adjust_splits(raw, CALENDAR)
    columns = [*PRICES, "volume", "amount"]
    np.testing.assert_allclose(frame[columns], whole[columns], rtol=1e-12)
    assert frame["flag"].tolist() == [0] * 25 + [Flag.ADJUSTED] * 15
    assert [(f.kind, f.count, f.items[0][1]) for f in findings] == [("split", 1, f"{CALENDAR[25]:%Y-%m-%d}")]


@pytest.mark.parametrize("missing", [1, 5, 20])
def test_the_tolerance_is_the_same_after_missing_bars(missing: int) -> None:
    raw = _calm()
    raw.loc[25:, list(PRICES)] *= 0.25 * np.exp(0.06)
    frame, _ = adjust_splits(clean(raw.drop(index=range(25 - missing, 25)))[0], CALENDAR)
    assert frame["flag"].eq(0).all()


def test_two_splits_add_up_and_other_instruments_stay(make_bars: MakeBars) -> None:
    whole = clean(make_bars(40))[0]
    raw = make_bars(40)
    first = _split(_split(raw[raw["instrument"] == "AAA"].copy(), 10, 0.5), 30, 1 / 3)
    frame, findings = adjust_splits(clean(pd.concat([first, raw[raw["instrument"] == "BBB"]]))[0], CALENDAR)
    np.testing.assert_allclose(frame[[*PRICES]], whole[[*PRICES]], rtol=1e-12)
    assert frame.loc[frame["instrument"] == "BBB", "flag"].eq(0).all()
    assert findings[0].count == 2


def test_bars_before_a_split_are_untouched_bit_for_bit(make_bars: MakeBars) -> None:
    raw = clean(_split(make_bars(40, names=["AAA"]), 25, 0.5))[0]
    frame, _ = adjust_splits(raw, CALENDAR)
    pd.testing.assert_frame_equal(frame.iloc[:25], raw.iloc[:25], check_exact=True)


def test_a_big_move_is_kept_and_listed() -> None:
    raw = clean(_split(_calm(), 25, 0.615))[0]
    frame, findings = adjust_splits(raw, CALENDAR)
    pd.testing.assert_frame_equal(frame, raw)
    assert [(f.kind, f.action, f.count) for f in findings] == [("move over 25 %", "kept", 1)]


def test_a_long_absence_is_never_read_as_a_split(make_bars: MakeBars) -> None:
    raw = _split(make_bars(120, names=["AAA"], missing={"AAA": range(10, 100)}), 60, 0.52)
    frame, findings = adjust_splits(clean(raw)[0], CALENDAR)
    assert frame["flag"].eq(0).all()
    assert not {"split", "suspected split"} & {f.kind for f in findings}


SPELLED = ["split", "Stock Splits", "splitFactor", "split_ratio"]


@pytest.mark.parametrize("name", SPELLED)
@pytest.mark.parametrize("none", [0.0, 1.0, np.nan])
def test_a_column_of_splits_adjusts_from_its_day_on(build: Build, name: str, none: float) -> None:
    raw = _split(_split(_calm(), 15, 1 / 3), 25, 10)
    column = np.full(40, none)
    column[15], column[25] = 3, 0.1
    store = build(raw.assign(**{name: column}))
    np.testing.assert_allclose(store.values[:, :5], _calm()[[*PRICES, "volume"]], rtol=1e-6)
    assert store.flags.tolist() == [0] * 15 + [int(Flag.ADJUSTED)] * 25
    assert _kinds(store) == {"split": 2}
    assert [item[2].rpartition(", ")[2] for item in _items(store, "split")] == [
        "listed as 3 for 1",
        "listed as 1 for 10",
    ]


@pytest.mark.parametrize("none", [0.0, 1.0, np.nan])
def test_a_column_of_splits_without_a_split_changes_nothing(build: Build, none: float) -> None:
    store = build(_calm().assign(split=none))
    np.testing.assert_array_equal(store.values, build(_calm(), name="other").values)
    assert store.findings == [] and not store.flags.any()


def test_a_split_whose_own_bar_is_missing_is_adjusted_from_the_next_one_on(build: Build) -> None:
    raw = _split(_calm(), 25, 0.5).assign(split=0.0)
    raw.loc[25, ["split", "close"]] = [2.0, np.nan]
    store = build(raw)
    assert store.flags.tolist() == [0] * 25 + [int(Flag.FILLED)] + [int(Flag.ADJUSTED)] * 14
    np.testing.assert_allclose(store.values[26:, 3], _calm()["close"][26:], rtol=1e-6)


def test_a_listed_split_that_prices_already_hold_is_left_and_said(build: Build) -> None:
    store = build(_calm().assign(split=np.where(np.arange(40) == 25, 4.0, 0.0)))
    assert not store.flags.any() and _kinds(store) == {"listed split that prices already hold": 1}
    np.testing.assert_allclose(store.values[:, 3], _calm()["close"], rtol=1e-6)


def test_bars_within_a_day_may_all_name_the_days_split() -> None:
    times = sessions("XNYS", "2020-01-02", "2020-01-06", "60min")
    raw = pd.DataFrame({name: 100.0 for name in PRICES}, index=range(len(times))).assign(
        instrument="AAA", datetime=times, volume=1.0, split=np.where(times.day == 3, 2.0, 0.0)
    )
    so_far = to_frame(raw)["split_so_far"].groupby(times.day).unique()
    assert so_far.map(list).to_dict() == {2: [1.0], 3: [2.0], 6: [2.0]}


@pytest.mark.parametrize("value", [-2.0, np.inf])
def test_a_split_that_is_no_number_of_shares_is_refused(value: float) -> None:
    raw = _calm().assign(split=np.where(np.arange(40) == 25, value, 0.0))
    with pytest.raises(UserError, match=r"column split has -?(2|inf) for AAA at 2020-02-07: the new shares"):
        clean(raw)


def test_adjust_none_keeps_prices_beside_any_evidence_and_lists_the_jump(build: Build) -> None:
    raw = _split(_calm(), 25, 0.5).assign(split=np.where(np.arange(40) == 25, 2.0, 0.0))
    store = build(raw.assign(adj_close=_calm()["close"]), "none")
    np.testing.assert_allclose(store.values[:, 3], raw["close"], rtol=1e-6)
    assert _kinds(store) == {"suspected split": 1, "move over 25 %": 1}


def _dividends(days: int, every: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Bars around 20 with a dividend of 1 % at every `every`-th bar: true adjusted closes and their factor."""
    generator = np.random.default_rng(5)
    times = sessions("XNYS", "2012-01-03", "2022-12-30")[:days]
    close = np.round(20 * np.exp(np.cumsum(generator.normal(0, 0.01, days)) * 0.2), 2)
    paid = (np.arange(days) % every == 0) & (np.arange(days) > 0)
    factor = np.cumprod(np.where(paid, 1 / 0.99, 1.0))
    factor /= factor[-1]
    bars = {name: close for name in PRICES}
    frame = pd.DataFrame({"instrument": "AAA", "datetime": times, **bars, "volume": 1e6 + np.arange(days)})
    return frame.assign(flag=np.uint8(0)), factor


@pytest.mark.parametrize("decimals", [2, 4, 12])
def test_rounded_adjusted_closes_change_the_factor_at_the_dividends_alone(decimals: int) -> None:
    frame, factor = _dividends(2000, 57)
    rounded = frame.assign(adj_close=np.round(frame["close"] * factor, decimals))
    result, (found,) = adjust_by_factor(rounded)
    paid = [f"{day:%Y-%m-%d}" for day in frame["datetime"][57::57]]
    assert found.count == 35 and [day for _, day, _ in found.items] == paid
    np.testing.assert_allclose(result["close"], frame["close"] * factor / factor[0], rtol=1.5e-3)
    assert not {"adj_close", "factor"} & set(result.columns)


def test_suspects_of_adjusted_prices_are_those_that_the_factor_does_not_explain() -> None:
    raw = _split(_calm(), 25, 0.5).assign(flag=np.uint8(0))
    raw.loc[32:, list(PRICES)] *= 0.5
    factor = np.where(np.arange(40) < 25, 0.5, 1.0)
    frame, _ = adjust_by_factor(raw.assign(adj_close=raw["close"] * factor))
    (found,) = suspected_splits(frame, CALENDAR)
    assert [day for _, day, _ in found.items] == [f"{CALENDAR[32]:%Y-%m-%d}"]
