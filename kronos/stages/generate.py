"""The generate stage: synthetic bars that continue the latest ones, drawn by the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config, fields_of
from kronos.data.calendars import next_sessions, time_features
from kronos.data.forecast_points import context_rows, contexts, latest_points
from kronos.forecast.keys import series_keys
from kronos.forecast.models import Windows
from kronos.forecast.rollout import roll_out
from kronos.forecast.store_forecaster import Forecaster
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import write_record
from kronos.stages.ensemble import forecaster_of
from kronos.stages.inputs import BY_CONTENT, log_dataset, resolve_splits, stored_bars
from kronos.stages.model_logging import log_inputs
from kronos.stages.weights import trained_models
from kronos.utils.csv_files import write_csv
from kronos.utils.files import atomic_folder
from kronos.utils.progress import Progress


class GenerateStage(Stage):
    """Write bars.parquet with synthetic instruments, and contexts.csv with the bars that each of them continues."""

    name = "generate"
    help = "draw synthetic bars that continue the latest ones"
    params = (
        *fields_of("data", "generate", "tracking"), "inference_fine_rotary", "inference_sliding",
        "inference_precision", "inference_compile", "backtest_batch_size", "save_path", "tokenizer_save_folder_name",
        "predictor_save_folder_name", "tokenizer_path", "predictor_path", "pretrained_tokenizer_path",
        "freeze_tokenizer", "seed", "device", "cpu",
    )  # fmt: skip
    by_content = BY_CONTENT
    packages = ("torch", "numpy", "pandas", "exchange_calendars")

    def folder(self, config: Config) -> Path:
        return Path(config.generate.generate_path)

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        models, notes = trained_models(config, store, resolve_splits(config, store))
        tokenizer, predictor = models.tokenizer, models.predictor
        digests = {"bars": store.digest, "tokenizer": tokenizer.digest, "predictor": predictor.digest}
        return Inputs(digests, store, None, models, notes=notes)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Draw and write the output folder, which is renamed to its final name when complete."""
        config, store, run = context.config, inputs.store, context.run
        assert store is not None
        log_dataset(context, store, "context")
        log_inputs(context, **inputs.models.named())
        model = forecaster_of(config, store, inputs.models)
        bars, begun = draw(model)
        with atomic_folder(self.folder(config)) as folder:
            bars.to_parquet(folder / "bars.parquet", index=False)
            write_csv(begun, folder / "contexts.csv", index=False)
            metrics = {"instruments": float(len(begun)), "bars": float(len(bars))}
            record = write_record(folder, key, run.id, ["bars.parquet", "contexts.csv"], {"metrics": metrics})
            run.metrics(0, metrics)
            run.artifact(folder)
        context.say(
            f"generate: {len(begun)} synthetic instruments of {config.generate.generate_bars:,} bars in "
            f"{self.folder(config)}"
        )
        return Result(self.name, run.id, self.folder(config), record)


def draw(model: Forecaster) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(synthetic bars in long format, the instrument and day that each of them continues).

    Each series continues the latest bars of an instrument, in turn; it is drawn predict_window bars at a time, each
    time from the last lookback_window bars, its own included, since that is what the model was trained for. A series
    depends on the seed, its number and its context, not on how many others are drawn.
    """
    config, store = model.config, model.store
    rule, data = config.generate, config.data
    points = latest_points(store, data.lookback_window)
    chosen = points.subset(np.arange(rule.generate_instruments) % len(points))
    seen, stamps = contexts(store, chosen.row, data.lookback_window, model.columns)
    last = pd.Timestamp(int(store.sessions[store.last_session]))
    times = next_sessions(store.calendar, last, rule.generate_bars, store.freq, store.label)
    ahead = time_features(times)
    names = [f"SYN{number:05d}" for number in range(1, len(chosen) + 1)]
    future = np.repeat(ahead[None], len(names), axis=0)
    rows = context_rows(chosen.row, data.lookback_window)
    rules = {"temperature": rule.generate_T, "top_k": 0, "top_p": rule.generate_top_p, "sample_count": 1}
    with Progress("generate") as progress:
        made, _ = roll_out(
            lambda windows: model.draw(windows, rules)[:, 0],
            Windows(
                seen,
                np.asarray(stamps),
                future,
                np.zeros(len(names), np.int64),
                config.training.seed,
                rows,
                store.times[rows],
                np.repeat(times.as_unit("ns").asi8[None], len(names), axis=0),
            ),
            data.predict_window,
            lambda begin: series_keys(names, np.full(len(names), times[begin].value, np.int64)),
            progress,
            model.columns,
        )
    table = pd.DataFrame(made.reshape(-1, len(model.columns)), columns=list(model.columns))
    table.insert(0, "datetime", np.tile(times.tz_localize(None).astype("datetime64[ns]"), len(names)))
    table.insert(0, "instrument", np.repeat(names, rule.generate_bars))
    table["synthetic"] = True
    begun = pd.DataFrame({
        "instrument": names, "continues": [store.instruments[place] for place in chosen.instrument], "as_of": last,
    })  # fmt: skip
    return table, begun
