"""Learning rates of layers, gradual unfreezing, and the best weights by forecasts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ranked
import torch
from fit_settings import changed, fit_settings
from test_ranks import assert_equal, crew, run

from kronos.distributed.launcher import Place
from kronos.training.layers import GradualUnfreezing, layers_of
from kronos.training.optimizer import adamw, schedule
from kronos.training.settings import FitSettings

SETTINGS = fit_settings(
    epochs=4, batch_size=8, learning_rate=1e-3, n_train_iter=16, n_val_iter=8, log_interval=1, seed=7,
    train_eval_windows=8, settings_key="a",
)  # fmt: skip  # 8 steps
ALL = {"layer_decay": 0.5, "unfreeze_every": 0.75, "ema_decay": 0.9, "decay_norms_biases": False}


def train(folder: Path, settings: FitSettings = SETTINGS, **options: Any) -> SimpleNamespace:
    job = {"kind": "predictor", "preset": "nano", "dropout": 0.1, "settings": ranked_settings(settings)}
    job |= {name: options.pop(name) for name in ("resume", "frozen", "fields", "kind") if name in options}
    rows: list[tuple[int, str, float]] = []

    def report(step: int, values: dict[str, float]) -> None:
        rows.extend((step, name, value) for name, value in values.items() if name != "windows_per_second")

    model, result = ranked.train(job, Place(0, 1, 0, 1), folder, report, **options)
    return SimpleNamespace(rows=rows, result=result, weights=model.state_dict())


def ranked_settings(settings: FitSettings) -> dict[str, Any]:
    from fit_settings import as_keywords

    return as_keywords(settings)


def test_layers_are_counted_from_the_top_and_a_tokenizer_has_one() -> None:
    model, _ = ranked.build("predictor", "nano", 0.0)
    depth, layers = len(model.transformer), layers_of(model)
    assert layers.keys() == dict(model.named_parameters()).keys()
    for name, layer in layers.items():
        part, *rest = name.split(".")
        expected = {"embedding": depth + 1, "time_emb": depth + 1}.get(part, 0)
        assert layer == (depth - int(rest[0]) if part == "transformer" else expected), name
    tokenizer, _ = ranked.build("tokenizer", "nano", 0.0)
    assert set(layers_of(tokenizer).values()) == {0}


@pytest.mark.parametrize("lr_schedule", ["one_cycle", "warmup_stable_decay"])
def test_each_layer_has_its_power_of_the_decay_at_every_step(lr_schedule: str) -> None:
    model, _ = ranked.build("predictor", "nano", 0.0)
    layers, names = layers_of(model), {parameter: name for name, parameter in model.named_parameters()}
    plain = changed(SETTINGS, lr_schedule=lr_schedule)
    whole = adamw(model, plain)
    assert len(whole.param_groups) == 1
    optimizer = adamw(model, changed(plain, layer_decay=0.5, decay_norms_biases=False))
    schedules = [schedule(one, settings, 20) for one, settings in (
        (whole, plain), (optimizer, changed(plain, layer_decay=0.5)),
    )]  # fmt: skip
    found = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(found) == sorted(names[parameter] for parameter in whole.param_groups[0]["params"])
    for _ in range(20):
        rate = whole.param_groups[0]["lr"]
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert group["lr"] == pytest.approx(rate * 0.5 ** layers[names[parameter]], rel=1e-12)
        for one, steps in zip((whole, optimizer), schedules, strict=True):
            one.step()
            steps.step()


def test_layer_decay_of_one_is_the_training_without_it(tmp_path: Path) -> None:
    one, other = (train(tmp_path / str(decay), changed(SETTINGS, layer_decay=decay)) for decay in (1.0, 0.5))
    assert {name for _, name, _ in one.rows} == {name for _, name, _ in other.rows}
    assert [row for row in one.rows if "learning_rate" in row[1]] == [
        row for row in other.rows if "learning_rate" in row[1]
    ]  # the rate of the heads
    assert one.result.curve != other.result.curve
    assert one.result.curve == train(tmp_path / "default").result.curve


@pytest.mark.parametrize("lr_schedule", ["one_cycle", "warmup_stable_decay"])
@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_resumed_run_equals_the_straight_one(lr_schedule: str, stop_at: int, tmp_path: Path) -> None:
    """Bit for bit, with dropout, layer rates, averaged weights, and blocks that are unfrozen before and after."""
    settings, reached = changed(SETTINGS, lr_schedule=lr_schedule, **ALL), []
    straight = train(tmp_path / "straight", settings)
    first = train(
        tmp_path / "other", settings, progress=lambda step, *_: reached.append(step),
        stop_requested=lambda: reached[-1:] == [stop_at],
    )  # fmt: skip
    second = train(tmp_path / "other", settings, resume=True)
    assert second.result.resumed_from == stop_at
    assert first.rows + second.rows == straight.rows and second.result.curve == straight.result.curve
    assert all(torch.equal(weight, second.weights[name]) for name, weight in straight.weights.items())


def test_blocks_are_unfrozen_from_the_last_to_the_embeddings(tmp_path: Path) -> None:
    """Two blocks, one more layer every 1.5 epochs of two steps: from steps 3 and 6 on."""
    settings = changed(SETTINGS, unfreeze_every=1.5)
    model, _ = ranked.build("predictor", "nano", 0.1)
    before = dict(model.state_dict())
    layers = layers_of(model)

    def moved(stop_at: int) -> set[int]:
        reached: list[int] = []
        found = train(
            tmp_path / str(stop_at), settings, progress=lambda step, *_: reached.append(step),
            stop_requested=lambda: reached[-1:] == [stop_at],
        )  # fmt: skip
        return {layer for name, layer in layers.items() if not torch.equal(found.weights[name], before[name])}

    assert [moved(step) for step in (1, 3, 4, 6, 7)] == [{0, 1}, {0, 1}, {0, 1, 2}, {0, 1, 2}, {0, 1, 2, 3}]


def test_what_was_frozen_before_stays_frozen_and_something_is_always_trained() -> None:
    model, _ = ranked.build("predictor", "nano", 0.0)
    for part in (model.head, model.norm, model.dep_layer, model.transformer[1]):
        part.requires_grad_(False)
    unfreezing = GradualUnfreezing(model, 1.0, 2)
    unfreezing.before_step(0)
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"transformer"} and all(one.requires_grad for one in model.transformer[0].parameters())
    unfreezing.before_step(100)
    assert not any(one.requires_grad for one in model.head.parameters())


@pytest.mark.slow
def test_two_processes_equal_one_with_layer_rates_and_unfreezing(tmp_path: Path) -> None:
    settings = changed(SETTINGS, n_train_iter=32, batch_size=8, layer_decay=0.5, unfreeze_every=0.75)
    with crew(1) as alone, crew(2) as pair:
        one = run(alone, tmp_path / "one", settings, float64=True)
        half = changed(settings, batch_size=4, eval_batch_size=16)
        assert_equal(one, run(pair, tmp_path / "two", half, float64=True))


@pytest.mark.slow
@pytest.mark.parametrize("lr_schedule", ["one_cycle", "warmup_stable_decay"])
def test_sharded_layers_have_the_rates_of_whole_ones(lr_schedule: str, tmp_path: Path) -> None:
    settings = changed(SETTINGS, n_train_iter=32, layer_decay=0.5, lr_schedule=lr_schedule)
    with crew(2) as pair:
        together = run(pair, tmp_path / "whole", settings, float64=True)
        apart = run(pair, tmp_path / "apart", changed(settings, shard=True), float64=True)
    for (step, name, value), (_, _, twin) in zip(together.rows, apart.rows, strict=True):
        assert twin == pytest.approx(value, rel=1e-6), (step, name)


@pytest.mark.parametrize(("metric", "figures", "best", "steps"), [
    ("rank_ic", [0.1, 0.3, 0.2, None, 0.9], 2, 6),
    ("crps", [0.3, 0.1, 0.2, 0.1, 0.0], 2, 6),
    ("rank_ic", [None, None, -0.2, -0.1, -0.3], 6, 8),
])  # fmt: skip
def test_the_best_weights_and_patience_go_by_the_forecasts(
    metric: str, figures: list[float | None], best: int, steps: int, tmp_path: Path
) -> None:
    scored = iter(figures)

    def forecasts(model: Any, ranks: Any, stop: Any) -> dict[str, float]:
        value = next(scored)
        return {} if value is None else {metric: value}

    settings = changed(SETTINGS, early_stopping_metric=metric, early_stopping_patience=2)
    found = train(tmp_path, settings, forecasts=forecasts)
    assert (found.result.best_step, found.result.steps) == (best, steps)
    (entry,) = [one for one in found.result.curve if one["step"] == best]
    assert found.result.best_value == entry["val_loss"]
    assert entry.get(f"val_{metric}") == figures[best // 2]


def test_a_stop_while_forecasts_are_made_is_resumed_with_the_evaluation(tmp_path: Path) -> None:
    settings = changed(SETTINGS, early_stopping_metric="rank_ic")
    straight = train(tmp_path / "straight", settings, forecasts=lambda *_: {"rank_ic": 0.5})
    calls: list[int] = []

    def stopped(model: Any, ranks: Any, stop: Any) -> dict[str, float] | None:
        calls.append(1)
        return {"rank_ic": 0.5} if len(calls) < 3 else None

    first = train(tmp_path / "other", settings, forecasts=stopped, stop_requested=lambda: len(calls) >= 3)
    assert first.result.interrupted and first.result.steps == 4
    second = train(tmp_path / "other", settings, forecasts=lambda *_: {"rank_ic": 0.5}, resume=True)
    assert second.result.curve == straight.result.curve and second.result.best_step == 0
