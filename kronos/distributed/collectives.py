"""Exchange between the ranks of a training run; with one rank every operation returns that rank's own value."""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 32 * 2**20 // 4  # values in one all-reduce: 32 MiB of float32
T = TypeVar("T")


class Collectives:
    """Operations over torch's default process group of `world` ranks."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each gradient over the ranks, in place, in flat buckets.

        A rank without a gradient for a parameter takes part with zeros. This starts after the backward pass: the
        objective calls the parts of the model, so no wrapper can overlap the two.
        """
        if self.world == 1:
            return
        bucket: list[Tensor] = []
        pending: list[tuple[list[Tensor], Tensor, Any]] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(part.numel() for part in bucket) >= BUCKET:
                pending.append(self._start(bucket))
                bucket = []
        if bucket:
            pending.append(self._start(bucket))
        for parts, flat, handle in pending:
            handle.wait()
            places = flat.split([part.numel() for part in parts])
            for part, place in zip(parts, places, strict=True):
                part.copy_(place.view_as(part))

    @staticmethod
    def _start(parts: list[Tensor]) -> tuple[list[Tensor], Tensor, Any]:
        flat = torch.cat([part.flatten() for part in parts])
        return parts, flat, dist.all_reduce(flat, async_op=True)

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Return each rank's value, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: T) -> T:
        """Return rank 0's value."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with those of rank 0."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def sum_of(self, tensor: Tensor) -> Tensor:
        """Return the sum over the ranks, differentiable."""
        return tensor if self.world == 1 else _Sum.apply(tensor)


class _Sum(torch.autograd.Function):
    """All-reduce; every rank's loss depends on every rank's input, so the gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
