"""The search stage: a parent and its trials in MLflow, an answer that the pipeline takes, mistakes in plain words."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.config.schema import FIELDS, Config
from kronos.stages.looks import read_looks
from kronos.stages.search import trial_pool as trial_processes
from kronos.stages.search.selection import interval
from kronos.stages.search.session import budget
from kronos.stages.search.trial_pool import TrialFailed, TrialProcesses
from kronos.training.trainer import TrainingStopped
from kronos.utils.errors import Pruned
from kronos.utils.files import read_json

TINY = ["--epochs", "1", "--n-train-iter", "384", "--n-val-iter", "64", "--log-interval", "4"]
LOOKS = Path("outputs/looks.jsonl")
SEARCH = [*TINY, "--search-reports", "3", "--search-batch-size", "16,32", "--skip-data-process"]


def address() -> str:
    """The tracking store of the test, in full: MLflow keeps its connections, and an address once given."""
    return f"sqlite:///{Path.cwd()}/mlflow.db"


def run_stage(stage: str, *arguments: str) -> int:
    return main([stage, *arguments, "--tracking-uri", address()])


def runs(stage: str) -> list[Run]:
    client = MlflowClient(address())
    experiment = client.get_experiment_by_name("kronos")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`kronos.stage` = '{stage}'")
    return list(reversed(found))


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run_stage("search", *arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.slow
def test_the_answer_repeats_its_trial_and_the_study_goes_on_under_its_parent(store: Path) -> None:
    assert run_stage("search", *SEARCH, "--n-trials", "2", "--search-pruner", "none") == 0
    (parent,), children = runs("search"), runs("trial")
    assert parent.info.status == "FINISHED" and len(children) == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in children} == {"FINISHED"}
    for run in children:
        assert set(FIELDS) <= set(run.data.params)
        assert {"val_loss", "train_loss", "duration_seconds"} <= set(run.data.metrics)
    artifacts = {item.path for item in MlflowClient(address()).list_artifacts(parent.info.run_id)}
    assert {"best.json", "best_trial.json", "trials.csv", "top_trials.csv", "figures"} <= artifacts

    (folder,) = Path("outputs/search").glob("predictor-*")
    best = read_json(folder / "best_trial.json")
    assert best["run_id"] in {run.info.run_id for run in children}
    config, _ = load_config(str(folder / "best.json"))
    assert config.predictor_learning_rate == best["params"]["predictor_learning_rate"]
    assert run_stage("predictor", "--config-path", str(folder / "best.json")) == 0
    again = read_json("outputs/models/finetune_predictor_demo/summary.json")
    assert again["metrics"]["best_val_loss"] == best["values"][0]  # bit for bit

    assert run_stage("search", *SEARCH, "--n-trials", "4", "--skip-tokenizer", "--search-pruner", "none") == 0
    (same,) = runs("search")
    assert same.info.run_id == parent.info.run_id and len(runs("trial")) == 4
    assert same.data.metrics["trials_complete"] == 4
    assert list(pd.read_csv(folder / "trials.csv")["number"]) == [0, 1, 2, 3]
    looked = read_looks(LOOKS, pytest.fail)
    assert [(one.kind, one.models) for one in looked] == [("search", 2), ("search", 4)]
    assert {one.last for one in looked} == {str(config.val_time_range[1])}
    assert same.data.tags["kronos.look"] == looked[0].key == looked[1].key


class Stub:
    """Stands for the training of a trial: each is worse than the last, one is not finite, 32 does not fit."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.last = 0.0  # value of the latest call

    def __call__(self, config: Config, record: Any) -> dict[str, Any]:
        self.sizes.append(config.batch_size)
        Path(config.save_path).mkdir(parents=True)
        number = len(self.sizes)
        if config.batch_size == 32:
            raise MemoryError("no memory for a batch of 32")
        if number == 3:
            raise TrainingStopped("train_loss is nan", 3, 1e-3, [1])
        value = self.last = 1 + number / 10
        for step in range(config.epochs + 1):
            record(step, {"val_loss": value - step / 1000})
        metrics = {
            "best_val_loss": value,
            "val_loss": value,
            "steps": config.epochs,
            "best_step": config.epochs,
        }
        return {"values": [value], "metrics": metrics, "digest": "0"}


@pytest.mark.slow
def test_every_end_of_a_trial_is_on_record_and_the_best_are_repeated(
    store: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Stub()
    monkeypatch.setattr("kronos.stages.search.session.train", stub)
    given = [*SEARCH, "--search-batch-size", "8,16,32", "--tokenizer-path", str(weights / "tokenizer")]
    given += ["--n-trials", "12", "--search-pruner", "median", "--search-repeats", "3", "--search-top", "1"]
    assert run_stage("search", *given) == 0
    (parent,), trials = runs("search"), runs("trial")
    once = [run for run in trials if "kronos.repeat" not in run.data.tags]
    states = [run.data.tags["kronos.trial_state"] for run in once]
    expected = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    assert [run.info.status for run in once] == [expected[state] for state in states]
    assert {int(run.data.tags["kronos.trial"]) for run in once} == set(range(12))
    assert set(states) == set(expected)
    assert stub.sizes.count(32) == 1  # not drawn again
    reasons = [run.data.tags["kronos.reason"] for run in once if run.info.status == "FAILED"]
    assert any("no memory for a batch of 32" in reason for reason in reasons)
    assert all("duration_seconds" in run.data.metrics for run in trials)
    pruned = next(run for run in once if run.info.status == "KILLED")
    assert "pruned after report" in pruned.data.tags["kronos.reason"]
    assert len(MlflowClient(address()).get_metric_history(pruned.info.run_id, "val_loss")) > 1

    figures = {item.path for item in MlflowClient(address()).list_artifacts(parent.info.run_id, "figures")}
    assert figures == {
        f"figures/{name}.png"
        for name in ("history", "importance", "slice", "parallel_coordinates", "timeline",
                     "intermediate_values")
    }  # fmt: skip
    (folder,) = Path("outputs/search").glob("predictor-*")
    table = pd.read_csv(folder / "trials.csv")
    assert sorted(table["state"].unique()) == ["COMPLETE", "FAIL", "PRUNED"]
    top = pd.read_csv(folder / "top_trials.csv")
    assert list(top["val_loss_seeds"])[:2] == [3, 1]
    assert top["val_loss_low"][0] < top["val_loss_mean"][0] < top["val_loss_high"][0]
    best, text = read_json(folder / "best_trial.json"), (folder / "report.md").read_text(encoding="utf-8")
    assert best["other_seeds"]["val_loss"] == {"seeds": 1, "mean": stub.last, "low": None, "high": None}
    assert parent.data.metrics["best_val_loss_other_seeds"] == stub.last
    assert best["selection"] == {"left_out": "they need a value per day, which val_loss does not have"}
    assert "overfitting are left out: they need a value per day, which val_loss does not have." in text
    seeds = [run.data.params["seed"] for run in trials if "kronos.repeat" in run.data.tags]
    assert seeds == ["101", "102"]

    calls = len(stub.sizes)
    assert run_stage("search", *given) == 0  # nothing is left to do
    assert len(stub.sizes) == calls


@pytest.mark.slow
def test_two_objectives_in_processes_side_by_side_with_repeats(store: Path) -> None:
    flags = ["--search-metric", "rank_ic,crps", "--search-stage", "both", "--n-trials", "2", "--n-jobs", "2"]
    assert run_stage("search", *SEARCH, *flags, "--search-repeats", "2", "--search-top", "1") == 0
    assert [run.info.status for run in runs("trial")] == ["FINISHED"] * 3
    (folder,) = Path("outputs/search").glob("both-*")
    top = pd.read_csv(folder / "top_trials.csv")
    assert top["rank_ic_seeds"][0] == 2 and top["rank_ic_low"][0] < top["rank_ic_high"][0]
    best = read_json(folder / "best_trial.json")
    assert {name: found["seeds"] for name, found in best["other_seeds"].items()} == {"rank_ic": 1, "crps": 1}
    chosen = best["selection"]
    assert chosen.get("trials") == 2 or "days in common, fewer than 10" in chosen["left_out"]


@pytest.mark.slow
def test_the_processes_of_a_trial_load_neither_mlflow_nor_optuna() -> None:
    code = (
        "import sys, kronos.stages.search.trial_worker, kronos.stages.train_worker\n"
        "import kronos.stages.train, kronos.stages.evaluate\n"
        "print(sorted({'mlflow', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_trials_of_two_ranks_are_pruned_and_tracked(store: Path) -> None:
    flags = ["--nproc-per-node", "2", "--n-trials", "3", "--search-pruner", "asha"]
    assert run_stage("search", *SEARCH, *flags) == 0
    statuses = [run.info.status for run in runs("trial")]
    assert len(statuses) == 3 and set(statuses) <= {"FINISHED", "KILLED"}


def test_mistakes_are_told_before_the_first_trial(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage("tokenizer", *TINY) == 0
    capsys.readouterr()
    given = [*SEARCH, "--skip-tokenizer", "--n-trials", "1"]
    assert "batch size 999 is above the windows available: 128" in fails(
        capsys, *given, "--search-batch-size", "999"
    )
    assert "cannot be reached" in fails(capsys, *given, "--storage", "sqlite:////nowhere/at/all.db")
    assert "is no range" in fails(capsys, *given, "--search-learning-rate", "0.1,0.01")
    assert runs("trial") == []


def test_the_budget_in_windows_is_that_of_the_configuration() -> None:
    config = Config(epochs=3, n_train_iter=20_000, search_reports=9)
    assert budget(config, 38_323) == {"epochs": 9, "n_train_iter": 6667}
    assert budget(config, 6_000) == {"epochs": 9, "n_train_iter": 2000}
    assert budget(Config(epochs=30, n_train_iter=100), 1000)["epochs"] == 30


def test_an_interval_needs_two_seeds() -> None:
    assert interval([2.0]) == (2.0, None, None)
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and low == pytest.approx(2 - 4.302653 / 3**0.5) and high == pytest.approx(4 - low)


STUB = """
import json, os, sys, time
config = json.loads(sys.stdin.read())
print(json.dumps({"step": 1, "metrics": {"val_loss": 1.0}}), flush=True)
HOW
"""


def stub(monkeypatch: pytest.MonkeyPatch, how: str) -> TrialProcesses:
    code = STUB.replace("HOW", how)
    monkeypatch.setattr(trial_processes, "python_module", lambda name: [sys.executable, "-c", code])
    return TrialProcesses(Config(cpu=True))


@pytest.mark.parametrize(
    ("how", "reason", "starved"),
    [
        ("os.kill(os.getpid(), 9)", "was killed by signal 9", False),
        ("sys.exit(3)", "ended with status 3", False),
        ("time.sleep(60)", "time limit: not finished after 2 s", False),
        (
            'print(json.dumps({"error": "CUDA out of memory", "out_of_memory": True}))',
            "CUDA out of memory",
            True,
        ),
    ],
)
def test_how_a_trial_process_died_is_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, reason: str, starved: bool
) -> None:
    processes = stub(monkeypatch, how)
    with pytest.raises(TrialFailed, match=reason) as caught:
        processes.train(
            Config(), lambda step, metrics: None, 2.0 if "sleep" in how else 30.0, tmp_path / "log"
        )
    assert caught.value.out_of_memory == starved


def test_a_pruned_trial_process_is_ended_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    processes = stub(
        monkeypatch, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )

    def prune(step: int, metrics: dict[str, Any]) -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        raise Pruned("weak")

    with pytest.raises(Pruned):
        processes.train(Config(), prune, 0, tmp_path / "log")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIG_DFL)


@pytest.mark.slow
def test_a_search_writes_in_its_own_folder_and_leaves_the_pipelines_models_alone(
    finished: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "outputs", "outputs")

    def outside() -> dict[str, bytes]:
        files = [path for path in Path("outputs").rglob("*") if path.is_file() and "search" not in path.parts]
        return {path.as_posix(): path.read_bytes() for path in files if path != LOOKS}

    before = outside()
    budget = ["--epochs", "2", "--n-train-iter", "256", "--n-val-iter", "64", "--search-reports", "2"]
    assert main(["search", *budget, "--search-batch-size", "16,32", "--n-trials", "1"]) == 0
    said = capsys.readouterr().out
    assert "tokenizer: using the one in outputs/models/finetune_tokenizer_demo" in said
    assert outside() == before
    assert [one.kind for one in read_looks(LOOKS, pytest.fail)] == [
        "backtest",
        "search",
    ]  # the only line outside

    shutil.rmtree("outputs/models")  # without a pipeline the search trains a tokenizer of its own
    assert main(["search", *budget, "--search-batch-size", "16,32", "--n-trials", "1"]) == 0
    assert Path("outputs/search/shared/finetune_tokenizer_demo/checkpoints/best_model").is_dir()
    assert not Path("outputs/models").exists()
