"""What a run says of itself: a name that tells it apart, its result, and a command line that means the same."""

import os
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from kronos.__main__ import main
from kronos.cli.arguments import help_parser, parse_flags
from kronos.config.loading import load_config
from kronos.config.schema import FIELDS
from kronos.distributed.load import busy_machine
from kronos.stages import STAGES
from kronos.stages.base import Result
from kronos.stages.description import command, describe, run_name
from kronos.stages.train import log_closing
from kronos.tracking.client import Tracking
from kronos.tracking.reader import compare, load_run
from kronos.tracking.run import EXPERIMENT, NOTE
from kronos.utils.files import RECORD

GIVEN: list[dict[str, Any]] = [
    {},
    {"predictor_learning_rate": "0.001"},
    {"model_preset": "mini"},
    {"fast_mode": "true", "epochs": "7"},
    {"data_source": "qlib", "freeze_tokenizer": "true"},
    {"data_source": "csv", "data_path": "my bars/a.csv", "column_names": "Px=close,Zeit=datetime"},
    {"data_source": "csv", "data_path": "a.csv", "symbols": "A,B", "train_time_range": "2020-01-01,2021-01-01"},
    {"backtest_limit_threshold": "0.2", "search_space": "none", "predict_quantiles": "0.1,0.9"},
]  # fmt: skip


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """One store for all tests that log runs of their own, since making a database takes seconds."""
    folder = tmp_path_factory.mktemp("tracking")
    return Tracking(f"sqlite:///{folder}/mlflow.db", "kronos", unsent=folder / "unsent")


@pytest.mark.parametrize("fields", GIVEN)
def test_the_command_of_a_configuration_gives_the_same_configuration(fields: dict[str, Any]) -> None:
    config, _ = load_config(None, fields)
    *program, stage = shlex.split(command("pipeline", config))[:4]
    assert [*program, stage] == ["python", "-m", "kronos", "pipeline"]
    flags = shlex.split(command("pipeline", config))[4:]
    path, given, problems = parse_flags(help_parser("kronos", "", FIELDS), flags)
    assert path is None and problems == []
    assert load_config(None, given)[0] == config


def test_a_name_tells_stage_model_and_what_differs() -> None:
    def name(stage: str, **fields: Any) -> str:
        return run_name(STAGES[stage], load_config(None, fields)[0])

    assert (
        name("pipeline", predictor_learning_rate="0.001") == "pipeline · nano · predictor_learning_rate=0.001"
    )
    assert name("tokenizer", predictor_learning_rate="0.001") == "tokenizer · nano"
    assert name("data", save_path="elsewhere", tracking_uri="http://127.0.0.1:1") == "data"
    assert name("pipeline", data_source="csv", data_path="a.csv", epochs="3", batch_size="8", seed="1") == (
        "pipeline · small · epochs=3 · batch_size=8 · seed=1 · 2 more"
    )


def test_a_description_has_result_differences_and_the_next_command() -> None:
    config, _ = load_config(None, {"seed": "5"})
    tiles = [{"name": "Rank IC", "value": "+0.1000", "detail": "-0.1 to +0.3"}]
    record = {"metrics": {}, "headline": tiles}
    backtest = Result("backtest", "1a2b", Path("b"), record)
    for stage, result in (
        ("backtest", backtest),
        ("pipeline", Result("pipeline", "3c", Path("p"), {}, children={"backtest": backtest})),
    ):
        text = describe(STAGES[stage], config, result)
        assert "| Rank IC | **+0.1000** | -0.1 to +0.3 |" in text and "`seed=5`" in text
        assert "python -m kronos predict --seed 5" in text
    open_run = describe(STAGES["predictor"], config)
    assert (
        open_run.startswith("**Not ended.**") and "resumes the training from its last checkpoint" in open_run
    )


def test_a_stages_run_and_its_experiment_are_described(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "--symbols", "AAPL,ABT", "--data-source", "sample"]) == 0
    client = MlflowClient(
        f"sqlite:///{in_folder}/mlflow.db"
    )  # a relative one is another test's, kept by MLflow
    experiment = client.get_experiment_by_name("kronos")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "data · symbols=AAPL,ABT"
    assert "| instruments | **2** |" in run.data.tags[NOTE] and "Next:" in run.data.tags[NOTE]
    assert experiment.tags[NOTE] == EXPERIMENT
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"data: done, run {run.info.run_id}; view it with  mlflow ui"


def test_an_experiment_shows_its_newest_result_and_keeps_a_users_own_words(tracking: Tracking) -> None:
    def note() -> str:
        return str(tracking.client.get_experiment(tracking.experiment_id).tags.get(NOTE, ""))

    with tracking.run("pipeline", {}) as run:
        for newest, shown in (("first", "first"), ("", "first"), ("second", "second")):
            run.describe_experiment(newest)
            assert note() == f"{EXPERIMENT}\n\n{shown}"
        tracking.client.set_experiment_tag(tracking.experiment_id, NOTE, "my own words")
        run.describe_experiment("third")
    assert note() == "my own words"


@pytest.mark.parametrize(("best", "ends"), [(2, [3.0, 1.0, 2.0, 1.0]), (3, [3.0, 2.0, 1.0])])
def test_val_loss_ends_at_the_value_of_the_saved_weights(
    best: int, ends: list[float], tracking: Tracking
) -> None:
    with tracking.run("tokenizer", {"stage": "tokenizer"}) as run:
        for step, value in enumerate(ends[:3], start=1):
            run.metrics(step, {"val_loss": value})
        log_closing(run, {"best_val_loss": 1.0, "best_step": best, "steps": 3})
    found = load_run(run.id, tracking.uri)
    assert found.metrics["val_loss"] == found.metrics["best_val_loss"] == 1.0
    assert list(found.history("val_loss")) == ends


def test_compare_shows_the_metrics_that_tell_the_result_or_all(
    tracking: Tracking, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tracking.uri is not None
    with tracking.run("backtest", {"stage": "backtest"}) as tested:
        tested.json({"metrics": {"looks_before": 1.0, "rank_ic_mean": 0.1, "mae": 2.0}}, RECORD)
    with tracking.run("pipeline · nano", {"stage": "pipeline", "backtest_run": tested.id}) as run:
        run.metrics(0, {"evidence/looks_before": 1.0, "ranking/rank_ic": 0.1})
    with tracking.run("audit", {"stage": "audit"}) as other:
        other.metrics(0, {"cases": 1.0, "power": 0.5})
    table = compare([load_run(run.id, tracking.uri)], headline=True)
    assert list(table.index.get_level_values("name")) == ["ranking/rank_ic", "evidence/looks_before"]
    assert list(table.columns) == [f"pipeline {run.id[:8]}"]
    assert len(compare([load_run(other.id, tracking.uri)], headline=True)) == 2  # it has none of them
    assert main(["compare", run.id, "--tracking-uri", tracking.uri]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 more figures: --all"
    assert main(["compare", run.id, "--all", "--tracking-uri", tracking.uri]) == 0
    assert "backtest/mae" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (None, "run 1a; view it with  mlflow ui"),
        ("sqlite:///a b.db", "run 1a; view it with  mlflow ui --backend-store-uri 'sqlite:///a b.db'"),
        ("http://me:secret@host:5000/mlflow/",
         "run http://host:5000/mlflow/#/experiments/{0}/runs/1a?workflowType=machine_learning"),
        ("https://host", "run https://host/#/experiments/{0}/runs/1a?workflowType=machine_learning"),
    ],
)  # fmt: skip
def test_a_run_is_shown_with_its_address_in_the_training_view(
    address: str | None, shown: str, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SimpleNamespace(tracking_uri=address or "sqlite:///mlflow.db")
    monkeypatch.setattr(tracking, "client", client)
    assert tracking.view("1a") == shown.format(tracking.experiment_id)


def test_more_load_than_cores_is_told_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (5.0, 1.0, 1.0), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    line = busy_machine()
    assert line is not None and "load 5.0 on 2 cores" in line and "OMP_NUM_THREADS=1" in line
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS" not in str(busy_machine())
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0, 9.0, 9.0), raising=False)
    assert busy_machine() is None
