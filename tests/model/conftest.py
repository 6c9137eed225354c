"""Tiny real models with weights that are not symmetric, made here: no file, no network."""

import pytest
import torch

from kronos.model import PREDICTOR_PRESETS, TOKENIZER_PRESETS, Kronos, KronosTokenizer


@pytest.fixture(scope="module")
def nano() -> tuple[KronosTokenizer, Kronos]:
    """An untrained nano pair in evaluation mode."""
    torch.manual_seed(3)
    tokenizer = KronosTokenizer(**TOKENIZER_PRESETS["nano"])
    predictor = Kronos(**PREDICTOR_PRESETS["nano"])
    return tokenizer.eval(), predictor.eval()
