"""Dropout with cheap masks on a CPU."""

import numpy as np
import torch
from torch import Tensor, nn

from kronos.model.cpu_kernels.dispatch import on_cpu


class Dropout(nn.Dropout):
    """nn.Dropout, with cheap masks on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.p and on_cpu(x):
            return x * dropout_mask(x, self.p)
        return super().forward(x)


def dropout_mask(x: Tensor, p: float) -> Tensor:
    """Return a mask like `x` on a CPU: 0 with probability p, otherwise 1 / (1 - p).

    One draw of torch seeds a generator; each of its 64-bit numbers gives four values. Bernoulli draws took a tenth
    of a step.
    """
    seed = int(torch.randint(2**63 - 1, ()))
    words = torch.from_numpy(np.random.SFC64(seed).random_raw((x.numel() + 3) // 4).view(np.int64))
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    drop = round(p * 2**16)  # out of 65536: within 1e-5 of p
    if drop == 2**16:
        return torch.zeros_like(x)
    kept = torch.ge(bits, drop - 2**15, out=torch.empty(x.shape, dtype=x.dtype))
    return kept.mul_(2**16 / (2**16 - drop))
