"""The pipeline as a class: steps replaced one by one, an objective of one's own, all in one tracked run."""

from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from mlflow import MlflowClient

from kronos import TrainingPipeline
from kronos.config.schema import Config
from kronos.training.objectives import TokenizerObjective
from kronos.utils.errors import UserError

SMALL = {"n_train_iter": 256, "n_val_iter": 64, "epochs": 1}


class Robust(TokenizerObjective):
    """Absolute instead of squared errors; scored like every other tokenizer."""

    def loss(self, model: Any, batch: Any) -> Any:
        (coarse, full), quantizer, _, _ = model(batch.x)
        loss = (F.l1_loss(coarse, batch.x) + F.l1_loss(full, batch.x) + quantizer) / 2
        return loss, {"train_quantizer": quantizer.detach()}


def robust(config: Config, tokenizer: Any) -> Robust:
    return Robust(config.lookback_window, config.predict_window)


class Mine(TrainingPipeline):
    """Bars, a tokenizer trained by another objective, and a word instead of the rest."""

    def train_tokenizer(self) -> Any:
        return self.fit("tokenizer", objective=robust)

    def train_predictor(self) -> None:
        self.said = "no predictor today"

    def backtest(self) -> None:
        pass


def test_steps_can_be_replaced_one_by_one(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = Mine(**SMALL)
    outcomes = pipeline.run()
    assert list(outcomes) == ["data", "tokenizer"]
    assert pipeline.said == "no predictor today"
    made = outcomes["tokenizer"].record["made_from"]
    assert made["inputs"]["objective"].startswith("robust ")
    client = MlflowClient()
    child = client.get_run(outcomes["tokenizer"].run_id)
    assert client.get_run(child.data.tags["mlflow.parentRunId"]).data.tags["kronos.stage"] == "pipeline"
    assert Path("outputs/models/finetune_tokenizer_demo/checkpoints/best_model/config.json").is_file()
    capsys.readouterr()
    assert Mine(**SMALL).run()["tokenizer"].reused
    plain = TrainingPipeline(**SMALL).train_tokenizer()  # alone, by the public objective: another origin
    assert plain is not None and not plain.reused
    assert "tokenizer: runs, since its record does not match" in capsys.readouterr().out


@pytest.mark.slow
def test_several_processes_train_by_an_objective_of_ones_own(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[2]}")
    outcomes = Mine(**SMALL, nproc_per_node=2, batch_size=32).run()
    assert outcomes["tokenizer"].record["metrics"]["steps"] == 4
    pipeline = TrainingPipeline(**SMALL, nproc_per_node=2, reuse=False)
    with pytest.raises(UserError, match="cannot be imported by other processes"):
        pipeline.fit("tokenizer", objective=lambda config, tokenizer: robust(config, tokenizer))


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="fit takes tokenizer or predictor"):
        TrainingPipeline(**SMALL).fit("both")
    with pytest.raises(UserError, match="a configuration or fields, not both"):
        TrainingPipeline(Config(), epochs=3)
