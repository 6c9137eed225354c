"""Several symbols at once: the same bars, findings and errors as one at a time, at the same rate of requests."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from test_living import MadeUp, Service, Settings, build, set_clock, settings, world  # noqa: F401

from kronos.data.sources import polite
from kronos.data.sources.at_once import at_once
from kronos.data.sources.polite import BadAnswer, NoAnswer, Polite, Stopped
from kronos.utils.errors import UserError

MANY = tuple(f"S{number}" for number in range(9))
Patch = pytest.MonkeyPatch


def test_the_store_is_that_of_one_at_a_time_with_symbols_that_fail_and_a_split(
    world: Service,  # noqa: F811
    settings: Settings,  # noqa: F811
    monkeypatch: Patch,
) -> None:
    def two_days(workers: int) -> Any:
        monkeypatch.setattr(MadeUp, "workers", workers)
        world.asked.clear()
        stores = []
        for today in ("2024-06-28", "2024-07-08"):
            world.today = today
            set_clock(monkeypatch, f"{today} 18:00")
            stores.append(build(settings(f"with {workers}", symbols=MANY, least_share=0.5)))
        return [(one.digest, one.findings, one.instruments) for one in stores], Counter(world.asked)

    world.failing, world.unknown, world.splits = {"S2", "S6"}, {"S4"}, {"S1": 0.5, "S7": 0.25}
    expected = two_days(1)
    assert two_days(4) == expected and two_days(20) == expected
    counts = {one["kind"]: one["count"] for one in expected[0][1][1]}
    assert counts["symbol that did not come"] == 2 and counts["symbol without bars"] == 1
    assert counts["past that the service has put on another basis"] == 2


@pytest.mark.parametrize("after", [False, True], ids=["before the answer", "after the answer"])
def test_killed_at_any_request_it_goes_on_and_repeats_no_answer_that_came(
    world: Service,  # noqa: F811
    settings: Settings,  # noqa: F811
    monkeypatch: Patch,
    after: bool,
) -> None:
    def top_up(place: str) -> str:
        made = MadeUp(settings(place, symbols=MANY[:4]))
        made.download_data()
        return pd.concat([made._frame(name, made.records[name]) for name in made.members]).to_csv()

    monkeypatch.setattr(MadeUp, "workers", 3)
    world.page = 70
    expected, requests = top_up("whole"), len(world.asked)
    assert requests == 8
    for stop in range(requests):
        world.asked.clear(), world.finished.clear()
        world.stop_at, world.stop_after = stop, after
        with pytest.raises(KeyboardInterrupt):
            top_up(f"killed at {stop}")
        assert top_up(f"killed at {stop}") == expected
        assert len(world.finished) == len(set(world.finished)) == requests


def test_requests_of_several_symbols_are_under_way_together_but_no_more_than_allowed() -> None:
    lock, under_way, most = threading.Lock(), 0, 0
    meet = threading.Barrier(3, timeout=30)  # passed only by three requests at once
    threads = set()

    def request() -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        meet.wait()
        with lock:
            under_way -= 1
        return 1

    def work(name: int) -> Any:
        answers = 0
        for _ in range(2):
            answers += yield request
            threads.add(threading.get_ident())
        return name, answers

    found = list(at_once([work(name) for name in range(9)], 3, lambda: None))
    assert found == [(name, 2) for name in range(9)] and most == 3
    assert threads == {threading.get_ident()}  # what is done with answers is done by the caller


def test_the_error_is_that_of_the_first_work_however_late_it_comes() -> None:
    second_failed = threading.Event()
    begun, stopped = [], []

    def fail(name: str, error: Exception, first: Callable[[], Any], last: Callable[[], Any]) -> Any:
        def request() -> None:
            begun.append(name)
            first()
            last()
            raise error

        yield request

    works = [
        fail("none", NoAnswer("none"), lambda: None, lambda: None),
        fail("first", UserError("first"), lambda: second_failed.wait(30), lambda: None),
        fail("second", UserError("second"), lambda: None, second_failed.set),
        fail("third", UserError("third"), lambda: None, lambda: None),
    ]
    outcomes = at_once(works, 2, lambda: stopped.append(True))
    assert isinstance(next(outcomes), NoAnswer)
    with pytest.raises(UserError, match="first"):
        next(outcomes)
    assert begun[0] == "none" and sorted(begun[1:]) == ["first", "second"] and stopped == [True]


def test_an_answer_under_way_is_written_down_when_the_run_ends() -> None:
    """Closed by the caller, or ended by Ctrl-C."""
    written, end = [], threading.Event()

    def work(name: str) -> Any:
        if name == "slow":
            yield lambda: end.wait(30)
            written.append(name)
        return (yield lambda: name)

    outcomes = at_once([work("quick"), work("slow")], 2, end.set)
    assert next(outcomes) == "quick"
    outcomes.close()
    assert written == ["slow"]


def test_threads_share_one_rate_and_a_wait_holds_all_of_them(monkeypatch: Patch) -> None:
    monkeypatch.setattr(polite.time, "monotonic", lambda: 100.0)
    slept: list[float] = []
    gentle = Polite(0.5, sleep=slept.append)
    threads = [
        threading.Thread(target=lambda: gentle.ask("A", "there", lambda: None)) for _ in range(6)
    ]  # fmt: skip
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert sorted(slept) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    slept.clear()
    refusals = iter([BadAnswer("slow down", wait=20.0)])

    def refused_once() -> None:
        for error in refusals:
            raise error

    gentle.ask("A", "there", refused_once)
    gentle.ask("B", "there", lambda: None)
    assert slept == [3.0, 20.0, 20.0, 20.5]  # the turn; the wait; the turn after it; the next one's


def test_a_stopped_run_waits_no_longer_and_asks_nothing() -> None:
    gentle, asked = Polite(1e6), []
    gentle.ask("A", "there", lambda: asked.append("A"))
    ended: list[BaseException] = []

    def waits() -> None:
        try:
            gentle.ask("B", "there", lambda: asked.append("B"))
        except Stopped as error:
            ended.append(error)

    thread = threading.Thread(target=waits)
    thread.start()
    gentle.stop()
    thread.join(30)
    assert len(ended) == 1 and asked == ["A"]
