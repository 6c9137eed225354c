"""What the machine does to a run (a full disk, a folder that may not be written, a missing package), in one line."""

import errno
import io
import os
import re
import sys
from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Libraries that write by themselves (safetensors, SQLite, Arrow) pass the system's words on, but not its number.
FULL_WORDS = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "disk is full",
)
REFUSED_WORDS = (
    "readonly database",
    "Read-only file system",
    "Permission denied",
    "unable to open database file",
)

BROKEN_WORDS = ("disk I/O error", "Input/output error")
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy says no more than that
# Of torch.compile: there is no compiler, or it did not build.
COMPILER_WORDS = ("InvalidCxxCompiler", "CppCompileError")
OPTIONAL = {"psycopg2": "pip install psycopg2-binary"}


def sentence(error: BaseException) -> str | None:
    """The user's line for a failure of the machine; None for anything else, which is a fault of the code."""
    for part in _causes(error):
        where = f" ({part.filename})" if isinstance(part, OSError) and part.filename else ""
        number = part.errno if isinstance(part, OSError) else None
        words = str(part)
        if number in FULL or any(word in words for word in FULL_WORDS) or SHORT_WRITE.fullmatch(words):
            return f"the disk is full{where}: free some space, or write elsewhere with another working folder"
        if number == errno.EIO or any(word in words for word in BROKEN_WORDS):
            return (
                f"the disk or file system failed{where}: {words.splitlines()[0]}; check it (dmesg, the mount), or "
                "write elsewhere with another working folder"
            )
        if number in REFUSED or any(word in words for word in REFUSED_WORDS):
            return f"may not read or write here{where or ' (' + os.getcwd() + ')'}: work in a folder that is yours"
        if number in (errno.EMFILE, errno.ENFILE):
            return f"too many open files{where}: raise the limit (ulimit -n), or lower num_workers and n_jobs"
        if isinstance(part, UnicodeEncodeError):
            letters = part.object[part.start : part.end]
            return (
                f"the locale ({sys.getfilesystemencoding()}) cannot spell {letters!r}: set PYTHONUTF8=1, or a UTF-8 "
                "locale such as LC_ALL=C.UTF-8"
            )
        if any(word in words for word in COMPILER_WORDS):
            return (
                "torch.compile cannot build here: it needs a C++ compiler, and a path of PyTorch without spaces "
                f"({sys.prefix}); set compile=false and inference_compile=false"
            )
        if isinstance(part, ModuleNotFoundError) and part.name and part.name.split(".")[0] != "kronos":
            name = part.name.split(".")[0]
            remedy = OPTIONAL.get(name, "pip install -r requirements.txt  in the clone")
            return f"the package {name} is not installed for {sys.executable}: run  {remedy}"
    return None


def refusal(error: BaseException) -> str | None:
    """The user's line where MLflow, which is there, refuses what was asked of it: a deleted run, missing rights."""
    for part in _causes(error):
        if any(kind.__name__ == "MlflowException" for kind in type(part).__mro__):
            return f"MLflow refused: {str(part).strip().partition(chr(10))[0]}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def speak_any_encoding() -> None:
    """Let a terminal that knows fewer letters than UTF-8 show an escape instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")


def quiet_end_of_output() -> int:
    """The reader of our output has gone (`| head`): end without a word, as commands do; 141 is 128 + SIGPIPE."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
    return 141
