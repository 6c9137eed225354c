"""Running stages: one tracked run each, a finished one with the same key reused, the pipeline as their parent."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronos.config.loading import to_text
from kronos.config.schema import Config
from kronos.distributed.launcher import Crew, python_module, world_size
from kronos.stages.base import Body, Outcome, Stage, Work, finished, key_of, unfinished_run
from kronos.stages.provenance import parents
from kronos.stages.run_folder import check_resumable
from kronos.tracking.client import Run, Tracking, source_tags, uncommitted_changes, versions
from kronos.utils.errors import UserError
from kronos.utils.files import clone, digest_bytes, write_json

ORDER = ("data", "tokenizer", "predictor", "backtest")
SKIPS = {
    "data": "skip_data_process", "tokenizer": "skip_tokenizer", "predictor": "skip_predictor",
    "backtest": "skip_backtest",
}  # fmt: skip
CONFIG_FILE = "pipeline_config.json"
UNSENT = "unsent"  # what a tracking server has not received
ObjectiveFactory = Callable[[Config, Any], Any]


def print_line(text: str) -> None:
    print(text, flush=True)


def single(
    stage: Stage, config: Config, say: Callable[[str], None], objective: ObjectiveFactory | None = None
) -> dict[str, Outcome]:
    """Run one stage as a run of its own."""
    with _crew(config) as crew:
        tracking = tracking_of(config, say)
        made = _origin(stage.load(), config, objective)
        run_id = None if isinstance(made, UserError) else _resumable(stage, config, made, tracking)
        with tracking.run(config.run_name or stage.name, tags_of(stage.name, config), run_id=run_id) as run:
            log_config(run, config)
            if isinstance(made, UserError):  # raised here, so that the failure is on record
                raise made
            outcome = _reuse(stage, config, made, say)
            if outcome is None:
                outcome = _do(stage, made, Work(config, run, tracking, say, crew, objective))
            else:
                run.tags({"reused_run": outcome.run_id})
            if stage.name == "backtest":
                _register(Work(config, run, tracking, say, crew), outcome)
    return {stage.name: outcome}


@dataclass(frozen=True)
class PipelineRun:
    """An open pipeline run, in which stages run as children."""

    config: Config
    tracking: Tracking
    run: Run
    say: Callable[[str], None]
    crew: Crew

    def stage(self, stage: Stage, objective: ObjectiveFactory | None = None) -> Outcome:
        """Run a stage, or take its finished output where nothing changed."""
        config, say = self.config, self.say
        made = _origin(stage.load(), config, objective)
        if isinstance(made, UserError):
            raise made
        outcome = _reuse(stage, config, made, say)
        if outcome is not None:
            return outcome
        run_id = _resumable(stage, config, made, self.tracking)
        tags = tags_of(stage.name, config)
        with self.tracking.run(stage.name, tags, parent=self.run, run_id=run_id) as run:
            log_config(run, config)
            return _do(stage, made, Work(config, run, self.tracking, say, self.crew, objective))


def pipeline(
    config: Config,
    say: Callable[[str], None],
    steps: Callable[[PipelineRun], Mapping[str, Callable[[], Outcome | None]]] | None = None,
) -> dict[str, Outcome]:
    """Run the stages in order as children of one run; skipped ones must have left their output before.

    `steps` gives functions to call instead of stages, by stage name.
    """
    from kronos.stages import STAGES

    outcomes: dict[str, Outcome] = {}
    with _crew(config) as crew:
        tracking = tracking_of(config, say)
        with tracking.run(config.run_name or "pipeline", tags_of("pipeline", config)) as run:
            log_config(run, config)
            _check_skipped(config)
            write_json(Path(config.save_path).parent / CONFIG_FILE, config.model_dump(mode="json"))
            current = PipelineRun(config, tracking, run, say, crew)
            own = steps(current) if steps else {}
            for name in ORDER:
                if _skips(config, name):
                    say(f"{name}: skipped, {_used_instead(config, name)} is used")
                    run.tags({f"{name}_skipped": "true"})
                    continue
                outcome = own[name]() if name in own else current.stage(STAGES[name])
                if outcome is None:  # a step of the user's that is no stage
                    continue
                outcomes[name] = outcome
                run.tags({f"{name}_run": outcome.run_id, f"{name}_reused": to_text(outcome.reused)})
                run.metrics(0, {f"{name}_{key}": value for key, value in outcome.record["metrics"].items()})
            if "backtest" in outcomes:
                _register(Work(config, run, tracking, say, crew), outcomes["backtest"])
            say(f"pipeline: done, run {run.id}; look at it with  mlflow ui")
    return outcomes


def beside(stage: Stage, config: Config, tracking: Tracking, say: Callable[[str], None]) -> Outcome:
    """Run a stage as a run of its own while another is open, or take its finished output."""
    with _crew(config) as crew:
        made = _origin(stage.load(), config, None)
        if isinstance(made, UserError):
            raise made
        outcome = _reuse(stage, config, made, say)
        if outcome is not None:
            return outcome
        run_id = _resumable(stage, config, made, tracking)
        with tracking.run(stage.name, tags_of(stage.name, config), run_id=run_id) as run:
            log_config(run, config)
            return _do(stage, made, Work(config, run, tracking, say, crew))


@contextmanager
def _crew(config: Config) -> Iterator[Crew]:
    """The processes that train together, sent home at the end."""
    crew = Crew(world_size(config.nproc_per_node), python_module("kronos.stages.train_worker"))
    try:
        yield crew
    finally:
        crew.close()


def _skips(config: Config, name: str) -> bool:
    return bool(getattr(config, SKIPS[name])) or (name == "tokenizer" and config.freeze_tokenizer)


def _used_instead(config: Config, name: str) -> str:
    if name == "tokenizer" and config.freeze_tokenizer:
        return str(config.tokenizer_path or config.pretrained_tokenizer_path)
    return "the stored output"


def _do(stage: Stage, made: dict[str, Any], work: Work) -> Outcome:
    work.run.tags({"key": key_of(made), **{f"input_{name}": value for name, value in made["inputs"].items()}})
    work.run.tags(parents(stage.name, work.config))
    work.say(f"{stage.name}: run {work.run.id}")
    record = stage.load().run(work, made)
    return Outcome(stage.name, work.run.id, stage.folder(work.config), record)


def _register(work: Work, backtest: Outcome) -> None:
    """Register what was backtested, reused or not, where a name for it is given."""
    if work.config.registered_model_name is not None:
        from kronos.stages.promote import register_backtest

        work.run.flush()  # its metrics are shown at the model too
        work.tracking.outbox.wait()  # the registry cannot be written to later
        register_backtest(work.tracking, work.run, work.config, backtest, work.say)


def _origin(body: Body, config: Config, objective: ObjectiveFactory | None) -> dict[str, Any] | UserError:
    try:
        made = body.made_from(config)
    except UserError as error:
        return error
    if objective is not None:
        made["inputs"]["objective"] = _digest_of(objective)
    return made


def _digest_of(objective: ObjectiveFactory) -> str:
    """Name and source of a user's objective: another text is another training."""
    try:
        source = inspect.getsource(inspect.getmodule(objective) or objective)
    except (OSError, TypeError):  # typed at a prompt
        source = objective.__code__.co_code.hex() if inspect.isfunction(objective) else ""
    return f"{objective.__qualname__} {digest_bytes(source.encode())[:16]}"


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
    folder = stage.folder(config)
    trains = stage.name in ("tokenizer", "predictor")
    if config.resume == "must" and trains and not (config.reuse and finished(folder, made)[0]):
        check_resumable(folder, made)
    run_id = unfinished_run(folder, key_of(made)) if config.resume != "never" else None
    return run_id if run_id and tracking.exists(run_id) else None


def _check_skipped(config: Config) -> None:
    """A skipped stage must have left what later ones read; all that is missing is said at once."""
    from kronos.stages import STAGES

    missing = []
    for name in ("data", "tokenizer", "predictor"):
        if not getattr(config, SKIPS[name]) or (name == "tokenizer" and config.freeze_tokenizer):
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


def tracking_of(config: Config, say: Callable[[str], None]) -> Tracking:
    """The connection to MLflow that a configuration asks for."""
    return Tracking(
        config.tracking_uri, config.experiment_name, unsent=Path(config.save_path).parent / UNSENT,
        wait=config.tracking_wait, say=say,
    )  # fmt: skip


def tags_of(stage: str, config: Config) -> dict[str, str]:
    return {"stage": stage, "seed": str(config.seed), **source_tags(clone())}


def log_config(run: Run, config: Config) -> None:
    """Every resolved parameter, the configuration as a file that can be used again, and all versions."""
    run.parameters({name: to_text(getattr(config, name)) for name in Config.model_fields})
    run.json(config.model_dump(mode="json"), "config.json")
    run.json(versions(), "versions.json")
    changes = uncommitted_changes(clone())
    if changes:
        run.text(changes, "uncommitted.diff")
