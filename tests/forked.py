"""Commands in processes forked from one that has imported the packages, which takes longer than most commands.

For tests of what happens inside a command. How a command starts is tested with `python -m kronos` itself.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    "kronos.cli.arguments", "kronos.stages.runner", "kronos.stages.backtest", "kronos.stages.predict",
    "kronos.stages.train", "kronos.stages.pipeline", "kronos.stages.search.stage", "kronos.stages.walk_forward",
    "kronos.stages.audit", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store",
])  # fmt: skip


def start(
    function: Callable[..., int],
    *arguments: Any,
    output: Path,
    errors: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> ForkServerProcess:
    """Call a function of a module in a process of its own session, in this folder; it ends with what that returns.

    Its output goes to a file, its errors there too or to a file of their own. `exitcode` of the process is negative
    where a signal ended it.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    process = CONTEXT.Process(
        target=_call,
        args=(function, arguments, output.absolute(), (errors or output).absolute(), Path.cwd(), variables),
    )
    process.start()
    return process


def kronos(arguments: list[str]) -> int:
    """The command `python -m kronos` with these arguments."""
    from kronos.__main__ import main

    return main(arguments)


def _call(
    function: Callable[..., int],
    arguments: tuple[Any, ...],
    output: Path,
    errors: Path,
    folder: Path,
    variables: dict[str, str],
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    # both append: where they are one file, neither writes over the other
    with output.open("a", buffering=1) as sys.stdout, errors.open("a", buffering=1) as sys.stderr:
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        sys.exit(function(*arguments))
