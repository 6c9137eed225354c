"""The stages, once each; the command line, MLproject, notebooks and the pipeline all go through `execute`."""

from collections.abc import Callable
from pathlib import Path

from kronos.config.schema import Config, fields_of
from kronos.stages.base import Body, Outcome, Stage

__all__ = ["STAGES", "Outcome", "Stage", "execute"]


def execute(name: str, config: Config, say: Callable[[str], None] | None = None) -> dict[str, Outcome]:
    """Run a stage, or the pipeline of stages, as tracked runs.

    Args:
        name: a key of `STAGES`.
        config: the settings.
        say: takes the lines meant for the user; printed by default.

    Returns:
        What each stage left, by its name. Under torchrun, rank 0 does the work and reports; the other ranks take
        part in training, return nothing, and leave by SystemExit where that failed.

    Raises:
        UserError: when a field, an input or an outside system is not as it must be; the run ends FAILED.
    """
    from kronos.distributed.launcher import launched
    from kronos.stages import runner

    place = launched()
    if place is not None and place.rank > 0:
        from kronos.stages import train_worker

        train_worker.under_torchrun()
        return {}
    speak = say or runner.print_line
    if name == "pipeline":
        return runner.pipeline(config, speak)
    if name == "search":
        from kronos.stages.search import stage

        return stage.run(config, speak)
    return runner.single(STAGES[name], config, speak)


def _data() -> Body:
    from kronos.stages import data

    return Body(data.made_from, data.run)


def _tokenizer() -> Body:
    from kronos.stages import train

    return Body(train.tokenizer_made_from, train.run_tokenizer)


def _predictor() -> Body:
    from kronos.stages import train

    return Body(train.predictor_made_from, train.run_predictor)


def _backtest() -> Body:
    from kronos.stages import backtest

    return Body(backtest.made_from, backtest.run)


def _predict() -> Body:
    from kronos.stages import predict

    return Body(predict.made_from, predict.run)


def _walk_forward() -> Body:
    from kronos.stages import walk_forward

    return Body(walk_forward.made_from, walk_forward.run)


def _pipeline() -> Body:
    raise AssertionError("the pipeline and a search have no body of their own: they run other stages")


_TRAINING = tuple(
    name
    for name in fields_of("data", "model", "training", "launch", "output", "tracking")
    if not name.startswith(("skip_", "backtest_", "predict_result", "predict_save"))
)
_PIPELINE = tuple(name for name in Config.model_fields if name not in fields_of("search"))


def _walk_forward_folder(config: Config) -> Path:
    return Path(config.backtest_result_path) / f"{config.backtest_save_folder_name}_walk_forward"


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "data", "read bars from a source, check them, and write the bar store",
            fields_of("data", "tracking"), lambda config: Path(config.dataset_path), _data,
        ),
        Stage(
            "tokenizer", "train the tokenizer on the stored bars",
            tuple(name for name in _TRAINING if not name.startswith(("predictor_", "pretrained_predictor"))),
            lambda config: config.tokenizer_folder, _tokenizer,
        ),
        Stage(
            "predictor", "train the predictor on the stored bars, as the stored tokenizer sees them",
            tuple(name for name in _TRAINING if name != "tokenizer_learning_rate"),
            lambda config: config.predictor_folder, _predictor,
        ),
        Stage(
            "backtest", "forecast every test day and instrument, and trade the forecasts in Qlib",
            fields_of("data", "output", "forecast", "backtest", "tracking", "registry"),
            lambda config: config.backtest_folder, _backtest,
        ),
        Stage(
            "walk_forward", "train and backtest on several parts of the backtest's days, pooled",
            tuple(name for name in _PIPELINE if name not in fields_of("registry")),
            _walk_forward_folder, _walk_forward,
        ),
        Stage(
            "predict", "forecast the next bars of every instrument from its latest ones",
            fields_of("data", "output", "forecast", "tracking"), lambda config: config.predict_folder, _predict,
        ),
        Stage(
            "pipeline", "data, tokenizer, predictor and backtest, as one run with a child each",
            _PIPELINE, lambda config: Path(config.save_path).parent, _pipeline,
        ),
        Stage(
            "search", "try values of learning rate, batch size and more, and write the best as a configuration",
            (*_TRAINING, *fields_of("forecast", "search"), "backtest_signal", "skip_data_process", "skip_tokenizer",
             "registered_model_name"),
            lambda config: Path(config.search_path), _pipeline,
        ),
    )
}  # fmt: skip
