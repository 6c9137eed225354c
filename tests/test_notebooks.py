"""The notebooks run from the first cell to the last on a fresh pipeline's runs, and are committed without output.

They are run by JupyterLab's own server, which starts a kernel in `notebooks/`, a folder below the one in which the
runs were made.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import BlockingKernelClient

from kronos.__main__ import main

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
PATIENCE = 120  # seconds for a cell, and for the server to start


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_says_what_the_notebook_needs_and_how_long_it_takes(path: Path) -> None:
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and "\nNeeds " in first.source and "Takes about" in first.source


@dataclass
class Lab:
    """A JupyterLab server: its address, its token, and the folder of its kernels' connection files."""

    address: str
    token: str
    runtime: Path

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"token {self.token}", "Content-Type": "application/json"}, method=method,
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or "null")

    def run(self, name: str) -> list[list[dict[str, Any]]]:
        """Open a notebook as a browser does and run its cells; returns the outputs of each code cell."""
        given = {"path": name, "name": name, "type": "notebook", "kernel": {"name": "python3"}}
        session = self.ask("POST", "api/sessions", given)
        client = BlockingKernelClient(
            connection_file=str(self.runtime / f"kernel-{session['kernel']['id']}.json")
        )
        client.load_connection_file()
        client.start_channels(hb=False)  # a busy machine delays heartbeats, which would tell a dead kernel
        try:
            client.wait_for_ready(timeout=PATIENCE)
            cells = self.ask("GET", f"api/contents/{name}")["content"]["cells"]
            return [self._cell(client, cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        finally:
            client.stop_channels()
            self.ask("DELETE", f"api/sessions/{session['id']}")

    def _cell(self, client: BlockingKernelClient, source: str) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] in ("stream", "display_data", "execute_result"):
                outputs.append(message["content"])

        reply = client.execute_interactive(source, timeout=PATIENCE, output_hook=hear, stop_on_error=False)
        content = reply["content"]
        assert content["status"] == "ok", "\n".join([source, *content.get("traceback", [])])
        return outputs


@pytest.fixture(scope="module")
def lab(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab on the folder of the notebooks, beside the runs of a finished pipeline."""
    folder, runtime = finished / "notebooks", tmp_path_factory.mktemp("runtime")
    folder.mkdir(exist_ok=True)
    for path in NOTEBOOKS:
        shutil.copy(path, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
        patch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
        given = [
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            "--ServerApp.port=0",
            f"--notebook-dir={folder}",
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    try:
        yield _started(process, runtime)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def _started(process: subprocess.Popen[bytes], runtime: Path) -> Lab:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, "JupyterLab has ended"
        for file in runtime.glob("jpserver-*.json"):
            if (told := file.read_text()).rstrip().endswith("}"):
                found = json.loads(told)
                return Lab(found["url"], found["token"], runtime)
        time.sleep(0.2)
    raise AssertionError("JupyterLab does not start")


@pytest.fixture(scope="module")
def searched(finished: Path) -> Path:
    """The folder of the pipeline, in which a very short search has run too."""
    budget = ["--epochs", "1", "--n-train-iter", "384", "--n-val-iter", "64", "--search-reports", "3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        given = [*budget, "--search-batch-size", "16,32", "--n-trials", "3", "--tracking-uri"]
        address = f"sqlite:///{finished}/mlflow.db"
        assert main(["search", *given, address, "--skip-data-process", "--skip-tokenizer"]) == 0
    return finished


@pytest.fixture(scope="module")
def audited(finished: Path) -> Path:
    """The folder of the pipeline, in which a short audit has run too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        given = ["--audit-seeds", "20", "--backtest-max-instruments", "30"]
        assert main(["audit", *given, "--tracking-uri", f"sqlite:///{finished}/mlflow.db"]) == 0
    return finished


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_in_jupyterlab(path: Path, lab: Lab, request: pytest.FixtureRequest) -> None:
    if path.stem == "04_study":
        request.getfixturevalue("searched")
    if path.stem == "03_predictions":
        request.getfixturevalue("audited")
    outputs = lab.run(path.name)
    if path.stem == "03_predictions":
        assert "a Rank IC of 0.02 is found in" in str(outputs[-1])
    if path.stem in ("01_bars", "03_predictions", "07_own_csv"):
        assert "candlestick" in str(outputs)
    assert sum(bool(one) for one in outputs) >= len(outputs) // 2
