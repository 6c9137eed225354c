"""What a run of the loop is asked to do, and the arithmetic that follows from it.

Budgets count windows. An epoch is min(train_windows, windows there are) windows, each at most once, in steps of
the effective batch (batch_size x accumulation_steps); the last step of an epoch takes what is left, so it may be
smaller, and every window weighs the same within its step.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FitSettings:
    """`clip_norm` 0 is off, `save_windows` 0 saves at epoch ends only, `eval_batch_size` 0 is 2 x batch_size.

    `settings_key` names everything that must be equal for a run to go on from `last`. `cycle_momentum` is what
    the public scripts do without saying so (OneCycleLR's default): beta1 then runs 0.95 -> 0.85 -> 0.95 and
    `beta1` is not used. `train_eval_windows` is the size of the training subset that is scored like validation.
    `decay_norms_biases` false leaves vectors (norms, biases) out of the weight decay. `prefetch` is the number of
    threads that gather batches ahead; 0 gathers them in the loop.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    accumulation_steps: int = 1
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip_norm: float = 3.0
    train_windows: int = 100_000
    val_windows: int = 20_000
    early_stopping_patience: int = 0
    log_interval: int = 100
    seed: int = 100
    pct_start: float = 0.03
    div_factor: float = 10.0
    settings_key: str = ""
    save_windows: int = 0
    eval_batch_size: int = 0
    train_eval_windows: int = 1_000
    cycle_momentum: bool = False
    decay_norms_biases: bool = True
    compile: bool = False
    prefetch: int = 0


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
    windows = min(settings.train_windows, n_train)
    effective = settings.batch_size * settings.accumulation_steps * world
    steps = math.ceil(windows / effective)
    text = (
        f"effective batch {effective} = batch_size {settings.batch_size} x {world} process(es) x "
        f"{settings.accumulation_steps} accumulated; {windows} of {n_train} windows an epoch = {steps} steps; "
        f"{settings.epochs} epochs = {steps * settings.epochs} steps"
    )
    return Plan(windows, effective, steps, steps * settings.epochs, text)
