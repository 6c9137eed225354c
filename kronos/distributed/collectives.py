"""Collective operations of the training loop; with one rank each returns that rank's own value."""

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

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each gradient over the ranks, in place, in flat buckets.

        A rank without a gradient counts as zero; a parameter without a gradient on any rank keeps None, so that
        the optimizer leaves it alone, as with one rank. The backward pass is over when this starts: the objective
        calls the model's parts, so that no wrapper could overlap the two.
        """
        if self.world == 1:
            return
        parameters = list(parameters)
        if not parameters:
            return
        present = [parameter.grad is not None for parameter in parameters]
        ranks_with_gradient = parameters[0].new_tensor(present)  # summed with the last bucket
        bucket: list[Tensor] = []
        pending: list[tuple[list[Tensor], Tensor, Any]] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(part.numel() for part in bucket) >= BUCKET:
                pending.append(self._start(bucket))
                bucket = []
        pending.append(self._start([*bucket, ranks_with_gradient]))
        for parts, flat, handle in pending:
            handle.wait()
            places = flat.split([part.numel() for part in parts])
            for part, place in zip(parts, places, strict=True):
                part.copy_(place.view_as(part))
        if not all(present):  # elsewhere nothing is to be undone, and a GPU need not be waited for
            for parameter, count in zip(parameters, ranks_with_gradient.tolist(), strict=True):
                if not count:
                    parameter.grad = None

    @staticmethod
    def _start(parts: list[Tensor]) -> tuple[list[Tensor], Tensor, Any]:
        flat = torch.cat([part.flatten() for part in parts])
        return parts, flat, dist.all_reduce(flat, async_op=True)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, value: T) -> list[T]:
        """Return each rank's value, in the order of the ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: T) -> T:
        """Return rank 0's value."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with those of rank 0."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def differentiable_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks; gradients flow through it."""
        return tensor if self.world == 1 else _Sum.apply(tensor)


class _Sum(torch.autograd.Function):
    """All-reduce whose gradient is summed too: the loss of every rank depends on the input of every rank."""

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
