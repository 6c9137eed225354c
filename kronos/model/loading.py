"""Load a tokenizer or a predictor from a checkpoint folder or the Hugging Face Hub."""

from pathlib import Path

from kronos.model import checkpoint
from kronos.model.predictor import Kronos
from kronos.model.tokenizer import KronosTokenizer


def load_tokenizer(path_or_name: str | Path, revision: str | None = None) -> KronosTokenizer:
    """Load the tokenizer of a folder or Hub name, in evaluation mode."""
    return checkpoint.load(KronosTokenizer, path_or_name, revision)


def load_predictor(path_or_name: str | Path, revision: str | None = None) -> Kronos:
    """Load the predictor of a folder or Hub name, in evaluation mode."""
    return checkpoint.load(Kronos, path_or_name, revision)
