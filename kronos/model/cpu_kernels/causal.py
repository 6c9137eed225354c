"""Causal attention on a CPU in blocks of queries, which skips most products with later bars.

PyTorch's attention without dropout takes about twice as long there, forward and backward.
Axes: ... leading axes, T bars, K width of a head.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kronos.model.cpu_kernels.dispatch import on_cpu
from kronos.model.cpu_kernels.dropout import dropout_mask

BLOCK = 64  # queries per block; twice as many for windows of 256 bars and more


def attend_causally(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Attend from each of the scaled queries [..., T, K] to the bars up to its own, with dropout of the weights.

    On a CPU the memory layout of the result is [..., T, H, K], which the output projection reads.
    """
    if on_cpu(q) and (q.dtype == torch.float32 or dropout):
        return _Causal.apply(q, k, v.contiguous(), dropout)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, dropout_p=dropout)


def _blocks(bars: int) -> list[tuple[int, int]]:
    """Return (first query, end) of each block."""
    size = BLOCK if bars < 4 * BLOCK else 2 * BLOCK
    count = -(-bars // size)
    ends = [bars * place // count for place in range(count + 1)]
    return list(itertools.pairwise(ends))


def _weights(q: Tensor, k: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (first, end, weights [..., end - first, end]) of each block."""
    blocks = _blocks(q.shape[-2])
    widest = max(end - first for first, end in blocks)
    future = torch.full((widest, widest), -torch.inf, dtype=q.dtype).triu_(1)
    for first, end in blocks:
        scores = q[..., first:end, :] @ k[..., :end, :].mT
        scores[..., first:].add_(future[: end - first, : end - first])  # faster than filling by a mask
        yield first, end, scores.softmax(-1)


class _Causal(torch.autograd.Function):
    """Saves the attention weights of each block: before dropout and, where there is dropout, after it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        out = v.new_empty(v.transpose(-2, -3).shape).transpose(-2, -3)
        kept: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):  # each operation in the dtype of its inputs
            for first, end, weights in _weights(q, k):
                used = dropout_mask(weights, dropout).mul_(weights) if dropout else weights
                out[..., first:end, :] = used @ v[..., :end, :]
                if any(ctx.needs_input_grad):
                    kept += [weights, used]
        ctx.save_for_backward(q, k, v, out, *kept)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, *kept = ctx.saved_tensors
        # The derivative of softmax is w (g - sum w g): this is the sum.
        common = (gradient * out).sum(-1, keepdim=True)
        gradient = gradient.contiguous()
        of_q = torch.empty_like(q)
        blocks = list(zip(_blocks(q.shape[-2]), kept[::2], kept[1::2], strict=True))
        for (first, end), weights, used in reversed(blocks):
            own, queries = gradient[..., first:end, :], q[..., first:end, :]
            of_scores = (own @ v[..., :end, :].mT).mul_(used)
            of_scores.addcmul_(weights, common[..., first:end, :], value=-1)
            of_q[..., first:end, :] = of_scores @ k[..., :end, :]
            if end == q.shape[-2]:  # the last block, processed first here, attends to all bars
                of_k, of_v = of_scores.mT @ queries, used.mT @ own
            else:
                of_k[..., :end, :] += of_scores.mT @ queries
                of_v[..., :end, :] += used.mT @ own
        return of_q, of_k, of_v, None
