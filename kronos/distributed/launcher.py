"""The processes that train and forecast together: rank 0 does everything else too, the workers wait for jobs.

Rank 0 and its workers exchange jobs, errors and the end of the run through a key-value store: torchrun's own where
torchrun started them, else a TCPStore that rank 0 opens on loopback for workers that it starts itself. A worker waits
for a job as long as it takes, without a collective operation that could time out, and ends when rank 0 ends or fails.
When a worker fails, its error becomes rank 0's.

PyTorch's elastic launcher does not start the workers. Its agent runs every rank as a child, ends and restarts the
group as a whole, and counts it as done when all ranks return. Here rank 0 is the user's own process, which talks to
MLflow and goes on after training; the workers stay alive between jobs; and torchrun may have started all ranks from
outside already. The store also brings a worker's error to rank 0 from another machine, which torch's error files do
not.
"""

import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kronos.distributed.child_process import ChildProcess, exit_with_parent, exit_with_rank_0, watching
from kronos.utils.errors import UserError

GROUP_TIMEOUT = timedelta(hours=1)  # of one collective operation: a dead process is noticed long before
JOIN_SECONDS = 300.0  # from a job's announcement until every worker has joined
GRACE_SECONDS = 5.0  # between a failure and forced action
SILENT_SECONDS = 60.0  # without a sign of life, after which a process on another machine counts as gone


@dataclass(frozen=True)
class Place:
    """One process's rank among `world` processes, and its local rank among the `local_world` on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def launched() -> Place | None:
    """Return the place that torchrun gave this process; None where it was started otherwise."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return Place(rank, world, *local)


def world_size(nproc_per_node: int) -> int:
    """Return how many processes train together: torchrun's number, else `nproc_per_node`."""
    place = launched()
    if place is None:
        return nproc_per_node
    if nproc_per_node not in (1, place.local_world):
        raise UserError(
            f"--nproc-per-node is {nproc_per_node}, but torchrun started {place.local_world} process(es) on this "
            "machine: give the number to one of them"
        )
    return place.world


class WorkerGroup:
    """The worker processes of a run, as rank 0 sees them; with `world` 1 there are none.

    `command` starts a worker, with host, port, rank and world as further arguments; under torchrun it is not used.
    Workers are started at the first job, or by `call`.
    """

    def __init__(self, world: int, command: Sequence[str]) -> None:
        self.place = launched() or Place(0, world, 0, world)
        self.command = command
        self.processes: dict[int, ChildProcess] = {}
        self.store: Any = None
        self.jobs = 0
        self.number = _next_group()
        self._signs: dict[int, tuple[int, float]] = {}  # by rank: signs of life, time of the last one

    @contextmanager
    def job(self, description: Mapping[str, Any], cuda: bool) -> Iterator[Place]:
        """Have all workers take part in the job `description` while the block runs; yields rank 0's place.

        Raises UserError with a worker's error message, or with how its process died.
        """
        if self.place.world == 1:
            yield self.place
            return
        import torch.distributed as dist

        number = self.announce(description)
        try:
            self._wait_for_all(number)
            join_group(self.store, number, self.place, cuda)
            with self._abort_when_a_worker_is_lost():
                yield self.place
        except RuntimeError as error:
            if cause := self._cause(error):
                raise UserError(cause) from error
            raise
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    def announce(self, description: Mapping[str, Any]) -> int:
        """Give all workers a job, without waiting for them; returns its number."""
        self._open()
        number, self.jobs = self.jobs, self.jobs + 1
        self.store.set(f"job/{number}", json.dumps(description))
        return number

    def check(self) -> None:
        """Raise UserError with the error of a worker that failed."""
        if failed := self._failed():
            raise UserError(failed)

    def gone(self, rank: int) -> str | None:
        """Return how a worker ended, as the end of a sentence about it; None while it lives."""
        if rank in self.processes:
            return None if self.processes[rank].poll() is None else self.processes[rank].outcome()
        signs, now = self.store.add(f"alive/{rank}", 0), time.monotonic()
        before, since = self._signs.setdefault(rank, (signs, now))
        if signs != before:
            self._signs[rank] = (signs, now)
            return None
        return f"gave no sign of life for {SILENT_SECONDS:.0f} s" if now - since > SILENT_SECONDS else None

    def start(self) -> None:
        """Start the workers before their first job, so that they load while rank 0 prepares it."""
        if self.place.world > 1:
            self._open()

    def close(self) -> None:
        """Tell the workers to end; those that were started here and do not are killed."""
        if self.store is None and launched() and self.place.world > 1:
            self._open()  # torchrun's workers are already waiting
        if self.store is not None:
            with contextlib.suppress(RuntimeError):  # the store is gone, so that they end
                self.store.set("end", "1")
        for process in self.processes.values():
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.end()
        self.processes, self.store = {}, None

    def _open(self) -> None:
        if self.store is not None:
            return
        if launched():
            self.store = torchrun_store(self.number)
            return
        from torch.distributed import TCPStore

        world = self.place.world
        self.store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        for rank in range(1, world):
            place = ["127.0.0.1", str(self.store.port), str(rank), str(world)]
            self.processes[rank] = ChildProcess([*self.command, *place], stdin=subprocess.DEVNULL)

    def _wait_for_all(self, number: int) -> None:
        until = time.monotonic() + JOIN_SECONDS
        keys = [f"ready/{number}/{rank}" for rank in range(1, self.place.world)]
        while not self.store.check(keys):
            if lost := self._lost():
                raise UserError(lost)
            if time.monotonic() > until:
                raise UserError(
                    f"not all {self.place.world} processes joined within {JOIN_SECONDS:.0f} s: is each node's "
                    "torchrun started, with the same --nnodes, and can they reach the master's address and port?"
                )
            time.sleep(0.02)

    def _failed(self) -> str | None:
        """Return the error of a worker that failed; None where none did."""
        world = self.place.world
        for rank in range(1, world):
            if self.store.check([f"error/{rank}"]):
                return f"process {rank} of {world}: {self.store.get(f'error/{rank}').decode()}"
        return None

    def _lost(self) -> str | None:
        """Return the error of a worker that failed, else how one died: killed ones first. None while all are well."""
        if failed := self._failed():
            return failed
        world = self.place.world
        dead = {rank: process.returncode for rank, process in self.processes.items() if process.poll()}
        if not dead:
            return None
        rank = min(dead, key=lambda rank: (dead[rank], rank))
        return f"process {rank} of {world} {self.processes[rank].outcome()}"

    def _cause(self, error: BaseException) -> str | None:
        """Return why a collective operation failed; None for an error of rank 0's own.

        A worker's death is known only a moment after the operation failed.
        """
        until = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < until and lost_peer(error):
            if lost := self._lost():
                return lost
            time.sleep(0.05)
        return self._lost() or (explain(error) if lost_peer(error) else None)

    @contextmanager
    def _abort_when_a_worker_is_lost(self) -> Iterator[None]:
        """Abort the NCCL group when a worker failed and rank 0 still waits for it: NCCL does not notice."""
        import torch.distributed as dist

        def watch(finished: threading.Event) -> None:
            while not finished.wait(0.5):
                if self._lost() and not finished.wait(GRACE_SECONDS) and "nccl" in str(dist.get_backend()):
                    dist.distributed_c10d._abort_process_group()
                    return

        with watching(watch):
            yield


def run_worker(place: Place, store: Any, work: Callable[[dict[str, Any], Place], None]) -> int:
    """Run a worker's loop: take part in each job until rank 0 ends; returns the exit status.

    `work(description, place)` calls `join_group` itself, with the description's `store` and `number`, once it knows
    its device.
    """
    exit_with_parent()
    with exit_with_rank_0(store, place.rank):
        return _take_part(place, store, work)


def _take_part(place: Place, store: Any, work: Callable[[dict[str, Any], Place], None]) -> int:
    number = 0
    while True:
        try:
            if not _wait_for_job(store, number):
                return 0
        except RuntimeError:  # the store ended with rank 0
            return 0
        description = json.loads(store.get(f"job/{number}"))
        try:
            work({**description, "number": number, "store": store}, place)
        except Exception as error:
            if _rank_0_ended(store):
                return 0
            if not lost_peer(error):
                text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                store.set(f"error/{place.rank}", text)
                if not isinstance(error, UserError):
                    raise
            return 1
        number += 1


def _wait_for_job(store: Any, number: int) -> bool:
    """Return True when job `number` is there, False when rank 0 has ended."""
    pause = 0.01
    while not store.check([f"job/{number}"]):
        if store.check(["end"]):
            return False
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)
    return True


def join_group(store: Any, number: int, place: Place, cuda: bool) -> None:
    """Join torch's default process group of job `number`."""
    import torch.distributed as dist

    store.set(f"ready/{number}/{place.rank}", "1")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=dist.PrefixStore(f"group/{number}", store),
        rank=place.rank,
        world_size=place.world,
        timeout=GROUP_TIMEOUT,
    )


def torchrun_store(group: int) -> Any:
    """Return the store that torchrun's processes share, with a key prefix for each group of workers."""
    from torch.distributed import PrefixStore

    return PrefixStore(f"workers/{group}", _rendezvous())


@functools.cache
def _rendezvous() -> Any:
    """Connect to torchrun's store, once per process."""
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))
    except RuntimeError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the processes could not meet at {address}: {str(error).splitlines()[0]}; check the address, and give a "
            "--master_port that is free, the same on every node"
        ) from None
    return store


def run_torchrun_worker(work: Callable[[dict[str, Any], Place], None]) -> int:
    """Run the worker loop in a process that torchrun started with a rank above 0; returns the exit status."""
    place = launched()
    assert place is not None
    return run_worker(place, torchrun_store(_next_group()), work)


def release_torchrun_workers() -> None:
    """Tell torchrun's workers to end when rank 0 ends before it made a `WorkerGroup`."""
    place = launched()
    if place is not None and place.world > 1 and not _groups:
        WorkerGroup(place.world, ()).close()


_groups: list[int] = []  # one per `WorkerGroup` of this process; rank 0 and torchrun's workers count alike


def _next_group() -> int:
    _groups.append(len(_groups))
    return _groups[-1]


def lost_peer(error: BaseException) -> bool:
    """Return whether an error says that another process of the group is gone."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        word in text
        for word in ("closed by peer", "connection reset", "broken pipe", "gloo", "nccl", "socket")
    )


def explain(error: BaseException) -> str:
    """Return what a failed collective operation means and what the user can check."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "nccl" in str(error).lower():
        return (
            f"NCCL, which joins the GPUs, failed: {first}; check that nvidia-smi shows every GPU in "
            "CUDA_VISIBLE_DEVICES and that driver and PyTorch's CUDA fit; NCCL_DEBUG=INFO says more, and "
            "device=cpu trains without it"
        )
    return f"the connection between the training processes broke: {first}"


def _rank_0_ended(store: Any) -> bool:
    """Return whether rank 0 has ended, which is then why this worker failed."""
    until = time.monotonic() + GRACE_SECONDS
    try:
        while time.monotonic() < until:
            if store.check(["end"]):
                return True
            time.sleep(0.05)
    except RuntimeError:  # the store ended with it
        return True
    return False


def python_module(name: str) -> list[str]:
    """Return the command that runs a module of this package with this interpreter."""
    assert importlib.util.find_spec(name), name
    return [sys.executable, "-m", name]
