"""The log of forecasts, and its scorecard against a computation by hand."""

import numpy as np
import pandas as pd
import pytest

from kronos.evaluation.forecast_log import added, drift, scorecard, skill_verdict
from kronos.evaluation.statistics import estimate

DAYS = pd.date_range("2024-01-01", periods=40, freq="B")
NAMES = [f"N{number}" for number in range(6)]
HORIZON = 2


@pytest.fixture
def close() -> pd.DataFrame:
    generator = np.random.default_rng(1)
    moves = generator.normal(0, 0.02, (len(DAYS), len(NAMES)))
    return pd.DataFrame(100 * np.exp(np.cumsum(moves, axis=0)), DAYS, NAMES)


def forecast_of(close: pd.DataFrame, day: int) -> pd.DataFrame:
    """Forecasts as of a day, with some of the truth in them; bands of 3 % each way."""
    generator = np.random.default_rng(day)
    rows = []
    for place, name in enumerate(NAMES):
        for step in range(1, HORIZON + 1):
            ahead = DAYS[day] + step * pd.offsets.BDay()
            last = close.iloc[day, place]
            truth = close.iloc[min(day + step, len(DAYS) - 1), place] / last - 1
            value = last * (1 + 0.5 * truth + generator.normal(0, 0.005))
            rows.append((name, DAYS[day], ahead, step, value, last * 0.97, last * 1.03))
    columns = ["instrument", "as_of", "datetime", "step", "close", "close_q0.05", "close_q0.95"]
    return pd.DataFrame(rows, columns=columns).assign(**{"close_q0.5": 0.0})


def whole_log(close: pd.DataFrame) -> pd.DataFrame:
    log = None
    for day in range(10, 36):
        log = added(log, forecast_of(close, day), close.iloc[day], "model", "2024-01-01 00:00")
    assert log is not None
    return log


def test_a_forecast_is_kept_once_and_never_changed(close: pd.DataFrame) -> None:
    log = added(None, forecast_of(close, 10), close.iloc[10], "model", "then")
    assert len(log) == len(NAMES) * HORIZON
    changed = forecast_of(close, 10).assign(close=1.0)
    assert added(log, changed, close.iloc[10] * 2, "model", "later") is log
    both = added(log, changed, close.iloc[10], "another", "later")
    pd.testing.assert_frame_equal(both.iloc[: len(log)], log)
    assert len(both) == 2 * len(log) and (both["close"].iloc[len(log) :] == 1).all()


def test_the_scorecard_is_that_of_a_computation_by_hand(close: pd.DataFrame) -> None:
    known = close.iloc[:30]  # forecasts of the last two days have not come to their end
    log = whole_log(close)
    log = log[log["as_of"] < DAYS[30]]
    card = scorecard(log, known, "last")
    inside, ranks, errors, naive = [], [], [], []
    for day in range(10, 28):
        own = forecast_of(close, day)
        predicted, realised, held = [], [], []
        for name in NAMES:
            last = close[name].iloc[day]
            rows = own[own["instrument"] == name]
            predicted.append(rows["close"].iloc[-1] / last - 1)
            realised.append(close[name].iloc[day + HORIZON] / last - 1)
            held += [
                row["close_q0.05"] <= close[name].iloc[day + row["step"]] <= row["close_q0.95"]
                for _, row in rows.iterrows()
            ]
        inside.append(np.mean(held))
        ranks.append(pd.Series(predicted).corr(pd.Series(realised), method="spearman"))
        errors.append(np.mean(np.abs(np.subtract(predicted, realised))))
        naive.append(np.mean(np.abs(realised)))
    assert (card.days, card.forecasts, card.waiting) == (18, 18 * len(NAMES), 2 * len(NAMES))
    assert card.skill[0] == pytest.approx(1 - np.mean(errors) / np.mean(naive)) and card.skill[0] > 0.2
    assert card.skill[1] < card.skill[0] < card.skill[2]
    for found, values in ((card.coverage, inside), (card.rank_ic, ranks)):
        expected = estimate(np.array(values), HORIZON)
        assert (found.mean, found.low, found.high) == pytest.approx(
            (expected.mean, expected.low, expected.high)
        )


def test_a_split_in_between_changes_no_score(close: pd.DataFrame) -> None:
    log = whole_log(close)
    later = close.copy()
    later["N2"] /= 3  # the store has the past on the basis of today
    first, second = scorecard(log, close, "mean").values(), scorecard(log, later, "mean").values()
    assert first == pytest.approx(second)


def test_without_a_finished_forecast_nothing_is_claimed(close: pd.DataFrame) -> None:
    log = added(None, forecast_of(close, 10), close.iloc[10], "model", "then")
    assert scorecard(log, close.iloc[:12], "last").values() == {"days": 0, "forecasts": 0, "waiting": 6}


def test_drift_is_said_where_the_intervals_have_parted() -> None:
    live = {"coverage": 0.7, "coverage_low": 0.65, "coverage_high": 0.75, "rank_ic": 0.02, "rank_ic_low": -0.01,
            "rank_ic_high": 0.05}  # fmt: skip
    tested = {"coverage_90_calibrated_low": 0.86, "coverage_90_calibrated_high": 0.92, "predicted_rank_ic_low": 0.01,
              "predicted_rank_ic_high": 0.06}  # fmt: skip
    (sentence,) = drift(live, tested)
    assert sentence.startswith(
        "coverage 0.700 (0.650 to 0.750) has left the backtest's interval, 0.860 to 0.920"
    )
    assert (
        drift(live, tested, band=80) == []
        and drift(live, {}) == []
        and drift({"coverage": 0.1}, tested) == []
    )


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        ({"days": 0.0}, "No forecast has come"),
        ({"days": 1.0, "skill": 0.2}, "Too few days"),
        ({"days": 9.0, "skill_low": 0.1, "skill_high": 0.3}, "Better than no change"),
        ({"days": 9.0, "skill_low": -0.3, "skill_high": -0.1}, "Worse than no change"),
        ({"days": 9.0, "skill_low": -0.1, "skill_high": 0.1}, "Not told apart"),
    ],
)
def test_the_verdict_is_that_of_the_interval_of_the_skill(card: dict[str, float], sentence: str) -> None:
    assert skill_verdict(card).startswith(sentence)
