"""The served model in this process: the pyfunc, and MLflow's scoring app as its server starts it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from serving import save_model, start
from starlette.testclient import TestClient


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> str:
    return save_model(tmp_path_factory.mktemp("served"), weights)


@pytest.fixture(scope="module")
def model(saved: str) -> Any:
    return mlflow.pyfunc.load_model(saved)


@pytest.fixture(scope="module")
def client(saved: str) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch, start(saved, patch) as client:
        yield client
