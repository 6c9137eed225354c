"""The models that the page offers: public weights, registered versions, and runs that logged one."""

from pathlib import Path

from kronos.config.weights import PUBLIC, WIDTHS
from kronos.tracking.model_registry import ADDRESSES, newest_versions
from kronos.tracking.reader import newest
from kronos.utils.errors import UserError

RANDOM = "random:"  # in front of a preset: a training from random weights
MOST = 20  # runs, and registered versions
OWN_TOKENIZER = "checkpoints/tokenizer"


def offered(uri: str | None, experiment: str, training: bool = False) -> tuple[dict[str, str], str]:
    """Return ({address: label}, what could not be listed): tracked models first, then the public weights.

    For a training also random weights, under addresses of their own.
    """
    found: dict[str, str] = {}
    problem = ""
    try:
        found |= {
            run_address(run.id): f"run {run.label}" for run in newest("predictor", MOST, uri, experiment)
        }
        found |= {one.address: f"{one.name}, version {one.number}" for one in newest_versions(uri, MOST)}
    except UserError as error:
        problem = str(error)
    found |= {predictor: f"public: {size}" for size, (_, predictor) in PUBLIC.items()}
    if training:
        found |= {f"{RANDOM}{preset}": f"random weights: {preset}" for preset in WIDTHS}
    return found, problem


def run_address(run_id: str) -> str:
    return f"runs:/{run_id}"


def forecast_fields(predictor: str | None, tokenizer: str | None) -> dict[str, str]:
    """Return the fields that forecast with a model. Raises UserError where none is chosen.

    Without a tokenizer the one is taken that belongs to the predictor, where that is known.
    """
    address = _given(predictor)
    own = (tokenizer or "").strip() or _tokenizer_of(address)
    return {"predictor_path": address, **({"tokenizer_path": own} if own else {})}


def training_fields(predictor: str | None, tokenizer: str | None) -> dict[str, str]:
    """Return the fields that fine-tune a model, or train one from random weights."""
    address = _given(predictor)
    if address.startswith(RANDOM):
        preset = address.removeprefix(RANDOM)
        return {
            "model_preset": preset,
            "pretrained_tokenizer_path": "none",
            "pretrained_predictor_path": "none",
        }
    own = (tokenizer or "").strip() or _tokenizer_of(address)
    if not own:
        kept = Path(address).parent.parent / OWN_TOKENIZER  # a copy in the folder of a predictor trained here
        if not kept.is_dir():
            raise UserError(f"the tokenizer of {address} is not known: give its address too")
        own = str(kept)
    return {"pretrained_tokenizer_path": own, "pretrained_predictor_path": address}


def _given(predictor: str | None) -> str:
    address = (predictor or "").strip()
    if not address:
        raise UserError(
            "no model is chosen: take one of the list, or give a folder, a Hub name or runs:/RUN_ID"
        )
    return address


def _tokenizer_of(address: str) -> str | None:
    """The tokenizer of public weights, or of a tracked model, which has both; None for a folder and other names."""
    if address.startswith(ADDRESSES):
        return address
    return next((tokenizer for tokenizer, predictor in PUBLIC.values() if predictor == address), None)
