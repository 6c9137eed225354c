"""The settings of a training run, and the number of steps that follows from them.

Budgets count windows. An epoch is min(n_train_iter, available windows) windows, each at most once, in steps of
the effective batch (batch_size x accumulation_steps); the last step of an epoch takes what is left, so it may be
smaller, and every window weighs the same within its step.
"""

import math
from dataclasses import dataclass

from kronos.config.sections import TrainingConfig


@dataclass(frozen=True)
class FitSettings:
    """The training section of the configuration, and what differs between the two models.

    Args:
        training: epochs, batch size, optimizer, budgets and the rest, under the names of the configuration.
        learning_rate: the peak rate of this model.
        clip_norm: largest norm of the gradient; 0 is off.
        settings_key: names everything that must be equal for a run to be resumed from `last`.
        div_factor: the schedule starts at learning_rate / div_factor.
        eval_batch_size: windows per validation batch per process; 0 means 2 x batch_size.
        train_eval_windows: size of the training subset that is scored like validation.
        cycle_momentum: what the public scripts do by OneCycleLR's default: beta1 then runs 0.95 -> 0.85 -> 0.95 and
            `adam_beta1` is not used.
    """

    training: TrainingConfig
    learning_rate: float
    clip_norm: float = 3.0
    settings_key: str = ""
    div_factor: float = 10.0
    eval_batch_size: int = 0
    train_eval_windows: int = 1_000
    cycle_momentum: bool = False


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a run, to be printed before it starts."""

    windows_per_epoch: int
    effective_batch: int
    steps_per_epoch: int
    total_steps: int
    text: str


def plan(settings: FitSettings, n_train: int, world: int = 1) -> Plan:
    """How many steps the settings make of `n_train` windows."""
    training = settings.training
    windows = min(training.n_train_iter, n_train)
    effective = training.batch_size * training.accumulation_steps * world
    steps = math.ceil(windows / effective)
    text = (
        f"effective batch {effective} = batch_size {training.batch_size} x {world} process(es) x "
        f"{training.accumulation_steps} accumulated; {windows} of {n_train} windows an epoch = {steps} steps; "
        f"{training.epochs} epochs = {steps * training.epochs} steps"
    )
    return Plan(windows, effective, steps, steps * training.epochs, text)
