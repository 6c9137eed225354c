"""The predict stage: forecast the next bars of every instrument, with quantiles and figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config, fields_of
from kronos.data.bars import FEATURES
from kronos.data.forecast_points import ForecastPoints, latest_points
from kronos.data.store import BarStore
from kronos.forecast.store_forecaster import (
    Forecaster,
    forecast_frame,
    forecaster,
    repaired_text,
    trading_rules,
)
from kronos.report.figures import forecast_figure, save_png
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import write_record
from kronos.stages.inputs import BY_CONTENT, log_dataset, resolve_splits, stored_bars
from kronos.stages.model_logging import log_inputs
from kronos.stages.weights import trained_pair
from kronos.utils.csv_files import write_csv
from kronos.utils.errors import UserError
from kronos.utils.files import atomic_folder
from kronos.utils.names import file_name

DRAWN = 4  # number of figures if predict_figures is not set
HISTORY = 2  # length of the history in a figure, in units of lookback_window
NOT_READ = (
    "backtest_result_path",
    "backtest_save_folder_name",
    "evaluation_sample_count",
    "evaluation_series",
)


class PredictStage(Stage):
    """Write forecast.parquet, forecast.csv and figures of the forecast from the latest bars."""

    name = "predict"
    help = "forecast the next bars of every instrument from its latest ones"
    params = (
        *(name for name in fields_of("data", "output", "forecast", "tracking") if name not in NOT_READ),
        "pretrained_tokenizer_path", "freeze_tokenizer", "seed", "device", "cpu",
    )  # fmt: skip
    by_content = BY_CONTENT
    packages = ("torch", "numpy", "pandas", "exchange_calendars")

    def folder(self, config: Config) -> Path:
        return config.predict_folder

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        tokenizer, predictor, notes = trained_pair(config, store, splits)
        digests = {"bars": store.digest, "tokenizer": tokenizer.digest, "predictor": predictor.digest}
        return Inputs(digests, store, splits, tokenizer, predictor, notes=notes)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Forecast and write the output folder, which is renamed to its final name when complete."""
        config, store, run = context.config, inputs.store, context.run
        assert store is not None
        log_dataset(context, store, "inference")
        run.tags({f"{name}_digest": inputs.digests[name] for name in ("tokenizer", "predictor")})
        log_inputs(context, tokenizer=inputs.tokenizer, predictor=inputs.predictor)
        points = latest_points(store, config.data.lookback_window)
        drawn = chosen(config, store, points)
        model = forecaster(config, store, inputs.tokenizer.model, inputs.predictor.model)
        frame = forecast(context, model, points)
        with atomic_folder(config.predict_folder) as folder:
            frame.to_parquet(folder / "forecast.parquet", index=False)
            write_csv(frame, folder / "forecast.csv", index=False, float_format="%.6g")
            write_csv(points.excluded[["instrument", "reason"]], folder / "not_forecast.csv", index=False)
            (folder / "figures").mkdir()
            for name in drawn:
                draw(config, store, frame, name, folder / "figures" / f"{file_name(name)}.png")
            outputs = [
                path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()
            ]
            metrics = {"instruments": len(points), "instruments_not_forecast": len(points.excluded)}
            record = write_record(folder, key, run.id, outputs, {"metrics": metrics})
            run.metrics(0, metrics)
            run.artifact(folder)
        context.say(
            f"predict: {len(points)} instruments as of {frame['as_of'].iloc[0]}, until {frame['datetime'].max()}; "
            f"{len(points.excluded)} without {config.data.lookback_window} consecutive bars up to that time; "
            f"in {config.predict_folder}"
        )
        return Result(self.name, run.id, config.predict_folder, record)


def forecast(context: Context, model: Forecaster, points: ForecastPoints) -> pd.DataFrame:
    """Forecast `points`; returns a long frame with mean, standard deviation and quantiles of each feature."""
    config, store = context.config, model.store
    shape = (len(points), config.data.predict_window, len(FEATURES))
    means, deviations = np.empty(shape, np.float32), np.empty(shape, np.float32)
    levels = np.empty((len(config.forecast.predict_quantiles), *shape), np.float32)
    repaired = 0
    for part, paths, count in model.chunks(points, trading_rules(config), "forecast"):
        repaired += count
        means[part], deviations[part] = paths.mean(axis=1), paths.std(axis=1)
        levels[:, part] = np.quantile(paths, config.forecast.predict_quantiles, axis=1)
    context.say(repaired_text(config, len(points), repaired))
    frame = forecast_frame(store, points, means)
    for place, feature in enumerate(FEATURES):
        frame[f"{feature}_std"] = forecast_frame(store, points, deviations)[feature]
        for number, level in enumerate(config.forecast.predict_quantiles):
            frame[f"{feature}_q{level:g}"] = levels[number, :, :, place].reshape(-1)
    return frame


def chosen(config: Config, store: BarStore, points: ForecastPoints) -> list[str]:
    """The instruments to draw. Raises UserError, with the reason, for one that cannot be forecast."""
    names = [store.instruments[place] for place in points.instrument]
    if config.forecast.predict_figures is None:
        return names[:DRAWN]
    why = dict(zip(points.excluded["instrument"], points.excluded["reason"], strict=True))
    missing = [
        f"{name} ({why.get(name, 'not in the store')})"
        for name in config.forecast.predict_figures
        if name not in names
    ]
    if missing:
        raise UserError(f"predict_figures: not forecast: {', '.join(missing)}")
    return list(config.forecast.predict_figures)


def draw(config: Config, store: BarStore, frame: pd.DataFrame, name: str, path: Path) -> None:
    """Draw the close of one instrument: history, mean forecast and quantile bands."""
    rows = store.symbol_rows(store.instruments.index(name))
    history = pd.Series(
        store.values[rows, FEATURES.index("close")], index=store.times[rows].astype("datetime64[ns]")
    ).iloc[-HISTORY * config.data.lookback_window :]
    own = frame[frame["instrument"] == name].set_index("datetime")
    bands = {level: own[f"close_q{level:g}"] for level in sorted(config.forecast.predict_quantiles)}
    save_png(
        forecast_figure(name, history, own["close"], bands, config.forecast.inference_sample_count), path
    )
