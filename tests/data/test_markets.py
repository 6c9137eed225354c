"""The table of markets: boards, limits, costs and sessions per year, by hand and as properties."""

import numpy as np
import pandas as pd
import pytest

from kronos.data import markets
from kronos.data.calendars import sessions
from kronos.utils.errors import UserError


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("SH600000", "main"), ("600000.SH", "main"), ("sh600000", "main"), ("sh.600000", "main"), ("600000", "main"),
        (600000, "main"), ("600000.SS", "main"), ("600000.XSHG", "main"), ("SZ000001", "main"), ("000001", "main"),
        ("000001.XSHE", "main"), ("002594", "main"), ("SH900901", "main"), ("SZ200002", "main"),
        ("SZ300750", "chinext"), ("301001.sz", "chinext"), ("688981", "star"), ("SH689009", "star"),
        ("BJ830799", "beijing"), ("430047", "beijing"), ("920002.BJ", "beijing"), ("871981", "beijing"),
        ("SH510300", "fund"), ("SZ159915", "fund"), ("588000", "star_fund"),
        ("SH000300", "index"), ("SZ399001", "index"),
        ("SH300750", "other"), ("SH600000.SZ", "other"), ("AAPL", "other"), ("00700", "other"), ("BTC-USDT", "other"),
        ("", "other"), ("6000000", "other"), (None, "other"), ("SZ600000", "other"),
    ],
)  # fmt: skip
def test_the_board_is_read_from_a_code_however_it_is_written(code, expected):
    assert markets.board(code) == expected


@pytest.mark.parametrize(
    ("code", "day", "age", "expected"),
    [
        ("600000", "2022-06-01", None, 0.1), ("300750", "2020-08-23", None, 0.1), ("300750", "2020-08-24", None, 0.2),
        ("688981", "2024-01-02", None, 0.2), ("BJ830799", "2024-01-02", None, 0.3),
        ("SH510300", "2024-01-02", 0, 0.1),
        ("688981", "2020-07-22", 4, None), ("688981", "2020-07-23", 5, 0.2), ("BJ830799", "2022-01-04", 0, None),
        ("BJ830799", "2022-01-04", 1, 0.3), ("601001", "2023-03-01", 0, None), ("601001", "2023-03-02", 1, 0.1),
        ("601001", "2023-04-14", 4, None), ("601001", "2023-04-14", 5, 0.1),
        # listed on the Friday before the reform: its second session is not free
        ("300900", "2020-08-24", 1, 0.2), ("300900", "2020-08-24", 0, None), ("300900", "2020-08-28", 4, None),
        ("600000", "1995-01-03", None, None), ("SH000300", "2024-01-02", None, None),
        ("N01", "2024-01-02", None, None),
    ],
)  # fmt: skip
def test_limits_by_hand(code, day, age, expected):
    assert markets.price_limit("XSHG", code, day, age) == expected


@pytest.mark.parametrize("calendar", ["XNYS", "XHKG", "24/7", "weekdays", "XLON", "no such calendar"])
def test_other_markets_have_no_limit(calendar):
    assert markets.price_limit(calendar, "600000", "2024-01-02") is None
    assert np.isinf(markets.price_limits(calendar, ["600000", "AAPL"], ["2024-01-02"])).all()


def test_limits_of_a_table_are_those_of_its_cells():
    codes = ["SH600000", "SZ300750", "688981", "BJ830799", "odd", "159915"]
    days = pd.DatetimeIndex(["1996-12-13", "2020-08-21", "2020-08-24 10:30", "2023-04-11", "2024-01-02"])
    ages = np.random.default_rng(0).integers(0, 8, (len(days), len(codes)))
    for given in (None, ages):
        table = markets.price_limits("XSHG", codes, days, given)
        assert table.shape == (5, 6) and table.dtype == np.float64
        for row, day in enumerate(days):
            for column, code in enumerate(codes):
                age = None if given is None else int(ages[row, column])
                assert table[row, column] == (markets.price_limit("XSHG", code, day, age) or np.inf)
    assert markets.price_limits("XSHG", [], days).shape == (5, 0)


@pytest.mark.parametrize(
    ("calendar", "day", "buy", "sell", "minimum"),
    [
        ("XSHG", "2023-08-27", 0.00026, 0.00126, 5), ("XSHG", "2023-08-28", 0.00026, 0.00076, 5),
        ("XSHG", "1999-01-04", 0.00026, 0.00126, 5), ("XHKG", "2021-07-30", 0.0011, 0.0011, 0),
        ("XHKG", "2021-08-01", 0.0014, 0.0014, 0), ("XHKG", "2023-11-17", 0.0011, 0.0011, 0),
        ("XNYS", "2024-06-03", 0, 0.0000278, 0), ("24/7", "2024-06-03", 0.001, 0.001, 0),
        ("XLON", "2024-06-03", 0.001, 0.001, 0),
    ],
)  # fmt: skip
def test_costs_by_hand(calendar, day, buy, sell, minimum):
    found = markets.costs(calendar, day)
    assert (found.buy, found.sell, found.minimum) == (buy, sell, minimum)


def test_lots_settlement_and_region():
    codes = ("600000", "688981", "N01")
    assert [markets.lot_size("XSHG", code) for code in codes] == [100, 200, None]
    assert [markets.lot_size(name, "A") for name in ("XNYS", "XHKG", "24/7", "other")] == [
        1,
        None,
        None,
        None,
    ]
    assert [markets.settlement(name) for name in ("XSHG", "XNYS", "24/7", "other")] == ["T+1", *["T+0"] * 3]
    assert [markets.qlib_region(name) for name in ("XSHG", "XHKG", "other")] == ["cn", "us", "us"]


def test_every_rule_has_a_source_and_begins_after_the_one_before():
    for own in (*markets.MARKETS.values(), markets.DEFAULT):
        names = dict.fromkeys(one.board for one in own.limits)
        for rules in (own.costs, *([one for one in own.limits if one.board == name] for name in names)):
            days = [pd.Timestamp(one.since) for one in rules]
            assert days == sorted(set(days)) and all(one.source for one in rules)
        assert own.source and own.costs


@pytest.mark.parametrize(
    ("calendar", "low", "high"),
    [("24/7", 365.25, 365.25), ("weekdays", 260.5, 261.5), ("XNYS", 251, 252.5), ("XSHG", 242, 244),
     ("XHKG", 245, 248), ("XSAU", 247, 252)],
)  # fmt: skip
def test_sessions_of_a_year_by_calendar(calendar, low, high):
    assert low <= markets.sessions_per_year(calendar, "2021-03-01", "2024-06-30") <= high


def test_a_year_is_counted_whole_whatever_part_of_it_is_asked_for():
    by_hand = len(sessions("XSHG", "2023-01-01", "2023-12-31")) / 365 * 365.25
    for begin, end in (
        ("2023-01-01", "2023-12-31"),
        ("2023-10-01", "2023-10-08"),
        ("2023-05-05", "2023-05-05"),
    ):
        assert markets.sessions_per_year("XSHG", begin, end) == pytest.approx(by_hand)
    # beyond the records: the last whole year that is known, not weekdays
    assert markets.sessions_per_year("XSHG", "2090-01-01", "2091-01-01") < 247
    assert markets.sessions_per_year("XSHG", "1980-01-01", "1985-01-01") > 0


@pytest.mark.parametrize("label", ["end", "start"])
def test_bars_of_a_year_within_a_day(label):
    count = markets.sessions_per_year
    assert count("24/7", "2023-01-01", "2023-12-31", "60min", label) == pytest.approx(24 * 365.25)
    assert count("weekdays", "2023-01-01", "2023-12-31", "60min", label) == pytest.approx(6261, abs=25)
    days = count("XSHG", "2023-02-01", "2023-05-01")
    assert count("XSHG", "2023-02-01", "2023-05-01", "60min", label) == pytest.approx(4 * days)
    assert count("XSHG", "2023-02-01", "2023-05-01", "1min", label) == pytest.approx(240 * days)


def test_an_unknown_calendar_has_no_year():
    with pytest.raises(UserError, match="no calendar 'XXXX'"):
        markets.sessions_per_year("XXXX", "2024-01-01", "2024-12-31")


def test_a_description_names_the_rules_of_its_days_and_no_others():
    limits, costs, settled, year = markets.describe("XSHG", "2019-08-01", "2020-06-30")
    assert "chinext 10%" in limits and "chinext 20%" not in limits and "beijing" not in limits
    assert "star 20% from 2019-07-22 (SSE STAR Market special rules 2019)" in limits
    assert "selling 0.1260%" in costs and "0.0760%" not in costs
    assert settled.startswith("settlement T+1") and "over 2019 to 2020" in year
    both = markets.describe("XSHG", "2020-01-01", "2024-06-30")
    assert "chinext 10%" in both[0] and "chinext 20%" in both[0]
    assert "0.1260%" in both[1] and "0.0760%" in both[1]
    for calendar in ("XNYS", "XHKG", "24/7", "weekdays", "XLON"):
        lines = markets.describe(calendar, "2023-01-01", "2023-12-31")
        assert 2 <= len(lines) <= 5 and "price limits none" in lines[0]
