"""Build a configuration from a JSON file and flags, and give each value its one text form."""

import difflib
import typing
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from kronos.config.schema import FIELDS, Config
from kronos.config.weights import WEIGHTS, weights_of_preset
from kronos.utils.errors import UserError
from kronos.utils.files import or_shipped, read_json, shipped

# Fields that say which bars are meant: without a source beside them they could only be guessed at.
SOURCE_FIELDS = (
    "data_path", "qlib_data_path", "instrument", "freq", "dataset_begin_time", "dataset_end_time",
    "train_time_range", "val_time_range", "test_time_range", "backtest_time_range", "embargo",
    "windows_across_days", "symbols", "calendar", "adjust", "sina_url", "sina_factor_url", "sina_symbols",
    "sina_datalen", "exchange", "least_share", "instrument_column", "time_column", "volume_column", "time_zone",
    "column_names", "decimal_sign", "resample", "hours",
)  # fmt: skip
FAST_FACTORS = {"epochs": 10, "n_train_iter": 100, "n_val_iter": 100, "evaluation_series": 10,
                "calibration_series": 10}  # fmt: skip
MOST_HINTS = 4  # names in one "did you mean"
FAST_INSTRUMENTS = 50  # instruments that fast mode leaves in a backtest


def to_text(value: Any) -> str:
    """The one text form of a field's value, as flags, MLflow parameters and tables show it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(to_text(part) for part in value)
    if isinstance(value, date):
        return value.isoformat()
    return repr(value) if isinstance(value, float) else str(value)


def type_text(field: FieldInfo) -> str:
    """What a field takes, in words: its type or choices, and its limits."""
    annotation = field.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(annotation))
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", date: "day"}
    arguments = typing.get_args(annotation)
    optional = type(None) in arguments
    if typing.get_origin(annotation) is tuple and date in arguments:
        text = "first day,last day"
    elif typing.get_origin(annotation) is tuple:
        text = "list a,b,..."
    else:
        inner: Any = next((part for part in arguments if part is not type(None)), annotation)
        text = words.get(inner, "list a,b,...")
        if float in arguments and str in arguments:
            text = "auto, fraction"
    limits = [
        sign + to_text(getattr(limit, name))
        for limit in field.metadata
        for kind, name, sign in (
            (annotated_types.Ge, "ge", ">="),
            (annotated_types.Gt, "gt", ">"),
            (annotated_types.Le, "le", "<="),
            (annotated_types.Lt, "lt", "<"),
        )
        if isinstance(limit, kind)
    ]
    return ", ".join([text, *limits]) + (" or none" if optional else "")


def unknown_name(name: str, what: str, prefix: str = "", first: Iterable[str] = ()) -> str:
    """A sentence for a name that is no field, with those that were probably meant; `first` are the likeliest."""
    known = [*FIELDS, "config_path"]
    close = _with_words(name, first) or _with_words(name, known) or [nearest(name, known)]
    shown, *hints = (
        prefix + (text.replace("_", "-") if prefix else text) for text in (name, *filter(None, close))
    )
    return f"unknown {what} {shown}" + (f": did you mean {' or '.join(hints)}?" if hints else "")


def _with_words(name: str, choices: Iterable[str]) -> list[str]:
    """The choices that end with the words of `name`, or begin with them; none where they are too many to list."""
    choices = list(choices)
    ends = [one for one in choices if one.endswith(f"_{name}")]
    found = ends or [one for one in choices if one.startswith(f"{name}_")]
    return found if len(found) <= MOST_HINTS else []


def nearest(name: str, choices: Iterable[str]) -> str:
    """The choice that `name` was probably meant to be, or empty text."""
    return next(iter(difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)), "")


def recipe_path(name: str) -> Path:
    """The file of a recipe that the project ships in `experiments/`."""
    found = shipped(f"experiments/{name}.json")
    if found is None:
        raise UserError(
            f"experiments/{name}.json is not in this installation of kronos-pipeline: install it again"
        )
    return found


def load_config(
    config_path: str | None = None, flags: Mapping[str, Any] | None = None, problems: Iterable[str] = ()
) -> tuple[Config, list[str]]:
    """Build the configuration of a run.

    Args:
        config_path: a JSON file of fields, or None.
        flags: fields given beside it, which win; text or typed values.
        problems: mistakes already found in the command line, to be reported together with those found here.

    Returns:
        The configuration and the lines to print first: sample bars, the choice of weights, the cuts of fast mode.

    Raises:
        UserError: with every problem at once: file, unknown fields, types, ranges, contradictions.
    """
    flags, found, notes = dict(flags or {}), list(problems), []
    values: dict[str, Any] = {}
    if config_path is not None:
        values, file_problems = _read_fields(config_path)
        found += file_problems
    elif flags.get("data_source") == "sample" or not {"data_source", *SOURCE_FIELDS} & flags.keys():
        values, file_problems = _read_fields(recipe_path("sample"))
        found += file_problems
        notes.append(
            "SAMPLE DATA: S&P 500 members 2009-2010, experiments/sample.json; give --data-source for your own"
        )
    elif "data_source" not in flags:
        given = ", ".join("--" + name.replace("_", "-") for name in flags if name in SOURCE_FIELDS)
        found.append(
            f"{given} given without a source of bars: add --data-source (or a --config-path that has one)"
        )
    found += [unknown_name(name, "field") for name in flags if name not in FIELDS]
    if config_path is None and "model_preset" in flags:  # the sample's random weights are of its own size
        values = {name: value for name, value in values.items() if name not in WEIGHTS or name in flags}
    given_values = {name: value for name, value in {**values, **flags}.items() if name in FIELDS}
    letters = {name: _no_text(value) for name, value in given_values.items()}
    found += [
        f"{name}: holds the character {one!r}, which is no text{_of_locale(one)}"
        for name, one in letters.items()
        if one
    ]
    given_values = {name: value for name, value in given_values.items() if not letters[name]}
    weights, weight_notes, weight_problems = weights_of_preset(given_values)
    found += weight_problems
    try:
        config = Config.model_validate({**given_values, **weights})
    except ValidationError as error:
        found += [line for detail in error.errors() for line in _explain(detail, flags)]
    if found:
        raise UserError(found[0] if len(found) == 1 else "\n  ".join([f"{len(found)} problems:", *found]))
    notes += weight_notes
    if config.launch.fast_mode:
        config, note = _fast(config, explicit=flags)
        notes.append(note)
    return config, notes


def _no_text(value: Any) -> str:
    """The first character of a text, or of the texts of a list, that no file name or database can hold; else ""."""
    if isinstance(value, list | tuple):
        return next((found for part in value if (found := _no_text(part))), "")
    letters = value if isinstance(value, str) else ""
    return next((one for one in letters if one == "\0" or "\ud800" <= one <= "\udfff"), "")


def _of_locale(letter: str) -> str:
    """The remedy where Python made the character of a byte of the command line that the locale cannot decode."""
    return " (the locale cannot decode it: set PYTHONUTF8=1)" if "\udc80" <= letter <= "\udcff" else ""


def _read_fields(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """The fields of a JSON file that exist, and a sentence for each that does not or for the whole file."""
    try:
        content = read_json(or_shipped(path))
    except UserError as error:
        return {}, [str(error)]
    if not isinstance(content, dict):
        return {}, [f"{path} holds a {type(content).__name__}, an object of fields was expected"]
    return content, [unknown_name(name, f"field in {path}:") for name in content if name not in FIELDS]


def _explain(detail: Any, flags: Mapping[str, Any]) -> list[str]:
    """One pydantic error as sentences in the user's words."""
    if not detail["loc"]:
        return str(detail["ctx"]["error"]).splitlines()
    name = str(detail["loc"][-1] if len(detail["loc"]) == 1 else detail["loc"][1])
    shown = "--" + name.replace("_", "-") if name in flags else name
    value, limits = detail["input"], detail.get("ctx", {})
    given = (
        to_text(value) if isinstance(value, str | int | float | bool | tuple | list | None) else str(value)
    )
    field = FIELDS[name]
    match detail["type"]:
        case "value_error":
            return [f"{shown} {given}: {limits['error']}"]
        case "greater_than_equal":
            return [f"{shown}: {given} is too small, the least is {to_text(limits['ge'])}"]
        case "greater_than":
            return [f"{shown}: {given} must be above {to_text(limits['gt'])}"]
        case "less_than_equal":
            return [f"{shown}: {given} is too large, the most is {to_text(limits['le'])}"]
        case "less_than":
            return [f"{shown}: {given} must be below {to_text(limits['lt'])}"]
        case _:
            return [f"{shown}: {given!r} was given, expected {type_text(field)}"]


def _least(name: str) -> int:
    """The least value of a field of whole numbers, 1 where it has none."""
    limits = FIELDS[name].metadata
    least: Any = next((limit.ge for limit in limits if isinstance(limit, annotated_types.Ge)), 1)
    return max(1, least)


def _fast(config: Config, explicit: Mapping[str, Any]) -> tuple[Config, str]:
    """Cut what takes the time; a value given as a flag stays.

    The result has fast_mode=false, since its values are cut already: given back as a file it is not cut again.
    """
    before = config.values()
    cuts = {name: max(_least(name), before[name] // factor) for name, factor in FAST_FACTORS.items()}
    limit = before["backtest_max_instruments"] or FAST_INSTRUMENTS
    cuts["backtest_max_instruments"] = min(limit, FAST_INSTRUMENTS)
    cuts = {name: value for name, value in cuts.items() if name not in explicit}
    text = ", ".join(f"{name} {before[name]} -> {value}" for name, value in cuts.items())
    note = f"fast mode: {text or 'nothing cut, all given as flags'}"
    return config.replace(**cuts, fast_mode=False), note
