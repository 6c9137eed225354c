"""Which pretrained weights a configuration means by `model_preset` and the two paths of pretrained weights."""

from collections.abc import Mapping
from typing import Any

from kronos.utils.errors import UserError
from kronos.utils.files import given_path, read_json

OWNER = "NeoQuasar/"
# Public weights by size: (tokenizer, predictor).
PUBLIC = {
    "mini": (f"{OWNER}Kronos-Tokenizer-2k", f"{OWNER}Kronos-mini"),
    "small": (f"{OWNER}Kronos-Tokenizer-base", f"{OWNER}Kronos-small"),
    "base": (f"{OWNER}Kronos-Tokenizer-base", f"{OWNER}Kronos-base"),
}
WIDTHS = {"nano": 64, "mini": 256, "small": 512, "base": 832, "large": 1664}  # d_model of each predictor
WEIGHTS = ("pretrained_tokenizer_path", "pretrained_predictor_path")


def weights_of_preset(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return (fields to add, lines to print, problems) for the fields that a user gave.

    A preset without paths means the public weights of that size, or random weights where there are none. A path
    without a preset sets the preset to the size of public weights. A preset and a path of another size contradict.
    """
    preset, path = given.get("model_preset"), given.get("pretrained_predictor_path")
    named = isinstance(path, str) and path.strip().lower() not in ("", "none", "null")
    if preset is None:
        size = _size(str(path)) if named else None
        return ({"model_preset": size} if size else {}), [], []
    if named:
        size = _size(str(path))
        if size is not None and size != preset:
            problem = (
                f"model_preset is {preset}, but pretrained_predictor_path {path} is of size {size}: leave out one of "
                "the two"
            )
            return {}, [], [problem]
    missing = [name for name in WEIGHTS if name not in given]
    if not missing or not isinstance(preset, str) or preset not in WIDTHS:
        return {}, [], []
    public = PUBLIC.get(str(preset), (None, None))
    added = {name: value for name, value in zip(WEIGHTS, public, strict=True) if name in missing}
    if preset in PUBLIC:
        note = (
            f"model_preset {preset}: the public weights {', '.join(str(value) for value in added.values())}"
        )
    else:
        note = f"model_preset {preset}: there are no public weights of this size, training starts from random weights"
    return added, [note], []


def _size(path: str) -> str | None:
    """Return the preset of the same size as the weights, by public name or by config.json; None if unknown."""
    for size, (_, predictor) in PUBLIC.items():
        if path == predictor:
            return size
    try:
        file = given_path(path) / "config.json"
        if not file.is_file():
            return None
        width = read_json(file).get("d_model")
    except (UserError, AttributeError, OSError):
        return None  # loading the weights says what is wrong with the path or the file
    return next((size for size, number in WIDTHS.items() if number == width), None)
