"""Benchmarks take all processors, or BENCH_THREADS; the other tests take one."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before, count = torch.get_num_threads(), os.environ.get("BENCH_THREADS") or str(os.cpu_count() or 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "OMP_NUM_THREADS", count
        )  # what kronos.distributed.device and processes of their own go by
        torch.set_num_threads(int(count))
        yield
    torch.set_num_threads(before)
