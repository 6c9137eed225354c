"""Against a real `mlflow server`: killed, started again, away at the end, and with PostgreSQL behind it."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import forked
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from servers import MlflowServer

from kronos.stages import train as training
from kronos.tracking import run as recording
from kronos.tracking.offline_queue import JOURNAL

pytestmark = pytest.mark.slow
LONG = ["--epochs", "2", "--n-train-iter", "1600", "--n-val-iter", "200", "--log-interval", "4", "--save-windows",
        "320", "--batch-size", "32"]  # fmt: skip
SHORT = ["--epochs", "1", "--n-train-iter", "600", "--n-val-iter", "200", "--log-interval", "5",
         "--calibration-series", "100", "--calibration-sample-count", "10"]  # fmt: skip


@pytest.fixture
def folder(sample_store: Path, tmp_path: Path) -> Path:
    """A working folder with the sample's bars."""
    shutil.copytree(sample_store, tmp_path / "outputs" / "data")
    return tmp_path


@pytest.fixture
def fresh(server: MlflowServer) -> Iterator[MlflowServer]:
    """The server, there again at the end whatever a test did to it."""
    yield server
    if not server.runs():
        server.start()


def slowly(arguments: list[str]) -> int:
    """The command, with slow steps while the file `slow` is there: a server has the time to die and come back."""
    told = training.Progress.__call__

    def wait(self: Any, done: int, total: int, values: dict[str, float] | None = None) -> None:
        told(self, done, total, values)
        if Path("slow").exists():
            time.sleep(0.5)

    training.Progress.__call__ = wait  # type: ignore[method-assign]
    recording.FLUSH_SECONDS = 0.5
    return forked.kronos(arguments)


class Kronos:
    """A command in a folder, tracked by a server. Its training is slow until `ends` waits for it."""

    def __init__(self, folder: Path, server: MlflowServer, *arguments: str) -> None:
        self.folder, self.server = folder, server
        self.log = folder / "log.txt"
        self.log.unlink(missing_ok=True)
        (folder / "slow").touch()
        with chdir(folder):
            command = [*arguments, "--tracking-uri", server.address]
            self.process = forked.start(slowly, command, output=self.log)

    def wait_for(self, what: Callable[[], Any], seconds: float = 180) -> Any:
        until = time.monotonic() + seconds
        while True:
            if found := what():
                return found
            assert self.process.is_alive() and time.monotonic() < until, self.said()
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def ends(self, status: int, seconds: float = 240) -> str:
        (self.folder / "slow").unlink(missing_ok=True)
        self.process.join(seconds)
        assert self.process.exitcode == status, self.said()
        return self.said()

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def kept(self) -> int:
        """Messages in journals."""
        journals = self.folder.glob(f"outputs/unsent/*/*/{JOURNAL}")
        return sum(journal.read_text().count('{"message"') for journal in journals)


def run_of(server: MlflowServer, stage: str, folder: Path) -> Run | None:
    """The stage's run that a process in `folder` made."""
    client = MlflowClient(server.address)
    found = client.get_experiment_by_name("kronos")
    where = f"tags.`kronos.stage` = '{stage}' and params.save_path = '{folder}/outputs/models'"
    runs = client.search_runs([found.experiment_id], where) if found else []
    assert len(runs) <= 1
    return runs[0] if runs else None


def trains(server: MlflowServer, stage: str, folder: Path) -> bool:
    """Whether the server has metrics of the stage's training already."""
    run = run_of(server, stage, folder)
    return run is not None and "train_loss" in run.data.metrics


def places(folder: Path) -> list[str]:
    return ["--save-path", f"{folder}/outputs/models"]


def check_every_step_is_there_once(server: MlflowServer, stage: str, folder: Path) -> Run:
    run = run_of(server, stage, folder)
    assert run is not None and run.info.status == "FINISHED"
    summary = json.loads((folder / f"outputs/models/finetune_{stage}_demo/summary.json").read_text())
    client = MlflowClient(server.address)

    def steps(metric: str) -> dict[int, int]:
        return Counter(row.step for row in client.get_metric_history(run.info.run_id, metric))

    reports = {int(step): 1 for step, _ in summary["learning_rates"]}
    evaluations = {int(entry["step"]): 1 for entry in summary["curve"]}
    assert len(reports) > 20
    for metric in ("train_loss", "learning_rate", "grad_norm", "windows_per_second"):
        assert steps(metric) == reports, metric
    assert steps("train_eval_loss") == evaluations
    curve = {int(entry["step"]): entry["val_loss"] for entry in summary["curve"]}
    best, last = summary["metrics"]["best_step"], max(curve)
    closing = {} if best == last else {last + 1: curve[best]}  # the last value is that of the saved weights
    rows = client.get_metric_history(run.info.run_id, "val_loss")
    assert {row.step: row.value for row in rows} == curve | closing and len(rows) == len(curve | closing)
    assert not list(folder.glob("outputs/unsent/*/*"))
    return run


def test_a_server_killed_in_mid_training_and_started_again(fresh: MlflowServer, folder: Path) -> None:
    kronos = Kronos(folder, fresh, "tokenizer", *LONG, *places(folder))
    kronos.wait_for(lambda: trains(fresh, "tokenizer", folder))
    fresh.end()
    kronos.wait_for(lambda: kronos.kept() >= 2)
    fresh.start()
    said = kronos.ends(0)
    assert said.count("is unreachable: the run continues") == said.count("is reachable again after") == 1
    assert "Traceback" not in said and "Retry" not in said
    run = check_every_step_is_there_once(fresh, "tokenizer", folder)
    client = MlflowClient(fresh.address)
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"checkpoints", "summary.json", "loss_curve.png", "config.json"} <= names


def test_a_training_killed_while_the_server_is_away_is_sent_when_it_goes_on(
    fresh: MlflowServer, folder: Path
) -> None:
    arguments = ("tokenizer", *LONG, *places(folder))
    kronos = Kronos(folder, fresh, *arguments)
    kronos.wait_for(lambda: trains(fresh, "tokenizer", folder))
    fresh.end()
    kronos.wait_for(lambda: kronos.kept() >= 2)
    kronos.kill()
    again = Kronos(folder, fresh, *arguments)
    assert "does not answer" in again.ends(2)
    fresh.start()
    again = Kronos(folder, fresh, *arguments)
    said = again.ends(0)
    assert "sent the stored messages of run" in said
    check_every_step_is_there_once(fresh, "tokenizer", folder)


def test_a_server_away_at_the_end_gets_all_of_it_from_the_next_start(
    fresh: MlflowServer, folder: Path
) -> None:
    Kronos(folder, fresh, "tokenizer", *SHORT, *places(folder)).ends(0)
    arguments = ("predictor", *LONG, *places(folder), "--tracking-wait", "1")
    kronos = Kronos(folder, fresh, *arguments)
    kronos.wait_for(lambda: trains(fresh, "predictor", folder))
    fresh.end()
    said = kronos.ends(75)
    assert "was not back within 1 s (--tracking-wait)" in said.splitlines()[-1]
    assert "outputs/unsent/127.0.0.1-" in said.splitlines()[-1]
    assert "Traceback" not in said
    fresh.start()
    said = Kronos(folder, fresh, *arguments).ends(0)
    assert "sent the stored messages of run" in said
    run = check_every_step_is_there_once(fresh, "predictor", folder)
    assert said.count(run.info.run_id) >= 1
    client = MlflowClient(fresh.address)
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert [str(model.status) for model in models] == ["READY"]


def test_a_pipeline_on_a_server_with_postgresql_and_artifacts_over_http(
    postgres: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import mlflow

    from kronos.tracking.model_registry import weights
    from kronos.tracking.reader import latest

    server = MlflowServer(tmp_path_factory.mktemp("postgres-mlflow"), postgres)
    try:
        server.start()
        more = (
            "--inference-sample-count", "2", "--evaluation-sample-count", "2", "--backtest-max-instruments", "60",
            "--baseline-lightgbm", "false", "--baseline-seeds", "2",
        )  # fmt: skip
        Kronos(tmp_path, server, "pipeline", *SHORT, *more, *places(tmp_path)).ends(0, 400)
        assert not list(tmp_path.glob("mlruns")) + list(tmp_path.glob("mlflow.db"))
        parent = latest("pipeline", server.address)
        assert [run.stage for run in parent.children()] == [
            "data",
            "tokenizer",
            "predictor",
            "calibrate",
            "backtest",
        ]
        assert {run.status for run in parent.children()} == {"FINISHED"}
        _, _, predictor, _, backtest = parent.children()
        assert predictor.params["epochs"] == "1" and len(predictor.history("train_loss")) == 2
        assert predictor.config.epochs == 1  # an artifact, fetched over HTTP
        assert len(backtest.predictions()) > 1000
        assert (Path(weights(f"runs:/{predictor.id}", "predictor", server.address)) / "config.json").is_file()
        mlflow.set_tracking_uri(server.address)
        try:
            model = mlflow.pyfunc.load_model(predictor.tags["kronos.model_uri"])
        finally:
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        assert len(model.predict(model.input_example)) == predictor.config.predict_window
    finally:
        server.end()
