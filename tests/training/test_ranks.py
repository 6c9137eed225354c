"""Several processes train as one does: same losses, same weights, resumed alike, and none waits for the dead."""

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

from kronos.distributed.launcher import Crew
from kronos.training.dataloader import parts_of_step
from kronos.training.settings import FitSettings
from kronos.utils.errors import UserError

COMMAND = [sys.executable, str(Path(__file__).with_name("ranked.py"))]
SETTINGS = fit_settings(
    epochs=3, batch_size=8, learning_rate=4e-5, n_train_iter=80, n_val_iter=24, log_interval=1, seed=7,
    train_eval_windows=16, settings_key="a",
)  # fmt: skip  # 30 steps


@contextmanager
def crew(world: int) -> Iterator[Crew]:
    crew = Crew(world, COMMAND)
    try:
        yield crew
    finally:
        crew.close()


def run(crew: Crew, folder: Path, settings: FitSettings = SETTINGS, **job: Any) -> SimpleNamespace:
    options = {name: job.pop(name) for name in ("progress", "stop_requested") if name in job}
    job = {"kind": "predictor", "preset": "nano", "dropout": 0.0, **job, "settings": as_keywords(settings)}
    rows: list[tuple[int, str, float]] = []

    def report(step: int, values: dict[str, float]) -> None:
        rows.extend((step, name, value) for name, value in values.items() if name != "windows_per_second")

    with crew.job(job, cuda=False) as place:
        model, result = ranked.train(job, place, folder, report, **options)
    return SimpleNamespace(rows=rows, weights=model.state_dict(), result=result)


def assert_equal(
    one: SimpleNamespace, other: SimpleNamespace, kind: str = "predictor", preset: str = "nano"
) -> None:
    """Losses are equal to rounding, and so is the way that each tensor has gone from its initial value.

    Single weights may differ by more: AdamW divides by the size of the gradient, so that where it is nearly zero its
    rounding decides the sign of an update.
    """
    assert [row[:2] for row in one.rows] == [row[:2] for row in other.rows]
    for (step, name, value), (_, _, twin) in zip(one.rows, other.rows, strict=True):
        if "loss" in name:
            assert twin == pytest.approx(value, rel=1e-6), (step, name)
    start = ranked.build(kind, preset, 0.0)[0].state_dict()
    for name, weight in one.weights.items():
        apart, moved = (
            (new - old).double().norm() for new, old in ((other.weights[name], weight), (weight, start[name]))
        )
        assert apart <= 5e-4 * moved, (name, float(apart / moved))


@pytest.mark.parametrize("kind", ["predictor", "tokenizer"])
def test_two_processes_equal_one_at_the_same_effective_batch(kind: str, tmp_path: Path) -> None:
    """30 steps of the mini shape, among them the last, smaller step of each epoch."""
    settings = changed(SETTINGS, n_train_iter=156, batch_size=16, n_val_iter=8)
    with crew(1) as alone, crew(2) as pair:
        one = run(alone, tmp_path / "one", settings, kind=kind, preset="mini")
        half = changed(settings, batch_size=8, eval_batch_size=32)
        two = run(pair, tmp_path / "two", half, kind=kind, preset="mini")
    assert one.result.steps == 30
    assert_equal(one, two, kind, "mini")


@pytest.mark.slow
def test_three_processes_with_accumulation_equal_one(tmp_path: Path) -> None:
    """Even where a step leaves a rank without a window: 79 windows in steps of 12 are 6 and a last one of 7."""
    for kind in ("predictor", "tokenizer"):
        settings = changed(SETTINGS, n_train_iter=73, batch_size=6, accumulation_steps=2, learning_rate=1e-4)
        with crew(1) as alone, crew(3) as three:
            one = run(alone, tmp_path / kind / "one", settings, kind=kind)
            third = changed(settings, batch_size=2, eval_batch_size=12)
            other = run(three, tmp_path / kind / "three", third, kind=kind)
        assert_equal(one, other, kind)


def test_predictor_accumulation_equals_the_larger_batch(tmp_path: Path) -> None:
    with crew(1) as alone:
        one = run(alone, tmp_path / "one")
        half = changed(SETTINGS, batch_size=4, accumulation_steps=2, eval_batch_size=16)
        two = run(alone, tmp_path / "two", half)
    assert_equal(one, two)


def test_a_parameter_that_no_loss_uses_does_not_decay_on_any_number_of_ranks(tmp_path: Path) -> None:
    """AdamW decays a weight whose gradient is zero, and leaves alone one that has none."""
    for world in (1, 2):
        settings = changed(SETTINGS, epochs=1, batch_size=16 // world)
        with crew(world) as processes:
            found = run(processes, tmp_path / str(world), settings, unused_parameter=True)
        assert found.weights["unused"].tolist() == [1.0] * 5, world


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
    """Bit for bit, dropout on: each rank finds its own random state again."""
    reached: list[int] = []
    stop = {"progress": lambda step, *_: reached.append(step), "stop_requested": lambda: reached[-1:] == [12]}
    with crew(2) as pair:
        straight = run(pair, tmp_path / "straight", dropout=0.1)
        first = run(pair, tmp_path / "other", dropout=0.1, **stop)
        assert first.result.interrupted and 12 <= first.result.steps <= 13
        second = run(pair, tmp_path / "other", dropout=0.1, resume=True)
    assert second.result.resumed_from == first.result.steps
    assert first.rows + second.rows == straight.rows
    assert all(torch.equal(weight, second.weights[name]) for name, weight in straight.weights.items())
    with crew(1) as alone, pytest.raises(UserError, match=r"made by 2 process\(es\), now there are 1"):
        run(alone, tmp_path / "other", dropout=0.1, resume=True)


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
    class Unlucky(Exception):
        pass

    def fail(step: int, *_: Any) -> None:
        if step == 2:
            raise Unlucky

    with crew(2) as pair:
        with pytest.raises(Unlucky):
            run(pair, tmp_path, progress=fail)
        process = pair.processes[1]
    assert process.poll() == 0  # quietly: the leader tells
