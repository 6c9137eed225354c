"""Heads: their losses against loops and torch, resuming bit for bit, two processes as one, a merged adapter."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranked
import torch
import torch.nn.functional as F
from fit_settings import changed, fit_settings
from safetensors.torch import load_file
from test_ranks import assert_equal, crew
from test_ranks import run as run_ranks

from kronos.data.head_windows import HeadBatch, HeadExamples
from kronos.distributed.device import Runtime
from kronos.model.conditions import Conditions
from kronos.model.heads import ForecastHead, HeadedPredictor
from kronos.training import adapters
from kronos.training.head_objectives import HeadObjective, pairwise
from kronos.training.trainer import fit
from kronos.utils.errors import UserError

SETTINGS = fit_settings(
    epochs=2, batch_size=8, learning_rate=1e-2, n_train_iter=40, n_val_iter=16, log_interval=1, seed=7,
    train_eval_windows=16, settings_key="a",
)  # fmt: skip
LORA = {"adapter": "lora", "adapter_rank": 4}
KINDS = ("return", "direction", "volatility", "rank")


def test_the_ranking_loss_is_the_mean_over_pairs_of_known_and_different_targets() -> None:
    torch.manual_seed(0)
    said, target = torch.randn(3, 6), torch.randn(3, 6)
    target[0, 2], target[1, 4], target[2] = float("nan"), target[1, 5], 1.0
    found = pairwise(said, target)
    for group in range(3):
        losses = [
            -F.logsigmoid(said[group, i] - said[group, j])
            for i in range(6)
            for j in range(6)
            if target[group, i] > target[group, j]
        ]
        expected = torch.stack(losses).mean() if losses else torch.tensor(0.0)
        assert torch.allclose(found[group], expected), group
    assert found[2] == 0  # no pair
    assert torch.allclose(pairwise(torch.zeros(1, 4), torch.arange(4.0)[None]), torch.tensor(2.0).log())
    assert torch.equal(pairwise(said, target), pairwise(said, 9 * target))  # the order alone counts


def test_the_other_losses_are_torchs_and_a_score_is_their_sum() -> None:
    torch.manual_seed(0)
    head = ForecastHead(8, 0.0, 1.0)
    torch.nn.init.normal_(head.linear.weight)
    batch = HeadBatch(
        torch.randn(10, 1, 8), torch.zeros(10, 1, 0), torch.zeros(10, 1, 0), (torch.rand(10, 1) < 0.5).float()
    )
    said = head(batch.inputs[:, 0])
    expected = {
        "return": F.mse_loss(said, batch.target[:, 0]), "volatility": F.mse_loss(said, batch.target[:, 0]),
        "direction": F.binary_cross_entropy_with_logits(said, batch.target[:, 0]),
    }  # fmt: skip
    for kind, value in expected.items():
        objective = HeadObjective(kind)  # type: ignore[arg-type]
        assert torch.allclose(objective.loss(head, batch)[0], value)
        with torch.no_grad():
            total, count = objective.score(head, batch)["val_loss"]
        assert count == 10 and float(total / count) == pytest.approx(float(value.detach()))


def test_a_new_head_gives_every_context_the_same_answer_and_is_stored_whole(tmp_path: Path) -> None:
    head = ForecastHead(8, 0.25, 3.0)
    states = torch.randn(5, 8)
    assert torch.equal(head.target(states), torch.full((5,), 0.25))
    torch.nn.init.normal_(head.linear.weight)
    head.save_pretrained(tmp_path / "head")
    assert torch.equal(ForecastHead.from_pretrained(tmp_path / "head").target(states), head.target(states))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(states), head(states.clone())) and head(states).dtype == torch.float32


def train(folder: Path, kind: str, fields: dict[str, Any] | None = None, **given: Any) -> SimpleNamespace:
    """Train a head on hidden states, or with `fields` on a predictor with an adapter."""
    model, objective = ranked.build_head(kind, "nano", 0.0, fields)
    before = copy.deepcopy(model)
    rows: list[Any] = []
    result = fit(
        model, objective, ranked.head_examples(1, kind, fields),
        ranked.head_examples(given.pop("judged_by", 2), kind, fields),
        settings=given.pop("settings", SETTINGS), runtime=Runtime(torch.device("cpu")), folder=folder,
        report=lambda step, values: rows.append((step, {k: v for k, v in values.items() if "second" not in k})),
        **given,
    )  # fmt: skip
    return SimpleNamespace(model=model, before=before, result=result, rows=rows)


@pytest.mark.parametrize("fields", [None, pytest.param(LORA, marks=pytest.mark.slow)], ids=["frozen", "lora"])
def test_a_resumed_head_equals_the_straight_one_bit_for_bit(
    fields: dict[str, Any] | None, tmp_path: Path
) -> None:
    reached: list[int] = []
    stop = {"progress": lambda step, *_: reached.append(step), "stop_requested": lambda: reached[-1:] == [7]}
    straight = train(tmp_path / "straight", "rank", fields)
    first = train(tmp_path / "other", "rank", fields, **stop)
    second = train(tmp_path / "other", "rank", fields, resume=True)
    assert first.result.interrupted and second.result.resumed_from == first.result.steps == 7
    assert first.rows + second.rows == straight.rows
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
    files = [
        load_file(tmp_path / run / "checkpoints" / "best_model" / "model.safetensors")
        for run in ("straight", "other")
    ]
    assert all(torch.equal(weight, files[1][name]) for name, weight in files[0].items())


def test_two_processes_train_a_head_as_one_does(tmp_path: Path) -> None:
    settings = changed(SETTINGS, n_train_iter=44, batch_size=16, n_val_iter=8)
    with crew(1) as alone, crew(2) as pair:
        one = run_ranks(alone, tmp_path / "one", settings, kind="head rank", float64=True)
        half = changed(settings, batch_size=8, eval_batch_size=32)
        two = run_ranks(pair, tmp_path / "two", half, kind="head rank", float64=True)
    assert one.result.steps >= 4
    assert_equal(one, two)


@pytest.mark.slow
def test_two_processes_adapt_the_predictor_under_a_head_as_one_does(tmp_path: Path) -> None:
    settings = changed(SETTINGS, n_train_iter=12, batch_size=4, n_val_iter=4, learning_rate=1e-4)
    job = {"kind": "head rank", "float64": True, "fields": LORA}
    with crew(1) as alone, crew(2) as pair:
        one = run_ranks(alone, tmp_path / "one", settings, **job)
        two = run_ranks(pair, tmp_path / "two", changed(settings, batch_size=2, eval_batch_size=8), **job)
    assert one.result.steps == 6
    assert_equal(one, two)


@pytest.mark.slow
def test_the_adapter_is_merged_into_the_predictor_under_the_head_whose_own_weights_stay(
    tmp_path: Path,
) -> None:
    slow = changed(SETTINGS, learning_rate=1e-3)
    run = train(tmp_path, "return", LORA, judged_by=1, settings=slow)  # so that the last step is the best one
    assert run.result.best_step == run.result.steps
    best = tmp_path / "checkpoints" / "best_model"
    merged = HeadedPredictor.from_pretrained(best)
    assert not adapters.has_adapter(merged) and adapters.has_adapter(run.model)
    batch = ranked.head_examples(2, "return", LORA).batch(np.arange(6), None)
    objective = ranked.build_head("return", "nano", 0.0, LORA)[1]
    losses = [objective.loss(model.eval(), batch)[0] for model in (run.model, merged, run.before)]
    assert torch.allclose(losses[0], losses[1], rtol=1e-5) and not torch.allclose(
        losses[0], losses[2], rtol=1e-3
    )
    before, after = (dict(model.named_parameters()) for model in (run.before, run.model))
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert all("lora" in name or name.startswith("head.") for name in moved) and "head.linear.weight" in moved
    assert any("lora" in name for name in moved)
    from peft import PeftModel

    plain = ranked.build("predictor", "nano", 0.0)[0]
    theirs = PeftModel.from_pretrained(plain, best / adapters.FOLDER).merge_and_unload().state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in merged.predictor.state_dict().items())


def test_a_head_on_a_predictor_with_conditions_sees_those_of_its_context(tmp_path: Path) -> None:
    model, objective = ranked.build_head("return", "nano", 0.0, LORA)
    model.predictor.add_conditions(Conditions.from_json(ranked.CONDITIONS))
    for parameter in model.predictor.conditions.parameters():
        torch.nn.init.normal_(parameter)
    torch.nn.init.normal_(model.head.linear.weight)
    plain = ranked.head_examples(1, "return", LORA)
    table, chosen = ranked.made_conditions(1), np.arange(5)
    batches = []
    for conditions in (table, np.where(np.arange(400)[:, None] > plain.rows[4], table + 1, table)):
        examples = HeadExamples(
            plain.store, plain.rows, plain.target, lookback=plain.lookback, clip=5.0, members=plain.members,
            conditions=conditions,
        )  # fmt: skip
        batches.append(examples.batch(chosen, 0))
    assert batches[0].conditions.shape == (5, 1, ranked.LOOKBACK, 2)
    rows = plain.rows[3] + np.arange(1 - ranked.LOOKBACK, 1)
    np.testing.assert_array_equal(batches[0].conditions[3, 0].numpy(), table[rows])
    losses = [objective.losses(model.eval(), batch) for batch in batches]
    assert torch.equal(losses[0], losses[1])  # those of later bars have no part in it
    other = batches[0]._replace(conditions=batches[0].conditions + 1)
    assert not torch.allclose(objective.losses(model, other), losses[0])
    with pytest.raises(UserError, match="conditions"):
        objective.losses(model, plain.batch(chosen, 0))
