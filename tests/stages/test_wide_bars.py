"""Bars as wide frames: who is a member through a suspension, and what its return on resumption does."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import Flag
from kronos.evaluation.signals import equal_weight_returns
from kronos.stages.inputs import wide_bars

DAYS = 12


def stored(rows: dict[str, dict[int, tuple[float, int]]]) -> SimpleNamespace:
    """The part of a bar store that is read: instrument -> session -> (price, flag)."""
    names = tuple(rows)
    table = [(place, day, *bar) for place, name in enumerate(names) for day, bar in rows[name].items()]
    instrument, session, price, flags = (np.array(column) for column in zip(*table, strict=True))
    return SimpleNamespace(
        instruments=names, instrument_of_row=instrument, session=session, flags=flags.astype(np.uint8),
        values=np.repeat(price.astype(np.float32)[:, None], 6, axis=1), last_session=DAYS - 1,
        sessions=pd.bdate_range("2024-01-01", periods=DAYS).to_numpy("datetime64[ns]").astype(np.int64), source={},
    )  # fmt: skip


def test_a_member_that_reopens_lower_moves_the_equal_weight_by_its_share():
    steady = {day: (10.0, 0) for day in range(DAYS)}
    halted = {day: (10.0 if day < 2 else 5.75, 0) for day in (0, 1, 10, 11)}  # away for eight sessions
    bars = wide_bars(stored({"A": steady, "B": steady, "C": halted}), 0)
    assert bars["member"]["C"].all()
    found = equal_weight_returns(bars["close"], bars["member"])
    assert found.iloc[10] == pytest.approx(-0.425 / 3) and found.iloc[2:10].abs().max() == 0


def test_a_name_is_no_member_after_its_last_bar_nor_where_its_bars_say_so():
    outside = int(Flag.NONMEMBER)
    steady = {day: (10.0, 0) for day in range(DAYS)}
    left = {day: (10.0, 0 if day < 4 else outside) for day in (0, 1, 2, 3, 6, 7, 11)}
    gone = {day: (10.0, 0) for day in range(5)}
    late = {day: (10.0, 0) for day in range(6, DAYS)}
    member = wide_bars(stored({"A": steady, "LEFT": left, "GONE": gone, "LATE": late}), 0)["member"]
    assert (
        member["LEFT"].tolist() == [True] * 6 + [False] * 6
    )  # the day on which it left is known by its next bar
    assert member["GONE"].tolist() == [True] * 5 + [False] * 7
    assert member["LATE"].tolist() == [False] * 6 + [True] * 6
