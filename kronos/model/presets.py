"""Shapes of the public checkpoints, and `nano`, a smaller shape for laptops, tests and the default run."""

from collections.abc import Mapping
from typing import Any, Literal

from kronos.utils.errors import UserError


def _predictor(
    layers: int, width: int, heads: int, ff: int, bits: int, dropout: tuple[float, float, float, float]
) -> dict[str, Any]:
    ffn, residual, attention, token = dropout
    return {
        "s1_bits": bits,
        "s2_bits": bits,
        "n_layers": layers,
        "d_model": width,
        "n_heads": heads,
        "ff_dim": ff,
        "ffn_dropout_p": ffn,
        "attn_dropout_p": attention,
        "resid_dropout_p": residual,
        "token_dropout_p": token,
        "learn_te": True,
    }


def _tokenizer(layers: int, width: int, heads: int, ff: int, bits: int) -> dict[str, Any]:
    return {
        "d_in": 6,
        "d_model": width,
        "n_heads": heads,
        "ff_dim": ff,
        "n_enc_layers": layers,
        "n_dec_layers": layers,
        "ffn_dropout_p": 0.0,
        "attn_dropout_p": 0.0,
        "resid_dropout_p": 0.0,
        "s1_bits": bits,
        "s2_bits": bits,
        "beta": 0.05,
        "gamma0": 1.0,
        "gamma": 1.1,
        "zeta": 0.05,
        "group_size": 4,
    }


# Dropouts: ffn, residual, attention, token. The weights of `large` are not public; its dropouts are those of base.
PREDICTOR_PRESETS: dict[str, dict[str, Any]] = {
    "nano": _predictor(2, 64, 4, 128, 8, (0.0, 0.0, 0.0, 0.0)),
    "mini": _predictor(4, 256, 4, 512, 10, (0.2, 0.2, 0.0, 0.0)),
    "small": _predictor(8, 512, 8, 1024, 10, (0.25, 0.25, 0.1, 0.1)),
    "base": _predictor(12, 832, 16, 2048, 10, (0.2, 0.2, 0.0, 0.0)),
    "large": _predictor(18, 1664, 32, 3072, 10, (0.2, 0.2, 0.0, 0.0)),
}

TOKENIZER_PRESETS: dict[str, dict[str, Any]] = {
    "nano": _tokenizer(2, 64, 4, 128, 8),
    "base": _tokenizer(4, 256, 4, 512, 10),
}


def tokenizer_preset_for(model_preset: str) -> str:
    """Return the name of the tokenizer preset whose bits fit a predictor preset."""
    if model_preset not in PREDICTOR_PRESETS:
        raise UserError(f"model_preset is {model_preset!r}, expected one of {', '.join(PREDICTOR_PRESETS)}")
    return "nano" if model_preset == "nano" else "base"


def build_model(kind: Literal["tokenizer", "predictor"], shape: dict[str, Any]) -> Any:
    """Build a tokenizer or a predictor of a shape, with random weights from torch's global generator."""
    from kronos.model.predictor import Kronos
    from kronos.model.tokenizer import KronosTokenizer

    return KronosTokenizer(**shape) if kind == "tokenizer" else Kronos(**shape)


def random_model(
    kind: Literal["tokenizer", "predictor"], preset: str, more: Mapping[str, Any] | None = None
) -> Any:
    """Build the tokenizer or the predictor of a preset with random weights.

    `more` are arguments beside those of the public models: `columns` of a tokenizer, `time_features` of a predictor.
    """
    if kind == "predictor":
        return build_model(kind, {**PREDICTOR_PRESETS[preset], **(more or {})})
    shape = {**TOKENIZER_PRESETS[tokenizer_preset_for(preset)], **(more or {})}
    return build_model(kind, {**shape, "d_in": len(shape["columns"])} if "columns" in shape else shape)
