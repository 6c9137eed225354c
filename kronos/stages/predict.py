"""The predict stage: forecast the next bars of every instrument, with quantiles and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config, fields_of
from kronos.data.bars import CLOSE, PRICES
from kronos.data.forecast_points import ForecastPoints, future_stamps, latest_points
from kronos.data.store import BarStore
from kronos.evaluation import risk
from kronos.evaluation.calibration import Calibration, moves, recent_volatility
from kronos.evaluation.coverage import SHOWN
from kronos.forecast.store_forecaster import (
    Forecaster,
    forecast_frame,
    repaired_text,
    trading_rules,
)
from kronos.report.candle_figures import forecast_figure
from kronos.report.figures import save_png
from kronos.report.forecast_chart import ASKED, LATEST, MOST_SEEN, ForecastChart
from kronos.report.pages.forecasts import write_ranking
from kronos.report.saved_content import save
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import read_record, write_record
from kronos.stages.calibration import NOT_ASKED, Found, context_closes, draw_moves, find, last_closes
from kronos.stages.ensemble import forecaster_of
from kronos.stages.forecast_charts import PATHS, asked_for, point_chart
from kronos.stages.inputs import BY_CONTENT, log_dataset, resolve_splits, stored_bars
from kronos.stages.model_logging import log_inputs
from kronos.stages.report_pages import LANGUAGE
from kronos.stages.weights import Models, trained_models
from kronos.utils.csv_files import write_csv
from kronos.utils.errors import UserError
from kronos.utils.files import RECORD, atomic_folder
from kronos.utils.names import file_name

DRAWN = 4  # number of figures if predict_figures is not set
NOT_READ = (
    "backtest_result_path",
    "backtest_save_folder_name",
    "evaluation_sample_count",
    "evaluation_series",
    "calibration_series",
    "calibration_sample_count",
)
LEAVES_THE_DAY = (
    "bands are raw: they are calibrated within a day (windows_across_days=false), and this forecast leaves it"
)
MOST_BARS = 30_000  # seen, in all charts of the page: it is to stay small with many instruments
FEWEST_SHOWN = 40
PATHS_PER_TAIL = 5  # sample paths beyond a raw quantile, below which it is mostly chance


class PredictStage(Stage):
    """Write forecast.parquet, forecast.csv and figures of the forecast from the latest bars."""

    name = "predict"
    help = "forecast the next bars of every instrument from its latest ones"
    params = (
        *(name for name in fields_of("data", "output", "forecast", "tracking") if name not in NOT_READ),
        "pretrained_tokenizer_path", "freeze_tokenizer", "seed", "device", "cpu", "nproc_per_node", "report_language",
    )  # fmt: skip
    by_content = BY_CONTENT
    packages = ("torch", "numpy", "pandas", "exchange_calendars")

    def folder(self, config: Config) -> Path:
        return config.predict_folder

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        models, notes = trained_models(config, store, splits)
        calibration, more = bands_of(config, store, models)
        digests = {
            "bars": store.digest, "tokenizer": models.tokenizer.digest, "predictor": models.predictor.digest,
            "calibration": calibration.digest,
        }  # fmt: skip
        return Inputs(digests, store, splits, models, calibration=calibration, notes=(*notes, *more))

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Forecast and write the output folder, which is renamed to its final name when complete."""
        config, store, run = context.config, inputs.store, context.run
        assert store is not None
        log_dataset(context, store, "inference")
        run.tags({f"{name}_digest": inputs.digests[name] for name in ("tokenizer", "predictor")})
        log_inputs(context, inputs.calibration.path, **inputs.models.named())
        points = latest_points(store, config.data.lookback_window)
        asked, missing = asked_for(config, store, points)
        if missing:
            raise UserError(f"predict_figures: not forecast: {', '.join(missing)}")
        model = forecaster_of(config, store, inputs.models, context.shards)
        frame, risks, paths = forecast(context, model, points, inputs.calibration.calibration)
        charts = latest_charts(config, store, points, frame, paths, asked)
        with atomic_folder(config.predict_folder) as folder:
            frame.to_parquet(folder / "forecast.parquet", index=False)
            write_csv(frame, folder / "forecast.csv", index=False, float_format="%.6g")
            write_tables(folder, risks)
            write_csv(points.excluded[["instrument", "reason"]], folder / "not_forecast.csv", index=False)
            (folder / "figures").mkdir()
            shown: dict[str, Any] = {
                "charts": charts,
                "risks": risks,
                "drawdown": config.forecast.predict_drawdown,
            }
            save(folder, "predict", **shown)
            write_ranking(folder, **shown, language=config.backtest.report_language)
            for chart in [one for one in charts if one.kind == ASKED] or charts[:DRAWN]:
                save_png(forecast_figure(chart), folder / "figures" / f"{file_name(chart.instrument)}.png")
            outputs = [
                path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()
            ]
            metrics = {"instruments": len(points), "instruments_not_forecast": len(points.excluded)}
            record = write_record(
                folder, key, run.id, outputs, {"metrics": metrics, LANGUAGE: config.backtest.report_language}
            )
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


def bands_of(config: Config, store: BarStore, models: Models) -> tuple[Found, tuple[str, ...]]:
    """(the calibration that the latest forecasts take, lines to print): none where raw bands are asked for."""
    raw = config.forecast.bands == "raw"
    found = NOT_ASKED if raw else find(config, store, models.tokenizer.digest, models.predictor.digest)
    if found.calibration is not None and leaves_the_day(config, store):
        found = Found(None, LEAVES_THE_DAY, "leaves the day")
    return found, (*([found.note] if found.note else []), *too_few_paths(config, found))


def leaves_the_day(config: Config, store: BarStore) -> bool:
    """Whether windows stay within a day and the bars to come do not."""
    if store.across_days:
        return False
    last = np.array([store.last_session])
    _, times = future_stamps(store, last, config.data.predict_window)
    days = pd.DatetimeIndex(np.append(times[0], store.sessions[store.last_session])).normalize()
    return days.nunique() > 1


def too_few_paths(config: Config, calibration: Found) -> tuple[str, ...]:
    """The lines that say which figures have too few sample paths, or too few errors of a calibration."""
    paths = config.forecast.inference_sample_count
    tails = [min(level, 1 - level) for level in config.forecast.predict_quantiles if 0 < level < 1]
    if calibration.calibration is not None:
        errors = calibration.calibration.errors.shape[-1]
        if not tails or min(tails) * (errors + 1) >= 1 - 1e-9:
            return ()
        return (
            f"a {min(tails):.3g} quantile lies beyond the {errors} errors of the calibration: the outermost one is "
            "taken (--calibration-series asks for more)",
        )
    found = []
    for name, tail in (("quantile", min(tails, default=1.0)), ("tail (var_99, es_99)", 1 - max(risk.TAILS))):
        least = round(PATHS_PER_TAIL / tail)
        if paths < least:
            found.append(
                f"a {tail:.3g} {name} of {paths} sample paths is mostly chance: {least} paths are needed "
                f"(--inference-sample-count {least}), or calibrated bands"
            )
    return tuple(found)


def forecast(
    context: Context, model: Forecaster, points: ForecastPoints, calibration: Calibration | None
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Forecast `points`: (mean, standard deviation and quantiles of each feature, figures of the close by step,
    closes of a few sample paths).

    With a calibration, the quantiles of the four prices and the figures are those of the calibrated distribution;
    means, deviations and the quantiles of volume and amount are always those of the sample paths.
    """
    config, store = context.config, model.store
    shape = (len(points), config.data.predict_window, len(model.columns))
    means, deviations = np.empty(shape, np.float32), np.empty(shape, np.float32)
    levels = np.empty((len(config.forecast.predict_quantiles), *shape), np.float32)
    last, found, fall, kept = last_closes(store, points), [], [], []
    repaired = 0
    for part, paths, count in model.chunks(points, trading_rules(config), "forecast"):
        repaired += count
        means[part], deviations[part] = paths.mean(axis=1), paths.std(axis=1)
        levels[:, part] = np.quantile(paths, config.forecast.predict_quantiles, axis=1)
        if calibration is None:
            closes = moves(paths[..., CLOSE], last[part][:, None, None])
            found.append(risk.of_samples(closes))
            fall.append(risk.drawdown_probability(closes, config.forecast.predict_drawdown))
            kept.append(closes[:, :PATHS])
    context.say(repaired_text(config, len(points), repaired))
    if calibration is not None:
        drawn = draw_moves(model, points, calibration.temperatures, calibration.samples, "calibrated bands")
        recent = recent_volatility(context_closes(model, points), calibration.decay)
        wanted = config.forecast.predict_quantiles
        levels[..., : len(PRICES)] = calibration.price_quantiles(drawn, recent, last, wanted)
        found.append(risk.of_calibration(calibration, drawn, recent))
        paths_NSH = calibration.paths(drawn, recent)[..., CLOSE]
        fall.append(risk.drawdown_probability(paths_NSH, config.forecast.predict_drawdown))
        kept.append(paths_NSH[:, :PATHS])
    frame = forecast_frame(store, points, means, model.columns)
    for place, feature in enumerate(model.columns):
        frame[f"{feature}_std"] = forecast_frame(store, points, deviations, model.columns)[feature]
        for number, level in enumerate(config.forecast.predict_quantiles):
            frame[f"{feature}_q{level:g}"] = levels[number, :, :, place].reshape(-1)
    table = frame[["instrument", "as_of", "datetime", "step"]].copy()
    for name in found[0]:
        table[name] = np.concatenate([one[name] for one in found]).reshape(-1)
    table["drawdown_probability"] = np.repeat(np.concatenate(fall), config.data.predict_window)
    size = last[:, None, None]
    return frame, table, size + np.abs(size) * np.concatenate(kept)


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
    assert inputs.store is not None
    if not (folder / RECORD).is_file():
        return ""
    record = read_record(folder)
    tested, metrics = record["made_from"]["inputs"], record["metrics"]
    same = all(tested.get(name) == inputs.digests[name] for name in ("tokenizer", "predictor", "calibration"))
    name = f"coverage_{100 * SHOWN:.0f}_calibrated"
    if not same or name not in metrics:
        return ""
    ends = [metrics.get(f"{name}_{end}") for end in ("low", "high")]
    known = all(end is not None and np.isfinite(end) for end in ends)
    interval = f" ({100 * ends[0]:.0f} to {100 * ends[1]:.0f})" if known else ""
    bars = "days" if inputs.store.freq == "day" else f"bars of {inputs.store.freq}"
    return (
        f"on the {metrics['test_days']:.0f} {bars} of the backtest the {100 * SHOWN:.0f} % band of this model held "
        f"{100 * metrics[name]:.1f} %{interval}, measured on {metrics['coverage_series']:.0f} forecasts"
    )


def latest_charts(
    config: Config,
    store: BarStore,
    points: ForecastPoints,
    frame: pd.DataFrame,
    paths: np.ndarray,
    asked: Sequence[str],
) -> list[ForecastChart]:
    """A chart of every instrument: those asked for first, in their order. Pairs of quantiles are the bands."""
    levels, horizon = sorted(config.forecast.predict_quantiles), config.data.predict_window
    pairs = [(low, high) for low, high in zip(levels, levels[::-1], strict=True) if low < high]
    shown = max(FEWEST_SHOWN, min(MOST_SEEN, MOST_BARS // len(points)))
    found = []
    for place in range(len(points)):
        means = frame.iloc[place * horizon : (place + 1) * horizon]
        bands = {
            round(high - low, 6): (means[f"close_q{low:g}"].to_numpy(), means[f"close_q{high:g}"].to_numpy())
            for low, high in pairs
        }
        kind = ASKED if means["instrument"].iloc[0] in asked else LATEST
        found.append(point_chart(store, points, place, means, bands, paths[place], kind, shown=shown))
    return sorted(found, key=lambda one: asked.index(one.instrument) if one.kind == ASKED else len(asked))
