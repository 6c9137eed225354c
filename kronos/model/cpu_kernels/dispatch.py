"""Where operations are run one by one, so that passes over memory are worth sparing by hand."""

import torch
from torch import Tensor


def derived_here() -> bool:
    """Whether derivatives written by hand are used: where there are any, save where a compiler joins the passes."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def on_cpu(x: Tensor) -> bool:
    """Whether `x` is on a CPU, and no compiler chooses how operations are done there."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
