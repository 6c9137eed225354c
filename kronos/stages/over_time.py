"""Too few instruments to rank: the verdict over time of a backtest, and the paired CRPS of two models."""

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.bars import CLOSE
from kronos.data.forecast_points import ForecastPoints
from kronos.data.splits import Ranges, session_range
from kronos.data.store import BarStore
from kronos.evaluation import accuracy, time_series
from kronos.evaluation.forecast_evaluation import Forecasts, Samples
from kronos.evaluation.statistics import independent_periods, paired, ratio
from kronos.forecast.store_forecaster import Forecaster, plain_rules
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


def compare_crps(mine: Forecaster, theirs: Forecaster, points: ForecastPoints) -> dict[str, float | str]:
    """The paired CRPS of two models' sample paths at temperature 1 on the same days: the skill of `mine`.

    `points` have the context that both need. Days are spaced evenly so that about evaluation_series forecasts remain.
    Returns what `promote.compare` returns, with `crps` and `champion_crps` for the mean scores, as fractions of the
    last close; the p-value is that of the mean difference.
    """
    store, horizon, rule = mine.store, mine.config.data.predict_window, mine.config.forecast
    sessions = np.unique(points.session)
    spacing = max(1, -(-len(points) // rule.evaluation_series))
    points = points.subset(np.isin(points.session, sessions[::spacing]))
    points = points.subset(points.session + horizon <= store.last_session)
    last = np.asarray(store.values[points.row, CLOSE], np.float64)
    first = int(points.session.min())
    close = wide_bars(store, first)["close"].to_numpy()
    place = points.session.astype(np.int64)[:, None] - first + np.arange(1, horizon + 1)
    came = close[place, points.instrument[:, None]] / last[:, None]
    rules = plain_rules(max(2, rule.evaluation_sample_count))
    daily = []
    for model in (mine, theirs):
        paths = model.closes(points, rules, "champion") / last[:, None, None]
        scores = accuracy.crps(np.moveaxis(paths, 1, 2), came)
        days = np.repeat(points.session[:, None], horizon, axis=1)
        daily.append(pd.Series(scores.ravel()).groupby(days.ravel()).mean().dropna())
    overlap = -(-horizon // spacing)
    quotient, low, high = ratio(daily[0].to_numpy(), daily[1].to_numpy(), overlap)
    return {
        "measure": "CRPS skill", "difference": 1 - quotient, "difference_low": 1 - high, "difference_high": 1 - low,
        "p": paired(daily[1], daily[0], horizon, spacing).p, "days": len(daily[0]) * spacing,
        "periods": independent_periods(len(daily[0]) * spacing, horizon), "crps": float(daily[0].to_numpy().mean()),
        "champion_crps": float(daily[1].to_numpy().mean()),
    }  # fmt: skip
