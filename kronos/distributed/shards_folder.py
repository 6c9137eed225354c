"""Where a stage keeps the finished parts of its forecasts; imported by every stage, so without torch."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kronos.distributed.launcher import WorkerGroup

LARGE = 2**28  # bytes of an array from which on it lies in a file instead of memory


@dataclass(frozen=True)
class Shards:
    """Where a stage keeps its finished shards while it runs, and the processes that make them.

    `code` returns the digest of the code and versions that forecasts depend on.
    """

    folder: Path
    workers: WorkerGroup
    code: Callable[[], str]

    def remove(self) -> None:
        """Delete all shards, once the stage's output is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an uninitialised float32 array; a large one lies in a file that is gone with it."""
        if np.prod(shape, dtype=np.int64) * 4 < LARGE:
            return np.empty(shape, np.float32)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:  # the memory map keeps it
            return np.memmap(file, np.float32, "w+", shape=shape)
