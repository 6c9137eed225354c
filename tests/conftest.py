"""What all tests share: one thread, no network, a folder and a tracking store of their own."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium, opened  # noqa: F401  slow tests' fixtures
from servers import postgres, server  # noqa: F401  slow tests' fixtures

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell's background job ignores Ctrl-C, and so would every process that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup they would ignore SIGHUP.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Files that take minutes. They are begun first, so that no process is left alone with one at the end.
LONG = (
    "test_readme.py", "test_stage_signals.py", "test_launch.py", "test_pipeline.py", "test_registered.py",
    "test_clumsy.py", "test_planted.py", "test_tracking_server.py", "test_guide.py", "test_surroundings.py",
    "test_soak.py", "test_registered_over_http.py", "test_faulty_servers.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


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


@pytest.fixture(scope="session")
def sample_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the sample bars, built once by the data stage."""
    from kronos.__main__ import main

    folder = tmp_path_factory.mktemp("sample")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["data"]) == 0
    return folder / "outputs" / "data"


@pytest.fixture
def store(sample_store: Path, in_folder: Path) -> Path:
    """A copy of the store where a run in `in_folder` looks for it."""
    return Path(shutil.copytree(sample_store, in_folder / "outputs" / "data"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a nano tokenizer and predictor with random weights, always the same."""
    import torch

    from kronos.model import Kronos, KronosTokenizer
    from kronos.model.presets import PREDICTOR_PRESETS, TOKENIZER_PRESETS

    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        KronosTokenizer(**TOKENIZER_PRESETS["nano"]).save_pretrained(folder / "tokenizer")
        Kronos(**PREDICTOR_PRESETS["nano"]).save_pretrained(folder / "predictor")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a very short pipeline has run, with its outputs and tracking store."""
    from kronos.__main__ import main

    folder = tmp_path_factory.mktemp("finished")
    arguments = [
        "--epochs", "1", "--n-train-iter", "600", "--n-val-iter", "200", "--inference-sample-count", "2",
        "--backtest-max-instruments", "100", "--baseline-lightgbm", "false", "--baseline-seeds", "2",
        "--calibration-series", "150", "--calibration-sample-count", "10",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["pipeline", *arguments]) == 0
    return folder


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A newcomer's clone, its recipes cut to seconds, in a path that is hard to spell."""
    from newcomer import make_clone

    return make_clone(tmp_path_factory.mktemp("newcomer") / "新 文件夹" / "Kronos (1)", weights)


@pytest.fixture
def sina() -> Iterator[str]:
    """The address of a service on loopback that speaks as Sina's does, for two symbols."""
    from sina_server import Service, series, serve

    bars = {
        symbol: series(symbol, begin="2022-01-04", until="2025-06-30") for symbol in ("sh600519", "sz000001")
    }
    with serve(Service(bars=bars)) as service:
        yield service.url
