"""Tracked runs are found from the folders below the one in which they were made, without those of a search's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kronos.tracking.client import Tracking
from kronos.tracking.reader import latest, load_run, newest, recent
from kronos.tracking.run import Run
from kronos.utils.errors import UserError
from kronos.utils.process_identity import this_process


def finished_run(
    tracking: Tracking, stage: str, tags: Mapping[str, Any] | None = None, parent: Run | None = None
) -> Run:
    with tracking.run(stage, {"stage": stage, **(tags or {})}, parent) as run:
        pass
    return run


@pytest.fixture
def run(in_folder: Path) -> Run:
    """A finished run whose database lies in the working folder."""
    return finished_run(Tracking(None, "kronos"), "tokenizer")


@pytest.fixture
def below(run: Run, in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder two levels below the database."""
    folder = in_folder / "notebooks" / "mine"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_runs_are_found_from_a_folder_below_and_nothing_is_written_there(run: Run, below: Path) -> None:
    assert latest("tokenizer").id == load_run(run.id).id == newest("tokenizer", 5)[0].id == run.id
    assert list(below.iterdir()) == []


def test_the_nearest_database_is_read(run: Run, below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(below.parent)
    nearer = finished_run(Tracking(None, "kronos"), "tokenizer")
    assert latest("tokenizer").id == nearer.id
    monkeypatch.chdir(below)
    assert latest("tokenizer").id == nearer.id


def test_an_address_that_is_given_is_not_replaced(
    run: Run, below: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"sqlite:///{tmp_path_factory.mktemp('elsewhere')}/mlflow.db"
    other = finished_run(Tracking(address, "kronos"), "tokenizer")
    assert latest("tokenizer", address).id == other.id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert latest("tokenizer").id == other.id


def test_the_clone_of_the_project_is_the_last_folder_that_is_searched(run: Run, below: Path) -> None:
    (below.parent / "MLproject").touch()
    with pytest.raises(UserError, match="no tracked runs here"):
        latest("tokenizer")
    (below.parent / "MLproject").rename(below.parents[1] / "MLproject")  # which has the database too
    assert latest("tokenizer").id == run.id


def test_a_runs_bars_are_found_from_a_folder_below(
    sample_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sample_store.parents[1]
    (folder / "notebooks").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "notebooks")
    found = latest("data")
    assert found.config.dataset_path == "outputs/data"
    assert found.store().path == sample_store
    monkeypatch.chdir(folder)
    assert latest("data").store().path == Path("outputs/data")


def test_runs_that_a_search_made_for_itself_are_left_out(in_folder: Path) -> None:
    tracking = Tracking(None, "kronos")
    pipelines = finished_run(tracking, "tokenizer")
    with tracking.run("search", {"stage": "search"}) as search:
        prepared = finished_run(tracking, "tokenizer", {"search": search.id})
        trial = finished_run(tracking, "trial", {"trial": 0}, search)
    assert latest("tokenizer").id == pipelines.id
    assert [run.id for run in newest("tokenizer", 5)] == [pipelines.id]
    assert newest("trial", 5) == []
    assert [child.id for child in latest("search").children()] == [trial.id]
    assert load_run(prepared.id).id == prepared.id


def test_recent_runs_are_those_of_any_status_that_no_other_run_made(in_folder: Path) -> None:
    tracking = Tracking(None, "kronos")
    done = finished_run(tracking, "tokenizer")
    with pytest.raises(KeyboardInterrupt), tracking.run("pipeline", {"stage": "pipeline"}) as stopped:
        finished_run(tracking, "tokenizer", parent=stopped)
        raise KeyboardInterrupt
    finished_run(tracking, "tokenizer", {"search": "some study"})
    with tracking.run("predictor", {"stage": "predictor"}) as running:
        found = recent(("pipeline", "tokenizer", "predictor"), 9)
    assert [(run.id, run.status) for run in found] == [
        (running.id, "RUNNING"), (stopped.id, "KILLED"), (done.id, "FINISHED"),
    ]  # fmt: skip
    assert {run.process for run in found} == {this_process()}
    assert [run.id for run in recent(("pipeline", "tokenizer"), 1)] == [stopped.id]
