"""The backtest stage: forecast every test day and instrument, score the forecasts, trade them in Qlib, report."""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos import signals
from kronos.config import Config, fields_of
from kronos.data.bars import FEATURES, Flag
from kronos.data.points import ForecastPoints
from kronos.data.store import BarStore
from kronos.files import atomic_folder
from kronos.model import checkpoint
from kronos.qlib_bridge import BacktestResult, run_backtest, write_qlib_store
from kronos.report import ReportInputs, write_report
from kronos.stages.core import Work, origin, write_record
from kronos.stages.data import backtest_points, log_dataset, settled, stored_bars
from kronos.stages.forecasting import forecast_all
from kronos.stages.logged import log_inputs
from kronos.stages.training import trained_predictor, trained_tokenizer

FIELDS = (
    *(name for name in fields_of("forecast") if name not in ("backtest_batch_size", "evaluation_sample_count")),
    *fields_of("backtest"),
    "backtest_time_range", "lookback_window", "predict_window", "max_context", "clip", "seed", "device", "cpu",
    "windows_across_days",
)  # fmt: skip


def made_from(config: Config) -> dict[str, Any]:
    store = stored_bars(config)
    inputs = {
        "bars": store.digest,
        "tokenizer": checkpoint.digest(trained_tokenizer(config, store)),
        "predictor": checkpoint.digest(trained_predictor(config, store)),
    }
    return origin("backtest", config, FIELDS, inputs)


def run(work: Work, made: dict[str, Any]) -> dict[str, Any]:
    """Write predictions.parquet, predictions.pkl, report.md, figures and ledgers, whole or not at all."""
    config = work.config
    store = stored_bars(config)
    dated = settled(config, store)  # the weights are looked up by the ranges that were given
    log_dataset(work, store, "testing")
    work.run.tags({f"{name}_digest": made["inputs"][name] for name in ("tokenizer", "predictor")})
    log_inputs(work, tokenizer=trained_tokenizer(config, store), predictor=trained_predictor(config, store))
    points = backtest_points(dated, store)
    forecast, repaired = forecast_all(work, store, points)
    with atomic_folder(config.backtest_folder) as folder:
        forecast.to_parquet(folder / "predictions.parquet", index=False)
        metrics = evaluate(replace(work, config=dated), store, points, forecast, repaired, made, folder)
        record = write_record(folder, made, work.run.id, _outputs(folder), {"metrics": metrics})
        work.run.metrics(0, metrics)
        work.run.artifact(folder)
    work.say(f"backtest: report in {config.backtest_folder / 'report.md'}")
    return record


def evaluate(
    work: Work,
    store: BarStore,
    points: ForecastPoints,
    forecast: pd.DataFrame,
    repaired: int,
    made: dict[str, Any],
    folder: Path,
) -> dict[str, float]:
    """Scores, IC, the simulated portfolio and the report, written into `folder`; returns the key figures."""
    config = work.config
    close, member = wide_closes(store, int(points.session.min()))
    last_close = pd.Series(close.rename_axis(index="as_of").stack())
    scores = signals.scores(forecast, last_close)
    signals.predictions_pickle(scores, folder / "predictions.pkl")
    realised = signals.targets(close, config.predict_window)
    ic = {name: signals.daily_ic(signals.wide(scores, name), realised[name]) for name in signals.SIGNALS}
    pd.concat(ic, names=["signal"]).to_csv(folder / "daily_ic.csv", float_format="%.10g")
    result = simulate(config, store, scores[config.backtest_signal], close, member)
    result.trades.to_parquet(folder / "trades.parquet", index=False)
    result.positions.to_parquet(folder / "positions.parquet", index=False)
    work.say(f"backtest: {len(result.daily)} days, {len(result.trades):,} fills")
    return write_report(folder, report_inputs(config, store, points, repaired, made, ic, result))


def simulate(
    config: Config, store: BarStore, score: pd.Series, close: pd.DataFrame, member: pd.DataFrame
) -> BacktestResult:
    """Trade the scores in Qlib from the store's bars, against the equal weight of each day's members."""
    first = close.index[0]
    frame = store.frame((*FEATURES, "flag"))
    frame = frame[frame["datetime"] >= first]
    sessions = store.sessions[store.sessions >= first.value]
    benchmark = signals.equal_weight_returns(close, member)
    costs = signals.equal_weight_costs(close, member, config.backtest_open_cost, config.backtest_close_cost)
    with tempfile.TemporaryDirectory(prefix="kronos-qlib-") as scratch:
        path = write_qlib_store(frame, Path(scratch) / "bars", sessions, config.freq)
        return run_backtest(
            path, score, *(pd.Timestamp(day) for day in config.backtest_time_range),
            topk=config.backtest_n_symbol_hold, n_drop=config.backtest_n_symbol_drop,
            hold_thresh=config.backtest_hold_thresh, account=config.backtest_account,
            open_cost=config.backtest_open_cost, close_cost=config.backtest_close_cost,
            min_cost=config.backtest_min_cost, deal_price=config.backtest_deal_price,
            limit_threshold=config.backtest_limit_threshold, benchmark=benchmark, benchmark_cost=costs,
            freq=config.freq,
        )  # fmt: skip


def report_inputs(
    config: Config,
    store: BarStore,
    points: ForecastPoints,
    repaired: int,
    made: dict[str, Any],
    ic: dict[str, pd.DataFrame],
    result: BacktestResult,
) -> ReportInputs:
    """Everything that the report says, gathered; nothing in it names a time, a path or a run."""
    source = store.source
    return ReportInputs(
        universe=str(source.get("universe", f"{len(store.instruments)} instruments of {config.data_source}")),
        source_notes=[str(source["survivorship"])] if "survivorship" in source else [],
        benchmark="the equal weight of each day's members, rebalanced daily",
        signal=config.backtest_signal, horizon=config.predict_window, lookback=config.lookback_window,
        seed=config.seed, topk=config.backtest_n_symbol_hold, n_drop=config.backtest_n_symbol_drop,
        hold_thresh=config.backtest_hold_thresh, account=config.backtest_account,
        open_cost=config.backtest_open_cost, close_cost=config.backtest_close_cost,
        min_cost=config.backtest_min_cost, deal_price=config.backtest_deal_price,
        limit_threshold=config.backtest_limit_threshold,
        forecast=(
            f"{config.inference_sample_count} sample paths at temperature {config.inference_T:g}, "
            f"top-p {config.inference_top_p:g}, top-k {config.inference_top_k or 'off'}"
        ),
        scored=len(points), excluded=Counter(sorted(points.excluded["reason"])),
        repaired_bars=repaired,
        model_digests={name: made["inputs"][name] for name in ("tokenizer", "predictor")},
        ic=ic, daily=result.daily, risk=result.risk, turnover=result.turnover, stranded=result.stranded,
    )  # fmt: skip


def wide_closes(store: BarStore, first_session: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Closes of real bars (NaN elsewhere) and membership, days x instruments, from a session to the last one.

    A member stays one over a hole that is filled: its move is counted when it is back.
    """
    shape = (store.last_session + 1, len(store.instruments))
    flags, session, instrument = np.asarray(store.flags), np.asarray(store.session), store.instrument_of_row
    real, member = (flags & int(Flag.FILLED)) == 0, (flags & int(Flag.NONMEMBER)) == 0
    close, inside = np.full(shape, np.nan), np.zeros(shape, bool)
    close[session[real], instrument[real]] = store.values[real, FEATURES.index("close")]
    inside[session[member], instrument[member]] = True
    days = pd.DatetimeIndex(store.sessions[: shape[0]].astype("datetime64[ns]"), name="datetime")
    columns = pd.Index(store.instruments, name="instrument")
    closes, members = (
        pd.DataFrame(values[first_session:], index=days[first_session:], columns=columns)
        for values in (close, inside)
    )
    return closes, members


def _outputs(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
