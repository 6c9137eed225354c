"""Scores, targets, IC and the equal-weight benchmark against scipy, Qlib, loops and hand-worked numbers."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kronos.evaluation import signals, statistics

DAYS = pd.date_range("2024-01-01", periods=30, freq="B", name="datetime")


def noisy_pair(days: int = 30, names: int = 12, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two correlated wide frames with holes and with ties."""
    random = np.random.default_rng(seed)
    left = random.normal(size=(days, names))
    right = np.round(0.5 * left + random.normal(size=(days, names)), 1)
    left = np.round(left, 1)
    left[random.random(left.shape) < 0.1] = np.nan
    right[random.random(right.shape) < 0.1] = np.nan
    columns = [f"N{name}" for name in range(names)]
    index = pd.date_range("2024-01-01", periods=days, freq="B", name="datetime")
    return pd.DataFrame(left, index, columns), pd.DataFrame(right, index, columns)


def test_scores_reduce_the_closes_and_are_returns_in_price_units():
    forecast = pd.DataFrame(
        {
            "instrument": ["B", "B", "B", "A", "A", "A"],
            "as_of": [DAYS[0]] * 6,
            "step": [3, 1, 2, 1, 2, 3],  # out of order on purpose
            "close": [99.0, 110.0, 121.0, 10.0, 10.0, 11.0],
            "volume": 1.0,
        }
    )
    last_close = pd.Series(
        [10.0, 100.0],
        index=pd.MultiIndex.from_tuples([(DAYS[0], "A"), (DAYS[0], "B")], names=["as_of", "instrument"]),
    )
    result = signals.scores(forecast, last_close)
    assert list(result.columns) == ["last", "mean", "max", "min"]
    assert result.index.names == ["as_of", "instrument"]
    np.testing.assert_allclose(result.loc[(DAYS[0], "B")], [-0.01, 0.10, 0.21, -0.01], atol=1e-12)
    np.testing.assert_allclose(result.loc[(DAYS[0], "A")], [0.10, 1 / 30, 0.10, 0.0], atol=1e-12)

    holed = forecast.copy()
    holed.loc[1, "close"] = np.nan
    assert signals.scores(holed, last_close).loc[(DAYS[0], "B")].isna().all()
    with pytest.raises(ValueError, match="no last close, the first is B"):
        signals.scores(forecast, last_close.iloc[:1])
    with pytest.raises(ValueError, match="2 to 3 steps, expected the same number"):
        signals.scores(forecast.iloc[1:], last_close)
    assert signals.scores(forecast.iloc[:0], last_close).empty
    with pytest.raises(ValueError, match="twice"):
        signals.scores(pd.concat([forecast, forecast.iloc[:1]]), last_close)


@pytest.mark.parametrize("horizon", [1, 5, 10, 48])
def test_the_mean_of_single_precision_closes_is_exact_in_scores_and_in_targets(horizon):
    random = np.random.default_rng(8)
    closes = (50 * np.exp(0.02 * random.normal(size=(60, 6)).cumsum(0))).astype(np.float32)
    days = pd.bdate_range("2024-01-01", periods=60, name="as_of")
    known = 60 - horizon
    ahead = np.lib.stride_tricks.sliding_window_view(closes[1:], horizon, axis=0)[:known]  # [known, 6, H]
    index = pd.MultiIndex.from_product([days[:known], list("ABCDEF")], names=["as_of", "instrument"])
    frame = index.repeat(horizon).to_frame(index=False)
    frame["step"], frame["close"] = np.tile(np.arange(1, horizon + 1), len(index)), ahead.reshape(-1)
    wide = pd.DataFrame(closes.astype(np.float64), days, list("ABCDEF"))
    exact = np.array([math.fsum(path) / horizon for path in ahead.reshape(-1, horizon).tolist()])
    exact = exact / closes[:known].reshape(-1).astype(np.float64) - 1
    scores = signals.scores(frame, wide.stack().rename_axis(["as_of", "instrument"]))
    assert np.array_equal(scores["mean"], exact)
    assert np.array_equal(signals.targets(wide, horizon)["mean"].iloc[:known].to_numpy().reshape(-1), exact)


def test_targets_equal_a_plain_loop_and_are_nan_past_the_data():
    random = np.random.default_rng(1)
    close = pd.DataFrame(50 * np.exp(0.02 * random.normal(size=(30, 4)).cumsum(0)), DAYS, list("ABCD"))
    close.iloc[10, 1] = np.nan
    close.iloc[20:, 2] = np.nan  # C leaves
    horizon = 3
    result = signals.targets(close, horizon)
    held = close.ffill()
    for name, reduce in {"last": lambda x: x[-1], "mean": np.mean, "max": np.max, "min": np.min}.items():
        for column in close.columns:
            for day in range(30):
                got = result[name].iloc[day][column]
                window = close[column].iloc[day + 1 : day + 1 + horizon]
                if len(window) < horizon or np.isnan(close[column].iloc[day]) or window.isna().all():
                    assert np.isnan(got)
                else:
                    ahead = held[column].iloc[day + 1 : day + 1 + horizon].to_numpy()
                    assert got == pytest.approx(reduce(ahead) / close[column].iloc[day] - 1, abs=1e-12)
    assert np.isnan(result["last"].loc[DAYS[19], "C"])  # no bar after it at all
    assert np.isfinite(result["last"].loc[DAYS[18], "C"])  # one bar, then valued at it
    assert all(frame.isna().all().all() for frame in signals.targets(close.iloc[:3], 3).values())


def test_a_target_whose_horizon_ends_by_a_day_ignores_what_follows():
    close = pd.DataFrame(np.random.default_rng(2).uniform(5, 6, size=(30, 3)), DAYS, list("ABC"))
    replaced = close.copy()
    replaced.iloc[21:] = 1000.0
    for name, frame in signals.targets(close, 4).items():
        pd.testing.assert_frame_equal(frame.iloc[:17], signals.targets(replaced, 4)[name].iloc[:17])


def test_daily_ic_equals_scipy_with_ties_and_holes():
    score, target = noisy_pair()
    result = signals.daily_ic(score, target)
    for day in score.index:
        pair = pd.DataFrame({"x": score.loc[day], "y": target.loc[day]}).dropna()
        assert result.loc[day, "n"] == len(pair)
        assert result.loc[day, "ic"] == pytest.approx(stats.pearsonr(pair.x, pair.y).statistic, abs=1e-12)
        assert result.loc[day, "rank_ic"] == pytest.approx(
            stats.spearmanr(pair.x, pair.y).statistic, abs=1e-12
        )


def test_daily_ic_equals_qlib():
    from qlib.contrib.eva.alpha import calc_ic

    score, target = noisy_pair(seed=3)
    ic, rank_ic = calc_ic(score.stack(), target.stack())
    result = signals.daily_ic(score, target)
    np.testing.assert_allclose(result["ic"], ic, atol=1e-12)
    np.testing.assert_allclose(result["rank_ic"], rank_ic, atol=1e-12)


def test_daily_ic_is_nan_on_thin_or_flat_days_and_aligns_by_name():
    score, target = noisy_pair(days=4)
    target.iloc[0, 4:] = np.nan
    score.iloc[1] = 0.1 + 0.2  # a constant whose mean is not exactly itself
    result = signals.daily_ic(score, target[target.columns[::-1]])
    assert result.iloc[:2][["ic", "rank_ic"]].isna().all().all()
    assert result.iloc[0]["n"] < 5
    assert result.iloc[2:][["ic", "rank_ic"]].notna().all().all()
    pd.testing.assert_frame_equal(result, signals.daily_ic(score, target))


def test_perfect_foresight_has_rank_ic_one_and_its_negative_minus_one():
    _, target = noisy_pair(seed=4)
    np.testing.assert_allclose(signals.daily_ic(target, target)["rank_ic"], 1)
    np.testing.assert_allclose(signals.daily_ic(-target, target)["rank_ic"], -1)
    np.testing.assert_allclose(signals.daily_ic(np.exp(target), target)["rank_ic"], 1)


def test_summary_is_plain_floats_and_survives_no_days():
    score, target = noisy_pair(seed=6)
    result = signals.summary(signals.daily_ic(score, target), 5)
    assert all(type(value) is float for value in result.values())
    ic = signals.daily_ic(score, target)["rank_ic"]
    assert result["rank_icir"] == pytest.approx(ic.mean() / ic.std())
    assert result["rank_ic_t"] == statistics.estimate(ic, 5).t
    assert result["days"] == 30
    empty = signals.summary(signals.daily_ic(score * np.nan, target), 5)
    assert empty["days"] == 0 and np.isnan(empty["rank_ic_mean"]) and np.isnan(empty["icir"])


def test_verdict_says_too_short_below_twenty_periods():
    assert statistics.verdict(57, 5) == "too short to tell (57 days, 11 independent 5-day periods)"
    assert statistics.verdict(1, 1) == "too short to tell (1 day, 1 independent 1-day period)"
    assert statistics.verdict(99, 5) != "" and statistics.verdict(100, 5) == ""


def test_equal_weight_by_hand():
    close = pd.DataFrame(
        {"A": [10, 11, 11, 12.1], "B": [20, 18, 18, 18], "C": [5, 5, 10, 10]}, DAYS[:4], dtype=float
    )
    member = pd.DataFrame(True, DAYS[:4], close.columns)
    member.loc[DAYS[0], "C"] = False
    member.loc[DAYS[3], "B"] = False
    returns = signals.equal_weight_returns(close, member)
    assert np.isnan(returns.iloc[0])
    assert returns.iloc[1] == pytest.approx((0.1 - 0.1) / 2)  # A and B; C has just come
    assert returns.iloc[2] == pytest.approx((0 + 0 + 1) / 3)
    assert returns.iloc[3] == pytest.approx((0.1 + 0) / 2)  # A and C

    costs = signals.equal_weight_costs(close, member, open_cost=0.01, close_cost=0.02)
    assert np.isnan(costs.iloc[0])
    assert costs.iloc[1] == pytest.approx(0.01)  # everything is bought
    # drifted to .55 and .45, then thirds: C .3333 bought, A .2167 and B .1167 sold
    assert costs.iloc[2] == pytest.approx(0.01 / 3 + 0.02 * (0.55 - 1 / 3 + 0.45 - 1 / 3))
    # drifted to .25, .25 and .5; then halves of A and C: A .25 bought, B .25 sold
    assert costs.iloc[3] == pytest.approx(0.01 * 0.25 + 0.02 * 0.25)


def test_equal_weight_loses_no_move_over_a_day_without_bars_or_members():
    close = pd.DataFrame({"A": [10, np.nan, 12], "B": [10, np.nan, 10]}, DAYS[:3], dtype=float)
    everyone = pd.DataFrame(True, DAYS[:3], close.columns)
    np.testing.assert_allclose(signals.equal_weight_returns(close, everyone), [np.nan, 0, 0.1])
    np.testing.assert_allclose(signals.equal_weight_returns(close, close.notna()), [np.nan, 0, 0.1])
    single = close.assign(B=[10.0, 11.0, 12.1])
    # A has no bar on the second day: a member, so valued at its last close
    np.testing.assert_allclose(signals.equal_weight_returns(single, everyone), [np.nan, 0.05, 0.15])
    costs = signals.equal_weight_costs(close, close.notna(), 0.01, 0.02)
    np.testing.assert_allclose(costs, [np.nan, 0, 0.01])


def test_equal_weight_ignores_later_days():
    random = np.random.default_rng(7)
    close = pd.DataFrame(random.uniform(5, 6, size=(30, 4)), DAYS, list("ABCD"))
    member = pd.DataFrame(random.random((30, 4)) < 0.8, DAYS, close.columns)
    later = close.copy()
    later.iloc[15:] *= 3
    pd.testing.assert_series_equal(
        signals.equal_weight_returns(close, member).iloc[:15],
        signals.equal_weight_returns(later, member).iloc[:15],
    )


def test_predictions_pickle_is_the_guides_dict_of_frames(tmp_path):
    index = pd.MultiIndex.from_product([DAYS[:2], ["B", "A"]], names=["as_of", "instrument"])
    frame = pd.DataFrame({name: np.arange(4.0) + place for place, name in enumerate(signals.SIGNALS)}, index)
    signals.predictions_pickle(frame, tmp_path / "predictions.pkl")
    read = pickle.loads((tmp_path / "predictions.pkl").read_bytes())
    assert list(read) == ["last", "mean", "max", "min"]
    assert read["mean"].index.equals(pd.DatetimeIndex(DAYS[:2])) and list(read["mean"].columns) == ["A", "B"]
    assert read["mean"].loc[DAYS[0], "B"] == 1.0


@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_ranks_of_rows_are_those_of_pandas(decimals):
    random = np.random.default_rng(decimals)
    values = random.normal(size=(30, 40)).round(decimals)
    values[3], values[4, :5] = 1.0, np.inf
    valid = (random.random(values.shape) < 0.8) & np.isfinite(values)
    expected = pd.DataFrame(np.where(valid, values, np.nan)).rank(axis=1).to_numpy()
    np.testing.assert_array_equal(signals.row_ranks(values, valid)[valid], expected[valid])
