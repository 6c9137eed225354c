"""The training stages as people start them: several processes, torchrun, nodes; killed, interrupted, resumed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from kronos.__main__ import main
from kronos.stages import train as training
from kronos.tracking import run as recording
from kronos.utils.files import read_json

SMALL = ["--n-train-iter", "1280", "--n-val-iter", "128", "--epochs", "2", "--log-interval", "5"]
FOLDER = Path("outputs/models/finetune_tokenizer_demo")


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the sample bars."""
    folder = tmp_path_factory.mktemp("bars")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["data"]) == 0
    return folder / "outputs" / "data"


@pytest.fixture
def flags(bars: Path, in_folder: Path) -> list[str]:
    return [*SMALL, "--dataset-path", str(bars)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *arguments], env=environment(**more), **pipes)


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == status, output
    return output


def runs() -> list[Any]:
    client = MlflowClient()
    return list(client.search_runs([item.experiment_id for item in client.search_experiments()]))


def history(run_id: str) -> dict[tuple[str, int], list[float]]:
    """Every row of the losses, by name and step."""
    client = MlflowClient()
    names = [name for name in client.get_run(run_id).data.metrics if "loss" in name]
    found: dict[tuple[str, int], list[float]] = {}
    for name in names:
        for row in client.get_metric_history(run_id, name):
            found.setdefault((name, row.step), []).append(row.value)
    return found


def outcome() -> tuple[dict[str, torch.Tensor], Any, Any, dict[tuple[str, int], list[float]]]:
    """What two runs of one origin must share: weights, curve, learning rates, rows in MLflow."""
    record = read_json(FOLDER / "summary.json")
    weights = load_file(FOLDER / "checkpoints" / "best_model" / "model.safetensors")
    return weights, record["curve"], record["learning_rates"], history(record["run_id"])


def assert_same(one: Any, other: Any) -> None:
    assert all(torch.equal(weight, other[0][name]) for name, weight in one[0].items())
    assert one[1:] == other[1:]
    assert all(len(values) == 1 for values in one[3].values())


@pytest.fixture(scope="module")
def straight(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run made in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("straight"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert main(["tokenizer", *SMALL, "--dataset-path", str(bars)]) == 0
        return outcome()


class Crash(Exception):
    """An error that nothing expects."""


def crash_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Fail at a step, after the metrics since the last checkpoint went out."""
    told = training.Progress.__call__

    def fail(self: Any, done: int, total: int, values: dict[str, float] | None = None) -> None:
        told(self, done, total, values)
        if done == step:
            raise Crash

    patch.setattr(training.Progress, "__call__", fail)
    patch.setattr("kronos.tracking.run.FLUSH_METRICS", 1)


def test_a_crashed_run_goes_on_in_its_mlflow_run_and_logs_each_loss_once(
    flags: list[str], straight: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        crash_at(34, patch)
        main(["tokenizer", *flags, "--save-windows", "640"])
    (failed,) = runs()
    assert failed.info.status == "FAILED"
    assert not FOLDER.exists()
    assert main(["tokenizer", *flags, "--save-windows", "0"]) == 0  # how often it saves changes nothing
    (run,) = runs()
    assert (run.info.run_id, run.info.status) == (failed.info.run_id, "FINISHED")
    assert read_json(FOLDER / "summary.json")["run_id"] == run.info.run_id
    assert_same(outcome(), straight)
    assert sorted(path.name for path in FOLDER.iterdir()) == ["checkpoints", "loss_curve.png", "summary.json"]
    assert [path.name for path in (FOLDER / "checkpoints").iterdir()] == ["best_model"]


@pytest.mark.slow
def test_resume_must_names_what_differs_and_never_begins_anew(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", *flags, "--resume", "must"]) == 2
    assert "there is no unfinished run of outputs/models/finetune_tokenizer_demo" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        crash_at(25, patch)
        main(["tokenizer", *flags])
    assert main(["tokenizer", *flags, "--resume", "must", "--seed", "7", "--batch-size", "32"]) == 2
    said = capsys.readouterr().err
    assert "batch_size was 64, is 32" in said and "seed was 100, is 7" in said
    other = ["tokenizer", *flags, "--seed", "7"]
    assert main(other) == 0  # another key trains beside it, and takes its place when finished
    assert read_json(FOLDER / "summary.json")["made_from"]["fields"]["seed"] == "7"
    assert main(["tokenizer", *flags, "--resume", "must"]) == 0
    assert read_json(FOLDER / "summary.json")["made_from"]["fields"]["seed"] == "100"


def test_processes_without_torchrun_train_and_load_neither_mlflow_nor_qlib(
    flags: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", *flags, "--nproc-per-node", "2", "--batch-size", "32"]) == 0
    said = capfd.readouterr()
    assert "effective batch 64 = batch_size 32 x 2 process(es)" in said.out
    assert said.out.count("tokenizer: best val_loss") == 1
    (run,) = runs()
    assert run.info.status == "FINISHED"
    code = (
        "import sys, kronos.stages.train_worker, kronos.stages.train_setup\n"
        "import kronos.training.trainer, kronos.stages.inputs\n"
        "print({'mlflow', 'qlib', 'optuna', 'matplotlib'} & set(sys.modules))"
    )
    assert finish(start("-c", code)).strip() == "set()"
    assert main(["tokenizer", *flags, "--nproc-per-node", "2", "--batch-size", "32"]) == 0
    assert "tokenizer: reused" in capfd.readouterr().out


def killed_at(at: int, arguments: list[str]) -> int:
    """Run the command; at the given one of its renames, flushes and ends the process kills itself."""
    count = 0

    def event(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **options)

        return counted

    os.rename, os.replace = event(os.rename), event(os.replace)
    recording.FLUSH_METRICS = 1
    recording.Run.flush = event(recording.Run.flush)
    recording.Run.finish = event(recording.Run.finish)
    return main(arguments)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_and_resumed_equals_the_straight_one(
    flags: list[str], straight: Any
) -> None:
    """SIGKILL at renames, flushes and the end, again and again, each time a few events later in the run."""
    arguments = ["tokenizer", *flags, "--save-windows", "320"]
    kills = 0
    for at in (3, 5, 8, 9, 11, 12, 14, 15, 16, 17, 19, 6, 4):
        process = forked.start(killed_at, at, arguments, output=Path("said.txt"))
        process.join(timeout=600)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert main(arguments) == 0
    assert kills >= 4
    assert_same(outcome(), straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "signum"),
    [pytest.param("1", signal.SIGTERM, marks=pytest.mark.nightly), ("2", signal.SIGINT)],
)
def test_an_interrupted_run_saves_ends_cleanly_and_goes_on(
    processes: str, signum: int, flags: list[str]
) -> None:
    long = ["-m", "kronos", "tokenizer", *flags, "--epochs", "40", "--nproc-per-node", processes]
    process = start(*long)
    wait_for_steps(1)
    process.send_signal(signum)
    assert "kronos: interrupted" in finish(process, 130)
    (run,) = runs()
    assert run.info.status == "KILLED"
    before = len(history(run.info.run_id))
    process = start(*long, "--resume", "must")
    wait_for_rows(run.info.run_id, before + 1)
    process.send_signal(signum)
    finish(process, 130)
    (again,) = runs()
    assert again.info.run_id == run.info.run_id
    assert all(len(values) == 1 for values in history(run.info.run_id).values())


def wait_for_rows(run_id: str, rows: int) -> None:
    """Until the run has at least so many rows of losses."""
    until = time.monotonic() + 120
    while len(history(run_id)) < rows:
        assert time.monotonic() < until
        time.sleep(0.5)


def wait_for_steps(evaluations: int) -> None:
    """Until training is under way: the first checkpoint is there."""
    until = time.monotonic() + 120
    while not list(Path("outputs/models").glob(".finetune*/checkpoints/last/training.json")):
        assert time.monotonic() < until
        time.sleep(0.1)


def children(process: subprocess.Popen[str]) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


@pytest.mark.slow
@pytest.mark.parametrize("torchrun", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_a_killed_rank_ends_the_run_failed(torchrun: bool, flags: list[str]) -> None:
    stage = ["-m", "kronos", "tokenizer", *flags, "--epochs", "400"]
    if torchrun:
        process = start("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *stage)
    else:
        process = start(*stage, "--nproc-per-node", "2")
    wait_for_steps(1)
    victim = children(process)[-1]
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == (1 if torchrun else 2), output
    (run,) = runs()
    assert run.info.status == "FAILED"
    said = (
        "connection between the training processes broke"
        if torchrun
        else "process 1 of 2 was killed by signal 9"
    )
    assert said in run.data.tags["kronos.reason"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_two_nodes_on_loopback_train_a_pipeline_as_one(flags: list[str]) -> None:
    """The guide's command; rank 0 alone does the rest while the other waits, and they end together."""
    common = ["-m", "torch.distributed.run", "--nnodes=2", "--master_addr=127.0.0.1", f"--master_port={free_port()}",
              "--nproc_per_node=1"]  # fmt: skip
    quick = [
        "--batch-size", "32", "--inference-sample-count", "1", "--backtest-max-instruments", "50",
        "--baseline-lightgbm", "false", "--baseline-seeds", "2", "--calibration-series", "100",
        "--calibration-sample-count", "10",
    ]  # fmt: skip
    stage = ["-m", "kronos", "pipeline", *flags[:-2], *quick]
    nodes = [start(*common, f"--node_rank={rank}", *stage) for rank in (1, 0)]
    other, first = finish(nodes[0]), finish(nodes[1])
    assert "pipeline: done" in first
    assert first.count("predictor: best val_loss") == 1
    assert "kronos" not in other.lower().replace("-m kronos", "") or "val_loss" not in other
    assert sorted(run.info.status for run in runs()) == ["FINISHED"] * 6


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_said_once_and_ends_all_processes(in_folder: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "kronos"]
    said = finish(start(*launch, "tokenizer", "--epochz", "3"), 1)
    assert said.count("unknown flag --epochz") == 1
    said = finish(start(*launch, "tokenizer", "--nproc-per-node", "3"), 1)
    assert "--nproc-per-node is 3, but torchrun started 2 process(es)" in said
    assert "python -m kronos STAGE" in finish(start(*launch, "--help"))
