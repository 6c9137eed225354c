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
    """Rank IC and CRPS of the trained models' forecasts on the validation range, and the Rank IC of each day."""
    from kronos.forecast.store_forecaster import forecaster, trading_rules
    from kronos.stages.inputs import resolve_splits, stored_bars
    from kronos.stages.validation_forecasts import validation_forecasts
    from kronos.stages.weights import trained_pair

    store = stored_bars(config)
    splits = resolve_splits(config, store)
    tokenizer, predictor, _ = trained_pair(config, store, splits)
    wanted = validation_forecasts(config, store, splits)
    model = forecaster(config, store, tokenizer.model, predictor.model, shards)
    closes = model.closes(wanted.points, trading_rules(config), "forecast")
    return wanted.scores(closes, config.search.search_metric)
