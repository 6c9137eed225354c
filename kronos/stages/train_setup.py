"""What a training is made of, built alike on every rank: model, objective, windows."""

from importlib import import_module
from typing import Any, Literal

from kronos.config.schema import Config
from kronos.data.store import BarStore
from kronos.stages.data import training_splits
from kronos.utils.errors import UserError

Kind = Literal["tokenizer", "predictor"]


def windows(config: Config, store: BarStore) -> tuple[Any, Any]:
    """Training and validation windows."""
    from kronos.data.windows import Windows

    train, validation = (
        Windows(store, split, lookback=config.lookback_window, clip=config.clip, seed=config.seed)
        for split in training_splits(config, store)
    )
    return train, validation


def empty_model(kind: Kind, shape: dict[str, Any]) -> Any:
    """A model whose weights come from elsewhere; on rank 0, one with random weights."""
    from kronos.model import Kronos, KronosTokenizer

    return KronosTokenizer(**shape) if kind == "tokenizer" else Kronos(**shape)


def freeze(model: Any, config: Config) -> Any:
    """Leave the predictor's first blocks, and the embeddings under them, as they are."""
    blocks = getattr(model, "transformer", None)
    if blocks is None or not config.freeze_blocks:
        return model
    if config.freeze_blocks > len(blocks):
        raise UserError(f"freeze_blocks is {config.freeze_blocks}, the predictor has {len(blocks)} blocks")
    for part in (model.embedding, model.time_emb, *blocks[: config.freeze_blocks]):
        part.requires_grad_(False)
    return model


def make_objective(kind: Kind, config: Config, tokenizer: Any, custom: str | None = None) -> Any:
    """The public objective of a kind of model, or `custom`: module:function of (config, tokenizer)."""
    from kronos.training.objectives import PredictorObjective, TokenizerObjective

    if custom is not None:
        module, _, name = custom.partition(":")
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found(config, tokenizer)
    lookback, horizon = config.lookback_window, config.predict_window
    if kind == "tokenizer":
        return TokenizerObjective(lookback, horizon)
    return PredictorObjective(tokenizer, lookback, horizon, loss_bars=config.loss_bars)


def share_tokenizer(objective: Any, runtime: Any) -> None:
    """Give the objective's tokenizer rank 0's weights on every rank."""
    from kronos.distributed.collectives import Collectives

    tokenizer = getattr(objective, "tokenizer", None)
    if tokenizer is not None:
        Collectives(runtime.rank, runtime.world).share(tokenizer.state_dict().values())
