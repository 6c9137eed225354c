"""What a predictor sees beside the bars: conditions, and time features other than those of the public models."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kronos.config.registries import TIME_FEATURES
from kronos.config.schema import Config
from kronos.config.weights import PUBLIC
from kronos.data import conditions
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.data.time_features import time_table
from kronos.stages.inputs import windows_of
from kronos.stages.weights import pretrained_address, refuse_other_conditions, refuse_other_time_features
from kronos.utils.errors import UserError


def side_inputs(store: BarStore, model: Any) -> dict[str, Any]:
    """Return the arguments of `Windows` that the model needs: `conditions` float32 [N, C], `stamps` int64 [S, K]."""
    found: dict[str, Any] = {}
    if (described := model.config.get("conditions")) is not None:
        found["conditions"] = conditions.table(store, described["columns"])
    if (described := model.config.get("time_features")) is not None:
        names = described["names"]
        found["stamps"] = time_table(store.sessions, names, store.calendar, store.freq, store.label)
    return found


def described_additions(
    config: Config, store: BarStore, splits: Ranges, start: Any
) -> dict[str, dict[str, Any]]:
    """Return what the predictor's config.json says beside the public keys, by key; empty for a public model.

    Weights that have additions (`start`, None for random weights) keep theirs, since they were trained with these
    categories, numbers and tables. Raises UserError where others are asked for, and for a block that there is not.
    """
    found = {
        "conditions": _conditions(config, store, splits, start), "time_features": _time_features(config, store, start)
    }  # fmt: skip
    return {key: described for key, described in found.items() if described is not None}


def add(model: Any, described: Mapping[str, Any]) -> list[str]:
    """Add to the model what is described and it does not have; returns what was added, in words."""
    from kronos.model.conditions import Conditions

    said = []
    if "time_features" in described and "time_features" not in model.config:
        model.add_time_features(described["time_features"])
        said.append(f"the time features {', '.join(described['time_features']['names'])}")
    if "conditions" in described and "conditions" not in model.config:
        added = Conditions.from_json(described["conditions"])
        model.add_conditions(added)
        said.append(f"the conditions {', '.join(added.names)}")
    return said


def only_random(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model of random weights must be made with: a list of time features without the public five."""
    names = described.get("time_features", {}).get("names", [*TIME_FEATURES])
    fewer = tuple(names[: len(TIME_FEATURES)]) != TIME_FEATURES
    return {"time_features": described["time_features"]} if fewer else {}


def _conditions(config: Config, store: BarStore, splits: Ranges, start: Any) -> dict[str, Any] | None:
    names, block = config.data.condition_columns, config.model.condition_block
    if start is not None and "conditions" in start.config:
        refuse_other_conditions(config, start.config, "the pretrained predictor")
        own: dict[str, Any] = start.config["conditions"]
        return own
    if not names:
        return None
    from kronos.model.presets import PREDICTOR_PRESETS

    shape = PREDICTOR_PRESETS[config.model.model_preset] if start is None else start.config
    if problem := _block_problem(config, shape):
        raise UserError(problem)
    split = windows_of(config, store, "train", splits, config.window_length)
    trained = np.zeros(len(store) + 1, np.int64)
    np.add.at(trained, split.starts, 1)
    np.add.at(trained, split.starts + split.length, -1)
    rows = np.flatnonzero(trained.cumsum()[:-1])
    columns = conditions.describe(store, names, rows, config.data.lookback_window)
    return {"block": block, "columns": columns}


def _time_features(config: Config, store: BarStore, start: Any) -> dict[str, Any] | None:
    names = config.data.time_feature_list
    own: dict[str, Any] | None = None if start is None else start.config.get("time_features")
    if own is not None:
        refuse_other_time_features(config, start.config, "the pretrained predictor")
        return own
    if start is not None and (problem := _list_problem(config)):
        raise UserError(problem)
    if names == TIME_FEATURES:
        return None
    return {"names": [*names], "calendar": store.calendar, "freq": store.freq, "label": store.label}


def addition_problems(config: Config) -> Iterator[str]:
    """Yield why additions cannot be made as the configuration says, as far as it can be known before training.

    The blocks of weights that are neither random nor public are known when these are opened.
    """
    from kronos.model.presets import PREDICTOR_PRESETS

    address, preset = pretrained_address("predictor", config), config.model.model_preset
    public = {predictor: size for size, (_, predictor) in PUBLIC.items()}
    size = preset if address is None else public.get(address)
    if (
        config.data.condition_columns
        and size
        and (problem := _block_problem(config, PREDICTOR_PRESETS[size]))
    ):
        yield problem
    if address in public and (problem := _list_problem(config)):
        yield problem


def _list_problem(config: Config) -> str:
    names = config.data.time_feature_list
    if names[: len(TIME_FEATURES)] == TIME_FEATURES:
        return ""
    return (
        f"time_feature_list: {','.join(names)} was given, but pretrained weights have {','.join(TIME_FEATURES)}: "
        "begin with these, or give --pretrained-predictor-path none"
    )


def _block_problem(config: Config, shape: Mapping[str, Any]) -> str:
    if config.model.condition_block <= shape["n_layers"]:
        return ""
    return f"condition_block is {config.model.condition_block}, the predictor has {shape['n_layers']} blocks"
