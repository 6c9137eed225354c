"""The registry of stages; the command line, MLproject and notebooks run them through `execute`."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kronos.config.schema import Config
    from kronos.stages.base import Result, Say, Stage

__all__ = ["STAGES", "execute", "register_stage"]


class _Stages(Mapping[str, "Stage"]):
    """Stages by name, in the order of help and MLproject; a stage's module is imported on first access."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places
        self._stages: dict[str, Stage] = {}

    def __getitem__(self, name: str) -> "Stage":
        if name not in self._stages:
            module, _, attribute = self._places[name].partition(":")
            self._stages[name] = getattr(import_module(module), attribute)()
        return self._stages[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def add(self, stage: "Stage") -> None:
        """Add a stage that is defined elsewhere, or replace one."""
        self._places[stage.name] = f"{type(stage).__module__}:{type(stage).__qualname__}"
        self._stages[stage.name] = stage


STAGES = _Stages(
    {
        "data": "kronos.stages.data:DataStage",
        "tokenizer": "kronos.stages.train:TokenizerStage",
        "predictor": "kronos.stages.train:PredictorStage",
        "calibrate": "kronos.stages.calibrate:CalibrateStage",
        "backtest": "kronos.stages.backtest:BacktestStage",
        "walk_forward": "kronos.stages.walk_forward:WalkForwardStage",
        "benchmark": "kronos.stages.benchmark:BenchmarkStage",
        "audit": "kronos.stages.audit:AuditStage",
        "generate": "kronos.stages.generate:GenerateStage",
        "embed": "kronos.stages.embed:EmbedStage",
        "head": "kronos.stages.head:HeadStage",
        "predict": "kronos.stages.predict:PredictStage",
        "update": "kronos.stages.update:UpdateStage",
        "pipeline": "kronos.stages.pipeline:PipelineStage",
        "refit": "kronos.stages.refit:RefitStage",
        "search": "kronos.stages.search.stage:SearchStage",
    }
)


def register_stage(stage: "Stage") -> None:
    """Add a stage defined outside the package; it gets a command, help, tracking and reuse of its output.

    The code of its module is part of the stage's cache key.
    """
    from kronos.stages.cache import know_module

    know_module(type(stage).__module__)
    STAGES.add(stage)


def execute(name: str, config: "Config", say: "Say | None" = None) -> dict[str, "Result"]:
    """Run a stage, or the pipeline of stages, as tracked runs.

    Args:
        name: a key of `STAGES`.
        config: the settings.
        say: called with each line of output; the default prints it.

    Returns:
        The result of each stage, by its name. Under torchrun, rank 0 runs the stage and reports; the other ranks take
        part in training and forecasts, return an empty dictionary, and raise SystemExit where their job failed.

    Raises:
        UserError: for an invalid field or input, or an external system that does not work; the run ends as FAILED.
    """
    from kronos.distributed.launcher import launched
    from kronos.stages.runner import print_line, run_stage

    place = launched()
    if place is not None and place.rank > 0:
        from kronos.stages import train_worker

        train_worker.under_torchrun()
        return {}
    say = say or print_line
    if name == "data" and config.data.data_source.lower() == "auto":
        from kronos.stages.data import by_market

        parts = by_market(config)
        if len(parts) > 1:
            return {
                f"data of {market}": run_stage(STAGES[name], part, say=say) for market, part in parts.items()
            }
    result = run_stage(STAGES[name], config, say=say)
    return dict(result.children) or {name: result}
