"""300 instruments x 240 days, given forecasts: the whole evaluation and its report, Qlib's own simulation apart.

python -m pytest tests/bench/test_evaluation_speed.py -m bench -s
"""

import time

import numpy as np
import pandas as pd
import pytest

from kronos.evaluation import large_moves, portfolio, signals
from kronos.evaluation.forecast_evaluation import Before, Forecasts, Samples, measure, rank
from kronos.evaluation.qlib_backtest import BacktestResult
from kronos.evaluation.tear_sheet import tear_sheet
from kronos.evaluation.tradability import tradability
from kronos.report.writer import Portfolio, ReportInputs, write_report

NAMES, DAYS, LOOKBACK, HORIZON, SERIES, SAMPLES = 300, 240, 90, 10, 500, 20
NOTHING = pd.DataFrame({"datetime": pd.DatetimeIndex([]), "instrument": [], "value": np.zeros(0)})
LIMIT = 60.0  # seconds on two cores


@pytest.mark.bench
def test_300_instruments_times_240_days_are_evaluated_in_under_a_minute(tmp_path):
    random = np.random.default_rng(0)
    index = pd.bdate_range("2023-01-02", periods=LOOKBACK + DAYS, name="datetime")
    columns = pd.Index([f"N{place:03d}" for place in range(NAMES)], name="instrument")
    close = pd.DataFrame(50 * np.exp(random.normal(0, 0.02, (len(index), NAMES)).cumsum(0)), index, columns)
    opening = close.shift(1).bfill()
    day, instrument = (grid.reshape(-1) for grid in np.mgrid[LOOKBACK : LOOKBACK + DAYS, 0:NAMES])
    last = close.to_numpy()[day, instrument]
    predicted = last[:, None] * np.exp(random.normal(0, 0.01, (len(day), HORIZON)).cumsum(1))
    forecast = pd.DataFrame({
        "instrument": np.repeat(columns.to_numpy()[instrument], HORIZON),
        "as_of": np.repeat(index.to_numpy()[day], HORIZON),
        "step": np.tile(np.arange(1, HORIZON + 1), len(day)), "close": predicted.reshape(-1),
    })  # fmt: skip
    daily = pd.DataFrame(
        {"return": random.normal(0, 0.01, DAYS), "cost": 2e-4, "bench": 0.0, "turnover": 0.1, "account": 1e8,
         "cash": 0.0, "value": 1e8, "holdings": 50}, index[LOOKBACK:],
    )  # fmt: skip
    paths = np.exp(random.normal(0, 0.02, (SERIES, SAMPLES, HORIZON)).cumsum(-1))
    rows = random.permutation(len(day) - HORIZON * NAMES)[:SERIES]

    began = time.perf_counter()
    scores = signals.scores(forecast, pd.Series(close.rename_axis(index="as_of").stack()))
    forecasts = Forecasts(
        close_NH=predicted, last_N=last, day_N=day, instrument_N=instrument, opening=opening, close=close,
        lookback=LOOKBACK, tradable=tradability(opening, close),
    )  # fmt: skip
    before = Before(score=signals.wide(scores, "last").iloc[::HORIZON], spacing=HORIZON)
    ranked = rank(forecasts, scores, signal="mean", seeds=20, before=before)
    accurate = measure(forecasts, [Samples("plain", paths, rows), Samples("trading", paths, rows)])
    one = Portfolio(daily=daily, risk=portfolio.risk(daily, 252), turnover=0.1)
    held = BacktestResult(daily, NOTHING.assign(side=""), NOTHING, {}, 0.1, ())
    moves = large_moves.measure(
        forecasts, signals.wide(scores, "mean"), close > close.quantile(0.999), 0, held, 252
    )
    inputs = ReportInputs(
        universe="made up", benchmark="nothing", signal="mean", horizon=HORIZON, lookback=LOOKBACK, seed=1, topk=50,
        n_drop=5, hold_thresh=5, account=1e8, open_cost=0.001, close_cost=0.001, min_cost=5, deal_price="open",
        limit_threshold=None, scored=len(day), excluded={}, repaired_bars=0, model_digests={}, ranking=ranked,
        before=before, accuracy=accurate, portfolios=dict.fromkeys(signals.SIGNALS, one),
        excesses=portfolio.excesses(daily, {"equal_weight": ("nothing", daily["bench"])}, HORIZON, 252),
        large_moves=moves, periods_per_year=252, tear_sheet=tear_sheet(daily, NOTHING, close, 252, LOOKBACK),
        random_net=pd.DataFrame(random.normal(0, 0.01, (DAYS, 20)), daily.index),
    )  # fmt: skip
    evaluated = time.perf_counter() - began
    write_report(tmp_path, inputs)
    seconds = time.perf_counter() - began
    print(f"\n{NAMES} instruments x {DAYS} days, horizon {HORIZON}: evaluated in {evaluated:.1f} s, with report and "
          f"figures {seconds:.1f} s")  # fmt: skip
    assert seconds < LIMIT
