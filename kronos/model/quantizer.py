"""Binary spherical quantizer: signs of a point on the unit sphere, and the loss that keeps the signs in use.

Axes: B batch, T bars, C bits (dimensions of the code).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.utils.errors import UserError


def bits_to_ids(bits_C: Tensor) -> Tensor:
    """Convert booleans [..., C] to int64 ids [...]; bit j has the weight 2^j (little-endian)."""
    weights = 2 ** torch.arange(bits_C.shape[-1], device=bits_C.device)
    return (bits_C.long() * weights).sum(-1)


def ids_to_signs(ids: Tensor, bits: int) -> Tensor:
    """Convert int64 ids [...] to float32 signs [..., bits]: +1 where the bit is set, otherwise -1."""
    weights = 2 ** torch.arange(bits, device=ids.device)
    return ((ids.unsqueeze(-1) & weights) != 0).float() * 2 - 1


def entropy(p: Tensor) -> Tensor:
    """Return the binary entropy in nats, elementwise; the logarithms are shifted by 1e-8 as in the public code."""
    q = 1 - p
    return -(p * torch.log(p + 1e-8) + q * torch.log(q + 1e-8))


class BinarySphericalQuantizer(nn.Module):
    """Signs / sqrt(C) of a normalised z, with a straight-through gradient, and the quantizer's loss.

    `average` maps the mean probabilities [C] of this rank's part of a batch to those of the whole batch, which the
    codebook entropy is a function of; None: this rank has the whole batch.
    """

    def __init__(
        self, dims: int, beta: float, gamma0: float, gamma: float, zeta: float, group_size: int
    ) -> None:
        super().__init__()
        if dims % group_size:
            raise UserError(
                f"{dims} bits do not split into groups of {group_size}: change s1_bits, s2_bits or group_size"
            )
        self.dims = dims
        self.beta, self.gamma0, self.gamma, self.zeta = beta, gamma0, gamma, zeta
        self.average: Callable[[Tensor], Tensor] | None = None
        # Both are in the public checkpoints and unused here: ids are computed by `bits_to_ids`.
        for name, bits in (("basis", dims), ("group_basis", group_size)):
            self.register_buffer(name, torch.tensor([2**bit for bit in reversed(range(bits))]))

    def forward(self, z_BTC: Tensor) -> Tensor:
        """Return quantised values [B, T, C]: +-1 / sqrt(C), with the gradient of z / sqrt(C)."""
        signs = torch.where(z_BTC > 0, 1.0, -1.0).to(z_BTC.dtype)
        return (z_BTC + (signs - z_BTC).detach()) * self.dims**-0.5

    def loss(self, z_BTC: Tensor, quantized_BTC: Tensor) -> Tensor:
        """Return beta x commitment + zeta x (gamma0 x entropy of each bar - gamma x entropy of the whole batch).

        Both entropies are sums over single bits, as the public code computes them. May be negative.
        """
        commitment = (quantized_BTC.detach() - z_BTC).square().sum(-1).mean()
        p_BTC = torch.sigmoid(-4 * z_BTC * self.dims**-0.5)
        per_bar = entropy(p_BTC).sum(-1).mean()
        mean_C = p_BTC.flatten(0, -2).mean(0)
        if self.average is not None:
            mean_C = self.average(mean_C)
        codebook = entropy(mean_C).sum()
        return self.beta * commitment + self.zeta * (self.gamma0 * per_bar - self.gamma * codebook)


class BSQuantizer(nn.Module):
    """The quantizer split into a coarse part (the first s1_bits) and a fine part (the rest)."""

    def __init__(
        self,
        s1_bits: int,
        s2_bits: int,
        beta: float,
        gamma0: float,
        gamma: float,
        zeta: float,
        group_size: int,
    ) -> None:
        super().__init__()
        self.s1_bits, self.s2_bits = s1_bits, s2_bits
        self.bsq = BinarySphericalQuantizer(s1_bits + s2_bits, beta, gamma0, gamma, zeta, group_size)

    def forward(self, z_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss scalar, quantised [B, T, C], ids of the whole code [B, T])."""
        z_BTC = F.normalize(z_BTC, dim=-1)
        quantized = self.bsq(z_BTC)
        return self.bsq.loss(z_BTC, quantized), quantized, bits_to_ids(z_BTC > 0)

    def ids(self, z_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Return (coarse [B, T], fine [B, T]) ids, without normalising, which changes no sign."""
        bits = z_BTC > 0
        return bits_to_ids(bits[..., : self.s1_bits]), bits_to_ids(bits[..., self.s1_bits :])

    def signs(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Convert coarse and fine ids to quantised values [..., C] = +-1 / sqrt(C)."""
        halves = ids_to_signs(s1, self.s1_bits), ids_to_signs(s2, self.s2_bits)
        return torch.cat(halves, dim=-1) * (self.s1_bits + self.s2_bits) ** -0.5
