"""The data stage: a source's bars, checked, in the store; the windows and forecast days that they give."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.bars import Flag
from kronos.data.forecast_points import ForecastPoints, forecast_points
from kronos.data.sources.base import BaseDataProcessor
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.splits import Ranges, Split, make_split, settle_ranges
from kronos.data.store import BarStore, open_store
from kronos.stages.base import (
    SPLIT_FIELDS,
    Work,
    key_of,
    origin,
    refuse_other_origin,
    store_fields,
    write_record,
)
from kronos.utils.errors import UserError
from kronos.utils.files import write_json, write_text

STORE_FILES = (
    "index.json",
    "findings.json",
    "data_report.md",
    "data_report.json",
    "data_report.png",
    "windows.csv",
)
RANGES = ("train_time_range", "val_time_range", "test_time_range", "backtest_time_range")
LISTED = 20  # instruments listed in the report; windows.csv has them all


def made_from(config: Config) -> dict[str, Any]:
    return origin("data", config, (*store_fields(config), *SPLIT_FIELDS), _inputs(_processor(config)))


def _processor(config: Config) -> BaseDataProcessor:
    return DataProcessorFactory.create_processor(config.data_source, config)


def _inputs(processor: BaseDataProcessor) -> dict[str, str]:
    return {"source": processor.input_digest()[:16]}


def run(work: Work, made: dict[str, Any]) -> dict[str, Any]:
    """Build the store, report what was found in the bars, and check that every split has windows."""
    config = work.config
    store = replace(_build(work), across_days=config.windows_across_days)
    work.say(
        f"bars: {len(store):,} of {len(store.instruments)} instruments, digest {store.digest[:12]}, in {store.path}"
    )
    for note in store.source.get("notes", []):
        work.say(f"  {note}")
    counts: dict[str, float] = {"bars": len(store), "instruments": len(store.instruments)}
    for finding in store.findings:
        name = "found_" + re.sub(r"\W+", "_", finding["kind"]).strip("_")
        counts[name] = counts.get(name, 0) + finding["count"]
        work.say(f"  {finding['kind']}, {finding['action']}: {finding['count']:,}")
    log_dataset(work, store, "all")
    ranges = settled_ranges(config, store)
    windows = describe_splits(work, store, ranges)
    counts |= {f"windows_{name}": int(windows[name].sum()) for name in ("train", "val", "test")}
    counts |= {"forecast_points": int(windows["forecasts"].sum())}
    counts |= {"instruments_without_windows": int((windows[["train", "val", "test"]].sum(axis=1) == 0).sum())}
    write_reports(store, ranges, windows, counts)
    for file in STORE_FILES[1:]:
        work.run.artifact(store.path / file)
    work.run.metrics(0, counts)
    return write_record(
        store.path, made, work.run.id, STORE_FILES, {"digest": store.digest, "metrics": counts}
    )


def _build(work: Work) -> BarStore:
    """The store of this configuration: made now, or kept where only the splits have changed since."""
    config = work.config
    processor = _processor(config)
    key = key_of(origin("data", config, store_fields(config), _inputs(processor)))
    if config.reuse and (Path(config.dataset_path) / "index.json").is_file():
        try:
            store = open_store(config.dataset_path, verify=True)
        except UserError:
            store = None
        if store is not None and store.key == key:
            work.say(f"bars: kept as they are in {store.path}, only the splits are made anew")
            return store
    return processor.run_pipeline(key)


def settled_ranges(config: Config, store: BarStore) -> Ranges:
    """The ranges that are used: those given, cut by the embargo; or fractions where none fits the bars."""
    return settle_ranges(
        store, config.train_time_range, config.val_time_range, config.test_time_range, config.backtest_time_range,
        lookback=config.lookback_window, embargo=config.embargo,
        defaults=all(getattr(config, name) == Config.model_fields[name].default for name in RANGES),
    )  # fmt: skip


def settled(config: Config, store: BarStore) -> Config:
    """The configuration with the ranges that are used."""
    days = settled_ranges(config, store).days()
    return config.model_copy(update={f"{name}_time_range": value for name, value in days.items()})


def describe_splits(work: Work, store: BarStore, ranges: Ranges) -> pd.DataFrame:
    """Make every split once, so that an empty one or an overlap is refused before anything is trained.

    Returns a table of the instruments: bars, first, last, and windows of each split (train, val, test, forecasts).
    """
    config = work.config
    for note in ranges.notes:
        work.say(f"  {note}")
    train, validation = training_splits(config, store)
    test = _split(config, store, "test", ranges, config.lookback_window + config.predict_window)
    points = backtest_points(settled(config, store), store)
    work.say(
        f"windows: {len(train):,} to train on, {len(validation):,} to validate on, {len(test):,} to test on; "
        f"forecasts: {len(points):,} (day, instrument) pairs, {len(points.excluded):,} excluded"
    )
    count = len(store.instruments)
    whose = store.instrument_of_row
    real = (np.asarray(store.flags) & Flag.FILLED) == 0
    times = pd.DatetimeIndex(store.times.astype("datetime64[ns]"))
    ends = np.asarray(store.offsets)
    table = {
        "instrument": list(store.instruments),
        "bars": np.bincount(whose[real], minlength=count),
        "first": times[ends[:-1]],
        "last": times[ends[1:] - 1],
    }
    for name, split in (("train", train), ("val", validation), ("test", test)):
        table[name] = np.bincount(whose[split.starts], minlength=count)
    table["forecasts"] = np.bincount(points.instrument, minlength=count)
    return pd.DataFrame(table)


def backtest_points(config: Config, store: BarStore) -> ForecastPoints:
    """The (day, instrument) pairs of the backtest's range. Raises UserError where there is none."""
    begin, end = config.backtest_time_range
    points = forecast_points(store, begin, end, config.lookback_window, config.predict_window)
    if not len(points):
        raise_no_forecast(config)
    return points


def raise_no_forecast(config: Config) -> None:
    begin, end = config.backtest_time_range
    raise UserError(
        f"nothing to forecast: no instrument has {config.lookback_window} bars in a row that end within "
        f"backtest_time_range {begin}..{end}"
    )


def training_splits(config: Config, store: BarStore) -> tuple[Split, Split]:
    """Training windows (with the next token) and validation windows, the ranges checked against each other."""
    ranges = settled_ranges(config, store)
    train = _split(config, store, "train", ranges, config.window_length)
    return train, _split(config, store, "val", ranges, config.lookback_window + config.predict_window)


def _split(config: Config, store: BarStore, name: str, ranges: Ranges, length: int) -> Split:
    lookback, horizon = config.lookback_window, config.predict_window
    return make_split(store, name, *ranges.days()[name], lookback=lookback, horizon=horizon, length=length)


def stored_bars(config: Config) -> BarStore:
    """The store that the other stages read; one from another configuration is refused."""
    store = open_store(config.dataset_path)
    remedy = "run  python -m kronos data  again, or give the other --dataset-path"
    fields = store_fields(config)
    refuse_other_origin(store.path, "the store", remedy, origin("data", config, fields), fields)
    return replace(store, across_days=config.windows_across_days)


def write_reports(store: BarStore, ranges: Ranges, windows: pd.DataFrame, counts: dict[str, float]) -> None:
    """Beside the store: the report with its splits, the same as JSON, a figure, and the windows by instrument."""
    from kronos.data.quality_report import report_markdown
    from kronos.report.figures import data_figure, save_png

    windows.to_csv(store.path / "windows.csv", index=False, date_format="%Y-%m-%d %H:%M")
    write_text(store.path / "data_report.md", report_markdown(store) + _splits_markdown(ranges, windows))
    write_json(
        store.path / "data_report.json",
        {
            "source": store.source, "digest": store.digest, "calendar": store.calendar, "freq": store.freq,
            "rows": len(store), "instruments": len(store.instruments), "benchmark": store.benchmark_name,
            "findings": [
                {**finding, "items": None, "examples": finding["items"][:5]} for finding in store.findings
            ],
            "ranges": {name: [str(day) for day in days] for name, days in ranges.days().items()},
            "range_notes": list(ranges.notes), "counts": counts,
        },
    )  # fmt: skip
    sessions = pd.DatetimeIndex(store.sessions[: store.last_session + 1].astype("datetime64[ns]"))
    flags, session = np.asarray(store.flags), np.asarray(store.session)
    filled = (flags & Flag.FILLED) > 0
    rows = {
        "bars": ~filled,
        "filled": filled,
        "repaired": (flags & Flag.REPAIRED) > 0,
        "not a member": ~filled & ((flags & Flag.NONMEMBER) > 0),
    }
    by_session = {name: np.bincount(session[which], minlength=len(sessions)) for name, which in rows.items()}
    figure = data_figure(
        pd.DataFrame(by_session, index=sessions), ranges.days(), str(store.source.get("name", ""))
    )
    save_png(figure, store.path / "data_report.png")


def _splits_markdown(ranges: Ranges, windows: pd.DataFrame) -> str:
    lines = ["", "## Splits", "", *(f"- {note}" for note in ranges.notes)]
    lines += [f"- {name}: {first} to {last}" for name, (first, last) in ranges.days().items()]
    lines += [
        "",
        "| instrument | bars | train | validation | test | forecasts |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    whole = windows[["bars", "train", "val", "test", "forecasts"]].sum()
    rows = [("all", *whole)] + [
        (row.instrument, row.bars, row.train, row.val, row.test, row.forecasts)
        for row in windows.head(LISTED).itertuples()
    ]
    lines += ["| " + " | ".join([str(row[0]), *(f"{value:,}" for value in row[1:])]) + " |" for row in rows]
    if len(windows) > LISTED:
        lines.append(f"\nand {len(windows) - LISTED:,} more in windows.csv")
    none = windows.loc[windows[["train", "val", "test"]].sum(axis=1) == 0, "instrument"]
    if len(none):
        shown = ", ".join(none.head(LISTED))
        lines.append(
            f"\nToo short for a window in any split ({len(none):,}): {shown}"
            + ("..." if len(none) > LISTED else "")
        )
    return "\n".join(lines) + "\n"


def log_dataset(work: Work, store: BarStore, context: str) -> None:
    """Name the bars that a run used, with their digest, as MLflow shows a dataset."""
    name = str(store.source.get("name", work.config.data_source))
    profile = {"bars": len(store.session), "instruments": len(store.instruments), "freq": store.freq}
    work.run.dataset(name, store.digest, {"store": name, "digest": store.digest}, profile, context)
    work.run.tags({"data_digest": store.digest})
