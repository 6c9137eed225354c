"""One trial of a search: run the training stages with a recorder instead of an MLflow run, then compute its metrics.

Runs in the process of the search or in a separate one (`kronos.stages.search.trial_worker`); does not import MLflow
or Optuna.
"""

import contextlib
import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kronos.config.schema import Config
from kronos.distributed.launcher import WorkerGroup, python_module, world_size
from kronos.distributed.shards_folder import Shards
from kronos.stages.base import Context, Say
from kronos.stages.run_folder import shards_of
from kronos.stages.runner import run_stage
from kronos.stages.train import PredictorStage, TokenizerStage
from kronos.utils.errors import UserError

Record = Callable[[int, dict[str, float]], None]
STAGES_BY_KIND: dict[str, TokenizerStage | PredictorStage] = {
    "tokenizer": TokenizerStage(),
    "predictor": PredictorStage(),
}
KINDS = {"tokenizer": ("tokenizer",), "predictor": ("predictor",), "both": ("tokenizer", "predictor")}


class Recorder:
    """Replaces the MLflow run of a stage: metrics are passed to a function, everything else is ignored."""

    id = "trial"

    def __init__(self, record: Record) -> None:
        self.metrics = record

    def parameters(self, values: Mapping[str, str]) -> None: ...
    def tags(self, values: Mapping[str, Any]) -> None: ...
    def flush(self) -> None: ...
    def dataset(self, *arguments: Any) -> None: ...
    def artifact(self, path: str | Path, folder: str | None = None) -> None: ...


def train(config: Config, record: Record, say: Say = lambda text: None) -> dict[str, Any]:
    """Train the models of `search_stage` and compute the metrics that trials are compared by.

    `record(step, metrics)` is called with all metrics of training; an exception that it raises ends the trial.

    Returns:
        `values`, one per metric of config.search_metric, `metrics` of the training, `digest` of the weights, and
        `daily_rank_ic` by day where the Rank IC is one of the metrics.

    Raises:
        ValueError: where a value is not finite.
    """
    kinds, wanted = KINDS[config.search.search_stage], config.search.search_metric
    workers = WorkerGroup(
        world_size(config.launch.nproc_per_node), python_module("kronos.stages.train_worker")
    )
    try:
        workers.start()
        for kind in kinds:
            prefix = f"{kind}_" if kind != kinds[-1] else ""
            recorder: Any = Recorder(partial(_pass_on, record, prefix))
            context = Context(config, recorder, tracking=None, say=say, workers=workers)
            result = run_stage(STAGES_BY_KIND[kind], config, context).record
        measured, daily = {"val_loss": result["metrics"]["best_val_loss"]}, None
        if set(wanted) - {"val_loss"}:
            shards = shards_of(config.model_folder("predictor"), workers)
            found, daily = forecast_metrics(config, shards)
            shards.remove()
            measured |= found
    finally:
        workers.close()
    values = [float(measured[name]) for name in wanted]
    for name, value in zip(wanted, values, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}: trials cannot be compared by it")
    trained = {"values": values, "metrics": {**result["metrics"], **measured}, "digest": result["digest"]}
    return {**trained, "daily_rank_ic": daily} if "rank_ic" in wanted else trained


def _pass_on(record: Record, prefix: str, step: int, metrics: dict[str, float]) -> None:
    record(step, {prefix + name: value for name, value in metrics.items()})


def quietly(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a function without its output to stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function()


def forecast_metrics(
    config: Config, shards: Shards | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Rank IC and CRPS of forecasts on the validation range, computed in the same way as in the backtest.

    Returns the metrics, and the Rank IC of each day that has one (the key is the day in ISO 8601).

    `rank_ic` is the mean over days of `backtest_signal` with the tradable return, as in the report, `crps` the fair
    CRPS of the predicted closes divided by the last close of the context. Forecasts begin at the range's start +
    lookback and end within the range. Days are subsampled evenly so that about n_val_iter forecasts remain. Raises
    UserError where the range is too short.
    """
    import numpy as np
    import pandas as pd

    from kronos.data.bars import CLOSE
    from kronos.data.forecast_points import forecast_points
    from kronos.evaluation import accuracy, signals
    from kronos.evaluation.departures import pay_out
    from kronos.evaluation.tradability import trading_mask
    from kronos.forecast.store_forecaster import forecaster, trading_rules
    from kronos.stages.inputs import resolve_splits, stored_bars, wide_bars
    from kronos.stages.weights import trained_pair

    store = stored_bars(config)
    splits = resolve_splits(config, store)
    tokenizer, predictor, _ = trained_pair(config, store, splits)
    model = forecaster(config, store, tokenizer.model, predictor.model, shards)
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    points = forecast_points(store, *splits.val, lookback, horizon)
    sessions = np.unique(points.session)
    first = int(np.searchsorted(store.sessions, pd.Timestamp(splits.val[0]).value)) + lookback - 1
    last = int(np.searchsorted(store.sessions, pd.Timestamp(splits.val[1]).value, "right")) - 1 - horizon
    days = sessions[(sessions >= first) & (sessions <= min(last, store.last_session - horizon))]
    if not len(days):
        raise UserError(
            "val_time_range is too short: no forecast begins at its start + lookback and ends within it"
        )
    whole = int(np.isin(points.session, days).sum())
    points = points.subset(np.isin(points.session, days[:: math.ceil(whole / config.training.n_val_iter)]))
    closes_NSH = model.closes(points, trading_rules(config), "forecast")
    start = max(int(points.session.min()) - 1, 0)  # the close before tells a limit
    bars = wide_bars(store, start)
    close = bars["close"]
    mean_NH, count = closes_NSH.mean(axis=1), len(points)
    forecast = pd.DataFrame({
        "instrument": np.repeat(np.array(store.instruments, dtype=object)[points.instrument], horizon),
        "as_of": np.repeat(store.sessions[points.session], horizon).astype("datetime64[ns]"),
        "step": np.tile(np.arange(1, horizon + 1, dtype=np.int32), count), "close": mean_NH.reshape(-1),
    })  # fmt: skip
    predicted = signals.wide(signals.score(close, forecast), config.backtest.backtest_signal)
    end = pd.Timestamp(splits.val[1]) + pd.Timedelta(days=1)
    known = {name: frame[frame.index < end] for name, frame in bars.items()}  # no bar after the range
    known = pay_out(known, config.backtest.backtest_delisting_return)
    mask = trading_mask(store, known, "open", config.backtest.backtest_limit_threshold)
    realised = signals.tradable_returns(known["open"], known["close"], horizon, mask)
    daily = signals.daily_ic(predicted, realised)["rank_ic"]
    found = {"rank_ic": float(daily.mean())}
    if "crps" in config.search.search_metric:
        seen = store.values[points.row, CLOSE].astype(np.float64)
        place = points.session.astype(np.int64)[:, None] - start + np.arange(1, horizon + 1)
        ahead_NH = close.to_numpy()[place, points.instrument[:, None]] / seen[:, None]
        parts = accuracy.crps((closes_NSH / seen[:, None, None]).transpose(0, 2, 1), ahead_NH)
        found["crps"] = float(np.nanmean(parts))
    finite: Any = daily.dropna()
    return found, {day.isoformat(): float(value) for day, value in finite.items()}
