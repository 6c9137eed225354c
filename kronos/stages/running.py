"""Running stages: one tracked run each, a finished one with the same key reused, the pipeline as their parent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kronos.config import Config
from kronos.errors import UserError
from kronos.files import write_json
from kronos.flags import to_text
from kronos.stages.core import Body, Outcome, Stage, Work, finished, key_of, unfinished_run
from kronos.tracking import Run, Tracking, source_tags, versions

PROJECT = Path(__file__).resolve().parent.parent.parent
ORDER = ("data", "tokenizer", "predictor", "backtest")
SKIPS = {
    "data": "skip_data_process", "tokenizer": "skip_tokenizer", "predictor": "skip_predictor",
    "backtest": "skip_backtest",
}  # fmt: skip
CONFIG_FILE = "pipeline_config.json"


def print_line(text: str) -> None:
    print(text, flush=True)


def single(stage: Stage, config: Config, say: Callable[[str], None]) -> dict[str, Outcome]:
    """Run one stage as a run of its own."""
    tracking = Tracking(config.tracking_uri, config.experiment_name)
    body = stage.load()
    made = _origin(body, config)
    run_id = None if isinstance(made, UserError) else _resumable(stage, config, made, tracking)
    with tracking.run(config.run_name or stage.name, _tags(stage.name, config), run_id=run_id) as run:
        _log_config(run, config)
        if isinstance(made, UserError):  # raised here, so that the failure is on record
            raise made
        outcome = _reuse(stage, config, made, say)
        if outcome is None:
            outcome = _do(stage, body, made, Work(config, run, tracking, say))
        else:
            run.tags({"reused_run": outcome.run_id})
    return {stage.name: outcome}


def pipeline(config: Config, say: Callable[[str], None]) -> dict[str, Outcome]:
    """Run the stages in order as children of one run; skipped ones must have left their output before."""
    from kronos.stages import STAGES

    tracking = Tracking(config.tracking_uri, config.experiment_name)
    outcomes: dict[str, Outcome] = {}
    with tracking.run(config.run_name or "pipeline", _tags("pipeline", config)) as run:
        _log_config(run, config)
        _check_skipped(config)
        write_json(Path(config.save_path).parent / CONFIG_FILE, config.model_dump(mode="json"))
        for name in ORDER:
            if getattr(config, SKIPS[name]):
                say(f"{name}: skipped, the stored output is used")
                run.tags({f"{name}_skipped": "true"})
                continue
            outcome = _child(STAGES[name], config, tracking, run, say)
            outcomes[name] = outcome
            run.tags({f"{name}_run": outcome.run_id, f"{name}_reused": to_text(outcome.reused)})
            run.metrics(0, {f"{name}_{key}": value for key, value in outcome.record["metrics"].items()})
        say(f"pipeline: done, run {run.id}; look at it with  mlflow ui")
    return outcomes


def _child(
    stage: Stage, config: Config, tracking: Tracking, parent: Run, say: Callable[[str], None]
) -> Outcome:
    body = stage.load()
    made = body.made_from(config)
    outcome = _reuse(stage, config, made, say)
    if outcome is not None:
        return outcome
    run_id = _resumable(stage, config, made, tracking)
    with tracking.run(stage.name, _tags(stage.name, config), parent=parent, run_id=run_id) as run:
        _log_config(run, config)
        return _do(stage, body, made, Work(config, run, tracking, say))


def _do(stage: Stage, body: Body, made: dict[str, Any], work: Work) -> Outcome:
    work.run.tags({"key": key_of(made), **{f"input_{name}": value for name, value in made["inputs"].items()}})
    work.say(f"{stage.name}: run {work.run.id}")
    record = body.run(work, made)
    return Outcome(stage.name, work.run.id, stage.folder(work.config), record)


def _origin(body: Body, config: Config) -> dict[str, Any] | UserError:
    try:
        return body.made_from(config)
    except UserError as error:
        return error


def _reuse(stage: Stage, config: Config, made: dict[str, Any], say: Callable[[str], None]) -> Outcome | None:
    """The finished output of this very origin, where there is one and reuse is on; says why it is not used."""
    folder = stage.folder(config)
    record, why_not = finished(folder, made)
    if record is None:
        say(f"{stage.name}: runs, since {why_not}")
        return None
    if not config.reuse:
        say(f"{stage.name}: runs again, reuse=false")
        return None
    say(f"{stage.name}: reused, nothing it follows from has changed (run {record['run_id']}, {folder})")
    return Outcome(stage.name, str(record["run_id"]), folder, record, reused=True)


def _resumable(stage: Stage, config: Config, made: dict[str, Any], tracking: Tracking) -> str | None:
    run_id = unfinished_run(stage.folder(config), key_of(made)) if config.resume != "never" else None
    return run_id if run_id and tracking.exists(run_id) else None


def _check_skipped(config: Config) -> None:
    """A skipped stage must have left what later ones read; all that is missing is said at once."""
    from kronos.stages import STAGES

    missing = []
    for name in ("data", "tokenizer", "predictor"):
        if not getattr(config, SKIPS[name]):
            continue
        given = getattr(config, f"{name}_path", None)
        folder = STAGES[name].folder(config)
        needed = folder / ("index.json" if name == "data" else "checkpoints/best_model")
        if given is None and not needed.exists():
            flag = SKIPS[name].replace("_", "-")
            missing.append(
                f"--{flag}: no {name} at {folder}: run  python -m kronos {name}  or leave the flag out"
            )
    if missing:
        raise UserError("; ".join(missing))


def _tags(stage: str, config: Config) -> dict[str, str]:
    return {"stage": stage, "seed": str(config.seed), **source_tags(PROJECT)}


def _log_config(run: Run, config: Config) -> None:
    """Every resolved parameter, the configuration as a file that can be used again, and all versions."""
    run.parameters({name: to_text(getattr(config, name)) for name in Config.model_fields})
    run.json(config.model_dump(mode="json"), "config.json")
    run.json(versions(), "versions.json")
