"""The contract of a stage: what it takes, what it is given, and what it leaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kronos.config.schema import Config, fields_of

if TYPE_CHECKING:
    from kronos.data.splits import Ranges
    from kronos.data.store import BarStore
    from kronos.distributed.launcher import WorkerGroup
    from kronos.tracking.client import Tracking
    from kronos.tracking.run import Run

ObjectiveFactory = Callable[
    [Config, Any], Any
]  # (config, tokenizer or None) -> kronos.training.objectives.Objective
Say = Callable[[str], None]
# Fields that change no number of any stage: where things are written, tracked and printed, and how fast.
NO_EFFECT = frozenset((
    *fields_of("output", "tracking", "registry", "search"), "dataset_path", "cache_path", "log_interval",
    "num_workers",
    "save_windows", "resume", "backtest_batch_size", "nproc_per_node", "fast_mode", "skip_data_process",
    "skip_tokenizer", "skip_predictor", "skip_backtest",
))  # fmt: skip


@dataclass(frozen=True)
class Context:
    """What a stage runs in: the configuration, its open MLflow run, where to print, and the worker processes.

    `tracking` is None in a trial of a search, whose metrics are read by the process of the search.
    """

    config: Config
    run: "Run"
    tracking: "Tracking | None"
    say: Say
    workers: "WorkerGroup"
    objective: ObjectiveFactory | None = None  # used instead of the public objective


@dataclass(frozen=True)
class Inputs:
    """Everything that a stage reads, opened once, and its digests by name: they are part of the cache key.

    A stage fills the fields that it needs.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    store: "BarStore | None" = None
    splits: "Ranges | None" = None
    tokenizer: Any = None
    predictor: Any = None
    starting: Any = None  # the model that training starts from, or the pair that a backtest compares with
    more: Any = None  # what only this stage knows
    notes: tuple[str, ...] = ()  # lines to print before the stage runs


@dataclass(frozen=True)
class Result:
    """What a stage leaves: its run, its folder, the content of the record there, and its children's results."""

    stage: str
    run_id: str
    folder: Path
    record: Mapping[str, Any]
    reused: bool = False
    children: Mapping[str, "Result"] = field(default_factory=dict)


class Stage:
    """One step of the research loop; subclass it and add an instance to `kronos.stages.STAGES`.

    Attributes:
        name: as on the command line, in MLproject and in the tag `kronos.stage`.
        help: one line.
        params: the fields that the stage reads. They are listed by its help and in MLproject, and those that can
            change its numbers are part of its cache key.
        by_content: fields of `params` that are in the key as a digest of the inputs, not as text.
        packages: installed packages whose version can change the stage's numbers.
        cached: whether a finished output of the same key is reused.
        resumable: whether an interrupted run can be continued from a checkpoint.
    """

    name: str
    help: str
    params: tuple[str, ...]
    by_content: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("numpy", "pandas")
    cached: bool = True
    resumable: bool = False

    def check(self, config: Config) -> None:
        """Refuse mistakes that no input has to be opened for; called before the stage's run is created."""

    def folder(self, config: Config) -> Path:
        """The folder that the stage writes."""
        raise NotImplementedError

    def inputs(self, config: Config) -> Inputs:
        """Open what the stage reads, each once, with its digest. Raises UserError where something is missing."""
        raise NotImplementedError

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Do the work. `key` is what the record of the output is written with (`cache.write_record`)."""
        raise NotImplementedError

    def key_fields(self, config: Config) -> tuple[str, ...]:
        """The fields whose values are part of the cache key."""
        return tuple(name for name in self.params if name not in NO_EFFECT and name not in self.by_content)

    def code(self, config: Config) -> tuple[str, ...]:
        """Modules that make the numbers, in addition to the stage's own; what they import is found from there."""
        return ()

    def run_to_continue(self, config: Config, inputs: Inputs, tracking: "Tracking") -> str | None:
        """The MLflow run that this one continues, for a stage that keeps its progress elsewhere (a search)."""
        return None

    def finish(self, context: Context, result: Result) -> None:
        """What follows a run of its own, reused or not; within a pipeline it is called at the pipeline's end."""
