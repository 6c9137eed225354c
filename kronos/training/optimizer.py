"""AdamW over the trainable parameters, and the learning-rate schedules."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from kronos.training.settings import FitSettings
from kronos.training.sharding import by_kind
from kronos.utils.errors import UserError


def adamw(model: nn.Module, settings: FitSettings) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, in the model's order; fused AdamW is bit-reproducible."""
    training = settings.training
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UserError("nothing is left to train: every parameter is frozen")
    groups: list[dict[str, Any]] = []
    for side in by_kind(parameters):
        if training.decay_norms_biases:
            groups.append({"params": side})
        else:
            groups.append({"params": [parameter for parameter in side if parameter.ndim > 1]})
            vectors = [parameter for parameter in side if parameter.ndim <= 1]
            groups.append({"params": vectors, "weight_decay": 0.0})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        weight_decay=training.adam_weight_decay,
        fused=True,
    )


def schedule(optimizer: torch.optim.Optimizer, settings: FitSettings, total_steps: int) -> LRScheduler:
    """Return the schedule that `lr_schedule` names, updated once per step."""
    if settings.training.lr_schedule == "one_cycle":
        return one_cycle(optimizer, settings, total_steps)
    return warmup_stable_decay(optimizer, settings, total_steps)


def one_cycle(optimizer: torch.optim.Optimizer, settings: FitSettings, total_steps: int) -> OneCycleLR:
    """Return the schedule of the public recipe: up by a cosine, then down by one."""
    warm_up = settings.training.warmup_fraction
    while warm_up * total_steps == 1:  # a warm-up of exactly one step makes torch divide by zero
        warm_up = math.nextafter(warm_up, 0.0)
    return OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        total_steps=total_steps,
        pct_start=warm_up,
        div_factor=settings.div_factor,
        cycle_momentum=settings.cycle_momentum,
    )


def warmup_stable_decay(
    optimizer: torch.optim.Optimizer, settings: FitSettings, total_steps: int
) -> LambdaLR:
    """Return a schedule that rises linearly, stays at the peak, and falls linearly over the last steps.

    The first step's rate is above zero, and so is the last one's.
    """
    training = settings.training
    up = max(1, round(training.warmup_fraction * total_steps))
    down = max(1, round(training.decay_fraction * total_steps))

    def factor(step: int) -> float:
        return max(0.0, min((step + 1) / up, 1.0, (total_steps - step) / down))

    return LambdaLR(optimizer, factor)
