"""The working folder of a running stage: locked by one process, renamed on success, kept for resuming."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kronos.distributed.launcher import WorkerGroup
from kronos.distributed.shards_folder import Shards
from kronos.stages.cache import differences, forecast_code, key_of
from kronos.utils.errors import UserError
from kronos.utils.files import read_json, remove_unfinished, replace_folder, write_json
from kronos.utils.interrupts import on_interrupt

RUN_FILE = "run.json"


def working_path(final: Path, parts: Mapping[str, Any]) -> Path:
    """The hidden folder beside `final` in which the output with this key is written."""
    return final.parent / f".{final.name}-{key_of(parts)}"


def unfinished_run(final: Path, parts: Mapping[str, Any]) -> str | None:
    """Id of the MLflow run of an interrupted stage with this key that can be resumed, else None."""
    working = working_path(final, parts)
    if not (working / "checkpoints" / "last").is_dir() or not (working / RUN_FILE).is_file():
        return None
    return str(read_json(working / RUN_FILE).get("run_id"))


def check_resumable(final: Path, parts: Mapping[str, Any]) -> None:
    """For resume=must: raise UserError if no unfinished run has this key, with the differences of those found."""
    if (working_path(final, parts) / "checkpoints" / "last").is_dir():
        return
    found = []
    for folder in sorted(final.parent.glob(f".{final.name}-*")):
        if (folder / "checkpoints" / "last").is_dir() and (folder / RUN_FILE).is_file():
            differ = differences(read_json(folder / RUN_FILE).get("made_from", {}), parts)
            found.append(f"{folder}: {'; '.join(differ) or 'its record does not match'}")
    if found:
        raise UserError(f"resume=must, but the unfinished run differs, {' | '.join(found)}")
    raise UserError(f"resume=must, but there is no unfinished run of {final}: use resume=auto to start one")


def shards_of(final: Path, workers: WorkerGroup) -> Shards:
    """The shards of a stage's forecasts: in a hidden folder beside its output, kept until the stage has succeeded."""
    return Shards(final.with_name(f".{final.name}-forecasts"), workers, forecast_code)


@contextmanager
def stage_lock(
    final: Path, parts: Mapping[str, Any], wait: bool, say: Callable[[str], None]
) -> Iterator[None]:
    """Hold the lock of a stage's folder and key, so that two processes do not write the same output at once.

    With `wait` the second process waits for the first, otherwise it raises UserError. The lock is acquired before an
    interrupted run is looked up, since that run may belong to the process that holds the lock.
    """
    # Training is locked by key, since trainings with other keys use other working folders.
    name = f".{final.name}.lock" if wait else f"{working_path(final, parts).name}.lock"
    lock = FileLock(final.with_name(name), timeout=0)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except PermissionError as error:  # name the folder in the error instead of the lock file
        raise PermissionError(error.errno, error.strerror, str(final.parent)) from None
    except Timeout:
        if not wait:
            raise UserError(f"another process is training {final} with this very configuration") from None
        say(f"waiting for another process that writes {final}")
        lock.acquire(timeout=-1)
    if wait:  # otherwise trainings with other keys may be replacing the folder
        remove_unfinished(final)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot delete an open file
            Path(lock.lock_file).unlink()
        lock.release()
        with suppress(OSError):  # remove the folder if it is empty
            final.parent.rmdir()


@contextmanager
def working_folder(
    final: Path, parts: Mapping[str, Any], run_id: str
) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """A folder beside `final` that is renamed to `final` on success; the caller holds `stage_lock`.

    Yields the folder and a function that returns whether a signal has requested a stop; a second signal interrupts.
    After a failure the folder is kept if it has a checkpoint to resume from, else removed.
    """
    requested = False

    def request() -> bool:
        nonlocal requested
        requested = True
        return False

    folder = working_path(final, parts)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_json(folder / RUN_FILE, {"run_id": run_id, "made_from": dict(parts)})
        with on_interrupt(request):
            yield folder, lambda: requested
            replace_folder(folder, final)
            (final / RUN_FILE).unlink(missing_ok=True)
            # Only after renaming, so that a process killed before can be resumed from the checkpoint.
            shutil.rmtree(final / "checkpoints" / "last", ignore_errors=True)
    except BaseException:
        if not (folder / "checkpoints" / "last").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        raise
