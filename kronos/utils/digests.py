"""Digests of stored files, compared when a file is opened for the first time in a process."""

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kronos.utils.errors import Damaged, UserError
from kronos.utils.files import read_json

OWN = "own_digest"  # of the rest of a JSON object, beside its other entries
SETTLED = 10**8  # ns: a file changed more recently may change again without a change of its time

_known: dict[tuple[int, ...], str] = {}


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text.

    A file is read once per process, as long as its place on the disk, its size and its times stay the same. Raises
    OSError for a file that is missing or cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe is to wait for its writer
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    with open(path, "rb") as stream:
        found = os.fstat(stream.fileno())
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if state in _known:
            return _known[state]
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED:
        _known[state] = digest
    return digest


def altered(folder: Path, digests: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong, by name, with the files of a folder that have not the digests given."""
    found = {}
    for name, digest in digests.items():
        try:
            if file_digest(folder / name) != digest:
                found[name] = f"{folder / name} is damaged: it was altered (its digest differs)"
        except FileNotFoundError:
            found[name] = f"{folder / name} is missing"
        except OSError as error:
            found[name] = f"{folder / name} cannot be read ({error.strerror})"
    return found


def read_object(path: str | Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object that was written with its own digest, and compare it with that.

    Raises Damaged, with `remedy` as what to do, where it is altered, has no digest, or is no JSON or no object;
    UserError where there is no such file.
    """
    if not Path(path).is_file():
        raise UserError(f"no file {path}: {remedy}")
    try:
        value = read_json(path)
    except UserError as error:
        raise Damaged(f"{path} is damaged ({error})", remedy) from None
    if not isinstance(value, dict):
        raise Damaged(f"{path} is damaged: it holds a {type(value).__name__}, an object was expected", remedy)
    if OWN not in value:
        raise Damaged(f"{path} is damaged: it was altered (its digest is missing)", remedy)
    if with_own_digest(value)[OWN] != value[OWN]:
        raise Damaged(f"{path} is damaged: it was altered (its digest differs)", remedy)
    return value


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the one JSON text of a value that digests are taken of."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()


def with_own_digest(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the digest of itself as one more entry."""
    plain = {name: entry for name, entry in json.loads(json.dumps(value)).items() if name != OWN}
    return {**value, OWN: hashlib.sha256(canonical(plain)).hexdigest()}


def file_stats(root: Path, paths: Iterable[Path]) -> list[list[Any]]:
    """List [path within `root`, bytes, time of change in ns] of each file; one that is not there is left out."""
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found.append([path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns])
    return found
