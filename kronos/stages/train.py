"""The tokenizer and predictor stages: one model each, through the one loop, into its own folder."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kronos.config.schema import Config, fields_of
from kronos.data.store import BarStore
from kronos.distributed.launcher import world_size
from kronos.stages.base import (
    MODEL_FIELDS,
    Work,
    key_of,
    origin,
    refuse_other_origin,
    write_record,
)
from kronos.stages.data import log_dataset, settled_ranges, stored_bars
from kronos.stages.model_logging import log_inputs, log_served_model
from kronos.stages.run_folder import working_folder
from kronos.stages.train_setup import Kind, freeze, make_objective, share_tokenizer, windows
from kronos.tracking.model_registry import ADDRESSES, weights
from kronos.utils.errors import UserError
from kronos.utils.progress import Progress

WEIGHTS = ("checkpoints/best_model/config.json", "checkpoints/best_model/model.safetensors")
CLIP_NORM = {"tokenizer": 2.0, "predictor": 3.0}  # of the public recipe
SHARED_FIELDS = tuple(
    name
    for name in (*fields_of("model", "training"), "device", "cpu", "lookback_window", "predict_window", "clip",
                 "train_time_range", "val_time_range", "max_context")
    if name not in ("log_interval", "num_workers", "resume", "save_windows", "tokenizer_learning_rate",
                    "predictor_learning_rate", "pretrained_predictor_path", "loss_bars", "freeze_blocks",
                    "freeze_tokenizer", "max_context")
)  # fmt: skip
TOKENIZER_FIELDS = (*SHARED_FIELDS, "tokenizer_learning_rate")
PREDICTOR_FIELDS = (
    *(name for name in SHARED_FIELDS if name != "pretrained_tokenizer_path"),
    "predictor_learning_rate", "pretrained_predictor_path", "loss_bars", "freeze_blocks",
)  # fmt: skip


def tokenizer_made_from(config: Config) -> dict[str, Any]:
    if config.freeze_tokenizer:
        raise UserError("freeze_tokenizer=true leaves nothing to train here: run  python -m kronos predictor")
    store = stored_bars(config)
    inputs = {"bars": store.digest, "splits": settled_ranges(config, store).text(), **_processes(config)}
    return origin("tokenizer", config, TOKENIZER_FIELDS, inputs)


def predictor_made_from(config: Config) -> dict[str, Any]:
    from kronos.model import checkpoint

    store = stored_bars(config)
    tokenizer = checkpoint.digest(trained_tokenizer(config, store))
    inputs = {
        "bars": store.digest, "splits": settled_ranges(config, store).text(), "tokenizer": tokenizer,
        **_processes(config),
    }  # fmt: skip
    return origin("predictor", config, PREDICTOR_FIELDS, inputs)


def _processes(config: Config) -> dict[str, str]:
    """They multiply the effective batch."""
    return {"processes": str(world_size(config.nproc_per_node))}


def run_tokenizer(work: Work, made: dict[str, Any]) -> dict[str, Any]:
    """Train the tokenizer on the stored bars."""
    return _train(work, made, "tokenizer", None)


def run_predictor(work: Work, made: dict[str, Any]) -> dict[str, Any]:
    """Train the predictor on the tokens that the stored tokenizer gives."""
    tokenizer = trained_tokenizer(work.config, stored_bars(work.config))
    work.run.tags({"tokenizer_digest": made["inputs"]["tokenizer"]})
    return _train(work, made, "predictor", tokenizer)


def trained_tokenizer(config: Config, store: BarStore) -> Any:
    """The tokenizer that later stages use: `tokenizer_path`, else the one trained here on these bars."""
    return _trained(config, store, "tokenizer")


def trained_predictor(config: Config, store: BarStore) -> Any:
    """The predictor that later stages use: `predictor_path`, else the one trained here on these bars."""
    return _trained(config, store, "predictor")


def _load(kind: Kind) -> Callable[[str | Path], Any]:
    from kronos.model import load_predictor, load_tokenizer

    return load_tokenizer if kind == "tokenizer" else load_predictor


def _trained(config: Config, store: BarStore, kind: Kind) -> Any:
    load, given = _load(kind), getattr(config, f"{kind}_path")
    if given is not None and given.startswith(ADDRESSES):
        given = weights(given, kind, config.tracking_uri)
    if given is None and kind == "tokenizer" and config.freeze_tokenizer:
        given = config.pretrained_tokenizer_path
    if given is not None:
        return load(given)
    folder = getattr(config, f"{kind}_folder")
    best = folder / "checkpoints" / "best_model"
    if not best.is_dir():
        raise UserError(f"no {kind} at {best}: run  python -m kronos {kind}  or give --{kind}-path")
    remedy = f"run  python -m kronos {kind}  again, or give --{kind}-path to use other weights"
    now = origin(kind, config, MODEL_FIELDS, {"bars": store.digest})
    refuse_other_origin(folder, f"the {kind}", remedy, now, MODEL_FIELDS)
    return load(best)


def _train(work: Work, made: dict[str, Any], kind: Kind, tokenizer: Any) -> dict[str, Any]:
    from kronos.distributed.device import choose, seed_everything
    from kronos.model import checkpoint
    from kronos.training.trainer import FitSettings, fit

    config, store = work.config, stored_bars(work.config)
    train, validation = windows(config, store)
    runtime = choose(config.device, config.cpu, config.precision, work.crew.place)
    seed_everything(config.seed)
    model = freeze(_starting_model(work, kind), config)
    if kind == "predictor":
        checkpoint.check_pair(tokenizer, model)
    custom = work.objective
    objective = custom(config, tokenizer) if custom else make_objective(kind, config, tokenizer)
    settings = FitSettings(
        epochs=config.epochs, batch_size=config.batch_size,
        learning_rate=getattr(config, f"{kind}_learning_rate"), accumulation_steps=config.accumulation_steps,
        beta1=config.adam_beta1, beta2=config.adam_beta2, weight_decay=config.adam_weight_decay,
        clip_norm=CLIP_NORM[kind], train_windows=config.n_train_iter, val_windows=config.n_val_iter,
        early_stopping_patience=config.early_stopping_patience, log_interval=config.log_interval,
        seed=config.seed, settings_key=key_of(made), pct_start=config.warmup_fraction,
        save_windows=config.save_windows, decay_norms_biases=config.decay_norms_biases,
        compile=config.compile, prefetch=config.num_workers,
    )  # fmt: skip
    _describe(work, runtime, model, settings, len(train))
    log_dataset(work, store, "training")
    job = {
        "kind": kind, "config": config.model_dump(mode="json"), "bars": store.digest, "settings": asdict(settings),
        "model": model.config, "tokenizer": tokenizer and tokenizer.config, "resume": config.resume != "never",
        "objective": importable(custom) if custom and runtime.world > 1 else None,
    }  # fmt: skip
    final = getattr(config, f"{kind}_folder")
    with working_folder(final, made, work.run.id) as (folder, stop), Progress(kind) as progress:
        with work.crew.job(job, runtime.device.type == "cuda"):
            share_tokenizer(objective, runtime)
            result = fit(
                model, objective, train, validation, settings=settings, runtime=runtime, folder=folder,
                report=work.run.metrics, progress=progress, resume=config.resume != "never", stop_requested=stop,
                before_save=work.run.flush,
            )  # fmt: skip
        work.run.flush()
        if result.interrupted:
            raise KeyboardInterrupt
        tracked = work.tracking is not None  # of a search's trial the numbers and the weights are enough
        if tracked:
            from kronos.report.figures import (  # over a second, which a trial needs not spend
                loss_figure,
                save_png,
            )

            save_png(loss_figure(result.curve, f"Losses of the {kind}"), folder / "loss_curve.png")
        best = _load(kind)(folder / "checkpoints" / "best_model")
        record = write_record(folder, made, work.run.id, WEIGHTS, {
            "metrics": {
                "best_val_loss": result.best_value, "best_step": result.best_step, "steps": result.steps,
                "windows_per_second": result.windows_per_second,
                **{f"seconds_{part}": value for part, value in result.seconds.items()},
            },
            "curve": result.curve, "learning_rates": result.learning_rates, "digest": checkpoint.digest(best),
        })  # fmt: skip
        if tracked:
            _log_result(work, folder, record)
        if tracked and kind == "predictor":
            log_inputs(work, tokenizer=tokenizer)
            address = log_served_model(work.run, config, store, tokenizer, best, result.steps)
            work.say(f"predictor: logged with its tokenizer as {address}")
    work.say(
        f"{kind}: best val_loss {record['metrics']['best_val_loss']:.5g} at step {result.best_step}, "
        f"{result.windows_per_second:,.0f} windows/s, saved in {final}"
    )
    return record


def importable(function: Any) -> str:
    """module:name of a function that other processes can import."""
    module, name = function.__module__, function.__qualname__
    if module == "__main__" or "<" in name:
        raise UserError(
            f"the objective {name} of {module} cannot be imported by other processes: define it at the top of a "
            "module, or train with one process"
        )
    return f"{module}:{name}"


def _starting_model(work: Work, kind: Kind) -> Any:
    """The model that training starts from: pretrained weights, or the preset with random ones, said aloud."""
    from kronos.model import Kronos, KronosTokenizer
    from kronos.model.presets import PREDICTOR_PRESETS, TOKENIZER_PRESETS, tokenizer_preset_for

    config = work.config
    pretrained = getattr(config, f"pretrained_{kind}_path")
    if pretrained is not None:
        work.say(f"{kind}: fine-tunes {pretrained}")
        return _load(kind)(pretrained)
    work.say(f"{kind}: starts from random weights, preset {config.model_preset}")
    if kind == "tokenizer":
        return KronosTokenizer(**TOKENIZER_PRESETS[tokenizer_preset_for(config.model_preset)])
    return Kronos(**PREDICTOR_PRESETS[config.model_preset])


def _describe(work: Work, runtime: Any, model: Any, settings: Any, windows: int) -> None:
    """Say and log what was chosen, with its reason, and the arithmetic of the batch."""
    from kronos.training.trainer import plan

    for reason in runtime.reasons:
        work.say(f"  {reason}")
    arithmetic = plan(settings, windows, runtime.world)
    size = sum(parameter.numel() for parameter in model.parameters())
    work.say(f"  {size:,} parameters; {arithmetic.text}")
    work.run.parameters({"effective_batch": str(arithmetic.effective_batch), "model_parameters": str(size)})
    work.run.tags({"runtime": "; ".join(runtime.reasons), "model": str(model.config)[:500]})


def _log_result(work: Work, folder: Path, record: dict[str, Any]) -> None:
    """Artifacts and closing metrics of a training run."""
    work.run.artifact(folder / "checkpoints" / "best_model", "checkpoints/best_model")
    work.run.artifact(folder / "summary.json")
    work.run.artifact(folder / "loss_curve.png")
    work.run.metrics(int(record["metrics"]["steps"]), closing(record["metrics"]))
    work.run.tags({"model_digest": record["digest"]})


def closing(metrics: dict[str, float]) -> dict[str, float]:
    """The figures of a whole training under names that no report of its last step has taken."""
    return {name.replace("windows_per_second", "mean_windows_per_second"): metrics[name] for name in metrics}
