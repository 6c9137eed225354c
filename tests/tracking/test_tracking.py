"""Runs end honestly, metrics arrive once with the time they were recorded at, parameters never clash."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from servers import free_port

from kronos.__main__ import main
from kronos.tracking import run as recording
from kronos.tracking.client import Run, Tracking, connect, source_tags, versions
from kronos.tracking.offline_queue import Outbox
from kronos.tracking.run import METRICS_A_CALL, is_away, limits, send_message
from kronos.utils.error_messages import sentence
from kronos.utils.errors import UserError


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tracking")
    os.chdir(folder)
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def tracking(uri: str, in_folder: Path) -> Tracking:
    return Tracking(uri, "kronos")


def status(tracking: Tracking, run: Run) -> str:
    return str(tracking.client.get_run(run.id).info.status)


def test_nested_runs_finish_and_know_their_parent(tracking: Tracking) -> None:
    with tracking.run("pipeline", {"stage": "pipeline"}) as parent, tracking.run("data", {}, parent) as child:
        assert status(tracking, child) == "RUNNING"
    assert status(tracking, parent) == status(tracking, child) == "FINISHED"
    assert tracking.client.get_run(child.id).data.tags["mlflow.parentRunId"] == parent.id


@pytest.mark.parametrize(
    ("error", "ended"), [(UserError("no bars"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_an_error_ends_the_run_with_its_reason(tracking: Tracking, error: BaseException, ended: str) -> None:
    with pytest.raises(type(error)), tracking.run("data", {}) as run:
        run.metrics(1, {"loss": 2.0})
        raise error
    assert status(tracking, run) == ended
    tags = tracking.client.get_run(run.id).data.tags
    assert tags["kronos.reason"].startswith(type(error).__name__)
    assert tracking.client.get_run(run.id).data.metrics["loss"] == 2.0


def test_a_resumed_run_that_ends_well_keeps_no_reason_of_its_interruption(tracking: Tracking) -> None:
    with pytest.raises(KeyboardInterrupt), tracking.run("data", {}) as run:
        raise KeyboardInterrupt
    assert "kronos.reason" in tracking.client.get_run(run.id).data.tags
    with tracking.run("data", {}, run_id=run.id):
        pass
    assert status(tracking, run) == "FINISHED"
    assert "kronos.reason" not in tracking.client.get_run(run.id).data.tags


def test_a_run_that_is_deleted_meanwhile_stops_no_work(uri: str, in_folder: Path) -> None:
    said: list[str] = []
    tracking = Tracking(uri, "kronos", say=said.append)
    with tracking.run("predictor", {}) as run:
        run.metrics(1, {"loss": 2.0})
        run.flush()
        tracking.client.delete_run(run.id)
        for step in (2, 3):
            run.metrics(step, {"loss": 1.0})
            run.flush()
        run.tags({"model": "nano"})
    (line,) = said
    assert f"rejected a message of run {run.id}" in line and "the run continues" in line
    assert tracking.outbox.refused[run.id] >= 3
    with tracking.run("backtest", {}) as other:  # other runs are as before
        other.metrics(1, {"loss": 2.0})
    assert status(tracking, other) == "FINISHED" and len(said) == 1


def test_an_old_file_store_in_the_folder_is_told_in_one_line(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_folder / "mlruns" / "0").mkdir(parents=True)
    (in_folder / "mlruns" / "0" / "meta.yaml").write_text("name: Default")
    assert main(["data"]) == 2
    line = capsys.readouterr().err
    assert "mlruns/0/meta.yaml" in line and "--tracking-uri sqlite:///mlflow.db" in line
    given = ["--data-source", "sample", "--symbols", "AAPL,ABT"]
    assert main(["data", *given, "--tracking-uri", f"sqlite:///{in_folder}/mlflow.db"]) == 0


def test_metrics_are_buffered_and_a_batch_sent_twice_adds_no_row(tracking: Tracking) -> None:
    with tracking.run("tokenizer", {}) as run:
        for step in range(3):
            run.metrics(step, {"train_loss": 1.0 / (step + 1)})
        assert tracking.client.get_metric_history(run.id, "train_loss") == []
        again = {"do": "metrics", "rows": list(run._waiting)}
        run.flush()
        run.outbox.put(run.id, again)
    history = tracking.client.get_metric_history(run.id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


def test_more_metrics_than_a_call_takes(tracking: Tracking) -> None:
    with tracking.run("many", {}) as run:
        run.metrics(0, {f"m{number}": 1.0 for number in range(METRICS_A_CALL + 5)})
    assert len(tracking.client.get_run(run.id).data.metrics) == METRICS_A_CALL + 5


def test_parameters_that_are_there_stay(tracking: Tracking) -> None:
    with tracking.run("data", {}) as run:
        run.parameters({"epochs": "1e0"})
        run.parameters({"epochs": "1", "seed": "100", **{f"p{number}": "x" for number in range(150)}})
    params = tracking.client.get_run(run.id).data.params
    assert (params["epochs"], params["seed"], len(params)) == ("1e0", "100", 152)


def test_the_outermost_run_goes_on_in_the_one_that_mlflow_made(
    tracking: Tracking, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tracking.client.create_run(tracking.experiment_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", tracking.experiment_id)
    inner = Tracking(uri, "another name")
    with inner.run("pipeline", {}) as parent, inner.run("data", {}, parent) as child:
        assert parent.id == given.info.run_id
        assert child.id != parent.id
        assert child.experiment_id == tracking.experiment_id


def test_a_run_whose_process_was_killed_is_marked_by_the_next_start(tracking: Tracking, uri: str) -> None:
    code = (
        "import os, signal\n"
        "from kronos.tracking.client import Tracking\n"
        f"with Tracking({uri!r}, 'kronos').run('data', {{}}) as run:\n"
        "    print(run.id, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    run_id = done.stdout.split()[-1]
    assert tracking.client.get_run(run_id).info.status == "RUNNING"
    with tracking.run("mine", {}) as mine:
        Tracking(uri, "kronos")
        assert status(tracking, mine) == "RUNNING"
    after = tracking.client.get_run(run_id)
    assert (after.info.status, after.data.tags["kronos.reason"]) == ("FAILED", "its process was killed")


def test_all_that_a_run_records_is_kept_while_the_server_is_away(tracking: Tracking, tmp_path: Path) -> None:
    away = True

    def send(run_id: str, message: dict, path: Path | None) -> None:
        if away:
            raise ConnectionRefusedError("nobody")
        send_message(tracking.client, run_id, message, path)

    box = Outbox(tmp_path / "unsent", send, lambda error: isinstance(error, OSError), lambda: None,
                 place="here", wait=0, say=lambda text: None)  # fmt: skip
    created = tracking.client.create_run(tracking.experiment_id)
    run = Run(box, created.info.run_id, tracking.experiment_id)
    (tmp_path / "out" / "below").mkdir(parents=True)
    (tmp_path / "out" / "below" / "deep.txt").write_text("deep")
    (tmp_path / "alone.txt").write_text("alone")
    run.parameters({"epochs": "3"})
    run.tags({"stage": "data"})
    run.dataset("sp500", "0123456789abcdef" * 4, {"store": "sp500"}, {"bars": 3}, "testing")
    run.artifact(tmp_path / "out", "results")
    run.artifact(tmp_path / "alone.txt")
    run.text("words", "words.txt")
    odd = {"nan": float("nan"), "third": 1 / 3, "huge": float("inf")}
    run.metrics(5, odd)
    run.finish("FAILED", "it was so")
    before = tracking.client.get_run(run.id)
    assert (before.data.params, before.data.metrics, before.info.status) == ({}, {}, "RUNNING")
    (tmp_path / "alone.txt").write_text("changed since")
    away = False
    assert box.deliver()
    after = tracking.client.get_run(run.id)
    assert (after.data.params, after.info.status) == ({"epochs": "3"}, "FAILED")
    assert (after.data.tags["kronos.stage"], after.data.tags["kronos.reason"]) == ("data", "it was so")
    assert after.data.metrics["third"] == 1 / 3
    for name in odd:
        assert [row.step for row in tracking.client.get_metric_history(run.id, name)] == [5]
    assert len(after.inputs.dataset_inputs) == 1
    for name, text in {"results/below/deep.txt": "deep", "alone.txt": "alone", "words.txt": "words"}.items():
        assert Path(tracking.client.download_artifacts(run.id, name)).read_text() == text


def test_a_resumed_run_keeps_its_rows(tracking: Tracking) -> None:
    with pytest.raises(KeyboardInterrupt), tracking.run("tokenizer", {}) as run:
        run.metrics(1, {"loss": 3.0})
        run.metrics(2, {"loss": 2.0})
        raise KeyboardInterrupt
    with tracking.run("tokenizer", {}, run_id=run.id) as again:
        again.metrics(2, {"loss": 2.0, "rate": 0.5})  # trained once more since the checkpoint
        again.metrics(3, {"loss": 1.0})
    rows = tracking.client.get_metric_history(run.id, "loss")
    assert [(row.step, row.value) for row in rows] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert [row.step for row in tracking.client.get_metric_history(run.id, "rate")] == [2]


def test_datasets_and_artifacts_are_on_the_run(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.md").write_text("# report")
    with tracking.run("backtest", {}) as run:
        run.dataset("sp500", "0123456789abcdef" * 4, {"store": "sp500"}, {"bars": 3}, "testing")
        run.artifact(tmp_path / "out", "results")
        run.json({"a": 1}, "config.json")
    data = tracking.client.get_run(run.id).inputs.dataset_inputs[0]
    assert data.dataset.digest == "0123456789abcdef" * 2
    assert data.tags[0].value == "testing"
    names = {item.path for item in tracking.client.list_artifacts(run.id)}
    assert names == {"results", "config.json"}


def test_a_store_that_does_not_answer_is_a_clear_error(in_folder: Path) -> None:
    with pytest.raises(UserError, match="MLflow at ftp://nowhere does not answer"):
        Tracking("ftp://nowhere", "kronos")


def test_a_stage_is_not_begun_where_the_server_is_away(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    assert main(["data", "--tracking-uri", address]) == 2
    words = capsys.readouterr().err.strip().splitlines()
    assert len(words) == 1
    assert words[0].startswith(f"kronos: MLflow at {address} does not answer: ")
    assert not (in_folder / "outputs").exists()


def test_absence_is_told_from_refusal() -> None:
    from mlflow.exceptions import MlflowException, RestException
    from requests import HTTPError, Response

    def answered(code: int) -> HTTPError:
        response = Response()
        response.status_code = code
        return HTTPError("no", response=response)

    with limits(brisk=True), pytest.raises(MlflowException) as refused:
        MlflowClient(f"http://127.0.0.1:{free_port()}").get_run("0" * 32)
    assert is_away(refused.value)
    assert is_away(RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "no database"}))
    assert is_away(answered(503)) and is_away(ConnectionResetError())
    assert not is_away(RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}))
    assert not is_away(MlflowException("a mistake of this very code"))
    assert not is_away(answered(403)) and not is_away(ValueError())


def test_limits_of_requests_are_the_users_own_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with limits(brisk=True):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == str(recording.BRISK[0])
    with limits(brisk=False):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "300"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == str(recording.PATIENT[1])
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "300"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_deleted_experiment_is_a_clear_error(tracking: Tracking, uri: str) -> None:
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError, match="experiment 'gone' is deleted"):
        Tracking(uri, "gone")


def test_versions_and_commit() -> None:
    assert versions()["torch"].startswith("2.")
    assert source_tags(Path("/")) == {}
    assert len(source_tags(Path(__file__).parent).get("git_commit", "0" * 40)) == 40


def test_a_run_deleted_while_it_is_written_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    from mlflow.exceptions import MlflowException

    from kronos import __main__ as command

    def gone(given: list[str]) -> int:
        raise MlflowException("The run 1a2b must be in the 'active' state.\nmore")

    monkeypatch.setattr(command, "_place", gone)
    assert command.main(["data"]) == 2
    assert (
        capsys.readouterr().err
        == "kronos: MLflow rejected the request: The run 1a2b must be in the 'active' state.\n"
    )


def test_a_predictor_whose_run_was_deleted_is_finished_and_says_where_it_is(
    store, weights, monkeypatch, capsys
):
    """`store` is the working folder with bars; the run is deleted after the last step of training."""
    from kronos.stages import train

    logs = train.log_served_model

    def deleted_before(run: Run, *given: object) -> str:
        MlflowClient("sqlite:///mlflow.db").delete_run(run.id)
        return logs(run, *given)

    monkeypatch.setattr(train, "log_served_model", deleted_before)
    quick = ["--epochs", "1", "--n-train-iter", "64", "--n-val-iter", "64", "--batch-size", "32"]
    assert main(["predictor", "--tokenizer-path", str(weights / "tokenizer"), *quick]) == 0
    said = capsys.readouterr().out
    assert "not logged to MLflow; the weights are in outputs/models/finetune_predictor_demo" in said
    assert Path("outputs/models/finetune_predictor_demo/checkpoints/best_model/model.safetensors").is_file()
    assert main(["predictor", "--tokenizer-path", str(weights / "tokenizer"), *quick]) == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:5000], "mlflow.db is damaged: 5,000 of"),
        (lambda data: b"some text, longer than the header of a database " * 9, "mlflow.db is not a SQLite database"),
        (None, "mlflow.db is a folder"),
    ],
)  # fmt: skip
def test_a_damaged_database_is_told_in_one_line_with_the_remedy(in_folder, damage, said, capsys) -> None:
    file = in_folder / "mlflow.db"
    address = f"sqlite:///{in_folder}/mlflow.db"
    with Tracking(address, "kronos").run("data", {}):
        pass
    data = file.read_bytes()
    file.unlink()
    file.mkdir() if damage is None else file.write_bytes(damage(data))
    assert main(["data", "--data-source", "sample", "--symbols", "AAPL,IBM", "--tracking-uri", address]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("kronos: ")]
    assert said in line and "move it away" in line


def test_pages_that_are_damaged_are_told_when_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as database:
        database.execute("create table a (b)")
        database.executemany("insert into a values (?)", [("x" * 500,)] * 200)
    data = file.read_bytes()
    file.write_bytes(data[:4096] + bytes(len(data) - 4096))
    with pytest.raises(sqlite3.DatabaseError) as caught:
        sqlite3.connect(file).execute("select * from a").fetchall()
    assert "damaged: restore mlflow.db or optuna.db" in str(sentence(caught.value))


@pytest.mark.slow
def test_a_database_that_another_process_locks_is_waited_for(in_folder: Path) -> None:
    holder = (
        "import sqlite3, sys, time\n"
        "held = sqlite3.connect('mlflow.db', isolation_level=None)\n"
        "held.execute('BEGIN EXCLUSIVE'); print('held', flush=True); time.sleep(9); held.execute('COMMIT')\n"
    )
    with Tracking(None, "kronos").run("data", {}):
        pass
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        command = [sys.executable, "-m", "kronos", "data", "--data-source", "sample", "--symbols", "AAPL,IBM"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert process.wait() == 0
    assert "is locked by another process" in str(sentence(sqlite3.OperationalError("database is locked")))


def test_an_error_of_the_database_is_raised_and_not_printed(
    in_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    client = connect("sqlite:///runs.db", begins=True)
    client.search_experiments()
    with sqlite3.connect("runs.db") as database:
        database.execute("ALTER TABLE experiments RENAME TO gone")
    with pytest.raises(MlflowException, match="no such table"):
        client.search_experiments()
    assert "Traceback" not in capfd.readouterr().err
