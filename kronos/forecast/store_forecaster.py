"""Forecasts of stored bars by a pair of models: sample paths and their mean for (day, instrument) pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kronos.config.schema import Config
from kronos.data import conditions
from kronos.data.bars import CLOSE, PRICES
from kronos.data.forecast_points import ForecastPoints, context_rows, contexts, future_stamps
from kronos.data.store import BarStore
from kronos.data.time_features import time_table
from kronos.distributed.device import ALONE, choose
from kronos.distributed.shards_folder import Shards
from kronos.forecast.keys import keys_of_places
from kronos.forecast.models import Windows
from kronos.forecast.shards import ShardFiles, identity, parts_of, shard_size, write_job
from kronos.model import checkpoint
from kronos.utils.errors import UserError
from kronos.utils.files import digest_bytes
from kronos.utils.progress import Progress
from kronos.utils.random_keys import GOLDEN

LEAST_PATHS = 1024  # in a batch on a CPU: products of fewer rows take more time per path
# What is kept of the sample paths [n, S, H, F] of a part of the points.
KEPT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "paths": lambda paths: paths,
    "prices": lambda paths: paths[..., : len(PRICES)],
    "close": lambda paths: paths[..., CLOSE],
    "mean": lambda paths: paths.mean(axis=1),
}


@dataclass(frozen=True)
class Forecaster:
    """A pair of models on its device, ready to forecast stored bars.

    With `shards`, finished parts of the forecasts are kept as files, and all processes of the run make them, this one
    with `threads` threads. Without, this process makes them and nothing is kept.
    """

    config: Config
    store: BarStore
    tokenizer: Any
    predictor: Any
    shards: Shards | None = None
    threads: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """The features of a bar, in the order of the model."""
        found: tuple[str, ...] = self.tokenizer.columns
        return found

    def chunks(
        self, points: ForecastPoints, rules: Mapping[str, Any], label: str, kept: str = "paths", size: int = 0
    ) -> Iterator[tuple[slice, np.ndarray, int]]:
        """Sample paths [n, S, H, F] of some points at a time, made possible, and how many bars that took.

        `kept` names the part of them that is wanted, one of `KEPT`; `size` is the number of points at a time, by
        default that of `size`.
        """
        size = size or self.size(points, rules)
        if self.shards is None:
            with Progress(label, "series") as progress:
                for part in parts_of(len(points), size):
                    yield part, *self.make(points, rules, kept, part)
                    progress(part.stop, len(points))
            return
        files = self.files(points, rules, kept, size, self._folder(points, rules, kept, size))
        files.make_all(self.shards, partial(self._job, files, points, rules, kept), self.threads, label)
        for number, part in enumerate(files.parts):
            yield part, *files.read(number)

    def files(
        self, points: ForecastPoints, rules: Mapping[str, Any], kept: str, size: int, folder: Path
    ) -> ShardFiles:
        """The shards of these forecasts, of `size` points each, in a folder."""
        return ShardFiles(folder, parts_of(len(points), size), partial(self.make, points, rules, kept))

    def size(self, points: ForecastPoints, rules: Mapping[str, Any]) -> int:
        """Points per shard: whole batches on a GPU, whose speed depends on large ones."""
        batch = self.config.forecast.backtest_batch_size
        on_cpu = self._device() == "cpu"
        return shard_size(len(points), batch, -(-LEAST_PATHS // rules["sample_count"]) if on_cpu else batch)

    def _device(self) -> str:
        return str(next(self.predictor.parameters()).device.type)

    def make(
        self, points: ForecastPoints, rules: Mapping[str, Any], kept: str, part: slice
    ) -> tuple[np.ndarray, int]:
        """Draw the sample paths of one part of the points; see `chunks`."""
        from kronos.forecast import repair

        points = points.subset(np.arange(part.start, part.stop))
        horizon = self.config.data.predict_window
        windows = stored_windows(self.config, self.store, points, horizon, self.columns)
        paths, repaired = repair(self.draw(windows, rules), columns=self.columns)
        return KEPT[kept](paths), repaired

    def draw(self, windows: Windows, rules: Mapping[str, Any]) -> np.ndarray:
        """Raw sample paths [n, S, H, F] that continue the windows; `rules` say how they are drawn and how many."""
        from kronos.forecast import forecast_arrays, number_format

        data, rule = self.config.data, self.config.forecast
        return forecast_arrays(
            self.tokenizer, self.predictor, windows.bars, self.stamps_of(windows.times, windows.stamps),
            self.stamps_of(windows.future_times, windows.future_stamps),
            horizon=windows.horizon, max_context=data.max_context, clip=data.clip, seed=windows.seed,
            batch_size=rule.backtest_batch_size, keys_N=windows.keys, fine_rotary=rule.inference_fine_rotary,
            sliding=rule.inference_sliding,
            dtype=number_format(rule.inference_precision), compiled=rule.inference_compile, batch_invariant=True,
            conditions_NLC=self.conditions_of(windows.store_rows), **rules,
        )  # fmt: skip

    def stamps_of(self, times: np.ndarray | None, public: np.ndarray) -> np.ndarray:
        """The predictor's time features of times int64 ns [...], int64 [..., K]; `public` are the usual five."""
        described, store = self.predictor.config.get("time_features"), self.store
        if described is None:
            return public
        if times is None:
            raise UserError(
                "the predictor has time features of its own, and these bars are not those of a store"
            )
        return time_table(times, described["names"], store.calendar, store.freq, store.label)

    @cached_property
    def conditions(self) -> np.ndarray | None:
        """The predictor's conditions at every row of the store, float32 [rows, C]; None for one without any."""
        described = self.predictor.config.get("conditions")
        return None if described is None else conditions.table(self.store, described["columns"])

    def conditions_of(self, rows_NL: np.ndarray | None) -> np.ndarray | None:
        """The predictor's conditions at some rows of the store, float32 [N, L, C]; None for one without any."""
        if self.conditions is None:
            return None
        if rows_NL is None:
            raise UserError("the predictor has conditions, and these bars are not those of a store")
        return np.asarray(self.conditions[rows_NL])

    def means(
        self, points: ForecastPoints, rules: Mapping[str, Any], label: str = "forecast"
    ) -> tuple[np.ndarray, int]:
        """Mean of each point's sample paths, [N, H, F], and the number of bars repaired."""
        shape = (len(points), self.config.data.predict_window, len(self.columns))
        means = np.empty(shape, np.float32) if self.shards is None else self.shards.array(shape)
        repaired = 0
        for part, values, count in self.chunks(points, rules, label, "mean"):
            means[part] = values
            repaired += count
        return means, repaired

    def closes(self, points: ForecastPoints, rules: Mapping[str, Any], label: str) -> np.ndarray:
        """Closes of each point's sample paths, float64 [N, S, H]."""
        found = [values for _, values, _ in self.chunks(points, rules, label, "close")]
        return np.concatenate(found).astype(np.float64)

    def _folder(self, points: ForecastPoints, rules: Mapping[str, Any], kept: str, size: int) -> Path:
        """The folder of these forecasts, which has another name where anything may change a value."""
        assert self.shards is not None
        data, rule = self.config.data, self.config.forecast
        places = (points.row, points.instrument, points.session)
        name = identity(
            {
                "bars": self.store.digest, "points": digest_bytes(*(place.tobytes() for place in places)),
                "rules": sorted(rules.items()), "kept": kept, "lookback": data.lookback_window,
                "horizon": data.predict_window, "max_context": data.max_context, "clip": data.clip,
                "seed": self.config.training.seed, "fine_rotary": rule.inference_fine_rotary,
                "sliding": rule.inference_sliding, "precision": rule.inference_precision,
                "compiled": rule.inference_compile, "size": size, "code": self.shards.code(),
                "device": self._device(),
            },
            self.tokenizer, self.predictor,
        )  # fmt: skip
        return self.shards.folder / name

    def _job(
        self, files: ShardFiles, points: ForecastPoints, rules: Mapping[str, Any], kept: str
    ) -> dict[str, Any]:
        """Write what worker processes need for these forecasts; returns the description of the job."""
        description = {
            "config": self.config.model_dump(mode="json"), "bars": self.store.digest, "rules": dict(rules),
            "kept": kept, "size": files.parts[0].stop,
        }  # fmt: skip
        return write_job(files.folder, points, self.tokenizer, self.predictor, description)


def forecaster(
    config: Config, store: BarStore, tokenizer: Any, predictor: Any, shards: Shards | None = None
) -> Forecaster:
    """A pair of models, checked and moved to the configured device; training's number format has no part in it."""
    place = ALONE if shards is None else shards.workers.place
    before = torch.get_num_threads()
    runtime = choose(config.launch.device, config.launch.cpu, place=place)
    if place.world > 1:
        # This process has its share of the threads while all forecast, and all threads otherwise.
        torch.set_num_threads(before)
    checkpoint.check_pair(tokenizer, predictor)
    return Forecaster(
        config, store, tokenizer.to(runtime.device).eval(), predictor.to(runtime.device).eval(), shards,
        runtime.threads,
    )  # fmt: skip


def stored_windows(
    config: Config, store: BarStore, points: ForecastPoints, count: int, columns: Sequence[str]
) -> Windows:
    """The context of each point, with the columns of a model, and the times of the next `count` bars."""
    lookback = config.data.lookback_window
    bars, stamps = contexts(store, points.row, lookback, columns)
    future, ahead = future_stamps(store, points.session, count)
    rows = context_rows(points.row, lookback)
    keys, seed = draw_keys(store, points), config.training.seed
    return Windows(bars, stamps, future, keys, seed, rows, store.times[rows], ahead)


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


def draw_keys(store: BarStore, points: ForecastPoints) -> np.ndarray:
    """One random key per (day, instrument): its draws are the same whichever others are forecast in the same run."""
    return keys_of_places(store.instruments, points.instrument, store.sessions[points.session])


def random_order(store: BarStore, points: ForecastPoints) -> np.ndarray:
    """Places of the points in a random order that depends on their days and instruments only."""
    return np.argsort(draw_keys(store, points).astype(np.uint64) * GOLDEN, kind="stable")


def forecast_frame(
    store: BarStore, points: ForecastPoints, means_NHF: np.ndarray, columns: Sequence[str]
) -> pd.DataFrame:
    """Long frame of forecasts [N, H, F]: instrument, as_of, datetime, step and the features, sorted."""
    count, horizon, _ = means_NHF.shape
    _, times_NH = future_stamps(store, points.session, horizon)
    names = np.array(store.instruments, dtype=object)[points.instrument]
    frame = pd.DataFrame(
        {
            "instrument": np.repeat(names, horizon),
            "as_of": np.repeat(store.sessions[points.session], horizon).astype("datetime64[ns]"),
            "datetime": times_NH.reshape(-1).astype("datetime64[ns]"),
            "step": np.tile(np.arange(1, horizon + 1, dtype=np.int32), count),
            **{name: means_NHF[:, :, place].reshape(-1) for place, name in enumerate(columns)},
        }
    )
    return frame.sort_values(["as_of", "instrument", "step"], ignore_index=True)
