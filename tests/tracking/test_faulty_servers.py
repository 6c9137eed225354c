"""Servers that answer wrongly, by halves or not at all: from the first request, and in the middle of a training."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from servers import FAULTS, FaultyServer, MlflowServer
from test_tracking_server import LONG, Kronos, check_every_step_is_there_once, places, trains

# Not an empty object and half a header, which MLflow takes for success: its own answer to metrics is an empty object.
PASSING = ("error 500", "closed at once", "half an answer", "no HTTP", "a page")
pytestmark = pytest.mark.slow


@pytest.fixture
def folder(sample_store: Path, tmp_path: Path) -> Path:
    """A working folder with the sample's bars."""
    shutil.copytree(sample_store, tmp_path / "outputs" / "data")
    return tmp_path


@pytest.fixture
def faulty(server: MlflowServer) -> Iterator[FaultyServer]:
    with FaultyServer(server.port) as between:
        yield between
        between.shutdown()


OFTEN = ("error 503", "no answer", "half an answer", "a page")  # one of each kind


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault in OFTEN else pytest.mark.nightly) for fault in FAULTS]
)
def test_a_stage_is_not_begun(
    fault: str, folder: Path, faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.fault = fault
    monkeypatch.chdir(folder)
    command = ["tokenizer", *LONG, *places(folder), "--tracking-uri", faulty.address]
    errors = folder / "errors.txt"
    process = forked.start(forked.kronos, command, output=folder / "said.txt", errors=errors)
    process.join(timeout=200)
    said = errors.read_text()
    assert process.exitcode == 2, said
    assert faulty.answered
    (line,) = said.strip().splitlines()
    assert faulty.address in line and len(line) < 250, said
    assert not (folder / "outputs" / "models").exists()


def test_a_training_goes_on_through_them(folder: Path, faulty: FaultyServer, server: MlflowServer) -> None:
    kronos = Kronos(folder, faulty, "tokenizer", *LONG, "--epochs", "6", *places(folder))  # type: ignore[arg-type]
    kronos.wait_for(lambda: trains(server, "tokenizer", folder))
    for times, fault in enumerate(PASSING, 1):
        faulty.fault = fault
        kronos.wait_for(lambda times=times: kronos.said().count("is unreachable") == times)
        faulty.fault = None
        kronos.wait_for(lambda times=times: kronos.said().count("is reachable again") == times)
    faulty.fault = "no answer"  # last: it is asked again after a time 50 times as long as it took
    kronos.wait_for(lambda: kronos.said().count("is unreachable") > len(PASSING))
    faulty.fault = None
    kronos.ends(0, seconds=900)
    assert "Traceback" not in kronos.said()
    check_every_step_is_there_once(server, "tokenizer", folder)
