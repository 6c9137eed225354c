"""The data stage: read and check bars, write the bar store, and report windows and forecast points."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config, fields_of
from kronos.data.bars import Flag
from kronos.data.sources import auto
from kronos.data.sources.base import BaseDataProcessor
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.splits import Ranges
from kronos.data.store import BarStore, open_store
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import key_of, write_record
from kronos.stages.inputs import (
    SPLIT_FIELDS,
    SPLITS,
    backtest_points,
    field_texts,
    log_dataset,
    resolve_splits,
    store_fields,
    store_splits,
    training_splits,
    windows_of,
)
from kronos.tracking.metric_names import tracked
from kronos.utils.csv_files import write_csv
from kronos.utils.errors import UserError
from kronos.utils.files import RECORD, write_json, write_text

STORE_FILES = (
    "index.json",
    "findings.json",
    "data_report.md",
    "data_report.json",
    "data_report.png",
    "windows.csv",
    SPLITS,
)
LISTED = 20  # instruments listed in the report; windows.csv has them all


class DataStage(Stage):
    """Read bars from a source, check them, and write the bar store with the splits resolved for it."""

    name = "data"
    help = "read bars from a source, check them, and write the bar store"
    params = (*fields_of("data", "tracking"),)
    packages = ("numpy", "pandas", "pyarrow", "exchange_calendars")

    def folder(self, config: Config) -> Path:
        return Path(config.data.dataset_path)

    def inputs(self, config: Config) -> Inputs:
        processor = _processor(config)
        digests = {"source": processor.input_digest()}
        if processor.wanted.text:
            digests["columns"] = processor.wanted.text
        return Inputs(digests=digests, more=processor)

    def key_fields(self, config: Config) -> tuple[str, ...]:
        return (*store_fields(config), *SPLIT_FIELDS, "holdout_instruments")

    def code(self, config: Config) -> tuple[str, ...]:
        return (type(_processor(config)).__module__,)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Build the store, report the findings about the bars, and check that every split has windows."""
        config = context.config
        store = replace(_build(context, inputs.more, key), across_days=config.data.windows_across_days)
        context.say(
            f"bars: {len(store):,} of {len(store.instruments)} instruments, digest {store.digest[:12]}, in "
            f"{store.path}"
        )
        for note in store.source.get("notes", []):
            context.say(f"  {note}")
        counts: dict[str, float] = {"bars": len(store), "instruments": len(store.instruments)}
        for finding in store.findings:
            name = "found_" + re.sub(r"\W+", "_", finding["kind"]).strip("_")
            counts[name] = counts.get(name, 0) + finding["count"]
            context.say(f"  {finding['kind']}, {finding['action']}: {finding['count']:,}")
        log_dataset(context, store, "all")
        splits = resolve_splits(config, store)
        windows = describe_splits(context, store, splits)
        store_splits(config, store, splits)
        counts |= {f"windows_{name}": int(windows[name].sum()) for name in ("train", "val", "test")}
        counts |= {"forecast_points": int(windows["forecasts"].sum())}
        counts |= {
            "instruments_without_windows": int((windows[["train", "val", "test"]].sum(axis=1) == 0).sum())
        }
        write_reports(store, splits, windows, counts, config.data.lookback_window)
        for file in STORE_FILES[1:]:
            context.run.artifact(store.path / file)
        context.run.metrics(0, tracked(self.name, counts))
        outputs = [*STORE_FILES, *sorted(file.name for file in store.path.glob("*.npy"))]
        more = {"digest": store.digest, "metrics": counts}
        record = write_record(store.path, key, context.run.id, outputs, more)
        context.run.artifact(store.path / RECORD)
        return Result(self.name, context.run.id, store.path, record)


def by_market(config: Config) -> dict[str, Config]:
    """The configurations of data_source=auto, one for each market: a store beside `dataset_path`."""
    markets = auto.by_market(config.data.symbols)
    return {
        market: config.replace(
            symbols=symbols,
            dataset_path=f"{config.data.dataset_path.rstrip('/')}-{market.lower()}",
        )
        for market, symbols in markets.items()
    }


def _processor(config: Config) -> BaseDataProcessor:
    return DataProcessorFactory.create_processor(config.data.data_source, config)


def _build(context: Context, processor: BaseDataProcessor, key: Mapping[str, Any]) -> BarStore:
    """Build the store of this configuration, or keep the existing one if only the splits have changed."""
    config = context.config
    own = {**key, "fields": field_texts(config, store_fields(config))}
    if config.tracking.reuse and (Path(config.data.dataset_path) / "index.json").is_file():
        try:
            store = open_store(config.data.dataset_path, verify=True)
        except UserError:
            store = None
        if store is not None and store.key == key_of(own):
            context.say(f"bars: unchanged in {store.path}, only the splits are resolved again")
            return store
    if not processor.reusable:
        context.say(
            f"  {type(processor).__name__} does not define what its bars depend on, so they are read each time: "
            "define fingerprint() to reuse them"
        )
    return processor.run_pipeline(key_of(own))


def describe_splits(context: Context, store: BarStore, splits: Ranges) -> pd.DataFrame:
    """Make every split once, so that empty or overlapping splits raise UserError before training.

    Returns a table with a row per instrument: bars, first, last, and counts for train, val, test and forecasts.
    """
    config = context.config
    for note in splits.notes:
        context.say(f"  {note}")
    context.say(f"ranges: {splits.whole_text()}")
    context.run.tags({"ranges": splits.whole_text()})
    if splits.held_out:
        context.say(
            f"held out of training and validation: {len(splits.held_out)} of {len(store.instruments)} instruments "
            f"({', '.join(splits.held_out[:5])}{', ...' * (len(splits.held_out) > 5)})"
        )
    train, validation = training_splits(config, store, splits)
    test = windows_of(config, store, "test", splits, config.data.lookback_window + config.data.predict_window)
    points = backtest_points(config, store, splits)
    context.say(
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


def write_reports(
    store: BarStore, ranges: Ranges, windows: pd.DataFrame, counts: dict[str, float], lookback: int
) -> None:
    """Write into the store's folder: the data report (Markdown, JSON, figure) and the windows per instrument."""
    from kronos.data.quality_report import report_markdown
    from kronos.report.figures import data_figure, save_png

    write_csv(windows, store.path / "windows.csv", index=False, date_format="%Y-%m-%d %H:%M")
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
            "range_notes": list(ranges.notes), "held_out": list(ranges.held_out), "counts": counts,
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
    # A forecast of the backtest may have its context before the range.
    contexts = {name: 0 if name == "backtest" else lookback for name in ranges.days()}
    figure = data_figure(
        pd.DataFrame(by_session, index=sessions), ranges.days(), contexts, str(store.source.get("name", ""))
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
    for name, *numbers in rows:
        cells = [str(name).replace("|", "\\|"), *(f"{number:,}" for number in numbers)]
        lines.append("| " + " | ".join(cells) + " |")
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
