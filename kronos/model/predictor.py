"""Kronos: predicts the coarse and fine ids of the next bar from the ids of earlier bars.

Axes: B batch, T bars, Q queries, K time features (5, unless the model has others), D width, V1 and V2 the coarse
and fine vocabularies.
"""

import math
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.model import checkpoint
from kronos.model.attention import Attention
from kronos.model.conditions import ConditionEmbedding, Conditions
from kronos.model.cpu_kernels.dropout import Dropout
from kronos.model.cpu_kernels.linear import Linear
from kronos.model.layers import Block, RMSNorm, run_blocks
from kronos.model.time_embedding import PUBLIC, CalendarEmbedding, TemporalEmbedding, embed_time, names_of
from kronos.utils.errors import UserError

FINE_HEADS = 4  # regardless of n_heads


class HierarchicalEmbedding(nn.Module):
    """Embeddings of coarse and fine ids, each scaled by sqrt(width), concatenated and projected."""

    def __init__(self, s1_bits: int, s2_bits: int, width: int) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.emb_s1 = nn.Embedding(2**s1_bits, width)
        self.emb_s2 = nn.Embedding(2**s2_bits, width)
        self.fusion_proj = Linear(2 * width, width)

    def forward(self, s1: Tensor, s2: Tensor) -> Tensor:
        pair = torch.cat((self.emb_s1(s1) * self.scale, self.emb_s2(s2) * self.scale), dim=-1)
        return self.fusion_proj(pair)


class DependencyLayer(nn.Module):
    """Cross-attention of the fine head: coarse tokens attend to the hidden states; residual and norm follow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross_attn = Attention(width, FINE_HEADS)
        self.norm = RMSNorm(width)

    def forward(
        self, hidden_BTD: Tensor, token_BQD: Tensor, padding_mask: Tensor | None, trained: bool
    ) -> Tensor:
        """Return [B, T, D]. `trained` rotates a single query and its keys by their positions, as in training."""
        bars, queries = hidden_BTD.shape[1], token_BQD.shape[1]
        tables = query_tables = None
        if queries == bars:
            tables = query_tables = self.cross_attn.rotary.tables(bars)
        elif trained:
            tables = self.cross_attn.rotary.tables(bars)
            query_tables = self.cross_attn.rotary.tables(1, first=bars - 1)
        attended = self.cross_attn(
            hidden_BTD, token_BQD, tables=tables, query_tables=query_tables, padding_mask=padding_mask
        )
        return self.norm(hidden_BTD + attended)


class DualHead(nn.Module):
    """The two output projections."""

    def __init__(self, s1_bits: int, s2_bits: int, width: int) -> None:
        super().__init__()
        self.proj_s1 = Linear(width, 2**s1_bits)
        self.proj_s2 = Linear(width, 2**s2_bits)

    def compute_loss(
        self,
        s1_logits: Tensor,
        s2_logits: Tensor,
        s1_targets: Tensor,
        s2_targets: Tensor,
        padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return cross-entropies (mean of both, coarse, fine) over [B, T], without bars hidden by `padding_mask`."""
        keep = ... if padding_mask is None else ~padding_mask.bool()
        coarse = F.cross_entropy(s1_logits[keep].flatten(0, -2), s1_targets[keep].flatten())
        fine = F.cross_entropy(s2_logits[keep].flatten(0, -2), s2_targets[keep].flatten())
        return (coarse + fine) / 2, coarse, fine


class Kronos(nn.Module):
    """Decoder-only Transformer over pairs of ids; arguments as in the public code, kept in `config`.

    `conditions` and `time_features` are not in the public code: they describe further inputs, see `model.conditions`
    and `model.time_embedding`. A model without them has no such keys in its `config`, and its checkpoints are the
    public ones.
    """

    def __init__(
        self,
        s1_bits: int,
        s2_bits: int,
        n_layers: int,
        d_model: int,
        n_heads: int,
        ff_dim: int,
        ffn_dropout_p: float,
        attn_dropout_p: float,
        resid_dropout_p: float,
        token_dropout_p: float,
        learn_te: bool,
        conditions: dict[str, Any] | None = None,
        time_features: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "s1_bits": s1_bits,
            "s2_bits": s2_bits,
            "n_layers": n_layers,
            "d_model": d_model,
            "n_heads": n_heads,
            "ff_dim": ff_dim,
            "ffn_dropout_p": ffn_dropout_p,
            "attn_dropout_p": attn_dropout_p,
            "resid_dropout_p": resid_dropout_p,
            "token_dropout_p": token_dropout_p,
            "learn_te": learn_te,
        }
        self.s1_bits, self.s2_bits, self.d_model = s1_bits, s2_bits, d_model
        self.token_drop = Dropout(token_dropout_p)
        self.embedding = HierarchicalEmbedding(s1_bits, s2_bits, d_model)
        self.time_emb = TemporalEmbedding(d_model, learn_te, names_of(time_features))
        self.transformer = nn.ModuleList(
            Block(d_model, n_heads, ff_dim, ffn_dropout_p, attn_dropout_p, resid_dropout_p)
            for _ in range(n_layers)
        )
        self.norm = RMSNorm(d_model)
        self.dep_layer = DependencyLayer(d_model)
        self.head = DualHead(s1_bits, s2_bits, d_model)
        self.apply(self._initialise)
        self.calendar_emb: CalendarEmbedding | None = None
        self.conditions: ConditionEmbedding | None = None
        if time_features is not None:
            self._set_time_features(time_features)
        if conditions is not None:
            self.add_conditions(Conditions.from_json(conditions))

    def add_time_features(self, described: dict[str, Any]) -> None:
        """Add time features that change nothing until the first step of training; the weights stay as they are.

        Raises ValueError where `described` does not begin with those that the model has.
        """
        names = names_of(described)
        if names[: len(self.time_emb.names)] != self.time_emb.names or self.calendar_emb is not None:
            raise ValueError(
                f"the predictor has the time features {', '.join(self.time_emb.names)}, further ones come after them"
            )
        self._set_time_features(described)
        if self.calendar_emb is not None:
            self.calendar_emb.to(self.norm.weight.device)

    def _set_time_features(self, described: dict[str, Any]) -> None:
        names = self.time_emb.names = names_of(described)
        if set(names) - set(PUBLIC):
            self.calendar_emb = CalendarEmbedding(self.d_model, names)
        self.config = {**self.config, "time_features": described}

    def additions(self) -> list[nn.Module]:
        """Return the modules that public weights do not have."""
        return [part for part in (self.calendar_emb, self.conditions) if part is not None]

    def add_conditions(self, conditions: Conditions) -> None:
        """Add inputs that change nothing until the first step of training; the other weights stay as they are.

        Rows are drawn from torch's global generator. Raises ValueError for a block that the model does not have.
        """
        if conditions.block > len(self.transformer):
            raise ValueError(
                f"condition_block is {conditions.block}, the predictor has {len(self.transformer)} blocks"
            )
        self.conditions = ConditionEmbedding(conditions, self.d_model).to(self.norm.weight.device)
        self.config = {**self.config, "conditions": conditions.to_json()}

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and module.weight.requires_grad:  # keeps fixed sinusoids
            nn.init.normal_(module.weight, std=self.d_model**-0.5)

    def hidden(
        self,
        s1_BT: Tensor,
        s2_BT: Tensor,
        stamp_BTK: Tensor | None = None,
        padding_mask: Tensor | None = None,
        conditions_BTC: Tensor | None = None,
    ) -> Tensor:
        """Return hidden states [B, T, D] after the final norm; that of bar t depends on bars up to t.

        `conditions_BTC` are the values of the conditions that a bar sees, for a model that has some. Raises UserError
        where the model needs them and they are not given, or the reverse.
        """
        x = self.embedding(s1_BT, s2_BT)
        if stamp_BTK is not None:
            x = x + embed_time(self.time_emb, self.calendar_emb, stamp_BTK)
        check_conditions(self.conditions, conditions_BTC)
        added = None
        if self.conditions is not None:
            added = self.conditions.block, self.conditions(conditions_BTC)
        return self.norm(run_blocks(self.transformer, self.token_drop(x), padding_mask, added))

    def coarse_logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return logits [B, T, V1] of the next bar's coarse id."""
        return self.head.proj_s1(hidden_BTD)

    def fine_logits(
        self,
        hidden_BTD: Tensor,
        s1_targets: Tensor,
        padding_mask: Tensor | None = None,
        rotary: str = "public",
    ) -> Tensor:
        """Return logits [B, T, V2] of the next bar's fine id, given coarse ids [B, T], or [B, 1] for the newest bar.

        With one query, only the logits of the last bar are meaningful. There the public code rotates neither the
        query nor the keys by their positions (`rotary="public"`); in training it rotates both (`"trained"`).
        """
        token = self.embedding.emb_s1(s1_targets)  # not scaled
        return self.head.proj_s2(self.dep_layer(hidden_BTD, token, padding_mask, rotary == "trained"))

    def forward(
        self,
        s1_ids: Tensor,
        s2_ids: Tensor,
        stamp: Tensor | None = None,
        padding_mask: Tensor | None = None,
        use_teacher_forcing: bool = False,
        s1_targets: Tensor | None = None,
        conditions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (coarse logits [B, T, V1], fine logits [B, T, V2]) from ids [B, T] and stamps [B, T, K].

        The fine head is conditioned on `s1_targets` with teacher forcing, otherwise on a draw from the coarse
        distribution by torch's global generator. `padding_mask` [B, T] is true at bars to hide. `conditions`
        [B, T, C] are for a model that has some.
        """
        hidden = self.hidden(s1_ids, s2_ids, stamp, padding_mask, conditions)
        s1_logits = self.coarse_logits(hidden)
        if use_teacher_forcing:
            if s1_targets is None:
                raise ValueError("use_teacher_forcing needs s1_targets")
            given = s1_targets
        else:
            probabilities = s1_logits.detach().float().softmax(-1)
            given = torch.multinomial(probabilities.flatten(0, 1), 1).view(s1_ids.shape)
        return s1_logits, self.fine_logits(hidden, given, padding_mask)

    def decode_s1(
        self,
        s1_ids: Tensor,
        s2_ids: Tensor,
        stamp: Tensor | None = None,
        padding_mask: Tensor | None = None,
        conditions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (coarse logits [B, T, V1], hidden states [B, T, D] for `decode_s2`)."""
        hidden = self.hidden(s1_ids, s2_ids, stamp, padding_mask, conditions)
        return self.coarse_logits(hidden), hidden

    def decode_s2(self, context: Tensor, s1_ids: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return fine logits [B, T, V2] given hidden states and coarse ids [B, T] or [B, 1]."""
        return self.fine_logits(context, s1_ids, padding_mask)

    @classmethod
    def from_pretrained(cls, folder_or_hub_name: str | Path, revision: str | None = None) -> Self:
        """Load from a folder or a Hub name; the model is in evaluation mode."""
        return checkpoint.load(cls, folder_or_hub_name, revision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; replaces the folder.

        The public code reads them too, unless the model has conditions or other time features.
        """
        checkpoint.save_model(self, folder)


def check_conditions(embedding: ConditionEmbedding | None, values: Any | None) -> None:
    """Raise UserError where a model with conditions gets none, or one without gets some."""
    if embedding is not None and values is None:
        names = ", ".join(column.name for column in embedding.columns)
        raise UserError(f"the predictor was trained with the conditions {names}: give their values")
    if embedding is None and values is not None:
        raise UserError("the predictor was trained without conditions: leave them out")
