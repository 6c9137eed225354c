"""Number formats, prefetching threads, frozen parameters, weight decay, and out-of-memory errors."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import ranked
import torch
from compiling import needs_compiler
from fit_settings import changed, fit_settings

from kronos.config.schema import Config
from kronos.distributed.device import Runtime
from kronos.distributed.launcher import explain
from kronos.stages.train_setup import freeze
from kronos.training.optimizer import adamw
from kronos.training.settings import FitSettings
from kronos.training.train_step import out_of_memory
from kronos.training.trainer import TrainingStopped, fit
from kronos.utils.errors import UserError

SETTINGS = fit_settings(
    epochs=2, batch_size=8, learning_rate=1e-3, n_train_iter=80, n_val_iter=16, log_interval=1, seed=7
)


def train(
    folder: Path, settings: FitSettings = SETTINGS, dtype: torch.dtype = torch.float32, **given: Any
) -> Any:
    model, objective = ranked.build("predictor", "nano", 0.0)
    rows: list[tuple[int, dict[str, float]]] = []
    result = fit(
        given.get("model", model), given.get("objective", objective), ranked.make_windows(1), ranked.make_windows(2),
        settings=settings, runtime=Runtime(torch.device("cpu"), dtype), folder=folder,
        report=lambda step, values: rows.append((step, values)), resume=given.get("resume", False),
        progress=given.get("progress"), stop_requested=given.get("stop_requested", lambda: False),
    )  # fmt: skip
    return rows, result


def losses(rows: Any) -> list[float]:
    return [values["train_loss"] for _, values in rows if "train_loss" in values]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_the_float32_curve_with_float32_weights(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    full, half = (losses(train(tmp_path / str(kind), dtype=kind)[0]) for kind in (torch.float32, dtype))
    assert half == pytest.approx(full, rel=5e-3)
    assert half != full


def test_prefetching_threads_change_nothing(tmp_path: Path) -> None:
    plain, ahead = (
        train(tmp_path / str(threads), changed(SETTINGS, num_workers=threads))[1] for threads in (0, 3)
    )
    assert plain.curve == ahead.curve


class Overflows:
    """The predictor's objective whose gradient overflows at some steps."""

    name = "overflows"

    def __init__(self, steps: range) -> None:
        self.inner, self.steps, self.calls = ranked.build("predictor", "nano", 0.0)[1], steps, 0
        self.score = self.inner.score

    def loss(self, model: Any, batch: Any) -> Any:
        self.calls += 1
        loss, parts = self.inner.loss(model, batch)
        if self.calls in self.steps:
            loss.register_hook(lambda gradient: gradient * torch.inf)
        return loss, parts


def test_float16_overflows_skip_the_step_are_counted_and_stop_in_the_end(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows, result = train(tmp_path / "few", dtype=torch.float16, objective=Overflows(range(1, 5)))
    assert rows[-1][1]["val_loss"] < rows[0][1]["val_loss"]
    assert [values["overflows"] for _, values in rows if "overflows" in values][-1] == 4
    assert result.steps == 20
    longer = changed(SETTINGS, epochs=3)
    with pytest.raises(TrainingStopped, match="for 20 float16 steps in a row"):
        train(tmp_path / "many", longer, dtype=torch.float16, objective=Overflows(range(3, 100)))


def test_a_resumed_float16_run_equals_the_straight_one(tmp_path: Path) -> None:
    """Stopped after an overflow: the gradient scale, its counter and the counts of overflows go on."""
    rows, straight = train(tmp_path / "straight", dtype=torch.float16, objective=Overflows(range(3, 6)))
    state = json.loads((tmp_path / "straight" / "checkpoints" / "last" / "training.json").read_text())
    assert (state["scaler"]["scale"], state["scaler"]["_growth_tracker"]) == (2.0**13, 15)
    objective, reached = Overflows(range(3, 6)), []
    first, stopped = train(
        tmp_path / "resumed", dtype=torch.float16, objective=objective,
        progress=lambda step, *_: reached.append(step), stop_requested=lambda: reached[-1:] == [4],
    )  # fmt: skip
    assert stopped.interrupted
    second, resumed = train(tmp_path / "resumed", dtype=torch.float16, objective=objective, resume=True)
    assert (resumed.resumed_from, resumed.curve) == (4, straight.curve)
    assert losses(first + second) == losses(rows)
    last = json.loads((tmp_path / "resumed" / "checkpoints" / "last" / "training.json").read_text())
    assert last["scaler"] == state["scaler"]
    assert last["loop"]["overflows"] == state["loop"]["overflows"] == 3


def test_the_schedule_goes_on_in_skipped_steps(tmp_path: Path) -> None:
    _, plain = train(tmp_path / "plain", dtype=torch.float16)
    _, skipping = train(tmp_path / "skipping", dtype=torch.float16, objective=Overflows(range(3, 6)))
    skipped = {3, 4, 5}
    rates = [rate for rate in plain.learning_rates if rate[0] not in skipped]
    assert [rate for rate in skipping.learning_rates if rate[0] not in skipped] == rates


def test_frozen_blocks_and_what_is_under_them_stay(tmp_path: Path) -> None:
    model, _ = ranked.build("predictor", "nano", 0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(tmp_path, model=freeze(model, Config(freeze_blocks=1)))
    for name, value in model.state_dict().items():
        stays = name.startswith(("embedding.", "time_emb.", "transformer.0.")) or "inv_freq" in name
        assert torch.equal(before[name], value) == stays, name
    with pytest.raises(UserError, match="freeze_blocks is 3, the predictor has 2 blocks"):
        freeze(model, Config(freeze_blocks=3))


def test_weight_decay_can_leave_norms_and_biases_out() -> None:
    model, _ = ranked.build("predictor", "nano", 0.0)
    public = adamw(model, SETTINGS).param_groups
    assert [group["weight_decay"] for group in public] == [0.1]
    matrices, vectors = adamw(model, changed(SETTINGS, decay_norms_biases=False)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim > 1 for parameter in matrices["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(public[0]["params"])
    model.requires_grad_(False)
    with pytest.raises(UserError, match="every parameter is frozen"):
        adamw(model, SETTINGS)


class Full(Overflows):
    def loss(self, model: Any, batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


def test_a_full_device_says_which_batch_keeps_the_effective_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_size=4 with accumulation_steps=2, which keeps the effective"):
        train(tmp_path, objective=Full(range(0)))
    settings = changed(SETTINGS, batch_size=50, accumulation_steps=3)
    said = str(out_of_memory(settings, 2, "cuda"))
    assert said.startswith("CUDA out of memory at batch_size 50: use batch_size=25 with accumulation_steps=6")
    assert "effective batch of 300" in said
    assert "smaller model_preset" in str(out_of_memory(changed(SETTINGS, batch_size=1), 1, "cuda"))


def test_failures_between_processes_are_explained() -> None:
    said = explain(RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:1, unhandled cuda error\nmore"))
    assert "CUDA_VISIBLE_DEVICES" in said and "NCCL_DEBUG=INFO" in said and "more" not in said.split(";")[0]


@pytest.mark.slow
@needs_compiler
def test_a_compiled_step_gives_the_same_losses(tmp_path: Path) -> None:
    settings = changed(SETTINGS, epochs=1)
    plain, compiled = (
        losses(train(tmp_path / str(on), changed(settings, compile=on))[0]) for on in (False, True)
    )
    assert compiled == pytest.approx(plain, rel=1e-4)
