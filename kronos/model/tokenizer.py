"""KronosTokenizer: encodes bars as coarse and fine ids, and decodes ids to bars.

Axes: B batch, T bars, F features, D width, C bits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, overload

import torch
from torch import Tensor, nn

from kronos.model import checkpoint
from kronos.model.cpu_kernels.linear import Linear
from kronos.model.layers import Block, run_blocks
from kronos.model.quantizer import BSQuantizer

PUBLIC_COLUMNS = ("open", "high", "low", "close", "volume", "amount")


class KronosTokenizer(nn.Module):
    """Two causal Transformers around a binary spherical quantizer; arguments as in the public code.

    `n_enc_layers` and `n_dec_layers` build one block fewer than they say, as the public checkpoints expect.
    `config` holds the constructor's arguments. Input bars are normalised and clipped.

    `columns` names the `d_in` features of a bar where they are not those of the public models: open, high, low and
    close first. Raises ValueError for other names, repeated ones, or another number of them than `d_in`.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        n_heads: int,
        ff_dim: int,
        n_enc_layers: int,
        n_dec_layers: int,
        ffn_dropout_p: float,
        attn_dropout_p: float,
        resid_dropout_p: float,
        s1_bits: int,
        s2_bits: int,
        beta: float,
        gamma0: float,
        gamma: float,
        zeta: float,
        group_size: int,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.columns = _columns(d_in, columns)
        self.config: dict[str, Any] = {
            "d_in": d_in,
            "d_model": d_model,
            "n_heads": n_heads,
            "ff_dim": ff_dim,
            "n_enc_layers": n_enc_layers,
            "n_dec_layers": n_dec_layers,
            "ffn_dropout_p": ffn_dropout_p,
            "attn_dropout_p": attn_dropout_p,
            "resid_dropout_p": resid_dropout_p,
            "s1_bits": s1_bits,
            "s2_bits": s2_bits,
            "beta": beta,
            "gamma0": gamma0,
            "gamma": gamma,
            "zeta": zeta,
            "group_size": group_size,
        }
        if self.columns != PUBLIC_COLUMNS:
            self.config["columns"] = list(self.columns)
        self.s1_bits, self.s2_bits, self.codebook_dim = s1_bits, s2_bits, s1_bits + s2_bits
        self.d_in, self.d_model = d_in, d_model

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(d_model, n_heads, ff_dim, ffn_dropout_p, attn_dropout_p, resid_dropout_p)
                for _ in range(count - 1)
            )

        self.embed = Linear(d_in, d_model)
        self.head = Linear(d_model, d_in)
        self.encoder = blocks(n_enc_layers)
        self.decoder = blocks(n_dec_layers)
        self.quant_embed = Linear(d_model, self.codebook_dim)
        self.post_quant_embed_pre = Linear(s1_bits, d_model)
        self.post_quant_embed = Linear(self.codebook_dim, d_model)
        self.tokenizer = BSQuantizer(s1_bits, s2_bits, beta, gamma0, gamma, zeta, group_size)

    def pre_signs(self, x_BTF: Tensor) -> Tensor:
        """Return [B, T, C], the values whose signs are the bits."""
        return self.quant_embed(run_blocks(self.encoder, self.embed(x_BTF)))

    def forward(self, x_BTF: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
        """Return ((reconstruction from the coarse bits, from all bits), quantizer loss, quantised, whole ids)."""
        loss, quantized, ids = self.tokenizer(self.pre_signs(x_BTF))
        coarse = self.post_quant_embed_pre(quantized[..., : self.s1_bits])
        full = self.post_quant_embed(quantized)
        both = self.head(run_blocks(self.decoder, torch.cat((coarse, full))))  # one pass of the decoder
        coarse_x, full_x = both.chunk(2)
        return (coarse_x, full_x), loss, quantized, ids

    @overload
    def encode(self, x_BTF: Tensor) -> Tensor: ...
    @overload
    def encode(self, x_BTF: Tensor, half: bool) -> Any: ...
    def encode(self, x_BTF: Tensor, half: bool = False) -> Any:
        """Return int64 ids [B, T] of the whole code; with `half`, (coarse [B, T], fine [B, T])."""
        s1, s2 = self.tokenizer.ids(self.pre_signs(x_BTF))
        return (s1, s2) if half else s1 | (s2 << self.s1_bits)

    def decode(self, ids: Tensor | tuple[Tensor, Tensor] | list[Tensor], half: bool = False) -> Tensor:
        """Convert ids, as `encode` returns them, to normalised bars [B, T, F]."""
        if half:
            s1, s2 = ids
        else:
            assert isinstance(ids, Tensor)
            s1, s2 = ids & ((1 << self.s1_bits) - 1), ids >> self.s1_bits
        quantized = self.tokenizer.signs(s1, s2).to(self.post_quant_embed.weight.dtype)
        return self.head(run_blocks(self.decoder, self.post_quant_embed(quantized)))

    @classmethod
    def from_pretrained(cls, folder_or_hub_name: str | Path, revision: str | None = None) -> Self:
        """Load from a folder or a Hub name; the model is in evaluation mode."""
        return checkpoint.load(cls, folder_or_hub_name, revision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which the public code reads too; replaces the folder."""
        checkpoint.save_model(self, folder)


def _columns(d_in: int, columns: Sequence[str] | None) -> tuple[str, ...]:
    """Check the names of the features of a bar, those of the public models where none are given."""
    if columns is None:
        columns = PUBLIC_COLUMNS
    if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise ValueError(f"columns are {columns!r}, a list of names was expected")
    names = tuple(columns)
    if names[:4] != PUBLIC_COLUMNS[:4] or len(set(names)) < len(names) or len(names) != d_in:
        raise ValueError(
            f"columns are {', '.join(names)} and d_in is {d_in}: open, high, low, close were expected and then other "
            "names, d_in in all, each once"
        )
    return names
