"""Blocks shared by the tokenizer and the predictor; parameter names are those of the public checkpoints.

Axes: B batch, T bars, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.model.attention import Attention
from kronos.model.cpu_kernels.dispatch import derived_here
from kronos.model.cpu_kernels.dropout import Dropout
from kronos.model.cpu_kernels.linear import Linear
from kronos.model.rotary import Tables


class RMSNorm(nn.Module):
    """Return x / rms(x) * weight, the mean square computed in float32, or in float64 where x is float64."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype == torch.float32 and derived_here():
            return _RMSNorm.apply(x, self.weight, self.eps)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


class _RMSNorm(torch.autograd.Function):
    """The same in float32, with a backward pass that reads memory half as often as autograd's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.rsqrt(norm.square() / x.shape[-1] + eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        product = gradient * x
        along = (product @ weight).unsqueeze(-1) * scale.pow(3) / x.shape[-1]
        of_x = (gradient * weight).mul_(scale).addcmul_(x, along, value=-1)
        return of_x, scale.flatten() @ product.flatten(0, -2), None


class FeedForward(nn.Module):
    """SwiGLU without bias: w2(silu(w1 x) * w3 x)."""

    def __init__(self, width: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.w1 = Linear(width, inner, bias=False)
        self.w3 = Linear(width, inner, bias=False)
        self.w2 = Linear(inner, width, bias=False)
        self.ffn_dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn_dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))


class Block(nn.Module):
    """Pre-norm Transformer block with causal self-attention."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        ffn_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.self_attn = Attention(width, heads, attention_dropout, residual_dropout)
        self.norm2 = RMSNorm(width)
        self.ffn = FeedForward(width, inner, ffn_dropout)

    def forward(self, x_BTD: Tensor, tables: Tables, padding_mask: Tensor | None = None) -> Tensor:
        x_BTD = x_BTD + self.self_attn(
            self.norm1(x_BTD), tables=tables, query_tables=tables, padding_mask=padding_mask
        )
        return x_BTD + self.ffn(self.norm2(x_BTD))


def run_blocks(
    blocks: nn.ModuleList,
    x_BTD: Tensor,
    padding_mask: Tensor | None = None,
    added: tuple[int, Tensor] | None = None,
) -> Tensor:
    """Run the blocks in order over positions 0 .. T-1, with rotary tables computed once.

    `added` is (k, [B, T, D]): what is added to the hidden states after k blocks.
    """
    after, addition = added or (-1, None)
    if addition is not None and after == 0:
        x_BTD = x_BTD + addition
    if not len(blocks):
        return x_BTD
    first = blocks[0]
    assert isinstance(first, Block)
    tables = first.self_attn.rotary.tables(x_BTD.shape[1])
    for done, block in enumerate(blocks, 1):
        x_BTD = block(x_BTD, tables, padding_mask)
        if addition is not None and after == done:
            x_BTD = x_BTD + addition
    return x_BTD
