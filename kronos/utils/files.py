"""File helpers: atomic writes, JSON, and content digests."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from kronos.utils.errors import UserError

RECORD = "summary.json"  # in the output folder of a stage: its figures, and what they follow from
PACKAGE = Path(__file__).resolve().parents[1]  # the folder of the package `kronos`


def clone() -> Path | None:
    """The root of the project's clone that contains this package; None where it was installed elsewhere by pip."""
    return PACKAGE.parent if (PACKAGE.parent / "MLproject").is_file() else None


def shipped(path: str | Path) -> Path | None:
    """The file `experiments/...` of the clone or the installed package; None where there is no such file."""
    if Path(path).parts[:1] != ("experiments",):
        return None
    found = (root / path for root in (clone(), PACKAGE) if root is not None)
    return next((file for file in found if file.is_file()), None)


def or_shipped(path: str | Path) -> str | Path:
    """The path if it exists, else the file of that name that ships with the project, if any."""
    return path if Path(path).exists() else shipped(path) or path


def given_path(text: str | Path) -> Path:
    """Return a path as a user gives it, with the home folder for `~`.

    That of an unknown user (`~somebody`) stays as it is: there is no such file, and no error of Python's.
    """
    return Path(os.path.expanduser(text))


def lock_of(file: Path, timeout: float = 120.0) -> FileLock:
    """Return a lock between the threads and processes of this machine that use a file, beside no file of the user's.

    Waiting for it raises filelock.Timeout after `timeout` seconds.
    """
    name = digest_bytes(os.fsencode(file.absolute()))[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"kronos-{name}.lock", timeout=timeout)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, renamed to `path` on success and removed on failure.

    An existing folder of that name is replaced as a whole: readers see either the old or the new one.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    temporary.chmod(0o755)  # mkdtemp creates it with mode 700
    try:
        yield temporary
        replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Rename the folder `source` to `target`; an existing `target` is moved aside first and deleted afterwards."""
    if not target.exists():
        os.rename(source, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / "folder"
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except BaseException:  # also on Ctrl-C, the old folder must be restored
        os.rename(aside, target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(aside.parent, ignore_errors=True)


def remove_unfinished(path: str | Path) -> None:
    """Delete what killed processes left of replacing the folder `path`; a whole one that was moved aside comes back.

    The caller makes sure that no other process is replacing it.
    """
    target = Path(path)
    unfinished = re.compile(re.escape(f".{target.name}.") + r"(old\.)?[a-z0-9_]{8}")  # the names of mkdtemp
    for found in target.parent.glob(".*"):
        if not unfinished.fullmatch(found.name) or not found.is_dir():
            continue
        aside = found / "folder"
        if found.name.startswith(f".{target.name}.old.") and aside.is_dir() and not target.exists():
            os.rename(aside, target)
        shutil.rmtree(found, ignore_errors=True)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`, renamed to it at the end of the block; removed if the block raises."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 under a temporary name, then rename it to `path`."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Raises ValueError for NaN, which is not valid JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises UserError, with path and position, where it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"no file {path}: check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, a JSON file was expected") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be read as JSON") from None
    except ValueError:  # more digits than Python converts
        raise UserError(f"{path} holds a whole number of thousands of digits, which cannot be read") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def check_sqlite(path: Path) -> None:
    """Raise UserError for a file that is no SQLite database, or whose end is missing; it may be absent or empty."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, the file of a database was expected: move it away")
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb") as stream:
        header = stream.read(32)
    remedy = "restore it from a copy, or move it away so that a new one is made"
    if not header.startswith(b"SQLite format 3\0"):
        raise UserError(f"{path} is not a SQLite database: {remedy}")
    page, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    if path.stat().st_size < pages * (65536 if page == 1 else page):
        raise UserError(
            f"{path} is damaged: {path.stat().st_size:,} of {pages * page:,} bytes are there; {remedy}"
        )


def digest_bytes(*chunks: bytes | memoryview) -> str:
    """SHA-256 of the chunks in order, as hexadecimal text."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def digest_folder(path: str | Path) -> str:
    """SHA-256 over the names and contents of every file below `path`, in sorted order."""
    digest = hashlib.sha256()
    root = Path(path)
    for file in sorted(entry for entry in root.rglob("*") if entry.is_file()):
        digest.update(file.relative_to(root).as_posix().encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
