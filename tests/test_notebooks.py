"""The notebooks run from the first cell to the last on a fresh pipeline's runs, and are committed without output.

The kernel's working folder is `notebooks/`, as Jupyter sets it: a folder below the one in which the runs were made.
"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from kronos.__main__ import main

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


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
def test_every_cell_runs(path: Path, finished: Path, request: pytest.FixtureRequest) -> None:
    if path.stem == "04_study":
        request.getfixturevalue("searched")
    if path.stem == "03_predictions":
        request.getfixturevalue("audited")
    notebook = nbformat.read(path, as_version=4)
    folder = finished / "notebooks"
    folder.mkdir(exist_ok=True)
    NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if path.stem == "03_predictions":
        assert "a Rank IC of 0.02 is found in" in str(code[-1].outputs)
    assert sum(bool(cell.outputs) for cell in code) >= len(code) // 2
