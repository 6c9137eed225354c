"""The refit stage: train the champion on with the latest bars, test it, and compare it with the champion."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config, fields_of
from kronos.data.splits import FRACTIONS, session_range
from kronos.data.store import BarStore
from kronos.stages.base import Context, Figure, Inputs, Result
from kronos.stages.data import DataStage
from kronos.stages.forgetting import forgetting_of
from kronos.stages.inputs import stored_bars
from kronos.stages.pipeline import PipelineStage
from kronos.stages.provenance import weights_seen
from kronos.stages.runner import run_stage
from kronos.stages.weights import OWN_TOKENIZER, load_weights
from kronos.tracking.model_registry import ADDRESSES, CHAMPION, pinned
from kronos.utils.errors import UserError
from kronos.utils.files import given_path


class RefitStage(PipelineStage):
    """A pipeline whose predictor begins from earlier weights and is trained on windows since a day.

    The tokenizer is that of the earlier weights and stays as it is: losses of predictors with different tokenizers
    cannot be compared, and what was forgotten could not be told.
    """

    name = "refit"
    help = "train the champion on with bars since a day, test it, and compare it with the champion"
    params = (*PipelineStage.params, *fields_of("refit"))

    def resolved(self, config: Config) -> Config:
        """Begin from the weights of `refit_from`, by default the champion, and register under its name.

        Raises UserError where the fields say no weights or contradict a refit.
        """
        if config.training.since is None:
            raise UserError("refit needs the first day of the new windows: give --since YYYY-MM-DD")
        if config.output.tokenizer_path is not None or config.output.predictor_path is not None:
            raise UserError(
                "refit tests what it trains: give --from instead of tokenizer_path or predictor_path"
            )
        name = config.registry.registered_model_name
        address = config.refit.refit_from or (name and f"models:/{name}@{CHAMPION}")
        if address is None:
            raise UserError(
                f"refit needs weights to begin from: give --from models:/NAME@{CHAMPION}, a folder or runs:/..., or "
                "--registered-model-name for its champion"
            )
        address = pinned(address, config.tracking.tracking_uri)
        version = address.removeprefix("models:/").split("/") if address.startswith("models:/") else []
        if name is None and len(version) == 2 and not config.launch.skip_backtest:
            name = version[0]
        tokenizer, predictor = _addresses(address, config)
        return config.replace(
            refit_from=address, pretrained_tokenizer_path=tokenizer, pretrained_predictor_path=predictor,
            freeze_tokenizer=True, skip_predictor=False, registered_model_name=name,
        )  # fmt: skip

    def inputs(self, config: Config) -> Inputs:
        """Load the weights to begin from, so that the stage fails before the data stage where there are none."""
        for kind, address in (
            ("tokenizer", config.model.pretrained_tokenizer_path),
            ("predictor", config.model.pretrained_predictor_path),
        ):
            load_weights(kind, str(address), config.tracking.tracking_uri)  # type: ignore[arg-type]
        if config.launch.skip_data_process:
            with_ranges(config, stored_bars(config))
        return super().inputs(config)

    def headline(self, result: Result) -> tuple[Figure, ...]:
        found = forgetting_of(result.children["predictor"].record) if "predictor" in result.children else {}
        figures = super().headline(result)
        if not found:
            return figures
        text = f"{found['older_loss_before']:.4g} to {found['older_loss_after']:.4g}"
        detail = f"{found['older_windows']:,.0f} fixed windows before {found['since']}, before and after"
        return (*figures, Figure("Loss on older windows", text, detail))

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Update the bars, resolve the ranges on them, and run the other stages of the pipeline."""
        config, results = context.config, {}
        if not config.launch.skip_data_process:
            results["data"] = run_stage(DataStage(), config, context)
        config = with_ranges(config, stored_bars(config))
        since, seen = (
            config.training.since,
            weights_seen("predictor", str(config.refit.refit_from), config).until,
        )
        assert since is not None
        if seen is None or seen >= since:
            context.say(f"refit: the weights to begin from have seen days up to {seen or 'an unknown day'}")
        own = replace(context, config=config.replace(skip_data_process=True))
        result = super().run(own, inputs, key)
        results |= result.children
        trained = forgetting_of(results["predictor"].record)
        if trained:
            context.run.metrics(0, {
                "loss/older_before": trained["older_loss_before"], "loss/older_after": trained["older_loss_after"],
            })  # fmt: skip
            context.say(
                f"refit: the loss on {trained['older_windows']:,.0f} fixed windows before {since} went from "
                f"{trained['older_loss_before']:.5g} to {trained['older_loss_after']:.5g}, on the validation days "
                f"from {trained['val_loss_before']:.5g} to {trained['val_loss_after']:.5g}"
            )
        return replace(result, children=results)


def with_ranges(config: Config, store: BarStore) -> Config:
    """Return the configuration with a train_time_range, if none is given, that ends within the bars since `since`.

    It begins with the first bar and ends after 60 % of the sessions from that day on; the ranges that are not given
    follow it. Raises UserError where the bars have no such day.
    """
    since = config.training.since
    assert since is not None
    last = pd.Timestamp(store.sessions[store.last_session]).date()
    first = pd.Timestamp(store.sessions[0]).date()
    if not first < since <= last:
        raise UserError(
            f"since {since} is not within the bars, which are of {first}..{last}: give a day after the first one, or "
            "newer bars"
        )
    if config.data.train_time_range is not None:
        return config
    begins, ends = session_range(store, since, last)
    days = np.unique(store.day[begins : ends + 1])
    until = days[max(round(FRACTIONS[0] * len(days)) - 1, 0)].astype("datetime64[D]")
    return config.replace(train_time_range=(first, until.astype(object)))


def _addresses(address: str, config: Config) -> tuple[str, str]:
    """Addresses of the tokenizer and the predictor: of a stage's folder its best weights and the copy beside them."""
    if address.startswith(ADDRESSES):
        return address, address
    folder = given_path(address)
    for root in (folder, *folder.parents[:2]):
        if (root / OWN_TOKENIZER).is_dir():
            best = root / "checkpoints" / "best_model"
            return str(root / OWN_TOKENIZER), str(best if root == folder else folder)
    if config.model.pretrained_tokenizer_path is None:
        raise UserError(
            f"refit from {address}: there is no tokenizer beside it ({OWN_TOKENIZER}): give "
            "--pretrained-tokenizer-path"
        )
    return config.model.pretrained_tokenizer_path, address
