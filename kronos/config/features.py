"""The columns that a tokenizer sees: those of the user guide, and what a list of others must have."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from kronos.config.field_types import split_text

PRICES = ("open", "high", "low", "close")
FEATURES = (*PRICES, "vol", "amt")
OTHER_NAMES = {"vol": "volume", "amt": "amount"}  # of the guide's columns
NO_FEATURES = ("instrument", "symbol", "datetime", "date", "timestamps", "flag", "session", "step", "as_of")


def _with_prices(value: tuple[str, ...]) -> tuple[str, ...]:
    """Raise ValueError for a list without a price, with a repeated name, or with one that is no series of numbers."""
    names, given = [OTHER_NAMES.get(name, name) for name in value], ",".join(value) or "nothing"
    missing = [name for name in PRICES if name not in names]
    if missing:
        raise ValueError(f"{given} lacks {', '.join(missing)}: open, high, low and close are needed")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{given} names {twice} twice")
    wrong = [name for name in names if name in NO_FEATURES or not name.strip()]
    if wrong:
        raise ValueError(f"{given}: {wrong[0]!r} is no column of numbers")
    return value


Features = Annotated[tuple[str, ...], AfterValidator(_with_prices), BeforeValidator(split_text)]
