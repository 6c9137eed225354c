"""Settings of one training run, and the number of steps that follows from them.

Budgets count windows. An epoch is min(n_train_iter, available windows) windows, each at most once, in steps of
the effective batch (batch_size x processes x accumulation_steps). The last step of an epoch takes the remaining
windows, so it may be smaller; every window weighs the same within its step.
"""

import math
from dataclasses import dataclass

from kronos.config.sections import TrainingConfig
from kronos.data.window_order import WindowOrder


@dataclass(frozen=True)
class FitSettings:
    """The training section of the configuration, and what differs between the models or is fixed by the recipe.

    `clip_norm` 0 is off, `eval_batch_size` 0 means 2 x batch_size. A run is resumed only where `settings_key` equals
    that of the checkpoint. `train_eval_windows` is the size of the training subset that is scored like validation.
    `cycle_momentum` is OneCycleLR's default, which the public scripts use: beta1 then runs 0.95 -> 0.85 -> 0.95 and
    `adam_beta1` is ignored.
    """

    training: TrainingConfig
    learning_rate: float
    clip_norm: float
    settings_key: str = ""
    div_factor: float = 10.0
    eval_batch_size: int = 0
    train_eval_windows: int = 1_000
    cycle_momentum: bool = False


@dataclass(frozen=True)
class Plan:
    """Numbers of windows and steps of a run; `text` explains them to the user."""

    windows_per_epoch: int
    effective_batch: int
    steps_per_epoch: int
    total_steps: int
    text: str


def plan(settings: FitSettings, order: WindowOrder, world: int = 1) -> Plan:
    """Return the numbers of steps for the epochs of `order` and `world` processes."""
    training = settings.training
    windows = order.per_epoch
    effective = training.batch_size * training.accumulation_steps * world
    steps = math.ceil(windows / effective)
    text = (
        f"effective batch {effective} = batch_size {training.batch_size} x {world} process(es) x "
        f"{training.accumulation_steps} accumulated; {windows} of {order.n_windows} windows per epoch = {steps} "
        f"steps; {training.epochs} epochs = {steps * training.epochs} steps{order.text and f'; {order.text}'}"
    )
    return Plan(windows, effective, steps, steps * training.epochs, text)
