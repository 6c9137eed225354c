"""Transformer blocks for inference, with a key-value cache whose prefix is shared by the samples.

Axes: N series, S samples of each, P bars of the shared prefix, Q new bars, O bars of each sample so far,
D width, H heads, K width of a head. Weights are copied; there are no gradients.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.model.attention import Attention
from kronos.model.cpu_kernels.causal import attend_causally
from kronos.model.layers import Block, RMSNorm
from kronos.model.rotary import Tables

CHUNK = 1024  # bars per pass through the blocks on a CPU: more would not fit in its caches
# Rows from which on MKL sums a float32 product in the same order, whatever the number of rows and of threads: 257 on
# a Xeon with 1 to 8 threads and inner widths up to 2048, 2 up to a width of 512.
LEAST_ROWS = 288


def padded(rows: Tensor, least: int) -> Tensor:
    """Return a matrix with at least `least` rows, those that it lacks being zeros."""
    return rows if len(rows) >= least else F.pad(rows, (0, 0, 0, least - len(rows)))


class Product:
    """x W + b with W stored as [in, out]: for few rows up to twice as fast as nn.Linear's layout."""

    def __init__(
        self,
        *layers: nn.Linear,
        dtype: torch.dtype,
        norm: RMSNorm | None = None,
        heads: int | None = None,
        least_rows: int = 0,
    ) -> None:
        """Join several layers of one input into one product, with concatenated outputs.

        With `norm`, its weight is folded into W, for inputs from `Norm` without a weight. With `heads`, the first
        layer's outputs are queries, and are divided by the square root of a head's width. Fewer rows than
        `least_rows` are padded to as many, so that their rounding is that of a large batch.
        """
        self.least_rows = least_rows
        weights = [layer.weight.detach() for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        if heads is not None:
            scale = (len(weights[0]) // heads) ** -0.5
            weights[0], biases[0] = weights[0] * scale, biases[0] * scale
        weight = torch.cat(weights)
        weight = weight if norm is None else weight * _norm_weight(norm)
        self.weight = weight.to(dtype).t().contiguous()
        self.bias = torch.cat(biases).to(dtype) if biases else None

    def __call__(self, x: Tensor) -> Tensor:
        count = x.shape[:-1].numel()
        rows = padded(x.reshape(count, -1), self.least_rows)
        out = rows @ self.weight if self.bias is None else torch.addmm(self.bias, rows, self.weight)
        return out[:count].view(*x.shape[:-1], -1)

    def add_to(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Return x + inputs W + b, in one pass over x; in place where there is no bias."""
        out = x if self.bias is None else x + self.bias
        count = x.shape[:-1].numel()
        rows = padded(out.view(count, -1), self.least_rows)
        rows.addmm_(padded(inputs.reshape(count, -1), self.least_rows), self.weight)
        return rows[:count].view_as(out)


def _norm_weight(norm: RMSNorm) -> Tensor:
    """Return the weight for `Norm`, which divides by the length of x, not by its root mean square."""
    return norm.weight.detach() * norm.weight.numel() ** 0.5


class Norm:
    """RMSNorm over the last axis in few passes; unless `weighted`, the weight is folded into a `Product`."""

    def __init__(self, norm: RMSNorm, dtype: torch.dtype, *, weighted: bool = False) -> None:
        self.eps, self.dtype = norm.eps * norm.weight.numel(), dtype
        self.weight = _norm_weight(norm).to(dtype) if weighted else None

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        unit = (x * length.square_().add_(self.eps).rsqrt_()).to(self.dtype)
        return unit if self.weight is None else unit.mul_(self.weight)


def turn(x: Tensor, tables: Tables) -> Tensor:
    """Rotate [..., T, K] by the (cos, sin) [T, K] of its positions, like rotary.rotate but without a copy."""
    cos, sin = tables
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


class KeyValues:
    """Keys and values of one layer: those of P bars shared by the samples, and those of each sample's own bars.

    Shared keys are stored as [N, H, K, P], shared values as [N, H, P, K], own ones as [N, H, S, O, K]. With one
    sample nothing is shared: the prefix is the first part of `own`. Queries attend to the last `window` bars.
    """

    def __init__(
        self,
        attention: tuple[int, int],
        series: int,
        bars: int,
        samples: int,
        room: int,
        like: Tensor,
        window: int | None = None,
    ) -> None:
        """Allocate space for a prefix and for `room` bars per sample; `attention` is (heads, width of a head)."""
        heads, width = attention
        self.window = window
        self.series, self.bars, self.samples, self.used = series, bars, samples, 0 if samples > 1 else bars
        self.own = like.new_empty(2, series, heads, samples, room + self.used, width)
        if samples > 1:
            self.shared_k = like.new_empty(series, heads, width, bars)
            self.shared_v = like.new_empty(series, heads, bars, width)

    def write_prefix(self, first: int, k: Tensor, v: Tensor) -> None:
        """Store the prefix [n, H, P, K] of the series from `first` on."""
        rows = slice(first, first + len(k))
        if self.samples > 1:
            self.shared_k[rows], self.shared_v[rows] = k.transpose(-1, -2), v
        else:
            self.own[0, rows, :, 0, : self.bars], self.own[1, rows, :, 0, : self.bars] = k, v

    def append(self, k: Tensor, v: Tensor) -> None:
        """Add keys and values [N, H, S, Q, K] of new bars of each sample."""
        end = self.used + k.shape[3]
        self.own[0, ..., self.used : end, :], self.own[1, ..., self.used : end, :] = k, v
        self.used = end

    def attend(self, q: Tensor) -> Tensor:
        """Attend from scaled queries [N, H, S, Q, K] of Q new bars to the prefix and, causally, to own bars."""
        queries, shared = q.shape[3], self.bars if self.samples > 1 else 0
        left = 0 if self.window is None else max(0, shared + self.used - self.window)  # bars that dropped out
        k, v = self.own[..., max(0, left - shared) : self.used, :]
        if self.samples == 1 and queries == 1:
            return F.scaled_dot_product_attention(q[:, :, 0], k[:, :, 0], v[:, :, 0], scale=1.0)[:, :, None]
        scores = q @ k.transpose(-1, -2)
        if queries > 1:
            hidden = torch.ones(queries, k.shape[3], dtype=torch.bool, device=q.device)
            scores.masked_fill_(hidden.triu_(k.shape[3] - queries + 1), -torch.inf)
        if self.samples == 1:
            return scores.float().softmax(-1).to(v.dtype) @ v
        shared_k, shared_v = self.shared_k[..., left:], self.shared_v[:, :, left:]
        together = (q.flatten(2, 3) @ shared_k).unflatten(2, q.shape[2:4])
        weights = torch.cat((together, scores), dim=-1).float().softmax(-1).to(v.dtype)
        bars = shared_k.shape[-1]
        seen = weights[..., :bars].flatten(2, 3) @ shared_v
        return (weights[..., bars:] @ v).add_(seen.unflatten(2, q.shape[2:4]))


class FastBlock:
    """A Block as three fused products, for prefixes and for new bars on top of a cache.

    `compiled` runs everything except attention through torch.compile, once for all blocks of a shape.
    """

    def __init__(self, block: Block, dtype: torch.dtype, compiled: bool, least_rows: int) -> None:
        attention, ffn = block.self_attn, block.ffn
        self.heads = attention.heads
        self.attention = (self.heads, attention.rotary.head_width)
        self.norm1, self.norm2 = Norm(block.norm1, dtype), Norm(block.norm2, dtype)
        layers = attention.q_proj, attention.k_proj, attention.v_proj
        product = partial(Product, dtype=dtype, least_rows=least_rows)
        self.qkv = product(*layers, norm=block.norm1, heads=self.heads)
        self.out = product(attention.out_proj)
        self.gate_up = product(ffn.w1, ffn.w3, norm=block.norm2)
        self.down = product(ffn.w2)
        if compiled:
            for name in ("unrotated", "finish"):
                setattr(self, name, torch.compile(getattr(self, name), dynamic=True))

    def unrotated(self, x: Tensor) -> Tensor:
        """Project [..., T, D] to q, k and v side by side [..., T, 3 D], not rotated yet."""
        return self.qkv(self.norm1(x))

    def project(self, qkv: Tensor, tables: Tables | None) -> tuple[Tensor, Tensor, Tensor]:
        """Split the output of `unrotated` into q, k, v [..., H, T, K], and rotate q and k."""
        qkv = qkv.unflatten(-1, (3, self.heads, -1)).movedim((-3, -2), (0, -3))
        assert tables is not None
        turned = turn(qkv[:2], tables)
        return turned[0], turned[1], qkv[2]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the output projection of `attended` [..., H, T, K] and the feed-forward to x [..., T, D]."""
        x = self.out.add_to(x, attended.transpose(-2, -3).flatten(-2))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return self.down.add_to(x, F.silu(gate, inplace=True).mul_(up))


@dataclass
class Cache:
    """Keys and values of all layers, and the number of positions stored."""

    layers: list[KeyValues] = field(default_factory=list)
    position: int = 0


class Positions:
    """Rotary tables of an attention layer, extended when a later position is needed."""

    def __init__(self, attention: Attention, dtype: torch.dtype) -> None:
        self.rotary, self.dtype = attention.rotary, dtype
        self.cos = self.sin = torch.empty(0)

    def at(self, first: int, count: int) -> Tables:
        """Return (cos, sin) [count, K] of the positions from `first` on."""
        end = first + count
        if end > len(self.cos):
            cos, sin = self.rotary.tables(max(end, 2 * len(self.cos)))
            self.cos, self.sin = cos.to(self.dtype), sin.to(self.dtype)
        return self.cos[first:end], self.sin[first:end]


class Stack:
    """Blocks in order; after `adds_after` of them what `prefix` and `extend` are given as `added` is added."""

    def __init__(
        self,
        blocks: nn.ModuleList,
        dtype: torch.dtype,
        compiled: bool = False,
        least_rows: int = 0,
        adds_after: int = 0,
    ) -> None:
        self.adds_after = adds_after
        modules = [block for block in blocks if isinstance(block, Block)]
        self.blocks = [FastBlock(block, dtype, compiled, least_rows) for block in modules]
        self.positions = [Positions(block.self_attn, dtype) for block in modules[:1]]

    def with_projections(self, x: Tensor) -> Tensor:
        """Return [..., D + E]: x, followed by its unrotated projections of the first block."""
        return torch.cat((x, self.blocks[0].unrotated(x)), dim=-1) if self.blocks else x

    def at(self, first: int, count: int) -> Tables | None:
        """Return the rotary tables of the blocks, None where there are no blocks."""
        return self.positions[0].at(first, count) if self.positions else None

    def prefix(
        self,
        x_NPD: Tensor,
        samples: int = 0,
        room: int = 0,
        *,
        unrotated_NPE: Tensor | None = None,
        hidden: bool = True,
        added_NPD: Tensor | None = None,
        window: int | None = None,
    ) -> tuple[Tensor, Cache]:
        """Run positions 0 .. P-1; the cache has space for `room` bars of `samples` per series (samples 0: no cache).

        New bars attend to the last `window` bars. `unrotated_NPE` are the unrotated projections of the first block,
        where known; `added_NPD` is what conditions add. Without `hidden`, the last block computes its keys and values
        only.
        """
        series, bars, _ = x_NPD.shape
        cache = Cache(position=bars)
        if samples:
            cache.layers = [
                KeyValues(block.attention, series, bars, samples, room, x_NPD, window)
                for block in self.blocks
            ]
        tables = self.at(0, bars)
        size = max(1, CHUNK // bars) if x_NPD.device.type == "cpu" else series
        hiddens = []
        for first in range(0, series, size):
            part = slice(first, first + size)
            known = None if unrotated_NPE is None else unrotated_NPE[part]
            added = None if added_NPD is None else added_NPD[part]
            hiddens.append(self._prefix(x_NPD[part], known, tables, cache, first, hidden, added))
        return torch.cat(hiddens), cache

    def _prefix(
        self,
        x_NPD: Tensor,
        unrotated_NPE: Tensor | None,
        tables: Tables | None,
        cache: Cache,
        first: int,
        hidden: bool,
        added_NPD: Tensor | None,
    ) -> Tensor:
        for index, block in enumerate(self.blocks):
            x_NPD = self._with(added_NPD, x_NPD, index)
            unrotated = block.unrotated(x_NPD) if index or unrotated_NPE is None else unrotated_NPE
            q, k, v = block.project(unrotated, tables)
            if cache.layers:
                cache.layers[index].write_prefix(first, k, v)
            if hidden or index + 1 < len(self.blocks):
                x_NPD = block.finish(x_NPD, attend_causally(q, k, v))
        return self._with(added_NPD, x_NPD, len(self.blocks))

    def _with(self, added: Tensor | None, x: Tensor, done: int) -> Tensor:
        """Return the hidden states after `done` blocks, with what is added there."""
        return x if added is None or done != self.adds_after else x + added

    def extend(self, x_NSQD: Tensor, cache: Cache, added_NSQD: Tensor | None = None) -> Tensor:
        """Run Q new bars of every sample and add them to the cache; `added_NSQD` may broadcast to them."""
        tables = self.at(cache.position, x_NSQD.shape[2])
        for index, (block, kept) in enumerate(zip(self.blocks, cache.layers, strict=True)):
            x_NSQD = self._with(added_NSQD, x_NSQD, index)
            q, k, v = (part.transpose(1, 2) for part in block.project(block.unrotated(x_NSQD), tables))
            kept.append(k, v)
            x_NSQD = block.finish(x_NSQD, kept.attend(q).transpose(1, 2))
        cache.position += x_NSQD.shape[2]
        return self._with(added_NSQD, x_NSQD, len(self.blocks))
