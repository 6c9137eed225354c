"""The data stage: a source's bars, checked, in the store; the windows and forecast days that they give."""

import re
from datetime import date
from typing import Any

from kronos.config import Config
from kronos.data.sources import DataProcessorFactory
from kronos.data.store import BarStore, open_store
from kronos.data.windows import Split, check_ranges, forecast_points, make_split
from kronos.stages.core import STORE_FIELDS, Work, origin, refuse_other_origin, write_record

STORE_FILES = ("index.json", "findings.json", "data_report.md")


def made_from(config: Config) -> dict[str, Any]:
    return origin("data", config, STORE_FIELDS)


def run(work: Work, made: dict[str, Any]) -> dict[str, Any]:
    """Build the store, report what was found in the bars, and check that every split has windows."""
    config = work.config
    processor = DataProcessorFactory.create_processor(config.data_source, config)
    store = processor.run_pipeline()
    work.run.artifact(store.path / "data_report.md")
    work.run.artifact(store.path / "findings.json")
    log_dataset(work, store, "all")
    bars, names = len(store.session), len(store.instruments)
    work.say(f"bars: {bars:,} of {names} instruments, digest {store.digest[:12]}, in {store.path}")
    counts = {"bars": bars, "instruments": names}
    for finding in store.findings:
        name = "found_" + re.sub(r"\W+", "_", finding["kind"]).strip("_")
        counts[name] = counts.get(name, 0) + finding["count"]
    for finding in store.findings:
        work.say(f"  {finding['kind']}, {finding['action']}: {finding['count']}")
    counts |= describe_splits(work, store)
    work.run.metrics(0, counts)
    return write_record(
        store.path, made, work.run.id, STORE_FILES, {"digest": store.digest, "metrics": counts}
    )


def describe_splits(work: Work, store: BarStore) -> dict[str, int]:
    """Make every split once, so that an empty one or an overlap is refused before anything is trained."""
    config = work.config
    train, validation = training_splits(config, store)
    begin, end = config.backtest_time_range
    points = forecast_points(store, begin, end, config.lookback_window)
    if not len(points.row):
        raise_no_forecast(config)
    work.say(
        f"windows: {len(train.starts):,} to train on, {len(validation.starts):,} to validate on; "
        f"forecasts: {len(points.row):,} (day, instrument) pairs, {len(points.excluded):,} excluded"
    )
    return {
        "windows_train": len(train.starts),
        "windows_val": len(validation.starts),
        "forecast_points": len(points.row),
        "forecast_points_excluded": len(points.excluded),
    }


def raise_no_forecast(config: Config) -> None:
    from kronos.errors import UserError

    begin, end = config.backtest_time_range
    raise UserError(
        f"nothing to forecast: no instrument has {config.lookback_window} bars in a row that end within "
        f"backtest_time_range {begin}..{end}"
    )


def training_splits(config: Config, store: BarStore) -> tuple[Split, Split]:
    """Training windows (with the next token) and validation windows, the ranges checked against each other."""
    lookback, horizon = config.lookback_window, config.predict_window
    check_ranges(
        store, config.train_time_range, config.val_time_range, config.test_time_range,
        config.backtest_time_range, lookback,
    )  # fmt: skip

    def split(name: str, days: tuple[date, date], length: int) -> Split:
        return make_split(store, name, *days, lookback=lookback, horizon=horizon, length=length)

    train = split("train", config.train_time_range, config.window_length)
    return train, split("val", config.val_time_range, lookback + horizon)


def stored_bars(config: Config) -> BarStore:
    """The store that the other stages read; one from another configuration is refused."""
    store = open_store(config.dataset_path)
    remedy = "run  python -m kronos data  again, or give the other --dataset-path"
    refuse_other_origin(store.path, "the store", remedy, made_from(config), STORE_FIELDS)
    return store


def log_dataset(work: Work, store: BarStore, context: str) -> None:
    """Name the bars that a run used, with their digest, as MLflow shows a dataset."""
    name = str(store.source.get("name", work.config.data_source))
    profile = {"bars": len(store.session), "instruments": len(store.instruments), "freq": store.freq}
    work.run.dataset(name, store.digest, {"store": name, "digest": store.digest}, profile, context)
    work.run.tags({"data_digest": store.digest})
