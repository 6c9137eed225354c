"""What stages read, opened once each: the bar store, the resolved splits, and weights with their digests."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from kronos.config.loading import to_text
from kronos.config.schema import FIELDS, Config
from kronos.data.forecast_points import ForecastPoints, forecast_points
from kronos.data.splits import Ranges, Split, make_split, settle_ranges
from kronos.data.store import BarStore, open_store
from kronos.stages.base import Context
from kronos.stages.cache import RECORD, SAME_MODEL, read_record, refuse_other_configuration
from kronos.tracking.model_registry import ADDRESSES, source_run, weights
from kronos.tracking.reader import TAG
from kronos.utils.errors import UserError
from kronos.utils.files import read_json, write_json

Kind = Literal["tokenizer", "predictor"]
KINDS: tuple[Kind, ...] = ("tokenizer", "predictor")
SPLITS = "splits.json"
RANGES = ("train_time_range", "val_time_range", "test_time_range", "backtest_time_range")
SPLIT_FIELDS = (*RANGES, "lookback_window", "predict_window", "embargo", "windows_across_days")
# What a store is made from: fields of every source, and those that only some sources read.
STORE_FIELDS = (
    "data_source", "freq", "dataset_begin_time", "dataset_end_time", "symbols", "calendar", "adjust",
)  # fmt: skip
SOURCE_FIELDS: dict[str, tuple[str, ...]] = {
    "sample": (),
    "csv": ("data_path",),
    "qlib": ("qlib_data_path", "instrument"),
    "sina": ("sina_url", "sina_factor_url", "sina_symbols", "sina_datalen", "qlib_data_path", "instrument"),
}
EVERY_SOURCE_FIELD = tuple(dict.fromkeys(name for names in SOURCE_FIELDS.values() for name in names))
# Fields that a digest of bars, splits or weights stands for in the keys of the stages after the data stage.
BY_CONTENT = (
    *STORE_FIELDS, *EVERY_SOURCE_FIELD, *RANGES, "embargo", "pretrained_tokenizer_path", "pretrained_predictor_path",
    "freeze_tokenizer", "tokenizer_path", "predictor_path", "feature_list", "time_feature_list",
)  # fmt: skip
OWN_TOKENIZER = (
    "checkpoints/tokenizer"  # in a predictor's folder: a copy of the tokenizer that it was trained with
)


@dataclass(frozen=True)
class Weights:
    """A loaded model, the digest of its tensors, and the record of the stage that made it (empty if unknown)."""

    model: Any
    digest: str
    record: Mapping[str, Any]

    @property
    def made_from(self) -> Mapping[str, Any]:
        """The parts of the cache key that the weights were made with."""
        found: Mapping[str, Any] = self.record.get("made_from", {})
        return found


def store_fields(config: Config) -> tuple[str, ...]:
    """The fields that decide what the store of this configuration holds; a user's class may read any of them."""
    return (*STORE_FIELDS, *SOURCE_FIELDS.get(config.data.data_source, EVERY_SOURCE_FIELD))


def field_texts(config: Config, names: tuple[str, ...]) -> dict[str, str]:
    """The values of fields as text, by name."""
    return {name: to_text(getattr(config, name)) for name in names}


def stored_bars(config: Config) -> BarStore:
    """The store at `dataset_path`; one that was built from another configuration is refused."""
    store = open_store(config.data.dataset_path)
    remedy = "run  python -m kronos data  again, or give the other --dataset-path"
    refuse_other_configuration(store.path, "the store", remedy, field_texts(config, store_fields(config)), {})
    return replace(store, across_days=config.data.windows_across_days)


def resolve_splits(config: Config, store: BarStore) -> Ranges:
    """The days of every split: those that the data stage stored, or resolved by its rule for other ranges."""
    asked = field_texts(config, SPLIT_FIELDS)
    file = store.path / SPLITS
    if file.is_file():
        stored = read_json(file)
        if stored.get("asked") == asked and stored.get("digest") == store.digest:
            return splits_from_json(stored)
    data = config.data
    return settle_ranges(
        store, data.train_time_range, data.val_time_range, data.test_time_range, data.backtest_time_range,
        lookback=data.lookback_window, embargo=data.embargo,
        defaults=all(getattr(data, name) == FIELDS[name].default for name in RANGES),
    )  # fmt: skip


def store_splits(config: Config, store: BarStore, splits: Ranges) -> None:
    """Write the resolved splits beside the bars, for the stages that follow."""
    asked = field_texts(config, SPLIT_FIELDS)
    write_json(store.path / SPLITS, {"asked": asked, "digest": store.digest, **splits_to_json(splits)})


def splits_to_json(splits: Ranges) -> dict[str, Any]:
    """Resolved splits as plain values."""
    days = {name: [day.isoformat() for day in pair] for name, pair in splits.days().items()}
    return {"days": days, "notes": list(splits.notes)}


def splits_from_json(stored: Mapping[str, Any]) -> Ranges:
    """Resolved splits from `splits_to_json`."""
    days: dict[str, tuple[date, date]] = {
        name: (date.fromisoformat(first), date.fromisoformat(last))
        for name, (first, last) in stored["days"].items()
    }
    return Ranges(**days, notes=tuple(stored["notes"]))


def load_weights(kind: Kind, address: str, uri: str | None) -> Weights:
    """Load weights from a folder, the Hub, `runs:/...` or `models:/...`, with their digest and record."""
    from kronos.model import checkpoint, load_predictor, load_tokenizer

    load = load_tokenizer if kind == "tokenizer" else load_predictor
    model = load(weights(address, kind, uri))
    record: Mapping[str, Any] = {} if address.startswith(ADDRESSES) else record_of_weights(address)
    if kind == "predictor" and address.startswith(ADDRESSES):
        digest = source_run(address, f"{kind}_path", uri).tags.get(TAG + "tokenizer_digest")
        record = {"made_from": {"inputs": {"tokenizer": digest}}} if digest else {}
    return Weights(model, checkpoint.digest(model), record)


def given_address(kind: Kind, config: Config) -> str | None:
    """The weights that the configuration names instead of those that its own stages trained; None for the latter."""
    paths = {"tokenizer": config.output.tokenizer_path, "predictor": config.output.predictor_path}
    if paths[kind] is None and kind == "tokenizer" and config.training.freeze_tokenizer:
        return config.model.pretrained_tokenizer_path
    return paths[kind]


def pretrained_address(kind: Kind, config: Config) -> str | None:
    """The weights that training starts from; None for random ones."""
    model = config.model
    return model.pretrained_tokenizer_path if kind == "tokenizer" else model.pretrained_predictor_path


def trained_weights(kind: Kind, config: Config, store: BarStore, splits: Ranges) -> Weights:
    """The weights that later stages use: those that are named, else those trained here on these bars and splits."""
    given = given_address(kind, config)
    if given is not None:
        return load_weights(kind, given, config.tracking.tracking_uri)
    folder = config.model_folder(kind)
    best = folder / "checkpoints" / "best_model"
    if not best.is_dir():
        raise UserError(f"no {kind} at {best}: run  python -m kronos {kind}  or give --{kind}-path")
    remedy = f"run  python -m kronos {kind}  again, or give --{kind}-path to use other weights"
    inputs = {"bars": store.digest, "splits": splits.text()}
    refuse_other_configuration(folder, f"the {kind}", remedy, field_texts(config, SAME_MODEL), inputs)
    return load_weights(kind, str(best), None)


def trained_pair(config: Config, store: BarStore, splits: Ranges) -> tuple[Weights, Weights, tuple[str, ...]]:
    """(tokenizer, predictor, lines to print): the predictor, and the tokenizer that it was trained with.

    Where the tokenizer that the configuration leads to is another one, the predictor's own copy is used. Raises
    UserError where there is no copy: a predictor forecasts nonsense from another tokenizer's ids.
    """
    tokenizer, problem = None, None
    try:
        tokenizer = trained_weights("tokenizer", config, store, splits)
    except UserError as error:
        problem = error
    try:
        predictor = trained_weights("predictor", config, store, splits)
    except UserError as error:
        raise problem or error from None
    wanted = predictor.made_from.get("inputs", {}).get("tokenizer")
    if tokenizer is not None and wanted in (None, tokenizer.digest):
        return tokenizer, predictor, ()
    if wanted is not None and config.output.tokenizer_path is None:
        own = _own_tokenizer(config)
        if own is not None and own.digest == wanted:
            note = (
                "the predictor was trained with another tokenizer than the stored one: its own copy is used"
            )
            return own, predictor, (note,)
    if tokenizer is not None:
        problem = UserError(
            f"the predictor was trained with a tokenizer of digest {str(wanted)[:12]}, the one to be used has "
            f"{tokenizer.digest[:12]}: they were not trained together; give --tokenizer-path of the right one, or run"
            "  python -m kronos predictor"
        )
    assert problem is not None
    raise problem


def _own_tokenizer(config: Config) -> Weights | None:
    """The tokenizer kept with the predictor that the configuration leads to; None where there is none."""
    address, uri = config.output.predictor_path, config.tracking.tracking_uri
    if address is not None and address.startswith(ADDRESSES):
        try:
            return load_weights("tokenizer", address, uri)
        except UserError:
            return None
    folder = config.model_folder("predictor") if address is None else Path(address).expanduser().absolute()
    for place in (folder, *folder.parents[:2]):
        if (place / OWN_TOKENIZER).is_dir():
            return load_weights("tokenizer", str(place / OWN_TOKENIZER), None)
    return None


def record_of_weights(address: str) -> dict[str, Any]:
    """The record of the stage that made the weights in a folder; empty where there is none that can be read."""
    folder = Path(address).expanduser()
    for place in (folder, *folder.absolute().parents[:2]):
        if (place / RECORD).is_file():
            try:
                return read_record(place)
            except UserError:
                return {}
    return {}


def backtest_points(config: Config, store: BarStore, splits: Ranges) -> ForecastPoints:
    """The (day, instrument) pairs of the backtest's range. Raises UserError where there is none."""
    lookback = config.data.lookback_window
    points = forecast_points(store, *splits.backtest, lookback, config.data.predict_window)
    if not len(points):
        raise UserError(
            f"nothing to forecast: no instrument has {lookback} bars in a row that end within backtest_time_range "
            f"{splits.backtest[0]}..{splits.backtest[1]}"
        )
    limit = config.backtest.backtest_max_instruments
    instruments = np.unique(points.instrument)
    if not limit or len(instruments) <= limit:
        return points
    kept = instruments[np.linspace(0, len(instruments) - 1, limit).round().astype(int)]
    inside = np.isin(points.instrument, kept)
    left_out = pd.DataFrame({
        "instrument": np.array(store.instruments, dtype=object)[points.instrument[~inside]],
        "datetime": store.sessions[points.session[~inside]].astype("datetime64[ns]"),
        "session": points.session[~inside], "reason": "left out by backtest_max_instruments",
    })  # fmt: skip
    excluded = pd.concat([points.excluded, left_out], ignore_index=True)
    return replace(points.subset(inside), excluded=excluded)


def training_splits(config: Config, store: BarStore, splits: Ranges) -> tuple[Split, Split]:
    """Training windows (with the next token) and validation windows."""
    scored = config.data.lookback_window + config.data.predict_window
    train = windows_of(config, store, "train", splits, config.window_length)
    return train, windows_of(config, store, "val", splits, scored)


def windows_of(config: Config, store: BarStore, name: str, splits: Ranges, length: int) -> Split:
    """The windows of `length` bars of one split."""
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    return make_split(store, name, *splits.days()[name], lookback=lookback, horizon=horizon, length=length)


def log_dataset(context: Context, store: BarStore, use: str) -> None:
    """Name the bars that a run used, with their digest, as MLflow shows a dataset."""
    name = str(store.source.get("name", context.config.data.data_source))
    profile = {"bars": len(store.session), "instruments": len(store.instruments), "freq": store.freq}
    context.run.dataset(name, store.digest, {"store": name, "digest": store.digest}, profile, use)
    context.run.tags({"data_digest": store.digest})


def weights_before(kind: Kind, trained: Weights, uri: str | None) -> tuple[Weights | None, str]:
    """(the weights that these were trained from, "") by their own record, or (None, why they are not known)."""
    from kronos.distributed.device import seed_everything
    from kronos.model import checkpoint
    from kronos.model.presets import random_model

    start = trained.record.get("started_from")
    if not start:
        return None, f"the {kind}'s weights have no record of what they were trained from"
    try:
        if start["address"] is not None:
            found = load_weights(kind, start["address"], uri)
        else:
            seed_everything(start["seed"])
            model = random_model(kind, start["preset"])
            found = Weights(model, checkpoint.digest(model), {})
    except UserError as error:
        return None, f"the weights that the {kind} was trained from cannot be loaded ({error})"
    if found.digest != start["digest"]:
        place = start["address"] or "the same seed"
        return None, f"the weights at {place} are not those that the {kind} was trained from"
    return found, ""
