"""Forecasts of stored bars by a pair of models: sample paths and their mean for (day, instrument) pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.bars import FEATURES
from kronos.data.forecast_points import ForecastPoints, contexts, future_stamps
from kronos.data.store import BarStore
from kronos.distributed.device import choose
from kronos.forecast.models import Windows
from kronos.model import checkpoint
from kronos.utils.progress import Progress
from kronos.utils.random_keys import GOLDEN

MEMBER = 1_000_003  # added to the seed per member of an ensemble, so that draws are not repeated
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
        from kronos.forecast import repair

        data, size, keys = (
            self.config.data,
            self.config.forecast.backtest_batch_size,
            draw_keys(self.store, points),
        )
        with Progress(label) as progress:
            for start in range(0, len(points), CHUNK_BATCHES * size):
                part = slice(start, start + CHUNK_BATCHES * size)
                bars, stamps = contexts(self.store, points.row[part], data.lookback_window)
                future, _ = future_stamps(self.store, points.session[part], data.predict_window)
                windows = Windows(bars, stamps, future, keys[part], self.config.training.seed)
                yield (
                    part,
                    *repair(self.draw(windows, rules, partial(_advance, progress, start, len(points)))),
                )

    def draw(
        self, windows: Windows, rules: Mapping[str, Any], progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Raw sample paths [n, S, H, 6] that continue the windows; `rules` say how they are drawn and how many."""
        from kronos.forecast import forecast_arrays, number_format

        data, rule = self.config.data, self.config.forecast
        return forecast_arrays(
            self.tokenizer, self.predictor, windows.bars, windows.stamps, windows.future_stamps,
            horizon=windows.horizon, max_context=data.max_context, clip=data.clip, seed=windows.seed,
            batch_size=rule.backtest_batch_size, keys_N=windows.keys, fine_rotary=rule.inference_fine_rotary,
            dtype=number_format(rule.inference_precision), compiled=rule.inference_compile, progress=progress,
            **rules,
        )  # fmt: skip

    def means(
        self, points: ForecastPoints, rules: Mapping[str, Any], label: str = "forecast"
    ) -> tuple[np.ndarray, int]:
        """Mean of each point's sample paths, [N, H, 6], and the number of bars repaired."""
        means = np.empty((len(points), self.config.data.predict_window, len(FEATURES)), np.float32)
        repaired = 0
        for part, paths, count in self.chunks(points, rules, label):
            means[part] = paths.mean(axis=1)
            repaired += count
        return means, repaired

    def closes(self, points: ForecastPoints, rules: Mapping[str, Any], label: str) -> np.ndarray:
        """Closes of each point's sample paths, float64 [N, S, H]."""
        found = [paths[..., CLOSE] for _, paths, _ in self.chunks(points, rules, label)]
        return np.concatenate(found).astype(np.float64)


@dataclass(frozen=True)
class Pool(Forecaster):
    """An ensemble: the sample paths of its members, pooled; of S paths each member draws its share."""

    members: tuple[Forecaster, ...] = ()

    def draw(
        self, windows: Windows, rules: Mapping[str, Any], progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Raw sample paths of all members, [n, S, H, 6], the first member's first; each has draws of its own.

        Where fewer paths are asked for than there are members, the key of a window says whose it has.
        """
        count, whole = len(self.members), rules["sample_count"]
        if whole < count:
            return self._few(windows, {**rules, "sample_count": 1}, whole)
        found = []
        for place, member in enumerate(self.members):
            share = {**rules, "sample_count": whole // count + (place < whole % count)}
            found.append(member.draw(replace(windows, seed=windows.seed + place * MEMBER), share, progress))
        return np.concatenate(found, axis=1)

    def _few(self, windows: Windows, rules: Mapping[str, Any], whole: int) -> np.ndarray:
        count, size = len(self.members), len(windows.bars)
        paths = np.empty((size, whole, windows.horizon, len(FEATURES)), np.float32)
        for place in range(whole):
            chosen = (windows.keys + place) % count
            for number, member in enumerate(self.members):
                rows = np.flatnonzero(chosen == number)
                if len(rows):
                    seed = windows.seed + number * MEMBER
                    paths[rows, place] = member.draw(replace(windows.rows(rows), seed=seed), rules)[:, 0]
        return paths


def forecaster(config: Config, store: BarStore, tokenizer: Any, predictor: Any) -> Forecaster:
    """A pair of models, checked and moved to the configured device; training's number format has no part in it."""
    runtime = choose(config.launch.device, config.launch.cpu)
    checkpoint.check_pair(tokenizer, predictor)
    return Forecaster(config, store, tokenizer.to(runtime.device).eval(), predictor.to(runtime.device).eval())


def pool(members: Sequence[Forecaster]) -> Forecaster:
    """The only member, or an ensemble of several."""
    first = members[0]
    if len(members) == 1:
        return first
    return Pool(first.config, first.store, first.tokenizer, first.predictor, tuple(members))


def trading_rules(config: Config) -> dict[str, Any]:
    """How the sample paths that are traded are drawn."""
    rule = config.forecast
    return {
        "temperature": rule.inference_T, "top_k": rule.inference_top_k, "top_p": rule.inference_top_p,
        "sample_count": rule.inference_sample_count,
    }  # fmt: skip


def plain_rules(samples: int) -> dict[str, Any]:
    """The model's own distribution: temperature 1, nothing cut off."""
    return {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "sample_count": samples}


def repaired_text(config: Config, series: int, repaired: int) -> str:
    """The line that says what was forecast and how many bars had to be made possible."""
    paths = config.forecast.inference_sample_count
    bars = series * config.data.predict_window * paths
    return f"forecast: {series:,} series x {paths} paths; {repaired:,} of {bars:,} bars repaired"


def _advance(progress: Progress, before: int, whole: int, done: int, total: int) -> None:
    progress(before + done, whole)


def draw_keys(store: BarStore, points: ForecastPoints) -> np.ndarray:
    """One random key per (day, instrument): its draws are the same whichever others are forecast in the same run."""
    from kronos.forecast import series_keys

    names = np.array(store.instruments)[points.instrument]
    return series_keys(names.tolist(), store.sessions[points.session])


def random_order(store: BarStore, points: ForecastPoints) -> np.ndarray:
    """Places of the points in a random order that depends on their days and instruments only."""
    return np.argsort(draw_keys(store, points).astype(np.uint64) * GOLDEN, kind="stable")


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
