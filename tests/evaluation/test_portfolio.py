"""Risk figures against Qlib's own, and the excess over what costs nothing."""

import numpy as np
import pandas as pd
import pytest

from kronos.evaluation import portfolio


def make_daily(days: int = 200, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    index = pd.bdate_range("2024-01-01", periods=days, name="datetime")
    common = random.normal(0, 0.01, days)
    return pd.DataFrame(
        {"return": common + 0.002, "cost": 0.0005, "bench": common, "bench_cost": 0.0001}, index
    )


def test_figures_of_qlibs_year_equal_its_risk_analysis_but_for_an_early_fall():
    from qlib.contrib.evaluate import risk_analysis

    daily = make_daily()
    for values in (daily["return"], daily["bench"], daily["return"] - daily["cost"] - 0.003):
        expected = risk_analysis(values, freq="day")["risk"]
        found = portfolio.figures(values, portfolio.QLIB_DAYS_A_YEAR)
        names = {"annualised_return": "annualized_return", "mean": "mean", "std": "std",
                 "information_ratio": "information_ratio"}  # fmt: skip
        for ours, theirs in names.items():
            assert found[ours] == pytest.approx(expected[theirs], rel=1e-10), ours
        from_start = min(expected["max_drawdown"], values.cumsum().min())
        assert found["max_drawdown"] == pytest.approx(from_start, rel=1e-10)


def on_days(values: list[float]) -> pd.Series:
    return pd.Series(values, pd.bdate_range("2024-01-01", periods=len(values)))


def test_calmar_and_win_rate_by_hand_and_nan_where_nothing_falls():
    found = portfolio.figures(on_days([0.01, -0.02, 0.03, 0.0]), 250)
    assert found["max_drawdown"] == pytest.approx(-0.02)
    assert found["calmar"] == pytest.approx(0.005 * 250 / 0.02)
    assert found["win_rate"] == 0.5
    assert np.isnan(portfolio.figures(on_days([0.01, 0.02]), 250)["calmar"])
    assert np.isnan(portfolio.figures(on_days([0.01]), 250)["information_ratio"])


def test_excess_is_after_costs_and_its_interval_tells_it_from_nothing():
    daily = make_daily()
    others = {
        "equal_weight": ("the equal weight", daily["bench"]),
        "same": ("itself", daily["return"] - daily["cost"]),
    }
    better, same = portfolio.excesses(daily, others, 5, 250)
    assert better.difference.mean == pytest.approx(0.0015) and better.difference.sign == 1
    assert better.annualised == pytest.approx(250 * daily["bench"].mean()) and better.periods == 250
    assert same.difference.mean == 0 and same.difference.sign == 0
    with pytest.raises(ValueError, match="itself has no value on 1 days"):
        portfolio.excesses(daily, {"same": ("itself", daily["bench"].iloc[1:])}, 5, 250)


def test_a_loss_on_the_first_day_is_a_drawdown():
    # sums -3 %, -1 %, -4 %, +1 %: the largest fall is from 0 at the start to -4 %
    found = portfolio.figures(on_days([-0.03, 0.02, -0.03, 0.05]), 250)
    assert found["max_drawdown"] == pytest.approx(-0.04)
    assert found["calmar"] == pytest.approx(0.0025 * 250 / 0.04)
    assert portfolio.figures(on_days([-0.02]), 250)["max_drawdown"] == pytest.approx(-0.02)
    # sums +1 %, -2 %: from the highest, not from 0
    assert portfolio.figures(on_days([0.01, -0.03]), 250)["max_drawdown"] == pytest.approx(-0.03)
    assert portfolio.figures(on_days([0.01, 0.0]), 250)["max_drawdown"] == 0


@pytest.mark.parametrize("year", [238, 251.6, 365.25, 5712.0])
def test_annual_figures_take_the_year_that_they_are_given(year):
    found = portfolio.figures(pd.Series(np.random.default_rng(1).normal(size=80)), year)
    assert found["annualised_return"] == pytest.approx(found["mean"] * year)
    assert found["volatility"] == pytest.approx(found["std"] * np.sqrt(year))
    assert found["information_ratio"] == pytest.approx(found["annualised_return"] / found["volatility"])
    assert found["periods_per_year"] == year


def test_a_stamp_on_a_saturday_does_not_change_the_year():
    values = np.random.default_rng(1).normal(size=20)
    days = pd.bdate_range("2024-01-01", periods=20)
    moved = days[:-1].append(pd.DatetimeIndex(["2024-02-03"]))
    assert portfolio.figures(pd.Series(values, days), 252) == portfolio.figures(pd.Series(values, moved), 252)
