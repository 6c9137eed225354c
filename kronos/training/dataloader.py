"""Windows of each rank in a step, and their batches, prefetched by threads if configured."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from kronos.config.sections import TrainingConfig
from kronos.data.window_order import WindowOrder
from kronos.distributed.device import Runtime
from kronos.training.settings import FitSettings, Plan


class WindowSource(Protocol):
    """The part of `data.windows.Windows` that the loop uses; batch(indices, epoch) is a pure function."""

    def __len__(self) -> int: ...
    def batch(self, indices: np.ndarray, epoch: int | None) -> Any: ...


def training_order(source: WindowSource, training: TrainingConfig) -> WindowOrder:
    """Return the windows of each epoch; `groups` of the source, where it has them, share out an epoch."""
    return WindowOrder(
        len(source), training.n_train_iter, training.seed, coverage=training.window_order == "coverage",
        groups=getattr(source, "groups", None),
    )  # fmt: skip


class Part(NamedTuple):
    """One rank's windows of one micro-batch; a rank without any takes one window with weight 0.

    `of_step` and `of_batch` are its shares of the windows of the step and of the micro-batch over all ranks.
    """

    windows: np.ndarray
    of_step: float
    of_batch: float


def parts_of_step(windows: np.ndarray, batch_size: int, rank: int, world: int) -> list[Part]:
    """Split a step into micro-batches, which depend on batch_size x world only, and return this rank's parts."""
    parts = []
    size = batch_size * world
    for start in range(0, len(windows), size):
        whole = windows[start : start + size]
        own = np.array_split(whole, world)[rank]
        shares = len(own) / len(windows), len(own) / len(whole)
        parts.append(Part(own if len(own) else whole[:1], *shares))
    return parts


class Feed:
    """Training batches of one rank, on its device, in the order of the steps."""

    def __init__(
        self, source: WindowSource, order: WindowOrder, settings: FitSettings, plan: Plan, runtime: Runtime
    ) -> None:
        self.source, self.settings, self.plan, self.runtime = source, settings, plan, runtime
        self.order = order
        self.epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # (epoch, its windows)
        self.ahead: deque[tuple[int, int, Future[Any]]] = deque()  # (step, place in it, future batch)
        workers = settings.training.num_workers
        self.threads = ThreadPoolExecutor(workers) if workers else None

    def windows(self, step: int) -> np.ndarray:
        """Return the windows of a step over all ranks."""
        epoch, place = divmod(step, self.plan.steps_per_epoch)
        if self.epoch[0] != epoch:
            self.epoch = (epoch, self.order.epoch(epoch))
        effective = self.plan.effective_batch
        return self.epoch[1][place * effective : (place + 1) * effective]

    def parts(self, step: int) -> list[Part]:
        size = self.settings.training.batch_size
        return parts_of_step(self.windows(step), size, self.runtime.rank, self.runtime.world)

    def batches(self, step: int) -> Iterator[tuple[Part, Any]]:
        """Yield this rank's micro-batches of a step."""
        epoch = step // self.plan.steps_per_epoch
        for place, part in enumerate(self.parts(step)):
            batch = self._fetch(step, place) if self.threads else self._host(part.windows, epoch)
            yield part, to_device(batch, self.runtime)

    def close(self) -> None:
        """Stop the threads and drop prefetched batches."""
        if self.threads:
            self.threads.shutdown(cancel_futures=True)

    def _host(self, windows: np.ndarray, epoch: int) -> Any:
        batch = self.source.batch(windows, epoch)
        if self.runtime.device.type != "cuda":
            return batch
        return type(batch)(*(value.pin_memory() for value in batch))

    def _fetch(self, step: int, place: int) -> Any:
        assert self.threads
        if self.ahead and self.ahead[0][:2] != (step, place):
            self.ahead.clear()
        last_step, last_place = self.ahead[-1][:2] if self.ahead else (step, place - 1)
        # Only batches of this epoch are prefetched, because `self.epoch` is one epoch.
        epoch = step // self.plan.steps_per_epoch
        while len(self.ahead) < 2 * self.settings.training.num_workers:
            parts = self.parts(last_step)
            if last_place + 1 < len(parts):
                last_place += 1
            elif (last_step + 1) // self.plan.steps_per_epoch == epoch:
                last_step, last_place, parts = last_step + 1, 0, self.parts(last_step + 1)
            else:
                break
            task = self.threads.submit(self._host, parts[last_place].windows, epoch)
            self.ahead.append((last_step, last_place, task))
        return self.ahead.popleft()[2].result()


def to_device(batch: Any, runtime: Runtime) -> Any:
    """Return the batch on the device of the model."""
    if runtime.device.type == "cpu":
        return batch
    return type(batch)(*(value.to(runtime.device, non_blocking=True) for value in batch))
