"""Forecasts of stored bars: contexts in, the mean of the sample paths out, as one long frame."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from kronos.console import Progress
from kronos.data.bars import FEATURES
from kronos.data.points import ForecastPoints, contexts, future_stamps
from kronos.data.store import BarStore
from kronos.model import checkpoint
from kronos.stages.core import Work
from kronos.stages.training import trained_predictor, trained_tokenizer

CHUNK_BATCHES = 8  # batches whose contexts are in memory together


def forecast_all(work: Work, store: BarStore, points: ForecastPoints) -> tuple[pd.DataFrame, int]:
    """Forecast each (day, instrument): the mean of its sample paths, and the number of bars repaired."""
    means = np.empty((len(points), work.config.predict_window, len(FEATURES)), np.float32)
    repaired = 0
    for part, paths, count in forecast_paths(work, store, points):
        means[part] = paths.mean(axis=1)
        repaired += count
    return forecast_frame(store, points, means), repaired


def forecast_paths(
    work: Work, store: BarStore, points: ForecastPoints
) -> Iterator[tuple[slice, np.ndarray, int]]:
    """Yield (places in `points`, sample paths [n, S, H, 6] made possible, bars repaired), chunk by chunk."""
    from kronos.forecast import forecast_arrays, number_format, repair, series_keys
    from kronos.runtime import choose

    config = work.config
    runtime = choose(config.device, config.cpu, config.precision)
    tokenizer = trained_tokenizer(config, store).to(runtime.device)
    predictor = trained_predictor(config, store).to(runtime.device)
    checkpoint.check_pair(tokenizer, predictor)
    names = np.array(store.instruments)[points.instrument]
    keys = series_keys(names.tolist(), store.sessions[points.session])
    horizon, size = config.predict_window, config.backtest_batch_size
    dtype = number_format(config.inference_precision)
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
                keys_N=keys[part], fine_rotary=config.inference_fine_rotary, dtype=dtype,
                progress=partial(_advance, progress, start, len(points)),
            )  # fmt: skip
            paths, count = repair(paths)
            repaired += count
            yield part, paths, count
    bars_in_all = len(points) * horizon * config.inference_sample_count
    work.say(
        f"forecast: {len(points):,} series x {config.inference_sample_count} paths; "
        f"{repaired:,} of {bars_in_all:,} bars repaired"
    )


def _advance(progress: Progress, before: int, whole: int, done: int, total: int) -> None:
    progress(before + done, whole)


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
