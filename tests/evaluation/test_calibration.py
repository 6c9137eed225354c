"""Calibrated bands hold their share, whatever the paths' width; coverage is measured as it is."""

import numpy as np
import pytest
from crepes import ConformalPredictiveSystem

from kronos.evaluation import coverage, risk
from kronos.evaluation.calibration import (
    CLOSE,
    Calibration,
    fit_errors,
    fit_scale,
    fit_temperatures,
    location_and_scale,
    recent_volatility,
)  # fmt: skip

HORIZON, SAMPLES, LOOKBACK = 5, 50, 64
CALM, WILD = 0.005, 0.02  # volatility per bar of the two regimes


def market(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(regime [N], contexts' closes [N, L], realised moves [N, H, 4]) of a market whose volatility switches.

    A regime ends with a chance of 1 % per bar; within the horizon it stays.
    """
    generator = np.random.default_rng(seed)
    states = np.empty((count, LOOKBACK), int)
    states[:, 0] = generator.integers(0, 2, count)
    switches = generator.random((count, LOOKBACK)) < 0.01
    for bar in range(1, LOOKBACK):
        states[:, bar] = np.where(switches[:, bar], 1 - states[:, bar - 1], states[:, bar - 1])
    scale = np.where(states == 1, WILD, CALM)
    closes = 100 * np.exp(np.cumsum(scale * generator.standard_t(5, states.shape) / np.sqrt(5 / 3), axis=1))
    last = scale[:, -1:, None] * generator.standard_t(5, (count, HORIZON, 1)) / np.sqrt(5 / 3)
    realised = np.exp(np.cumsum(last, axis=1)) - 1
    return states[:, -1], closes, np.repeat(realised, 4, axis=2)


def paths(regime: np.ndarray, factor: float, knows: bool, seed: int) -> np.ndarray:
    """Sample paths [N, S, H, 4] of a model whose width is `factor` of the truth; it may know the regime or not."""
    generator = np.random.default_rng(seed)
    truth = np.where(regime == 1, WILD, CALM) if knows else np.full(len(regime), np.sqrt(CALM * WILD))
    steps = factor * truth[:, None, None] * generator.standard_normal((len(regime), SAMPLES, HORIZON))
    return np.repeat((np.exp(np.cumsum(steps, axis=2)) - 1)[..., None], 4, axis=3)


def fitted(factor: float, knows: bool) -> Calibration:
    regime, closes, came = market(1200, seed=1)
    drawn = paths(regime, factor, knows, seed=2)
    few, rest = slice(0, 200), slice(200, None)
    weight, decay = fit_scale(drawn[few], closes[few], came[few])
    return fit_errors(
        drawn[rest], closes[rest], came[rest], temperatures=[1.0] * HORIZON, weight=weight, decay=decay
    )


@pytest.mark.parametrize("factor, knows", [(0.5, True), (2.0, True), (0.6, False)])
def test_the_band_holds_its_share_at_every_step_and_in_both_regimes(factor: float, knows: bool) -> None:
    found = fitted(factor, knows)
    regime, closes, came = market(5000, seed=3)
    drawn, recent = paths(regime, factor, knows, seed=4), recent_volatility(closes, found.decay)
    raw_low, raw_high = np.quantile(drawn[..., CLOSE], [0.05, 0.95], axis=1)
    raw = ((raw_low <= came[..., CLOSE]) & (came[..., CLOSE] <= raw_high)).mean(axis=0)
    assert (np.abs(raw - 0.9) > 0.05).all()  # the fault to be mended
    low, high = found.quantiles(drawn, recent, [0.05, 0.95])[..., CLOSE]
    inside = (low <= came[..., CLOSE]) & (came[..., CLOSE] <= high)
    assert ((inside.mean(axis=0) >= 0.88) & (inside.mean(axis=0) <= 0.92)).all(), inside.mean(axis=0)
    for state in (0, 1):
        share = inside[regime == state].mean(axis=0)
        assert ((share >= 0.86) & (share <= 0.94)).all(), (state, share)


def test_levels_are_uniform_and_their_bands_are_those_of_the_quantiles() -> None:
    found = fitted(0.5, True)
    regime, closes, came = market(5000, seed=5)
    drawn, recent = paths(regime, 0.5, True, seed=6), recent_volatility(closes, found.decay)
    levels = found.close_levels(came[..., CLOSE], drawn, recent)
    counts = np.histogram(levels, 10, (0, 1))[0] / levels.size
    assert np.abs(counts - 0.1).max() < 0.015
    low, high = found.quantiles(drawn, recent, [0.05, 0.95])[..., CLOSE]
    inside = (low <= came[..., CLOSE]) & (came[..., CLOSE] <= high)
    assert (inside == (np.abs(levels - 0.5) <= 0.45)).mean() > 0.998  # equal but at the ends


def test_calibrated_paths_have_the_calibrated_quantiles_and_keep_their_ranks() -> None:
    found = fitted(0.5, True)
    regime, closes, _ = market(20, seed=7)
    drawn, recent = paths(regime, 0.5, True, seed=8), recent_volatility(closes, found.decay)
    mended = found.paths(drawn, recent)
    assert (mended.argsort(axis=1) == drawn.argsort(axis=1)).all()
    width = np.ptp(mended[..., CLOSE], axis=1) / np.ptp(drawn[..., CLOSE], axis=1)
    assert (width > 1.3).all()
    median = found.quantiles(drawn, recent, [0.5])[0]
    np.testing.assert_allclose(np.median(mended, axis=1), median, atol=2e-3)


def test_the_temperature_with_the_best_crps_is_chosen_at_each_step() -> None:
    regime, _, came = market(400, seed=9)
    narrow, right, wide = (paths(regime, factor, True, seed=10)[..., CLOSE] for factor in (0.3, 1.0, 3.0))
    assert fit_temperatures({0.7: narrow, 1.0: right, 1.45: wide}, came[..., CLOSE]) == [1.0] * HORIZON
    mixed = np.concatenate([narrow[..., :2], right[..., 2:]], axis=2)
    other = np.concatenate([right[..., :2], narrow[..., 2:]], axis=2)
    assert fit_temperatures({0.7: other, 1.0: mixed}, came[..., CLOSE]) == [0.7, 0.7, 1.0, 1.0, 1.0]


def test_it_comes_back_from_json() -> None:
    found = fitted(0.5, True)
    again = Calibration.from_json(found.to_json())
    assert (again.temperatures, again.samples) == (found.temperatures, found.samples)
    assert (again.weight, again.decay) == (found.weight, found.decay)
    np.testing.assert_allclose(again.errors, found.errors, rtol=1e-6)


def test_quantiles_equal_those_of_a_conformal_predictive_system_of_crepes() -> None:
    found = fitted(0.5, True)
    regime, closes, came = market(1200, seed=1)
    drawn, recent = paths(regime, 0.5, True, seed=2), recent_volatility(closes, found.decay)
    centre, scale = location_and_scale(drawn, recent, found.weight)
    used, step = slice(200, None), 2
    system = ConformalPredictiveSystem()
    system.fit(
        came[used, step, CLOSE] - centre[used, step, CLOSE], sigmas=scale[used, step, CLOSE], seed=0
    )  # fmt: skip
    regime, closes, _ = market(30, seed=11)
    drawn, recent = paths(regime, 0.5, True, seed=12), recent_volatility(closes, found.decay)
    centre, scale = location_and_scale(drawn, recent, found.weight)
    for confidence in (0.8, 0.9, 0.95):
        expected = system.predict_int(
            centre[:, step, CLOSE], sigmas=scale[:, step, CLOSE], confidence=confidence
        )  # fmt: skip
        ends = found.quantiles(drawn, recent, [(1 - confidence) / 2, (1 + confidence) / 2])
        np.testing.assert_allclose(ends[:, :, step, CLOSE].T, expected, rtol=1e-9)


def test_coverage_counts_by_hand() -> None:
    levels = np.array([[0.5, 0.99], [0.03, 0.5], [0.5, np.nan], [0.2, 0.9]])
    came = np.where(np.isnan(levels), np.nan, 1.0)
    # bands around 1 that hold it where its level lies within them
    far = np.abs(levels - 0.5)[None] > np.array(coverage.BANDS)[:, None, None] / 2
    bands = np.stack([0.95 + far, 1.05 + far], axis=-1)
    found = coverage.measure(
        levels, np.ones((4, 10, 2)), came, bands, volatility_N=np.array([1.0, 2, 3, 4]),
        day_N=np.array([0, 0, 1, 1]), instruments=["a", "a", "b", "b"],
    )  # fmt: skip
    assert found.share(0.9)["share"] == pytest.approx(5 / 7)
    assert found.share(0.9, 1)["share"] == pytest.approx(3 / 4)
    assert found.share(0.9, 2)["share"] == pytest.approx(2 / 3)
    assert found.share(0.5)["share"] == pytest.approx(3 / 7)
    assert (found.days, found.width) == (2, pytest.approx(0.1))


def test_levels_among_samples_are_uniform_for_an_ensemble_of_any_size() -> None:
    generator = np.random.default_rng(0)
    for size in (3, 20):
        drawn = generator.standard_normal((4000, size, 2))
        levels = coverage.sample_levels(drawn, generator.standard_normal((4000, 2)))
        inside = np.abs(levels - 0.5) <= 0.45
        assert inside.mean() == pytest.approx(0.9, abs=0.012)


def test_risk_figures_are_those_of_the_closed_form() -> None:
    from scipy.stats import norm

    generator = np.random.default_rng(0)
    mean, deviation = 0.01, 0.02
    drawn = mean + deviation * generator.standard_normal((1, 400_000, 1))
    found = risk.of_samples(drawn)
    expected = {
        "median": mean, "expected_return": mean, "rise_probability": norm.cdf(mean / deviation),
        "var_95": deviation * norm.ppf(0.95) - mean, "var_99": deviation * norm.ppf(0.99) - mean,
        "es_95": deviation * norm.pdf(norm.ppf(0.95)) / 0.05 - mean,
        "es_99": deviation * norm.pdf(norm.ppf(0.99)) / 0.01 - mean,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name][0, 0] == pytest.approx(value, abs=3e-4), name
    errors = np.sort(generator.standard_normal((4, 1, 200_000)), axis=-1)
    calibration = Calibration((1.0,), 2, 0.0, 0.94, errors)
    centred = np.full((1, 2, 1, 4), mean)
    again = risk.of_calibration(calibration, centred, np.array([deviation]))
    for name, value in expected.items():
        assert again[name][0, 0] == pytest.approx(value, abs=4e-4), name


def test_drawdown_is_from_the_highest_close_so_far() -> None:
    drawn = np.array([[[0.0, -0.04, 0.0], [0.10, 0.02, 0.10], [0.01, 0.02, 0.03], [-0.06, 0.0, 0.0]]])
    assert risk.drawdown_probability(drawn, 0.05)[0] == 0.5
    assert risk.drawdown_probability(drawn, 0.065)[0] == 0.25


def test_raw_coverage_is_that_of_the_quantiles_that_predict_writes() -> None:
    generator = np.random.default_rng(1)
    drawn = generator.standard_normal((3000, 20, 1))
    came = generator.standard_normal((3000, 1))
    far = np.full_like(came, 9.0)  # beyond every path
    bands = coverage.sample_bands(drawn)
    low, high = np.quantile(drawn, [0.05, 0.95], axis=1)
    shown = coverage.BANDS.index(0.9)
    within = coverage.inside(came, bands)
    np.testing.assert_array_equal(within[shown], (low <= came) & (came <= high))
    assert (coverage.inside(far, bands)[: shown + 1] == 0).all()
    assert np.isnan(within[coverage.BANDS.index(0.95)]).all()  # 20 paths say nothing about 95 %
    assert np.isfinite(coverage.sample_bands(drawn[:1].repeat(2, 1))[-1]).all()


def test_a_price_that_stands_still_has_no_chance_of_a_rise_and_levels_spread() -> None:
    calibration = Calibration(
        (1.0,), 5, 0.5, 0.94, np.sort(np.random.default_rng(0).normal(0.5, 1, (4, 1, 300)))
    )
    still = np.zeros((50, 5, 1, 4))
    assert (risk.of_calibration(calibration, still, np.zeros(50))["rise_probability"] == 0).all()
    assert (risk.of_samples(still[..., 0])["rise_probability"] == 0).all()
    none = Calibration((1.0,), 5, 0.5, 0.94, np.zeros((4, 1, 300)))
    levels = none.close_levels(np.zeros((50, 1)), still, np.zeros(50))
    assert levels.min() < 0.2 and levels.max() > 0.8


def test_no_loss_exceeds_the_price_and_no_high_is_below_the_close() -> None:
    generator = np.random.default_rng(2)
    calibration = Calibration(
        (1.0, 1.0), 9, 0.0, 0.94, np.sort(generator.standard_normal((4, 2, 300)), axis=-1)
    )
    drawn = 0.02 * generator.standard_normal((40, 9, 2, 4))
    wild = np.full(40, 0.8)
    found = risk.of_calibration(calibration, drawn, wild)
    assert max(found[name].max() for name in ("var_95", "var_99", "es_95", "es_99")) <= 0.99 + 1e-9
    prices = calibration.price_quantiles(drawn, wild, np.full(40, 100.0), [0.01, 0.05, 0.5, 0.95])
    assert (prices[..., 1] >= prices[..., [0, 3]].max(axis=-1)).all() and (prices > 0).all()
    assert (prices[..., 2] <= prices[..., [0, 3]].min(axis=-1)).all()
    np.testing.assert_allclose(found["var_99"], 1 - prices[0, ..., 3] / 100, atol=1e-9)
