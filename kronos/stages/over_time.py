"""The verdict over time of a backtest with too few instruments to rank, from its forecasts and the store's bars."""

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.splits import Ranges, session_range
from kronos.data.store import BarStore
from kronos.evaluation import time_series
from kronos.evaluation.forecast_evaluation import Forecasts, Samples
from kronos.stages.inputs import wide_bars


def verdict(
    config: Config,
    store: BarStore,
    splits: Ranges,
    forecasts: Forecasts,
    samples: list[Samples],
    signal: pd.DataFrame,
    costs: tuple[float, float],
    periods_per_year: float,
) -> time_series.TimeSeries:
    """Compare the forecasts with naive ones; `signal` is wide, and instruments without a forecast are left out."""
    lookback, horizon = config.data.lookback_window, forecasts.horizon
    close = wide_bars(store, 0)["close"]
    day = (
        store.sessions.searchsorted(pd.DatetimeIndex(forecasts.close.index).as_unit("ns").asi8[0])
        + forecasts.day_N
    )
    sessions = pd.DatetimeIndex(store.sessions[: store.last_session + 1])
    per_day = int(pd.Series(sessions.normalize()).value_counts().median())
    season = time_series.season_of(store.freq, per_day)
    fitted_until = session_range(store, *splits.val)[1] + 1
    place = forecasts.instrument_N
    deviations, note = time_series.volatility_baselines(close, day, place, horizon, lookback, fitted_until)
    known = signal.columns[signal.notna().any()]
    drawn = samples[0] if samples else None
    return time_series.measure(
        predicted_NH=forecasts.close_NH / forecasts.last_N[:, None], realised_NH=forecasts.realised(),
        day_N=day, naive=time_series.naive_forecasts(close, day, place, horizon, lookback, season),
        samples_NSH=drawn.paths_NSH if drawn else None,
        sampled=drawn.rows if drawn else np.zeros(0, int), deviations=deviations, note=note,
        traded=time_series.ledgers(
            signal[known], forecasts.opening, costs=costs, funding=config.backtest.backtest_funding_rate,
            periods_per_year=periods_per_year,
        ),
    )  # fmt: skip
