"""Base class of stages, and the data classes for their context, inputs and results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kronos.config.schema import Config, fields_of

if TYPE_CHECKING:
    from kronos.data.splits import Ranges
    from kronos.data.store import BarStore
    from kronos.distributed.launcher import WorkerGroup
    from kronos.distributed.shards_folder import Shards
    from kronos.tracking.client import Tracking
    from kronos.tracking.run import Run

ObjectiveFactory = Callable[
    [Config, Any], Any
]  # (config, tokenizer or None) -> kronos.training.objectives.Objective
Say = Callable[[str], None]
MOST_FIGURES = 8  # in the description of a run
# Fields that cannot change the results of any stage: output folders, tracking, printing and speed.
NO_EFFECT = frozenset((
    *fields_of("output", "refit", "update", "tracking", "registry", "search"), "dataset_path", "cache_path",
    "audit_path", "generate_path", "benchmark_path", "embed_path", "head_save_folder_name",
    "log_interval", "num_workers", "save_windows", "resume", "backtest_batch_size", "nproc_per_node", "fast_mode",
    "report_language", "skip_data_process", "skip_tokenizer", "skip_predictor", "skip_backtest",
))  # fmt: skip


@dataclass(frozen=True)
class Context:
    """What a stage runs with: the configuration, its MLflow run, the output function and the worker processes.

    `tracking` is None in a trial of a search, since the process of the search logs the trial's metrics.
    """

    config: Config
    run: "Run"
    tracking: "Tracking | None"
    say: Say
    workers: "WorkerGroup"
    objective: ObjectiveFactory | None = None  # used instead of the public objective
    shards: "Shards | None" = None  # where finished parts of its forecasts are kept until it succeeds


@dataclass(frozen=True)
class Inputs:
    """Everything that a stage reads, opened once, and the digests of these inputs, which are part of the cache key.

    A stage sets the fields that it needs.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    store: "BarStore | None" = None
    splits: "Ranges | None" = None
    models: Any = None  # the pairs that forecast: of an ensemble several
    tokenizer: Any = None  # whose tokens a predictor is trained on
    starting: Any = None  # the weights that training starts from, None for random initialization
    calibration: Any = None  # of the bands of the models' forecasts, or the reason why there is none
    more: Any = None  # anything else that the stage needs
    notes: tuple[str, ...] = ()  # lines to print before the stage runs


@dataclass(frozen=True)
class Figure:
    """One figure of a stage's result: its name, its value as text, and its interval or what it refers to."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """The result of a stage: run id, output folder, the record in that folder, and the results of child stages."""

    stage: str
    run_id: str
    folder: Path
    record: Mapping[str, Any]
    reused: bool = False
    children: Mapping[str, "Result"] = field(default_factory=dict)


class Stage:
    """One step of the pipeline; subclass it and add an instance with `kronos.stages.register_stage`.

    Attributes:
        name: the name on the command line, in MLproject and in the tag `kronos.stage`.
        help: one line for the command line.
        params: the fields that the stage reads. They are listed in its help and in MLproject, and those that can
            change its results are part of its cache key.
        by_content: fields of `params` that enter the key through the digest of an input instead of their value.
        packages: installed packages whose version can change the stage's results.
        cached: whether a finished output with the same key is reused.
        resumable: whether an interrupted run can be continued from a checkpoint.
    """

    name: str
    help: str
    params: tuple[str, ...]
    by_content: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("numpy", "pandas")
    cached: bool = True
    resumable: bool = False

    def resolved(self, config: Config) -> Config:
        """The configuration that the stage works with: the one given, unless the stage decides fields by others."""
        return config

    def check(self, config: Config) -> None:
        """Raise UserError for an invalid configuration; called before inputs are opened and the run is created."""

    def parts(self, config: Config) -> "tuple[Stage, ...]":
        """The stages that this one runs, itself unless it is made of others; they are checked before it begins."""
        return (self,)

    def folder(self, config: Config) -> Path:
        """The output folder of the stage."""
        raise NotImplementedError

    def inputs(self, config: Config) -> Inputs:
        """Open everything that the stage reads, with digests. Raises UserError where something is missing."""
        raise NotImplementedError

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Run the stage. `key` holds the parts of the cache key, which `cache.write_record` writes to the record."""
        raise NotImplementedError

    def key_fields(self, config: Config) -> tuple[str, ...]:
        """The fields whose values are part of the cache key."""
        return tuple(name for name in self.params if name not in NO_EFFECT and name not in self.by_content)

    def code(self, config: Config) -> tuple[str, ...]:
        """Further modules that the results depend on, besides the stage's own; their imports are included."""
        return ()

    def run_to_continue(self, config: Config, inputs: Inputs, tracking: "Tracking") -> str | None:
        """Id of the MLflow run to resume, for a stage that stores its progress elsewhere (a search); else None."""
        return None

    def headline(self, result: Result) -> tuple[Figure, ...]:
        """The figures that tell the result, for the description of the run; the first of the metrics by default."""
        metrics = result.record.get("metrics", {})
        return tuple(
            Figure(name.replace("_", " "), f"{value:,.6g}")
            for name, value in [*metrics.items()][:MOST_FIGURES]
        )

    def after_interrupt(self, config: Config) -> str:
        """What the same command does after an interruption."""
        return "the same command runs this stage anew, nothing is half-written"

    def finish(self, context: Context, result: Result) -> None:
        """Called after the stage, reused or not; within a pipeline it is called at the end of the pipeline."""
