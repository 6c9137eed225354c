"""The backtest stage: forecast every test day and instrument, score the forecasts, trade them in Qlib, report."""

from collections.abc import Mapping
from pathlib import Path

from kronos.config.schema import Config, fields_of
from kronos.data.holdout import digest_of
from kronos.evaluation import benchmark, signals
from kronos.forecast.store_forecaster import forecast_frame, repaired_text, trading_rules
from kronos.report.pages.forecasts import PAGE
from kronos.report.writer import METRICS
from kronos.stages import looks
from kronos.stages.base import Context, Figure, Inputs, Result, Stage
from kronos.stages.cache import source_digest, write_record
from kronos.stages.calibration import find
from kronos.stages.ensemble import forecaster_of
from kronos.stages.evaluate import evaluate
from kronos.stages.forecast_charts import asked_for
from kronos.stages.inputs import BY_CONTENT, backtest_points, log_dataset, resolve_splits, stored_bars
from kronos.stages.model_logging import log_inputs
from kronos.stages.provenance import seen_before
from kronos.stages.report_pages import LANGUAGE
from kronos.stages.weights import trained_models
from kronos.tracking.metric_names import tracked
from kronos.utils.files import atomic_folder, digest_bytes, read_json

NOT_READ = (
    "predict_quantiles", "predict_drawdown", "predict_result_path", "predict_save_folder_name",
    "bands", "calibration_series", "calibration_sample_count",
)  # fmt: skip


class BacktestStage(Stage):
    """Write predictions.parquet, predictions.pkl, report.md and .html, figures and ledgers."""

    name = "backtest"
    help = "forecast every test day and instrument, and trade the forecasts in Qlib"
    params = (
        *(
            name
            for name in fields_of("data", "output", "forecast", "backtest", "tracking", "registry")
            if name not in NOT_READ and not name.startswith("walk_forward")
        ),
        "model_preset", "pretrained_tokenizer_path", "freeze_tokenizer", "seed", "device", "cpu", "nproc_per_node",
        "n_val_iter",
    )  # fmt: skip
    by_content = (*BY_CONTENT, "model_preset")
    packages = ("torch", "numpy", "pandas", "scipy", "pyqlib", "exchange_calendars")

    def __init__(self, ledger: Path | None = None, model: str = "") -> None:
        """A backtest alone, or a fold that records its look in `ledger`, under the `model` of all folds if given."""
        self._ledger, self._model = ledger, model

    def folder(self, config: Config) -> Path:
        return config.backtest_folder

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        models, notes = trained_models(config, store, splits)
        tokenizer, predictor = models.tokenizer, models.predictor
        calibration = find(config, store, tokenizer.digest, predictor.digest, splits.backtest[0])
        before = [one.record.get("started_from", {}).get("digest", "") for one in (tokenizer, predictor)]
        digests = {
            "bars": store.digest,
            "splits": ", ".join(f"{name} {first}..{last}" for name, (first, last) in splits.days().items()),
            "tokenizer": tokenizer.digest,
            "predictor": predictor.digest,
            "before": digest_bytes("/".join(before).encode())[:16],
            "calibration": calibration.digest,
            "signals": signals_digest(),
            "benchmark": benchmark.fingerprint(config, store),
            "seen": digest_bytes("\n".join(seen_before(config, splits)).encode())[:16],
        }
        if held_out := models.held_out()[0]:
            digests["held out"] = digest_of(held_out)
        notes = (*notes, calibration.note) if calibration.note else notes
        return Inputs(digests, store, splits, models, calibration=calibration, notes=notes)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, object]) -> Result:
        """Forecast, evaluate and write the output folder, which is renamed to its final name when complete."""
        config, store, run = context.config, inputs.store, context.run
        assert store is not None and inputs.splits is not None
        log_dataset(context, store, "testing")
        run.tags({f"{name}_digest": inputs.digests[name] for name in ("tokenizer", "predictor")})
        log_inputs(context, inputs.calibration.path, **inputs.models.named())
        points = backtest_points(config, store, inputs.splits)
        if missing := asked_for(config, store, points)[1]:
            context.say(f"predict_figures: not in the backtest: {', '.join(missing)}")
        model = forecaster_of(config, store, inputs.models, context.shards)
        means, repaired = model.means(points, trading_rules(config))
        context.say(repaired_text(config, len(points), repaired))
        context.say("evaluation: tables of forecasts")
        forecast = forecast_frame(store, points, means, model.columns)
        ledger, look = self._ledger or looks.ledger_of(config), self._look(config, inputs)
        before = looks.looked_before(ledger, look, context)
        with atomic_folder(config.backtest_folder) as folder:
            forecast.to_parquet(folder / "predictions.parquet", index=False)
            metrics = evaluate(context, inputs, model, points, forecast, repaired, folder, before)
            more = {
                "metrics": metrics,
                "headline": read_json(folder / METRICS)["headline"],
                LANGUAGE: config.backtest.report_language,
            }
            record = write_record(folder, key, run.id, _outputs(folder), more)
            run.metrics(0, tracked(self.name, metrics))
            run.artifact(folder)
            looks.record(ledger, look, run, context.say)
        return Result(self.name, run.id, config.backtest_folder, record)

    def _look(self, config: Config, inputs: Inputs) -> looks.Look:
        assert inputs.store is not None and inputs.splits is not None
        tokenizer, predictor = (inputs.digests[name] for name in ("tokenizer", "predictor"))
        model = self._model or looks.model_digest(config, tokenizer, predictor)
        kind = looks.BACKTEST if self._ledger is None else looks.FOLD
        return looks.look_of(kind, config, inputs.store, inputs.splits.backtest, predictor, model)

    def headline(self, result: Result) -> tuple[Figure, ...]:
        return tuple(
            Figure(one["name"], one["value"], one["detail"]) for one in result.record.get("headline", ())
        )

    def finish(self, context: Context, result: Result) -> None:
        """Register the backtested models, reused or not, if registered_model_name is set; print the result."""
        if context.config.registry.registered_model_name is not None:
            from kronos.stages.promote import register_backtest

            assert context.tracking is not None
            context.run.flush()  # MLflow shows the metrics at the model too
            context.tracking.outbox.wait()  # registry calls cannot be queued for later
            register_backtest(
                context.tracking, context.run, context.config, result, context.say, context.shards
            )
        figures = self.headline(result)
        width = max((len(one.name) for one in figures), default=0)
        for one in figures:
            context.say(f"{one.name:<{width}}  {one.value}" + (f"  ({one.detail})" if one.detail else ""))
        context.say(f"backtest: report in {result.folder / 'report.md'} (and report.html)")
        if (result.folder / PAGE).is_file():
            context.say(f"backtest: candles in {result.folder / PAGE}")


def signals_digest() -> str:
    """Digest of the source of user-registered signals; `none` without any."""
    own = [name for name in signals.SIGNALS if name not in signals.BUILT_IN]
    return " ".join(f"{name} {source_digest(signals.REDUCTIONS[name])}" for name in own) or "none"


def _outputs(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
