"""The pipeline of stages as one run with a child per stage, and TrainingPipeline, whose steps can be replaced."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kronos.config.loading import load_config, to_text
from kronos.config.schema import FIELDS, Config, fields_of
from kronos.distributed.launcher import launched
from kronos.stages.backtest import BacktestStage
from kronos.stages.base import Context, Inputs, ObjectiveFactory, Result, Stage
from kronos.stages.data import DataStage
from kronos.stages.predict import PredictStage
from kronos.stages.runner import run_stage
from kronos.stages.train import PredictorStage, TokenizerStage
from kronos.stages.weights import Kind, given_address
from kronos.utils.errors import UserError
from kronos.utils.files import write_json

CONFIG_FILE = "pipeline_config.json"
ORDER: tuple[Stage, ...] = (DataStage(), TokenizerStage(), PredictorStage(), BacktestStage())
STEPS: dict[str, Stage] = {stage.name: stage for stage in (*ORDER, PredictStage())}
Step = Callable[[], Result | None]


class PipelineStage(Stage):
    """Run the stages in order as children of one run; skipped ones must have left their output before.

    `steps`, given the pipeline's context, returns functions to call instead of stages, by stage name.
    """

    name = "pipeline"
    help = "data, tokenizer, predictor and backtest, as one run with a child each"
    params = tuple(name for name in FIELDS if name not in fields_of("search"))
    cached = False

    def __init__(self, steps: Callable[[Context], Mapping[str, Step]] | None = None) -> None:
        self._steps = steps

    def folder(self, config: Config) -> Path:
        return Path(config.output.save_path).parent

    def inputs(self, config: Config) -> Inputs:
        """Check that what skipped stages should have left is there; everything that is missing is said at once."""
        missing = []
        for stage in ORDER[:3]:
            if not _skip_flags(config)[stage.name] or _is_frozen(config, stage.name):
                continue
            given = None if stage.name == "data" else given_address(_kind(stage.name), config)
            needed = stage.folder(config) / (
                "index.json" if stage.name == "data" else "checkpoints/best_model"
            )
            if given is None and not needed.exists():
                flag = "skip-data-process" if stage.name == "data" else f"skip-{stage.name}"
                missing.append(
                    f"--{flag}: no {stage.name} at {stage.folder(config)}: run  python -m kronos {stage.name}  or "
                    "leave the flag out"
                )
        if missing:
            raise UserError("; ".join(missing))
        return Inputs()

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Run the stages and show their metrics on the pipeline's run."""
        config, run = context.config, context.run
        write_json(self.folder(config) / CONFIG_FILE, config.model_dump(mode="json"))
        steps = self._steps(context) if self._steps else {}
        results: dict[str, Result] = {}
        for stage in ORDER:
            name = stage.name
            if _skip_flags(config)[name] or _is_frozen(config, name):
                context.say(f"{name}: skipped, {_used_instead(config, name)} is used")
                run.tags({f"{name}_skipped": "true"})
                continue
            result = steps[name]() if name in steps else run_stage(stage, config, context)
            if result is None:  # a step of the user's that is no stage
                continue
            results[name] = result
            run.tags({f"{name}_run": result.run_id, f"{name}_reused": to_text(result.reused)})
            run.metrics(0, {f"{name}_{metric}": value for metric, value in result.record["metrics"].items()})
        if "backtest" in results:
            BacktestStage().finish(context, results["backtest"])
        context.say(f"pipeline: done, run {run.id}; look at it with  mlflow ui")
        return Result(self.name, run.id, self.folder(config), {}, children=results)


def _kind(name: str) -> Kind:
    return "tokenizer" if name == "tokenizer" else "predictor"


def _skip_flags(config: Config) -> dict[str, bool]:
    launch = config.launch
    return {
        "data": launch.skip_data_process, "tokenizer": launch.skip_tokenizer, "predictor": launch.skip_predictor,
        "backtest": launch.skip_backtest,
    }  # fmt: skip


def _is_frozen(config: Config, name: str) -> bool:
    return name == "tokenizer" and config.training.freeze_tokenizer


def _used_instead(config: Config, name: str) -> str:
    return str(given_address("tokenizer", config)) if _is_frozen(config, name) else "the stored output"


class TrainingPipeline:
    """The stages in order, as children of one tracked run; override a method to change a step.

        class Mine(TrainingPipeline):
            def train_predictor(self):
                return self.fit("predictor", objective=my_objective)

        Mine(epochs=5).run()

    A method returns what its stage left (`Result`), or None for a step that is no stage. Called outside `run`,
    a method runs its stage alone.

    Args:
        config: the settings, or None for `fields` over the sample (or over their data source's defaults), as on the
            command line.
    """

    def __init__(self, config: Config | None = None, **fields: Any) -> None:
        if config is not None and fields:
            raise UserError("give a configuration or fields, not both")
        self.config = config or load_config(None, fields)[0]
        self._current: Context | None = None  # of the open pipeline run

    def process_data(self) -> Result | None:
        """Bars from the source into the store."""
        return self._stage("data")

    def train_tokenizer(self) -> Result | None:
        """Train the tokenizer on the stored bars."""
        return self.fit("tokenizer")

    def train_predictor(self) -> Result | None:
        """Train the predictor on the tokenizer's ids."""
        return self.fit("predictor")

    def backtest(self) -> Result | None:
        """Forecast the test days and trade the forecasts."""
        return self._stage("backtest")

    def predict(self) -> Result | None:
        """Forecast from the last bars; not part of `run`."""
        return self._stage("predict")

    def fit(self, kind: str, objective: ObjectiveFactory | None = None) -> Result:
        """Train `kind` ("tokenizer" or "predictor"), by the public objective or your own.

        `objective(config, tokenizer)` returns what is trained and measured, a `kronos.training.objectives.Objective`;
        the tokenizer is None when it is trained itself. Its name and source are part of the cache key. To train with
        several processes, define it at the top of a module that they can import.
        """
        if kind not in ("tokenizer", "predictor"):
            raise UserError(f"fit takes tokenizer or predictor, not {kind!r}")
        return self._stage(kind, objective)

    def run(self) -> dict[str, Result]:
        """Run all steps in order; those that the configuration skips are left out."""
        place = launched()
        if place is not None and place.rank > 0:  # torchrun's other processes take part in training only
            from kronos.stages import train_worker

            train_worker.under_torchrun()
            return {}
        return dict(run_stage(PipelineStage(self._steps), self.config).children)

    def _steps(self, context: Context) -> dict[str, Step]:
        self._current = context
        return {
            "data": self.process_data, "tokenizer": self.train_tokenizer,
            "predictor": self.train_predictor, "backtest": self.backtest,
        }  # fmt: skip

    def _stage(self, name: str, objective: ObjectiveFactory | None = None) -> Result:
        return run_stage(STEPS[name], self.config, self._current, objective=objective)
