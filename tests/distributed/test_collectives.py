"""What the ranks exchange: two processes over gloo against what the sums must be."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from kronos.distributed import collectives
from kronos.distributed.collectives import Collectives


def _sum_gradients(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    collectives.BUCKET = 4  # several buckets
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(5)]
    everywhere, _nowhere, first_only, second_only, last = parameters
    everywhere.grad, last.grad = torch.full((3,), rank + 1.0), torch.full((3,), 10.0 * rank)
    if rank == 0:
        first_only.grad = torch.ones(3)
    else:
        second_only.grad = torch.ones(3)
    Collectives(rank, 2).sum_gradients(parameters)
    torch.save([parameter.grad for parameter in parameters], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_summed_and_a_parameter_without_one_on_any_rank_keeps_none(tmp_path: Path) -> None:
    mp.spawn(_sum_gradients, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        everywhere, nowhere, first_only, second_only, last = torch.load(tmp_path / f"{rank}.pt")
        assert nowhere is None
        assert everywhere.tolist() == [3.0] * 3 and last.tolist() == [10.0] * 3
        assert first_only.tolist() == second_only.tolist() == [1.0] * 3
