"""Where a training grows before it takes its name, and how it is asked to stop."""

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

from kronos.stages.base import RUN_FILE, differences, key_of, working_path
from kronos.utils.errors import UserError
from kronos.utils.files import read_json, replace_folder, write_json

SAME_REQUEST = 2.0  # seconds: torchrun repeats a Ctrl-C that the terminal has sent to every process already


def check_resumable(final: Path, made: Mapping[str, Any]) -> None:
    """For resume=must: refuse when no unfinished run of this origin is there, and say how those there differ."""
    if (working_path(final, key_of(made)) / "checkpoints" / "last").is_dir():
        return
    found = []
    for folder in sorted(final.parent.glob(f".{final.name}-*")):
        if (folder / "checkpoints" / "last").is_dir() and (folder / RUN_FILE).is_file():
            differ = differences(read_json(folder / RUN_FILE).get("made_from", {}), made)
            found.append(f"{folder}: {'; '.join(differ) or 'it was made otherwise'}")
    if found:
        raise UserError(f"resume=must, but the unfinished run differs, {' | '.join(found)}")
    raise UserError(f"resume=must, but there is no unfinished run of {final}: use resume=auto to begin one")


@contextmanager
def working_folder(
    final: Path, made: Mapping[str, Any], run_id: str
) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """A folder beside `final` that takes its name when the block ends well.

    Yields the folder and a function that says whether Ctrl-C or SIGTERM asked to stop. A second process with
    the same origin is refused. What can be resumed is kept after a failure, anything else is removed.
    """
    folder = working_path(final, key_of(made))
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is training {final} with this very configuration") from None
    try:
        write_json(folder / RUN_FILE, {"run_id": run_id, "made_from": dict(made)})
        with _stop_request() as stop:
            yield folder, stop
        replace_folder(folder, final)
        (final / RUN_FILE).unlink(missing_ok=True)
        # Not before: until the new name stands, a killed process must find what to go on from.
        shutil.rmtree(final / "checkpoints" / "last", ignore_errors=True)
    except BaseException:
        if not (folder / "checkpoints" / "last").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        with suppress(OSError):  # Windows does not delete an open file
            Path(lock.lock_file).unlink()
        lock.release()


@contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop polls; a later one interrupts at once."""
    asked, first = False, 0.0

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked, first
        if asked and time.monotonic() - first > SAME_REQUEST:
            raise KeyboardInterrupt
        if not asked:
            asked, first = True, time.monotonic()

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
