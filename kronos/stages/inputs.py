"""Bars and splits for the stages: open the store, resolve its splits, make windows, forecast points, wide frames."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.loading import to_text
from kronos.config.schema import Config
from kronos.data.bars import FEATURES, Flag
from kronos.data.extra_columns import Wanted, wanted_columns
from kronos.data.forecast_points import ForecastPoints, forecast_points
from kronos.data.holdout import held_out_of
from kronos.data.splits import Ranges, Split, make_split, settle_ranges
from kronos.data.store import INDEX, BarStore, open_store
from kronos.stages.base import Context
from kronos.stages.cache import read_record, refuse_other_configuration, run_again
from kronos.utils.digests import file_digest, read_object, with_own_digest
from kronos.utils.errors import Damaged, UserError
from kronos.utils.files import RECORD, write_json

SPLITS = "splits.json"
RANGES = ("train_time_range", "val_time_range", "test_time_range", "backtest_time_range")
SPLIT_FIELDS = (*RANGES, "lookback_window", "predict_window", "embargo", "windows_across_days")
# Fields that decide the content of a store: those of every source, and those that only some sources read.
STORE_FIELDS = (
    "data_source", "freq", "resample", "hours", "dataset_begin_time", "dataset_end_time", "symbols", "calendar",
    "adjust",
)  # fmt: skip
SOURCE_FIELDS: dict[str, tuple[str, ...]] = {
    "sample": (),
    "csv": (
        "data_path",
        "instrument_column",
        "time_column",
        "volume_column",
        "time_zone",
        "column_names",
        "decimal_sign",
    ),
    "qlib": ("qlib_data_path", "instrument"),
    "sina": (
        "sina_url", "sina_factor_url", "sina_symbols", "sina_datalen", "qlib_data_path", "instrument", "least_share",
    ),
    **{name: ("instrument", "least_share") for name in ("akshare", "baostock", "tushare", "yfinance")},
    "ccxt": ("exchange", "instrument", "least_share"),
}  # fmt: skip
EVERY_SOURCE_FIELD = tuple(dict.fromkeys(name for names in SOURCE_FIELDS.values() for name in names))
# Fields that the digests of bars, splits and weights represent in the cache keys of stages after the data stage.
BY_CONTENT = (
    *STORE_FIELDS, *EVERY_SOURCE_FIELD, *RANGES, "embargo", "holdout_instruments", "pretrained_tokenizer_path",
    "pretrained_predictor_path", "freeze_tokenizer", "tokenizer_path", "predictor_path", "feature_list",
    "time_feature_list", "condition_columns", "condition_block",
)  # fmt: skip


def store_fields(config: Config) -> tuple[str, ...]:
    """The fields that decide the content of the store; a user-defined data source may read any source field."""
    return (*STORE_FIELDS, *SOURCE_FIELDS.get(config.data.data_source, EVERY_SOURCE_FIELD))


def field_texts(config: Config, names: tuple[str, ...]) -> dict[str, str]:
    """Field values as text, by name."""
    return {name: to_text(getattr(config, name)) for name in names}


def stored_bars(config: Config) -> BarStore:
    """Open the store at `dataset_path`. Raises UserError if it was built from another configuration."""
    store = open_store(config.data.dataset_path)
    _check_record(store)
    remedy = "run  python -m kronos data  again, or give the other --dataset-path"
    refuse_other_configuration(store.path, "the store", remedy, field_texts(config, store_fields(config)), {})
    refuse_missing_columns(store, wanted_columns(config), remedy)
    return replace(store, across_days=config.data.windows_across_days)


def refuse_missing_columns(store: BarStore, wanted: Wanted, remedy: str) -> None:
    """Raise UserError where the store lacks a further column that is wanted, or where a feature is not usable."""
    kinds = {one.name: one.kind for one in store.extra}
    for name in wanted.names:
        field = "feature_list" if name in wanted.features else "condition_columns"
        if name not in kinds:
            raise UserError(f"{field}: the store at {store.path} was built without column {name!r}: {remedy}")
        if name in wanted.features and (kinds[name] != "number" or np.isnan(store.column(name)).any()):
            raise UserError(
                f"{field}: the store at {store.path} has column {name!r} as a condition, with missing values or "
                f"words: {remedy}"
            )


def _check_record(store: BarStore) -> None:
    """Raise Damaged where the record of the data stage is missing or is not that of these bars.

    A store without a cache key was not written by the stage (but in a notebook, say) and has no record.
    """
    if not store.key:
        return
    again = run_again("data")
    if not (store.path / RECORD).is_file():
        raise Damaged(f"{store.path / RECORD} is missing", again)
    written = read_record(store.path).get("outputs", {})
    if written.get(INDEX) != file_digest(store.path / INDEX):
        raise Damaged(f"{store.path / RECORD} is that of other bars than {INDEX} beside it", again)
    if SPLITS in written and not (store.path / SPLITS).is_file():
        raise Damaged(f"{store.path / SPLITS} is missing", again)


def resolve_splits(config: Config, store: BarStore) -> Ranges:
    """The days of every split: as stored by the data stage, or resolved again if the ranges are different."""
    data = config.data
    held_out = held_out_of(store.instruments, data.holdout_instruments)
    asked = field_texts(config, SPLIT_FIELDS)
    file = store.path / SPLITS
    if file.is_file():
        stored = read_object(file, "run  python -m kronos data  again")
        if stored.get("asked") == asked and stored.get("digest") == store.digest:
            return replace(splits_from_json(stored), held_out=held_out)
    found = settle_ranges(
        store, data.train_time_range, data.val_time_range, data.test_time_range, data.backtest_time_range,
        lookback=data.lookback_window, horizon=data.predict_window, embargo=data.embargo,
    )  # fmt: skip
    return replace(found, held_out=held_out)


def store_splits(config: Config, store: BarStore, splits: Ranges) -> None:
    """Write the resolved splits into the store's folder for later stages."""
    asked = field_texts(config, SPLIT_FIELDS)
    content = {"asked": asked, "digest": store.digest, **splits_to_json(splits)}
    write_json(store.path / SPLITS, with_own_digest(content))


def splits_to_json(splits: Ranges) -> dict[str, Any]:
    """Resolved splits as JSON values."""
    days = {name: [day.isoformat() for day in pair] for name, pair in splits.days().items()}
    return {"days": days, "notes": list(splits.notes), "held_out": list(splits.held_out)}


def splits_from_json(stored: Mapping[str, Any]) -> Ranges:
    """Resolved splits from `splits_to_json`."""
    days: dict[str, tuple[date, date]] = {
        name: (date.fromisoformat(first), date.fromisoformat(last))
        for name, (first, last) in stored["days"].items()
    }
    return Ranges.of(days, tuple(stored["notes"]), tuple(stored["held_out"]))


def backtest_points(config: Config, store: BarStore, splits: Ranges) -> ForecastPoints:
    """The (day, instrument) pairs to forecast in the backtest range. Raises UserError where there are none."""
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


def wide_bars(store: BarStore, first_session: int) -> dict[str, pd.DataFrame]:
    """Features of real bars (NaN elsewhere) and `member` as wide frames, days x instruments, from a session on.

    The features are `open`, `close`, `volume` and `amount`.

    With `flags` (uint8), where the bars come with price limits of their own.

    An instrument without a bar (a suspension) stays what it was, a member or not, until its next bar, so that its
    return on resumption is counted; after its last bar it is no member.
    """
    shape = (store.last_session + 1 - first_session, len(store.instruments))
    flags, session, instrument = np.asarray(store.flags), np.asarray(store.session), store.instrument_of_row
    later = session >= first_session
    real, member = later & ((flags & int(Flag.FILLED)) == 0), later & ((flags & int(Flag.NONMEMBER)) == 0)
    days = store.sessions[first_session : store.last_session + 1].astype("datetime64[ns]")
    index = pd.DatetimeIndex(days, name="datetime")
    columns = pd.Index(store.instruments, name="instrument")
    found = {}
    for name in ("open", "close", "volume", "amount"):
        table = np.full(shape, np.nan)
        table[session[real] - first_session, instrument[real]] = store.values[real, FEATURES.index(name)]
        found[name] = pd.DataFrame(table, index, columns)
    status, last = np.full(shape, np.nan), np.full(shape[1], -1)
    status[session[later] - first_session, instrument[later]] = member[later]
    np.maximum.at(last, instrument[later], session[later] - first_session)
    held = pd.DataFrame(status, index, columns).ffill() == 1
    found["member"] = held & (np.arange(shape[0])[:, None] <= last)
    if "price_limits" in store.source:
        kept = np.zeros(shape, np.uint8)
        kept[session[real] - first_session, instrument[real]] = flags[real]
        found["flags"] = pd.DataFrame(kept, index, columns)
    return found


def training_splits(config: Config, store: BarStore, splits: Ranges) -> tuple[Split, Split]:
    """The splits of training windows (one bar longer, for the next token) and of validation windows."""
    scored = config.data.lookback_window + config.data.predict_window
    train = windows_of(config, store, "train", splits, config.window_length)
    return train, windows_of(config, store, "val", splits, scored)


def windows_of(config: Config, store: BarStore, name: str, splits: Ranges, length: int) -> Split:
    """The windows of `length` bars of one split."""
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    return make_split(
        store, name, *splits.days()[name], lookback=lookback, horizon=horizon, length=length,
        held_out=splits.held_out,
    )  # fmt: skip


def log_dataset(context: Context, store: BarStore, use: str) -> None:
    """Log the bars that a run used as an MLflow dataset, with their digest."""
    name = str(store.source.get("name", context.config.data.data_source))
    profile = {"bars": len(store.session), "instruments": len(store.instruments), "freq": store.freq}
    context.run.dataset(name, store.digest, {"store": name, "digest": store.digest}, profile, use)
    context.run.tags({"data_digest": store.digest})
