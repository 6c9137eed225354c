"""One trial of a search: the training stages with a recorder in the place of MLflow, then what it is judged by.

Runs in the process of the search or in one of its own (`kronos.trial_worker`); imports neither MLflow nor Optuna.
"""

import contextlib
import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kronos.config import Config
from kronos.crew import Crew, python_module, world_size
from kronos.stages.core import Work

Record = Callable[[int, dict[str, float]], None]
KINDS = {"tokenizer": ("tokenizer",), "predictor": ("predictor",), "both": ("tokenizer", "predictor")}


class Recorder:
    """What a stage sees of its run: metrics go to a function, the rest stays in the trial's folder."""

    id = "trial"

    def __init__(self, record: Record) -> None:
        self.metrics = record

    def parameters(self, values: Mapping[str, str]) -> None: ...
    def tags(self, values: Mapping[str, Any]) -> None: ...
    def flush(self) -> None: ...
    def dataset(self, *arguments: Any) -> None: ...
    def artifact(self, path: str | Path, folder: str | None = None) -> None: ...


def train(config: Config, record: Record, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Train what the search is about and judge it.

    `record(step, metrics)` is called with all that training reports; an exception that it raises ends the trial.
    Returns `values`, one a metric of config.search_metric, and `metrics` of the training.
    """
    from kronos.stages import training

    bodies: dict[str, Any] = {
        "tokenizer": (training.tokenizer_made_from, training.run_tokenizer),
        "predictor": (training.predictor_made_from, training.run_predictor),
    }
    kinds = KINDS[config.search_stage]
    result: dict[str, Any] = {}
    crew = Crew(world_size(config.nproc_per_node), python_module("kronos.stages.following"))
    try:
        for kind in kinds:
            made_from, run = bodies[kind]
            prefix = f"{kind}_" if kind != kinds[-1] else ""
            recorder: Any = Recorder(partial(_pass_on, record, prefix))
            work = Work(config, recorder, tracking=None, say=say, crew=crew)  # type: ignore[arg-type]
            result = run(work, made_from(config))
    finally:
        crew.close()
    measured = {"val_loss": result["metrics"]["best_val_loss"]}
    if "rank_ic" in config.search_metric:
        measured["rank_ic"] = rank_ic(work)
    values = [float(measured[name]) for name in config.search_metric]
    for name, value in zip(config.search_metric, values, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}: there is nothing to judge the trial by")
    return {"values": values, "metrics": {**result["metrics"], **measured}, "digest": result["digest"]}


def _pass_on(record: Record, prefix: str, step: int, metrics: dict[str, float]) -> None:
    record(step, {prefix + name: value for name, value in metrics.items()})


def quietly(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call without the lines that a training prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function()


def rank_ic(work: Work) -> float:
    """Mean daily Rank IC of `backtest_signal` on the validation range, scored from its start + lookback.

    Forecasts end within the range. Whole days are left out evenly so that about n_val_iter forecasts remain.
    """
    import pandas as pd

    from kronos import signals
    from kronos.data.points import ForecastPoints, forecast_points
    from kronos.errors import UserError
    from kronos.stages.data import stored_bars
    from kronos.stages.evaluating import wide_bars
    from kronos.stages.forecasting import forecast_all, forecaster

    config = work.config
    store = stored_bars(config)
    points = forecast_points(store, *config.val_time_range, config.lookback_window)
    days = sorted(set(points.session.tolist()))
    days = days[config.lookback_window - 1 : len(days) - config.predict_window]
    if not days:
        raise UserError("val_time_range is too short for rank_ic: no forecast begins and ends within it")
    share = len(points) / max(len(set(points.session.tolist())), 1) * len(days) / config.n_val_iter
    days = days[:: max(1, math.ceil(share))]
    kept = pd.Series(points.session).isin(days).to_numpy()
    points = ForecastPoints(
        points.row[kept], points.instrument[kept], points.session[kept], points.excluded.iloc[:0]
    )
    forecast, _ = forecast_all(work, forecaster(config, store), points)
    close = wide_bars(store, int(points.session.min()))["close"]
    last_close = pd.Series(close.rename_axis(index="as_of").stack())
    score = signals.wide(signals.scores(forecast, last_close), config.backtest_signal)
    realised = signals.targets(close, config.predict_window)[config.backtest_signal]
    return float(signals.daily_ic(score, realised)["rank_ic"].mean())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a trial failed for want of memory, on the GPU or in the host."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text
        for words in ("out of memory", "can't allocate memory", "cannot allocate memory", "oom_kill")
    )
