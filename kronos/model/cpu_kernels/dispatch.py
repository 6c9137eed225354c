"""When to use the hand-written CPU operations and derivatives: in eager mode, not under torch.compile."""

import torch
from torch import Tensor


def derived_here() -> bool:
    """Return whether hand-written derivatives are used: with gradients, and not under a compiler, which fuses."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def on_cpu(x: Tensor) -> bool:
    """Return whether `x` is on a CPU and the code is not being compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
