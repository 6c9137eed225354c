"""Apply the bounds in the process of MLflow's scoring server (`mlflow models serve`).

MLflow parses a body before the model is called, without a bound, reports mistakes with a copy of the table or with a
traceback, ignores unknown params, and does not stop when the client goes away. It offers no hook for any of this.
So the model, when that server loads it, replaces two functions there: `scoring_server.invocations`, which turns a
body into an answer, and `FastAPI.__call__`, which receives the body. In other processes nothing is replaced.
"""

import asyncio
import io
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from threading import Event, Lock
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from kronos.data.bars import FEATURES
from kronos.tracking.served_body import CSV, JSON, over_body, read_body
from kronos.tracking.served_bounds import CLIENT_GONE, Bounds
from kronos.tracking.served_input import check_bars, check_params
from kronos.utils.errors import UserError
from kronos.utils.heap import ARENAS, tune_heap

SERVER = "mlflow.pyfunc.scoring_server"
BODIES = 4  # times max_body_mb: the bodies that the server holds at once

_log = logging.getLogger(__name__)


def install(
    bounds: Bounds, conditions: Sequence[Mapping[str, Any]] = (), columns: Sequence[str] = FEATURES
) -> None:
    """Apply the bounds to all requests of this process, if it is MLflow's scoring server; otherwise do nothing.

    `conditions` are those that the predictor describes, `columns` those of the tokenizer.
    """
    if f"{SERVER}.app" not in sys.modules:
        return
    from fastapi import FastAPI

    _share_memory()
    server, call = sys.modules[SERVER], FastAPI.__call__
    server.invocations = Invocations(bounds, conditions, columns)  # type: ignore[attr-defined]
    bodies = Bodies(bounds)

    async def bounded(self: Any, scope: Any, receive: Any, send: Any) -> None:
        await bodies(lambda *rest: call(self, *rest), scope, receive, send)

    FastAPI.__call__ = bounded  # type: ignore[method-assign]


def _share_memory() -> None:
    """Let all threads of the process allocate from one heap of glibc.

    Each request is answered in any of 40 threads. With heaps of their own, what one has freed is of no use to the
    next: with 12 large requests at once on a busy machine, the peak was 2.5 GB instead of 2.1 GB.
    """
    tune_heap({ARENAS: 1}, "MALLOC_ARENA_MAX")


class Invocations:
    """Answers a body as MLflow's `invocations` does: within the bounds, and with one sentence for each mistake.

    One request is answered at a time, so that the memory of two never adds up; torch uses all cores for one anyway.
    """

    def __init__(
        self,
        bounds: Bounds,
        conditions: Sequence[Mapping[str, Any]] = (),
        columns: Sequence[str] = FEATURES,
    ) -> None:
        self.bounds, self.conditions, self.columns, self.lock = bounds, conditions, columns, Lock()

    def __call__(self, data: bytes, content_type: str | None, model: Any, input_schema: Any) -> Any:
        """Return MLflow's response. Raises MlflowException with the HTTP status and the sentence."""
        gone = CLIENT_GONE.get()
        if not self.lock.acquire(timeout=self.bounds.max_seconds):
            raise MlflowException(
                f"the server was busy with other requests for {self.bounds.max_seconds:g} seconds: try again later",
                error_code=TEMPORARILY_UNAVAILABLE,
            )
        try:
            if gone is not None and gone.is_set():
                raise UserError("the client closed the connection before its turn")
            return self._answer(data, content_type or "", model)
        except UserError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        except MlflowException:
            raise
        except Exception:
            _log.exception("a request failed")
            raise MlflowException(
                "the forecast failed by a fault of the server, whose log has the reason",
                error_code=INTERNAL_ERROR,
            ) from None
        finally:
            self.lock.release()

    def _answer(self, data: bytes, content_type: str, model: Any) -> Any:
        from mlflow.pyfunc.scoring_server import InvocationsResponse, predictions_to_json

        kind, _, charset = (part.strip().lower() for part in content_type.partition(";"))
        if kind not in (JSON, CSV) or charset.replace('"', "") not in ("", "charset=utf-8"):
            return InvocationsResponse(
                f"the content type must be {JSON} or {CSV}, in UTF-8", 415, "text/plain"
            )
        table, params = read_body(data, kind, self.bounds, self.conditions, self.columns)
        params = check_params(params)
        answer = io.StringIO()
        bars = check_bars(table, self.bounds.max_rows, self.conditions, self.columns)
        predictions_to_json(model.predict(bars, params=params), answer)
        return InvocationsResponse(answer.getvalue(), 200, JSON)


class Bodies:
    """Receives the body of each request up to its bound, passes it on whole, and notices when the client leaves."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.held = bounds, 0

    async def __call__(
        self, app: Callable[..., Awaitable[None]], scope: Any, receive: Any, send: Any
    ) -> None:
        """Run an ASGI app with the body of the request; a body over a bound is read, dropped and answered here."""
        if scope["type"] != "http":
            return await app(scope, receive, send)
        parts: list[bytes] = []
        try:
            refusal = await self._receive(parts, receive)
            if refusal is None:
                parts[:] = [b"".join(parts)]
                await _run(app, scope, parts[0], receive, send)
            else:
                await _refuse(send, *refusal)
        except _Gone:
            return None  # nobody is left to answer
        finally:
            self.held -= sum(map(len, parts))

    async def _receive(self, parts: list[bytes], receive: Any) -> tuple[int, str] | None:
        """Append the body to `parts`; returns the error code and sentence of a refused one, whose rest is dropped."""
        refusal, size, more = None, 0, True
        try:
            async with asyncio.timeout(self.bounds.max_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    part, more = message.get("body", b""), message.get("more_body", False)
                    size += len(part)
                    if size > self.bounds.max_body:
                        refusal = INVALID_PARAMETER_VALUE, over_body(self.bounds)
                    elif self.held + len(part) > BODIES * self.bounds.max_body:
                        refusal = (
                            TEMPORARILY_UNAVAILABLE,
                            "the server holds too many large bodies: try again later",
                        )
                    if refusal is None:
                        parts.append(part)
                        self.held += len(part)
                    else:
                        self.held -= sum(map(len, parts))
                        parts.clear()
        except TimeoutError:
            seconds = f"{self.bounds.max_seconds:g}"
            refusal = refusal or (
                INVALID_PARAMETER_VALUE,
                f"the body took longer than max_seconds = {seconds}",
            )
        return refusal


class _Gone(Exception):
    """The client closed the connection."""


async def _run(app: Callable[..., Awaitable[None]], scope: Any, body: bytes, receive: Any, send: Any) -> None:
    """Run the app; `CLIENT_GONE` is set when the client goes away, or at the end, which may be MLflow's timeout."""
    gone, left = Event(), asyncio.Event()
    whole: list[bytes] = [body]

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
        left.set()

    async def replay() -> dict[str, Any]:
        if whole:
            return {"type": "http.request", "body": whole.pop(), "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    CLIENT_GONE.set(gone)
    watching = asyncio.create_task(watch())
    try:
        await app(scope, replay, send)
    finally:
        gone.set()
        watching.cancel()


async def _refuse(send: Any, code: int, sentence: str) -> None:
    error = MlflowException(sentence, error_code=code)
    headers = [(b"content-type", JSON.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.get_http_status_code(), "headers": headers})
    await send({"type": "http.response.body", "body": error.serialize_as_json().encode()})
