"""Adapters begin as no change, train alone, and are merged into checkpoints that the public code reads."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ranked
import torch
from fit_settings import changed, fit_settings
from safetensors.torch import load_file
from test_ranks import assert_equal, crew
from test_ranks import run as run_ranks

from kronos.config.loading import load_config
from kronos.config.schema import Config
from kronos.config.sections import ADAPTER_TARGETS
from kronos.distributed.device import Runtime, forget_peak_memory, peak_memory
from kronos.model import load_predictor, load_tokenizer
from kronos.model.inference.engine import Engine
from kronos.stages.train_setup import prepare
from kronos.training import adapters
from kronos.training.trainer import fit
from kronos.utils.errors import UserError

CPU = torch.device("cpu")
SETTINGS = fit_settings(
    epochs=2, batch_size=8, learning_rate=1e-2, n_train_iter=40, n_val_iter=16, log_interval=1, seed=7,
    train_eval_windows=16, settings_key="a",
)  # fmt: skip
LORA = {"adapter": "lora", "adapter_rank": 4, "adapter_targets": ADAPTER_TARGETS}
DORA = {**LORA, "adapter": "dora"}
KINDS = ("predictor", "tokenizer")
BATCH = ranked.make_windows(1).batch(ranked.np.arange(32), 0)


def adapted(kind: str, fields: dict[str, Any] = LORA, dropout: float = 0.0) -> tuple[Any, Any, Any]:
    """(the model with an adapter, the model alone, the objective)."""
    model, objective = ranked.build(kind, "nano", dropout)
    alone = copy.deepcopy(model)
    return prepare(model, Config(**fields)), alone, objective


def train(
    folder: Path, kind: str = "predictor", fields: dict[str, Any] = LORA, **given: Any
) -> SimpleNamespace:
    settings, dtype = given.pop("settings", SETTINGS), given.pop("dtype", torch.float32)
    model, alone, objective = adapted(kind, fields, given.pop("dropout", 0.0))
    rows: list[tuple[int, dict[str, float]]] = []
    result = fit(
        model, objective, ranked.make_windows(1), ranked.make_windows(2), settings=settings,
        runtime=Runtime(CPU, dtype), folder=folder, report=lambda *row: rows.append(row), **given,
    )  # fmt: skip
    return SimpleNamespace(model=model, alone=alone, objective=objective, result=result, rows=rows)


def numbers(model: Any, objective: Any, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The training loss, its parts and its draws of dropout, and the sums of the validation's score."""
    torch.manual_seed(5)
    with Runtime(CPU, dtype).autocast():
        loss, parts = objective.loss(model.train(), BATCH)
        with torch.inference_mode():
            score = objective.score(model.eval(), BATCH)
    return [loss.detach(), *parts.values(), *(total for total, _ in score.values())]


def test_targets_are_the_linear_layers_that_they_name() -> None:
    for kind in KINDS:
        model, _ = ranked.build(kind, "nano", 0.0)
        linear = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
        named = {target: adapters.target_layers(model, (target,)) for target in ADAPTER_TARGETS}
        assert {name.rpartition(".")[2] for name in named["attention"]} == {
            "q_proj", "k_proj", "v_proj", "out_proj"
        }  # fmt: skip
        assert {name.rpartition(".")[2] for name in named["feed-forward"]} == {"w1", "w2", "w3"}
        heads = {"predictor": {"head.proj_s1", "head.proj_s2"}, "tokenizer": {"head", "quant_embed"}}[kind]
        assert set(named["heads"]) == heads
        inputs = linear - {name for names in named.values() for name in names}
        expected = {
            "predictor": {"embedding.fusion_proj"},
            "tokenizer": {"embed", "post_quant_embed", "post_quant_embed_pre"},
        }
        assert inputs == expected[kind]


def test_fields_are_checked_together() -> None:
    given = {"adapter": "loha", "adapter_rank": "0", "adapter_alpha": "0", "adapter_targets": "attention,mlp"}
    with pytest.raises(UserError) as error:
        load_config(None, given)
    said = str(error.value)
    assert all(f"--{name.replace('_', '-')}" in said for name in given)
    assert "'attention,mlp' was given, expected some of attention, feed-forward, heads, each once" in said


def test_the_peak_of_memory_is_that_of_what_was_held() -> None:
    forget_peak_memory(CPU)
    held = torch.ones(2**24)
    now = psutil.Process().memory_info().rss
    assert now - 2**20 <= peak_memory(CPU) and held.nbytes < now  # the kernel counts in batches of pages


@pytest.mark.slow
@pytest.mark.parametrize("fields", [LORA, DORA], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_the_adapted_model_is_the_model_bit_for_bit(
    kind: str, fields: dict[str, Any]
) -> None:
    """With dropout, whose draws are the same too, in float32 and under autocast."""
    for dtype in (torch.float32, torch.bfloat16):
        model, alone, objective = adapted(kind, fields, dropout=0.1)
        with_adapter, without = (numbers(one, objective, dtype) for one in (model, alone))
        assert all(torch.equal(*pair) for pair in zip(with_adapter, without, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("fields", [LORA, DORA], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_merged_and_equals_the_adapted_model_and_pefts_own_merge(
    kind: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    from peft import PeftModel

    run = train(tmp_path, kind, fields)
    assert run.result.best_step == run.result.steps  # so that the model in memory is the best one
    best = tmp_path / "checkpoints" / "best_model"
    load = load_predictor if kind == "predictor" else load_tokenizer
    merged = load(best)  # refuses any name that is not the public one
    found, unmerged, base = (numbers(one, run.objective) for one in (merged, run.model, run.alone))
    for one, other, before in zip(found[:1], unmerged[:1], base[:1], strict=True):  # the training loss
        assert torch.allclose(one, other, rtol=1e-5) and not torch.allclose(one, before, rtol=1e-3)
    score = [value for values in run.rows for name, value in values[1].items() if name == "val_loss"]
    with torch.inference_mode():
        total, count = run.objective.score(merged, ranked.make_windows(2).batch(windows(16), None))[
            "val_loss"
        ]
    assert float(total / count) == pytest.approx(score[-1], rel=1e-5)
    assert score[-1] < score[0]  # the first is that of the weights before
    theirs = PeftModel.from_pretrained(copy.deepcopy(run.alone), best / adapters.FOLDER).merge_and_unload()
    assert merged.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in merged.state_dict().items():
        assert torch.equal(weight, theirs.state_dict()[name]), name
    described = json.loads((best / adapters.FOLDER / "adapter_config.json").read_text())
    assert (described["r"], described["use_dora"]) == (4, fields["adapter"] == "dora")
    public = pytest.importorskip("model.kronos", reason="the public package is not installed")
    their_kind = public.Kronos if kind == "predictor" else public.KronosTokenizer
    read = their_kind.from_pretrained(best, strict=True).state_dict()
    assert all(torch.equal(weight, read[name]) for name, weight in merged.state_dict().items())


def windows(count: int) -> Any:
    """The validation windows of a training with this n_val_iter."""
    from kronos.data.window_order import epoch_order

    return epoch_order(len(ranked.make_windows(2)), count, SETTINGS.training.seed, None)


@pytest.mark.slow
def test_forecasts_are_made_by_the_merged_weights(tmp_path: Path) -> None:
    run = train(tmp_path)
    merged = load_predictor(tmp_path / "checkpoints" / "best_model")
    x, stamps = BATCH.x[:, : ranked.LOOKBACK], BATCH.stamp
    uniform = torch.rand(len(x), 2, 4, 2, generator=torch.Generator().manual_seed(1))

    def paths(model: Any) -> torch.Tensor:
        engine = Engine(run.objective.tokenizer, model)
        return engine(
            x, stamps[:, : ranked.LOOKBACK], stamps[:, ranked.LOOKBACK :][:, :4], uniform_NSH2=uniform
        )

    assert not torch.equal(paths(merged), paths(run.alone.eval()))
    with pytest.raises(UserError, match="a model with an adapter cannot forecast: merge it first"):
        paths(run.model.eval())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_is_trained_and_its_optimizer_kept(kind: str, tmp_path: Path) -> None:
    run = train(tmp_path, kind)
    own = {name for name, value in run.model.named_parameters() if value.requires_grad}
    assert own and all("lora_" in name for name in own)
    before = run.alone.state_dict()
    last = load_file(tmp_path / "checkpoints" / "last" / "model.safetensors")
    for name, weight in last.items():
        if name not in own:
            assert torch.equal(weight, before[name.replace(".base_layer.", ".")]), name
    moments = load_file(tmp_path / "checkpoints" / "last" / "training.safetensors")
    assert {label.partition("/")[2] for label in moments if label.startswith("exp_avg/")} == own
    assert adapters.trainable(run.model) == sum(last[name].numel() for name in own)


@pytest.mark.slow
def test_frozen_blocks_have_no_adapter_and_pass_no_gradient(tmp_path: Path) -> None:
    run = train(tmp_path, fields={**LORA, "freeze_blocks": 1, "adapter_targets": ["attention"]})
    own = [name for name, value in run.model.named_parameters() if value.requires_grad]
    assert own and not any(name.startswith("transformer.0.") for name in own)
    with pytest.raises(UserError, match="every layer of feed-forward is frozen: lower freeze_blocks"):
        adapted("predictor", {**LORA, "freeze_blocks": 2, "adapter_targets": ["feed-forward"]})


@pytest.mark.slow
@pytest.mark.parametrize("fields", [LORA, DORA], ids=["lora", "dora"])
def test_a_resumed_adapter_equals_the_straight_one_bit_for_bit(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    """With dropout and averaged weights, stopped within an epoch."""
    settings = changed(SETTINGS, ema_decay=0.9)
    reached: list[int] = []
    straight = train(tmp_path / "straight", fields=fields, settings=settings, dropout=0.1)
    first = train(
        tmp_path / "other", fields=fields, settings=settings, dropout=0.1,
        progress=lambda step, *_: reached.append(step), stop_requested=lambda: reached[-1:] == [7],
    )  # fmt: skip
    assert first.result.interrupted
    torch.manual_seed(99)  # another process would draw another first matrix
    second = train(tmp_path / "other", fields=fields, settings=settings, dropout=0.1, resume=True)
    assert second.result.resumed_from == 7 and second.result.curve == straight.result.curve
    for file in (
        "best_model/model",
        f"best_model/{adapters.FOLDER}/adapter_model",
        "last/model",
        "last/training",
    ):
        one, other = (
            load_file(tmp_path / folder / "checkpoints" / f"{file}.safetensors")
            for folder in ("straight", "other")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items()), file
    plain = train(tmp_path / "plain", fields=fields, dropout=0.1)
    assert plain.result.curve[-1] != straight.result.curve[-1]  # the average is what was validated


@pytest.mark.slow
def test_bf16_follows_float32_and_its_merged_weights_are_float32(tmp_path: Path) -> None:
    losses = [
        [
            row[1]["train_loss"]
            for row in train(tmp_path / str(dtype), dtype=dtype).rows
            if "train_loss" in row[1]
        ]
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=1e-2)
    saved = load_file(tmp_path / "torch.bfloat16" / "checkpoints" / "best_model" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}


@pytest.mark.slow
def test_two_processes_equal_one_and_sharded_blocks_whole_ones(tmp_path: Path) -> None:
    """In float64, with averaged weights and a last, smaller step of each epoch, for all that is saved."""
    settings = changed(SETTINGS, batch_size=8, n_train_iter=39, ema_decay=0.9)
    half = changed(settings, batch_size=4, eval_batch_size=16)
    with crew(1) as alone, crew(2) as pair:
        for kind, fields in (("predictor", DORA), ("tokenizer", LORA)):
            job: dict[str, Any] = {"kind": kind, "fields": fields, "float64": True}
            one = run_ranks(alone, tmp_path / kind / "one", settings, **job)
            two = run_ranks(pair, tmp_path / kind / "two", half, **job)
            assert one.result.steps == 10
            assert_equal(one, two)
            run_ranks(pair, tmp_path / kind / "shard", changed(half, shard=True), **job)
            for file in ("best_model/model", f"best_model/{adapters.FOLDER}/adapter_model", "last/training"):
                whole, apart = (
                    load_file(tmp_path / kind / folder / "checkpoints" / f"{file}.safetensors")
                    for folder in ("two", "shard")
                )
                assert whole.keys() == apart.keys()
                for name, value in whole.items():
                    if not name.startswith("rng/"):
                        assert (apart[name] - value).abs().max() <= 1e-9, (file, name)
