"""What the scoring server does around the model: bodies, clients that leave, requests that wait."""

import asyncio
import json
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from serving import assert_one_sentence, market, request_body

from kronos.tracking import scoring_server as guard
from kronos.tracking.served_bounds import CLIENT_GONE, Bounds


class Stream:
    """The server's side of one request: chunks of a body, then silence until the client goes away."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks, self.gone, self.sent = list(chunks), asyncio.Event(), []

    async def receive(self) -> dict[str, Any]:
        if self.chunks:
            part = self.chunks.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.chunks)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


def test_a_large_body_is_read_dropped_and_refused() -> None:
    bodies, stream = guard.Bodies(Bounds(max_body_mb=1)), Stream(*[bytes(2**20)] * 50)

    async def never(*_: Any) -> None:
        raise AssertionError("the app must not see the body")

    asyncio.run(bodies(never, {"type": "http"}, stream.receive, stream.send))
    assert stream.sent[0]["status"] == 400 and not stream.chunks and bodies.held == 0
    assert_one_sentence(json.loads(stream.sent[1]["body"])["message"])


def test_a_body_that_does_not_arrive_is_refused() -> None:
    bodies, stream = guard.Bodies(Bounds(max_seconds=0.05)), Stream(b"{")
    stream.chunks.append(b"")
    part = stream.receive

    async def slow() -> dict[str, Any]:
        return await part() if len(stream.chunks) > 1 else await asyncio.sleep(60)  # type: ignore[func-returns-value]

    asyncio.run(bodies(None, {"type": "http"}, slow, stream.send))  # type: ignore[arg-type]
    assert "max_seconds = 0.05" in stream.sent[1]["body"].decode() and stream.sent[0]["status"] == 400


def test_work_stops_when_the_client_goes_away(model: Any) -> None:
    """The client goes away while the model works: the forecast ends at its next bar."""
    stream = Stream(b"{}")

    def work() -> Any:
        while not CLIENT_GONE.get().is_set():  # type: ignore[union-attr]
            pass
        return model.predict(market("A"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"{}"
        working = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.sleep(0.01)
        stream.gone.set()
        with pytest.raises(MlflowException, match="the client closed the connection"):
            await working

    asyncio.run(guard.Bodies(Bounds())(app, {"type": "http"}, stream.receive, stream.send))


def test_a_request_that_waits_too_long_for_others_is_told_so(model: Any) -> None:
    invocations = guard.Invocations(Bounds(max_seconds=0.01))
    with invocations.lock, pytest.raises(MlflowException, match="busy with other requests") as told:
        invocations(request_body(market("A")), "application/json", model, None)
    assert told.value.get_http_status_code() == 503
    assert invocations(request_body(market("A")), "application/json", model, None).status == 200
    assert not invocations.lock.locked()
