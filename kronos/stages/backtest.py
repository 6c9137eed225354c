"""The backtest stage: forecast every test day and instrument, score the forecasts, trade them in Qlib, report."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config import Config, fields_of
from kronos.console import Progress
from kronos.data.bars import FEATURES, Flag
from kronos.data.points import ForecastPoints, contexts, forecast_points, future_stamps
from kronos.data.store import BarStore
from kronos.files import atomic_folder, digest_bytes
from kronos.model import checkpoint
from kronos.stages.core import Work, origin, write_record
from kronos.stages.data import log_dataset, raise_no_forecast, stored_bars
from kronos.stages.training import trained_predictor, trained_tokenizer

FIELDS = (
    *(name for name in fields_of("forecast") if name not in ("backtest_batch_size", "evaluation_sample_count")),
    *fields_of("backtest"),
    "backtest_time_range", "lookback_window", "predict_window", "max_context", "clip", "seed", "device", "cpu",
)  # fmt: skip
CHUNK_BATCHES = 8  # batches whose contexts are in memory together


def made_from(config: Config) -> dict[str, Any]:
    store = stored_bars(config)
    inputs = {
        "bars": store.digest,
        "tokenizer": checkpoint.digest(trained_tokenizer(config, store)),
        "predictor": checkpoint.digest(trained_predictor(config, store)),
    }
    return origin("backtest", config, FIELDS, inputs)


def run(work: Work, made: dict[str, Any]) -> dict[str, Any]:
    """Write predictions.parquet, predictions.pkl, report.md, figures and ledgers, whole or not at all."""
    config = work.config
    store = stored_bars(config)
    log_dataset(work, store, "testing")
    work.run.tags({f"{name}_digest": made["inputs"][name] for name in ("tokenizer", "predictor")})
    points = forecast_points(store, *config.backtest_time_range, config.lookback_window)
    if not len(points):
        raise_no_forecast(config)
    forecast, repaired = forecast_points_in_chunks(work, store, points)
    with atomic_folder(config.backtest_folder) as folder:
        forecast.to_parquet(folder / "predictions.parquet", index=False)
        metrics = evaluate(work, store, points, forecast, repaired, made, folder)
        record = write_record(folder, made, work.run.id, _outputs(folder), {"metrics": metrics})
        work.run.metrics(0, metrics)
        work.run.artifact(folder)
    work.say(f"backtest: report in {config.backtest_folder / 'report.md'}")
    return record


def forecast_points_in_chunks(
    work: Work, store: BarStore, points: ForecastPoints
) -> tuple[pd.DataFrame, int]:
    """Forecast each (day, instrument): the mean of the sample paths as a long frame, and the bars repaired."""
    from kronos.forecast import forecast_arrays, repair
    from kronos.runtime import choose

    config = work.config
    runtime = choose(config.device, config.cpu, config.precision)
    tokenizer = trained_tokenizer(config, store).to(runtime.device)
    predictor = trained_predictor(config, store).to(runtime.device)
    checkpoint.check_pair(tokenizer, predictor)
    keys = series_keys(store, points)
    horizon, size = config.predict_window, config.backtest_batch_size
    means = np.empty((len(points), horizon, len(FEATURES)), np.float32)
    repaired = 0
    with Progress("forecast") as progress:
        for start in range(0, len(points), CHUNK_BATCHES * size):
            part = slice(start, start + CHUNK_BATCHES * size)
            bars, stamps = contexts(store, points.row[part], config.lookback_window)
            future, _ = future_stamps(store, points.session[part], horizon)
            paths = forecast_arrays(
                tokenizer, predictor, bars, stamps, future, horizon=horizon, max_context=config.max_context,
                temperature=config.inference_T, top_k=config.inference_top_k, top_p=config.inference_top_p,
                sample_count=config.inference_sample_count, clip=config.clip, seed=config.seed, batch_size=size,
                keys_N=keys[part],
                progress=lambda done, total, first=start: progress(first + done, len(points)),
            )  # fmt: skip
            paths, count = repair(paths)
            means[part] = paths.mean(axis=1)
            repaired += count
    samples = len(points) * horizon * config.inference_sample_count
    work.say(f"forecast: {len(points):,} series x {config.inference_sample_count} paths; "
             f"{repaired:,} of {samples:,} bars repaired")  # fmt: skip
    return forecast_frame(store, points, means), repaired


def series_keys(store: BarStore, points: ForecastPoints) -> np.ndarray:
    """One number a (day, instrument) for its draws: the same whichever others are forecast beside it."""
    names = np.array([int(digest_bytes(name.encode())[:8], 16) for name in store.instruments], np.int64)
    days = store.sessions[points.session] // (60 * 10**9)  # minutes since 1970, below 2**31 until 6053
    return (names[points.instrument] << 31) ^ days


def forecast_frame(store: BarStore, points: ForecastPoints, means_NHF: np.ndarray) -> pd.DataFrame:
    """Long frame of forecasts [N, H, 6]: instrument, as_of, datetime, step and the six features, sorted."""
    count, horizon, _ = means_NHF.shape
    _, times_NH = future_stamps(store, points.session, horizon)
    names = np.array(store.instruments, dtype=object)[points.instrument]
    frame = pd.DataFrame(
        {
            "instrument": np.repeat(names, horizon),
            "as_of": np.repeat(store.sessions[points.session], horizon).astype("datetime64[ns]"),
            "datetime": times_NH.reshape(-1).astype("datetime64[ns]"),
            "step": np.tile(np.arange(1, horizon + 1, dtype=np.int32), count),
            **{name: means_NHF[:, :, place].reshape(-1) for place, name in enumerate(FEATURES)},
        }
    )
    return frame.sort_values(["as_of", "instrument", "step"], ignore_index=True)


def wide_closes(store: BarStore, first_session: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Closes of real bars (NaN elsewhere) and membership, days x instruments, from a session to the last one."""
    shape = (store.last_session + 1, len(store.instruments))
    real = (store.flags & int(Flag.FILLED)) == 0
    member = real & ((store.flags & int(Flag.NONMEMBER)) == 0)
    cell = (np.asarray(store.session), store.instrument_of_row)
    close = np.full(shape, np.nan)
    close[cell[0][real], cell[1][real]] = store.values[real, FEATURES.index("close")]
    inside = np.zeros(shape, bool)
    inside[cell[0][member], cell[1][member]] = True
    days = pd.DatetimeIndex(
        store.sessions[: store.last_session + 1].astype("datetime64[ns]"), name="datetime"
    )
    columns = pd.Index(store.instruments, name="instrument")
    frames = (pd.DataFrame(values, index=days, columns=columns) for values in (close, inside))
    closes, members = (frame.iloc[first_session:] for frame in frames)
    return closes, members


def _outputs(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
