"""One study for several machines: three processes, a PostgreSQL database and an MLflow server on loopback."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from servers import MlflowServer

pytestmark = pytest.mark.slow
QUICK = ["--epochs", "2", "--n-train-iter", "640", "--n-val-iter", "200", "--log-interval", "5",
         "--search-batch-size", "16,32", "--search-reports", "4", "--search-heartbeat", "2"]  # fmt: skip


def test_three_machines_share_a_study_and_one_of_them_is_killed(
    postgres: str, server: MlflowServer, sample_store: Path, tmp_path: Path
) -> None:
    first = tmp_path / "machine-0"
    shutil.copytree(sample_store, first / "outputs" / "data")
    train = [sys.executable, "-m", "kronos", "tokenizer", *QUICK[:8]]
    subprocess.run(train, cwd=first, check=True, capture_output=True)
    machines = [first]
    for number in (1, 2):  # each has its own copy of the bars and of the tokenizer
        machines.append(tmp_path / f"machine-{number}")
        shutil.copytree(first / "outputs", machines[-1] / "outputs")
    command = [sys.executable, "-m", "kronos", "search", *QUICK, "--n-trials", "6", "--search-pruner", "none",
               "--skip-data-process", "--skip-tokenizer", "--storage", postgres,
               "--tracking-uri", server.address]  # fmt: skip
    logs = [machine / "log.txt" for machine in machines]
    processes = []
    for machine, log in zip(machines, logs, strict=True):
        with log.open("w") as stream:
            processes.append(subprocess.Popen(command, cwd=machine, stdout=stream, stderr=subprocess.STDOUT))
    client = MlflowClient(server.address)
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
    assert 6 <= len(complete) <= 8
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
