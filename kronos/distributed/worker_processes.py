"""Independent pieces of work on several processes, for what runs on one core each."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from kronos.distributed.child_process import exit_with_parent

T = TypeVar("T")


def on_processes(
    function: Callable[..., T], pieces: Sequence[tuple[Any, ...]], processes: int
) -> Iterator[T]:
    """Yield `function(*piece)` of each piece, in order; with one process the pieces run in this one.

    The processes are loky's, which joblib brings: they start without the caller's main module, so that a script or a
    notebook needs no guard. Arguments and results are pickled. An exception of a piece is raised here, and an
    interrupt ends the processes.
    """
    processes = min(processes, len(pieces))
    if processes < 2:
        for piece in pieces:
            yield function(*piece)
        return
    from joblib.externals.loky import ProcessPoolExecutor

    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    pool = ProcessPoolExecutor(processes, initializer=_begin, env=one_thread)
    try:
        for future in [pool.submit(function, *piece) for piece in pieces]:
            yield future.result()
    except BaseException:
        pool.shutdown(kill_workers=True)
        raise
    pool.shutdown()


def _begin() -> None:
    """Ctrl-C reaches every process of a terminal: the one that started this one ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent()
