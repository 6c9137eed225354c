"""A tear sheet agrees with months, drawdowns and capacities worked out by hand, and with pandas' own formulas."""

import numpy as np
import pandas as pd
import pytest

from kronos.evaluation.tear_sheet import NOT_YET, drawdowns, rolling, tear_sheet, underwater


def ledger(net: pd.Series, cost: float = 0.001) -> pd.DataFrame:
    """The ledger of a portfolio with these returns after costs, and a benchmark that stands still."""
    frame = pd.DataFrame({"return": net + cost, "cost": cost, "turnover": 0.1, "bench": 0.0})
    return frame.assign(account=1000 * net.add(1).cumprod())


def series(values: list[float], first: str = "2024-01-01") -> pd.Series:
    return pd.Series(values, pd.bdate_range(first, periods=len(values), name="datetime"))


def walk(days: int, seed: int) -> pd.Series:
    return series(list(np.random.default_rng(seed).normal(0.0002, 0.01, days)), "2020-03-05")


NO_TRADES = pd.DataFrame({"datetime": pd.DatetimeIndex([]), "instrument": [], "value": np.zeros(0)})


def test_months_and_years_are_compounded_and_a_month_without_a_session_is_empty() -> None:
    days = pd.DatetimeIndex(["2023-11-29", "2023-11-30", "2023-12-01", "2024-02-01", "2024-02-02"])
    daily = ledger(pd.Series([0.1, 0.1, -0.5, 0.2, -0.25], days)).assign(
        bench=[0.0, 0.5, 0.1, 0.0, 0.2], turnover=[0.2, 0.4, 0.1, 0.0, 0.5]
    )
    found = tear_sheet(daily, NO_TRADES, pd.DataFrame(index=days, columns=["A"], dtype=float), 252, 20)
    months = found.monthly
    assert list(months.index) == [2023, 2024] and list(months.columns) == [
        *range(1, 13),
        "whole",
        "benchmark",
    ]
    assert months.loc[2023, 11] == pytest.approx(0.21) and months.loc[2023, 12] == pytest.approx(-0.5)
    assert months.loc[2024, 2] == pytest.approx(1.2 * 0.75 - 1)
    assert months.loc[2023, "whole"] == pytest.approx(1.21 * 0.5 - 1)
    assert list(months["benchmark"]) == pytest.approx([0.65, 0.2])
    assert months[range(1, 13)].notna().sum().sum() == 3
    assert found.turnover.loc[2023, 11] == pytest.approx(0.3) and found.turnover.loc[2024, 2] == 0.25
    assert found.turnover.loc[2023, "whole"] == pytest.approx(0.7 / 3)
    assert found.window == 0 and found.rolling.isna().all(axis=None) and found.capacity.empty


def test_the_months_of_a_walk_make_the_whole_return() -> None:
    daily = ledger(walk(700, 3))
    months = tear_sheet(daily, NO_TRADES, daily[["bench"]], 252, 20).monthly
    whole = daily["account"].iloc[-1] / 1000
    assert months[range(1, 13)].add(1).prod(axis=None) == pytest.approx(whole)
    assert months["whole"].add(1).prod() == pytest.approx(whole)


def test_drawdowns_by_hand_the_worst_first_with_a_loss_on_the_first_day_and_one_that_lasts() -> None:
    # the account: 0.9, 1.0 (back at the start), 1.25, 1.0, 0.75, 1.0, 1.5, 1.2
    account = np.array([1.0, 0.9, 1.0, 1.25, 1.0, 0.75, 1.0, 1.5, 1.2])
    net = series(list(account[1:] / account[:-1] - 1))
    found = drawdowns(net)
    assert found[["start", "trough", "recovered"]].to_numpy().tolist() == [
        ["2024-01-04", "2024-01-05", "2024-01-09"],
        ["2024-01-10", "2024-01-10", NOT_YET],
        ["2024-01-01", "2024-01-01", "2024-01-02"],
    ]
    assert list(found["depth"]) == pytest.approx([-0.4, -0.2, -0.1])
    assert list(found["sessions"]) == [3, 1, 1]
    assert list(drawdowns(net, most=1)["depth"]) == pytest.approx([-0.4])
    assert drawdowns(series([0.1, 0.0, 0.2])).empty


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_drawdown_of_a_walk_is_its_largest_fall_and_spells_do_not_overlap(seed: int) -> None:
    net = walk(400, seed)
    account = np.concatenate([[1.0], net.add(1).cumprod()])
    falls = account / np.maximum.accumulate(account) - 1
    np.testing.assert_allclose(underwater(net), falls[1:], atol=1e-15)
    every = drawdowns(net, most=400)
    assert every["depth"].iloc[0] == pytest.approx(falls.min())
    assert every["depth"].is_monotonic_increasing and len(drawdowns(net)) == min(5, len(every))
    assert every["sessions"].sum() == (falls < 0).sum()
    places = {f"{day:%Y-%m-%d}": place for place, day in enumerate(net.index)} | {NOT_YET: len(net)}
    for row in every.itertuples():
        assert places[row.recovered] - places[row.start] == row.sessions
        assert falls[places[row.trough] + 1] == pytest.approx(row.depth)
    ordered = every.sort_values("start")
    assert (ordered["recovered"].iloc[:-1].to_numpy() <= ordered["start"].iloc[1:].to_numpy()).all()


@pytest.mark.parametrize(
    ("year", "days", "window"), [(251.6, 300, 63), (251.6, 57, 28), (52, 300, 13), (252 * 48, 400, 200)]
)
def test_rolling_figures_are_those_of_each_window_alone(year: float, days: int, window: int) -> None:
    daily = ledger(walk(days, 1))
    found = tear_sheet(daily, NO_TRADES, daily[["bench"]], year, 20)
    net = daily["return"] - daily["cost"]
    assert found.window == window and found.rolling["sharpe"].first_valid_index() == net.index[window - 1]
    for end in (window, window + 7, days):
        part = net.iloc[end - window : end].to_numpy()
        row = found.rolling.iloc[end - 1]
        assert row["volatility"] == pytest.approx(part.std(ddof=1) * year**0.5)
        assert row["sharpe"] == pytest.approx(part.mean() / part.std(ddof=1) * year**0.5)


def test_a_window_without_a_move_has_no_sharpe_ratio_and_no_volatility() -> None:
    net = series([0.3, -0.1, *[0.001] * 8, 0.2])
    found = rolling(net, 5, 252)
    assert found["sharpe"].isna().to_numpy().nonzero()[0].tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert (found["volatility"].iloc[6:10] == 0).all() and found["volatility"].iloc[10] > 0


def test_capacity_is_the_account_at_which_an_order_is_that_share_of_the_money_known_before_it() -> None:
    net = series([0.0, 0.5, 0.0, 0.0], "2024-01-04")
    days = pd.bdate_range("2024-01-01", periods=7)
    money = pd.DataFrame(
        {"A": [1e9, 1000, 3000, 9e9, 9e9, 9e9, 9e9], "B": [np.nan, 5e4, np.nan, 5e4, 5e4, 5e4, 5e4], "C": 0.0},
        days,
    )  # fmt: skip
    trades = pd.DataFrame(
        [
            (days[3], "A", 100.0),  # a tenth of the account of 1000; mean of the two bars before: 2000
            (days[3], "B", 500.0),  # half of it; a bar is missing: 50,000
            (days[6], "B", 150.0),  # a tenth of the account of 1500
            (days[4], "C", 1.0),  # no traded money
        ],
        columns=["datetime", "instrument", "value"],
    )
    found = tear_sheet(ledger(net), trades, money, 252, 2)
    # the orders are all that is traded in an account of 20,000, 100,000 and 500,000
    assert list(found.capacity["largest"]) == pytest.approx([200, 1000, 2000])
    assert list(found.capacity["median"]) == pytest.approx([1000, 5000, 10_000])
    assert list(found.capacity["participation"]) == [0.01, 0.05, 0.1]
    assert set(found.capacity["instrument"]) == {"A"} and set(found.capacity["session"]) == {"2024-01-04"}
    assert found.unmeasured == 1
