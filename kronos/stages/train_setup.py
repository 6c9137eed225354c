"""Set up training in the same way on every rank: model, objective, windows."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from kronos.config.schema import Config
from kronos.config.weights import OWNER, PUBLIC
from kronos.data import conditions
from kronos.data.bars import FEATURES
from kronos.data.extra_columns import model_columns
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.stages.inputs import training_splits, windows_of
from kronos.stages.weights import Kind, pretrained_address, refuse_other_conditions
from kronos.utils.errors import UserError


def windows(config: Config, store: BarStore, splits: Ranges, model: Any = None) -> tuple[Any, Any]:
    """Return the training windows and the validation windows, with the conditions that the model has."""
    from kronos.data.window_order import group_windows
    from kronos.data.windows import Windows

    training, lookback = config.training, config.data.lookback_window
    train, validation = training_splits(config, store, splits)
    groups = group_windows(
        store, train, lookback, balance=training.balance_windows, since=training.since,
        replay_fraction=training.replay_fraction,
    )  # fmt: skip
    given: dict[str, Any] = {
        "lookback": lookback, "clip": config.data.clip, "seed": training.seed,
        "columns": model_columns(config.data),
        "conditions": None if model is None else condition_values(store, model),
    }  # fmt: skip
    return (
        Windows(store, train, groups=groups, **given),
        Windows(store, validation, **given),
    )


def condition_values(store: BarStore, model: Any) -> np.ndarray | None:
    """Return the conditions of the model at every row of the store, float32 [N, C]; None for a model without any."""
    described = model.config.get("conditions")
    return None if described is None else conditions.table(store, described["columns"])


def described_conditions(
    config: Config, store: BarStore, splits: Ranges, start: Any
) -> dict[str, Any] | None:
    """Return what the config.json of the predictor says of its conditions; None for one without any.

    Weights that have some (`start`, None for random weights) keep theirs, since they were trained with these
    categories and numbers. Raises UserError where others are asked for, and for a block that there is not.
    """
    names, block = config.data.condition_columns, config.model.condition_block
    if start is not None and "conditions" in start.config:
        refuse_other_conditions(config, start.config, "the pretrained predictor")
        own: dict[str, Any] = start.config["conditions"]
        return own
    if not names:
        return None
    from kronos.model.presets import PREDICTOR_PRESETS

    shape = PREDICTOR_PRESETS[config.model.model_preset] if start is None else start.config
    if problem := _block_problem(config, shape):
        raise UserError(problem)
    split = windows_of(config, store, "train", splits, config.window_length)
    trained = np.zeros(len(store) + 1, np.int64)
    np.add.at(trained, split.starts, 1)
    np.add.at(trained, split.starts + split.length, -1)
    rows = np.flatnonzero(trained.cumsum()[:-1])
    columns = conditions.describe(store, names, rows, config.data.lookback_window)
    return {"block": block, "columns": columns}


def freeze(model: Any, config: Config) -> Any:
    """Freeze the predictor's embeddings and first `freeze_blocks` blocks; returns the model.

    Raises UserError where the predictor has fewer blocks.
    """
    blocks = getattr(model, "transformer", None)
    if blocks is None or not config.training.freeze_blocks:
        return model
    if config.training.freeze_blocks > len(blocks):
        raise UserError(
            f"freeze_blocks is {config.training.freeze_blocks}, the predictor has {len(blocks)} blocks"
        )
    for part in (model.embedding, model.time_emb, *blocks[: config.training.freeze_blocks]):
        part.requires_grad_(False)
    return model


def prepare(model: Any, config: Config, address: str | None = None) -> Any:
    """Freeze what is not trained, and add the adapter that is; returns the model, changed in place.

    `address` is that of the model's weights, which peft's files of the adapter name.
    """
    from kronos.training.adapters import add_adapter

    model = add_adapter(freeze(model, config), config.training, address)
    if (
        getattr(model, "conditions", None) is not None
    ):  # new beside the weights that an adapter leaves as they are
        model.conditions.requires_grad_(True)
    return model


def adapter_problem(kind: Kind, config: Config) -> str:
    """Return why a model cannot be trained by an adapter, or an empty string."""
    trained = kind == "predictor" or not config.training.freeze_tokenizer
    if config.training.adapter == "none" or not trained or pretrained_address(kind, config) is not None:
        return ""
    return (
        f"adapter={config.training.adapter} is an addition to pretrained weights, and pretrained_{kind}_path is "
        "none: give weights, or adapter=none"
    )


def block_problem(config: Config) -> str:
    """Return why conditions cannot be added where the configuration says, or an empty string.

    The blocks of weights that are neither random nor public are known when these are opened.
    """
    from kronos.model.presets import PREDICTOR_PRESETS

    address, preset = pretrained_address("predictor", config), config.model.model_preset
    public = {predictor: size for size, (_, predictor) in PUBLIC.items()}
    if not config.data.condition_columns or not (address is None or address in public):
        return ""
    return _block_problem(config, PREDICTOR_PRESETS[preset if address is None else public[address]])


def _block_problem(config: Config, shape: Mapping[str, Any]) -> str:
    if config.model.condition_block <= shape["n_layers"]:
        return ""
    return f"condition_block is {config.model.condition_block}, the predictor has {shape['n_layers']} blocks"


def features_problem(kind: Kind, config: Config) -> str:
    """Return why a model cannot start from public weights, which know six columns, or an empty string."""
    address = pretrained_address(kind, config)
    if model_columns(config.data) == FEATURES or not address or not address.startswith(OWNER):
        return ""
    return (
        f"feature_list: {','.join(config.data.feature_list)} is given, and pretrained_{kind}_path is {address}, "
        f"which knows {','.join(FEATURES)}: give --pretrained-tokenizer-path none and --pretrained-predictor-path "
        "none, to train from random weights, or leave feature_list out"
    )


def make_objective(kind: Kind, config: Config, tokenizer: Any, custom: str | None = None) -> Any:
    """The public objective for `kind`, or that of `custom`, a module:function called with (config, tokenizer)."""
    from kronos.training.objectives import PredictorObjective, TokenizerObjective

    if custom is not None:
        module, _, name = custom.partition(":")
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found(config, tokenizer)
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    if kind == "tokenizer":
        return TokenizerObjective(lookback, horizon)
    return PredictorObjective(tokenizer, lookback, horizon, loss_bars=config.training.loss_bars)


def share_tokenizer(objective: Any, runtime: Any) -> None:
    """Broadcast the weights of the objective's tokenizer from rank 0 to all ranks."""
    from kronos.distributed.collectives import Collectives

    tokenizer = getattr(objective, "tokenizer", None)
    if tokenizer is not None:
        Collectives(runtime.rank, runtime.world).broadcast(tokenizer.state_dict().values())
