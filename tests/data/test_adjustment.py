"""Splits: found by ratio, adjusted forward, and not mistaken for moves."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from kronos.data.adjustment import adjust_splits
from kronos.data.bars import PRICES, Flag
from kronos.data.calendars import sessions
from kronos.data.cleaning import clean

CALENDAR = sessions("XNYS", "2020-01-02", "2022-12-30")
MakeBars = Callable[..., pd.DataFrame]


def _split(raw: pd.DataFrame, session: int, ratio: float) -> pd.DataFrame:
    later = raw["datetime"] >= CALENDAR[session]
    raw.loc[later, list(PRICES)] *= ratio
    raw.loc[later, "volume"] /= ratio
    return raw


@pytest.mark.parametrize("ratio", [1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 10, 2, 3, 4, 5, 10])
def test_a_split_is_undone_from_its_bar_on(make_bars: MakeBars, ratio: float) -> None:
    whole = clean(make_bars(40, names=["AAA"]))[0]
    raw = clean(_split(make_bars(40, names=["AAA"]), 25, ratio))[0]
    frame, findings = adjust_splits(raw, CALENDAR)
    columns = [*PRICES, "volume", "amount"]
    np.testing.assert_allclose(frame[columns], whole[columns], rtol=1e-12)
    assert frame["flag"].tolist() == [0] * 25 + [Flag.ADJUSTED] * 15
    assert [(f.kind, f.count, f.items[0][1]) for f in findings] == [("split", 1, f"{CALENDAR[25]:%Y-%m-%d}")]


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


def test_a_big_move_is_kept_and_listed(make_bars: MakeBars) -> None:
    raw = clean(_split(make_bars(40, names=["AAA"]), 25, 0.62))[0]
    frame, findings = adjust_splits(raw, CALENDAR)
    pd.testing.assert_frame_equal(frame, raw)
    assert [(f.kind, f.action, f.count) for f in findings] == [("move over 25 %", "kept", 1)]


def test_a_long_absence_is_never_read_as_a_split(make_bars: MakeBars) -> None:
    raw = _split(make_bars(120, names=["AAA"], missing={"AAA": range(10, 100)}), 60, 0.52)
    frame, findings = adjust_splits(clean(raw)[0], CALENDAR)
    assert frame["flag"].eq(0).all()
    assert "split" not in [f.kind for f in findings]
