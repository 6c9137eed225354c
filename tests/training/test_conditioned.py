"""Conditions and a calendar feature in training: no change before the first step, exact resuming, any number of
ranks, beside an adapter.
"""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranked
import torch
from fit_settings import changed, fit_settings
from safetensors.torch import load_file
from test_ranks import assert_equal, crew
from test_ranks import run as run_ranks

from kronos.config.schema import Config
from kronos.distributed.device import Runtime
from kronos.model import load_predictor
from kronos.model.conditions import Conditions
from kronos.stages.train_setup import prepare
from kronos.training.trainer import fit

SETTINGS = fit_settings(
    epochs=2, batch_size=8, learning_rate=1e-2, n_train_iter=40, n_val_iter=16, log_interval=1, seed=7,
    train_eval_windows=16, settings_key="a",
)  # fmt: skip
VALUES = ranked.made_conditions(1)
WINDOWS = ranked.make_windows(1, conditions=VALUES)
INDICES = np.arange(32)


def models(dropout: float = 0.0) -> tuple[Any, Any, Any]:
    """(a predictor, the same with conditions, the objective)."""
    model, objective = ranked.build("predictor", "nano", dropout)
    other = copy.deepcopy(model)
    other.add_time_features(ranked.TIMES)
    other.add_conditions(Conditions.from_json(ranked.CONDITIONS))
    return model, other, objective


def train(folder: Path, fields: dict[str, Any] | None = None, **given: Any) -> SimpleNamespace:
    settings, dropout = given.pop("settings", SETTINGS), given.pop("dropout", 0.0)
    alone, model, objective = models(dropout)
    prepare(model, Config(**(fields or {})))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    windows = [ranked.make_windows(seed, conditions=ranked.made_conditions(seed)) for seed in (1, 2)]
    result = fit(
        model, objective, *windows, settings=settings, runtime=Runtime(torch.device("cpu")), folder=folder,
        report=lambda *row: None, **given,
    )  # fmt: skip
    return SimpleNamespace(model=model, alone=alone, objective=objective, result=result, start=start)


def saved(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"{name}.safetensors")


def test_a_batch_without_conditions_is_as_it_was_and_one_with_them_adds_what_each_bar_sees() -> None:
    plain, known = (ranked.make_windows(1, conditions=given).batch(INDICES, 0) for given in (None, VALUES))
    assert plain._fields == ("x", "stamp", "window", "uniform") == known._fields[:4]
    assert torch.equal(plain.stamp, known.stamp[..., :5])
    assert all(torch.equal(*pair) for pair in zip(plain._replace(stamp=known.stamp), known[:4], strict=True))
    for window, seen in zip(known.window, known.conditions.numpy(), strict=True):
        rows = VALUES[WINDOWS.split.starts[window] :][: ranked.LENGTH]
        np.testing.assert_array_equal(seen[: ranked.LOOKBACK], rows[: ranked.LOOKBACK])
        last = np.broadcast_to(rows[ranked.LOOKBACK - 1], seen[ranked.LOOKBACK :].shape)
        np.testing.assert_array_equal(seen[ranked.LOOKBACK :], last)


def test_before_the_first_step_losses_gradients_and_scores_are_those_without_conditions_bit_for_bit() -> None:
    alone, model, objective = models(dropout=0.1)
    plain, known = ranked.make_windows(1).batch(INDICES, 0), WINDOWS.batch(INDICES, 0)
    for dtype in (torch.float32, torch.bfloat16):
        found = []
        for one, batch in ((alone, plain), (model, known)):
            torch.manual_seed(5)
            one.zero_grad()
            with Runtime(torch.device("cpu"), dtype).autocast():
                loss, _ = objective.loss(one.train(), batch)
                loss.backward()
                with torch.inference_mode():
                    score = objective.score(one.eval(), batch)
            gradients = {name: weight.grad for name, weight in one.named_parameters()}
            found.append((loss.detach(), gradients, [total for total, _ in score.values()]))
        (loss, gradients, score), (other_loss, other_gradients, other_score) = found
        assert torch.equal(loss, other_loss) and all(map(torch.equal, score, other_score))
        assert all(torch.equal(value, other_gradients[name]) for name, value in gradients.items())
        assert other_gradients["conditions.projection.weight"].abs().max() > 0


def test_conditions_after_the_last_bar_of_the_lookback_change_neither_the_loss_nor_the_score() -> None:
    _, model, objective = models()
    torch.nn.init.normal_(model.conditions.projection.weight)
    first = WINDOWS.split.starts[:1]
    altered = {row: VALUES.copy() for row in (ranked.LOOKBACK - 1, ranked.LOOKBACK)}
    for row, values in altered.items():
        values[first[0] + row :] = 1.0 - np.nan_to_num(values[first[0] + row :])
    batches = [ranked.make_windows(1, conditions=one).batch([0], 0) for one in (VALUES, *altered.values())]
    true, as_of, later = (
        (objective.loss(model.eval(), batch)[0].item(), objective.score(model, batch)["val_loss"][0].item())
        for batch in batches
    )
    assert later == true and as_of[0] != true[0] and as_of[1] != true[1]


@pytest.mark.slow
def test_a_resumed_training_equals_the_straight_one_and_its_checkpoint_holds_the_conditions(
    tmp_path: Path,
) -> None:
    settings = changed(SETTINGS, ema_decay=0.9)
    straight = train(tmp_path / "straight", settings=settings, dropout=0.1)
    reached: list[int] = []
    first = train(
        tmp_path / "other", settings=settings, dropout=0.1, progress=lambda step, *_: reached.append(step),
        stop_requested=lambda: reached[-1:] == [7],
    )  # fmt: skip
    assert first.result.interrupted
    torch.manual_seed(99)
    second = train(tmp_path / "other", settings=settings, dropout=0.1, resume=True)
    assert second.result.resumed_from == 7 and second.result.curve == straight.result.curve
    for name in ("best_model/model", "last/model", "last/training"):
        one, other = (saved(tmp_path / folder, name) for folder in ("straight", "other"))
        assert one.keys() == other.keys() and all(
            torch.equal(value, other[key]) for key, value in one.items()
        )
    best = tmp_path / "straight" / "checkpoints" / "best_model"
    assert json.loads((best / "config.json").read_text())["conditions"] == ranked.CONDITIONS
    assert load_predictor(best).conditions.projection.weight.abs().max() > 0


@pytest.mark.slow
def test_beside_an_adapter_and_frozen_blocks_the_conditions_are_trained_and_saved_merged(
    tmp_path: Path,
) -> None:
    run = train(tmp_path, {"adapter": "lora", "adapter_rank": 4, "freeze_blocks": 1})
    assert run.result.best_step == run.result.steps  # so that the model in memory is the best one
    own = {name for name, value in run.model.named_parameters() if value.requires_grad}
    extra = {name for name in own if not name.startswith(("conditions.", "calendar_emb."))}
    assert (
        extra
        and all("lora_" in name for name in extra)
        and {"calendar_emb.tables.half_day.weight"} < own - extra
    )
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, run.start[name]) == (name not in own), name
    merged = load_predictor(tmp_path / "checkpoints" / "best_model")
    batch = WINDOWS.batch(INDICES, 0)
    with torch.inference_mode():
        found, expected = (
            run.objective.score(one.eval(), batch)["val_loss"][0] for one in (merged, run.model)
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_two_processes_equal_one_and_sharded_blocks_whole_ones(tmp_path: Path) -> None:
    settings = changed(SETTINGS, n_train_iter=39, ema_decay=0.9)
    half = changed(settings, batch_size=4, eval_batch_size=16)
    job: dict[str, Any] = {"conditions": True, "float64": True}
    with crew(1) as alone, crew(2) as pair:
        one = run_ranks(alone, tmp_path / "one", settings, **job)
        two = run_ranks(pair, tmp_path / "two", half, **job)
        assert one.result.steps == 10
        assert_equal(one, two)
        run_ranks(pair, tmp_path / "shard", changed(half, shard=True), **job)
    for name in ("best_model/model", "last/training"):
        whole, apart = (saved(tmp_path / folder, name) for folder in ("two", "shard"))
        assert whole.keys() == apart.keys() and any("conditions." in key for key in whole)
        for key, value in whole.items():
            assert key.startswith("rng/") or (apart[key] - value).abs().max() <= 1e-9, (name, key)
