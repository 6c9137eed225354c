"""The head stage: train a small head on the predictor's hidden states, and answer one question with it directly."""

import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kronos.config.schema import Config, fields_of
from kronos.data.outcomes import Points
from kronos.distributed.launcher import world_size
from kronos.forecast.heads import FILE, WEIGHTS, StoredHead, load_head
from kronos.report.heads import write_head
from kronos.report.saved_content import save
from kronos.stages import looks
from kronos.stages.base import Context, Figure, Inputs, Result, Stage
from kronos.stages.cache import key_of, write_record
from kronos.stages.ensemble import forecaster_of
from kronos.stages.head_evaluation import FORECASTS, evaluate, look_of, scored_points
from kronos.stages.head_setup import (
    CLIP_NORM,
    STATES,
    examples_of,
    new_head,
    points_of,
    with_adapter,
    with_states,
)
from kronos.stages.inputs import BY_CONTENT, log_dataset, resolve_splits, splits_to_json, stored_bars
from kronos.stages.model_logging import log_inputs
from kronos.stages.provenance import seen_before
from kronos.stages.report_pages import LANGUAGE
from kronos.stages.run_folder import working_folder
from kronos.stages.train_setup import share_tokenizer
from kronos.stages.weights import given_address, trained_models
from kronos.tracking.metric_names import tracked
from kronos.utils.digests import file_digest, with_own_digest
from kronos.utils.errors import UserError
from kronos.utils.files import digest_bytes, given_path, write_json
from kronos.utils.progress import Progress

# Of the training's fields: rates of the models, and what is of windows, layers and forecasts of the predictor alone.
NOT_READ = (
    "tokenizer_learning_rate", "predictor_learning_rate", "loss_bars", "balance_windows", "since", "replay_fraction",
    "early_stopping_metric", "unfreeze_every", "layer_decay",
)  # fmt: skip
# What a head was trained with, by its field; with other values it answers another question.
SAME = ("objective", "lookback_window", "predict_window", "clip")


class HeadStage(Stage):
    """Write the head's weights, head.json, forecasts.parquet, report.md and .html."""

    name = "head"
    help = "train a head that answers directly: return, direction, volatility or rank"
    params = (
        *fields_of("data", "head"), *(name for name in fields_of("training") if name not in NOT_READ),
        *fields_of("tracking"), "backtest_batch_size", "backtest_max_instruments", "backtest_limit_threshold",
        "backtest_delisting_return", "report_language", "save_path", "backtest_result_path",
        "tokenizer_save_folder_name", "predictor_save_folder_name", "tokenizer_path", "predictor_path",
        "pretrained_tokenizer_path", "device", "cpu", "nproc_per_node",
    )  # fmt: skip
    by_content = (*BY_CONTENT, "max_context", "head_path")
    packages = ("torch", "numpy", "pandas", "scipy", "exchange_calendars")
    resumable = True

    def check(self, config: Config) -> None:
        problems = []
        if len(config.members()) > 1:
            problems.append("head takes one predictor: give --predictor-path one address")
        if config.head.objective == "volatility" and config.data.predict_window == 1:
            problems.append(
                "objective=volatility needs a predict_window of 2 bars or more: one return has no spread"
            )
        if config.training.adapter == "none" and config.training.shard:
            problems.append("shard=true has nothing to split: a head alone is trained with adapter=none")
        if config.training.adapter != "none" and set(config.training.adapter_targets) == {"heads"}:
            problems.append(
                "adapter_targets=heads are layers that a head has no part of: give attention or feed-forward"
            )
        if problems:
            raise UserError("; ".join(problems))

    def folder(self, config: Config) -> Path:
        return config.head_folder

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        models, notes = trained_models(config, store, splits)
        points = points_of(config, store, splits)
        scored_points(config, store, splits)
        digests = {
            "bars": store.digest,
            "splits": f"{splits.text()}, backtest {splits.backtest[0]}..{splits.backtest[1]}",
            "tokenizer": models.tokenizer.digest, "predictor": models.predictor.digest,
            "seen": digest_bytes("\n".join(seen_before(config, splits)).encode())[:16],
        }  # fmt: skip
        if config.head.head_path is not None:
            _stored(config, digests)
            digests["head"] = head_digest(given_path(config.head.head_path))
            return Inputs(digests, store, splits, models, more=points, notes=notes)
        digests["processes"] = str(
            world_size(config.launch.nproc_per_node)
        )  # the effective batch depends on it
        if config.training.adapter != "none":  # whose first matrix peft draws
            digests["peft"] = version("peft")
        return Inputs(digests, store, splits, models, more=points, notes=notes)

    def key_fields(self, config: Config) -> tuple[str, ...]:
        """Without those of the training for a head that is not trained."""
        names = super().key_fields(config)
        if config.head.head_path is None:
            return names
        return tuple(name for name in names if name not in (*fields_of("training"), "head_learning_rate"))

    def headline(self, result: Result) -> tuple[Figure, ...]:
        return tuple(Figure(one["name"], one["value"], one["detail"]) for one in result.record["headline"])

    def after_interrupt(self, config: Config) -> str:
        if config.training.resume == "never":
            return "the same command trains anew, since resume=never"
        return "the same command resumes the training from its last checkpoint"

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Train or load the head, evaluate it and write the output folder, which is renamed when complete."""
        config, store, run = context.config, inputs.store, context.run
        assert store is not None and inputs.splits is not None
        log_dataset(context, store, "training")
        run.tags({f"{name}_digest": inputs.digests[name] for name in ("tokenizer", "predictor")})
        log_inputs(context, **inputs.models.named())
        final, language = self.folder(config), config.backtest.report_language
        with working_folder(final, key, run.id) as (folder, stop):
            if config.head.head_path is None:
                head, trained = _train(context, inputs, key, folder, stop)
            else:
                head, trained = _stored(config, inputs.digests), {}
                shutil.copytree(
                    given_path(config.head.head_path) / WEIGHTS, folder / WEIGHTS, dirs_exist_ok=True
                )
            write_json(folder / FILE, with_own_digest(dict(head.facts)))
            ledger, look = looks.ledger_of(config), look_of(config, inputs, head_digest(folder))
            before = looks.looked_before(ledger, look, context)
            table, page = evaluate(context, inputs, head, before, trained.get("curve", []), stop)
            table.to_parquet(folder / FORECASTS, index=False)
            save(folder, "head", page=page)
            metrics = write_head(folder, page, language)
            shutil.rmtree(folder / STATES, ignore_errors=True)
            record = write_record(folder, key, run.id, _outputs(folder), {
                "metrics": {**metrics, **trained.get("metrics", {})}, "curve": trained.get("curve", []),
                "headline": page.headline(), LANGUAGE: language,
            })  # fmt: skip
            run.metrics(
                int(trained.get("metrics", {}).get("steps", 0)), tracked(self.name, record["metrics"])
            )
            for name in record["outputs"]:
                run.artifact(folder / name, str(Path(name).parent) if Path(name).parent.name else None)
            run.artifact(folder / "summary.json")
            looks.record(ledger, look, run, context.say)
        for line in page.lines():
            context.say(f"head: {line}")
        context.say(f"head: {len(table):,} forecasts in {final / FORECASTS}, report in {final / 'report.md'}")
        return Result(self.name, run.id, final, record)


def head_digest(folder: Path) -> str:
    """Digest of a stored head: of its weights and of what they were trained with."""
    parts = [file_digest(folder / name) for name in (FILE, f"{WEIGHTS}/model.safetensors")]
    return digest_bytes("/".join(parts).encode())[:16]


def _outputs(folder: Path) -> list[str]:
    """All files but those that are only there for resuming."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if name != "run.json" and not name.startswith("checkpoints/last/"))


def _stored(config: Config, digests: Mapping[str, str]) -> StoredHead:
    """The head of head_path. Raises UserError where it is of another question or on another predictor."""
    head = load_head(str(config.head.head_path))
    for name in SAME:
        if (stored := head.facts[name]) != (asked := getattr(config, name)):
            raise UserError(
                f"the head in {config.head.head_path} was trained with {name}={stored}, not {asked}: give "
                f"--{name.replace('_', '-')} {stored}, or another --head-path"
            )
    for kind in ("tokenizer", "predictor"):
        if head.facts[kind] != digests[kind]:
            raise UserError(
                f"the head in {config.head.head_path} was trained on another {kind} (digest {head.facts[kind][:12]}, "
                f"this one has {digests[kind][:12]}): give --{kind}-path of that one, or train a head on this one"
            )
    return head


def _train(
    context: Context, inputs: Inputs, key: Mapping[str, Any], folder: Path, stop: Callable[[], bool]
) -> tuple[StoredHead, dict[str, Any]]:
    """Train the head and keep its best checkpoint; returns it, and the part of the record about the training."""
    from kronos.distributed.device import choose, seed_everything
    from kronos.training.adapters import trainable
    from kronos.training.dataloader import training_order
    from kronos.training.head_objectives import HeadObjective
    from kronos.training.settings import FitSettings, plan
    from kronos.training.trainer import fit

    config, store, splits, run = context.config, inputs.store, inputs.splits, context.run
    assert store is not None and splits is not None
    training, launch, answer = config.training, config.launch, config.head
    points: dict[str, Points] = inputs.more
    ((tokenizer, predictor),) = inputs.models.pairs
    frozen = training.adapter == "none"
    seed_everything(training.seed)
    head = new_head(config, points["train"], predictor.model.d_model)
    examples = examples_of(config, store, points, head, None if frozen else predictor.model)
    if frozen:
        context.say("head: hidden states of the frozen predictor, computed once")
        pair = forecaster_of(config, store, inputs.models)
        examples = with_states(examples, folder / STATES, pair, stop)
    runtime = choose(launch.device, launch.cpu, training.precision, context.workers.place)
    seed_everything(training.seed)
    address = given_address("predictor", config) or str(config.model_folder("predictor"))
    shape = dict(predictor.model.config)
    model = head if frozen else with_adapter(predictor.model, head, config, address)
    objective = HeadObjective(answer.objective, None if frozen else tokenizer.model)
    settings = FitSettings(training, answer.head_learning_rate, CLIP_NORM, settings_key=key_of(key))
    arithmetic = plan(settings, training_order(examples["train"], training), runtime.world)
    context.say(f"  {trainable(model):,} parameters are trained; {arithmetic.text}")
    run.parameters(
        {"trainable_parameters": str(trainable(model)), "total_steps": str(arithmetic.total_steps)}
    )
    run.tags({"runtime": "; ".join(runtime.reasons)})
    resume = training.resume != "never"
    job = {
        "kind": "head", "config": config.model_dump(mode="json"), "bars": store.digest,
        "splits": splits_to_json(splits), "learning_rate": answer.head_learning_rate, "clip_norm": CLIP_NORM,
        "settings_key": key_of(key), "model": None if frozen else shape, "width": predictor.model.d_model,
        "tokenizer": None if frozen else tokenizer.model.config, "states": str((folder / STATES).absolute()),
        "resume": resume,
    }  # fmt: skip
    with Progress("head") as progress, context.workers.job(job, runtime.device.type == "cuda"):
        share_tokenizer(objective, runtime)
        result = fit(
            model, objective, examples["train"], examples["val"], settings=settings, runtime=runtime,
            folder=folder, report=run.metrics, progress=progress, resume=resume, stop_requested=stop,
            before_save=run.flush,
        )  # fmt: skip
    run.flush()
    if result.interrupted:
        raise KeyboardInterrupt
    facts = {
        **{name: getattr(config, name) for name in SAME}, "adapter": training.adapter,
        **{name: inputs.digests[name] for name in ("tokenizer", "predictor")},
        "days": {name: [str(day) for day in splits.days()[name]] for name in ("train", "val")},
    }  # fmt: skip
    write_json(folder / FILE, with_own_digest(facts))
    context.say(f"head: best val_loss {result.best_value:.5g} at step {result.best_step} of {result.steps}")
    metrics = {
        "best_val_loss": result.best_value, "best_step": result.best_step, "steps": result.steps,
        "windows_per_second": result.windows_per_second,
    }  # fmt: skip
    return load_head(folder), {"metrics": metrics, "curve": result.curve}
