"""What all tests share: one thread, no network, a folder and a tracking store of their own."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def no_outer_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests started from inside an MLflow run must not write into it."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own as the working directory: outputs and mlflow.db go there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
