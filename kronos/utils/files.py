"""Files that are either whole or absent: atomic writes, JSON, and content digests."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kronos.utils.errors import UserError

PACKAGE = (
    Path(__file__).resolve().parents[1]
)  # the folder of the package `kronos`, wherever this module lies in it


def clone() -> Path | None:
    """The clone of the project that this package lies in; None where pip installed it elsewhere."""
    return PACKAGE.parent if (PACKAGE.parent / "MLproject").is_file() else None


def shipped(path: str | Path) -> Path | None:
    """`experiments/...` as the project brings it, from its clone or its package; None where it has no such file."""
    if Path(path).parts[:1] != ("experiments",):
        return None
    found = (root / path for root in (clone(), PACKAGE) if root is not None)
    return next((file for file in found if file.is_file()), None)


def or_shipped(path: str | Path) -> str | Path:
    """The path, or where there is nothing the file that the project brings under that name."""
    return path if Path(path).exists() else shipped(path) or path


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it takes the name `path`, on failure it is removed.

    An existing folder of that name is replaced, never written into: readers see the old one or the new one.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    temporary.chmod(0o755)  # mkdtemp makes it private to the user
    try:
        yield temporary
        replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Rename the folder `source` to `target`; one of that name is moved aside first and deleted after."""
    if not target.exists():
        os.rename(source, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / "folder"
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except BaseException:  # Ctrl-C too: the old folder must come back
        os.rename(aside, target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(aside.parent, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 under a temporary name, then rename it to `path`."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused, since other readers cannot parse it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; a missing or malformed one is a `UserError` that names the file and the place."""
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
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


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
