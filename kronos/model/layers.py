"""Blocks shared by the tokenizer and the predictor; parameter names are those of the public checkpoints.

Axes: B batch, T bars, Q queries, D width, H heads, K width of a head.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.errors import UserError

Tables = tuple[Tensor, Tensor]


def _derived_here() -> bool:
    """Whether derivatives written by hand are used: where there are any, save where a compiler joins the passes."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean square taken in float32 whatever the type of x."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype == torch.float32 and _derived_here():
            return _RMSNorm.apply(x, self.weight, self.eps)
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


class _RMSNorm(torch.autograd.Function):
    """The same in float32, with half the passes over memory that its derivative by autograd takes."""

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
        unit = x * scale
        product = gradient * unit
        along = (product @ weight).unsqueeze(-1) / x.shape[-1]
        of_x = (gradient * weight).addcmul_(unit, along, value=-1).mul_(scale)
        return of_x, product.flatten(0, -2).sum(0), None


class Dropout(nn.Dropout):
    """nn.Dropout, with cheap masks on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.p and _masked_here(x):
            return x * _dropout_mask(x, self.p)
        return super().forward(x)


def _masked_here(x: Tensor) -> bool:
    """Whether dropout takes its masks from here: on a CPU, save where a compiler makes its own."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _dropout_mask(x: Tensor, p: float) -> Tensor:
    """0 with probability p, else 1 / (1 - p), like `x`, on a CPU.

    One draw of torch's seeds a generator whose 64 bits serve four values: Bernoulli draws took a tenth of a step.
    """
    seed = int(torch.randint(2**63 - 1, ()))
    words = torch.from_numpy(np.random.SFC64(seed).random_raw((x.numel() + 3) // 4).view(np.int64))
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    drop = round(p * 2**16)  # of 65536: within 1e-5 of p
    if drop == 2**16:
        return torch.zeros_like(x)
    kept = torch.ge(bits, drop - 2**15, out=torch.empty(x.shape, dtype=x.dtype))
    return kept.mul_(2**16 / (2**16 - drop))


def _dropped_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, p: float) -> Tensor:
    """Causal attention with dropout of its weights: the steps torch falls back to on a CPU, with cheap masks.

    The queries come divided by sqrt(K): where they are turned anyway, it costs no pass over them.
    """
    bars = q_BHTK.shape[-2]
    scores = q_BHTK @ k_BHTK.transpose(-2, -1)
    future = torch.full((bars, bars), -torch.inf, dtype=scores.dtype).triu(1)
    weights = scores.add_(future).softmax(-1)
    return (weights * _dropout_mask(weights, p)) @ v_BHTK


class Rotary(nn.Module):
    """Rotary positions, halves rotated (not interleaved), base 10000."""

    inv_freq: Tensor

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.register_buffer("inv_freq", self._frequencies())

    def _frequencies(self, device: torch.device | None = None) -> Tensor:
        steps = torch.arange(0, self.head_width, 2, device=device).float()
        return 1.0 / (10000 ** (steps / self.head_width))

    def tables(self, length: int, first: int = 0) -> Tables:
        """(cos, sin) [length, K] in float32 for the positions first .. first + length - 1."""
        frequencies = self.inv_freq
        if frequencies.dtype != torch.float32:  # a model cast to bfloat16 would blur its positions
            frequencies = self._frequencies(frequencies.device)
        positions = torch.arange(first, first + length, device=frequencies.device).float()
        angles = torch.outer(positions, frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def rotate(x_BHTK: Tensor, tables: Tables) -> Tensor:
    """Turn each pair (x[i], x[i + K/2]) by its position's angle."""
    cos, sin = tables
    if x_BHTK.dtype == torch.float32 and x_BHTK.requires_grad and _derived_here():
        return _Rotate.apply(x_BHTK, cos, sin)
    first, second = x_BHTK.chunk(2, dim=-1)
    return x_BHTK * cos.to(x_BHTK.dtype) + torch.cat((-second, first), dim=-1) * sin.to(x_BHTK.dtype)


class _Rotate(torch.autograd.Function):
    """The same; its derivative turns back. Each lies in memory as what comes next reads it."""

    @staticmethod
    def forward(ctx: Any, x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x_BHTK, cos, sin, 1, torch.empty(x_BHTK.shape, dtype=x_BHTK.dtype, device=x_BHTK.device))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        by_bar = torch.empty_like(gradient.transpose(1, 2), memory_format=torch.contiguous_format)
        return _turn(gradient, cos, sin, -1, by_bar.transpose(1, 2)), None, None


def _turn(x_BHTK: Tensor, cos: Tensor, sin: Tensor, direction: int, turned: Tensor) -> Tensor:
    """Write into `turned`."""
    first, second = x_BHTK.chunk(2, dim=-1)
    half = first.shape[-1]
    torch.mul(x_BHTK, cos, out=turned)
    turned[..., :half].addcmul_(second, sin[..., :half], value=-direction)
    turned[..., half:].addcmul_(first, sin[..., half:], value=direction)
    return turned


class Attention(nn.Module):
    """Multi-head attention with rotary positions: over itself, or from `query` to the bars of `x`.

    Causal in every mode when there are as many queries as bars; one single query is the newest bar's and
    sees them all. `padding_mask` [B, T] is true (or non-zero) at bars to hide.
    """

    def __init__(
        self, width: int, heads: int, attention_dropout: float = 0.0, residual_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise UserError(
                f"width {width} does not split into {heads} heads of even width: change d_model or n_heads"
            )
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.rotary = Rotary(width // heads)
        self.resid_dropout = Dropout(residual_dropout)

    def split(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, H, T, K]."""
        return x_BTD.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        x_BTD: Tensor,
        query_BQD: Tensor | None = None,
        *,
        tables: Tables | None = None,
        query_tables: Tables | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """[B, Q, D] attended. `tables`: the bars' positions, `query_tables` the queries'; None: unturned."""
        query_BQD = x_BTD if query_BQD is None else query_BQD
        queries, bars = query_BQD.shape[1], x_BTD.shape[1]
        if queries not in (1, bars):
            raise ValueError(f"{queries} queries over {bars} bars: expected 1 or {bars}")
        q = self.split(self.q_proj(query_BQD))
        k = self.split(self.k_proj(x_BTD))
        v = self.split(self.v_proj(x_BTD))
        k = k if tables is None else rotate(k, tables)
        causal = queries == bars and bars > 1
        mask = None if padding_mask is None else _visible(padding_mask, queries, causal)
        dropout = self.attention_dropout if self.training else 0.0
        if dropout and causal and mask is None and query_tables is not None and _masked_here(q):
            cos, sin = (table * q.shape[-1] ** -0.5 for table in query_tables)
            attended = _dropped_attention(rotate(q, (cos, sin)), k, v, dropout)
        else:
            q = q if query_tables is None else rotate(q, query_tables)
            attended = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None
            )
        return self.resid_dropout(self.out_proj(attended.transpose(1, 2).flatten(2)))


def _visible(padding_mask: Tensor, queries: int, causal: bool) -> Tensor:
    """[B, 1, Q, T], true where a query may look; a padded bar sees itself, so that no row is empty (NaN)."""
    bars = padding_mask.shape[1]
    visible = ~padding_mask.bool()[:, None, None, :].expand(-1, 1, queries, -1)
    if not causal:
        return visible
    square = torch.ones(bars, bars, dtype=torch.bool, device=padding_mask.device)
    return (visible & square.tril()) | torch.eye(bars, dtype=torch.bool, device=padding_mask.device)


class FeedForward(nn.Module):
    """SwiGLU without bias: w2(silu(w1 x) * w3 x)."""

    def __init__(self, width: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
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


def run_blocks(blocks: nn.ModuleList, x_BTD: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Run the blocks in order over positions 0 .. T-1, their rotary tables computed once."""
    if not len(blocks):
        return x_BTD
    first = blocks[0]
    assert isinstance(first, Block)
    tables = first.self_attn.rotary.tables(x_BTD.shape[1])
    for block in blocks:
        x_BTD = block(x_BTD, tables, padding_mask)
    return x_BTD
