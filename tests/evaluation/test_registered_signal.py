"""A signal that a user registers, without a change to the package, goes wherever the built-in ones go."""

import pickle
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from kronos.config import registries
from kronos.evaluation import signals
from kronos.evaluation.forecast_evaluation import Before, Forecasts, rank
from kronos.evaluation.qlib_backtest import run_backtests
from kronos.evaluation.qlib_store import write_qlib_store
from kronos.evaluation.signals import register_signal
from kronos.evaluation.tradability import tradability
from kronos.utils.errors import UserError

HORIZON, LOOKBACK, DAYS, INSTRUMENTS = 4, 5, 30, 8
BUILT_IN = ["last", "mean", "max", "min"]


@pytest.fixture(autouse=True)
def only_built_in_signals_afterwards() -> Iterator[None]:
    yield
    for name in registries.SIGNALS[len(BUILT_IN) :]:
        registries.SIGNALS.remove(name)
        del signals.REDUCTIONS[name]


def median(closes: np.ndarray) -> np.ndarray:
    return np.median(closes, axis=-1)


def bars() -> tuple[pd.DataFrame, pd.DataFrame]:
    random = np.random.default_rng(0)
    index = pd.bdate_range("2024-01-01", periods=LOOKBACK + DAYS + HORIZON + 1, name="datetime")
    columns = pd.Index([f"S{place}" for place in range(INSTRUMENTS)], name="instrument")
    close = pd.DataFrame(
        50 * np.exp(random.normal(0, 0.02, (len(index), INSTRUMENTS)).cumsum(0)), index, columns
    )
    return close.shift(1).bfill(), close


def foresight(close: pd.DataFrame) -> tuple[Forecasts, pd.DataFrame]:
    """Forecasts that are exactly what came, and their scores."""
    day, instrument = (grid.reshape(-1) for grid in np.mgrid[LOOKBACK : LOOKBACK + DAYS, 0:INSTRUMENTS])
    came = close.to_numpy()[day[:, None] + np.arange(1, HORIZON + 1), instrument[:, None]]
    frame = pd.DataFrame({
        "instrument": np.repeat(close.columns.to_numpy()[instrument], HORIZON),
        "as_of": np.repeat(close.index.to_numpy()[day], HORIZON),
        "step": np.tile(np.arange(1, HORIZON + 1), len(day)), "close": came.reshape(-1),
    })  # fmt: skip
    scores = signals.scores(frame, pd.Series(close.rename_axis(index="as_of").stack()))
    forecasts = Forecasts(
        close_NH=came, last_N=close.to_numpy()[day, instrument], day_N=day, instrument_N=instrument,
        opening=close.shift(1).bfill(), close=close, lookback=LOOKBACK,
        tradable=tradability(close.shift(1).bfill(), close),
    )  # fmt: skip
    return forecasts, scores


def test_one_function_reduces_predicted_and_realised_closes_so_that_foresight_is_exact():
    register_signal("median", median)
    register_signal("falling", lambda closes: closes[..., 0] - closes[..., -1] + closes[..., 0])
    assert [*BUILT_IN, "median", "falling"] == registries.SIGNALS
    _, close = bars()
    forecasts, scores = foresight(close)
    assert list(scores.columns) == registries.SIGNALS
    for name, target in signals.targets(close, HORIZON).items():
        got = signals.wide(scores, name)
        pd.testing.assert_frame_equal(got, target.loc[got.index], check_exact=True, check_names=False)
    np.testing.assert_allclose(scores["median"], np.median(forecasts.close_NH, axis=1) / forecasts.last_N - 1)


def test_a_registered_signal_is_ranked_pickled_and_traded_beside_the_built_in_ones(tmp_path):
    register_signal("median", median)
    opening, close = bars()
    forecasts, scores = foresight(close)
    ranked = rank(forecasts, scores, signal="median", seeds=2, before=Before())
    assert all(list(worths) == [*BUILT_IN, "median"] for worths in ranked.worths.values())
    assert ranked.worths["predicted"]["median"].rank_ic.mean == pytest.approx(1)
    assert np.isnan(ranked.worths["tradable"]["median"].p_holm)
    assert np.isfinite(ranked.worths["tradable"]["mean"].p_holm)

    signals.predictions_pickle(scores, tmp_path / "predictions.pkl")
    assert list(pickle.loads((tmp_path / "predictions.pkl").read_bytes())) == [*BUILT_IN, "median"]

    long = close.stack().rename("close").reset_index()
    long = long.assign(open=opening.stack().to_numpy(), volume=1e6, amount=5e7)
    long["high"], long["low"] = long[["open", "close"]].max(axis=1), long[["open", "close"]].min(axis=1)
    store = write_qlib_store(long.sort_values(["instrument", "datetime"]), tmp_path / "bars", close.index)
    results = run_backtests(
        store, {name: scores[name] for name in signals.SIGNALS}, close.index[LOOKBACK], close.index[-2],
        topk=2, n_drop=1, hold_thresh=1, account=1e6, open_cost=0.0, close_cost=0.0, min_cost=0.0,
        deal_price="open", benchmark=pd.Series(0.0, close.index), periods_per_year=252,
    )  # fmt: skip
    assert list(results) == [*BUILT_IN, "median"] and not results["median"].trades.empty


def test_without_registration_only_the_built_in_signals_are_there():
    assert registries.SIGNALS == BUILT_IN == list(signals.REDUCTIONS)
    assert signals.SIGNALS is registries.SIGNALS


def test_registering_again_replaces_the_function_and_keeps_one_entry():
    register_signal("own", median)
    register_signal("own", lambda closes: closes[..., 0])
    _, close = bars()
    assert registries.SIGNALS.count("own") == 1
    first_step = close.shift(-1) / close - 1
    got = signals.targets(close, 3)["own"].iloc[:-3]
    np.testing.assert_allclose(got, first_step.iloc[:-3])


@pytest.mark.parametrize(
    ("name", "words"),
    [("mean", "built in"), ("my signal", "not usable"), ("a/b", "not usable"), ("random_0", "not usable")],
)
def test_a_name_that_is_taken_or_cannot_name_files_and_metrics_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        register_signal(name, median)
    assert registries.SIGNALS == BUILT_IN


def test_a_reduction_of_the_wrong_shape_is_refused_in_one_line():
    register_signal("whole", lambda closes: np.median(closes))
    with pytest.raises(
        UserError, match=r"signal 'whole' reduced closes of shape .* reduce the last axis only"
    ):
        signals.targets(bars()[1], 3)


def test_a_reduction_cannot_change_the_closes_that_other_signals_see():
    def sorting(closes: np.ndarray) -> np.ndarray:
        closes.sort(axis=-1)
        return closes[..., 0]

    register_signal("sorting", sorting)
    with pytest.raises(ValueError, match="read-only"):
        signals.targets(bars()[1], 3)


def test_a_reduction_sees_no_nan_and_long_histories_are_gathered_in_parts(monkeypatch):
    def strict(closes: np.ndarray) -> np.ndarray:
        assert np.isfinite(closes).all() and closes.ndim == 2
        return closes.mean(axis=-1)

    register_signal("strict", strict)
    _, close = bars()
    close = close.mask(np.random.default_rng(1).random(close.shape) < 0.3)
    close.iloc[:9, 0] = np.nan  # listed later
    whole = signals.targets(close, 3)
    monkeypatch.setattr(signals, "WINDOW_VALUES", 3 * INSTRUMENTS * 4)
    for name, frame in signals.targets(close, 3).items():
        pd.testing.assert_frame_equal(frame, whole[name], check_exact=True)
    np.testing.assert_allclose(whole["strict"], whole["mean"], rtol=1e-9)
