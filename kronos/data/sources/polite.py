"""Polite requests to a public service: pauses between them, a few tries, and waits that grow."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from kronos.utils.errors import UserError

PAUSE = 0.3  # seconds between requests, asked politely of a public service
TRIES = 5
FIRST_WAIT, LONGEST_WAIT = 2.0, 60.0  # seconds after the first failed try, doubled after each, and at most

Answer = TypeVar("Answer")


class BadAnswer(Exception):
    """The answer cannot be used; a retry may help. `wait` is the seconds of the header Retry-After."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


class NoAnswer(UserError):
    """A service gave nothing for one symbol in all tries: other symbols may come nevertheless."""


class UnknownSymbol(Exception):
    """The service says that it does not know a symbol: no retry helps."""


class Stopped(Exception):
    """No request is begun any more, since the run ends."""


class Polite:
    """Begins a request at least `pause` seconds after the one before, and asks again after a BadAnswer.

    Several threads may ask: they share the pauses, and where one has to wait before a retry, all of them do.
    """

    def __init__(self, pause: float | None = None, sleep: Callable[[float], Any] | None = None) -> None:
        self.pause = PAUSE if pause is None else pause
        self._stopped = threading.Event()
        self.sleep = self._stopped.wait if sleep is None else sleep
        self._turn = threading.Lock()
        self._next = 0.0  # by the monotonic clock, before which no request begins

    def stop(self) -> None:
        """Begin no request any more, and end all waits: they raise Stopped."""
        self._stopped.set()

    def ask(self, symbol: str, where: str, request: Callable[[], Answer]) -> Answer:
        """Return what `request` does. Raises NoAnswer with the symbol and the last reason when it gives up."""
        retrying = Retrying(
            stop=stop_after_attempt(TRIES), wait=_wait_seconds, sleep=self._wait,
            retry=retry_if_exception_type(BadAnswer), reraise=True,
        )  # fmt: skip
        try:
            return retrying(self._try, request)
        except BadAnswer as error:
            raise NoAnswer(
                f"{symbol}: {where} gave no bars in {TRIES} tries, the last time: {error}"
            ) from None

    def _wait(self, seconds: float) -> None:
        with self._turn:
            self._next = max(self._next, time.monotonic() + seconds)
        self.sleep(seconds)

    def _try(self, request: Callable[[], Any]) -> Any:
        with self._turn:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self.pause
        self.sleep(begin - now)
        if self._stopped.is_set():
            raise Stopped
        return request()


def short(error: Exception) -> str:
    """The text of an error of a client library on one line that is not too long."""
    return " ".join(str(error).split())[:160]


def named(error: Exception) -> str:
    """The type of an error and its text, as `short` gives it."""
    return f"{type(error).__name__}: {short(error)}"


def _wait_seconds(state: RetryCallState) -> float:
    """Wait twice as long after each failed try, or as long as the service asks, at most LONGEST_WAIT."""
    error = state.outcome.exception() if state.outcome else None
    doubled = wait_exponential(multiplier=FIRST_WAIT)(state)
    return min(max(doubled, getattr(error, "wait", 0.0)), LONGEST_WAIT)
