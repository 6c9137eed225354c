"""The working folder of a stage in progress: locked by one process, renamed on success, kept for resuming."""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from kronos.stages.cache import differences, key_of
from kronos.utils.errors import UserError
from kronos.utils.files import read_json, replace_folder, write_json

RUN_FILE = "run.json"
SAME_REQUEST = 2.0  # seconds: torchrun repeats a Ctrl-C that the terminal has sent to every process already


def working_path(final: Path, parts: Mapping[str, Any]) -> Path:
    """The hidden folder beside `final` in which output of this key is made."""
    return final.parent / f".{final.name}-{key_of(parts)}"


def unfinished_run(final: Path, parts: Mapping[str, Any]) -> str | None:
    """The MLflow run of an interrupted stage of this key that can be resumed, else None."""
    working = working_path(final, parts)
    if not (working / "checkpoints" / "last").is_dir() or not (working / RUN_FILE).is_file():
        return None
    return str(read_json(working / RUN_FILE).get("run_id"))


def check_resumable(final: Path, parts: Mapping[str, Any]) -> None:
    """For resume=must: refuse when there is no unfinished run of this key, and say how those there differ."""
    if (working_path(final, parts) / "checkpoints" / "last").is_dir():
        return
    found = []
    for folder in sorted(final.parent.glob(f".{final.name}-*")):
        if (folder / "checkpoints" / "last").is_dir() and (folder / RUN_FILE).is_file():
            differ = differences(read_json(folder / RUN_FILE).get("made_from", {}), parts)
            found.append(f"{folder}: {'; '.join(differ) or 'it was made otherwise'}")
    if found:
        raise UserError(f"resume=must, but the unfinished run differs, {' | '.join(found)}")
    raise UserError(f"resume=must, but there is no unfinished run of {final}: use resume=auto to begin one")


@contextmanager
def stage_lock(
    final: Path, parts: Mapping[str, Any], wait: bool, say: Callable[[str], None]
) -> Iterator[None]:
    """Hold the lock of a stage's folder and key, so that two equal commands do not make the same output at once.

    With `wait` the second process waits for the first, otherwise it is refused with a UserError. Taken before the
    run of an interrupted stage is looked up: that run may belong to the process that holds the lock.
    """
    # A training is locked by its key, since trainings of other keys have working folders of their own.
    name = f".{final.name}.lock" if wait else f"{working_path(final, parts).name}.lock"
    lock = FileLock(final.with_name(name), timeout=0)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except PermissionError as error:  # the lock's own name would tell the user nothing
        raise PermissionError(error.errno, error.strerror, str(final.parent)) from None
    except Timeout:
        if not wait:
            raise UserError(f"another process is training {final} with this very configuration") from None
        say(f"waits for another process that writes {final}")
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not delete an open file
            Path(lock.lock_file).unlink()
        lock.release()
        with suppress(OSError):  # a folder that nothing was written into
            final.parent.rmdir()


@contextmanager
def working_folder(
    final: Path, parts: Mapping[str, Any], run_id: str
) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """A folder beside `final` that takes its name when the block ends well; the caller holds `stage_lock`.

    Yields the folder and a function that says whether Ctrl-C or SIGTERM asked to stop. What can be resumed is kept
    after a failure, anything else is removed.
    """
    folder = working_path(final, parts)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_json(folder / RUN_FILE, {"run_id": run_id, "made_from": dict(parts)})
        with _stop_request() as stop:
            yield folder, stop
        replace_folder(folder, final)
        (final / RUN_FILE).unlink(missing_ok=True)
        # Not before: until the new name stands, a killed process must find what to resume from.
        shutil.rmtree(final / "checkpoints" / "last", ignore_errors=True)
    except BaseException:
        if not (folder / "checkpoints" / "last").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a stop request that the loop polls; a later one interrupts at once."""
    requested, first = False, 0.0

    def request(signum: int, frame: FrameType | None) -> None:
        nonlocal requested, first
        if requested and time.monotonic() - first > SAME_REQUEST:
            raise KeyboardInterrupt
        if not requested:
            requested, first = True, time.monotonic()

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield lambda: False
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
