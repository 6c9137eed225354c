"""The loss on the test range: the objective's own score of its windows, from weights that stay as they were."""

import json
from types import SimpleNamespace

import pytest
import torch

from kronos.config.loading import load_config, recipe_path
from kronos.data.window_order import epoch_order
from kronos.data.windows import Windows
from kronos.model import checkpoint, load_predictor, load_tokenizer
from kronos.stages.base import Inputs
from kronos.stages.inputs import resolve_splits, stored_bars, windows_of
from kronos.stages.test_loss import test_losses as losses_on_test
from kronos.stages.weights import Models, Weights
from kronos.training.objectives import PredictorObjective, TokenizerObjective


def test_it_is_the_score_of_the_chosen_windows_in_one_batch(store, weights):
    config, _ = load_config(str(recipe_path("sample")), {"n_val_iter": "300"})
    bars = stored_bars(config)
    splits = resolve_splits(config, bars)
    pair = {
        "tokenizer": load_tokenizer(str(weights / "tokenizer")),
        "predictor": load_predictor(str(weights / "predictor")),
    }
    both = [Weights(model, "", {}) for model in pair.values()]
    inputs = Inputs({}, bars, splits, Models(((both[0], both[1]),)))
    before = [checkpoint.digest(model) for model in pair.values()]
    said: list[str] = []
    found = losses_on_test(SimpleNamespace(config=config, say=said.append), inputs)
    lookback, horizon = config.lookback_window, config.predict_window
    split = windows_of(config, bars, "test", splits, lookback + horizon)
    source = Windows(bars, split, lookback=lookback, clip=config.clip, seed=config.seed)
    batch = source.batch(epoch_order(len(source), 300, config.seed, None), None)
    for kind, objective in (
        ("tokenizer", TokenizerObjective(lookback, horizon)),
        ("predictor", PredictorObjective(pair["tokenizer"], lookback, horizon)),
    ):
        with torch.inference_mode():
            total, count = objective.score(pair[kind].eval(), batch)["val_loss"]
        assert found[f"test_loss_{kind}"] == pytest.approx(float(total) / count, rel=1e-5)
    assert found["test_windows"] == 300 and "test loss on" in said[0]
    assert [checkpoint.digest(model) for model in pair.values()] == before
    assert not any(model.training for model in pair.values())


@pytest.mark.slow
def test_a_backtest_logs_it_once_and_reports_it(finished):
    folder = finished / "outputs" / "backtest_results" / "finetune_backtest_demo"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["test_windows"] == 200 and metrics["test_loss_predictor"] > 0
    assert f"{metrics['test_loss_predictor']:.5g}" in (folder / "report.md").read_text()
