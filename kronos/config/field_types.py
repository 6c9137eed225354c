"""The types of fields: what a value may be, and its text forms on the command line and in MLproject."""

import re
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

MINUTES, HOURS = ("m", "min", "mins", "minute", "minutes", "t"), ("h", "hour", "hours")
PERIODS = {
    "day": ("d", "day", "days", "daily"), "week": ("w", "wk", "week", "weekly"),
    "month": ("M", "mo", "mon", "month", "monthly"),
}  # fmt: skip
LONGEST_MINUTES = 720


def _none(value: Any) -> Any:
    """`none` and empty text stand for no value, on the command line and in MLproject."""
    return None if isinstance(value, str) and value.strip().lower() in ("", "none", "null") else value


def split_text(value: Any) -> Any:
    """`a,b` is the text form of a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    """`a=b,c=d` is the text form of a map."""
    if isinstance(value, dict):
        return [f"{name}={meaning}" for name, meaning in value.items()]
    return split_text(value)


def _are_pairs(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for pair in value or ():
        name, _, meaning = pair.rpartition("=")
        if not name or not meaning:
            raise ValueError(f"expected pairs such as Px=close, got {pair!r}")
    return value


def _number(value: Any) -> Any:
    """JSON's true and false are not numbers."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


def _limit(value: Any) -> Any:
    """`auto` or a fraction between 0 and 1."""
    if value is None or value == "auto":
        return value
    try:
        number = float(_number(value))
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < 1:
        raise ValueError("expected auto, none, or a fraction above 0 and below 1, such as 0.095")
    return number


def _cost(value: Any) -> Any:
    """`auto` or a number of at least 0."""
    if value == "auto":
        return value
    try:
        number = float(_number(value))
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError("expected auto, or a number of at least 0")
    return number


def _cost_fraction(value: Any) -> Any:
    """`auto` or a fraction of a trade's value."""
    number = _cost(value)
    if number != "auto" and number >= 1:
        raise ValueError("expected auto, or a fraction of the value below 1, such as 0.001")
    return number


def _freq(value: Any) -> Any:
    """`auto`, a number of minutes or hours, a day, a week or a month; hours become minutes."""
    text = str(value).strip()
    found = re.fullmatch(r"(\d*) ?([A-Za-z]+)", text)
    unit = "" if found is None else found[2] if found[2] in ("m", "M") else found[2].lower()
    count = 0 if found is None else int(found[1] or 1)
    whole = next((name for name, words in PERIODS.items() if unit in words), None)
    if whole is not None and count == 1:
        return whole
    minutes = count * (1 if unit in MINUTES else 60 if unit in HOURS else 0)
    if not 1 <= minutes <= LONGEST_MINUTES:
        raise ValueError(f"{text!r} was given, expected 1min to 720min, 1h to 12h, day, week or month")
    return f"{minutes}min"


def _freq_or_auto(value: Any) -> Any:
    return value if value == "auto" else _freq(value)


def _freq_or_none(value: Any) -> Any:
    return None if value is None else _freq(value)


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, Field(min_length=1)]
Freq = Annotated[str, BeforeValidator(_freq_or_auto)]
OptionalFreq = Annotated[str | None, BeforeValidator(_freq_or_none), BeforeValidator(_none)]
OptionalText = Annotated[str | None, BeforeValidator(_none)]
OptionalFloat = Annotated[float | None, BeforeValidator(_none)]
OptionalLimit = Annotated[float | str | None, BeforeValidator(_limit), BeforeValidator(_none)]
Cost = Annotated[float | str, BeforeValidator(_cost)]
CostFraction = Annotated[float | str, BeforeValidator(_cost_fraction)]
OptionalDate = Annotated[date | None, BeforeValidator(_none)]
OptionalDates = Annotated[tuple[date, date] | None, BeforeValidator(split_text), BeforeValidator(_none)]
Names = Annotated[tuple[str, ...], BeforeValidator(split_text)]
OptionalMap = Annotated[
    tuple[str, ...] | None, AfterValidator(_are_pairs), BeforeValidator(_pairs), BeforeValidator(_none)
]
OptionalNames = Annotated[tuple[str, ...] | None, BeforeValidator(split_text), BeforeValidator(_none)]
