"""Cleaning and aligning: each rule, on bars where the answer is known."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import ALIASES, FEATURES, MAX_FILL, SPELLINGS, Flag, align, rename_aliases, to_frame
from kronos.data.calendars import sessions
from kronos.data.cleaning import clean
from kronos.utils.errors import UserError

MakeBars = Callable[..., pd.DataFrame]


def test_guides_names_are_taken_and_order_does_not_matter(make_bars: MakeBars) -> None:
    raw = make_bars(20)
    raw["amount"] = raw["volume"] * 2
    expected, _ = clean(raw)
    other = raw.rename(columns={"volume": "vol", "amount": "amt", "instrument": "symbol", "datetime": "date"})
    shuffled, _ = clean(other.sample(frac=1, random_state=1).assign(date=lambda f: f["date"].astype(str)))
    pd.testing.assert_frame_equal(shuffled, expected)


def test_missing_amount_is_volume_times_mean_price(make_bars: MakeBars) -> None:
    frame, findings = clean(make_bars(10))
    expected = frame["volume"] * frame[["open", "high", "low", "close"]].mean(axis=1)
    np.testing.assert_allclose(frame["amount"], expected, rtol=1e-12)
    assert not findings


def test_bars_without_volume_have_volume_zero(make_bars: MakeBars) -> None:
    frame, _ = clean(make_bars(5).drop(columns="volume"))
    assert (frame[["volume", "amount"]] == 0).all(axis=None)


def test_small_contradiction_is_widened_and_a_large_one_dropped(make_bars: MakeBars) -> None:
    raw = make_bars(10, names=["AAA"])
    raw.loc[2, "high"] = max(raw.loc[2, "open"], raw.loc[2, "close"]) / 1.04
    raw.loc[4, "low"] = min(raw.loc[4, "open"], raw.loc[4, "close"]) * 1.06
    raw.loc[6, ["high", "low"]] = raw.loc[6, ["low", "high"]].to_numpy()
    frame, findings = clean(raw)
    counts = {finding.kind: finding.count for finding in findings}
    assert "by more than 5 %" in " ".join(counts)
    body = frame[["open", "close"]]
    assert (frame["high"] >= body.max(axis=1)).all() and (frame["low"] <= body.min(axis=1)).all()
    day = raw.loc[2, "datetime"]
    assert frame.loc[frame["datetime"] == day, "flag"].item() == Flag.REPAIRED
    assert (
        frame.loc[frame["datetime"] == day, "high"].item()
        == body[frame["datetime"] == day].max(axis=1).item()
    )
    assert raw.loc[4, "datetime"] not in set(frame["datetime"])
    assert sum(counts.values()) + (frame["flag"] == 0).sum() == 10


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("close", np.nan, "missing value"),
        ("volume", np.inf, "infinite value"),
        ("open", 0.0, "price not positive"),
        ("low", -1.0, "price not positive"),
        ("volume", -5.0, "volume negative"),
    ],
)
def test_impossible_bar_becomes_a_hole_and_is_named(
    make_bars: MakeBars, column: str, value: float, kind: str
) -> None:
    raw = make_bars(8, names=["AAA"])
    raw.loc[3, column] = value
    frame, findings = clean(raw)
    assert len(frame) == 7
    assert [(f.kind, f.count, f.items[0][:2]) for f in findings] == [(kind, 1, ("AAA", "2020-01-07"))]


def test_repeated_bar_is_dropped_and_the_first_kept(make_bars: MakeBars) -> None:
    raw = make_bars(8, names=["AAA"])
    again = raw.iloc[[5]].assign(close=lambda f: f["close"] * 1.001)
    frame, findings = clean(pd.concat([raw, again]))
    assert frame["close"].iloc[5] == raw["close"].iloc[5]
    assert [(f.kind, f.count) for f in findings] == [
        ("bar earlier than the one before it", 1),
        ("repeated bar", 1),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns=["high", "low"]), "bars lack high, low: the columns are instrument"),
        (lambda f: f.assign(datetime=20200102), "column datetime holds numbers"),
        (lambda f: f.assign(datetime="soon"), "column datetime has a value that is not a time"),
        (lambda f: f.assign(datetime=pd.NaT), "column datetime is empty in 6 of 6 bars"),
        (lambda f: f.assign(close="n/a"), "column close has a value that is not a number"),
        (lambda f: None, "bars must come as a pandas DataFrame, got NoneType"),
    ],
)
def test_what_is_no_bar_frame_is_refused_in_words(
    make_bars: MakeBars, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        to_frame(change(make_bars(3)))


def _aligned(raw: pd.DataFrame) -> pd.DataFrame:
    return align(clean(raw)[0], sessions("XNYS", "2020-01-02", "2020-12-31"))


def test_three_missing_sessions_are_filled_flat_and_a_fourth_cuts(make_bars: MakeBars) -> None:
    missing = {"AAA": [5, 6, 7], "BBB": [5, 6, 7, 8]}
    frame = _aligned(make_bars(20, missing=missing))
    for name, cut in (("AAA", False), ("BBB", True)):
        part = frame[frame["instrument"] == name].set_index("session")
        filled = part.loc[[5, 6, 7]]
        assert (filled["flag"] == int(Flag.FILLED)).all()
        assert (filled[["open", "high", "low", "close"]] == part.loc[4, "close"]).all(axis=None)
        assert (filled[["volume", "amount"]] == 0).all(axis=None)
        assert (8 not in part.index) == cut
        assert part.drop(index=[5, 6, 7])["flag"].eq(0).all()


def test_filling_does_not_look_whether_the_bar_comes_back(make_bars: MakeBars) -> None:
    gone = _aligned(make_bars(20, missing={"AAA": range(10, 20)}))
    back = _aligned(make_bars(20, missing={"AAA": range(10, 18)}))
    until = 13
    pd.testing.assert_frame_equal(
        gone[(gone["instrument"] == "AAA") & (gone["session"] < until)],
        back[(back["instrument"] == "AAA") & (back["session"] < until)],
    )
    assert gone[gone["instrument"] == "AAA"]["session"].max() == 9 + MAX_FILL


def test_nothing_is_filled_past_the_last_session_of_the_data(make_bars: MakeBars) -> None:
    frame = _aligned(make_bars(20, missing={"AAA": [19]}))
    assert frame["session"].max() == 19
    assert frame[frame["instrument"] == "AAA"]["session"].tolist() == list(range(20))


def test_a_bar_on_a_holiday_is_refused_with_its_day(make_bars: MakeBars) -> None:
    raw = make_bars(5)
    raw.loc[0, "datetime"] = pd.Timestamp("2020-01-20")
    with pytest.raises(
        UserError, match="AAA has a bar at 2020-01-20, which is not a session of the calendar"
    ):
        _aligned(raw)


def test_aligned_frame_has_every_feature_finite(make_bars: MakeBars) -> None:
    frame = _aligned(make_bars(30, missing={"AAA": [3, 9, 10, 11, 12, 13]}))
    assert np.isfinite(frame[list(FEATURES)].to_numpy()).all()
    assert not frame.duplicated(["instrument", "session"]).any()


def test_aliases_are_renamed_where_the_column_itself_is_not_there(make_bars: MakeBars) -> None:
    one = make_bars(3)
    guide = one.rename(columns={"volume": "vol", "datetime": "timestamps", "instrument": "symbol"})
    assert list(rename_aliases(guide).columns) == list(one.columns)
    both = guide.assign(date="a note", volume=1.0)
    assert list(rename_aliases(both).columns) == [
        "instrument", "timestamps", "open", "high", "low", "close", "vol", "datetime", "volume"
    ]  # fmt: skip


def test_every_alias_is_a_spelling_of_the_same_column() -> None:
    assert all(alias in SPELLINGS[name] for alias, name in ALIASES.items())
    assert set(FEATURES) < set(SPELLINGS)


def _quiet(volume: float, spread: float, before: int = 60, length: int = 30) -> pd.DataFrame:
    """Minutes that differ, then `length` equal ones with a volume and a high above the low by `spread`."""
    times = sessions("XSHG", "2024-06-03", "2024-06-03", "1min")[: before + length]
    generator = np.random.default_rng(1)
    close = 10 + 0.01 * generator.integers(-5, 6, len(times))
    lots = 100.0 * generator.integers(1, 90, len(times))
    frame = pd.DataFrame({"instrument": "SH600519", "datetime": times, "open": close, "high": close + 0.01,
                          "low": close, "close": close, "volume": lots})  # fmt: skip
    quiet = np.arange(len(times)) >= before
    frame.loc[quiet, ["open", "low", "close"]] = 10.0
    frame.loc[quiet, ["high", "volume"]] = [10.0 + spread, volume]
    return frame


def test_thirty_one_lot_minutes_at_one_price_are_thirty_bars() -> None:
    for before in (0, 60):
        raw = _quiet(100, 0.0, before)
        frame, (found,) = clean(raw, "1min")
        pd.testing.assert_frame_equal(frame[list(raw)], raw)
        assert (found.kind, found.action, found.count) == (
            "the same bar 5 times or more in a row, of one price or with a common volume", "kept", 26
        )  # fmt: skip


def test_a_feed_that_stands_still_within_a_day_is_cut_by_its_volume_of_many_lots() -> None:
    raw = _quiet(123_457, 0.01)
    frame, (found,) = clean(raw, "1min")
    pd.testing.assert_frame_equal(frame[list(raw)], raw.iloc[:64])
    assert (found.kind, found.count) == ("the same bar 5 times or more in a row", 26)
    common = raw.copy()
    common.loc[::20, "volume"] = 123_457.0
    assert len(clean(common, "1min")[0]) == 90, "3 of 60 bars before had that volume"
    assert len(clean(raw.iloc[51:], "1min")[0]) == 39, "nine bars before do not tell"
    assert len(clean(raw.assign(amount=np.arange(90.0) + 1), "1min")[0]) == 90, (
        "amounts that differ are trades"
    )


def test_later_bars_do_not_decide_whether_a_feed_stood_still() -> None:
    raw = _quiet(123_457, 0.01)
    whole = clean(raw, "1min")[0]
    for end in range(60, 90):
        part = clean(raw.iloc[:end], "1min")[0]
        pd.testing.assert_frame_equal(part, whole.iloc[: len(part)])
