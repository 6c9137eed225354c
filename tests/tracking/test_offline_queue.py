"""Whatever happens to the server or to this process, every message arrives once and in order."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.tracking import offline_queue as outbox
from kronos.tracking.offline_queue import JOURNAL, Outbox
from kronos.utils.errors import TrackingAway


class Server:
    """Takes messages as MLflow does: one that it has already changes nothing. Files are read when they come."""

    def __init__(self) -> None:
        self.there, self.lose_answer, self.refuses = True, False, False
        self.rows: dict[str, list[Any]] = {}
        self.calls = 0

    def send(self, run_id: str, message: dict[str, Any], path: Path | None) -> None:
        self.calls += 1
        if not self.there:
            raise ConnectionRefusedError("nobody answers")
        if self.refuses:
            raise ValueError("the run is deleted")
        row = (message["number"], path and (path / "file.txt" if path.is_dir() else path).read_text())
        if row not in self.rows.setdefault(run_id, []):
            self.rows[run_id].append(row)
        if self.lose_answer:
            self.lose_answer = self.there = False
            raise ConnectionResetError("gone before it could say so")

    def ping(self) -> None:
        if not self.there:
            raise ConnectionRefusedError("nobody answers")

    def outbox(self, folder: Path, say: Callable[[str], None] = lambda text: None, wait: float = 0) -> Outbox:
        return Outbox(
            folder, self.send, lambda error: isinstance(error, OSError), self.ping,
            place="http://here", wait=wait, say=say,
        )  # fmt: skip


class Clock:
    """Time that passes only when somebody sleeps or a call takes long."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(outbox, "time", made)
    return made


def kill(box: Outbox, torn: bool) -> None:
    """What SIGKILL leaves: open files are closed, locks fall, a line may be half written."""
    for journal in box._journals.values():
        journal.close()
        if torn:
            with (journal.folder / JOURNAL).open("a") as stream:
                stream.write('{"message": {"num')


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("ab"), st.sampled_from(["", "file", "folder"])),
        st.sampled_from([("go",), ("come",), ("lose answer",), ("kill",), ("kill torn",), ("time",)]),
    ),
    max_size=30,
)


@given(events=EVENTS)
@settings(deadline=None)
def test_nothing_is_lost_or_sent_twice(events: list[tuple[str, ...]]) -> None:
    with TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        clock, place, server = Clock(), Path(scratch), Server()
        patch.setattr(outbox, "time", clock)
        box = server.outbox(place / "unsent")
        wanted: dict[str, list[Any]] = {}
        for number, event in enumerate(events):
            match event[0]:
                case "put":
                    _, run_id, kind = event
                    path = None
                    if kind:  # it changes after it was given
                        path = place / "out" if kind == "folder" else place / "out" / "file.txt"
                        (place / "out").mkdir(exist_ok=True)
                        (place / "out" / "file.txt").write_text(f"content {number}")
                    box.put(run_id, {"number": number}, path)
                    wanted.setdefault(run_id, []).append((number, f"content {number}" if kind else None))
                case "go":
                    server.there = False
                case "come":
                    server.there = True
                case "lose answer":
                    server.lose_answer = True
                case "time":
                    clock.now += 3600
                case _:
                    kill(box, torn=event[0] == "kill torn")
                    box = server.outbox(place / "unsent")
                    box.take_over()
        server.there, server.lose_answer = True, False
        kill(box, torn=False)  # what a journal holds is enough
        box = server.outbox(place / "unsent")
        box.take_over()
        assert server.rows == wanted
        assert not list((place / "unsent").glob("*"))


def test_it_says_once_that_the_server_is_away_and_once_that_it_is_back(tmp_path: Path, clock: Clock) -> None:
    said: list[str] = []
    server = Server()
    box = server.outbox(tmp_path / "unsent", said.append)
    server.there = False
    for number in range(100):
        clock.now += 1
        box.put("a", {"number": number})
    assert len(said) == 1
    assert "is unreachable: the run continues" in said[0] and str(tmp_path / "unsent") in said[0]
    server.there = True
    for number in range(100, 110):
        clock.now += 1
        box.put("a", {"number": number})
    assert len(said) == 2
    assert "is reachable again after 10" in said[1]
    assert server.rows["a"] == [(number, None) for number in range(110)]


def test_a_server_that_hangs_takes_at_most_two_percent_of_the_time(tmp_path: Path, clock: Clock) -> None:
    lost = 0.0

    def hang(*arguments: Any) -> None:
        nonlocal lost
        clock.now += 10
        lost += 10
        raise TimeoutError("no answer within 10 s")

    box = Outbox(tmp_path, hang, lambda error: True, hang, place="here", wait=0, say=lambda text: None)
    while clock.now < 36000:
        clock.now += 30
        box.put("a", {"number": 1})
    assert lost <= 10 + 0.02 * clock.now


def test_an_absent_server_is_waited_for_and_then_given_up(tmp_path: Path, clock: Clock) -> None:
    said: list[str] = []
    server = Server()
    box = server.outbox(tmp_path / "unsent", said.append, wait=60)
    assert box.now(lambda: 7) == 7
    server.there = False
    box.put("a", {"number": 0})
    with pytest.raises(TrackingAway, match=r"was not back within 60 s .*is kept in .*unsent"):
        box.wait()
    assert clock.now >= 60
    assert said[1:] == ["  waiting up to 60 s for MLflow at http://here"]
    with pytest.raises(TrackingAway):
        box.now(lambda: 7)
    server.there = True
    assert box.now(lambda: len(server.rows["a"])) == 1  # sent before anything is asked


def test_a_call_that_fails_while_the_server_answers_is_given_up_too(tmp_path: Path, clock: Clock) -> None:
    def broken() -> None:
        raise ConnectionResetError("always, for this call")

    with pytest.raises(TrackingAway):
        Server().outbox(tmp_path / "unsent", wait=60).now(broken)
    assert 60 <= clock.now < 120


def test_a_refusal_is_an_error_and_no_absence(tmp_path: Path) -> None:
    server = Server()
    server.refuses = True
    box = server.outbox(tmp_path / "unsent")
    with pytest.raises(ValueError, match="the run is deleted"):
        box.put("a", {"number": 0})
    assert not (tmp_path / "unsent").exists()


def test_what_the_server_refuses_at_the_next_start_stays_and_is_said(tmp_path: Path) -> None:
    server = Server()
    server.there = False
    first = server.outbox(tmp_path / "unsent")
    for run_id in "ab":
        first.put(run_id, {"number": 0})
    kill(first, torn=False)
    server.there = server.refuses = True
    said: list[str] = []
    server.outbox(tmp_path / "unsent", said.append).take_over()
    assert len(said) == 2
    assert "rejected the messages stored in" in said[0] and "the run is deleted" in said[0]
    server.refuses = False
    server.outbox(tmp_path / "unsent").take_over()
    assert server.rows == {"a": [(0, None)], "b": [(0, None)]}


def test_a_journal_of_a_process_that_lives_is_left_to_it(tmp_path: Path) -> None:
    server = Server()
    server.there = False
    first = server.outbox(tmp_path / "unsent")
    first.put("a", {"number": 0})
    server.there = True
    server.outbox(tmp_path / "unsent").take_over()
    assert server.rows == {}
    assert first.deliver()
    assert server.rows == {"a": [(0, None)]}
