"""The whole loop, as a user runs it: through `mlflow run`, stage by stage, twice the same."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from kronos.__main__ import main
from kronos.config.schema import FIELDS
from kronos.tracking.metric_names import MOST, MOST_OF_PIPELINE
from kronos.utils.files import clone

pytestmark = pytest.mark.slow
QUICK = {
    "baseline_lightgbm": "false",
    "baseline_seeds": 2,
    "backtest_max_instruments": 100,
    "epochs": 2,
    "n_train_iter": 1500,
    "n_val_iter": 500,
    "log_interval": 10,
    "inference_sample_count": 1,
    "calibration_series": 150,
    "calibration_sample_count": 10,
}
STAGES = ("data", "tokenizer", "predictor", "calibrate", "backtest")
ARTIFACTS = {
    "data": {"data_report.md", "findings.json"},
    "tokenizer": {"checkpoints", "summary.json", "loss_curve.png"},
    "predictor": {"checkpoints", "summary.json", "loss_curve.png"},
    "calibrate": {"calibration.json", "summary.json", "inputs"},
    "backtest": {
        "report.md",
        "predictions.parquet",
        "predictions.pkl",
        "figures",
        "daily.csv",
        "summary.json",
    },
}


def flags(values: dict[str, Any]) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def mlflow_run(folder: Path, entry: str, **values: Any) -> subprocess.CompletedProcess[str]:
    """`mlflow run` of the project with its outputs and tracking store in `folder`."""
    places = {
        "dataset_path": folder / "outputs/data", "save_path": folder / "outputs/models",
        "backtest_result_path": folder / "outputs/backtest_results",
    }  # fmt: skip
    given = [f"{name}={value}" for name, value in {**places, **values}.items()]
    command = [sys.executable, "-m", "mlflow", "run", str(clone()), "-e", entry, "--env-manager", "local"]
    command += ["--experiment-name", "kronos", *(part for text in given for part in ("-P", text))]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick pipeline through `mlflow run`; returns the folder with its outputs."""
    folder = tmp_path_factory.mktemp("pipeline")
    done = mlflow_run(folder, "pipeline", **QUICK)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SAMPLE DATA" in done.stdout
    return folder


def runs(folder: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = client.get_experiment_by_name("kronos")
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def by_stage(folder: Path) -> dict[str, Run]:
    return {run.data.tags["kronos.stage"]: run for run in reversed(runs(folder))}


def test_a_parent_and_five_children_are_finished_with_everything_on_them(pipeline: Path) -> None:
    client = MlflowClient(f"sqlite:///{pipeline}/mlflow.db")
    found = by_stage(pipeline)
    assert set(found) == {"pipeline", *STAGES}
    parent = found["pipeline"]
    for stage, run in found.items():
        assert run.info.status == "FINISHED"
        assert set(FIELDS) <= set(run.data.params)
        assert run.data.params["epochs"] == "2"
        assert {"kronos.seed", "kronos.process"} <= set(run.data.tags)
        artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"config.json", "versions.json"} <= artifacts
        if stage == "pipeline":
            continue
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert parent.data.tags[f"kronos.{stage}_run"] == run.info.run_id
        assert ARTIFACTS[stage] <= artifacts
        assert run.inputs.dataset_inputs[0].dataset.digest
        assert run.data.tags["kronos.data_digest"]
    for stage in ("tokenizer", "predictor"):
        run_id = found[stage].info.run_id
        losses = [metric.value for metric in client.get_metric_history(run_id, "val_loss")]
        assert losses == sorted(losses, reverse=True)
        for name in ("train_loss", "learning_rate", "windows_per_second"):
            assert client.get_metric_history(run_id, name), name
        best = {item.path for item in client.list_artifacts(run_id, "checkpoints/best_model")}
        assert {Path(path).name for path in best} == {"config.json", "digests.json", "model.safetensors"}
    assert "ranking/rank_ic" in found["backtest"].data.metrics
    assert "ranking/rank_ic" in parent.data.metrics
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "forecasts.html", "plotly.min.js"} <= artifacts
    assert parent.inputs.dataset_inputs[0].dataset.digest
    linked = {model.model_id for model in parent.outputs.model_outputs}
    own = {found[stage].data.tags["kronos.model_uri"] for stage in ("predictor", "calibrate")}
    assert {f"models:/{name}" for name in linked} == own
    assert {client.get_logged_model(name).name for name in linked} == {"kronos-nano"}
    assert len(parent.data.metrics) <= MOST_OF_PIPELINE
    assert all(len(run.data.metrics) <= MOST for run in found.values())


def test_the_outputs_are_where_the_guide_says(pipeline: Path) -> None:
    outputs = pipeline / "outputs"
    for name in (
        "models/finetune_tokenizer_demo/checkpoints/best_model/model.safetensors",
        "models/finetune_predictor_demo/checkpoints/best_model/config.json",
        "models/finetune_predictor_demo/summary.json",
        "backtest_results/finetune_backtest_demo/predictions.pkl",
        "backtest_results/finetune_backtest_demo/predictions.parquet",
        "pipeline_config.json",
    ):
        assert (outputs / name).is_file(), name
    hidden = [path for path in outputs.rglob(".*") if path.name != ".gitignore"]
    assert hidden == []


def test_the_report_names_universe_period_costs_and_benchmark(pipeline: Path) -> None:
    text = (pipeline / "outputs/backtest_results/finetune_backtest_demo/report.md").read_text()
    opening = text.split("## ")[0]
    for part in ("S&P 500 members at some time", "2010-06-0", "costs 0.100 %", "equal weight", "survivorship",
                 "oo short to tell"):  # fmt: skip
        assert part in opening


def results(folder: Path) -> dict[str, Any]:
    """What two equal runs must have in common."""
    outputs = folder / "outputs"
    found: dict[str, Any] = {}
    for model in ("finetune_tokenizer_demo", "finetune_predictor_demo"):
        summary = json.loads((outputs / "models" / model / "summary.json").read_text())
        found[model] = (summary["curve"], summary["learning_rates"], summary["digest"], summary["key"])
    backtest = outputs / "backtest_results" / "finetune_backtest_demo"
    found["predictions"] = pd.read_parquet(backtest / "predictions.parquet")
    found["pickle"] = (backtest / "predictions.pkl").read_bytes()
    for name in ("report.md", "daily.csv", "daily_ic.csv"):
        found[name] = (backtest / name).read_text()
    return found


def test_the_same_seed_gives_the_same_numbers(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another folder and without `mlflow run`."""
    monkeypatch.chdir(tmp_path)
    assert main(["pipeline", *flags(QUICK)]) == 0
    again = results(tmp_path)
    for name, value in results(pipeline).items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, again[name], check_exact=True)
            assert np.isfinite(value["close"]).all()
        else:
            assert value == again[name], name


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_runs_alone_with_any_field(stage: str, pipeline: Path) -> None:
    done = mlflow_run(pipeline, stage, **{**QUICK, "epochs": 1 if stage == "tokenizer" else 2, "seed": 100})
    assert done.returncode == 0, done.stderr[-3000:]
    newest = runs(pipeline)[0]
    assert (newest.data.tags["kronos.stage"], newest.info.status) == (stage, "FINISHED")
    if stage == "tokenizer":  # another key: trained anew, and the stored predictor is not its own any more
        again = mlflow_run(pipeline, stage, **QUICK)
        assert again.returncode == 0


def test_a_wrong_field_ends_mlflow_run_failed_with_the_message(pipeline: Path) -> None:
    done = mlflow_run(pipeline, "tokenizer", epocs=1)
    assert done.returncode == 1
    assert "unknown flag --epocs: did you mean --epochs?" in done.stderr
    assert {run.info.status for run in runs(pipeline)} == {"FINISHED", "FAILED"}


def test_skip_flags_use_the_stored_output(pipeline: Path) -> None:
    skips = {"skip_data_process": "true", "skip_tokenizer": "true", "skip_predictor": "true"}
    done = mlflow_run(pipeline, "pipeline", **QUICK, **skips, reuse="false")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("skipped, the stored output is used") == 3


def test_a_second_pipeline_reuses_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["pipeline", *flags({**QUICK, "n_train_iter": 300, "epochs": 1})]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("reused, nothing it depends on has changed") == 5
    *figures, report, candles, done = printed.splitlines()[-9:]
    folder = Path("outputs/backtest_results/finetune_backtest_demo")
    tiles = json.loads((folder / "metrics.json").read_text())["headline"]
    names = ["Verdict", "Rank IC", "Skill against the last price", "Coverage of the 90 % band",
             "Excess after costs, per year", "These days were looked at before"]  # fmt: skip
    assert [tile["name"] for tile in tiles] == names
    for line, tile in zip(figures, tiles, strict=True):
        assert line.split(tile["name"])[1].strip() == f"{tile['value']}  ({tile['detail']})"
    assert report == f"backtest: report in {folder / 'report.md'} (and report.html)"
    assert candles == f"backtest: candles in {folder / 'forecasts.html'}"
    newest = runs(tmp_path)[0]
    assert done == f"pipeline: done, run {newest.info.run_id}; view it with  mlflow ui"
    described = newest.data.tags["mlflow.note.content"]
    for tile in tiles:
        assert f"| {tile['name']} | **{tile['value']}** | {tile['detail']} |" in described
