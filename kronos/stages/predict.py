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
from kronos.evaluation import risk
from kronos.evaluation.calibration import CLOSE, PRICES, Calibration, moves, recent_volatility
from kronos.evaluation.coverage import SHOWN
from kronos.forecast.store_forecaster import (
    Forecaster,
    forecast_frame,
    forecaster,
    repaired_text,
    trading_rules,
)
from kronos.report.figures import forecast_figure, save_png
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import RECORD, read_record, write_record
from kronos.stages.calibration import NOT_ASKED, Found, context_closes, draw_moves, find, last_closes
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
    "calibration_series",
    "calibration_sample_count",
)
PATHS_PER_TAIL = 5  # sample paths beyond a raw quantile, below which it is mostly chance


class PredictStage(Stage):
    """Write forecast.parquet, forecast.csv and figures of the forecast from the latest bars."""

    name = "predict"
    help = "forecast the next bars of every instrument from its latest ones"
    params = (
        *(name for name in fields_of("data", "output", "forecast", "tracking") if name not in NOT_READ),
        "pretrained_tokenizer_path", "freeze_tokenizer", "seed", "device", "cpu", "nproc_per_node",
    )  # fmt: skip
    by_content = BY_CONTENT
    packages = ("torch", "numpy", "pandas", "exchange_calendars")

    def folder(self, config: Config) -> Path:
        return config.predict_folder

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        tokenizer, predictor, notes = trained_pair(config, store, splits)
        raw = config.forecast.bands == "raw"
        calibration = NOT_ASKED if raw else find(config, tokenizer.digest, predictor.digest)
        digests = {
            "bars": store.digest, "tokenizer": tokenizer.digest, "predictor": predictor.digest,
            "calibration": calibration.digest,
        }  # fmt: skip
        notes = (
            *notes,
            *([calibration.note] if calibration.note else []),
            *too_few_paths(config, calibration),
        )
        return Inputs(digests, store, splits, tokenizer, predictor, calibration=calibration, notes=notes)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Forecast and write the output folder, which is renamed to its final name when complete."""
        config, store, run = context.config, inputs.store, context.run
        assert store is not None
        log_dataset(context, store, "inference")
        run.tags({f"{name}_digest": inputs.digests[name] for name in ("tokenizer", "predictor")})
        log_inputs(context, inputs.calibration.path, tokenizer=inputs.tokenizer, predictor=inputs.predictor)
        points = latest_points(store, config.data.lookback_window)
        drawn = chosen(config, store, points)
        model = forecaster(config, store, inputs.tokenizer.model, inputs.predictor.model, context.shards)
        frame, risks = forecast(context, model, points, inputs.calibration.calibration)
        with atomic_folder(config.predict_folder) as folder:
            frame.to_parquet(folder / "forecast.parquet", index=False)
            write_csv(frame, folder / "forecast.csv", index=False, float_format="%.6g")
            write_tables(folder, risks)
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
        if inputs.calibration.calibration is not None and (held := held_before(config, inputs)):
            context.say(f"predict: {held}")
        context.say(
            f"predict: {len(points)} instruments as of {frame['as_of'].iloc[0]}, until {frame['datetime'].max()}; "
            f"{len(points.excluded)} without {config.data.lookback_window} consecutive bars up to that time; "
            f"in {config.predict_folder}"
        )
        return Result(self.name, run.id, config.predict_folder, record)


def too_few_paths(config: Config, calibration: Found) -> tuple[str, ...]:
    """The line that says which quantiles have too few sample paths; calibrated ones come from all errors."""
    paths = config.forecast.inference_sample_count
    tails = [min(level, 1 - level) for level in config.forecast.predict_quantiles if 0 < level < 1]
    if calibration.calibration is not None or not tails:
        return ()
    least = round(PATHS_PER_TAIL / min(tails))
    if paths >= least:
        return ()
    return (
        f"a {min(tails):.3g} quantile of {paths} sample paths is mostly chance: {least} paths are needed "
        f"(--inference-sample-count {least}), or calibrated bands",
    )


def forecast(
    context: Context, model: Forecaster, points: ForecastPoints, calibration: Calibration | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Forecast `points`: (mean, standard deviation and quantiles of each feature, figures of the close by step).

    With a calibration, the quantiles of the four prices and the figures are those of the calibrated distribution;
    means, deviations and the quantiles of volume and amount are always those of the sample paths.
    """
    config, store = context.config, model.store
    shape = (len(points), config.data.predict_window, len(FEATURES))
    means, deviations = np.empty(shape, np.float32), np.empty(shape, np.float32)
    levels = np.empty((len(config.forecast.predict_quantiles), *shape), np.float32)
    last, found, fall = last_closes(store, points), [], []
    repaired = 0
    for part, paths, count in model.chunks(points, trading_rules(config), "forecast"):
        repaired += count
        means[part], deviations[part] = paths.mean(axis=1), paths.std(axis=1)
        levels[:, part] = np.quantile(paths, config.forecast.predict_quantiles, axis=1)
        if calibration is None:
            closes = moves(paths[..., CLOSE], last[part][:, None, None])
            found.append(risk.of_samples(closes))
            fall.append(risk.drawdown_probability(closes, config.forecast.predict_drawdown))
    context.say(repaired_text(config, len(points), repaired))
    if calibration is not None:
        drawn = draw_moves(model, points, calibration.temperatures, calibration.samples, "calibrated bands")
        recent = recent_volatility(context_closes(model, points), calibration.decay)
        wanted = config.forecast.predict_quantiles
        levels[..., : len(PRICES)] = calibration.price_quantiles(drawn, recent, last, wanted)
        found.append(risk.of_calibration(calibration, drawn, recent))
        paths_NSH = calibration.paths(drawn, recent)[..., CLOSE]
        fall.append(risk.drawdown_probability(paths_NSH, config.forecast.predict_drawdown))
    frame = forecast_frame(store, points, means)
    for place, feature in enumerate(FEATURES):
        frame[f"{feature}_std"] = forecast_frame(store, points, deviations)[feature]
        for number, level in enumerate(config.forecast.predict_quantiles):
            frame[f"{feature}_q{level:g}"] = levels[number, :, :, place].reshape(-1)
    table = frame[["instrument", "as_of", "datetime", "step"]].copy()
    for name in found[0]:
        table[name] = np.concatenate([one[name] for one in found]).reshape(-1)
    table["drawdown_probability"] = np.repeat(np.concatenate(fall), config.data.predict_window)
    return frame, table


def write_tables(folder: Path, risks: pd.DataFrame) -> None:
    """Write risk.parquet and risk.csv, and ranking.csv: the last step, the highest expected return first."""
    risks.to_parquet(folder / "risk.parquet", index=False)
    write_csv(risks, folder / "risk.csv", index=False, float_format="%.6g")
    ranked = risks[risks["step"] == risks["step"].max()].sort_values("expected_return", ascending=False)
    ranked.insert(0, "rank", np.arange(1, len(ranked) + 1))
    write_csv(ranked, folder / "ranking.csv", index=False, float_format="%.6g")


def held_before(config: Config, inputs: Inputs) -> str:
    """What the calibrated band held in the latest backtest of the same weights and calibration; empty if none."""
    folder = config.backtest_folder
    if not (folder / RECORD).is_file():
        return ""
    record = read_record(folder)
    tested, metrics = record["made_from"]["inputs"], record["metrics"]
    same = all(tested.get(name) == inputs.digests[name] for name in ("tokenizer", "predictor", "calibration"))
    name = f"coverage_{100 * SHOWN:.0f}_calibrated"
    if not same or name not in metrics:
        return ""
    ends = [f"{100 * metrics[f'{name}_{end}']:.0f}" for end in ("low", "high") if f"{name}_{end}" in metrics]
    interval = f" ({' to '.join(ends)})" if len(ends) == 2 else ""
    return (
        f"on the {metrics['test_days']:.0f} days of the backtest the {100 * SHOWN:.0f} % band of this model held "
        f"{100 * metrics[name]:.1f} %{interval}"
    )


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
