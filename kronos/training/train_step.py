"""One optimizer step: micro-batches, gradients summed over the ranks, a check for finite values, AdamW."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kronos.distributed.collectives import Collectives
from kronos.distributed.device import Runtime
from kronos.training.checkpoint import LoopState
from kronos.training.dataloader import Part
from kronos.training.optimizer import adamw, one_cycle
from kronos.training.settings import FitSettings
from kronos.utils.errors import UserError

MOST_OVERFLOWS = 20  # skipped float16 steps in a row after which training stops
Clock = Callable[[str], AbstractContextManager]


class Step(NamedTuple):
    """Result of a step. `values` are means over all its windows, `skipped` is true after an overflow in float16,
    `stop` where a rank was asked to stop.
    """

    values: dict[str, float]
    finite: bool
    skipped: bool
    stop: bool


class Stepper:
    """Model, objective, optimizer, schedule and gradient scaler of one rank."""

    def __init__(
        self,
        model: nn.Module,
        objective: Any,
        settings: FitSettings,
        total_steps: int,
        runtime: Runtime,
        ranks: Collectives,
    ) -> None:
        self.model, self.objective, self.settings = model, objective, settings
        self.runtime, self.ranks = runtime, ranks
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = adamw(model, settings)
        self.scheduler = one_cycle(self.optimizer, settings, total_steps)
        self.loss = torch.compile(objective.loss) if settings.training.compile else objective.loss
        self.scaled = runtime.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=self.scaled)

    def step(self, batches: Iterator[tuple[Part, Any]], state: LoopState, clock: Clock, stop: bool) -> Step:
        """Make one step, or none where a value is not finite. `stop`: this rank was asked to stop."""
        sums: Tensor | None = None
        names: list[str] = []
        between_ranks = getattr(self.objective, "between_ranks", None) if self.ranks.world > 1 else None
        while True:
            with clock("data"):
                part, batch = next(batches, (None, None))
            if part is None:
                break
            with clock("step"):
                if between_ranks:
                    share = part.of_batch
                    between_ranks(self.model, lambda mean, share=share: self.ranks.sum_of(mean * share))
                with self.runtime.autocast():
                    loss, parts = self.loss(self.model, batch)
                self.scaler.scale(loss * part.of_step).backward()
                names = ["train_loss", *parts]
                shares = torch.stack([loss.detach(), *(value.detach() for value in parts.values())])
                shares = shares.float() * part.of_step
                sums = shares if sums is None else sums + shares
        assert sums is not None
        with clock("step"):
            if between_ranks:
                between_ranks(self.model, None)
            has_gradient = [float(parameter.grad is not None) for parameter in self.parameters]
            self.ranks.add_gradients(self.parameters)
            counts = self.ranks.add(torch.cat((sums, sums.new_tensor([float(stop), *has_gradient]))))
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm or math.inf)
            # The only synchronisation of a step with the device.
            grad_norm, *numbers = torch.cat((norm.reshape(1), counts)).tolist()
            means, (stops, *ranks_with_gradient) = numbers[: len(names)], numbers[len(names) :]
            values = dict(zip((*names, "grad_norm"), (*means, grad_norm), strict=True))
            for parameter, count in zip(self.parameters, ranks_with_gradient, strict=True):
                if not count:  # the zeros of `add_gradients`: AdamW would decay this parameter
                    parameter.grad = None
            finite = math.isfinite(values["train_loss"]) and math.isfinite(grad_norm)
            if finite or self.scaled:
                self._update(finite, state)
            self.optimizer.zero_grad(set_to_none=True)
        return Step(values, finite, self.scaled and not finite, stops > 0)

    def _update(self, finite: bool, state: LoopState) -> None:
        """Make the optimizer's step, or skip it after an overflow in float16; the schedule advances in both cases."""
        if finite:
            self.scaler.step(self.optimizer)
            state.overflows_in_a_row = 0
        else:
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer.step()  # changes nothing without gradients; the scheduler warns where no step is made
            state.overflows += 1
            state.overflows_in_a_row += 1
        self.scaler.update()
        self.scheduler.step()


def out_of_memory(settings: FitSettings, world: int, device: str) -> UserError:
    """Return the error for a step that does not fit, with settings that keep the effective batch."""
    batch, accumulated = settings.training.batch_size, settings.training.accumulation_steps
    effective = batch * accumulated * world
    problem = f"{'CUDA' if device == 'cuda' else device} out of memory at batch_size {batch}"
    smaller = max((size for size in range(1, batch // 2 + 1) if batch % size == 0), default=0)
    if not smaller:
        return UserError(f"{problem}: use a smaller model_preset or a shorter lookback_window")
    steps = accumulated * (batch // smaller)
    return UserError(
        f"{problem}: use batch_size={smaller} with accumulation_steps={steps}, which keeps the effective batch of "
        f"{effective}, or a smaller model_preset (accumulation_steps alone does not save memory)"
    )
