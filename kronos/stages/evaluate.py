"""Evaluate forecasts: scores, baselines, sample paths of a subset, portfolios, and the report."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kronos.config.schema import Config
from kronos.data import markets
from kronos.data.bars import CLOSE, FEATURES
from kronos.data.forecast_points import ForecastPoints
from kronos.data.splits import Ranges, session_range
from kronos.data.store import BarStore
from kronos.evaluation import (
    boosted_trees,
    departures,
    forecast_evaluation,
    held_out,
    large_moves,
    portfolio,
    ranking,
    signals,
)
from kronos.evaluation.benchmark import Benchmark, benchmark
from kronos.evaluation.forecast_evaluation import Before, Forecasts, Samples
from kronos.evaluation.qlib_backtest import FIELDS as TRADED_FIELDS
from kronos.evaluation.qlib_backtest import BacktestResult, run_backtests
from kronos.evaluation.qlib_store import qlib_freq, write_qlib_store
from kronos.evaluation.tear_sheet import tear_sheet
from kronos.evaluation.tradability import Tradability, trading_costs, trading_mask
from kronos.forecast.store_forecaster import Forecaster, forecaster, plain_rules, random_order, trading_rules
from kronos.report.saved_content import save
from kronos.report.writer import Portfolio, ReportInputs, write_report
from kronos.stages.base import Context, Inputs
from kronos.stages.calibration import coverages
from kronos.stages.forecast_charts import backtest_charts
from kronos.stages.forgetting import forgetting_of
from kronos.stages.inputs import wide_bars
from kronos.stages.members import member_figures, on_some_days
from kronos.stages.over_time import verdict
from kronos.stages.provenance import seen_before
from kronos.stages.test_loss import test_losses
from kronos.stages.weights import pair_before
from kronos.utils.errors import UserError
from kronos.utils.heap import release_heap
from kronos.utils.names import file_name


def evaluate(
    context: Context,
    inputs: Inputs,
    model: Forecaster,
    points: ForecastPoints,
    forecast: pd.DataFrame,
    repaired: int,
    folder: Path,
    looks_before: int = 0,
) -> dict[str, float]:
    """Evaluate the forecasts and write the report into `folder`; returns the metrics.

    `forecast` has one row per point and step (instrument, as_of, datetime, step, features); `repaired` is the number
    of repaired forecast bars; `looks_before` how many other models were evaluated on these days before.
    """
    config, store, splits = context.config, model.store, inputs.splits
    assert splits is not None
    rules = config.backtest
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    first = int(points.session.min())
    start = max(0, first - lookback)
    plain = wide_bars(store, start)
    bars = departures.pay_out(plain, rules.backtest_delisting_return)
    context.say("evaluation: scores")
    scores = signals.score(bars["close"], forecast)
    signals.predictions_pickle(scores, folder / "predictions.pkl")
    tradable = trading_mask(store, bars, "open", rules.backtest_limit_threshold)
    forecasts = Forecasts(
        close_NH=forecast["close"].to_numpy(dtype=np.float64).reshape(len(points), -1),
        last_N=np.asarray(store.values[points.row, CLOSE], dtype=np.float64),
        day_N=points.session.astype(np.int64) - start, instrument_N=points.instrument.astype(np.int64),
        opening=bars["open"], close=bars["close"], lookback=lookback, tradable=tradable,
    )  # fmt: skip
    context.say("evaluation: model before training")
    before = before_training(context, inputs, model, points, bars["close"])
    trained = trained_baselines(context, splits, store, bars["close"])
    context.say("evaluation: ranking and baselines")
    ranked = forecast_evaluation.rank(
        forecasts, scores, signal=rules.backtest_signal, seeds=rules.baseline_seeds, before=before,
        trained=trained,
    )  # fmt: skip
    names, maybe_seen = inputs.models.held_out()
    apart = held_out.measure(forecasts, signals.wide(scores, rules.backtest_signal), names, maybe_seen)
    context.say("evaluation: sample paths and bands")
    samples = sample_paths(model, points, forecasts)
    members = member_figures(context, model, points, forecasts, scores, samples)
    bands = {}
    if samples:
        rows, fitted = samples[0].rows, inputs.calibration.calibration
        raw, realised = samples[0].paths_NSH, forecasts.realised()[rows]
        bands = coverages(model, points.subset(rows), raw, realised, fitted)
    context.say("evaluation: test loss")
    losses = test_losses(context, inputs)
    context.say("evaluation: accuracy")
    accurate = forecast_evaluation.measure(forecasts, samples)
    within = {name: bars[name].iloc[first - start :] for name in ("close", "member")}
    traded = pd.DatetimeIndex(within["close"].index)
    costs = trading_costs(
        store.calendar, traded, rules.backtest_open_cost, rules.backtest_close_cost, rules.backtest_min_cost
    )
    for line in markets.describe(store.calendar, *splits.backtest):
        context.say(f"  {line}")
    compared = benchmark(config, store, within["close"], within["member"], *costs[:2])
    year = markets.sessions_per_year_of(store, *splits.backtest)
    at_deal = trading_mask(store, bars, rules.backtest_deal_price, rules.backtest_limit_threshold)
    paid = {name: frame.iloc[first - start :] for name, frame in bars.items()}
    traded_signals = {name: scores[name] for name in signals.SIGNALS}
    for seed, chance in enumerate(
        ranking.random_rankings(signals.wide(scores, rules.backtest_signal), rules.baseline_seeds)
    ):
        traded_signals[f"random_{seed}"] = pd.Series(chance.stack())
    context.say(f"evaluation: {len(traded_signals)} simulated portfolios")
    release_heap()
    results = simulate(config, splits, store, traded_signals, compared, paid, at_deal, costs, year)
    own = results[rules.backtest_signal]
    context.say("evaluation: single moves and charts")
    left = departures.effect(
        plain, signals.wide(scores, rules.backtest_signal), horizon,
        trading_mask(store, plain, "open", rules.backtest_limit_threshold), rules.backtest_delisting_return,
        own.positions,
    )  # fmt: skip
    write_ledgers(folder, results, rules.backtest_signal)
    charts = backtest_charts(
        model, points, forecasts, forecast, samples[0].rows if samples else np.zeros(0, int),
        inputs.calibration.calibration, own.trades,
    )  # fmt: skip
    context.say(f"backtest: {len(own.daily)} days, {len(own.trades):,} fills")
    moves = large_moves.measure(
        forecasts, signals.wide(scores, rules.backtest_signal),
        *large_moves.suspected_splits(store, bars["close"]), own, year,
    )  # fmt: skip
    by_chance = {name: one.daily["return"] - one.daily["cost"] for name, one in results.items()
                 if name not in signals.SIGNALS}  # fmt: skip
    source = store.source
    over_time = None
    if len(np.unique(points.instrument)) < signals.MIN_NAMES:
        own_signal = signals.wide(scores, rules.backtest_signal)
        over_time = verdict(config, store, splits, forecasts, samples, own_signal, costs[:2], year)
    content = ReportInputs(
        universe=str(source.get("universe", f"{len(store.instruments)} instruments of {config.data.data_source}")),
        source_notes=_source_notes(store),
        warnings=[*seen_before(config, splits), *compared.warnings], benchmark=compared.name,
        signal=rules.backtest_signal, horizon=horizon, lookback=lookback, seed=config.training.seed,
        topk=rules.backtest_n_symbol_hold, n_drop=rules.backtest_n_symbol_drop,
        hold_thresh=rules.backtest_hold_thresh, account=rules.backtest_account,
        open_cost=costs[0], close_cost=costs[1], min_cost=costs[2], deal_price=rules.backtest_deal_price,
        limit_threshold=rules.backtest_limit_threshold,
        forecast=(
            f"{config.forecast.inference_sample_count} sample paths at temperature {config.forecast.inference_T:g}, "
            f"top-p {config.forecast.inference_top_p:g}, top-k {config.forecast.inference_top_k or 'off'}"
        ),
        scored=len(points), excluded=Counter(sorted(points.excluded["reason"])), repaired_bars=repaired,
        model_digests={name: inputs.digests[name] for name in ("tokenizer", "predictor")},
        ranking=ranked, before=before, accuracy=accurate, coverages=bands,
        members=members, time_series=over_time, calibration_note=inputs.calibration.note, test_losses=losses,
        forgetting=forgetting_of(inputs.models.predictor.record),
        portfolios={
            name: Portfolio(daily=one.daily, risk=one.risk, turnover=one.turnover, stranded=one.stranded)
            for name, one in results.items() if name in signals.SIGNALS
        },
        excesses=portfolio.excesses(own.daily, compared.others, horizon, year), periods_per_year=year,
        random_net=pd.DataFrame(by_chance) if by_chance else None, charts=charts, departures=left,
        large_moves=moves, tear_sheet=tear_sheet(own.daily, own.trades, plain["amount"], year, lookback),
        looks_before=looks_before, held_out=apart,
    )  # fmt: skip
    context.say("evaluation: report")
    save(folder, "backtest", inputs=content)
    return write_report(folder, content, rules.report_language)


def trained_baselines(
    context: Context, splits: Ranges, store: BarStore, close: pd.DataFrame
) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return rankings that were fitted on the training range: key -> (name, scores for the days of `close`)."""
    config = context.config
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    past = {}  # wide closes and tradable returns of each range, with no bar after it
    for name, days in (("train", splits.train), ("val", splits.val)):
        first, last = session_range(store, *days)
        bars = {key: frame.iloc[: last + 1 - first] for key, frame in wide_bars(store, first).items()}
        bars = departures.pay_out(bars, config.backtest.backtest_delisting_return)
        mask = trading_mask(store, bars, "open", config.backtest.backtest_limit_threshold)
        earned = signals.tradable_returns(bars["open"], bars["close"], horizon, mask)
        past[name] = (bars["close"], earned.where(bars["member"]))
    found = {}
    if len(past["train"][0]) > lookback + horizon:
        context.say("evaluation: linear regression on returns")
        weights = ranking.fit_returns(*past["train"], lookback)
        name = f"linear regression on the last {lookback - 1} returns"
        found["linear"] = (name, ranking.by_returns(close, weights))
    if config.backtest.baseline_lightgbm:
        context.say(f"evaluation: {boosted_trees.NAME}")
        release_heap()  # other processes work beside this one, and what was freed so far is not needed again
        trees = boosted_trees.ranking(
            store, {name: earned for name, (_, earned) in past.items()}, pd.DatetimeIndex(close.index),
            torch.get_num_threads(), config.training.seed,
        )  # fmt: skip
        found["lightgbm"] = (boosted_trees.NAME, trees)
        release_heap()
    return found


def _source_notes(store: BarStore) -> list[str]:
    notes = [str(store.source["survivorship"])] if "survivorship" in store.source else []
    if store.freq != "day":
        notes.append(
            f"Bars of {store.freq}: a day or session of this report is one bar, an annual figure is per year."
        )
    return notes


def before_training(
    context: Context, inputs: Inputs, model: Forecaster, points: ForecastPoints, close: pd.DataFrame
) -> Before:
    """Scores of the models that training started from, by their records, on days `baseline_day_step` apart."""
    config, store, uri = context.config, model.store, context.config.tracking.tracking_uri
    start = inputs.models.predictor.record.get("started_from")
    random = start is not None and start["address"] is None
    name = "model before training (random weights)" if random else "model before fine-tuning"
    pair, why_not = pair_before(inputs.models, uri)
    if pair is None:
        return Before(name, note=why_not)
    try:
        tokenizer, predictor = (one.model for one in pair)
        earlier = forecaster(config, store, tokenizer, predictor, context.shards)
    except UserError as error:
        return Before(
            name,
            note=f"not compared: tokenizer and predictor before training do not fit each other ({error})",
        )
    return on_some_days(context, earlier, points, close, name, "before training")


def sample_paths(model: Forecaster, points: ForecastPoints, forecasts: Forecasts) -> list[Samples]:
    """Sample paths of a fixed random subset of the points with a realised horizon.

    They are drawn at temperature 1 and top-p 1, and with the trading settings if these are different. Returns the
    samples, with paths [N, samples, H] relative to the last close.
    """
    config, store = model.config, model.store
    whole = np.flatnonzero(points.session + config.data.predict_window <= store.last_session)
    rows = whole[random_order(store, points.subset(whole))[: config.forecast.evaluation_series]]
    if not len(rows):
        return []
    part = points.subset(rows)
    plain = plain_rules(config.forecast.evaluation_sample_count)
    trading = {**trading_rules(config), "sample_count": config.forecast.evaluation_sample_count}
    found: list[Samples] = []
    for name, rules in (("temperature 1, top-p 1", plain), ("trading settings", trading)):
        if found and rules == plain:
            continue
        closes = model.closes(part, rules, "calibration")
        found.append(Samples(name, closes / forecasts.last_N[rows][:, None, None], rows))
    return found


def simulate(
    config: Config,
    splits: Ranges,
    store: BarStore,
    traded: Mapping[str, pd.Series],
    compared: Benchmark,
    bars: Mapping[str, pd.DataFrame],
    tradable: Tradability,
    costs: tuple[float, float, float],
    periods_per_year: float,
) -> dict[str, BacktestResult]:
    """Backtest every signal of `traded` (see `run_backtests`) in Qlib on the bars of the store.

    `bars` are the wide frames of the days that are traded, whose `paid_out` prices are added to the store's bars.
    """
    rules = config.backtest
    frame = store.frame((*FEATURES, "flag"))
    frame = frame[frame["datetime"] >= bars["close"].index[0]]
    frame = departures.with_payments(frame, bars)
    sessions = store.sessions[int(store.sessions.searchsorted(bars["close"].index[0].value)) :]
    freq = qlib_freq(store.freq)
    first, last = store.sessions[list(session_range(store, *splits.backtest))].astype("datetime64[ns]")
    with tempfile.TemporaryDirectory(prefix="kronos-qlib-") as scratch:
        path = write_qlib_store(
            frame, Path(scratch) / "bars", sessions, freq, tradable, matrices=TRADED_FIELDS
        )
        return run_backtests(
            path, traded, pd.Timestamp(first), pd.Timestamp(last),
            topk=rules.backtest_n_symbol_hold, n_drop=rules.backtest_n_symbol_drop,
            hold_thresh=max(rules.backtest_hold_thresh, tradable.longest_wait), account=rules.backtest_account,
            open_cost=costs[0], close_cost=costs[1], min_cost=costs[2], deal_price=rules.backtest_deal_price,
            benchmark=compared.returns, benchmark_cost=compared.cost, periods_per_year=periods_per_year,
            freq=freq, processes=torch.get_num_threads(),
        )  # fmt: skip


def write_ledgers(folder: Path, results: Mapping[str, BacktestResult], configured: str) -> None:
    """Write fills and positions of the configured signal into `folder`, of other signals under exploratory/."""
    for name in signals.SIGNALS:
        place = folder if name == configured else folder / "exploratory" / file_name(name, lower=True)
        place.mkdir(parents=True, exist_ok=True)
        results[name].trades.to_parquet(place / "trades.parquet", index=False)
        results[name].positions.to_parquet(place / "positions.parquet", index=False)
        if name != configured:
            results[name].daily.to_csv(place / "daily.csv", index_label="datetime", float_format="%.10g")
