"""One optimiser step: micro-batches, gradients summed over the ranks, a check that all is finite, AdamW."""

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

MOST_OVERFLOWS = 20  # float16 steps in a row that may be skipped
GROW_AFTER = 2000  # good float16 steps after which the scale doubles
Clock = Callable[[str], AbstractContextManager]


class Step(NamedTuple):
    """What a step came to: means over all its windows; `skipped` where float16 overflowed."""

    values: dict[str, float]
    finite: bool
    skipped: bool
    stop: bool


class Stepper:
    """Model, objective and optimiser of one rank."""

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

    def step(self, batches: Iterator[tuple[Part, Any]], state: LoopState, clock: Clock, stop: bool) -> Step:
        """Make one step, or none where a number is not finite; `stop` is this rank's wish, told to all."""
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
                scale = state.scale if self.scaled else 1.0
                (loss * (part.of_step * scale)).backward()
                names = ["train_loss", *parts]
                values = torch.stack([loss.detach(), *(value.detach() for value in parts.values())])
                values = values.float() * part.of_step
                sums = values if sums is None else sums + values
        assert sums is not None
        with clock("step"):
            if between_ranks:
                between_ranks(self.model, None)
            self.ranks.add_gradients(self.parameters)
            sums = self.ranks.add(torch.cat((sums, sums.new_full((1,), float(stop)))))
            if self.scaled:
                for parameter in self.parameters:
                    if parameter.grad is not None:
                        parameter.grad /= state.scale
            norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm or math.inf)
            grad_norm, *numbers, stops = torch.cat((norm.reshape(1), sums)).tolist()  # the one wait
            values_by_name = dict(zip((*names, "grad_norm"), (*numbers, grad_norm), strict=True))
            finite = math.isfinite(numbers[0]) and math.isfinite(grad_norm)
            if finite or self.scaled:
                self._update(finite, state)
            self.optimizer.zero_grad(set_to_none=True)
        return Step(values_by_name, finite, self.scaled and not finite, stops > 0)

    def _update(self, finite: bool, state: LoopState) -> None:
        """Let the optimiser step, or halve float16's scale; the schedule goes on in either case."""
        if finite:
            self.optimizer.step()
            state.overflows_in_a_row = 0
            state.steps_since_overflow += 1
            if self.scaled and state.steps_since_overflow % GROW_AFTER == 0:
                state.scale *= 2
        else:
            state.overflows += 1
            state.overflows_in_a_row += 1
            state.steps_since_overflow = 0
            state.scale /= 2
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # a step skipped on purpose
        self.scheduler.step()


def out_of_memory(settings: FitSettings, world: int, device: str) -> UserError:
    """What to change when a step does not fit, keeping the effective batch."""
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
