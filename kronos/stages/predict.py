"""The predict stage: the latest bars of every instrument forecast into the future, with quantiles and figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config, fields_of
from kronos.data.bars import FEATURES
from kronos.data.forecast_points import ForecastPoints, latest_points
from kronos.data.store import BarStore
from kronos.forecast.store_forecaster import forecast_frame, forecast_paths
from kronos.model import checkpoint
from kronos.report.figures import forecast_figure, save_png
from kronos.stages.base import Work, origin, write_record
from kronos.stages.data import log_dataset, stored_bars
from kronos.stages.model_logging import log_inputs
from kronos.stages.train import trained_predictor, trained_tokenizer
from kronos.utils.errors import UserError
from kronos.utils.files import atomic_folder

FIELDS = (
    *(name for name in fields_of("forecast") if name != "backtest_batch_size" and not name.startswith("evaluation_")),
    "lookback_window", "predict_window", "max_context", "clip", "seed", "device", "cpu",
)  # fmt: skip
DRAWN = 4  # figures, where none are asked for
HISTORY = 2  # contexts that a figure shows before the forecast


def made_from(config: Config) -> dict[str, Any]:
    store = stored_bars(config)
    inputs = {
        "bars": store.digest,
        "tokenizer": checkpoint.digest(trained_tokenizer(config, store)),
        "predictor": checkpoint.digest(trained_predictor(config, store)),
    }
    return origin("predict", config, FIELDS, inputs)


def run(work: Work, made: dict[str, Any]) -> dict[str, Any]:
    """Write forecast.parquet, forecast.csv and figures, whole or not at all."""
    config = work.config
    store = stored_bars(config)
    log_dataset(work, store, "inference")
    work.run.tags({f"{name}_digest": made["inputs"][name] for name in ("tokenizer", "predictor")})
    log_inputs(work, tokenizer=trained_tokenizer(config, store), predictor=trained_predictor(config, store))
    points = latest_points(store, config.lookback_window)
    drawn = chosen(config, store, points)
    frame = forecast(work, store, points)
    with atomic_folder(config.predict_folder) as folder:
        frame.to_parquet(folder / "forecast.parquet", index=False)
        frame.to_csv(folder / "forecast.csv", index=False, float_format="%.6g")
        points.excluded[["instrument", "reason"]].to_csv(folder / "not_forecast.csv", index=False)
        (folder / "figures").mkdir()
        for name in drawn:
            draw(config, store, frame, name, folder / "figures" / f"{name}.png")
        outputs = [
            path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()
        ]
        metrics = {"instruments": len(points), "instruments_not_forecast": len(points.excluded)}
        record = write_record(folder, made, work.run.id, outputs, {"metrics": metrics})
        work.run.metrics(0, metrics)
        work.run.artifact(folder)
    work.say(
        f"predict: {len(points)} instruments as of {frame['as_of'].iloc[0]}, until {frame['datetime'].max()}; "
        f"{len(points.excluded)} have no {config.lookback_window} bars in a row that end there; "
        f"in {config.predict_folder}"
    )
    return record


def forecast(work: Work, store: BarStore, points: ForecastPoints) -> pd.DataFrame:
    """Long frame: the mean of the sample paths, and of each feature its deviation and quantiles."""
    config = work.config
    shape = (len(points), config.predict_window, len(FEATURES))
    means, deviations = np.empty(shape, np.float32), np.empty(shape, np.float32)
    levels = np.empty((len(config.predict_quantiles), *shape), np.float32)
    for part, paths, _ in forecast_paths(work, store, points):
        means[part], deviations[part] = paths.mean(axis=1), paths.std(axis=1)
        levels[:, part] = np.quantile(paths, config.predict_quantiles, axis=1)
    frame = forecast_frame(store, points, means)
    for place, feature in enumerate(FEATURES):
        frame[f"{feature}_std"] = forecast_frame(store, points, deviations)[feature]
        for number, level in enumerate(config.predict_quantiles):
            frame[f"{feature}_q{level:g}"] = levels[number, :, :, place].reshape(-1)
    return frame


def chosen(config: Config, store: BarStore, points: ForecastPoints) -> list[str]:
    """The instruments to draw; one that is not forecast is refused with the reason."""
    names = [store.instruments[place] for place in points.instrument]
    if config.predict_figures is None:
        return names[:DRAWN]
    why = dict(zip(points.excluded["instrument"], points.excluded["reason"], strict=True))
    missing = [
        f"{name} ({why.get(name, 'not in the store')})"
        for name in config.predict_figures
        if name not in names
    ]
    if missing:
        raise UserError(f"predict_figures: not forecast: {', '.join(missing)}")
    return list(config.predict_figures)


def draw(config: Config, store: BarStore, frame: pd.DataFrame, name: str, path: Path) -> None:
    """History, mean and bands of the close of one instrument."""
    rows = store.symbol_rows(store.instruments.index(name))
    history = pd.Series(
        store.values[rows, FEATURES.index("close")], index=store.times[rows].astype("datetime64[ns]")
    ).iloc[-HISTORY * config.lookback_window :]
    own = frame[frame["instrument"] == name].set_index("datetime")
    bands = {level: own[f"close_q{level:g}"] for level in sorted(config.predict_quantiles)}
    save_png(forecast_figure(name, history, own["close"], bands, config.inference_sample_count), path)
