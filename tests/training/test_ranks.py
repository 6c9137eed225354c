"""Several processes train as one: same losses and weights, exact resuming, and no waiting for a dead process."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranked
import torch
from fit_settings import as_keywords, changed, fit_settings
from safetensors.torch import load_file

from kronos.distributed.launcher import WorkerGroup
from kronos.training.dataloader import parts_of_step
from kronos.training.settings import FitSettings
from kronos.utils.errors import UserError

COMMAND = [sys.executable, str(Path(__file__).with_name("ranked.py"))]
SETTINGS = fit_settings(
    epochs=3, batch_size=8, learning_rate=4e-5, n_train_iter=80, n_val_iter=24, log_interval=1, seed=7,
    train_eval_windows=16, settings_key="a",
)  # fmt: skip  # 30 steps


@contextmanager
def crew(world: int) -> Iterator[WorkerGroup]:
    crew = WorkerGroup(world, COMMAND)
    try:
        yield crew
    finally:
        crew.close()


def run(crew: WorkerGroup, folder: Path, settings: FitSettings = SETTINGS, **job: Any) -> SimpleNamespace:
    options = {name: job.pop(name) for name in ("progress", "stop_requested") if name in job}
    job = {"kind": "predictor", "preset": "nano", "dropout": 0.0, **job, "settings": as_keywords(settings)}
    rows: list[tuple[int, str, float]] = []

    def report(step: int, values: dict[str, float]) -> None:
        rows.extend((step, name, value) for name, value in values.items() if name != "windows_per_second")

    with crew.job(job, cuda=False) as place:
        model, result = ranked.train(job, place, folder, report, **options)
    return SimpleNamespace(rows=rows, weights=model.state_dict(), result=result)


def assert_equal(one: SimpleNamespace, other: SimpleNamespace) -> None:
    """Both runs were made in float64: AdamW divides small gradients by themselves, which in float32 magnifies the
    rounding of sums taken in another order by an amount that depends on the machine.
    """
    assert [row[:2] for row in one.rows] == [row[:2] for row in other.rows]
    for (step, name, value), (_, _, twin) in zip(one.rows, other.rows, strict=True):
        if "loss" in name:
            assert twin == pytest.approx(value, rel=1e-6), (step, name)
    for name, weight in one.weights.items():
        assert (other.weights[name] - weight).abs().max() <= 1e-12, name


@pytest.mark.parametrize("kind", ["predictor", "tokenizer"])
def test_two_processes_equal_one_at_the_same_effective_batch(kind: str, tmp_path: Path) -> None:
    """30 steps, including the last, smaller step of each epoch."""
    settings = changed(SETTINGS, n_train_iter=156, batch_size=16, n_val_iter=8)
    with crew(1) as alone, crew(2) as pair:
        one = run(alone, tmp_path / "one", settings, kind=kind, float64=True)
        half = changed(settings, batch_size=8, eval_batch_size=32)
        two = run(pair, tmp_path / "two", half, kind=kind, float64=True)
    assert one.result.steps == 30
    assert_equal(one, two)


@pytest.mark.slow
def test_three_processes_with_accumulation_equal_one(tmp_path: Path) -> None:
    """Even where a step leaves a rank without a window: 79 windows in steps of 12 are 6 and a last one of 7."""
    for kind in ("predictor", "tokenizer"):
        settings = changed(SETTINGS, n_train_iter=73, batch_size=6, accumulation_steps=2, learning_rate=1e-4)
        with crew(1) as alone, crew(3) as three:
            one = run(alone, tmp_path / kind / "one", settings, kind=kind, float64=True)
            third = changed(settings, batch_size=2, eval_batch_size=12)
            other = run(three, tmp_path / kind / "three", third, kind=kind, float64=True)
        assert_equal(one, other)


def test_a_parameter_without_a_gradient_on_any_rank_does_not_decay(tmp_path: Path) -> None:
    for world in (1, 2):
        with crew(world) as ranks:
            weights = run(ranks, tmp_path / str(world), unused_parameters=True).weights
        assert torch.equal(weights["unused"], torch.ones(3))
        assert (weights["one_rank"] < 1).all()


def test_predictor_accumulation_equals_the_larger_batch(tmp_path: Path) -> None:
    with crew(1) as alone:
        one = run(alone, tmp_path / "one", float64=True)
        half = changed(SETTINGS, batch_size=4, accumulation_steps=2, eval_batch_size=16)
        two = run(alone, tmp_path / "two", half, float64=True)
    assert_equal(one, two)


@pytest.mark.parametrize(
    ("windows", "size", "world"), [(64, 8, 1), (64, 4, 3), (61, 5, 4), (2, 3, 4), (1, 1, 2)]
)
def test_ranks_share_a_step_without_overlap(windows: int, size: int, world: int) -> None:
    step = np.random.default_rng(0).permutation(1000)[:windows]
    ranks = [parts_of_step(step, size, rank, world) for rank in range(world)]
    assert len({len(parts) for parts in ranks}) == 1  # they meet in each micro-batch
    taken = [window for parts in ranks for part in parts if part.of_step for window in part.windows]
    assert sorted(taken) == sorted(step)
    assert sum(part.of_step for parts in ranks for part in parts) == pytest.approx(1.0)
    for together in zip(*ranks, strict=True):
        assert sum(part.of_batch for part in together) == pytest.approx(1.0)
        assert all(len(part.windows) <= size for part in together)


def test_a_resumed_pair_equals_the_straight_pair(tmp_path: Path) -> None:
    """Bit for bit, with dropout and averaged weights: each rank's random state is restored."""
    reached: list[int] = []
    stop = {"progress": lambda step, *_: reached.append(step), "stop_requested": lambda: reached[-1:] == [12]}
    with crew(2) as pair:
        settings = changed(SETTINGS, ema_decay=0.9)
        straight = run(pair, tmp_path / "straight", settings, dropout=0.1)
        first = run(pair, tmp_path / "other", settings, dropout=0.1, **stop)
        assert first.result.interrupted and 12 <= first.result.steps <= 13
        second = run(pair, tmp_path / "other", settings, dropout=0.1, resume=True)
    assert second.result.curve == straight.result.curve
    assert second.result.resumed_from == first.result.steps
    assert first.rows + second.rows == straight.rows
    assert all(torch.equal(weight, second.weights[name]) for name, weight in straight.weights.items())
    with crew(1) as alone, pytest.raises(UserError, match=r"made by 2 process\(es\), now there are 1"):
        run(alone, tmp_path / "other", settings, dropout=0.1, resume=True)


@pytest.mark.parametrize("kind", ["predictor", "tokenizer"])
def test_sharded_blocks_equal_whole_ones_and_are_saved_whole(kind: str, tmp_path: Path) -> None:
    """Two processes, micro-batches, averaged weights: losses and all that is saved, to rounding."""
    settings = changed(
        SETTINGS, n_train_iter=60, accumulation_steps=2, epochs=2, ema_decay=0.9, decay_norms_biases=False
    )
    with crew(2) as pair:
        together = run(pair, tmp_path / "whole", settings, kind=kind, float64=True)
        apart = run(pair, tmp_path / "apart", changed(settings, shard=True), kind=kind, float64=True)
    assert [row[:2] for row in apart.rows] == [row[:2] for row in together.rows]
    for (step, name, value), (_, _, twin) in zip(together.rows, apart.rows, strict=True):
        assert twin == pytest.approx(value, rel=1e-6), (step, name)
    for file in ("best_model/model", "last/model", "last/training"):
        one, other = (
            load_file(tmp_path / folder / "checkpoints" / f"{file}.safetensors")
            for folder in ("whole", "apart")
        )
        assert one.keys() == other.keys()
        for name, value in one.items():
            if not name.startswith("rng/"):
                assert (other[name] - value).abs().max() <= 1e-9, (file, name)


def test_a_resumed_sharded_pair_equals_the_straight_one(tmp_path: Path) -> None:
    """Bit for bit, with dropout, averaged weights, a frozen block and a parameter without a gradient."""
    reached: list[int] = []
    stop = {"progress": lambda step, *_: reached.append(step), "stop_requested": lambda: reached[-1:] == [5]}
    settings = changed(SETTINGS, epochs=2, n_train_iter=64, shard=True, ema_decay=0.9)
    job: dict[str, Any] = {"dropout": 0.1, "frozen": 1, "unused_parameters": True}
    with crew(2) as pair:
        straight = run(pair, tmp_path / "straight", settings, **job)
        first = run(pair, tmp_path / "other", settings, **job, **stop)
        second = run(pair, tmp_path / "other", settings, **job, resume=True)
    assert first.result.interrupted and second.result.resumed_from == first.result.steps
    assert first.rows + second.rows == straight.rows
    for file in ("best_model/model", "last/model", "last/training"):
        one, other = (
            load_file(tmp_path / folder / "checkpoints" / f"{file}.safetensors")
            for folder in ("straight", "other")
        )
        assert all(torch.equal(value, other[name]) for name, value in one.items()), file


@pytest.mark.parametrize(
    ("die", "said"),
    [
        ("killed", "process [12] of 3 was killed by signal 9"),
        pytest.param("error", "process [12] of 3: ValueError: no luck today", marks=pytest.mark.slow),
        pytest.param(
            "before joining", "process [12] of 3: ValueError: no luck today", marks=pytest.mark.slow
        ),
    ],
)
def test_a_rank_that_dies_ends_the_run_with_its_error(die: str, said: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with crew(3) as three, pytest.raises(UserError, match=said):
        run(three, tmp_path, die=die)
    assert time.monotonic() - began < 60
    assert not three.processes


def test_followers_end_when_the_leader_fails_or_disappears(tmp_path: Path) -> None:
    class LeaderFails(Exception):
        pass

    def fail(step: int, *_: Any) -> None:
        if step == 2:
            raise LeaderFails

    with crew(2) as pair:
        with pytest.raises(LeaderFails):
            run(pair, tmp_path, progress=fail)
        process = pair.processes[1]
    assert process.poll() == 0  # the leader reports the error
