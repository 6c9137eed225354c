"""The tokenizer and predictor stages, which train one model each with the same training loop."""

import json
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kronos.config.schema import Config, fields_of
from kronos.data.bars import FEATURES
from kronos.data.extra_columns import model_columns
from kronos.data.store import BarStore
from kronos.distributed.launcher import world_size
from kronos.stages.additions import add, described_additions, only_random
from kronos.stages.base import Context, Figure, Inputs, Result, Stage
from kronos.stages.cache import copy_record, key_of, write_record
from kronos.stages.forgetting import OlderLoss
from kronos.stages.inputs import BY_CONTENT, log_dataset, resolve_splits, splits_to_json, stored_bars
from kronos.stages.model_logging import log_inputs, log_served_model
from kronos.stages.run_folder import working_folder
from kronos.stages.train_setup import (
    adapter_problem,
    features_problem,
    make_objective,
    prepare,
    share_tokenizer,
    windows,
)
from kronos.stages.weights import (
    OWN_TOKENIZER,
    Kind,
    Weights,
    load_weights,
    pretrained_address,
    refuse_other_features,
    trained_weights,
)
from kronos.tracking.run import Run
from kronos.utils.errors import UserError
from kronos.utils.progress import Progress

CLIP_NORM = {"tokenizer": 2.0, "predictor": 3.0}  # of the public recipe
TRAINING_PARAMS = tuple(
    name
    for name in fields_of("data", "model", "training", "launch", "output", "tracking")
    if not name.startswith(("skip_", "backtest_", "predict_result", "predict_save", "test_"))
)
ONLY_OF_PREDICTORS = (
    "loss_bars", "freeze_blocks", "condition_columns", "condition_block", "time_feature_list", "unfreeze_every",
    "layer_decay", "early_stopping_metric",
)  # fmt: skip
# What forecasts of validation days depend on, if the best predictor is chosen by them.
FORECAST_PARAMS = (
    "inference_T", "inference_top_p", "inference_top_k", "inference_sample_count", "inference_fine_rotary",
    "inference_sliding", "inference_precision", "inference_compile", "backtest_signal", "backtest_limit_threshold",
    "backtest_delisting_return",
)  # fmt: skip
# Imported by name and only where it is used, so that its code is not part of the key of every training.
VALIDATION_FORECASTS = "kronos.stages.validation_forecasts"
# Not part of the cache key of training, since they only affect how the trained model is used.
NOT_TRAINED_WITH = ("max_context",)


class TrainStage(Stage):
    """Base class of the two training stages."""

    kind: Kind
    by_content = (*BY_CONTENT, *NOT_TRAINED_WITH)
    packages = ("torch", "numpy")
    resumable = True

    def folder(self, config: Config) -> Path:
        return config.model_folder(self.kind)

    def _common(self, config: Config, store: BarStore, splits: Any) -> tuple[dict[str, str], Weights | None]:
        """Digests of the common inputs, and the weights that training starts from (None: random initialization)."""
        if problem := adapter_problem(self.kind, config) or features_problem([self.kind], config):
            raise UserError(problem)
        address = pretrained_address(self.kind, config)
        start = None
        if address is not None:
            start = load_weights(self.kind, address, config.tracking.tracking_uri)
            refuse_other_features(start, self.kind, config, address)
        digests = {
            "bars": store.digest,
            "splits": splits.text(),
            "pretrained": "random weights" if start is None else start.digest,
            "processes": str(
                world_size(config.launch.nproc_per_node)
            ),  # the effective batch size depends on it
        }
        if model_columns(config.data) != FEATURES:
            digests["columns"] = ",".join(model_columns(config.data))
        if config.training.adapter != "none":  # whose first matrix peft draws
            digests["peft"] = version("peft")
        return digests, start

    def headline(self, result: Result) -> tuple[Figure, ...]:
        metrics = result.record["metrics"]
        return (
            Figure("Best val_loss", f"{metrics['best_val_loss']:.5g}",
                   f"at step {metrics['best_step']:,} of {metrics['steps']:,}"),
            Figure("Speed", f"{metrics['windows_per_second']:,.0f} windows/s"),
        )  # fmt: skip

    def after_interrupt(self, config: Config) -> str:
        if config.training.resume == "never":
            return "the same command trains anew, since resume=never"
        return "the same command resumes the training from its last checkpoint"

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        record = _train(self.kind, context, inputs, key)
        return Result(self.name, context.run.id, self.folder(context.config), record)


class TokenizerStage(TrainStage):
    """Train the tokenizer on the stored bars."""

    name = "tokenizer"
    kind: Kind = "tokenizer"
    help = "train the tokenizer on the stored bars"
    params = tuple(
        name
        for name in TRAINING_PARAMS
        if not name.startswith(("predictor_", "pretrained_predictor")) and name not in ONLY_OF_PREDICTORS
    )

    def inputs(self, config: Config) -> Inputs:
        if config.training.freeze_tokenizer:
            raise UserError(
                "freeze_tokenizer=true, so the tokenizer is not trained: run  python -m kronos predictor"
            )
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        digests, start = self._common(config, store, splits)
        return Inputs(digests, store, splits, starting=start)


class PredictorStage(TrainStage):
    """Train the predictor on the token ids of the tokenizer."""

    name = "predictor"
    kind: Kind = "predictor"
    help = "train the predictor on the stored bars, as the stored tokenizer sees them"
    params = (*(name for name in TRAINING_PARAMS if name != "tokenizer_learning_rate"), *FORECAST_PARAMS)

    def key_fields(self, config: Config) -> tuple[str, ...]:
        by_forecasts = config.training.early_stopping_metric != "val_loss"
        without = () if by_forecasts else FORECAST_PARAMS
        more = NOT_TRAINED_WITH if by_forecasts else ()
        return (*(name for name in super().key_fields(config) if name not in without), *more)

    def code(self, config: Config) -> tuple[str, ...]:
        return () if config.training.early_stopping_metric == "val_loss" else (VALIDATION_FORECASTS,)

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        digests, start = self._common(config, store, splits)
        described = described_additions(config, store, splits, start and start.model)
        digests |= {name: json.dumps(part, sort_keys=True) for name, part in described.items()}
        tokenizer = trained_weights("tokenizer", config, store, splits)
        digests["tokenizer"] = tokenizer.digest
        return Inputs(digests, store, splits, tokenizer=tokenizer, starting=start, more=described)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        context.run.tags({"tokenizer_digest": inputs.tokenizer.digest})
        return super().run(context, inputs, key)


def _train(kind: Kind, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> dict[str, Any]:
    """Train one model and keep its best checkpoint; returns the record of its folder."""
    from kronos.distributed.device import choose, seed_everything
    from kronos.model import checkpoint
    from kronos.training.settings import FitSettings
    from kronos.training.trainer import fit

    config, store, run = context.config, inputs.store, context.run
    assert store is not None and inputs.splits is not None
    training, launch = config.training, config.launch
    runtime = choose(launch.device, launch.cpu, training.precision, context.workers.place)
    seed_everything(training.seed)
    model, started_from = _starting_model(kind, context, inputs)
    train, validation = windows(config, store, inputs.splits, model)
    model = prepare(model, config, pretrained_address(kind, config))
    tokenizer = None if inputs.tokenizer is None else inputs.tokenizer.model
    if tokenizer is not None:
        checkpoint.check_pair(tokenizer, model)
    custom = context.objective
    objective = custom(config, tokenizer) if custom else make_objective(kind, config, tokenizer)
    rates = {
        "tokenizer": training.tokenizer_learning_rate,
        "predictor": training.predictor_learning_rate,
    }
    settings = FitSettings(training, rates[kind], CLIP_NORM[kind], settings_key=key_of(key))
    _describe(context, runtime, model, settings, train)
    log_dataset(context, store, "training")
    resume = training.resume != "never"
    forecasts = None
    if kind == "predictor" and training.early_stopping_metric != "val_loss":
        scored_by = import_module(VALIDATION_FORECASTS).scored_by_forecasts
        forecasts = scored_by(config, store, inputs.splits, tokenizer)
    job = {
        "kind": kind, "config": config.model_dump(mode="json"), "bars": store.digest,
        "splits": splits_to_json(inputs.splits), "learning_rate": rates[kind], "clip_norm": CLIP_NORM[kind],
        "settings_key": key_of(key), "model": model.config, "tokenizer": tokenizer and tokenizer.config,
        "resume": resume, "objective": importable(custom) if custom and runtime.world > 1 else None,
    }  # fmt: skip
    older = before = None
    if training.since is not None and train.groups.older.any():
        older = OlderLoss(config, store, inputs.splits, training.since, model)
        before = older.of(model, objective, runtime.device)
    final = config.model_folder(kind)
    with working_folder(final, key, run.id) as (folder, stop), Progress(kind) as progress:
        with context.workers.job(job, runtime.device.type == "cuda"):
            share_tokenizer(objective, runtime)
            result = fit(
                model, objective, train, validation, settings=settings, runtime=runtime, folder=folder,
                report=run.metrics, progress=progress, resume=resume, stop_requested=stop, before_save=run.flush,
                forecasts=forecasts,
            )  # fmt: skip
        run.flush()
        if result.interrupted:
            raise KeyboardInterrupt
        tracked = context.tracking is not None  # a trial of a search needs only its metrics and weights
        if tracked:
            from kronos.report.figures import (  # this import takes over a second, which trials skip
                loss_figure,
                save_png,
            )

            save_png(loss_figure(result.curve, f"Losses of the {kind}"), folder / "loss_curve.png")
        if tokenizer is not None:  # the predictor can only be used with this tokenizer
            tokenizer.save_pretrained(folder / OWN_TOKENIZER)
            if inputs.tokenizer.record:
                copy_record(inputs.tokenizer.record, folder / OWN_TOKENIZER)
        best = load_weights(kind, str(folder / "checkpoints" / "best_model"), None)
        forgotten = {}
        if older is not None:
            after = older.of(best.model, objective, runtime.device)
            best.model.eval()
            forgotten = {
                "older_loss_before": before, "older_loss_after": after, "older_windows": float(len(older)),
            }  # fmt: skip
            context.say(
                f"{kind}: loss on {len(older):,} fixed windows before {training.since}: {before:.5g} before "
                f"training, {after:.5g} after it"
            )
        record = write_record(folder, key, run.id, _outputs(folder), {
            "metrics": {
                "best_val_loss": result.best_value, "best_step": result.best_step, "steps": result.steps,
                **_chosen_by(result), **forgotten, "windows_per_second": result.windows_per_second,
                "peak_memory_gib": result.peak_memory / 2**30,
                **{f"seconds_{part}": value for part, value in result.seconds.items()},
            },
            "curve": result.curve, "learning_rates": result.learning_rates, "digest": best.digest,
            "started_from": started_from, "held_out": list(inputs.splits.held_out),
        })  # fmt: skip
        if tracked:
            _log_result(context, folder, record)
        if tracked and kind == "predictor":
            log_inputs(context, tokenizer=inputs.tokenizer)
            address = run.outbox.unless_rejected(
                run.id, lambda: log_served_model(run, config, store, tokenizer, best.model, result.steps)
            )
            context.say(
                f"predictor: logged with its tokenizer as {address}" if address is not None
                else f"predictor: not logged to MLflow; the weights are in {final}"
            )  # fmt: skip
    figures = "".join(
        f", {name.removeprefix('best_')} {value:.4g}" for name, value in _chosen_by(result).items()
    )
    context.say(
        f"{kind}: best val_loss {record['metrics']['best_val_loss']:.5g}{figures} at step {result.best_step}, "
        f"{result.windows_per_second:,.0f} windows/s, {result.peak_memory / 2**30:.2f} GiB at most, saved in {final}"
    )
    return record


def _chosen_by(result: Any) -> dict[str, float]:
    """The figures of the best weights' forecasts of validation days, where they were chosen by them."""
    (best,) = [entry for entry in result.curve if entry["step"] == result.best_step]
    return {f"best_{name}": best[f"val_{name}"] for name in ("rank_ic", "crps") if f"val_{name}" in best}


def _outputs(folder: Path) -> list[str]:
    """The files of a training that stay: weights, the copy of the tokenizer and the figure, as far as it has them."""
    places = [folder / "checkpoints" / "best_model", folder / OWN_TOKENIZER]
    files = [file for place in places for file in sorted(place.rglob("*")) if file.is_file()]
    files += [file for file in (folder / "loss_curve.png",) if file.is_file()]
    return [file.relative_to(folder).as_posix() for file in files]


def importable(function: Any) -> str:
    """Return module:name of a function. Raises UserError where other processes cannot import it."""
    module, name = function.__module__, function.__qualname__
    if module == "__main__" or "<" in name:
        raise UserError(
            f"the objective {name} of {module} cannot be imported by other processes: define it at the top level "
            "of a module, or train with one process"
        )
    return f"{module}:{name}"


def _starting_model(kind: Kind, context: Context, inputs: Inputs) -> tuple[Any, dict[str, Any]]:
    """The model that training starts from, and its description for the record of the trained weights.

    Additions that it does not have yet are made; the description is of the weights without them.
    """
    described = inputs.more or {}
    model, started_from = _weights_to_start(kind, context, inputs.starting, only_random(described))
    for words in add(model, described):
        context.say(f"{kind}: with {words}")
    return model, started_from


def _weights_to_start(
    kind: Kind, context: Context, pretrained: Weights | None, more: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    from kronos.model import checkpoint
    from kronos.model.presets import random_model

    config = context.config
    address, preset = pretrained_address(kind, config), config.model.model_preset
    if pretrained is not None:
        context.say(f"{kind}: fine-tunes {address}")
        return pretrained.model, {"address": address, "digest": pretrained.digest}
    context.say(f"{kind}: starts from random weights, preset {preset}")
    columns = model_columns(config.data)
    if kind == "tokenizer" and columns != FEATURES:
        more = {"columns": list(columns)}
    model = random_model(kind, preset, more)
    started: dict[str, Any] = {"address": None, "preset": preset, "seed": config.training.seed, **more}
    return model, {**started, "digest": checkpoint.digest(model)}


def _describe(context: Context, runtime: Any, model: Any, settings: Any, train: Any) -> None:
    """Print and log the device and precision with their reasons, numbers of parameters, effective batch size."""
    from kronos.training.adapters import trainable
    from kronos.training.dataloader import training_order
    from kronos.training.settings import plan

    for reason in runtime.reasons:
        context.say(f"  {reason}")
    arithmetic = plan(settings, training_order(train, settings.training), runtime.world)
    size, trained = sum(parameter.numel() for parameter in model.parameters()), trainable(model)
    context.say(f"  {size:,} parameters, {trained:,} of them trained; {arithmetic.text}")
    numbers = {
        "effective_batch": arithmetic.effective_batch,
        "model_parameters": size,
        "trainable_parameters": trained,
        "total_steps": arithmetic.total_steps,
    }
    context.run.parameters({name: str(number) for name, number in numbers.items()})
    context.run.tags({"runtime": "; ".join(runtime.reasons), "model": str(model.config)[:500]})


def _log_result(context: Context, folder: Path, record: dict[str, Any]) -> None:
    """Log artifacts and final metrics of a training run."""
    run = context.run
    run.artifact(folder / "checkpoints" / "best_model", "checkpoints/best_model")
    run.artifact(folder / "summary.json")
    run.artifact(folder / "loss_curve.png")
    log_closing(run, record["metrics"])
    run.tags({"model_digest": record["digest"]})


def log_closing(run: Run, metrics: dict[str, float]) -> None:
    """Log the metrics of a whole training, renamed where a metric of single steps has the same name.

    MLflow shows the last value of a metric, so that `val_loss` ends with the value of the saved weights.
    """
    last = int(metrics["steps"])
    run.metrics(
        last,
        {name.replace("windows_per_second", "mean_windows_per_second"): metrics[name] for name in metrics},
    )
    if metrics["best_step"] != last:
        run.metrics(last + 1, {"val_loss": metrics["best_val_loss"]})
