"""One optimizer step: micro-batches, gradients summed over the ranks, a check for finite values, AdamW."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kronos.distributed.collectives import Collectives
from kronos.distributed.device import Runtime
from kronos.training.averaging import AveragedWeights
from kronos.training.checkpoint import LoopState
from kronos.training.dataloader import Part
from kronos.training.layers import GradualUnfreezing
from kronos.training.optimizer import adamw, load_schedule, schedule
from kronos.training.settings import FitSettings, Plan
from kronos.training.sharding import by_kind, clip_gradients, move_state, shard_blocks
from kronos.utils.errors import UserError

MOST_OVERFLOWS = 20  # float16 steps in a row that may be skipped
Clock = Callable[[str], AbstractContextManager]


class Step(NamedTuple):
    """Result of one step: means over all its windows; `skipped` where a float16 gradient overflowed."""

    values: dict[str, float]
    finite: bool
    skipped: bool
    stop: bool


class Stepper:
    """Model, objective and optimizer of one rank; the averaged weights where the settings ask for them."""

    def __init__(
        self,
        model: nn.Module,
        objective: Any,
        settings: FitSettings,
        plan: Plan,
        runtime: Runtime,
        ranks: Collectives,
    ) -> None:
        self.model, self.objective, self.settings = model, objective, settings
        self.runtime, self.ranks = runtime, ranks
        self.total_steps = plan.total_steps
        decay = settings.training.ema_decay
        self.averaged = AveragedWeights(model, decay) if decay else None
        self._make_optimizer()
        every = settings.training.unfreeze_every
        self.unfreezing = GradualUnfreezing(model, every, plan.steps_per_epoch) if every else None
        self.loss = torch.compile(objective.loss) if settings.training.compile else objective.loss
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)

    def _make_optimizer(self) -> None:
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.whole, _ = by_kind(self.parameters)
        self.optimizer = adamw(self.model, self.settings)
        self.scheduler = schedule(self.optimizer, self.settings, self.total_steps)

    def shard(self) -> None:
        """Shard the model's blocks over the ranks, and the averaged weights' and the optimizer's state with them."""
        parameters, optimizer, scheduler = self.parameters, self.optimizer, self.scheduler
        shard_blocks(self.model, self.runtime.device, self.ranks.world)
        if self.averaged:
            shard_blocks(self.averaged.model, self.runtime.device, self.ranks.world)
            self.averaged.follow(self.model)
        self._make_optimizer()
        move_state(optimizer, parameters, self.optimizer, self.parameters)
        load_schedule(self.scheduler, scheduler.state_dict())

    def step(self, batches: Iterator[tuple[Part, Any]], state: LoopState, clock: Clock, stop: bool) -> Step:
        """Make one step, or none where a number is not finite; `stop` is this rank's request, sent to all ranks."""
        if self.unfreezing:
            self.unfreezing.before_step(state.step)
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
                    between_ranks(
                        self.model, lambda mean, share=share: self.ranks.differentiable_sum(mean * share)
                    )
                with self.runtime.autocast():
                    loss, parts = self.loss(self.model, batch)
                self.scaler.scale(loss * part.of_step).backward()
                names = ["train_loss", *parts]
                values = torch.stack([loss.detach(), *(value.detach() for value in parts.values())])
                values = values.float() * part.of_step
                sums = values if sums is None else sums + values
        assert sums is not None
        with clock("step"):
            if between_ranks:
                between_ranks(self.model, None)
            self.ranks.sum_gradients(self.whole)  # FSDP has summed those of sharded blocks
            sums = self.ranks.all_reduce(torch.cat((sums, sums.new_full((1,), float(stop)))))
            self.scaler.unscale_(self.optimizer)
            norm = clip_gradients(self.parameters, self.settings.clip_norm or math.inf)
            grad_norm, *numbers, stops = torch.cat((norm.reshape(1), sums)).tolist()  # the only host sync
            values_by_name = dict(zip((*names, "grad_norm"), (*numbers, grad_norm), strict=True))
            finite = math.isfinite(numbers[0]) and math.isfinite(grad_norm)
            overflow = self.scaler.is_enabled() and not math.isfinite(grad_norm)
            if overflow:
                state.overflows += 1
                state.overflows_in_a_row += 1
            else:
                state.overflows_in_a_row = 0
            if finite or overflow:
                self.scaler.step(self.optimizer)  # skips the optimizer where the gradient overflowed
                self.scaler.update()
                self.scheduler.step()
            if self.averaged and finite and not overflow:
                self.averaged.update(state.step - state.overflows)
            self.optimizer.zero_grad(set_to_none=True)
        return Step(values_by_name, finite, overflow, stops > 0)


def out_of_memory(settings: FitSettings, world: int, device: str) -> UserError:
    """Make the error for a step that does not fit in memory: which settings keep the effective batch."""
    batch, accumulated = settings.training.batch_size, settings.training.accumulation_steps
    effective = batch * accumulated * world
    said = f"{'CUDA' if device == 'cuda' else device} out of memory at batch_size {batch}"
    smaller = max((size for size in range(1, batch // 2 + 1) if batch % size == 0), default=0)
    if not smaller:
        return UserError(f"{said}: use a smaller model_preset or a shorter lookback_window")
    steps = accumulated * (batch // smaller)
    return UserError(
        f"{said}: use batch_size={smaller} with accumulation_steps={steps}, which keeps the effective batch of "
        f"{effective}, or a smaller model_preset (accumulation_steps alone does not save memory)"
    )
