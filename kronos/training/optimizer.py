"""AdamW over the trainable parameters, and the learning-rate schedules."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from kronos.training.layers import layers_of
from kronos.training.settings import FitSettings
from kronos.training.sharding import SCALE, by_kind
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
        [part for group in groups for part in _by_layer(model, group, settings)],
        lr=settings.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        weight_decay=training.adam_weight_decay,
        fused=True,
    )


def _by_layer(model: nn.Module, group: dict[str, Any], settings: FitSettings) -> list[dict[str, Any]]:
    """Split a group into those of the layers, from the top down, each with its share of the learning rate."""
    decay, layers = settings.training.layer_decay, layers_of(model)
    parts: dict[float, list[nn.Parameter]] = {}
    layer = {parameter: layers[name] for name, parameter in model.named_parameters()}
    for parameter in group["params"]:
        parts.setdefault(decay ** layer[parameter], []).append(parameter)
    return [
        {**group, "params": parts[scale], "lr": settings.learning_rate * scale, SCALE: scale}
        for scale in sorted(parts, reverse=True)
    ]


def base_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the present learning rate of the top layer."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group[SCALE])


def load_schedule(scheduler: LRScheduler, state: dict[str, Any]) -> None:
    """Restore the place in the schedule, for an optimizer with other groups too; its rates are restored before."""
    own = scheduler.state_dict()
    of_groups: dict[str, Any] = {name: own[name] for name in ("base_lrs", "lr_lambdas") if name in own}
    rates = [group["lr"] for group in scheduler.optimizer.param_groups]
    scheduler.load_state_dict({**state, **of_groups, "_last_lr": rates})


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
        max_lr=[settings.learning_rate * group[SCALE] for group in optimizer.param_groups],
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
