"""The Kronos model in single-device torch: tokenizer, predictor, their checkpoints, and generation."""

from kronos.model.checkpoint import check_pair, digest, save_model
from kronos.model.loading import load_predictor, load_tokenizer
from kronos.model.predictor import Kronos
from kronos.model.presets import PREDICTOR_PRESETS, TOKENIZER_PRESETS, tokenizer_preset_for
from kronos.model.tokenizer import KronosTokenizer

__all__ = [
    "PREDICTOR_PRESETS",
    "TOKENIZER_PRESETS",
    "Kronos",
    "KronosTokenizer",
    "check_pair",
    "digest",
    "load_predictor",
    "load_tokenizer",
    "save_model",
    "tokenizer_preset_for",
]
