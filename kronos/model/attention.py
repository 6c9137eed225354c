"""Multi-head attention.

Axes: B batch, T bars, Q queries, D width, H heads, K width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.model.cpu_kernels.causal import attend_causally
from kronos.model.cpu_kernels.dispatch import on_cpu
from kronos.model.cpu_kernels.dropout import Dropout
from kronos.model.cpu_kernels.linear import Linear, linear
from kronos.model.rotary import Rotary, Tables, neighbours, rotate, rotate_neighbours
from kronos.utils.errors import UserError


class Attention(nn.Module):
    """Multi-head attention with rotary positions: self-attention, or cross-attention from `query` to the bars of `x`.

    Causal, in training and in evaluation, when there are as many queries as bars; a single query belongs to the
    newest bar and attends to all bars. `padding_mask` [B, T] is true (or non-zero) at bars to hide.
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
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)
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
        """Return attended values [B, Q, D]. `tables` and `query_tables` are the rotary tables of bars and queries;
        None leaves them unrotated.
        """
        query_BQD = x_BTD if query_BQD is None else query_BQD
        queries, bars = query_BQD.shape[1], x_BTD.shape[1]
        if queries not in (1, bars):
            raise ValueError(f"{queries} queries over {bars} bars: expected 1 or {bars}")
        causal = queries == bars and bars > 1
        mask = None if padding_mask is None else _visible(padding_mask, queries, causal)
        dropout = self.attention_dropout if self.training else 0.0
        v = self.split(self.v_proj(x_BTD))
        if causal and mask is None and tables and query_tables and self._turns_neighbours(x_BTD):
            q = self._turned(self.q_proj, query_BQD, query_tables, v.shape[-1] ** -0.5)
            attended = attend_causally(q, self._turned(self.k_proj, x_BTD, tables), v, dropout)
        else:
            q, k = self.split(self.q_proj(query_BQD)), self.split(self.k_proj(x_BTD))
            q = q if query_tables is None else rotate(q, query_tables)
            k = k if tables is None else rotate(k, tables)
            if dropout and causal and mask is None and on_cpu(q):
                attended = attend_causally(q * v.shape[-1] ** -0.5, k, v, dropout)
            else:
                attended = F.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None
                )
        return self.resid_dropout(self.out_proj(attended.transpose(1, 2).flatten(2)))

    def _turned(self, layer: nn.Module, x_BTD: Tensor, tables: Tables, scale: float = 1.0) -> Tensor:
        """Return rotated queries or keys [B, H, T, K], with the two members of each rotated pair side by side."""
        if type(layer) is Linear:
            rows = linear(x_BTD, neighbours(layer.weight, self.heads), neighbours(layer.bias, self.heads))
            return rotate_neighbours(rows.unflatten(-1, (self.heads, -1)), tables, scale)
        rows = layer(x_BTD).unflatten(-1, (self.heads, 2, -1)).transpose(-1, -2)
        return rotate_neighbours(rows.flatten(-2), tables, scale)

    def _turns_neighbours(self, x: Tensor) -> bool:
        """Return whether the rotation can use complex numbers: eager mode, float32, and a device that has them.

        A projection that was replaced, hooked or pruned is called as it is, except for one with an adapter, whose
        outputs are reordered: before the first step it then gives what the projection alone gives, bit for bit.
        """
        kind = x.device.type
        if kind not in ("cpu", "cuda") or torch.compiler.is_compiling() or torch.is_autocast_enabled(kind):
            return False
        return x.dtype == torch.float32 and _is_known(self.q_proj) and _is_known(self.k_proj)


def _is_known(layer: nn.Module) -> bool:
    """Return whether calling this layer is x W^T + b in float32 and nothing else, but for an adapter around it."""
    layer = getattr(layer, "base_layer", layer)  # peft's name
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    plain = type(layer) is Linear and layer.bias is not None and layer.weight.dtype == torch.float32
    return plain and not any(hooks)


def _visible(padding_mask: Tensor, queries: int, causal: bool) -> Tensor:
    """Return a mask [B, 1, Q, T], true where a query may attend; a padded bar attends to itself, so no row is NaN."""
    bars = padding_mask.shape[1]
    visible = ~padding_mask.bool()[:, None, None, :].expand(-1, 1, queries, -1)
    if not causal:
        return visible
    square = torch.ones(bars, bars, dtype=torch.bool, device=padding_mask.device)
    return (visible & square.tril()) | torch.eye(bars, dtype=torch.bool, device=padding_mask.device)
