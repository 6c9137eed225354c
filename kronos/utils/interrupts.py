"""Ctrl-C, SIGTERM and SIGHUP as a KeyboardInterrupt that is not lost, wherever it arrives.

Python runs a signal handler between two instructions of whatever the main thread is doing. An exception that the
handler raises inside a destructor, a weakref callback or the garbage collector is printed as ignored and the program
goes on, and so it does after library code that catches everything. `interruptible` raises the exception again until
the main thread is unwinding with it.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
SAME_REQUEST = (
    2.0  # seconds; torchrun sends a Ctrl-C again that the terminal has already sent to every process
)
LOOK_SECONDS = 0.05  # between two looks at the main thread once an interrupt has been raised


class _State:
    """What has arrived since the outermost `interruptible` block began; written by the main thread."""

    def __init__(self) -> None:
        self.first: float | None = None  # time of the first signal
        self.raised: KeyboardInterrupt | None = None  # the exception that must reach the end of the block
        self.held = 0  # open `uninterrupted` blocks
        self.waiting = False  # an exception waits for their end
        self.again = False  # the next signal is ours: the exception was lost
        self.action: Callable[[], bool] | None = None
        self.wake: SimpleQueue[int | None] = SimpleQueue()  # its `put` may be called in a signal handler


_state: _State | None = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread.

    A second signal while the block is being left, more than `SAME_REQUEST` seconds after the first, ends the process
    at once. Signals that the process ignores, as under nohup, stay ignored. A block within another one, or outside
    the main thread, changes nothing.
    """
    global _state
    if _state is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    state = _state = _State()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    report = sys.unraisablehook
    watcher = threading.Thread(target=_watch, args=(state, threading.get_ident()), daemon=True)
    try:
        sys.unraisablehook = lambda lost: None if lost.exc_value is state.raised else report(lost)
        watcher.start()
        for number in ours:
            signal.signal(number, _handle)
        yield
        if state.waiting:
            _raise(state, int(signal.SIGINT))
    except Exception as error:
        if state.raised is None:
            raise
        raise state.raised from error  # a library made another error of it
    finally:
        _state = None
        for number in ours:
            signal.signal(number, before[number])
        sys.unraisablehook = report
        state.wake.put(None)
        watcher.join()


@contextmanager
def on_interrupt(action: Callable[[], bool]) -> Iterator[None]:
    """Within the block, call `action` in the signal handler first; the interrupt is raised only if it returns True.

    A second signal, more than `SAME_REQUEST` seconds after the first, raises it in any case. A signal that the block
    has not obeyed when it ends is raised after the next `uninterrupted` block, at the latest at the end of the
    outermost block. Outside the main thread the block changes nothing.
    """
    with interruptible():
        state = _state
        if state is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        before, state.action = state.action, action
        try:
            yield
            state.waiting = state.first is not None
        except KeyboardInterrupt as error:
            if state.raised is None:  # raised by the block, which has obeyed
                state.raised, state.first = error, time.monotonic()
            raise
        finally:
            state.action = before


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within the block, an interrupt waits for its end: for short work that must be done as a whole.

    Only where `interruptible` handles the signals, and in the main thread.
    """
    state = _state
    if state is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    state.held += 1
    try:
        yield
    finally:
        state.held -= 1
        if state.waiting and not state.held:
            state.waiting = False
            _raise(state, int(signal.SIGINT))


def _handle(number: int, frame: FrameType | None) -> None:
    state = _state
    if state is None:  # the block is being left
        return
    if state.again:
        state.again = False
        _raise(state, number)
    now = time.monotonic()
    if state.first is None:
        state.first = now
        if state.action is not None and not state.action():
            return
    elif now - state.first <= SAME_REQUEST:
        return
    elif state.raised is not None or state.waiting:
        _end_at_once(number)
    if state.held:
        state.waiting = True
        return
    _raise(state, number)


def _raise(state: _State, number: int) -> None:
    if state.raised is None:
        state.raised = KeyboardInterrupt()
        state.first = time.monotonic()
        state.wake.put(number)
    raise state.raised.with_traceback(None)


def _watch(state: _State, main: int) -> None:
    """Send the signal again whenever two looks in a row find the main thread at work and not unwinding."""
    number = state.wake.get()
    at_work = 0
    while number is not None:
        at_work = 0 if _unwinding(state, main) else at_work + 1
        if at_work >= 2 and not state.held and not state.again:
            state.again = True
            _send(number, main)
            at_work = 0
        try:
            if state.wake.get(timeout=LOOK_SECONDS) is None:
                return
        except Empty:
            continue


def _unwinding(state: _State, main: int) -> bool:
    """Whether the main thread is in an `except` or `finally` block, or an `__exit__`, for the interrupt."""
    found: Any = sys._current_exceptions().get(main)
    error = found[1] if isinstance(found, tuple) else found  # a tuple before Python 3.12
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if error is state.raised:
            return True
        seen.add(id(error))
        error = error.__context__
    return False


def _send(number: int, main: int) -> None:
    if hasattr(signal, "pthread_kill"):  # also ends a wait of the main thread in the system
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


def _end_at_once(number: int) -> None:
    sys.stderr.write("kronos: interrupted again, ended at once; the same command continues\n")
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
