"""Which forecasts are drawn, and what their charts show: bars seen, forecast, bands, sample paths and what came."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.bars import CLOSE
from kronos.data.forecast_points import ForecastPoints
from kronos.data.store import BarStore
from kronos.evaluation.calibration import Calibration, recent_volatility
from kronos.evaluation.coverage import ends
from kronos.evaluation.forecast_evaluation import Forecasts
from kronos.forecast.store_forecaster import Forecaster
from kronos.report.forecast_chart import (
    ASKED,
    BEST,
    COLUMNS,
    MOST_SEEN,
    NO_FILLS,
    OTHER_DAY,
    RANDOM,
    TYPICAL,
    WORST,
    ForecastChart,
    bars_of,
)
from kronos.stages.calibration import context_closes, draw_moves, last_closes

EACH = 3  # instruments each with the best, typical and worst forecasts
EXAMPLES = 4  # random forecasts
DATES = 6  # forecasts of an instrument, spread evenly over the range
PATHS = 10  # sample paths in a chart
BANDS = (0.9, 0.5)


def asked_for(config: Config, store: BarStore, points: ForecastPoints) -> tuple[list[str], list[str]]:
    """The instruments of predict_figures that are forecast, and the others with the reason, as text."""
    wanted = config.forecast.predict_figures or ()
    known = {store.instruments[place] for place in np.unique(points.instrument)}
    why = dict(zip(points.excluded["instrument"], points.excluded["reason"], strict=True))
    missing = [f"{name} ({why.get(name, 'not in the store')})" for name in wanted if name not in known]
    return [name for name in wanted if name in known], missing


def backtest_charts(
    model: Forecaster,
    points: ForecastPoints,
    forecasts: Forecasts,
    forecast: pd.DataFrame,
    examples: np.ndarray,
    calibration: Calibration | None,
    trades: pd.DataFrame,
) -> list[ForecastChart]:
    """Charts of a fixed subset of a backtest's forecasts: best, typical, worst, asked for, and the `examples`.

    `forecast` has the mean bars of all points, one row per point and step, and `trades` the portfolio's fills.
    """
    chosen = _chosen(model, points, forecasts, examples)
    if not chosen:
        return []
    rows = np.unique([row for row, _ in chosen])
    part = points.subset(rows)
    bands, paths = _drawn(model, part, calibration)
    horizon = model.config.data.predict_window
    found = []
    for row, kind in chosen:
        place = int(np.searchsorted(rows, row))
        means = forecast.iloc[row * horizon : (row + 1) * horizon]
        fills = trades[trades["instrument"] == means["instrument"].iloc[0]]
        own = {share: (low[place], high[place]) for share, (low, high) in bands.items()}
        found.append(point_chart(model.store, part, place, means, own, paths[place], kind, fills))
    return found


def point_chart(
    store: BarStore,
    points: ForecastPoints,
    place: int,
    means: pd.DataFrame,
    bands: Mapping[float, tuple[np.ndarray, np.ndarray]],
    paths: np.ndarray,
    kind: str,
    fills: pd.DataFrame = NO_FILLS,
    shown: int = MOST_SEEN,
) -> ForecastChart:
    """The chart of one point with at most `shown` bars seen; `means` are its rows of a forecast frame, `fills` its
    instrument's trades.
    """
    row, whole = int(points.row[place]), store.symbol_rows(int(points.instrument[place]))
    first = max(whole.start, row + 1 - min(int(store.history[row]), shown))
    ahead = means.set_index("datetime").reindex(columns=list(COLUMNS))  # a model may forecast no volume
    later = bars_of(store, slice(row + 1, min(whole.stop, row + 1 + len(means))), real=True)
    return ForecastChart(
        instrument=store.instruments[int(points.instrument[place])], kind=kind,
        seen=bars_of(store, slice(first, row + 1)), forecast=ahead, came=later[later.index.isin(ahead.index)],
        bands=bands, paths=paths[:PATHS], fills=fills,
    )  # fmt: skip


def _chosen(
    model: Forecaster, points: ForecastPoints, forecasts: Forecasts, examples: np.ndarray
) -> list[tuple[int, str]]:
    """The points to draw, by their place, and why. The measure is the mean error of the closes over the horizon, in
    units of the volatility of the bars seen.
    """
    returns = forecasts.close.pct_change(fill_method=None)
    volatility = forecasts.at(returns.rolling(forecasts.lookback, min_periods=2).std())
    gap = np.abs(forecasts.close_NH / forecasts.last_N[:, None] - forecasts.realised()).mean(axis=1)
    error = np.divide(gap, volatility, out=np.full(len(gap), np.nan), where=volatility > 0)
    known = np.flatnonzero(np.isfinite(error))
    ordered = known[np.argsort(error[known], kind="stable")]
    middle = ordered[np.argsort(np.abs(np.arange(len(ordered)) - len(ordered) / 2), kind="stable")]
    found: list[tuple[int, str]] = []
    taken: set[int] = set()
    for kind, order in ((BEST, ordered), (WORST, ordered[::-1]), (TYPICAL, middle)):
        for row in _first_of_each(points.instrument, order, taken, EACH):
            found.append((row, kind))
            taken.add(int(points.instrument[row]))
    found += [
        (row, OTHER_DAY)
        for place in sorted(taken)
        for row in _spread(np.flatnonzero(points.instrument == place))
        if row not in {row for row, _ in found}
    ]
    for name in asked_for(model.config, model.store, points)[0]:
        place = model.store.instruments.index(name)
        found += [(row, ASKED) for row in _spread(np.flatnonzero(points.instrument == place))]
    return found + [(int(row), RANDOM) for row in examples[:EXAMPLES]]


def _first_of_each(instrument: np.ndarray, order: np.ndarray, taken: set[int], count: int) -> list[int]:
    """The first points of an order, of `count` different instruments that are not taken."""
    found: dict[int, int] = {}
    for row in order:
        if len(found) == count:
            break
        if int(instrument[row]) not in taken:
            found.setdefault(int(instrument[row]), int(row))
    return list(found.values())


def _spread(rows: np.ndarray) -> list[int]:
    """At most DATES of the rows, evenly spaced."""
    return [int(rows[place]) for place in np.unique(np.linspace(0, len(rows) - 1, DATES).round().astype(int))]


def _drawn(
    model: Forecaster, points: ForecastPoints, calibration: Calibration | None
) -> tuple[dict[float, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Bands of the closes, calibrated where a calibration is given, and sample paths of them, as prices."""
    rule, last = model.config.forecast, last_closes(model.store, points)
    levels = sorted(level for share in BANDS for level in ends(share))
    if calibration is None:
        flat = (1.0,) * model.config.data.predict_window
        moves = draw_moves(model, points, flat, rule.evaluation_sample_count, "candles")[..., CLOSE]
        quantiles = np.quantile(moves, levels, axis=1)
    else:
        drawn = draw_moves(model, points, calibration.temperatures, calibration.samples, "candles")
        recent = recent_volatility(context_closes(model, points), calibration.decay)
        quantiles = calibration.quantiles(drawn, recent, levels)[..., CLOSE]
        moves = calibration.paths(drawn, recent)[..., CLOSE]
    size = np.abs(last)[:, None]
    prices = last[:, None] + size * quantiles  # [levels, N, H], from the lowest level to the highest
    bands = {share: (prices[place], prices[-1 - place]) for place, share in enumerate(BANDS)}
    return bands, last[:, None, None] + size[..., None] * moves
