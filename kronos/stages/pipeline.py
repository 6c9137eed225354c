"""TrainingPipeline: the pipeline as a class whose steps can be replaced one by one."""

from collections.abc import Callable
from typing import Any

from kronos.config.loading import load_config
from kronos.config.schema import Config
from kronos.stages import STAGES, Outcome
from kronos.utils.errors import UserError

Objective = Callable[[Config, Any], Any]


class TrainingPipeline:
    """The stages in order, as children of one tracked run; override a method to change a step.

        class Mine(TrainingPipeline):
            def train_predictor(self):
                return self.fit("predictor", objective=my_objective)

        Mine(epochs=5).run()

    A method returns what its stage left (`Outcome`), or None for a step that is no stage. Called outside `run`,
    a method runs its stage alone.

    Args:
        config: the settings, or None for `fields` over the sample (or over their data source's defaults), as on the
            command line.
    """

    def __init__(self, config: Config | None = None, **fields: Any) -> None:
        if config is not None and fields:
            raise UserError("give a configuration or fields, not both")
        self.config = config or load_config(None, fields)[0]
        self._current: Any = None  # the open pipeline run

    def process_data(self) -> Outcome | None:
        """Bars from the source into the store."""
        return self._stage("data")

    def train_tokenizer(self) -> Outcome | None:
        """Train the tokenizer on the stored bars."""
        return self.fit("tokenizer")

    def train_predictor(self) -> Outcome | None:
        """Train the predictor on the tokenizer's ids."""
        return self.fit("predictor")

    def backtest(self) -> Outcome | None:
        """Forecast the test days and trade the forecasts."""
        return self._stage("backtest")

    def predict(self) -> Outcome | None:
        """Forecast from the last bars; not part of `run`."""
        return self._stage("predict")

    def fit(self, kind: str, objective: Objective | None = None) -> Outcome:
        """Train `kind` ("tokenizer" or "predictor"), by the public objective or your own.

        `objective(config, tokenizer)` returns what is trained and measured (`kronos.training.objectives.Objective`; tokenizer
        is None when it is trained itself). Its name and source are part of the reuse key. To train with several
        processes, define it at the top of a module that they can import.
        """
        if kind not in ("tokenizer", "predictor"):
            raise UserError(f"fit takes tokenizer or predictor, not {kind!r}")
        return self._stage(kind, objective)

    def run(self) -> dict[str, Outcome]:
        """All steps in order; those that the configuration skips are left out."""
        from kronos.distributed.launcher import launched
        from kronos.stages import execute, runner

        place = launched()
        if place is not None and place.rank > 0:  # torchrun's other processes take part in training only
            return execute("pipeline", self.config)

        def steps(current: Any) -> dict[str, Callable[[], Outcome | None]]:
            self._current = current
            return {
                "data": self.process_data, "tokenizer": self.train_tokenizer,
                "predictor": self.train_predictor, "backtest": self.backtest,
            }  # fmt: skip

        try:
            return runner.pipeline(self.config, runner.print_line, steps)
        finally:
            self._current = None

    def _stage(self, name: str, objective: Objective | None = None) -> Outcome:
        from kronos.stages import runner

        if self._current is not None:
            return self._current.stage(STAGES[name], objective)
        return runner.single(STAGES[name], self.config, runner.print_line, objective)[name]
