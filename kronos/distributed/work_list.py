"""Work that the processes of a run take from a shared list, piece by piece, so that a slow one holds nobody up.

The list lives in the run's key-value store and ends with it: what a killed process had taken is free in the next run.
Within the run, rank 0 does the pieces of a worker process that died.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kronos.distributed.launcher import WorkerGroup

LOOK_SECONDS = 0.05  # between two looks at the worker processes


class WorkList:
    """Pieces of work, given by number, of which each process takes the next one; `rank` is this process's."""

    def __init__(self, store: Any, pieces: Sequence[int], rank: int = 0) -> None:
        self._store, self._pieces, self._rank = store, pieces, rank

    def __iter__(self) -> Iterator[int]:
        """Take pieces until none is left."""
        self._store.set(f"began/{self._rank}", "1")
        while (place := self._store.add("taken", 1)) <= len(self._pieces):
            yield self._pieces[place - 1]

    def leave(self) -> None:
        """Say that this process has finished, or given up, all pieces that it took."""
        self._store.set(f"left/{self._rank}", "1")

    def finish(self, piece: int, size: int) -> None:
        """Say that a piece is done; `size` is its share of the whole work."""
        self._store.set(f"done/{piece}", "1")
        self._store.add("size", size)

    def finished(self) -> int:
        """Return the sizes of all finished pieces together."""
        return int(self._store.add("size", 0))

    def unfinished(self) -> list[int]:
        """Return the pieces that nobody has finished."""
        return [piece for piece in self._pieces if not self._store.check([f"done/{piece}"])]

    def exhausted(self) -> bool:
        """Return whether all pieces have been taken."""
        return bool(self._store.add("taken", 0) >= len(self._pieces))

    def close(self) -> None:
        """Let nobody take another piece."""
        self._store.add("taken", len(self._pieces))

    def is_busy(self, rank: int) -> bool:
        """Return whether a process has begun to take pieces and may not have finished all that it took."""
        return self._store.check([f"began/{rank}"]) and not self._store.check([f"left/{rank}"])

    def decline(self, reason: str) -> None:
        """Say why this process takes no piece."""
        self._store.set(f"declined/{self._rank}", reason)

    def declined(self, rank: int) -> str | None:
        """Return why a process takes no piece; None where it said nothing."""
        key = f"declined/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else None


@contextmanager
def shared(
    workers: WorkerGroup, description: Mapping[str, Any], pieces: Sequence[int], say: Callable[[str], None]
) -> Iterator[tuple[WorkList, Iterator[int]]]:
    """Share pieces of work with the worker processes; yields the list and the pieces that this process, rank 0, does.

    The iterator ends when all pieces are done, by whichever process; while it waits for others it yields -1 now and
    then, so that progress can be shown. `description` is the job that the workers receive, with `pieces`. `say` is
    told of a process that died or takes no part. Raises UserError with a worker's error.
    """
    from torch.distributed import HashStore, PrefixStore

    if workers.place.world == 1:
        alone = WorkList(HashStore(), pieces)
        yield alone, iter(alone)
        return
    number = workers.announce({**description, "pieces": list(pieces)})
    work = WorkList(PrefixStore(f"list/{number}", workers.store), pieces)
    try:
        yield work, _pieces_of_rank_0(work, workers, say)
    finally:
        work.close()


def _pieces_of_rank_0(work: WorkList, workers: WorkerGroup, say: Callable[[str], None]) -> Iterator[int]:
    told: set[int] = set()
    for piece in work:
        _look(work, workers, told, say)
        yield piece
    while True:
        gone = _look(work, workers, told, say)
        if not any(work.is_busy(rank) for rank in range(1, workers.place.world) if rank not in gone):
            break
        time.sleep(LOOK_SECONDS)
        yield -1
    yield from work.unfinished()  # taken by processes that died


def _look(work: WorkList, workers: WorkerGroup, told: set[int], say: Callable[[str], None]) -> set[int]:
    """Return the ranks that are gone, and tell about them once. Raises UserError with a worker's error."""
    workers.check()
    gone, world = set(), workers.place.world
    for rank in range(1, world):
        end, refusal = workers.gone(rank), work.declined(rank)
        if end is not None:
            gone.add(rank)
        if rank not in told and (end or refusal):
            told.add(rank)
            say(
                f"process {rank} of {world} {end}; the others go on"
                if end
                else f"process {rank} of {world} takes no part: {refusal}"
            )
    return gone
