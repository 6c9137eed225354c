"""Forecasts cut into shards: each finished one is a file, made by whichever process of the run takes it.

The folder of a set of forecasts is named by the digest of everything that their values depend on. A later run finds
the shards that an earlier one has finished, and nothing that was made from other weights, bars, rules or code.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch

from kronos.data.forecast_points import ForecastPoints
from kronos.distributed.shards_folder import Shards
from kronos.distributed.work_list import WorkList, shared
from kronos.model import checkpoint, load_predictor, load_tokenizer
from kronos.utils.files import digest_bytes
from kronos.utils.progress import Progress

MOST_BATCHES = 8  # in a shard: what is lost when a process is killed
SHARDS = 256  # that many forecasts are cut into, before a shard has more than one batch
SPREAD = 16  # shards that a few forecasts are cut into
JOB = "forecast"
VISIBLE_SECONDS = 60.0  # until a file that another machine has written is seen on a shared file system
POINTS, TOKEN = "points.npz", "token"

Make = Callable[[slice], tuple[np.ndarray, int]]


def shard_size(count: int, batch: int, least: int) -> int:
    """Return how many points a shard has: whole batches, few enough that there are not too many files.

    Fewer points than make `SPREAD` batches are cut into smaller shards, of at least `least`, so that several
    processes have work. Depends on nothing that may change between two runs, such as the number of processes.
    """
    batches = -(-count // batch)
    if batches >= SPREAD:
        return batch * min(MOST_BATCHES, max(1, batches // SHARDS))
    return min(batch, max(least, -(-count // SPREAD)))


def parts_of(count: int, size: int) -> list[slice]:
    """Cut 0 .. count-1 into parts of `size`."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


@dataclass(frozen=True)
class ShardFiles:
    """The shards of one set of forecasts in their folder; `make` forecasts a part of them."""

    folder: Path
    parts: list[slice]
    make: Make

    def finished(self) -> set[int]:
        """Return the numbers of the shards that are there."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return set()
        return {int(name[:-4]) for name in names if name.endswith(".npz") and name[:-4].isdigit()}

    def write(self, number: int) -> None:
        """Make a shard and write it, under a temporary name until it is whole."""
        values, repaired = self.make(self.parts[number])
        values = np.ascontiguousarray(values)
        temporary = self.folder / f".{number}.{uuid.uuid4().hex}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                np.savez(stream, values=values, repaired=repaired, digest=_digest(values, repaired))
            os.replace(temporary, self._path(number))
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, number: int) -> tuple[np.ndarray, int]:
        """Return a shard's values and the number of bars repaired; one that is missing or damaged is made again."""
        try:
            return self._stored(number)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            self.write(number)
            return self._stored(number)

    def _stored(self, number: int) -> tuple[np.ndarray, int]:
        with np.load(self._path(number)) as stored:
            values, repaired = stored["values"], int(stored["repaired"])
            if str(stored["digest"]) != _digest(values, repaired):
                raise ValueError(f"{self._path(number)} is damaged: it was altered (its digest differs)")
        return values, repaired

    def wait_for(self, number: int) -> None:
        """Wait until the file of a shard that another process has finished is seen here."""
        until = time.monotonic() + VISIBLE_SECONDS
        while not self._path(number).exists() and time.monotonic() < until:
            time.sleep(0.2)

    def make_all(
        self, shards: Shards, job: Callable[[], Mapping[str, Any]], threads: int, label: str
    ) -> None:
        """Make all shards that are not there, together with the worker processes.

        `job` writes what workers need into the folder and returns their description of it; `threads` are this
        process's share. Progress counts the points of all processes.
        """
        there = self.finished()
        todo = [number for number in range(len(self.parts)) if number not in there]
        total = self.parts[-1].stop if self.parts else 0
        before = total - sum(_size(self.parts[number]) for number in todo)
        if not todo:
            return
        alone = shards.workers.place.world == 1
        with Progress(label, "series") as progress, nullcontext() if alone else _threads(threads):
            if before:
                progress.say(f"{before:,} of {total:,} were forecast by an earlier run")
            progress(before, total)
            with shared(shards.workers, {} if alone else job(), todo, progress.say) as (work, own):
                made = set()
                for number in own:
                    if number >= 0:
                        self.write(number)
                        made.add(number)
                        work.finish(number, _size(self.parts[number]))
                    progress(min(total, before + work.finished()), total)
            for number in set(todo) - made:
                self.wait_for(number)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Within the block torch uses this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_job(
    folder: Path, points: ForecastPoints, tokenizer: Any, predictor: Any, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the points and weights of a job into its folder, and return the description with their place.

    A random token in the description and in a file tells a process on another machine that it sees this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / POINTS, row=points.row, instrument=points.instrument, session=points.session)
    tokenizer.save_pretrained(folder / "tokenizer")
    predictor.save_pretrained(folder / "predictor")
    token = uuid.uuid4().hex
    (folder / TOKEN).write_text(token)
    return {**description, "kind": JOB, "folder": str(folder.resolve()), "token": token}


def sees_folder(description: Mapping[str, Any]) -> bool:
    """Return whether this process sees the folder of a job, and not another one of that name."""
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        try:
            if (Path(description["folder"]) / TOKEN).read_text() == description["token"]:
                return True
        except OSError:
            pass
        time.sleep(0.2)
    return False


def read_job(folder: Path) -> tuple[ForecastPoints, Any, Any]:
    """Return points, tokenizer and predictor of a job."""
    with np.load(folder / POINTS) as stored:
        points = ForecastPoints(stored["row"], stored["instrument"], stored["session"], pd.DataFrame())
    return points, load_tokenizer(folder / "tokenizer"), load_predictor(folder / "predictor")


def make_pieces(work: WorkList, files: ShardFiles, stopped: Callable[[], bool]) -> None:
    """Make shards of a worker process's list until none is left or a stop was asked for."""
    try:
        for number in work:
            files.write(number)
            work.finish(number, _size(files.parts[number]))
            if stopped():
                break
    finally:
        work.leave()


def identity(parts: Mapping[str, Any], *models: Any) -> str:
    """Return the name of a folder of shards: a digest of `parts` and of the models' weights."""
    digests = [checkpoint.digest(model) for model in models]
    return digest_bytes(repr((sorted(parts.items()), digests)).encode())[:24]


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def _digest(values: np.ndarray, repaired: int) -> str:
    head = repr((values.shape, values.dtype.str, repaired)).encode()
    return digest_bytes(head, values.data.cast("B"))
