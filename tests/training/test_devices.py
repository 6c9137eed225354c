"""A GPU does what the CPU does: forward passes, forecasts, trainings. Without a GPU the CPU is compared with itself.

`make gpu` runs the cases of a GPU, and the speed tables after them.
"""

from pathlib import Path

import numpy as np
import pytest
import test_trainer as small
import torch

from kronos.distributed.device import Runtime
from kronos.forecast import forecast_arrays
from kronos.model import PREDICTOR_PRESETS, TOKENIZER_PRESETS, Kronos, KronosTokenizer
from kronos.model.presets import tokenizer_preset_for

on_devices = pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
SERIES, LOOKBACK, HORIZON = 6, 40, 8


def pair() -> tuple[KronosTokenizer, Kronos]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        tokenizer = KronosTokenizer(**TOKENIZER_PRESETS[tokenizer_preset_for("nano")])
        return tokenizer.eval(), Kronos(**PREDICTOR_PRESETS["nano"]).eval()


def bars() -> tuple[np.ndarray, np.ndarray]:
    """Bars [N, L, 6] of random walks, and the stamps [N, L + H, 5] of days."""
    random = np.random.default_rng(3)
    close = 50 * np.exp(np.cumsum(random.normal(0, 0.02, (SERIES, LOOKBACK)), axis=1))
    volume = random.lognormal(10, 1, close.shape)
    values = np.stack([close * 0.99, close * 1.02, close * 0.97, close, volume, volume * close], axis=-1)
    day = np.arange(LOOKBACK + HORIZON)
    stamps = np.stack([0 * day, 0 * day, day % 5, day % 28 + 1, day // 28 + 1], axis=-1)
    return values.astype(np.float32), np.broadcast_to(stamps, (SERIES, *stamps.shape)).astype(np.int64)


def forecasts(device: str, **rules: object) -> np.ndarray:
    tokenizer, predictor = (model.to(device) for model in pair())
    values, stamps = bars()
    return forecast_arrays(
        tokenizer, predictor, values, stamps[:, :LOOKBACK], stamps[:, LOOKBACK:], horizon=HORIZON,
        sample_count=4, seed=1, **rules,
    )  # fmt: skip


@on_devices
def test_forward_passes_are_the_same_to_rounding(device: str) -> None:
    tokenizer, predictor = pair()
    values, stamps = bars()
    x = torch.from_numpy(values)
    x = (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True)
    tokens, logits = [], []
    for place in ("cpu", device):
        tokenizer, predictor = tokenizer.to(place), predictor.to(place)
        with torch.no_grad():
            tokens.append([part.cpu() for part in tokenizer.encode(x.to(place), half=True)])
            s1, s2 = (part.to(place) for part in tokens[0])
            stamp = torch.from_numpy(stamps[:, :LOOKBACK]).to(place)
            found = predictor(s1, s2, stamp, use_teacher_forcing=True, s1_targets=s1)
            logits.append([part.cpu() for part in found])
    for cpu, there in zip(*tokens, strict=True):
        assert (cpu == there).float().mean() > 0.99  # a bit whose value is nearly 0 may turn
    for cpu, there in zip(*logits, strict=True):
        torch.testing.assert_close(there, cpu, rtol=1e-3, atol=1e-3)


@on_devices
def test_forecasts_draw_the_same_paths(device: str) -> None:
    """A token whose draw lies within rounding of a border may differ, and the path after it."""
    cpu, there = forecasts("cpu"), forecasts(device)
    assert np.isclose(cpu, there, rtol=1e-3).all(axis=(2, 3)).mean() >= 0.9


@on_devices
def test_bfloat16_forecasts_are_near(device: str) -> None:
    full, short = forecasts(device), forecasts(device, dtype=torch.bfloat16)
    last = bars()[0][:, -1, 3]
    moved = (short[..., 3].mean(axis=1) - full[..., 3].mean(axis=1)) / last[:, None]
    assert np.isfinite(short).all() and np.abs(moved).mean() < 0.05


@on_devices
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_training_has_the_losses_of_the_cpu(device: str, precision: torch.dtype, tmp_path: Path) -> None:
    losses = []
    for name, runtime in (("cpu", small.CPU), ("there", Runtime(torch.device(device), precision))):
        model = small.make_predictor(dropout=0.0)
        done = small.run(tmp_path / name, model=model, runtime=runtime)
        losses.append([entry["val_loss"] for entry in done.result.curve])
    tolerance = 1e-3 if precision == torch.float32 else 3e-2
    np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance)


@on_devices
def test_an_interrupted_training_goes_on_there(device: str, tmp_path: Path) -> None:
    runtime = Runtime(torch.device(device))
    whole = small.run(tmp_path / "whole", runtime=runtime)
    polls = iter([False] * 12)
    first = small.run(tmp_path / "parts", runtime=runtime, stop_requested=lambda: next(polls, True))
    assert first.result.interrupted and 0 < first.result.steps < whole.result.steps
    again = small.run(tmp_path / "parts", runtime=runtime, resume=True)
    assert again.result.resumed_from == first.result.steps
    assert [entry["step"] for entry in again.result.curve] == [entry["step"] for entry in whole.result.curve]
    tolerance = 0.0 if device == "cpu" else 1e-4  # some sums on a GPU have no fixed order
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)
