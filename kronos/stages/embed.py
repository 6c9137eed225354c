"""The embed stage: one vector per (day, instrument), for other models such as LightGBM, and for Qlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kronos.config.schema import Config, fields_of
from kronos.data.forecast_points import ForecastPoints, context_rows, contexts, forecast_points
from kronos.forecast.embeddings import embed_arrays
from kronos.forecast.store_forecaster import Forecaster
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import write_record
from kronos.stages.ensemble import forecaster_of
from kronos.stages.inputs import BY_CONTENT, log_dataset, resolve_splits, stored_bars
from kronos.stages.model_logging import log_inputs
from kronos.stages.provenance import seen_until
from kronos.stages.weights import trained_models
from kronos.utils.errors import UserError
from kronos.utils.files import atomic_folder
from kronos.utils.progress import Progress

FILE = "embeddings.parquet"
AT_ONCE = 8192  # contexts in memory, and rows of a row group of the file


class EmbedStage(Stage):
    """Write embeddings.parquet: rows (datetime, instrument), columns e0, e1, ... of the predictor's width."""

    name = "embed"
    help = "write one vector per day and instrument, for LightGBM, Qlib and other models"
    params = (
        *fields_of("data", "embed", "tracking"), "backtest_batch_size", "save_path", "tokenizer_save_folder_name",
        "predictor_save_folder_name", "tokenizer_path", "predictor_path", "pretrained_tokenizer_path",
        "freeze_tokenizer", "device", "cpu",
    )  # fmt: skip
    by_content = BY_CONTENT
    packages = ("torch", "numpy", "pandas", "pyarrow", "exchange_calendars")

    def check(self, config: Config) -> None:
        if len(config.members()) > 1:
            raise UserError("embed takes one predictor: give --predictor-path one address")

    def folder(self, config: Config) -> Path:
        return Path(config.embed.embed_path)

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        models, notes = trained_models(config, store, splits)
        tokenizer, predictor = models.tokenizer, models.predictor
        digests = {"bars": store.digest, "tokenizer": tokenizer.digest, "predictor": predictor.digest}
        return Inputs(digests, store, splits, models, notes=notes)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Write the output folder, which is renamed to its final name when complete."""
        config, store, run = context.config, inputs.store, context.run
        assert store is not None and inputs.splits is not None
        log_dataset(context, store, "context")
        log_inputs(context, **inputs.models.named())
        first, last = (pd.Timestamp(int(store.sessions[place])).date() for place in (0, store.last_session))
        days = config.embed.embed_time_range or (first, last)
        points = forecast_points(store, days[0], days[1], config.data.lookback_window)
        if not len(points):
            raise UserError(
                f"embed: no instrument has {config.data.lookback_window} bars in a row that end in "
                f"{days[0]}..{days[1]}: give another --embed-time-range"
            )
        seen = seen_until(config, inputs.splits)
        with atomic_folder(self.folder(config)) as folder:
            width = write_vectors(forecaster_of(config, store, inputs.models), points, folder / FILE)
            metrics = {
                "vectors": float(len(points)), "width": float(width), "pairs_excluded": float(len(points.excluded)),
            }  # fmt: skip
            more = {"metrics": metrics, "seen_until": seen.text()}
            record = write_record(folder, key, run.id, [FILE], more)
            run.metrics(0, metrics)
            run.tags({"seen_until": seen.text()})
            run.artifact(folder)
        context.say(f"embed: {len(points):,} vectors of {width} numbers in {self.folder(config) / FILE}")
        until = f"on days up to {seen.until}" if seen.until else "on days that are not known"
        context.say(
            f"embed: the models were trained and chosen {until}: only vectors of later days are of bars that they "
            "have not seen"
        )
        return Result(self.name, run.id, self.folder(config), record)


def write_vectors(model: Forecaster, points: ForecastPoints, file: Path) -> int:
    """Write the vectors of the points, by session then instrument, in row groups; returns their width."""
    config, store = model.config, model.store
    names = np.array(store.instruments, dtype=object)
    columns = [f"e{place}" for place in range(model.predictor.d_model)]
    writer = None
    try:
        with Progress("embed", "vectors") as progress:
            for first in range(0, len(points), AT_ONCE):
                part = points.subset(np.arange(first, min(first + AT_ONCE, len(points))))
                bars, stamps = contexts(store, part.row, config.data.lookback_window, model.columns)
                rows = context_rows(part.row, config.data.lookback_window)
                vectors = embed_arrays(
                    model.tokenizer, model.predictor, bars, model.stamps_of(store.times[rows], stamps),
                    clip=config.data.clip,
                    pooling=config.embed.embed_pooling, batch_size=config.forecast.backtest_batch_size,
                    conditions_NLC=model.conditions_of(rows),
                )  # fmt: skip
                times = pd.DatetimeIndex(store.sessions[part.session].astype("datetime64[ns]"))
                index = pd.MultiIndex.from_arrays(
                    [times, names[part.instrument]], names=["datetime", "instrument"]
                )
                table = pa.Table.from_pandas(pd.DataFrame(vectors, index, columns))
                writer = writer or pq.ParquetWriter(file, table.schema)
                writer.write_table(table)
                progress(first + len(part), len(points))
    finally:
        if writer is not None:
            writer.close()
    return len(columns)
