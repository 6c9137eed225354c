"""One-line messages for failures of the environment: a full disk, missing permissions, a missing package."""

import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, cast

from kronos.utils.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
UNUSABLE = {
    errno.ENAMETOOLONG: "a path or name is longer than the file system allows",
    errno.ELOOP: "a path is a link to itself",
    errno.ENOTDIR: "a path leads through a file, not a folder",
    errno.EISDIR: "a path is a folder where a file was expected",
}
# Libraries with their own I/O (safetensors, SQLite, Arrow) pass on the message of the system, but not its errno.
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

DAMAGED_WORDS = ("file is not a database", "database disk image is malformed", "malformed database schema")
BROKEN_WORDS = ("disk I/O error", "Input/output error")
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # the whole message of numpy
# torch.compile: there is no compiler, or compiling failed.
COMPILER_WORDS = ("InvalidCxxCompiler", "CppCompileError")
OPTIONAL = {
    "psycopg2": "pip install psycopg2-binary",
    "psycopg": "pip install psycopg2-binary  and begin the address with postgresql+psycopg2://",
    "MySQLdb": "pip install mysqlclient",
    "index_constitution": "pip install '.[members]'  in the clone",
    "peft": "pip install '.[lora]'  in the clone",
    **{
        name: f"pip install '.[{name}]'  in the clone"
        for name in ("akshare", "baostock", "tushare", "yfinance", "ccxt")
    },
}


LONGEST_WORD, LONGEST_LINE, MOST_TEXT = 200, 1000, 8000  # characters


def shortened(text: str) -> str:
    """The text without the middle of long words and lines, where it repeats a value that is too long to read."""
    lines = [_cut(_LONG_WORD.sub(lambda found: _cut(found[0], LONGEST_WORD), line), LONGEST_LINE)
             for line in text.split("\n")]  # fmt: skip
    return _cut("\n".join(lines), MOST_TEXT)


_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}... ({len(text) - most:,} more characters) ...{text[-most // 2 :]}"


def one_line(error: BaseException) -> str | None:
    """The message that a user is shown for an error, cut to what can be read; None for a bug."""
    line = str(error) if isinstance(error, UserError) else sentence(error) or refusal(error)
    return None if line is None else shortened(line)


def sentence(error: BaseException) -> str | None:
    """The message for a failure of the environment; None for any other error, which is a bug."""
    for part in _causes(error):
        where = f" ({part.filename})" if isinstance(part, OSError) and part.filename else ""
        number = part.errno if isinstance(part, OSError) else None
        words = str(part)
        if number in FULL or any(word in words for word in FULL_WORDS) or SHORT_WRITE.fullmatch(words):
            return f"the disk is full{where}: free some space, or run in a folder on another disk"
        if number == errno.EIO or any(word in words for word in BROKEN_WORDS):
            return (
                f"the disk or file system failed{where}: {words.splitlines()[0]}; check it (dmesg, the mount), or "
                "run in a folder on another disk"
            )
        if "database is locked" in words:
            return (
                "the database of the tracking store or of the search is locked by another process: end the process "
                "that holds mlflow.db or optuna.db, or give an address of its own (--tracking-uri, --storage)"
            )
        if any(word in words for word in DAMAGED_WORDS):
            return (
                "the database of the tracking store or of the search is damaged: restore mlflow.db or optuna.db from "
                "a copy, or move it away so that a new one is made"
            )
        if number in REFUSED or any(word in words for word in REFUSED_WORDS):
            place = where or f" ({os.getcwd()})"
            return f"no permission to read or write{place}: run in a folder that you can write to"
        if words.startswith("Key backend:"):
            return f"MPLBACKEND={os.environ.get('MPLBACKEND')} is no backend of matplotlib: unset it"
        if number in UNUSABLE:
            return f"{UNUSABLE[number]}{where}: give another one"
        if number in (errno.EMFILE, errno.ENFILE):
            return f"too many open files{where}: raise the limit (ulimit -n), or lower num_workers and n_jobs"
        if isinstance(part, UnicodeEncodeError):
            letters = part.object[part.start : part.end]
            return (
                f"the locale ({sys.getfilesystemencoding()}) cannot encode {letters!r}: set PYTHONUTF8=1, or a UTF-8 "
                "locale such as LC_ALL=C.UTF-8"
            )
        if any(word in words for word in COMPILER_WORDS):
            return (
                "torch.compile failed: it needs a C++ compiler, and a PyTorch installation path without spaces "
                f"({sys.prefix}); set compile=false and inference_compile=false"
            )
        if isinstance(part, ModuleNotFoundError) and part.name and part.name.split(".")[0] != "kronos":
            name = part.name.split(".")[0]
            remedy = OPTIONAL.get(name, "pip install -r requirements.txt  in the clone")
            return f"the package {name} is not installed for {sys.executable}: run  {remedy}"
    return None


def refusal(error: BaseException) -> str | None:
    """The message where MLflow rejects a request, such as for a deleted run or missing permissions; else None."""
    for part in _causes(error):
        if any(kind.__name__ == "MlflowException" for kind in type(part).__mro__):
            return f"MLflow rejected the request: {str(part).strip().partition(chr(10))[0]}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def speak_any_encoding() -> None:
    """Print backslash escapes on a terminal without UTF-8, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")


def show_warnings() -> None:
    """Print warnings that PYTHONWARNINGS or -W would turn into errors, here and in processes that are started.

    Most come from other packages, such as a deprecated option between two of them, and say nothing about the work.
    """
    options = [_as_shown(option) for option in sys.warnoptions]
    if options == sys.warnoptions:
        return
    sys.warnoptions[:] = options
    if "PYTHONWARNINGS" in os.environ:
        os.environ["PYTHONWARNINGS"] = ",".join(map(_as_shown, os.environ["PYTHONWARNINGS"].split(",")))
    filters = cast(list[tuple[Any, ...]], warnings.filters)
    filters[:] = [("default" if action == "error" else action, *rest) for action, *rest in filters]
    warnings.simplefilter("default", append=True)  # it also forgets which filters applied before


def _as_shown(option: str) -> str:
    """The option of -W with `default` in place of `error`, which may be shortened as far as one letter."""
    action, *rest = option.split(":")
    return ":".join(["default", *rest]) if action.strip() and "error".startswith(action.strip()) else option


def quiet_end_of_output() -> int:
    """Silence output after a broken pipe (`| head`); returns the exit status 141, which is 128 + SIGPIPE."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout again at exit
    return 141


def innermost(error: BaseException) -> str:
    """Return the first line of the error that a chain of errors began with, cut to one that can be read.

    Libraries wrap an error of the network several times, and each wrap repeats the text of those within.
    """
    seen: list[BaseException] = []
    inner: object = error
    while isinstance(inner, BaseException) and inner not in seen:
        seen.append(inner)
        within = [inner.__cause__, inner.__context__, getattr(inner, "reason", None), *inner.args]
        inner = next((one for one in within if isinstance(one, BaseException)), None)
    text = (str(seen[-1]).strip() or type(seen[-1]).__name__).splitlines()[0][:200]
    return "".join(
        letter if letter.isprintable() else "?" for letter in text
    )  # of a server: it may be anything
