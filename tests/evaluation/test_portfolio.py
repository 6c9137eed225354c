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


def test_figures_equal_qlibs_risk_analysis():
    from qlib.contrib.evaluate import risk_analysis

    daily = make_daily()
    for values in (daily["return"], daily["bench"], daily["return"] - daily["cost"] - 0.003):
        expected = risk_analysis(values, freq="day")["risk"]
        found = portfolio.figures(values)
        names = {"annualised_return": "annualized_return", "mean": "mean", "std": "std",
                 "information_ratio": "information_ratio", "max_drawdown": "max_drawdown"}  # fmt: skip
        for ours, theirs in names.items():
            assert found[ours] == pytest.approx(expected[theirs], rel=1e-10), ours


def on_days(values: list[float]) -> pd.Series:
    return pd.Series(values, pd.bdate_range("2024-01-01", periods=len(values)))


def test_calmar_and_win_rate_by_hand_and_nan_where_nothing_falls():
    found = portfolio.figures(on_days([0.01, -0.02, 0.03, 0.0]))
    assert found["max_drawdown"] == pytest.approx(-0.02)
    assert found["calmar"] == pytest.approx(0.005 * 238 / 0.02)
    assert found["win_rate"] == 0.5
    assert np.isnan(portfolio.figures(on_days([0.01, 0.02]))["calmar"])
    assert np.isnan(portfolio.figures(on_days([0.01]))["information_ratio"])


def test_excess_is_after_costs_and_its_interval_tells_it_from_nothing():
    daily = make_daily()
    others = {
        "equal_weight": ("the equal weight", daily["bench"]),
        "same": ("itself", daily["return"] - daily["cost"]),
    }
    better, same = portfolio.excesses(daily, others, 5)
    assert better.difference.mean == pytest.approx(0.0015) and better.difference.sign == 1
    assert same.difference.mean == 0 and same.difference.sign == 0
    with pytest.raises(ValueError, match="itself has no value on 1 days"):
        portfolio.excesses(daily, {"same": ("itself", daily["bench"].iloc[1:])}, 5)


def test_a_year_of_bars_within_a_day_has_as_many_as_its_days_hold():
    bars = pd.DatetimeIndex([day + pd.Timedelta(hours=hour) for day in pd.bdate_range("2024-01-01", periods=20)
                             for hour in (10, 11, 14, 15)])  # fmt: skip
    found = portfolio.figures(pd.Series(np.random.default_rng(1).normal(size=80), bars))
    assert found["annualised_return"] == pytest.approx(found["mean"] * 238 * 4)
    assert found["volatility"] == pytest.approx(found["std"] * np.sqrt(238 * 4))


def test_a_year_has_all_its_days_where_weekends_are_traded():
    found = portfolio.figures(
        pd.Series(np.random.default_rng(1).normal(size=80), pd.date_range("2024-01-01", periods=80))
    )
    assert found["annualised_return"] == pytest.approx(found["mean"] * 365)
