"""The fine head for generation: logits of the newest bar's fine id, given its coarse id.

Axes: N series, S samples of each, P bars of a prefix, Q new bars, H heads, K width of a head, D width of the model.
"""

from functools import partial

import torch
from torch import Tensor, nn

from kronos.model.inference.kv_cache import KeyValues, Norm, Positions, Product, padded, turn
from kronos.model.predictor import DependencyLayer


class SingleQuery:
    """Hidden states [N, P, D] in place of keys and values, for one query per series and keys without positions.

    The key projection is applied to the query and the value projection to the attended sum: to one row each, not
    to all bars.
    """

    def __init__(self, kv: Product, heads: int, hidden_NPD: Tensor) -> None:
        self.series, self.hidden, self.least_rows = len(hidden_NPD), hidden_NPD, kv.least_rows
        self.keys, self.values = kv.weight.unflatten(1, (2, heads, -1)).permute(1, 2, 0, 3)  # [H, D, K] each
        assert kv.bias is not None  # the bias of the keys shifts all scores of a query alike
        self.value_bias = kv.bias.unflatten(0, (2, heads, -1))[1]

    def attend(self, q: Tensor) -> Tensor:
        """Attend from scaled queries [N, H, 1, 1, K] to all bars."""
        projected = self._by_head(q[:, :, 0, 0], self.keys.mT)
        weights = (projected @ self.hidden.mT).float().softmax(-1).to(projected.dtype)
        seen = self._by_head(weights @ self.hidden, self.values) + self.value_bias
        return seen[:, :, None, None]

    def _by_head(self, x_NHC: Tensor, matrices_HCE: Tensor) -> Tensor:
        """Multiply each head's rows by its matrix: [N, H, E]."""
        rows = padded(x_NHC.flatten(1), self.least_rows).unflatten(1, x_NHC.shape[1:])
        return (rows.transpose(0, 1) @ matrices_HCE).transpose(0, 1)[: len(x_NHC)]


class FineHead:
    """The fine head over cached keys: one query per sample, the embedding of its coarse token.

    `trained` rotates the query and the keys by their positions, as in training; the public code generates without.
    """

    def __init__(
        self, layer: DependencyLayer, head: nn.Linear, trained: bool, dtype: torch.dtype, least_rows: int = 0
    ) -> None:
        attention = layer.cross_attn
        self.heads = attention.heads
        self.attention = (self.heads, attention.rotary.head_width)
        product = partial(Product, dtype=dtype, least_rows=least_rows)
        self.q = product(attention.q_proj, heads=self.heads)
        self.out = product(attention.out_proj)
        self.kv = product(attention.k_proj, attention.v_proj)
        self.norm, self.logits = Norm(layer.norm, dtype), product(head, norm=layer.norm)
        self.positions = Positions(attention, dtype) if trained else None

    def keys(self, hidden: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Project [..., T, D] at the positions from `first` on to k, v [..., H, T, K]."""
        k, v = self.kv(hidden).unflatten(-1, (2, self.heads, -1)).movedim((-3, -2), (0, -3))
        return (turn(k, self.positions.at(first, hidden.shape[-2])) if self.positions else k), v

    def start(
        self, hidden_NPD: Tensor, samples: int, room: int, window: int | None = None
    ) -> KeyValues | SingleQuery:
        """Return the keys of the shared prefix, with space for `room` bars of each sample.

        A query attends to the last `window` bars.
        """
        if samples == 1 and not room and self.positions is None:
            return SingleQuery(self.kv, self.heads, hidden_NPD)
        series, bars, _ = hidden_NPD.shape
        kept = KeyValues(self.attention, series, bars, samples, room, hidden_NPD, window)
        kept.write_prefix(0, *self.keys(hidden_NPD, 0))
        return kept

    def append(self, kept: KeyValues, hidden_NSQD: Tensor, first: int) -> None:
        """Add the keys of new bars at the positions from `first` on."""
        k, v = self.keys(hidden_NSQD, first)
        kept.append(k.transpose(1, 2), v.transpose(1, 2))

    def __call__(
        self, kept: KeyValues | SingleQuery, hidden_NSD: Tensor, token_NSD: Tensor, position: int
    ) -> Tensor:
        """Return logits [N, S, V] from the newest hidden states and the embeddings of the coarse ids."""
        q = self.q(token_NSD).unflatten(-1, (self.heads, 1, -1)).transpose(1, 2)
        q = turn(q, self.positions.at(position, 1)) if self.positions else q
        attended = kept.attend(q).transpose(1, 2).flatten(2)
        return self.logits(self.norm(hidden_NSD + self.out(attended)))
