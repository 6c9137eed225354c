"""Forecasts of stored bars: contexts in, sample paths and their mean out, by the model trained here or by another."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.bars import FEATURES
from kronos.data.forecast_points import ForecastPoints, contexts, future_stamps
from kronos.data.store import BarStore
from kronos.model import checkpoint
from kronos.stages.base import Work
from kronos.stages.train import trained_predictor, trained_tokenizer
from kronos.utils.progress import Progress

CHUNK_BATCHES = 8  # batches whose contexts are in memory together
CLOSE = FEATURES.index("close")


@dataclass(frozen=True)
class Forecaster:
    """A pair of models on its device, ready to forecast stored bars."""

    config: Config
    store: BarStore
    tokenizer: Any
    predictor: Any

    def chunks(
        self, points: ForecastPoints, rules: Mapping[str, Any], label: str
    ) -> Iterator[tuple[slice, np.ndarray, int]]:
        """Sample paths [n, S, H, 6] of some points at a time, made possible, and how many bars that took."""
        from kronos.forecast import forecast_arrays, number_format, repair

        config, keys = self.config, draw_keys(self.store, points)
        horizon, size = config.predict_window, config.backtest_batch_size
        with Progress(label) as progress:
            for start in range(0, len(points), CHUNK_BATCHES * size):
                part = slice(start, start + CHUNK_BATCHES * size)
                bars, stamps = contexts(self.store, points.row[part], config.lookback_window)
                future, _ = future_stamps(self.store, points.session[part], horizon)
                paths = forecast_arrays(
                    self.tokenizer, self.predictor, bars, stamps, future, horizon=horizon,
                    max_context=config.max_context, clip=config.clip, seed=config.seed, batch_size=size,
                    keys_N=keys[part], fine_rotary=config.inference_fine_rotary,
                    dtype=number_format(config.inference_precision), compiled=config.inference_compile,
                    progress=partial(_advance, progress, start, len(points)), **rules,
                )  # fmt: skip
                yield part, *repair(paths)

    def means(
        self, points: ForecastPoints, rules: Mapping[str, Any], label: str = "forecast"
    ) -> tuple[np.ndarray, int]:
        """Mean of each point's sample paths, [N, H, 6], and the number of bars repaired."""
        means = np.empty((len(points), self.config.predict_window, len(FEATURES)), np.float32)
        repaired = 0
        for part, paths, count in self.chunks(points, rules, label):
            means[part] = paths.mean(axis=1)
            repaired += count
        return means, repaired

    def closes(self, points: ForecastPoints, rules: Mapping[str, Any], label: str) -> np.ndarray:
        """Closes of each point's sample paths, float64 [N, S, H]."""
        found = [paths[..., CLOSE] for _, paths, _ in self.chunks(points, rules, label)]
        return np.concatenate(found).astype(np.float64)


def forecaster(config: Config, store: BarStore, tokenizer: Any = None, predictor: Any = None) -> Forecaster:
    """The pair that the configuration names, or a given one, checked and put on the device."""
    from kronos.distributed.device import choose

    runtime = choose(config.device, config.cpu, config.precision)
    tokenizer = (tokenizer or trained_tokenizer(config, store)).to(runtime.device).eval()
    predictor = (predictor or trained_predictor(config, store)).to(runtime.device).eval()
    checkpoint.check_pair(tokenizer, predictor)
    return Forecaster(config, store, tokenizer, predictor)


def starting_pair(config: Config) -> tuple[Any, Any]:
    """The models that training starts from: pretrained weights, or the random ones of the same seed."""
    from kronos.distributed.device import seed_everything
    from kronos.model import Kronos, KronosTokenizer, load_predictor, load_tokenizer
    from kronos.model.presets import PREDICTOR_PRESETS, TOKENIZER_PRESETS, tokenizer_preset_for

    preset = config.model_preset
    seed_everything(config.seed)
    if config.pretrained_tokenizer_path is not None:
        tokenizer = load_tokenizer(config.pretrained_tokenizer_path)
    else:
        tokenizer = KronosTokenizer(**TOKENIZER_PRESETS[tokenizer_preset_for(preset)])
    seed_everything(config.seed)
    if config.pretrained_predictor_path is not None:
        predictor = load_predictor(config.pretrained_predictor_path)
    else:
        predictor = Kronos(**PREDICTOR_PRESETS[preset])
    return tokenizer, predictor


def trading_rules(config: Config) -> dict[str, Any]:
    """How sample paths are drawn for the scores."""
    return {
        "temperature": config.inference_T, "top_k": config.inference_top_k, "top_p": config.inference_top_p,
        "sample_count": config.inference_sample_count,
    }  # fmt: skip


def forecast_all(work: Work, model: Forecaster, points: ForecastPoints) -> tuple[pd.DataFrame, int]:
    """Forecast each (day, instrument): the mean of its sample paths, and the number of bars repaired."""
    config = work.config
    means, repaired = model.means(points, trading_rules(config))
    _say_repaired(work, len(points), repaired)
    return forecast_frame(model.store, points, means), repaired


def forecast_paths(
    work: Work, store: BarStore, points: ForecastPoints
) -> Iterator[tuple[slice, np.ndarray, int]]:
    """Yield (places in `points`, sample paths [n, S, H, 6] made possible, bars repaired), chunk by chunk."""
    config = work.config
    repaired = 0
    for part, paths, count in forecaster(config, store).chunks(points, trading_rules(config), "forecast"):
        repaired += count
        yield part, paths, count
    _say_repaired(work, len(points), repaired)


def _say_repaired(work: Work, series: int, repaired: int) -> None:
    config = work.config
    bars = series * config.predict_window * config.inference_sample_count
    work.say(
        f"forecast: {series:,} series x {config.inference_sample_count} paths; "
        f"{repaired:,} of {bars:,} bars repaired"
    )


def _advance(progress: Progress, before: int, whole: int, done: int, total: int) -> None:
    progress(before + done, whole)


def draw_keys(store: BarStore, points: ForecastPoints) -> np.ndarray:
    """One number a (day, instrument) for its draws: the same whichever others are forecast beside it."""
    from kronos.forecast import series_keys

    names = np.array(store.instruments)[points.instrument]
    return series_keys(names.tolist(), store.sessions[points.session])


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
