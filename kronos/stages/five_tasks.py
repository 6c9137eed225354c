"""Every model of a benchmark on the five tasks: prices, returns, volatility, synthetic bars, portfolio."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.bars import CLOSE, FEATURES, VOLUME, Flag
from kronos.data.extra_columns import model_columns
from kronos.data.forecast_points import ForecastPoints, contexts, future_stamps, gather_bars
from kronos.data.markets import sessions_per_year_of
from kronos.data.store import BarStore
from kronos.evaluation import departures, portfolio, signals, synthetic, tasks, time_series
from kronos.evaluation.benchmark import benchmark
from kronos.evaluation.calibration import DECAYS, recent_volatility
from kronos.evaluation.forecast_evaluation import Forecasts
from kronos.evaluation.statistics import estimate
from kronos.evaluation.synthetic import Series
from kronos.evaluation.tasks import Score
from kronos.evaluation.tradability import trading_costs, trading_mask
from kronos.forecast.keys import series_keys
from kronos.forecast.models import Windows, closes_of, sample_paths
from kronos.forecast.rollout import roll_out
from kronos.forecast.store_forecaster import (
    forecast_frame,
    plain_rules,
    random_order,
    stored_windows,
    trading_rules,
)
from kronos.report.leaderboard import Entry, Leaderboard
from kronos.stages.base import Context, Inputs
from kronos.stages.compared_models import Compared, KronosModel
from kronos.stages.evaluate import simulate
from kronos.stages.inputs import backtest_points, wide_bars
from kronos.utils.progress import Progress

AT_ONCE = 8  # batches whose contexts are in memory together
LEAST_SERIES = 20  # synthetic series, below which they are not judged
SMALLEST = 1e-6  # of a recent volatility


def compare(context: Context, inputs: Inputs, models: list[Compared], notes: list[str]) -> Leaderboard:
    """Score the models on the five tasks."""
    config, store, splits = context.config, inputs.store, inputs.splits
    assert store is not None and splits is not None
    rules, horizon = config.backtest, config.data.predict_window
    points = backtest_points(config, store, splits)
    first = int(points.session.min())
    bars = departures.pay_out(wide_bars(store, first), rules.backtest_delisting_return)
    mask = trading_mask(store, bars, "open", rules.backtest_limit_threshold)
    earned = signals.tradable_returns(bars["open"], bars["close"], horizon, mask)
    last = np.asarray(store.values[points.row, CLOSE], np.float64)
    realised = Forecasts(
        close_NH=np.empty((len(points), horizon)), last_N=last, day_N=points.session.astype(np.int64) - first,
        instrument_N=points.instrument.astype(np.int64), opening=bars["open"], close=bars["close"],
        lookback=config.data.lookback_window, tradable=mask,
    ).realised()  # fmt: skip
    whole = np.flatnonzero(points.session + horizon <= store.last_session)
    rows = whole[random_order(store, points.subset(whole))[: config.forecast.evaluation_series]]
    begun = synthetic_points(config, store, points)
    real = None if begun is None else real_bars(config, store, begun)
    if begun is None:
        notes = [
            *notes,
            f"No synthetic bars: the range has too few contexts that {config.benchmark.benchmark_bars} bars follow.",
        ]
    entries, traded = [], {}
    for one in models:
        context.say(f"benchmark: {one.name}")
        closes = mean_closes(config, store, points, one)
        table = score_table(store, points, closes, bars["close"])
        scores = {
            **_named("price", tasks.price_scores(closes / last[:, None], realised, points.session)),
            **_named("return", tasks.return_scores(signals.wide(table, rules.backtest_signal), earned, horizon)),
        }  # fmt: skip
        facts: dict[str, Score] = {}
        if not getattr(one.model, "point", False):
            paths = drawn_closes(config, store, points.subset(rows), one) / last[rows, None, None]
            scores |= _named(
                "volatility", tasks.volatility_scores(paths, realised[rows], points.session[rows])
            )
            if begun is not None and real is not None:
                made = synthetic_bars(config, store, begun, one)
                seed = config.training.seed
                scores["discriminative"] = synthetic.discriminative_accuracy(real, made, seed)
                scores |= _named("synthetic", synthetic.train_on_synthetic(made, real, horizon, seed))
                facts = synthetic.stylised_facts(made)
        traded[one.name] = table[rules.backtest_signal]
        entries.append(Entry(one.name, scores, facts))
    portfolios = investment(context, inputs, traded, bars)
    entries = [Entry(one.name, {**one.scores, **portfolios[one.name]}, one.facts) for one in entries]
    first_day, last_day = splits.backtest
    return Leaderboard(
        entries=entries, real={} if real is None else synthetic.stylised_facts(real),
        horizon=horizon, lookback=config.data.lookback_window, bars=config.benchmark.benchmark_bars,
        forecasts=len(points), instruments=len(np.unique(points.instrument)), days=len(np.unique(points.session)),
        first=str(first_day), last=str(last_day), signal=rules.backtest_signal, sampled=len(rows),
        series=0 if begun is None else len(begun),
        universe=str(store.source.get("universe", f"{len(store.instruments)} instruments")), notes=notes,
    )  # fmt: skip


def _named(task: str, scores: Mapping[str, Score]) -> dict[str, Score]:
    return {f"{task}_{name}": value for name, value in scores.items()}


def mean_closes(config: Config, store: BarStore, points: ForecastPoints, one: Compared) -> np.ndarray:
    """Mean close of each point's sample paths, float64 [N, H]."""
    if isinstance(one.model, KronosModel):  # by all processes of the run
        means, _ = one.model.pair.means(points, trading_rules(config), one.name)
        return means[..., CLOSE].astype(np.float64)
    found = np.empty((len(points), config.data.predict_window))
    size = AT_ONCE * config.forecast.backtest_batch_size
    samples = 1 if getattr(one.model, "point", False) else config.forecast.inference_sample_count
    with Progress(one.name) as progress:
        for start in range(0, len(points), size):
            part = points.subset(np.arange(start, min(start + size, len(points))))
            windows = stored_windows(
                config, store, part, config.data.predict_window, model_columns(config.data)
            )
            paths = sample_paths(one.name, one.model, windows, samples, whole=False)
            # in float32 first, as the stored forecasts of a backtest are
            found[start : start + size] = closes_of(paths).astype(np.float32).mean(axis=1)
            progress(start + len(part), len(points))
    return found


def drawn_closes(config: Config, store: BarStore, points: ForecastPoints, one: Compared) -> np.ndarray:
    """Closes of paths from the model's own distribution, float64 [N, S, H]."""
    if isinstance(one.model, KronosModel):
        rules = plain_rules(config.forecast.evaluation_sample_count)
        return one.model.pair.closes(points, rules, one.name)
    windows = stored_windows(config, store, points, config.data.predict_window, model_columns(config.data))
    return closes_of(
        sample_paths(one.name, one.model, windows, config.forecast.evaluation_sample_count, whole=True)
    )


def score_table(
    store: BarStore, points: ForecastPoints, closes: np.ndarray, close: pd.DataFrame
) -> pd.DataFrame:
    """Every signal of the mean closes, as a backtest computes them."""
    means = np.full((*closes.shape, len(FEATURES)), np.nan, np.float32)
    means[..., CLOSE] = closes
    return signals.score(close, forecast_frame(store, points, means, FEATURES))


def synthetic_points(config: Config, store: BarStore, points: ForecastPoints) -> ForecastPoints | None:
    """The contexts that synthetic bars continue: those that are followed by as many real bars; None if too few."""
    count = config.benchmark.benchmark_bars
    able = points.row + count < len(store.values)
    part = points.subset(np.flatnonzero(able))
    ahead = part.row[:, None] + np.arange(1, count + 1)
    same = np.asarray(store.instrument_of_row)[ahead[:, -1]] == part.instrument
    # consecutive sessions, and no bar that was filled in
    same &= np.asarray(store.session)[ahead[:, -1]] == part.session + count
    same &= ((np.asarray(store.flags)[ahead] & Flag.FILLED) == 0).all(axis=1)
    part = part.subset(np.flatnonzero(same))
    part = part.subset(random_order(store, part)[: config.forecast.evaluation_series])
    return part if len(part) >= LEAST_SERIES else None


def real_bars(config: Config, store: BarStore, points: ForecastPoints) -> Series:
    """The bars that came after each context."""
    ahead = gather_bars(store, points.row + 1, config.benchmark.benchmark_bars, model_columns(config.data))
    return _series(config, store, points, ahead.astype(np.float64))


def synthetic_bars(config: Config, store: BarStore, points: ForecastPoints, one: Compared) -> Series:
    """Bars that the model draws after each context, one horizon at a time."""
    count, horizon = config.benchmark.benchmark_bars, config.data.predict_window
    windows = stored_windows(config, store, points, count, model_columns(config.data))
    names = [store.instruments[place] for place in points.instrument]
    _, times = future_stamps(store, points.session, count)
    closes_only = False

    def draw(block: Windows) -> np.ndarray:
        nonlocal closes_only
        paths = sample_paths(one.name, one.model, block, 1, whole=True)[:, 0]
        closes_only = paths.ndim == 2
        if closes_only:  # the bars of a model of closes: no range, and the volume of the last bar
            bars = np.repeat(paths[..., None], block.bars.shape[2], axis=2)
            bars[..., VOLUME:] = block.bars[:, -1:, VOLUME:]
            return bars
        return paths

    with Progress(f"{one.name}, synthetic") as progress:
        bars, _ = roll_out(
            draw,
            windows,
            horizon,
            lambda begin: series_keys(names, times[:, begin]),
            progress,
            model_columns(config.data),
        )
    bars = bars.astype(np.float64)
    return _series(config, store, points, bars[..., CLOSE] if closes_only else bars)


def _series(config: Config, store: BarStore, points: ForecastPoints, bars: np.ndarray) -> Series:
    seen, _ = contexts(store, points.row, config.data.lookback_window, model_columns(config.data))
    return Series(
        bars, seen[:, -1, CLOSE].astype(np.float64),
        np.maximum(recent_volatility(seen[..., CLOSE], DECAYS[-1]), SMALLEST),
        seen[..., VOLUME:].astype(np.float64).mean(axis=1), points.session.astype(np.int64),
        synthetic.groups_of(points.instrument, points.session),
    )  # fmt: skip


def investment(
    context: Context, inputs: Inputs, traded: Mapping[str, pd.Series], bars: Mapping[str, pd.DataFrame]
) -> dict[str, dict[str, Score]]:
    """Annualised excess return and information ratio of every model's portfolio, after costs.

    The top of the ranking in Qlib over the equal weight of the members; with fewer than five instruments, long or
    flat by the sign of the signal over buy and hold.
    """
    config, store, splits = context.config, inputs.store, inputs.splits
    assert store is not None and splits is not None
    rules = config.backtest
    days = pd.DatetimeIndex(bars["close"].index)
    costs = trading_costs(
        store.calendar, days, rules.backtest_open_cost, rules.backtest_close_cost, rules.backtest_min_cost
    )
    year, horizon = sessions_per_year_of(store, *splits.backtest), config.data.predict_window
    if len({name for one in traded.values() for name in one.index.unique("instrument")}) < signals.MIN_NAMES:
        found = {}
        for name, one in traded.items():
            ledgers = time_series.ledgers(
                one.unstack("instrument"), bars["open"], costs=costs[:2], funding=rules.backtest_funding_rate,
                periods_per_year=year,
            )  # fmt: skip
            gap = ledgers["long_flat"].daily["net"] - ledgers["hold"].daily["net"]
            found[name] = _over_the_year(gap, 1, year)
        return found
    compared = benchmark(config, store, bars["close"], bars["member"], *costs[:2])
    at_deal = trading_mask(store, bars, rules.backtest_deal_price, rules.backtest_limit_threshold)
    results = simulate(config, splits, store, traded, compared, bars, at_deal, costs, year)
    weight = compared.others["equal_weight"][1]
    nets = {name: one.daily["return"] - one.daily["cost"] for name, one in results.items()}
    return {
        name: _over_the_year(net - weight.reindex(net.index), horizon, year) for name, net in nets.items()
    }


def _over_the_year(gap: pd.Series, horizon: int, year: float) -> dict[str, Score]:
    """The excess per year and the information ratio of daily excess returns; the ratio's interval is the excess's."""
    found, ratio = estimate(gap, horizon), portfolio.figures(gap, year)["information_ratio"]
    per_unit = ratio / found.mean if found.mean else float("nan")
    return {
        "excess_return": Score(found.mean * year, found.low * year, found.high * year, gap * year),
        "information_ratio": Score(ratio, found.low * per_unit, found.high * per_unit),
    }
