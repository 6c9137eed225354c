"""FSDP2: each rank keeps a part of the weights, gradients and optimizer state of every Transformer block.

Parameters outside the blocks (embeddings, heads; 5 % of `large`) stay whole on every rank, and their gradients are
summed by `Collectives`. The objective calls parts of the model, so each block is a root of its own for FSDP.
torch.distributed.fsdp is imported where it is used, because that takes a second.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from kronos.model.layers import Block
from kronos.utils.errors import UserError
from kronos.utils.heap import MMAP_THRESHOLD, TRIM_THRESHOLD, tune_heap

SCALE = "lr_scale"  # in an optimizer's group: its learning rate as a multiple of the top layer's


def shard_blocks(model: nn.Module, device: torch.device, world: int) -> None:
    """Replace the parameters of every block by DTensors over all ranks, in place.

    Call it on every rank with equal weights. Gradients are summed over the ranks, not averaged. Raises UserError
    for a model without blocks.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise UserError(f"shard=true needs Transformer blocks, and {type(model).__name__} has none")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if device.type == "cpu":  # freed weights go back to the system at once: memory counts more than time here
        tune_heap({MMAP_THRESHOLD: 2**20, TRIM_THRESHOLD: 2**20})
    mesh = init_device_mesh(device.type, (world,))
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)  # roots keep their weights by default
        assert isinstance(block, FSDPModule)
        block.set_gradient_divide_factor(1.0)
        block.set_force_sum_reduction_for_comms(True)  # gloo cannot scale within its reduction


def is_sharded(tensor: Any) -> bool:
    """Return whether the tensor is a DTensor, of which each rank has a part."""
    return hasattr(tensor, "full_tensor")


def by_kind(parameters: Iterable[nn.Parameter]) -> tuple[list[Any], list[Any]]:
    """Return (whole, sharded) parameters: torch's operations over lists take one kind at a time."""
    whole: list[Any] = []
    sharded: list[Any] = []
    for parameter in parameters:
        (sharded if is_sharded(parameter) else whole).append(parameter)
    return whole, sharded


def move_state(
    before: torch.optim.Optimizer, old: Iterable[Tensor], after: torch.optim.Optimizer, new: Iterable[Tensor]
) -> None:
    """Copy the state of whole parameters, equal on all ranks, to an optimizer over their parts.

    The values of a group (learning rate, betas) are those of the first group with the same multiple of the learning
    rate, and weight decay stays.
    """
    from torch.distributed.tensor import distribute_tensor

    targets: Iterable[Any] = new
    for source, target in zip(old, targets, strict=True):
        for key, value in before.state.get(source, {}).items():
            if is_sharded(target) and value.shape == target.shape:
                value = distribute_tensor(value, target.device_mesh, target.placements)
            after.state[target][key] = value
    for group in after.param_groups:
        common = next(one for one in before.param_groups if one[SCALE] == group[SCALE])
        group.update({key: value for key, value in common.items() if key not in ("params", "weight_decay")})


def whole(tensor: Any) -> Tensor:
    """Return the tensor gathered from all ranks, or as it is where it is not sharded; every rank must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def whole_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Gather the state dict on the CPU, tensor by tensor; every rank must call this; without `keep` it gets {}."""
    tensors = ((name, whole(value.detach())) for name, value in model.state_dict().items())
    return {name: value.cpu().contiguous() for name, value in tensors if keep}


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Keep all weights of a sharded model on every rank: in validation the ranks have unequal numbers of batches."""
    blocks: list[Any] = [
        block for block in model.modules() if hasattr(block, "unshard")
    ]  # fully_shard adds it
    for block in blocks:
        block.set_reshard_after_forward(False)
        block.unshard()
    try:
        yield
    finally:
        for block in blocks:
            block.reshard()
            block.set_reshard_after_forward(True)


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradients in place so that their norm is at most `largest`; return the norm before it."""
    sides = by_kind(parameters)
    if not sides[1]:
        return nn.utils.clip_grad_norm_(parameters, largest)
    norms = [whole(get_total_norm([p.grad for p in side if p.grad is not None])) for side in sides]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    for side in sides:
        clip_grads_with_norm_(side, largest, norm)
    return norm
