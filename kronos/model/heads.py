"""Heads: one number from the predictor's hidden state after the last bar of a context.

Axes: N contexts, L bars of a context, C conditions, D width of the predictor.
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from kronos.model import checkpoint
from kronos.model.predictor import Kronos


class ForecastHead(nn.Module):
    """LayerNorm and one linear layer: 3 D + 1 weights.

    So small because a market has few independent observations: neighbouring days share most of their horizon, and
    the instruments of one day move together. The hidden state has been trained to hold what the next bar depends on,
    so that a linear reading of it loses little, while a deeper head would fit the noise of the training days. The
    linear layer begins at zero, so that the first answer is the same for every context.

    Args:
        width: D, that of the predictor.
        shift, scale: what the output is multiplied by and moved to, to be in the unit of the training targets.
    """

    def __init__(self, width: int, shift: float, scale: float) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"width": width, "shift": shift, "scale": scale}
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Return one number per hidden state, [N], which is in units of `scale` from `shift`.

        In the precision of the head's weights, whatever the autocast.
        """
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return self.linear(self.norm(hidden_ND.to(self.linear.weight.dtype))).squeeze(-1)

    def target(self, hidden_ND: Tensor) -> Tensor:
        """Return the same in the unit of the training targets, [N]."""
        return self.config["shift"] + self.config["scale"] * self(hidden_ND)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load from a folder; in evaluation mode."""
        return checkpoint.load(cls, folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; replaces the folder."""
        checkpoint.save_model(self, folder)


class HeadedPredictor(nn.Module):
    """A predictor and the head on it, trained together.

    Args:
        predictor: the arguments of `Kronos`.
        width, shift, scale: those of `ForecastHead`.
    """

    def __init__(self, predictor: dict[str, Any], width: int, shift: float, scale: float) -> None:
        super().__init__()
        self.predictor, self.head = Kronos(**predictor), ForecastHead(width, shift, scale)
        self.config: dict[str, Any] = {"predictor": predictor, **self.head.config}

    @classmethod
    def around(cls, predictor: Kronos, head: ForecastHead) -> Self:
        """Return the two models as one; nothing is copied."""
        with torch.device("meta"):
            model = cls(predictor.config, **head.config)
        model.predictor, model.head = predictor, head
        return model

    def forward(
        self, s1_NL: Tensor, s2_NL: Tensor, stamp_NL5: Tensor, conditions_NLC: Tensor | None = None
    ) -> Tensor:
        """Return what the head makes of the hidden state after the last bar of each context of ids, [N]."""
        return self.head(self.predictor.hidden(s1_NL, s2_NL, stamp_NL5, None, conditions_NLC)[:, -1])

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load from a folder; in evaluation mode."""
        return checkpoint.load(cls, folder)
