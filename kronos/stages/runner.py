"""Run a stage as a tracked run: open its inputs, reuse a finished output with the same cache key, or resume an
interrupted run. `run_stage` runs a stage alone or as a child of another one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from kronos.config.loading import to_text
from kronos.config.schema import Config
from kronos.distributed.launcher import WorkerGroup, python_module, world_size
from kronos.distributed.load import busy_machine
from kronos.stages import preflight
from kronos.stages.base import Context, Inputs, ObjectiveFactory, Result, Say, Stage
from kronos.stages.cache import finished, key_of, key_parts
from kronos.stages.description import describe, log_description, run_name
from kronos.stages.provenance import parent_runs
from kronos.stages.report_pages import in_language
from kronos.stages.run_folder import check_resumable, shards_of, stage_lock, unfinished_run
from kronos.tracking.client import Tracking, source_tags, uncommitted_changes, versions
from kronos.tracking.run import NOTE, Run
from kronos.utils.errors import UserError
from kronos.utils.files import clone

UNSENT = "unsent"  # folder of messages that an unreachable tracking server has not received


def print_line(text: str) -> None:
    print(text, flush=True)


def run_stage(
    stage: Stage,
    config: Config,
    parent: Context | None = None,
    *,
    say: Say = print_line,
    objective: ObjectiveFactory | None = None,
    tags: Mapping[str, str] | None = None,
    nested: bool = True,
) -> Result:
    """Run a stage, or reuse its finished output where nothing that it depends on has changed.

    Args:
        stage: the stage to run.
        config: the settings.
        parent: context of the running stage that this one is part of, whose tracking, worker processes and output
            function are used; None to run the stage alone.
        say: called with each line of output; used only without a parent.
        objective: factory of the training objective to use instead of the public one.
        tags: additional tags of the run.
        nested: whether the run is a child of the parent's run in MLflow.

    Raises:
        UserError: for an invalid field or input, or an external system that does not work; the run ends as FAILED.
    """
    config = stage.resolved(config)
    if parent is not None:
        stage.check(config)
        context = Context(config, parent.run, parent.tracking, parent.say, parent.workers, objective)
        return _run(
            stage, context, parent.run if nested else None, None, tags or {}, reusable_without_run=True
        )
    preflight.check(stage, config)
    if any("torch" in part.packages for part in stage.parts(config)) and (busy := busy_machine()):
        say(busy)
    with _workers(config) as workers:
        tracking = _tracking(config, say)
        context = Context(config, None, tracking, say, workers, objective)  # type: ignore[arg-type]
        return _run(stage, context, None, config.tracking.run_name, tags or {}, reusable_without_run=False)


def _run(
    stage: Stage,
    context: Context,
    parent: Run | None,
    name: str | None,
    tags: Mapping[str, str],
    reusable_without_run: bool,
) -> Result:
    config, tracking, say = context.config, context.tracking, context.say
    try:
        inputs: Inputs | UserError = stage.inputs(config)
    except UserError as error:
        if reusable_without_run:
            raise
        inputs = error  # raised within the run, so that MLflow shows the failure
    key: dict[str, Any] = {}
    if isinstance(inputs, Inputs) and stage.cached:
        key = key_parts(stage, config, inputs, context.objective)
    with _Lock(stage, config, key, say) as lock:
        if reusable_without_run and key and (found := _reuse(stage, context, key)):
            shards_of(stage.folder(config), context.workers).remove()
            return found
        run_id = None
        if isinstance(inputs, Inputs) and lock.problem is None:
            run_id = _run_to_continue(stage, context, inputs, key)
        with _open(context, stage, parent, name, tags, run_id) as run:
            shards = shards_of(stage.folder(config), context.workers)
            own = Context(config, run, tracking, say, context.workers, context.objective, shards)
            if tracking is not None:
                log_config(run, config)
            for problem in (inputs, lock.problem):
                if isinstance(problem, Exception):
                    raise problem
            assert isinstance(inputs, Inputs)
            result = None if reusable_without_run or not key else _reuse(stage, own, key)
            if result is not None:
                run.tags({"reused_run": result.run_id})
            else:
                result = _execute(stage, own, inputs, key)
            if tracking is not None:
                log_description(run, stage, config, result)
            if not reusable_without_run:
                stage.finish(own, result)
            shards.remove()
        if tracking is not None and not reusable_without_run:
            say(f"{stage.name}: done, {tracking.view(run.id)}")
        return result


class _Lock:
    """The lock of a cached stage; if it cannot be acquired, `problem` is the error and the block runs without it."""

    def __init__(self, stage: Stage, config: Config, key: Mapping[str, Any], say: Say) -> None:
        self.problem: Exception | None = None
        self._lock = stage_lock(stage.folder(config), key, not stage.resumable, say) if key else nullcontext()

    def __enter__(self) -> "_Lock":
        try:
            self._lock.__enter__()
        except (UserError, OSError) as error:  # for instance an output folder without write permission
            self.problem, self._lock = error, nullcontext()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)


def _execute(stage: Stage, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
    run, say = context.run, context.say
    if key:
        run.tags({"key": key_of(key), **{f"input_{name}": value for name, value in key["inputs"].items()}})
        if context.tracking is not None:
            run.tags(parent_runs(stage.name, context.config))
        say(f"{stage.name}: run {run.id}")
    for note in inputs.notes:
        say(f"  {note}")
    return stage.run(context, inputs, key)


@contextmanager
def _open(
    context: Context,
    stage: Stage,
    parent: Run | None,
    name: str | None,
    tags: Mapping[str, str],
    run_id: str | None,
) -> Iterator[Run]:
    """Start the stage's MLflow run; within a trial of a search, the run is the trial's recorder."""
    if context.tracking is None:
        yield context.run
        return
    given = {**tags_of(stage.name, context.config), **tags}
    given[NOTE] = describe(stage, context.config)
    with context.tracking.run(
        name or run_name(stage, context.config), given, parent=parent, run_id=run_id
    ) as run:
        yield run


def _reuse(stage: Stage, context: Context, key: Mapping[str, Any]) -> Result | None:
    """The finished output with this key if there is one and reuse is on, else None; prints the reason."""
    config, say, folder = context.config, context.say, stage.folder(context.config)
    record, why_not = finished(folder, key)
    if record is None:
        say(f"{stage.name}: runs, since {why_not}")
        return None
    if not config.tracking.reuse:
        say(f"{stage.name}: runs again, since reuse=false")
        return None
    say(f"{stage.name}: reused, nothing it depends on has changed (run {record['run_id']}, {folder})")
    shown = in_language(folder, record, config.backtest.report_language)
    if shown is not record:
        say(f"{stage.name}: report written again, since report_language={config.backtest.report_language}")
    return Result(stage.name, str(record["run_id"]), folder, shown, reused=True)


def _run_to_continue(stage: Stage, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> str | None:
    """Id of the MLflow run to resume: that of an interrupted training, or of a search whose process has ended."""
    config, tracking = context.config, context.tracking
    if tracking is None:
        return None
    if not stage.resumable:
        return stage.run_to_continue(config, inputs, tracking)
    folder = stage.folder(config)
    if config.training.resume == "must" and not (config.tracking.reuse and finished(folder, key)[0]):
        check_resumable(folder, key)
    run_id = unfinished_run(folder, key) if config.training.resume != "never" else None
    if run_id is None or not tracking.exists(run_id):
        return None
    context.say(f"{stage.name}: resumes its interrupted run")
    return run_id


@contextmanager
def _workers(config: Config) -> Iterator[WorkerGroup]:
    """The worker processes of a run; they are ended with the block."""
    workers = WorkerGroup(
        world_size(config.launch.nproc_per_node), python_module("kronos.stages.train_worker")
    )
    try:
        yield workers
    finally:
        workers.close()


def _tracking(config: Config, say: Callable[[str], None]) -> Tracking:
    """The connection to MLflow for a configuration."""
    tracking = config.tracking
    return Tracking(
        tracking.tracking_uri, tracking.experiment_name, unsent=Path(config.output.save_path).parent / UNSENT,
        wait=tracking.tracking_wait, say=say,
    )  # fmt: skip


def tags_of(stage: str, config: Config) -> dict[str, str]:
    """Tags of every run of a stage."""
    return {"stage": stage, "seed": str(config.training.seed), **source_tags(clone())}


def log_config(run: Run, config: Config) -> None:
    """Log all parameters, the configuration as config.json, package versions and uncommitted changes."""
    run.parameters({name: to_text(value) for name, value in config.values().items()})
    run.json(config.model_dump(mode="json"), "config.json")
    run.json(versions(), "versions.json")
    changes = uncommitted_changes(clone())
    if changes:
        run.text(changes, "uncommitted.diff")
