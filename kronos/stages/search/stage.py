"""The search stage: hyperparameter search with Optuna over the training stages; writes the best configuration."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kronos.config.schema import Config, fields_of
from kronos.distributed.launcher import launched
from kronos.evaluation.signals import MIN_NAMES
from kronos.stages import looks
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import finished, key_parts
from kronos.stages.data import DataStage
from kronos.stages.inputs import resolve_splits, stored_bars
from kronos.stages.runner import run_stage
from kronos.stages.search.results import write_results
from kronos.stages.search.session import PARENT, Search, definition_of, study_name
from kronos.stages.search.space import space_of
from kronos.stages.search.study import parent_of
from kronos.stages.train import TRAINING_PARAMS, TokenizerStage
from kronos.stages.weights import given_address, trained_weights
from kronos.tracking.client import Tracking
from kronos.utils.errors import Damaged, UserError
from kronos.utils.files import digest_bytes


class SearchStage(Stage):
    """Run trials until the study has `n_trials`; running the same command again continues the study.

    A search writes only under `search_path`, apart from its line in the record of looks: bars and tokenizer of the
    pipeline are used if they match the configuration, otherwise the search makes its own.
    """

    name = "search"
    help = "try values of learning rate, batch size and more, and write the best as a configuration"
    params = (
        *TRAINING_PARAMS, *fields_of("forecast", "search"), "backtest_signal", "backtest_limit_threshold",
        "backtest_delisting_return", "skip_data_process", "skip_tokenizer", "registered_model_name",
    )  # fmt: skip
    cached = False

    def folder(self, config: Config) -> Path:
        return Path(config.search.search_path)

    def check(self, config: Config) -> None:
        if (place := launched()) is not None and place.world > 1:
            raise UserError(
                "search starts the processes of its trials itself: run it without torchrun and give --nproc-per-node"
            )
        if config.registry.registered_model_name is not None and config.search.search_stage == "tokenizer":
            raise UserError(
                "registered_model_name: a search of the tokenizer alone has no predictor to register"
            )
        space_of(config)

    def inputs(self, config: Config) -> Inputs:
        return Inputs(more=space_of(config))

    def after_interrupt(self, config: Config) -> str:
        return "the same command continues the study with the trials that are left"

    def run_to_continue(self, config: Config, inputs: Inputs, tracking: Tracking) -> str | None:
        """Id of the parent run of the same study if its process has ended, else None."""
        try:
            used = _with_tokenizer(_with_bars(config))
            name = study_name(used, definition_of(used, inputs.more))
            parent = parent_of(config.search.storage, name, PARENT)
        except UserError:  # raised again within the run, so that MLflow shows it
            return None
        return parent if parent and tracking.exists(parent) and not tracking.busy(parent) else None

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Run the search, repeat the best trials with other seeds if configured, and write the results."""
        asked = context.config
        prepared = Context(_prepare(context), context.run, context.tracking, context.say, context.workers)
        search = Search(prepared, inputs.more)
        search.go()
        search.repeat()
        look, ledger = _look(search), looks.ledger_of(asked)
        record = write_results(search, asked, looks.looked_before(ledger, look, context))
        look = replace(look, predictor=str(record["model_digest"] or "")[:16], models=record["compared"])
        looks.record(ledger, look, search.parent, search.say)
        return Result(self.name, search.parent.id, search.folder, record)


def _look(search: Search) -> looks.Look:
    """The look of the study at the validation days, without the number of its trials and the best one's weights."""
    store = stored_bars(search.config)
    days = resolve_splits(search.config, store).val
    study = digest_bytes(search.study.name.encode())[:16]
    return looks.look_of(looks.SEARCH, search.config, store, days, "", study)


def _prepare(context: Context) -> Config:
    """Make the bars and the tokenizer that the trials share, if missing, as separate runs next to the search."""
    tags = {"search": context.run.id}
    config = _with_bars(context.config)
    if not config.launch.skip_data_process:
        result = run_stage(DataStage(), config, context, tags=tags, nested=False)
        context.run.tags({"data_run": result.run_id})
    there = len(stored_bars(config).instruments)
    if "rank_ic" in config.search.search_metric and there < MIN_NAMES:
        raise UserError(
            f"search_metric: rank_ic needs at least {MIN_NAMES} instruments on a day, the bars have {there}: "
            "give --search-metric crps"
        )
    if _needs_tokenizer(config):
        config = _with_tokenizer(config)
        own = config.output.save_path != context.config.output.save_path
        if own and not config.launch.skip_tokenizer:
            result = run_stage(TokenizerStage(), config, context, tags=tags, nested=False)
            context.run.tags({"tokenizer_run": result.run_id})
        else:
            context.say(f"tokenizer: using the one in {config.model_folder('tokenizer')}")
        context.workers.close()  # the trials start processes of their own
    return config


def _needs_tokenizer(config: Config) -> bool:
    return config.search.search_stage == "predictor" and given_address("tokenizer", config) is None


def _with_bars(config: Config) -> Config:
    """The configuration with the path of its bars: the existing store if up to date, else the search's own."""
    stage = DataStage()
    own = config.replace(dataset_path=str(Path(config.search.search_path) / "data"))
    if config.launch.skip_data_process:
        there = (stage.folder(config) / "index.json").exists() or not (
            stage.folder(own) / "index.json"
        ).exists()
        return config if there else own
    current = finished(stage.folder(config), key_parts(stage, config, stage.inputs(config)))[0]
    if current is not None and config.tracking.reuse:
        return config
    return own


def _with_tokenizer(config: Config) -> Config:
    """The configuration with the path of the shared tokenizer: the pipeline's if it matches, else the search's."""
    if not _needs_tokenizer(config):
        return config
    shared = config.replace(save_path=str(Path(config.search.search_path) / "shared"))
    problems = []
    for place in (config, shared):
        try:
            store = stored_bars(place)
            trained_weights("tokenizer", place, store, resolve_splits(place, store))
            return place
        except Damaged:
            raise
        except UserError as error:
            problems.append(error)
    if config.launch.skip_tokenizer:
        raise problems[0]
    return shared
