"""Rotary positions.

Axes: B batch, T bars, H heads, K width of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn

Tables = tuple[Tensor, Tensor]


class Rotary(nn.Module):
    """Rotary positions, halves rotated (not interleaved), base 10000."""

    inv_freq: Tensor

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.register_buffer("inv_freq", self._frequencies())

    def _frequencies(self, device: torch.device | None = None) -> Tensor:
        # Not on the meta device, whose arithmetic imports torch._dynamo, for a second.
        with torch.device("cpu"):
            steps = torch.arange(0, self.head_width, 2).float()
            frequencies = 1.0 / (10000 ** (steps / self.head_width))
        return frequencies.to(device or torch.get_default_device())

    def tables(self, length: int, first: int = 0) -> Tables:
        """Return (cos, sin) [length, K] in float32 for the positions first .. first + length - 1."""
        frequencies = self.inv_freq
        if frequencies.dtype != torch.float32:  # bfloat16 frequencies would be too coarse
            frequencies = self._frequencies(frequencies.device)
        positions = torch.arange(first, first + length, device=frequencies.device).float()
        angles = torch.outer(positions, frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def rotate(x_BHTK: Tensor, tables: Tables) -> Tensor:
    """Rotate each pair (x[i], x[i + K/2]) by the angle of its position."""
    cos, sin = tables
    first, second = x_BHTK.chunk(2, dim=-1)
    return x_BHTK * cos.to(x_BHTK.dtype) + torch.cat((-second, first), dim=-1) * sin.to(x_BHTK.dtype)


def neighbours(rows: Tensor, heads: int) -> Tensor:
    """Return a projection's weight [H K, ...] or bias, reordered so that the members of a rotated pair are adjacent.

    Applied to queries and keys alike, this changes no score, and a rotation is one product of complex numbers.
    """
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def rotate_neighbours(x_BTHK: Tensor, tables: Tables, scale: float = 1.0) -> Tensor:
    """Return float32 [B, H, T, K]: each pair (x[2i], x[2i + 1]) rotated by the angle of its position, and scaled."""
    turns_TK = torch.complex(*(table.chunk(2, dim=-1)[0] * scale for table in tables))
    turned: Tensor = _RotateNeighbours.apply(x_BTHK, turns_TK)
    return turned


class _RotateNeighbours(torch.autograd.Function):
    """Rotation and its derivative, a rotation back, each in the memory layout that the next operation reads."""

    @staticmethod
    def forward(ctx: Any, x_BTHK: Tensor, turns_TK: Tensor) -> Tensor:
        ctx.save_for_backward(turns_TK)
        pairs = _pairs(x_BTHK).transpose(1, 2)
        out = torch.empty_like(pairs, memory_format=torch.contiguous_format)
        return torch.view_as_real(torch.mul(pairs, turns_TK, out=out)).flatten(-2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (turns_TK,) = ctx.saved_tensors
        pairs = _pairs(gradient)
        by_bar = torch.empty_like(pairs.transpose(1, 2), memory_format=torch.contiguous_format)
        torch.mul(pairs, turns_TK.conj_physical(), out=by_bar.transpose(1, 2))
        return torch.view_as_real(by_bar).flatten(-2), None


def _pairs(x: Tensor) -> Tensor:
    """View [..., K] as complex [..., K / 2]."""
    return torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2)))
