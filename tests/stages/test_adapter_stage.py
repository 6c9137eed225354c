"""The training stages with an adapter: what they say, log and save, their cache, a search over adapters, mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from kronos.__main__ import main
from kronos.config.schema import Config
from kronos.stages import STAGES
from kronos.training.adapters import FOLDER
from kronos.utils.files import RECORD, read_json, write_json

FIELDS = {"adapter", "adapter_rank", "adapter_alpha", "adapter_targets"}
SMALL = [
    "--epochs",
    "1",
    "--n-train-iter",
    "384",
    "--n-val-iter",
    "64",
    "--adapter",
    "lora",
    "--adapter-rank",
    "2",
]


def runs(stage: str) -> list[Any]:
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment = client.get_experiment_by_name("kronos")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`kronos.stage` = '{stage}'"))


@pytest.mark.slow
def test_both_models_are_adapted_logged_and_reused_and_a_search_varies_the_adapter(
    store: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{Path.cwd()}/mlflow.db"
    fields = [*SMALL, "--tracking-uri", uri]
    for kind in ("tokenizer", "predictor"):
        fields += [f"--pretrained-{kind}-path", str(weights / kind)]
        assert main([kind, *fields]) == 0
        said = capsys.readouterr().out
        folder = Path(f"outputs/models/finetune_{kind}_demo")
        (run,) = runs(kind)
        trained, size = (int(run.data.params[f"{name}_parameters"]) for name in ("trainable", "model"))
        assert 0 < trained < 0.2 * size and f"{size:,} parameters, {trained:,} of them trained" in said
        assert "GiB at most" in said and run.data.metrics["peak_memory_gib"] > 0.05
        place = f"checkpoints/best_model/{FOLDER}"
        files = {f"{place}/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")}
        assert files <= read_json(folder / RECORD)["outputs"].keys()
        logged = MlflowClient(uri).list_artifacts(run.info.run_id, place)
        assert {item.path for item in logged} == files
        described = json.loads((folder / place / "adapter_config.json").read_text())
        assert described["base_model_name_or_path"] == str(weights / kind)
        assert set(STAGES[kind].key_fields(Config())) >= FIELDS
        assert main([kind, *fields]) == 0 and f"{kind}: reused" in capsys.readouterr().out
    write_json("space.json", {
        "adapter": {"type": "categorical", "choices": ["dora"]},
        "adapter_rank": {"type": "int", "low": 1, "high": 4},
        "adapter_targets": {"type": "categorical", "choices": ["attention", "attention,heads"]},
        "batch_size": None,
    })  # fmt: skip
    search = ["search", *fields, "--skip-data-process", "--search-space", "space.json", "--n-trials", "1"]
    assert main([*search, "--search-reports", "2", "--search-pruner", "none"]) == 0
    trials = [run.data for run in runs("trial")]
    assert len(trials) == 1 and all(trial.params["adapter"] == "dora" for trial in trials)
    assert all(int(trial.params["adapter_rank"]) <= 4 and "val_loss" in trial.metrics for trial in trials)


def test_an_adapter_of_random_weights_is_refused_in_one_line(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predictor", "--adapter", "lora", "--pretrained-predictor-path", "none"]) == 2
    said = capsys.readouterr().err
    assert "adapter=lora is an addition to pretrained weights, and pretrained_predictor_path is none" in said
    assert "Traceback" not in said
