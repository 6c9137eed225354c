"""Signals at chosen places of every stage: run states, what is left behind, and the same command afterwards.

SIGINT at every stage is in tests/test_clumsy.py, signals and killed ranks of a training in
tests/distributed/test_launch.py.
"""

import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import forked
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from newcomer import NAMES

from kronos.__main__ import main
from kronos.data.store import open_store
from kronos.utils.files import read_json

MODELS = Path("outputs/models")
BACKTEST = Path("outputs/backtest_results/finetune_backtest_demo")
TINY = ["--data-source", "sample", "--symbols", NAMES, "--epochs", "1", "--n-train-iter", "256", "--n-val-iter", "32",
        "--save-windows", "64", "--inference-sample-count", "1", "--baseline-seeds", "1", "--evaluation-series", "8",
        "--evaluation-sample-count", "2", "--backtest-n-symbol-hold", "3", "--backtest-n-symbol-drop", "1",
        "--baseline-lightgbm", "false", "--calibration-series", "100", "--calibration-sample-count", "10",
        "--audit-seeds", "20", "--n-trials", "2", "--search-batch-size", "32,64",
        "--search-reports", "1", "--search-pruner", "none",
        "--backtest-time-range", "2010-06-01,2010-06-30"]  # fmt: skip
TERM, HUP, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
# By stage: the place where the signal arrives, and the signals.
CASES = {
    "data": [
        ("kronos.data.store_writer", "describe_file", KILL),
        ("kronos.stages.data", "write_reports", TERM),
    ],
    "tokenizer": [
        ("kronos.training.trainer", "save_last", HUP),
        ("kronos.training.checkpoint", "save_best", KILL),
    ],
    "predictor": [
        ("kronos.training.trainer", "save_last", TERM),
        ("kronos.stages.run_folder", "replace_folder", KILL),
    ],
    "forecasts": [
        ("kronos.forecast.store_forecaster", "Forecaster.means", TERM),
        ("kronos.forecast.shards", "ShardFiles.read", KILL),
    ],
    "evaluation": [("kronos.stages.evaluate", "simulate", HUP), ("kronos.stages.evaluate", "simulate", KILL)],
    "report": [("kronos.report.writer", "save_png", TERM), ("kronos.report.writer", "write_pages", HUP)],
    "registration": [
        ("kronos.stages.promote", "register", HUP),
        ("kronos.stages.promote", "make_champion", KILL),
    ],
    "search": [
        ("kronos.stages.search.session", "train", TERM),
        ("kronos.tracking.run", "Run.metrics", HUP),
        ("kronos.tracking.run", "Run.metrics", KILL),
    ],
    "predict": [
        ("kronos.stages.predict", "forecast", TERM),
        ("kronos.stages.predict", "write_record", KILL),
    ],
    "walk_forward": [
        ("kronos.training.trainer", "save_last", HUP),
        ("kronos.stages.walk_forward", "write_pooled", KILL),
    ],
    "head": [("kronos.training.trainer", "save_last", TERM), ("kronos.stages.head", "write_head", KILL)],
    "audit": [("kronos.stages.audit", "write_audit", HUP), ("kronos.stages.audit", "simulate", KILL)],
}
# The command of each stage, and what it writes.
COMMANDS = {
    "data": (["data"], ["data"]),
    "tokenizer": (["tokenizer"], ["models", "backtest_results"]),
    "predictor": (["predictor"], ["models/finetune_predictor_demo", "backtest_results"]),
    "registration": (["backtest", "--registered-model-name", "kronos"], ["backtest_results"]),
    "search": (["search"], ["search"]),
    "predict": (["predict"], ["predictions"]),
    "walk_forward": (
        ["walk_forward", "--walk-forward-folds", "2"],
        ["backtest_results", "models/walk_forward"],
    ),
    "head": (["head", "--objective", "direction"], ["models/head_direction"]),
    "audit": (["audit"], ["audit"]),
}
PARALLEL = ["--n-jobs", "2"]  # trials in processes of their own


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything ran without an interruption."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert main(["pipeline", *TINY]) == 0
        assert main(["audit", *TINY]) == 0
        assert main([*COMMANDS["head"][0], *TINY]) == 0
        assert main(["predict", *TINY]) == 0
        assert main([*COMMANDS["walk_forward"][0], *TINY]) == 0
    return folder


def outcome(stage: str) -> Any:
    """What two runs of a stage must share."""
    match stage:
        case "data":
            return open_store("outputs/data", verify=True).digest, read_json("outputs/data/splits.json")
        case "tokenizer" | "predictor":
            record = read_json(MODELS / f"finetune_{stage}_demo" / "summary.json")
            return record["digest"], record["curve"], record["learning_rates"]
        case "predict":
            return read_json("outputs/predictions/latest/summary.json")["outputs"]["forecast.csv"]
        case "walk_forward":
            (folder,) = Path("outputs/backtest_results").glob("*_walk_forward")
            return read_json(folder / "summary.json")["metrics"]
        case "head":
            head = MODELS / "head_direction"
            curve = read_json(head / "summary.json")["curve"]
            return pd.read_parquet(head / "forecasts.parquet").to_csv(), curve, read_json(head / "head.json")
        case "audit":
            return read_json("outputs/audit/audit.json")
        case "search":
            (found,) = Path("outputs/search").glob("predictor-*/best_trial.json")
            return read_json(found)["states"]["COMPLETE"] == 2
    forecasts = pd.read_parquet(BACKTEST / "predictions.parquet")
    return forecasts.to_csv(), read_json(BACKTEST / "metrics.json"), (BACKTEST / "report.md").read_text()


def statuses() -> list[str]:
    client = MlflowClient()
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    return [str(run.info.status) for run in runs]


def left_behind() -> list[Path]:
    """Half-written files and folders."""
    return [
        path for path in Path("outputs").rglob(".*")
        if path.name != ".gitignore" and "checkpoints" not in path.parts and path.suffix != ".lock"
    ]  # fmt: skip


def processes_with(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get("STARTED_BY") == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


def interrupted(module: str, function: str, number: int, arguments: list[str]) -> int:
    """Run the command, with a signal for its own process when it comes to a function for the first time."""
    place, name = import_module(module), function
    while "." in name:
        first, name = name.split(".", 1)
        place = getattr(place, first)
    original = getattr(place, name)

    def once(*given: Any, **options: Any) -> Any:
        setattr(place, name, original)
        os.kill(os.getpid(), number)
        return original(*given, **options)

    setattr(place, name, once)
    return main(arguments)


def run_interrupted(module: str, function: str, number: int, arguments: list[str]) -> tuple[int, str]:
    """(exit status, output) of a command that gets a signal; all its processes have ended."""
    mark, output = uuid.uuid4().hex, Path("output.txt")
    given = (module, function, int(number), arguments)
    process = forked.start(interrupted, *given, output=output, env={"STARTED_BY": mark})
    process.join(timeout=600)
    _, alive = psutil.wait_procs(list(processes_with(mark)), timeout=15)
    assert alive == []
    assert process.exitcode is not None
    return process.exitcode, output.read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of other processes")
@pytest.mark.parametrize(
    ("stage", "module", "function", "number"),
    [
        pytest.param(
            stage,
            *case,
            id=f"{stage}-{case[1]}-{case[2].name}",
            marks=[pytest.mark.nightly] if place != number % 2 else (),
        )
        for number, (stage, cases) in enumerate(CASES.items())
        for place, case in enumerate(cases)
    ],
)
def test_a_signal_in_a_stage(
    stage: str, module: str, function: str, number: int, straight: Path, in_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(straight / "outputs", "outputs")
    command, made = COMMANDS.get(stage, (["backtest"], ["backtest_results"]))
    for name in made:
        shutil.rmtree(Path("outputs", name), ignore_errors=True)
    arguments = [*command, *TINY, *(PARALLEL if module == "kronos.tracking.run" else [])]
    status, said = run_interrupted(module, function, number, arguments)
    if number == KILL:
        assert status == -KILL, said
        assert "RUNNING" in statuses()
    else:
        assert status == 130, said
        (line,) = [line for line in said.splitlines() if line.startswith("kronos: ")]
        assert line.startswith("kronos: interrupted: the same command ")
        assert "Traceback" not in said
        assert "KILLED" in statuses() and not {"RUNNING", "FAILED"} & set(statuses())
    assert main(arguments) == 0
    assert "RUNNING" not in statuses()
    assert left_behind() == []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(straight)
        expected = True if stage == "search" else outcome(stage)
    assert outcome(stage) == expected
    if stage == "registration":
        (version,) = MlflowClient().search_model_versions("name = 'kronos'")
        named = MlflowClient().get_registered_model("kronos")
        assert named.aliases == {"champion": version.version}
        assert "alias_pending" not in str(version.tags)
