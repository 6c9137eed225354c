"""Set up training in the same way on every rank: model, objective, windows."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from kronos.config.schema import Config
from kronos.config.weights import OWNER
from kronos.data.bars import FEATURES
from kronos.data.extra_columns import model_columns
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.stages.additions import side_inputs
from kronos.stages.inputs import training_splits
from kronos.stages.weights import Kind, pretrained_address
from kronos.utils.errors import UserError


def windows(config: Config, store: BarStore, splits: Ranges, model: Any = None) -> tuple[Any, Any]:
    """Return the training windows and the validation windows, as the model sees them."""
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
        "columns": model_columns(config.data), **({} if model is None else side_inputs(store, model)),
    }  # fmt: skip
    return (
        Windows(store, train, groups=groups, **given),
        Windows(store, validation, **given),
    )


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
    # An adapter leaves the weights as they are, and what is new beside them is trained.
    for part in getattr(model, "additions", list)():
        part.requires_grad_(True)
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


def features_problem(kinds: Sequence[Kind], config: Config) -> str:
    """Return why models cannot start from public weights, which know six columns, or an empty string."""
    addresses = {kind: pretrained_address(kind, config) or "" for kind in kinds}
    public = {kind: address for kind, address in addresses.items() if address.startswith(OWNER)}
    if model_columns(config.data) == FEATURES or not public:
        return ""
    shown = " and ".join(f"pretrained_{kind}_path {address}" for kind, address in public.items())
    return (
        f"feature_list: {','.join(config.data.feature_list)} is given beside {shown}, of the columns "
        f"{','.join(FEATURES)}: give --pretrained-tokenizer-path none and --pretrained-predictor-path none, to train "
        "from random weights, or leave feature_list out"
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
