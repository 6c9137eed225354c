"""Exponential moving average (EMA) of a model's weights, kept as a second model."""

import copy
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kronos.training.sharding import by_kind


class AveragedWeights:
    """A copy of the model whose trained weights follow those of the model.

    After each optimizer step `average = decay * average + (1 - decay) * weights`, so that the average covers about
    the last 1 / (1 - decay) steps. The decay rises from 0.1 to its value as (1 + steps) / (10 + steps), the usual
    warm-up: otherwise the random weights of the start would be in the average for long.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model)
        self.follow(model)

    def follow(self, model: Any) -> None:
        """Average the parameters that `model` has now; call it again after they were replaced, by sharding."""
        own, source = (
            by_kind(parameter for parameter in side.parameters() if parameter.requires_grad)
            for side in (self.model, model)
        )
        self.pairs = list(zip(own, source, strict=True))

    def update(self, steps: int) -> None:
        """Average in the weights after an optimizer step; `steps` is the number of steps before it."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for own, source in self.pairs:
            if own:
                get_ema_multi_avg_fn(decay)(own, source, torch.empty(0))
