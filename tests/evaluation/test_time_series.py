"""The verdict over time: tests and ledgers against independent calculations, its level on random walks, its power."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from arch import arch_model
from scipy import stats
from statsmodels.stats.sandwich_covariance import cov_hac, weights_uniform

from kronos.evaluation import time_series


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_diebold_mariano_equals_a_regression_on_a_constant_with_a_truncated_kernel(horizon: int) -> None:
    generator = np.random.default_rng(horizon)
    noise = generator.standard_normal((2, 120 + horizon))
    model, other = (np.convolve(one, np.ones(horizon), "valid")[:120] ** 2 for one in noise)
    found = sm.OLS(other - model, np.ones(120)).fit()
    variance = cov_hac(found, nlags=horizon - 1, weights_func=weights_uniform, use_correction=False)[0, 0]
    assert variance > 0
    factor = (120 + 1 - 2 * horizon + horizon * (horizon - 1) / 120) / 120  # Harvey, Leybourne and Newbold's
    expected = float(found.params[0]) / np.sqrt(variance) * np.sqrt(factor)
    t, p = time_series.diebold_mariano(model, other, horizon)
    assert t == pytest.approx(expected, abs=1e-6)
    assert p == pytest.approx(2 * stats.t(119).sf(abs(expected)), abs=1e-6)


def walks(count: int, days: int, drift: float, seed: int) -> np.ndarray:
    """Closes [count, days] of random walks, or walks whose drift changes its sign every 40 days."""
    generator = np.random.default_rng(seed)
    signs = np.where(np.arange(days) // 40 % 2 == 0, 1.0, -1.0)
    return 100 * np.exp(np.cumsum(0.01 * generator.standard_normal((count, days)) + drift * signs, axis=1))


def judged(closes: np.ndarray, predicted: np.ndarray, horizon: int) -> time_series.LossComparison:
    """The comparison with the last price of forecasts [N, H] made on days 0 to N - 1."""
    days = np.arange(len(predicted))
    realised = np.stack([closes[days + step] / closes[days] for step in range(1, horizon + 1)], axis=1)
    loss = np.abs(predicted - realised)
    return time_series.compare("last", "last price", loss, np.abs(1 - realised), days, horizon)


@pytest.mark.slow
def test_of_200_random_walks_at_least_94_per_cent_are_told_no_better() -> None:
    """The forecasts follow the last moves, some of them and in either direction, so that they are not all bad."""
    horizon, days, better = 5, 240, 0
    for number, closes in enumerate(walks(200, days + horizon + 20, 0.0, seed=1)):
        moves = closes[20 : 20 + days] / closes[:days] - 1
        size = (0.02, -0.02, 0.05, -0.05)[number % 4]
        predicted = 1 + size * moves[:, None] * np.arange(1, horizon + 1)
        better += judged(closes[20:], predicted, horizon).better
    assert better <= 0.06 * 200, better


def test_a_planted_drift_in_direction_is_found() -> None:
    horizon, days, drift = 5, 480, 0.004
    closes = walks(20, days + horizon, drift, seed=2)
    signs = np.where(np.arange(days + horizon) // 40 % 2 == 0, 1.0, -1.0)
    ahead = np.stack(
        [signs[1 + step : 1 + step + days] for step in range(horizon - 1)] + [signs[-days:]], axis=1
    )
    predicted = np.exp(drift * np.cumsum(ahead, axis=1))
    found = [judged(one, predicted, horizon).better for one in closes]
    assert np.mean(found) > 0.9


def test_naive_forecasts_by_hand() -> None:
    close = pd.DataFrame({"a": [10.0, 11.0, 12.0, 11.0, 13.0, 12.0]})
    found = time_series.naive_forecasts(close, np.array([1, 4]), np.array([0, 0]), 3, lookback=3, season=2)
    assert (found["last"][1] == 1).all()
    drift = (13 / 12 - 1) / 2
    np.testing.assert_allclose(found["drift"][1][1], [1 + drift, 1 + 2 * drift, 1 + 3 * drift])
    assert np.isnan(found["drift"][1][0]).all() and np.isnan(found["seasonal"][1][0]).all()
    season = 13 / 12  # of the two bars from row 2 to row 4
    np.testing.assert_allclose(found["seasonal"][1][1], [11 / 12, 13 / 12, 11 / 12 * season])


def test_a_ledger_by_hand() -> None:
    days = pd.date_range("2024-01-01", periods=5)
    signal = pd.DataFrame({"a": [0.1, -0.1, 0.2, 0.1, 0.1]}, index=days)
    opening = pd.DataFrame({"a": [100.0, 102.0, 101.0, 103.0, 104.0]}, index=days)
    rules = {"costs": (0.001, 0.002), "funding": 0.365, "periods_per_year": 365.0}
    flat = time_series.trade(signal, opening, short=False, **rules)  # type: ignore[arg-type]
    assert list(flat["position"]) == [1, 0, 1] and list(flat.index) == list(days[1:4])
    np.testing.assert_allclose(flat["gross"], [101 / 102 - 1, 0, 104 / 103 - 1])
    np.testing.assert_allclose(flat["cost"], [0.001, 0.002, 0.001])
    np.testing.assert_allclose(flat["funding"], [0.001, 0, 0.001])
    short = time_series.trade(signal, opening, short=True, **rules)  # type: ignore[arg-type]
    assert list(short["position"]) == [1, -1, 1]
    np.testing.assert_allclose(short["gross"], [101 / 102 - 1, 1 - 103 / 101, 104 / 103 - 1])
    np.testing.assert_allclose(short["cost"], [0.001, 0.004, 0.002])
    np.testing.assert_allclose(short["net"], short["gross"] - short["cost"] - [0.001, -0.001, 0.001])
    held = time_series.ledgers(signal, opening, **rules)["hold"]  # type: ignore[arg-type]
    np.testing.assert_allclose(held.daily["cost"], [0.001, 0, 0])
    assert held.annual == pytest.approx(held.daily["net"].mean() * 365)


def test_a_day_without_an_open_keeps_the_position_and_its_move_counts_at_the_next_open() -> None:
    days = pd.date_range("2024-01-01", periods=5)
    signal = pd.DataFrame({"a": [0.1, -0.1, -0.1, 0.1, 0.1]}, index=days)
    opening = pd.DataFrame({"a": [100.0, 102.0, np.nan, 51.0, 104.0]}, index=days)
    rules = {"costs": (0.001, 0.001), "funding": 0.0, "periods_per_year": 252}
    found = time_series.trade(signal, opening, short=False, **rules)  # type: ignore[arg-type]
    assert list(found["gross"]) == [0, -0.5, 0] and list(found["position"]) == [1, 1, 0]
    held = time_series.ledgers(signal, opening, **rules)["hold"].daily  # type: ignore[arg-type]
    assert held["gross"].iloc[1] == -0.5 and list(held["position"]) == [1, 1, 1]


def test_a_ledger_has_every_session_and_keeps_its_position_where_there_is_no_signal() -> None:
    days = pd.date_range("2024-01-01", periods=8)
    opening = pd.DataFrame({"a": [100.0, 101, 102, 103, 104, 105, 106, 107]}, index=days)
    signal = pd.DataFrame({"a": [0.1, -0.1]}, index=days[[1, 4]])  # as of bars within a day: others have none
    rules = {"costs": (0.001, 0.001), "funding": 0.0, "periods_per_year": 252}
    found = time_series.trade(signal, opening, short=False, **rules)  # type: ignore[arg-type]
    assert list(found.index) == list(days[2:6]) and list(found["position"]) == [1, 1, 1, 0]
    np.testing.assert_allclose(found["gross"], [1 / 102, 1 / 103, 1 / 104, 0])
    held = time_series.ledgers(signal, opening, **rules)["hold"].daily  # type: ignore[arg-type]
    assert list(held["position"]) == [1, 1, 1, 1] and held["cost"].sum() == 0.001


def test_garch_is_its_own_recursion_and_sees_no_later_close() -> None:
    generator = np.random.default_rng(3)
    variance, returns = 1e-4, []
    for _ in range(900):
        returns.append(np.sqrt(variance) * generator.standard_normal())
        variance = 2e-6 + 0.1 * returns[-1] ** 2 + 0.88 * variance
    close = pd.DataFrame({"a": 100 * np.exp(np.cumsum(returns))})
    day, place, horizon = np.array([700, 705, 800]), np.zeros(3, int), 4
    found, note = time_series.volatility_baselines(close, day, place, horizon, 60, fitted_until=600)
    assert not note and set(found) == {"historical", "ewma", "garch"}
    series = np.log(close["a"]).diff().iloc[1:] * 100  # from its first return on
    omega, alpha, beta = (
        arch_model(series, mean="Zero", rescale=False).fit(last_obs=599, disp="off").params.to_numpy()
    )
    weights = 0.94 ** np.arange(75)
    conditional = float(series.iloc[:75].to_numpy() ** 2 @ weights / weights.sum())  # arch's start
    for value in series.iloc[:800]:
        conditional = omega + alpha * value**2 + beta * conditional
    ahead = [conditional]
    for _ in range(horizon - 1):
        ahead.append(omega + (alpha + beta) * ahead[-1])
    np.testing.assert_allclose(found["garch"][1][2], np.sqrt(np.cumsum(ahead)) / 100, rtol=1e-6)
    later = close.copy()
    later.iloc[801:] *= 1.5
    again, _ = time_series.volatility_baselines(later, day, place, horizon, 60, fitted_until=600)
    for key in found:
        np.testing.assert_array_equal(found[key][1], again[key][1])


def test_the_block_bootstrap_s_interval_holds_its_level_and_follows_the_skill() -> None:
    covered = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        shared = np.convolve(generator.random(304), np.ones(5) / 5, "valid")  # of targets that overlap
        model, other = shared + 0.2 * generator.random((2, 300))
        low, high = time_series.block_bootstrap(model, other, 5)
        covered.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.85
    low, high = time_series.block_bootstrap(0.9 * other, other, 5)
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)
    assert np.isnan(time_series.block_bootstrap(model[:80], other[:80], 5)).all()
