"""One study for several machines: three processes, a PostgreSQL database and an MLflow server on loopback."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.slow
QUICK = ["--epochs", "2", "--n-train-iter", "900", "--n-val-iter", "200", "--log-interval", "5",
         "--search-batch-size", "16,32", "--search-reports", "4", "--search-heartbeat", "2"]  # fmt: skip


def programs() -> Path | None:
    """Debian's folder of PostgreSQL's programs, or that of PATH."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else Path(found).parent if found else None


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a database of the test's own."""
    bin_folder = programs()
    if bin_folder is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("psycopg2 is not installed (the extra kronos-pipeline[postgres])")
    folder = tmp_path_factory.mktemp("postgres")
    as_user: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        if subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
        folder = Path("/tmp") / f"kronos-postgres-{os.getpid()}"
        folder.mkdir()
        shutil.chown(folder, "postgres")
    port, data = free_port(), folder / "data"
    run = [*as_user, str(bin_folder / "pg_ctl"), "-D", str(data), "-w"]
    make = [
        *as_user,
        str(bin_folder / "initdb"),
        "-D",
        str(data),
        "-U",
        "kronos",
        "--auth=trust",
        "-E",
        "UTF8",
    ]
    subprocess.run(make, check=True, capture_output=True, cwd="/")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    start = [*run, "-l", str(folder / "log"), "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    try:
        yield f"postgresql+psycopg2://kronos@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*run, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server of the test's own."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
               "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_three_machines_share_a_study_and_one_of_them_is_killed(
    postgres: str, server: str, sample_store: Path, tmp_path: Path
) -> None:
    first = tmp_path / "machine-0"
    shutil.copytree(sample_store, first / "outputs" / "data")
    train = [sys.executable, "-m", "kronos", "tokenizer", *QUICK[:8]]
    subprocess.run(train, cwd=first, check=True, capture_output=True)
    machines = [first]
    for number in (1, 2):  # each has its own copy of the bars and of the tokenizer
        machines.append(tmp_path / f"machine-{number}")
        shutil.copytree(first / "outputs", machines[-1] / "outputs")
    command = [sys.executable, "-m", "kronos", "search", *QUICK, "--n-trials", "8", "--search-pruner", "none",
               "--skip-data-process", "--skip-tokenizer", "--storage", postgres,
               "--tracking-uri", server]  # fmt: skip
    logs = [machine / "log.txt" for machine in machines]
    processes = []
    for machine, log in zip(machines, logs, strict=True):
        with log.open("w") as stream:
            processes.append(subprocess.Popen(command, cwd=machine, stdout=stream, stderr=subprocess.STDOUT))
    client = MlflowClient(server)
    killed = ""
    until = time.monotonic() + 300
    while not killed and time.monotonic() < until:  # kill the last machine in the middle of a trial
        experiment = client.get_experiment_by_name("kronos")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        for run in runs:
            of = run.data.tags.get("kronos.process", "").split()[:1]
            trial = run.data.tags.get("kronos.stage") == "trial" and run.info.status == "RUNNING"
            if trial and of == [str(processes[2].pid)]:
                killed = run.data.tags["kronos.trial"]
        time.sleep(0.2)
    assert killed, logs[2].read_text()
    processes[2].kill()
    for process, log in zip(processes[:2], logs, strict=False):
        assert process.wait(600) == 0, log.read_text()

    import optuna

    names = optuna.study.get_all_study_names(postgres)
    assert len(names) == 1
    study = optuna.load_study(study_name=names[0], storage=postgres)
    again = [trial for trial in study.trials if trial.system_attrs.get("failed_trial") == int(killed)]
    assert study.trials[int(killed)].state.name == "FAIL"
    assert [trial.state.name for trial in again] == ["COMPLETE"]
    assert again[0].params == study.trials[int(killed)].params
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert 8 <= len(complete) <= 10
    parent = study.user_attrs["mlflow_parent"]
    experiment = client.get_experiment_by_name("kronos")
    assert experiment is not None
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len(children) == len(study.trials)
    assert {run.data.tags["kronos.trial"] for run in children} == {
        str(trial.number) for trial in study.trials
    }
    best = [machine / "outputs" / "search" / names[0] / "best.json" for machine in machines[:2]]
    assert best[0].read_text() == best[1].read_text()
    assert "best.json" in {item.path for item in client.list_artifacts(parent)}
