"""nn.Linear with the faster of two matrix product libraries on a CPU.

PyTorch computes float32 products with MKL, which has no AVX-512 kernels for AMD processors. oneDNN has, and a
1 x 1 convolution over rows is the same product through oneDNN: on a Zen 4, 210 GFLOP/s instead of 175.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.model.cpu_kernels.dispatch import on_cpu

ROWS = 2048  # with fewer rows MKL is as fast
WIDTH = 64  # of inputs and outputs: narrower products are bound by memory bandwidth


class Linear(nn.Linear):
    """y = x W^T + b, with any leading axes."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b: x [..., in], W [out, in]."""
    if _by_convolution(x, weight):
        return _Convolved.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def _by_convolution(x: Tensor, weight: Tensor) -> bool:
    return (
        on_cpu(x)  # checked first, so that a compiler does not specialise on the number of rows
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= ROWS * x.shape[-1]
        and min(weight.shape) >= WIDTH
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
        and onednn_is_quicker()
    )


class _Convolved(torch.autograd.Function):
    """The gradient of the weight is computed by MKL, which is as fast; a convolution's is slowed by the bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _rows(F.conv2d(_image(x), weight[:, :, None, None], bias), x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        of_x = None
        if for_x:
            sizes: Any = None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1  # of bias, stride, padding, ...
            of_x, _, _ = torch.ops.aten.convolution_backward(
                _image(gradient), _image(x), weight[:, :, None, None], *sizes, [True, False, False]
            )
            of_x = _rows(of_x, x)
        rows = gradient.flatten(0, -2)
        of_weight = rows.t() @ x.flatten(0, -2) if for_weight else None
        return of_x, of_weight, rows.sum(0) if for_bias else None


def _image(x: Tensor) -> Tensor:
    """View rows [..., C] as pixels of one channels-last image [1, C, rows, 1]."""
    return x.contiguous().view(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)


def _rows(image: Tensor, like: Tensor) -> Tensor:
    """View an image [1, C, rows, 1] as rows [..., C]."""
    return image.permute(0, 2, 3, 1).reshape(*like.shape[:-1], -1)


@functools.cache
def onednn_is_quicker() -> bool:
    """Return whether this is an AMD processor with AVX-512, and PyTorch has both libraries."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return both and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in _processor()


def _processor() -> str:
    """Return the system's description of the processor."""
    listed = Path("/proc/cpuinfo")
    return listed.read_text(encoding="utf-8", errors="replace") if listed.exists() else platform.processor()
