"""The backtest stage: forecast every test day and instrument, score the forecasts, trade them in Qlib, report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kronos.config.schema import Config, fields_of
from kronos.evaluation import benchmark
from kronos.forecast.store_forecaster import forecast_all, forecaster
from kronos.model import checkpoint
from kronos.stages.base import Work, origin, write_record
from kronos.stages.data import backtest_points, log_dataset, settled, stored_bars
from kronos.stages.evaluate import evaluate
from kronos.stages.model_logging import log_inputs
from kronos.stages.train import trained_predictor, trained_tokenizer
from kronos.utils.files import atomic_folder

FIELDS = (
    *(
        name
        for name in fields_of("forecast", "backtest")
        if name != "backtest_batch_size" and not name.startswith(("predict_", "walk_forward"))
    ),
    "backtest_time_range", "train_time_range", "val_time_range", "lookback_window", "predict_window", "max_context",
    "clip", "seed", "device", "cpu", "model_preset", "pretrained_tokenizer_path", "pretrained_predictor_path",
    "tokenizer_path", "predictor_path", "windows_across_days",
)  # fmt: skip


def made_from(config: Config) -> dict[str, Any]:
    store = stored_bars(config)
    inputs = {
        "bars": store.digest,
        "tokenizer": checkpoint.digest(trained_tokenizer(config, store)),
        "predictor": checkpoint.digest(trained_predictor(config, store)),
        "benchmark": benchmark.fingerprint(config, store),
    }
    return origin("backtest", config, FIELDS, inputs)


def run(work: Work, made: dict[str, Any]) -> dict[str, Any]:
    """Write predictions.parquet, predictions.pkl, report.md and .html, figures and ledgers, whole or not at all."""
    store = stored_bars(work.config)
    # looked up by the ranges that were given, as they were trained
    pair = trained_tokenizer(work.config, store), trained_predictor(work.config, store)
    config = settled(work.config, store)
    work = replace(work, config=config)
    log_dataset(work, store, "testing")
    work.run.tags({f"{name}_digest": made["inputs"][name] for name in ("tokenizer", "predictor")})
    log_inputs(work, tokenizer=pair[0], predictor=pair[1])
    points = backtest_points(config, store)
    model = forecaster(config, store, *pair)
    forecast, repaired = forecast_all(work, model, points)
    with atomic_folder(config.backtest_folder) as folder:
        forecast.to_parquet(folder / "predictions.parquet", index=False)
        metrics = evaluate(work, model, points, forecast, repaired, made, folder)
        record = write_record(folder, made, work.run.id, _outputs(folder), {"metrics": metrics})
        work.run.metrics(0, metrics)
        work.run.artifact(folder)
    work.say(f"backtest: report in {config.backtest_folder / 'report.md'} (and report.html)")
    return record


def _outputs(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
