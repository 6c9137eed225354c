"""The pipeline as one run with a child run per stage, and TrainingPipeline, whose steps can be overridden."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kronos.config.loading import load_config, to_text
from kronos.config.schema import FIELDS, Config, fields_of
from kronos.distributed.launcher import launched
from kronos.stages import preflight
from kronos.stages.backtest import BacktestStage
from kronos.stages.base import Context, Figure, Inputs, ObjectiveFactory, Result, Stage
from kronos.stages.calibrate import CalibrateStage
from kronos.stages.data import DataStage
from kronos.stages.inputs import log_dataset, stored_bars
from kronos.stages.predict import PredictStage
from kronos.stages.runner import run_stage
from kronos.stages.train import PredictorStage, TokenizerStage
from kronos.stages.weights import Kind, given_address
from kronos.tracking.metric_names import tracked_by_pipeline
from kronos.utils.errors import UserError
from kronos.utils.files import write_json

CONFIG_FILE = "pipeline_config.json"
ORDER: tuple[Stage, ...] = (
    DataStage(),
    TokenizerStage(),
    PredictorStage(),
    CalibrateStage(),
    BacktestStage(),
)
STEPS: dict[str, Stage] = {stage.name: stage for stage in (*ORDER, PredictStage())}
Step = Callable[[], Result | None]


class PipelineStage(Stage):
    """Run the stages in order as child runs of one run; the output of skipped stages must exist already.

    `steps(context)` returns functions to call instead of stages, by stage name.
    """

    name = "pipeline"
    help = "data, tokenizer, predictor, calibrate and backtest, as one run with a child each"
    params = tuple(
        name
        for name in FIELDS
        if name
        not in fields_of("audit", "generate", "embed", "head", "benchmark", "refit", "update", "search")
    )
    cached = False

    def __init__(self, steps: Callable[[Context], Mapping[str, Step]] | None = None) -> None:
        self._steps = steps

    def parts(self, config: Config) -> tuple[Stage, ...]:
        skipped = _skip_flags(config)
        return tuple(one for one in ORDER if not skipped[one.name] and not _is_frozen(config, one.name))

    def folder(self, config: Config) -> Path:
        return Path(config.output.save_path).parent

    def inputs(self, config: Config) -> Inputs:
        """Check that the output of skipped stages exists. Raises UserError with everything that is missing."""
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

    def headline(self, result: Result) -> tuple[Figure, ...]:
        """The figures of the backtest, or of the last stage where there is none."""
        if not result.children:
            return ()
        name, last = [*result.children.items()][-1]
        return STEPS[name].headline(last)

    def after_interrupt(self, config: Config) -> str:
        kept = "reuses the stages that have ended" if config.tracking.reuse else "runs every stage again"
        resumed = ", resumes a training from its last checkpoint" if config.training.resume != "never" else ""
        return f"the same command {kept}{resumed}"

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Run the stages and log their metrics to the pipeline's run."""
        config, run = context.config, context.run
        write_json(self.folder(config) / CONFIG_FILE, config.model_dump(mode="json"))
        steps = self._steps(context) if self._steps else {}
        results: dict[str, Result] = {}
        for stage in ORDER:
            name = stage.name
            if name == "tokenizer" and not config.launch.skip_backtest:  # before the hours of training
                preflight.check_benchmark(config)
            if _skip_flags(config)[name] or _is_frozen(config, name):
                context.say(f"{name}: skipped, {_used_instead(config, name)} is used")
                run.tags({f"{name}_skipped": "true"})
                continue
            if name == "calibrate" and _no_predictor(config):
                context.say("calibrate: skipped, since the predictor's step left no weights")
                continue
            result = steps[name]() if name in steps else run_stage(stage, config, context)
            if result is None:  # a user-defined step that does not run a stage
                continue
            results[name] = result
            run.tags({f"{name}_run": result.run_id, f"{name}_reused": to_text(result.reused)})
            run.metrics(0, tracked_by_pipeline(name, result.record["metrics"]))
        self._show(context, results)
        if "backtest" in results:
            BacktestStage().finish(context, results["backtest"])
        return Result(self.name, run.id, self.folder(config), {}, children=results)

    def _show(self, context: Context, results: Mapping[str, Result]) -> None:
        """Put on the pipeline's run what its page is opened for: the bars, the models and the report."""
        run = context.run
        if "data" in results:
            log_dataset(context, stored_bars(context.config), "all")
        run.models([results[name].run_id for name in ("predictor", "calibrate") if name in results])
        if "backtest" in results:
            folder = results["backtest"].folder
            for page in (
                *folder.glob("report*.html"),
                *folder.glob("forecasts*.html"),
                *folder.glob("plotly*.js"),
            ):
                run.artifact(page)


def _kind(name: str) -> Kind:
    return "tokenizer" if name == "tokenizer" else "predictor"


def _skip_flags(config: Config) -> dict[str, bool]:
    launch = config.launch
    return {
        "data": launch.skip_data_process, "tokenizer": launch.skip_tokenizer, "predictor": launch.skip_predictor,
        "calibrate": launch.skip_calibrate, "backtest": launch.skip_backtest,
    }  # fmt: skip


def _is_frozen(config: Config, name: str) -> bool:
    return name == "tokenizer" and config.training.freeze_tokenizer


def _no_predictor(config: Config) -> bool:
    """Whether a step of a user left no weights to calibrate."""
    given = given_address("predictor", config)
    return given is None and not (config.model_folder("predictor") / "checkpoints" / "best_model").exists()


def _used_instead(config: Config, name: str) -> str:
    return str(given_address("tokenizer", config)) if _is_frozen(config, name) else "the stored output"


class TrainingPipeline:
    """The stages in order, as child runs of one tracked run; override a method to change a step.

        class Mine(TrainingPipeline):
            def train_predictor(self):
                return self.fit("predictor", objective=my_objective)

        Mine(epochs=5).run()

    A method returns the `Result` of its stage, or None for a step that does not run a stage. Called outside `run`, a
    method runs its stage alone.

    Args:
        config: the settings; None to set `fields` over the defaults of the sample or of the given data source, as on
            the command line.

    Raises:
        UserError: where both a configuration and fields are given, or a field is invalid.
    """

    def __init__(self, config: Config | None = None, **fields: Any) -> None:
        if config is not None and fields:
            raise UserError("give a configuration or fields, not both")
        self.config = config or load_config(None, fields)[0]
        self._current: Context | None = None  # context of the running pipeline

    def process_data(self) -> Result | None:
        """Read bars from the source into the store."""
        return self._stage("data")

    def train_tokenizer(self) -> Result | None:
        """Train the tokenizer on the stored bars."""
        return self.fit("tokenizer")

    def train_predictor(self) -> Result | None:
        """Train the predictor on the tokenizer's token ids."""
        return self.fit("predictor")

    def calibrate(self) -> Result | None:
        """Calibrate the bands of forecasts on the validation days."""
        return self._stage("calibrate")

    def backtest(self) -> Result | None:
        """Forecast the test days and trade the forecasts."""
        return self._stage("backtest")

    def predict(self) -> Result | None:
        """Forecast the next bars from the latest ones; not part of `run`."""
        return self._stage("predict")

    def fit(self, kind: str, objective: ObjectiveFactory | None = None) -> Result:
        """Train `kind` ("tokenizer" or "predictor") with the public objective or your own.

        `objective(config, tokenizer)` returns a `kronos.training.objectives.Objective`, which defines the training
        loss and the validation metrics; `tokenizer` is None when the tokenizer is trained. Its name and source are
        part of the cache key. To train with several processes, define it at the top level of a module that they can
        import.

        Raises:
            UserError: for another `kind`, or an objective that other processes cannot import.
        """
        if kind not in ("tokenizer", "predictor"):
            raise UserError(f"fit takes tokenizer or predictor, not {kind!r}")
        return self._stage(kind, objective)

    def run(self) -> dict[str, Result]:
        """Run all steps in order, without those that the configuration skips; returns the results by stage name."""
        place = launched()
        if place is not None and place.rank > 0:  # under torchrun, ranks above 0 take jobs from rank 0
            from kronos.stages import train_worker

            train_worker.under_torchrun()
            return {}
        return dict(run_stage(PipelineStage(self._steps), self.config).children)

    def _steps(self, context: Context) -> dict[str, Step]:
        self._current = context
        return {
            "data": self.process_data, "tokenizer": self.train_tokenizer,
            "predictor": self.train_predictor, "calibrate": self.calibrate, "backtest": self.backtest,
        }  # fmt: skip

    def _stage(self, name: str, objective: ObjectiveFactory | None = None) -> Result:
        return run_stage(STEPS[name], self.config, self._current, objective=objective)
