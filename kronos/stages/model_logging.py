"""Log models to a run, so that it can be repeated and served from its own artifacts."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data import conditions
from kronos.data.bars import FEATURES
from kronos.data.forecast_points import latest_points
from kronos.data.store import BarStore
from kronos.evaluation.calibration import Calibration
from kronos.stages.base import Context
from kronos.stages.cache import copy_record
from kronos.stages.weights import Weights
from kronos.tracking.client import Run
from kronos.tracking.model_registry import log_model


def log_inputs(context: Context, calibration: Path | None = None, **models: Weights) -> None:
    """Log the weights that a stage used, with their records, as artifacts `inputs/NAME`, and the calibration file."""
    with tempfile.TemporaryDirectory(prefix="kronos-inputs-") as scratch:
        for name, one in models.items():
            one.model.save_pretrained(Path(scratch) / name)
            if one.record:
                copy_record(one.record, Path(scratch) / name)
        if calibration is not None:
            shutil.copy(calibration, scratch)
        context.run.artifact(scratch, "inputs")


def log_served_model(
    run: Run,
    config: Config,
    store: BarStore,
    tokenizer: Any,
    predictor: Any,
    step: int = 0,
    calibration: Calibration | None = None,
) -> str:
    """Log both models as one MLflow model with the forecast settings of the configuration; returns its URI.

    A calibration is logged with them; its bands are then the served model's default, as they are predict's.
    """
    data, forecast = config.data, config.forecast
    settings = {
        "lookback": data.lookback_window, "pred_len": data.predict_window, "T": forecast.inference_T,
        "top_p": forecast.inference_top_p, "top_k": forecast.inference_top_k, "seed": config.training.seed,
        "sample_count": forecast.inference_sample_count, "quantiles": list(forecast.predict_quantiles),
        "max_context": data.max_context, "clip": data.clip, "fine_rotary": forecast.inference_fine_rotary,
        "sliding": forecast.inference_sliding, "precision": forecast.inference_precision,
        "calendar": store.calendar, "freq": store.freq,
        "label": store.label, "bands": forecast.bands if calibration is not None else "raw",
    }  # fmt: skip
    described = predictor.config.get("conditions", {"columns": []})["columns"]
    if described:
        further = [one for one in described if one["name"] not in FEATURES]
        settings["conditions"] = {one["name"]: one["kind"] for one in further}
    example = example_bars(store, data.lookback_window, tokenizer.columns, described)
    return log_model(
        run,
        config.tracking.tracking_uri,
        tokenizer,
        predictor,
        settings,
        example,
        step,
        calibration,
        f"kronos-{config.model.model_preset}",
    )


def example_bars(
    store: BarStore, lookback: int, columns: Sequence[str], described: Sequence[Mapping[str, Any]] = ()
) -> pd.DataFrame:
    """The last `lookback` bars of the first instrument that has enough, in the format of a request.

    With the conditions that a predictor describes, where the last bar has a value.
    """
    point = latest_points(store, lookback)
    row, instrument = int(point.row[0]), int(point.instrument[0])
    rows = slice(row - lookback + 1, row + 1)
    table = pd.DataFrame({name: store.column(name)[rows].astype(float) for name in columns})
    table.insert(0, "datetime", store.times[rows].astype("datetime64[ns]"))
    table.insert(0, "instrument", store.instruments[instrument])
    for column, values in zip(described, conditions.table(store, described)[rows].T, strict=True):
        if column["name"] in (*FEATURES, *columns) or np.isnan(values).any():
            continue
        words = column.get("categories")
        table[column["name"]] = [words[int(code)] for code in values] if words else values.astype(float)
    return table
