"""Figures of heads: formulas against scikit-learn, the level under the null, and what a planted truth gives."""

import numpy as np
import pandas as pd
import pytest
from made_heads import HORIZON, answers_of, walks
from sklearn import linear_model, metrics
from sklearn.calibration import calibration_curve

from kronos.evaluation import heads
from kronos.evaluation.head_baselines import HAR_BARS, by_har, fit_har, rates_after, recent
from kronos.evaluation.heads import HeadScores

RANDOM = np.random.default_rng(11)


def by_key(found: HeadScores) -> dict[str, heads.Measure]:
    return {one.key: one for one in found.measures}


def gains(found: HeadScores) -> dict[str, heads.Against]:
    return {one.key: one for one in found.against}


def test_scores_of_probabilities_are_scikit_learns() -> None:
    rose = (RANDOM.random(500) < 0.4).astype(float)
    chance = np.round(np.clip(0.3 * rose + 0.7 * RANDOM.random(500), 0.01, 0.99), 2)  # with ties
    day = np.repeat(np.arange(50), 10)
    assert heads.auc(chance, rose, day, 5).value == pytest.approx(metrics.roc_auc_score(rose, chance))
    assert heads.brier(chance, rose).mean() == pytest.approx(metrics.brier_score_loss(rose, chance))
    assert heads.log_loss(chance, rose).mean() == pytest.approx(metrics.log_loss(rose, chance))
    assert np.isfinite(heads.log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0]))).all()
    assert np.isnan(heads.auc(chance, np.ones(500), day, 5).value)
    flat = heads.auc(np.full(500, 0.5), rose, day, 5)
    assert flat.value == 0.5 and np.isnan(flat.low)
    untied = RANDOM.permutation(500) / 500
    bins = heads.calibration(untied, rose)
    share, mean = calibration_curve(rose, untied, n_bins=heads.BINS, strategy="quantile")
    np.testing.assert_allclose([one.rose for one in bins], share)
    np.testing.assert_allclose([one.mean for one in bins], mean)
    assert [one.forecasts for one in bins] == [100] * 5


def test_the_figures_of_every_objective_follow_from_daily_means() -> None:
    close = walks(1, 80, 8)
    for objective in ("return", "direction"):
        value = RANDOM.random(close.shape)
        made, trained = answers_of(objective, close, value)
        known, found = np.isfinite(made.outcome_N), gains(heads.measure(made, trained))
        day, came, said = made.day_N[known], made.outcome_N[known], made.value_N[known]

        def mean(loss: np.ndarray, day: np.ndarray = day) -> float:
            return float(pd.Series(loss).groupby(day).mean().mean())

        if objective == "return":
            expected = 1 - mean((said - came) ** 2) / mean((trained.outcome.mean() - came) ** 2)
            assert found["squared_error_over_mean"].gain == pytest.approx(expected)
            expected = 1 - mean((said - came) ** 2) / mean(came**2)
            assert found["squared_error_over_zero"].gain == pytest.approx(expected)
        else:
            rate = trained.outcome.mean()
            expected = 1 - mean((said - came) ** 2) / mean((rate - came) ** 2)
            assert found["brier_over_base_rate"].gain == pytest.approx(expected)
            up = made.recent.move[known] > 0
            expected = mean((said > 0.5) == came) - mean(up == came)
            assert found["accuracy_over_persistence"].gain == pytest.approx(expected)


def test_volatility_is_scored_by_qlike_and_r2_against_three_baselines() -> None:
    close = walks(2, 150, 6)
    value = 0.014 * np.exp(0.2 * RANDOM.normal(size=close.shape))
    made, trained = answers_of("volatility", close, value)
    found = heads.measure(made, trained)
    known = np.isfinite(made.outcome_N)
    came, said = made.outcome_N[known], np.log(made.value_N[known])
    assert by_key(found)["r2"].value == pytest.approx(metrics.r2_score(came, said))
    factor = np.mean(np.exp(2 * (came - said)))
    assert trained.factors["model"] == pytest.approx(factor)
    ratio = np.exp(2 * came) / (np.exp(2 * said) * factor)
    daily = pd.Series(ratio - np.log(ratio) - 1).groupby(made.day_N[known]).mean()
    assert by_key(found)["qlike"].value == pytest.approx(daily.mean())
    assert {one.key.partition("_over_")[2] for one in found.against} == {"last", "ewma", "har"}
    scaled = [np.mean(heads.qlike(2 * said + np.log(factor * other), 2 * came)) for other in (0.9, 1.0, 1.1)]
    assert scaled[1] == min(scaled)  # the factor is the one that fits best
    assert found.groups == {} and found.spread is None


def test_the_naive_answers_are_what_their_names_say() -> None:
    closes = walks(3, 90, 5).to_numpy().T
    last = recent(closes, 5)
    moves = np.diff(np.log(closes), axis=1)
    np.testing.assert_allclose(last.move, np.log(closes[:, -1] / closes[:, -6]))
    np.testing.assert_allclose(last.volatility, np.sqrt((moves[:, -5:] ** 2).mean(axis=1)))
    weights = 0.94 ** np.arange(89)[::-1]
    np.testing.assert_allclose(last.ewma, np.sqrt(np.average(moves**2, axis=1, weights=weights)))
    for place, bars in enumerate(HAR_BARS):
        np.testing.assert_allclose(last.har[:, place], np.log(np.sqrt((moves[:, -bars:] ** 2).mean(axis=1))))
    assert recent(closes[:, -20:], 5).har.shape == (5, 2)  # the longer spans are the same there
    table, target = RANDOM.normal(size=(60, 3)), RANDOM.normal(size=60)
    target[3] = np.nan
    fitted = linear_model.LinearRegression().fit(np.delete(table, 3, axis=0), np.delete(target, 3))
    np.testing.assert_allclose(by_har(table, fit_har(table, target)), fitted.predict(table))
    moved, rose = np.array([1.0, 2.0, -1.0, -1.0, np.nan]), np.array([1.0, 0.0, 0.0, 0.0, 1.0])
    assert rates_after(moved, rose) == (0.5, 0.0)
    assert rates_after(np.ones(2), np.array([1.0, 0.0])) == (0.5, 0.5)


def test_answers_that_know_nothing_are_told_from_chance_at_about_the_level() -> None:
    """Random walks with a common factor, answers that persist for days and favour all of a day: 40 seeds."""
    wrong: dict[str, list[bool]] = {"auc": [], "rank_ic": [], "brier_over_base_rate": [], "groups_spread": []}
    for seed in range(40):
        random = np.random.default_rng([seed, 5])
        close = walks(seed, 150, 12)
        noise = random.normal(size=close.shape) + 0.5 * random.normal(size=(150, 1))
        smooth = pd.DataFrame(noise).rolling(HORIZON, min_periods=1).mean().to_numpy()
        found = heads.measure(*answers_of("direction", close, 0.5 + 0.2 * np.tanh(smooth)))
        measures, against = by_key(found), gains(found)
        wrong["auc"].append(not measures["auc"].low < 0.5 < measures["auc"].high)
        wrong["rank_ic"].append(not measures["rank_ic"].low < 0 < measures["rank_ic"].high)
        assert found.spread is not None
        wrong["groups_spread"].append(found.spread.sign != 0)
        wrong["brier_over_base_rate"].append(
            against["brier_over_base_rate"].low > 0
        )  # it is worse, never better
    shares = {name: np.mean(values) for name, values in wrong.items()}
    assert shares["brier_over_base_rate"] <= 0.05
    # of 40 at a level of 5 %, more than 6 are wrong in 0.3 % of cases
    assert all(share <= 6 / 40 for share in shares.values()), shares


def test_answers_that_know_something_are_better_than_every_naive_one() -> None:
    close = walks(7, 200, 12)
    ahead = np.log(close.shift(-HORIZON) / close).fillna(0.0).to_numpy()
    noise = 0.04 * RANDOM.normal(size=close.shape)
    said = {
        "return": 0.4 * (ahead + noise), "rank": ahead + noise,
        "direction": 1 / (1 + np.exp(-40 * (ahead + noise))),
    }  # fmt: skip
    for objective, value in said.items():
        found = heads.measure(*answers_of(objective, close, value))
        assert by_key(found)["rank_ic"].low > 0.2 and found.spread is not None and found.spread.low > 0
        assert all(one.low > 0 for one in found.against), objective
        if objective == "direction":
            assert by_key(found)["auc"].low > 0.6 and by_key(found)["accuracy"].low > 0.55
            assert [one.rose for one in found.bins] == sorted(one.rose for one in found.bins)


def test_one_instrument_has_no_rank_ic_and_all_else() -> None:
    close = walks(8, 200, 1)
    found = heads.measure(*answers_of("direction", close, RANDOM.random(close.shape)))
    assert set(by_key(found)) == {"auc", "accuracy", "brier", "log_loss"} and len(found.against) == 6
    assert np.isfinite(by_key(found)["auc"].low) and found.groups == {}
