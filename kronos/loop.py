"""The one training loop: evaluate -> save -> stop? -> step -> report."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kronos.data.windows import epoch_order
from kronos.errors import NotAvailable, UserError
from kronos.fit_plan import FitSettings, one_cycle, plan
from kronos.objectives import Objective
from kronos.runtime import Runtime
from kronos.training_state import LoopState, clear_leftovers, load_last, save_best, save_last

Report = Callable[[int, dict[str, float]], None]
Progress = Callable[[int, int, dict[str, float]], None]


class WindowSource(Protocol):
    """The part of `data.windows.Windows` that the loop reads: batch(indices, epoch) is a pure function."""

    def __len__(self) -> int: ...
    def batch(self, indices: np.ndarray, epoch: int | None) -> Any: ...


class TrainingStopped(UserError):
    """A loss or gradient that is not finite; the optimiser has not stepped and nothing was saved after it."""

    def __init__(self, message: str, step: int, learning_rate: float, windows: list[int]) -> None:
        super().__init__(message)
        self.step, self.learning_rate, self.windows = step, learning_rate, windows


@dataclass(frozen=True)
class FitResult:
    """`best_step` 0 means that no training step improved on the weights that came in.

    `curve` has one entry an evaluation (and no times, so that equal runs have equal curves), `learning_rates`
    [step, rate] pairs, `seconds` the parts data, step, evaluate, save and their total, over all sessions.
    `resumed_from` is None for a run made in one go.
    """

    best_value: float | None
    best_step: int | None
    curve: list[dict[str, float]]
    learning_rates: list[list[float]]
    seconds: dict[str, float]
    windows_per_second: float
    steps: int
    resumed_from: int | None
    interrupted: bool
    stopped_early: bool


def fit(
    model: nn.Module,
    objective: Objective,
    train: WindowSource,
    val: WindowSource,
    *,
    settings: FitSettings,
    runtime: Runtime,
    folder: Path,
    report: Report,
    progress: Progress | None = None,
    resume: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
    before_save: Callable[[], None] = lambda: None,
) -> FitResult:
    """Train `model` in place; the best weights by val_loss are in folder/checkpoints/best_model.

    The weights that came in are evaluated too, as step 0. `report(step, metrics)` is called for each training
    interval and each evaluation, always before the checkpoint of that step; `before_save` is called when a
    checkpoint is about to take its name, so that what was reported is safe first. With `resume` the run goes on
    from folder/checkpoints/last where there is one. `stop_requested` is polled at each step and each validation
    batch: when true, the run is saved and ends with `interrupted`. Dropout draws from torch's global generator:
    seed it before the model is built.

    Raises UserError for empty windows, a checkpoint of other settings, a disk that refuses; TrainingStopped for
    a loss or gradient that is not finite.
    """
    for name, windows in (("training", train), ("validation", val)):
        if len(windows) == 0:
            raise UserError(f"{name} has no window: give it a longer range or a shorter lookback")
    if runtime.world != 1:
        raise NotAvailable(f"training in {runtime.world} processes is not available yet: use one process")
    run = _Run(model, objective, train, val, settings, runtime, Path(folder), report, progress)
    run.stop_requested, run.before_save = stop_requested, before_save
    clear_leftovers(run.checkpoints)
    resumed_from = run.restore() if resume and run.last.exists() else None
    interrupted = run.go()
    return run.result(resumed_from, interrupted)


class _Run:
    """One call of `fit`; what must survive a kill is in `self.state`."""

    stop_requested: Callable[[], bool]
    before_save: Callable[[], None]

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        train: WindowSource,
        val: WindowSource,
        settings: FitSettings,
        runtime: Runtime,
        folder: Path,
        report: Report,
        progress: Progress | None,
    ) -> None:
        self.model, self.objective, self.train, self.val = model.to(runtime.device), objective, train, val
        self.settings, self.runtime, self.report, self.progress = settings, runtime, report, progress
        self.checkpoints = folder / "checkpoints"
        self.last = self.checkpoints / "last"
        self.plan = plan(settings, len(train))
        self.state = LoopState(seconds={"data": 0.0, "step": 0.0, "evaluate": 0.0, "save": 0.0, "total": 0.0})
        self.saved_step = -1
        self.stopping = False
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,  # elementwise, so it repeats bit for bit
        )
        self.scheduler = one_cycle(self.optimizer, settings, self.plan.total_steps)
        self.order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # (epoch, its windows)
        scored = min(settings.val_windows, len(val))
        self.val_windows = epoch_order(len(val), scored, settings.seed, None)
        self.train_eval_windows = epoch_order(
            len(train), min(settings.train_eval_windows, scored, len(train)), settings.seed, None
        )

    def restore(self) -> int:
        """Go on from `last`; returns its step."""
        self.state = load_last(
            self.last,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            settings_key=self.settings.settings_key,
        )
        best = self.checkpoints / "best_model"
        if self.state.best_step is not None and not best.exists():
            raise UserError(f"{best} is gone, so the run in {self.last} cannot go on: train anew")
        self.saved_step = self.state.step
        return self.state.step

    def go(self) -> bool:
        """Run to the end; True when it was asked to stop before."""
        state, settings = self.state, self.settings
        save_steps = math.ceil(settings.save_windows / self.plan.effective_batch)
        before, began = state.seconds["total"], time.perf_counter()
        self.model.train()
        while True:
            boundary = state.step % self.plan.steps_per_epoch == 0
            if boundary and state.evaluated_step != state.step:
                self._evaluate()
            stop = self._asked_to_stop()
            due = boundary or stop or bool(save_steps and state.step % save_steps == 0)
            state.seconds["total"] = before + time.perf_counter() - began
            if due and self.saved_step != state.step:
                self._save()
            if self._complete() or self._out_of_patience() or stop:
                break
            self._step()
            if state.step % settings.log_interval == 0 or state.step % self.plan.steps_per_epoch == 0:
                self._report_interval()
            elif self.progress:
                self.progress(state.step, self.plan.total_steps, {})
        state.seconds["total"] = before + time.perf_counter() - began
        return stop and not (self._complete() or self._out_of_patience())

    def result(self, resumed_from: int | None, interrupted: bool) -> FitResult:
        state = self.state
        busy = state.seconds["data"] + state.seconds["step"]
        return FitResult(
            best_value=state.best_value,
            best_step=state.best_step,
            curve=state.curve,
            learning_rates=state.learning_rates,
            seconds=state.seconds,
            windows_per_second=state.windows / busy if busy else 0.0,
            steps=state.step,
            resumed_from=resumed_from,
            interrupted=interrupted,
            stopped_early=not interrupted and not self._complete(),
        )

    def _asked_to_stop(self) -> bool:
        """Once asked, always: an evaluation given up must not be followed by a step."""
        self.stopping = self.stopping or self.stop_requested()
        return self.stopping

    def _complete(self) -> bool:
        return self.state.step == self.plan.total_steps == self.state.evaluated_step

    def _out_of_patience(self) -> bool:
        patience = self.settings.early_stopping_patience
        return bool(patience) and self.state.evaluations_since_best >= patience

    def _evaluate(self) -> None:
        """Score validation and the training subset; keep the best weights. Given up when asked to stop."""
        state = self.state
        with self._clock("evaluate"):
            metrics = self._score("validation", self.val, self.val_windows)
            train_metrics = metrics and self._score(
                "the training subset", self.train, self.train_eval_windows
            )
        if not metrics or not train_metrics:
            return
        value = metrics["val_loss"]
        metrics["train_eval_loss"] = train_metrics["val_loss"]
        if state.best_value is None or value < state.best_value:
            state.best_value, state.best_step, state.evaluations_since_best = value, state.step, 0
            with self._clock("save"):
                save_best(self.checkpoints / "best_model", self.model, state.step)
        else:
            state.evaluations_since_best += 1
        state.evaluated_step = state.step
        entry = {"step": state.step, "epoch": state.step / self.plan.steps_per_epoch, **metrics}
        if state.epoch_windows:
            entry["train_loss"] = state.epoch_loss / state.epoch_windows
        state.epoch_loss, state.epoch_windows = 0.0, 0
        state.curve.append(entry)
        self.report(state.step, metrics)
        if self.progress:
            self.progress(state.step, self.plan.total_steps, metrics)

    def _score(self, what: str, source: WindowSource, windows: np.ndarray) -> dict[str, float] | None:
        """Means over the windows, or None when asked to stop on the way."""
        size = self.settings.eval_batch_size or 2 * self.settings.batch_size  # fits: it keeps no gradients
        totals: dict[str, tuple[Tensor, float]] = {}
        losses: list[Tensor] = []
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(windows), size):
                if self._asked_to_stop():
                    return None
                batch = self._to_device(source.batch(windows[start : start + size], None))
                with self.runtime.autocast():
                    score = self.objective.score(self.model, batch)
                losses.append(score["val_loss"][0])
                for name, (total, count) in score.items():
                    old = totals.get(name)
                    totals[name] = (old[0] + total, old[1] + count) if old else (total, count)
        self.model.train()
        for place, loss in enumerate(torch.stack(losses).tolist()):
            if not math.isfinite(loss):
                some = windows[place * size : (place + 1) * size]
                raise self._stopped(f"the loss of {what} is {loss}", some)
        return {name: _mean(total, count) for name, (total, count) in totals.items()}

    def _save(self) -> None:
        with self._clock("save"):
            save_last(
                self.last,
                model=self.model,
                optimizer=self.optimizer,
                scheduler=self.scheduler,
                state=self.state,
                settings_key=self.settings.settings_key,
                before_rename=self.before_save,
            )
        self.saved_step = self.state.step

    def _step(self) -> None:
        """One optimiser step over the next windows of the epoch."""
        state, settings, size = self.state, self.settings, self.settings.batch_size
        epoch, place = divmod(state.step, self.plan.steps_per_epoch)
        if self.order[0] != epoch:
            order = epoch_order(len(self.train), self.plan.windows_per_epoch, settings.seed, epoch)
            self.order = (epoch, order)
        effective = self.plan.effective_batch
        windows = self.order[1][place * effective : (place + 1) * effective]
        sums: Tensor | None = None
        names: list[str] = []
        for start in range(0, len(windows), size):
            part = windows[start : start + size]
            with self._clock("data"):
                batch = self._to_device(self.train.batch(part, epoch))
            with self._clock("step"):
                with self.runtime.autocast():
                    loss, parts = self.objective.loss(self.model, batch)
                share = len(part) / len(windows)
                (loss * share).backward()
                names = ["train_loss", *parts]
                values = torch.stack([loss.detach(), *(value.detach() for value in parts.values())]) * share
                sums = values if sums is None else sums + values
        assert sums is not None
        state.learning_rate = self.optimizer.param_groups[0]["lr"]
        with self._clock("step"):
            norm = nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm or math.inf)
            grad_norm, loss_value, *rest = torch.cat((norm.reshape(1), sums)).tolist()  # the one wait
            if not math.isfinite(loss_value) or not math.isfinite(grad_norm):
                raise self._stopped(f"train_loss is {loss_value}, gradient norm {grad_norm}", windows)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad(set_to_none=True)
        count = len(windows)
        state.step += 1
        state.windows += count
        state.epoch_loss += loss_value * count
        state.epoch_windows += count
        for name, number in zip((*names, "grad_norm"), (loss_value, *rest, grad_norm), strict=True):
            state.interval[name] = state.interval.get(name, 0.0) + number * count
        state.interval_windows += count

    def _report_interval(self) -> None:
        """Means since the last report, each window weighing the same; the rate is that of the step just made."""
        state = self.state
        metrics = {name: total / state.interval_windows for name, total in state.interval.items()}
        metrics |= {
            "learning_rate": state.learning_rate,
            "log10_learning_rate": math.log10(state.learning_rate),
            "windows_per_second": state.interval_windows / state.interval_seconds,
            "epoch": state.step / self.plan.steps_per_epoch,
        }
        state.interval, state.interval_windows, state.interval_seconds = {}, 0, 0.0
        state.learning_rates.append([state.step, state.learning_rate])
        self.report(state.step, metrics)
        if self.progress:
            self.progress(state.step, self.plan.total_steps, metrics)

    def _to_device(self, batch: Any) -> Any:
        if self.runtime.device.type == "cpu":
            return batch
        return type(batch)(*(value.to(self.runtime.device, non_blocking=True) for value in batch))

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        passed = time.perf_counter() - began
        self.state.seconds[part] += passed
        if part in ("data", "step"):
            self.state.interval_seconds += passed

    def _stopped(self, what: str, windows: np.ndarray) -> TrainingStopped:
        step = self.state.step + 1
        rate = self.optimizer.param_groups[0]["lr"]
        some = ", ".join(str(window) for window in windows[:8]) + (", ..." if len(windows) > 8 else "")
        kept = (
            f"the checkpoint of step {self.saved_step} is whole"
            if self.last.exists()
            else "nothing was saved"
        )
        return TrainingStopped(
            f"step {step}: {what}, at learning rate {rate:.3g}, windows {some}; try a lower learning rate or look "
            f"at these windows' bars; {kept}",
            step,
            rate,
            [int(window) for window in windows],
        )


def _mean(total: Tensor, count: float) -> float:
    """A histogram of ids becomes the share of ids in use, a sum its mean."""
    return (total > 0).double().mean().item() if total.ndim else total.item() / count
