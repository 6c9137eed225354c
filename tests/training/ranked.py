"""A training that several processes build identically; run as a script, this file is one of the other ranks."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fit_settings import fit_settings

from kronos.config.schema import Config
from kronos.data.head_windows import HeadBatch, HeadExamples, day_groups, singles
from kronos.data.splits import Split
from kronos.data.windows import Batch, Windows
from kronos.distributed.device import Runtime, seed_everything
from kronos.distributed.launcher import Place, join_group, run_worker
from kronos.model import Kronos, KronosTokenizer
from kronos.model.conditions import Conditions
from kronos.model.heads import ForecastHead
from kronos.model.presets import PREDICTOR_PRESETS, TOKENIZER_PRESETS
from kronos.model.time_embedding import PUBLIC
from kronos.stages.head_setup import with_adapter
from kronos.stages.train_setup import freeze, prepare
from kronos.training.head_objectives import HeadObjective
from kronos.training.objectives import PredictorObjective, TokenizerObjective
from kronos.training.result import FitResult
from kronos.training.trainer import fit

LOOKBACK, HORIZON, LENGTH = 24, 8, 33


CONDITIONS = {
    "block": 1,
    "columns": [
        {"name": "sector", "kind": "category", "categories": ["bank", "steel", "oil"]},
        {"name": "size", "kind": "number", "mean": 1.0, "deviation": 2.0},
    ],
}


TIMES = {"names": [*PUBLIC, "half_day"], "calendar": "XNYS", "freq": "day", "label": "end"}


def make_windows(
    seed: int, instruments: int = 4, bars: int = 100, conditions: np.ndarray | None = None
) -> Windows:
    """Random walks as the store lays them out."""
    rng = np.random.default_rng(seed)
    close = 50 + rng.normal(size=(instruments, bars)).cumsum(axis=1)
    open_ = close + rng.normal(size=close.shape) * 0.1
    high, low = np.maximum(open_, close) + 0.2, np.minimum(open_, close) - 0.2
    volume = rng.lognormal(size=close.shape) * 1e3
    values = np.stack((open_, high, low, close, volume, volume * close), axis=-1)
    day, zero = np.arange(bars), np.zeros(bars)
    store: Any = SimpleNamespace(
        values=values.reshape(-1, 6).astype(np.float32),
        session=np.tile(day, instruments).astype(np.int32),
        instruments=tuple("ABCDEFGH"[:instruments]),
        instrument_of_row=np.repeat(np.arange(instruments), bars),
        times=np.tile(day, instruments) * 86_400 * 10**9,
        stamps=np.stack((zero, zero, day % 5, day % 28 + 1, day // 28 + 1), axis=-1).astype(np.int64),
    )
    stamps = None if conditions is None else np.concatenate((store.stamps, day[:, None] % 7 == 0), axis=1)
    starts = np.concatenate([i * bars + np.arange(bars - LENGTH + 1) for i in range(instruments)])
    split = Split(name="train", first_session=0, last_session=bars - 1, starts=starts, length=LENGTH)
    return Windows(store, split, lookback=LOOKBACK, clip=5.0, seed=7, conditions=conditions, stamps=stamps)


def made_conditions(seed: int, rows: int = 400) -> np.ndarray:
    """Values of `CONDITIONS` at every row, some of them missing."""
    rng = np.random.default_rng([seed, 1])
    found = np.stack((rng.integers(0, 3, rows), rng.normal(size=rows) * 2 + 1), axis=-1)
    found[rng.random(found.shape) < 0.1] = np.nan
    return found.astype(np.float32)


class Float64Windows:
    """Windows whose bars are float64."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, indices: np.ndarray, epoch: int | None) -> Batch:
        batch = self.windows.batch(indices, epoch)
        return batch._replace(x=batch.x.double())


class PartlyUsed:
    """The predictor's objective with a term in `model.one_rank` on rank 0 only; no loss has `model.unused`."""

    name = "partly used"

    def __init__(self, inner: Any, rank: int) -> None:
        self.inner, self.rank, self.score = inner, rank, inner.score

    def loss(self, model: Any, batch: Any) -> Any:
        loss, parts = self.inner.loss(model, batch)
        return (loss + model.one_rank.square().sum() if self.rank == 0 else loss), parts


def shape(preset: dict[str, Any], dropout: float) -> dict[str, Any]:
    """Return the preset with one dropout rate everywhere."""
    return {name: dropout if name.endswith("_dropout_p") else value for name, value in preset.items()}


def build(kind: str, preset: str, dropout: float) -> tuple[Any, Any]:
    """Return a model and its objective, the same in every process."""
    seed_everything(3)
    tokenizer = KronosTokenizer(**shape(TOKENIZER_PRESETS["nano" if preset == "nano" else "base"], dropout))
    if kind == "tokenizer":
        return tokenizer, TokenizerObjective(LOOKBACK, HORIZON)
    seed_everything(4)
    model = Kronos(**shape(PREDICTOR_PRESETS[preset], dropout))
    return model, PredictorObjective(tokenizer, LOOKBACK, HORIZON)


def build_head(kind: str, preset: str, dropout: float, fields: dict[str, Any] | None) -> tuple[Any, Any]:
    """Return a head on hidden states, or with `fields` on a predictor with an adapter, and its objective."""
    predictor, inner = build("predictor", preset, dropout)
    head = ForecastHead(predictor.d_model, 0.0, 1.0)
    head.linear.bias.requires_grad_(kind != "rank")
    if fields is None:
        return head, HeadObjective(kind)  # type: ignore[arg-type]
    seed_everything(5)
    return with_adapter(predictor, head, Config(**fields), None), HeadObjective(kind, inner.tokenizer)  # type: ignore[arg-type]


def head_examples(seed: int, kind: str, fields: dict[str, Any] | None) -> HeadExamples:
    """Points of the same random walks, whose outcome is in their hidden state or in their last move."""
    windows = make_windows(seed)
    rows = windows.split.starts + LOOKBACK - 1
    random = np.random.default_rng(seed)
    states = random.normal(size=(len(rows), 64)).astype(np.float32)
    closes = windows.store.values[:, 3]
    target = closes[rows] - closes[rows - 1] if fields else states[:, 3] + random.normal(size=len(rows))
    if kind == "direction":
        target = (target > 0).astype(float)
    members = day_groups(np.arange(len(rows)) // 11, seed) if kind == "rank" else singles(len(rows))
    windows.store.history = np.full(len(closes), LOOKBACK)
    return HeadExamples(
        windows.store, rows, target, lookback=LOOKBACK, clip=5.0, members=members,
        states=None if fields else states,
    )  # fmt: skip


class Float64Examples:
    """Examples whose states or bars are float64."""

    def __init__(self, examples: HeadExamples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: np.ndarray, epoch: int | None) -> HeadBatch:
        batch = self.examples.batch(indices, epoch)
        return batch._replace(inputs=batch.inputs.double())


def train(
    job: dict[str, Any],
    place: Place,
    folder: Path,
    report: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    **options: Any,
) -> tuple[Any, FitResult]:
    torch.set_num_threads(1)
    head, fields = job["kind"].removeprefix("head "), job.get("fields")
    is_head = job["kind"].startswith("head ")
    if is_head:
        model, objective = build_head(head, job["preset"], job["dropout"], fields)
    else:
        model, objective = build(job["kind"], job["preset"], job["dropout"])
    if job.get("unused_parameters"):
        model.one_rank, model.unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        objective = PartlyUsed(objective, place.rank)
    if job.get("frozen"):
        freeze(model, Config(freeze_blocks=job["frozen"]))
    windows: list[Any] = [
        head_examples(seed, head, fields) if is_head else make_windows(seed) for seed in (1, 2)
    ]
    if job.get("conditions"):
        model.add_time_features(TIMES)
        model.add_conditions(Conditions.from_json(CONDITIONS))
        windows = [make_windows(seed, conditions=made_conditions(seed)) for seed in (1, 2)]
    if fields and not is_head:
        prepare(model, Config(**fields))
    if job.get("float64"):
        model.double()
        if getattr(objective, "tokenizer", None) is not None:
            objective.tokenizer.double()
        windows = [(Float64Examples if is_head else Float64Windows)(split) for split in windows]
    runtime = Runtime(torch.device("cpu"), rank=place.rank, world=place.world)
    result = fit(
        model, objective, *windows, settings=fit_settings(**job["settings"]),
        runtime=runtime, folder=folder, report=report, resume=job.get("resume", False), **options,
    )  # fmt: skip
    return model, result


def work(job: dict[str, Any], place: Place) -> None:
    """Train as another rank, failing in the way that the job names under `die`."""
    if job.get("die") == "before joining":
        raise ValueError("no luck today")
    join_group(job["store"], job["number"], place, False)

    def fail_or_die(step: int, total: int, values: dict[str, float]) -> None:
        if job.get("die") == "killed" and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.get("die") == "error" and step == 3:
            raise ValueError("no luck today")

    try:
        train(job, place, Path(), progress=fail_or_die)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    host, port, rank, world = sys.argv[1], *map(int, sys.argv[2:])
    store = dist.TCPStore(host, port, None, False)
    sys.exit(run_worker(Place(rank, world, rank, world), store, work))
