"""Processes that train together: rank 0 leads and does everything else too, the others wait for jobs.

The leader and its followers talk through a key-value store: torchrun's own where torchrun started them, else one
that the leader opens on loopback for followers that it starts itself. A follower waits for a job as long as it
takes, without a collective operation that could time out, and ends when the leader ends or fails. The leader
hears of a follower that died, with its last words.
"""

import contextlib
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

from kronos.utils.errors import UserError

GROUP_TIMEOUT = timedelta(hours=1)  # of one collective: a dead process is heard of long before
JOIN_SECONDS = 300.0  # from a job's announcement until every follower is there
GRACE_SECONDS = 5.0  # between a death and forced action


@dataclass(frozen=True)
class Place:
    """One process's place: its rank among `world`, and among the `local_world` on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def launched() -> Place | None:
    """The place that torchrun gave this process; None where it was started otherwise."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return Place(rank, world, *local)


def world_size(nproc_per_node: int) -> int:
    """How many processes train together: torchrun's number, else as asked."""
    place = launched()
    if place is None:
        return nproc_per_node
    if nproc_per_node not in (1, place.local_world):
        raise UserError(
            f"--nproc-per-node is {nproc_per_node}, but torchrun started {place.local_world} process(es) on this "
            "machine: give the number to one of them"
        )
    return place.world


class Crew:
    """The processes of a run as the leader sees them; a crew of one needs nothing.

    `command` starts a follower, to which host, port, rank and world are added; under torchrun it is not used.
    Followers are started at the first job.
    """

    def __init__(self, world: int, command: Sequence[str]) -> None:
        self.place = launched() or Place(0, world, 0, world)
        self.command = command
        self.processes: dict[int, subprocess.Popen] = {}
        self.store: Any = None
        self.jobs = 0
        self.number = _next_crew()

    @contextmanager
    def job(self, description: Mapping[str, Any], cuda: bool) -> Iterator[Place]:
        """Have all followers work on `description` while the block runs; yields the leader's place.

        Raises UserError with the followers' own words where one fails or dies.
        """
        if self.place.world == 1:
            yield self.place
            return
        import torch.distributed as dist

        self._open()
        number, self.jobs = self.jobs, self.jobs + 1
        self.store.set(f"job/{number}", json.dumps(description))
        try:
            self._wait_for_all(number)
            self._join(number, cuda)
            with self._watched():
                yield self.place
        except RuntimeError as error:
            if why := self._why(error):
                raise UserError(why) from error
            raise
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    def call(self) -> None:
        """Start the followers before their first job, so that they load while the leader prepares it."""
        if self.place.world > 1:
            self._open()

    def close(self) -> None:
        """Send the followers home; those started here are ended if they stay."""
        if self.store is None and launched() and self.place.world > 1:
            self._open()  # torchrun's followers wait already
        if self.store is not None:
            with contextlib.suppress(RuntimeError):  # the store is gone, and they notice
                self.store.set("end", "1")
        for process in self.processes.values():
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
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
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        for rank in range(1, world):
            place = ["127.0.0.1", str(self.store.port), str(rank), str(world)]
            self.processes[rank] = subprocess.Popen(
                [*self.command, *place], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def _wait_for_all(self, number: int) -> None:
        until = time.monotonic() + JOIN_SECONDS
        keys = [f"ready/{number}/{rank}" for rank in range(1, self.place.world)]
        while not self.store.check(keys):
            if lost := self._lost():
                raise UserError(lost)
            if time.monotonic() > until:
                raise UserError(
                    f"not all {self.place.world} processes came within {JOIN_SECONDS:.0f} s: is each node's torchrun "
                    "started, with the same --nnodes, and can they reach the master's address and port?"
                )
            time.sleep(0.02)

    def _join(self, number: int, cuda: bool) -> None:
        join_group(self.store, number, self.place, cuda)

    def _lost(self) -> str | None:
        """The words of a follower that failed, or how one died; a written word comes first, then a signal."""
        world = self.place.world
        for rank in range(1, world):
            if self.store.check([f"error/{rank}"]):
                return f"process {rank} of {world}: {self.store.get(f'error/{rank}').decode()}"
        dead = {rank: process.returncode for rank, process in self.processes.items() if process.poll()}
        for rank, code in sorted(dead.items(), key=lambda item: item[1]):
            how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
            return f"process {rank} of {world} {how}"
        return None

    def _why(self, error: BaseException) -> str | None:
        """What a failed collective came from, None where it was none; a death is known a moment after it."""
        until = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < until and lost_peer(error):
            if lost := self._lost():
                return lost
            time.sleep(0.05)
        return self._lost() or (explain(error) if lost_peer(error) else None)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Abort the group when a follower died and the leader still waits for it: NCCL does not notice."""
        import torch.distributed as dist

        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                if self._lost() and not over.wait(GRACE_SECONDS) and "nccl" in str(dist.get_backend()):
                    dist.distributed_c10d._abort_process_group()
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def follow(place: Place, store: Any, work: Callable[[dict[str, Any], Place], None]) -> int:
    """A follower's life: do each job until the leader says it is over; returns the exit status.

    `work(description, place)` joins the group itself, by `join_group` with description's store and number, once
    it knows its device.
    """
    _watch_the_parent(store)
    number = 0
    while True:
        try:
            if not _wait_for_job(store, number):
                return 0
        except RuntimeError:  # the store went with the leader
            return 0
        description = json.loads(store.get(f"job/{number}"))
        try:
            work({**description, "number": number, "store": store}, place)
        except Exception as error:
            if _leader_ended(store):
                return 0
            if not lost_peer(error):
                words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                store.set(f"error/{place.rank}", words)
                if not isinstance(error, UserError):
                    raise
            return 1
        number += 1


def _wait_for_job(store: Any, number: int) -> bool:
    """False when the leader is over."""
    pause = 0.01
    while not store.check([f"job/{number}"]):
        if store.check(["end"]):
            return False
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)
    return True


def join_group(store: Any, number: int, place: Place, cuda: bool) -> None:
    """Meet the other processes of job `number` in torch's default process group."""
    import torch.distributed as dist

    store.set(f"ready/{number}/{place.rank}", "1")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=dist.PrefixStore(f"group/{number}", store),
        rank=place.rank,
        world_size=place.world,
        timeout=GROUP_TIMEOUT,
    )


def torchrun_store(crew: int) -> Any:
    """The store that torchrun keeps, through which its processes find each other; a part of it for each crew."""
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if not _torchrun:
        try:
            store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))
        except RuntimeError as error:
            at = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise UserError(
                f"the processes could not meet at {at}: {str(error).splitlines()[0]}; check the address, and give a "
                "--master_port that is free, the same on every node"
            ) from None
        _torchrun.append(store)
    return PrefixStore(f"crew/{crew}", _torchrun[0])


def follow_torchrun(work: Callable[[dict[str, Any], Place], None]) -> int:
    """The life of a process that torchrun started as a follower, for one crew; returns the exit status."""
    place = launched()
    assert place is not None
    return follow(place, torchrun_store(_next_crew()), work)


def dismiss() -> None:
    """Send torchrun's followers home when the leader ends before it had a crew."""
    place = launched()
    if place is not None and place.world > 1 and not _crews:
        Crew(place.world, ()).close()


_torchrun: list[Any] = []  # the connection, made once a process
_crews: list[int] = []  # one for each call of the stages: leader and followers count alike


def _next_crew() -> int:
    _crews.append(len(_crews))
    return _crews[-1]


def lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process of the group is gone."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        word in text
        for word in ("closed by peer", "connection reset", "broken pipe", "gloo", "nccl", "socket")
    )


def explain(error: BaseException) -> str:
    """A failure between processes, in the words of someone who has to repair it."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "nccl" in str(error).lower():
        return (
            f"NCCL, which joins the GPUs, failed: {first}; check that nvidia-smi shows every GPU in "
            "CUDA_VISIBLE_DEVICES and that driver and PyTorch's CUDA fit; NCCL_DEBUG=INFO says more, and "
            "device=cpu trains without it"
        )
    return f"the connection between the training processes broke: {first}"


def _leader_ended(store: Any) -> bool:
    """Whether the leader is over, which is then why this follower failed."""
    until = time.monotonic() + GRACE_SECONDS
    try:
        while time.monotonic() < until:
            if store.check(["end"]):
                return True
            time.sleep(0.05)
    except RuntimeError:  # the store went with it
        return True
    return False


def _watch_the_parent(store: Any) -> None:
    """End this process when who started it is gone, or when the leader is over and this one still works."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
            try:
                over = store.check(["end"])
            except RuntimeError:
                break
            if over:
                time.sleep(2 * GRACE_SECONDS)
                break
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def python_module(name: str) -> list[str]:
    """The command that runs a module of this package, in this very interpreter."""
    assert importlib.util.find_spec(name), name
    return [sys.executable, "-m", name]
