"""The training loop of all models: evaluate -> save -> stop? -> step -> report."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kronos.data.window_order import epoch_order
from kronos.distributed.collectives import Collectives
from kronos.distributed.device import (
    Runtime,
    forget_peak_memory,
    generator,
    is_out_of_memory,
    peak_memory,
)
from kronos.training.checkpoint import (
    LoopState,
    TrainingObjects,
    clear_leftovers,
    load_last,
    save_best,
    save_last,
    share_state,
)
from kronos.training.dataloader import Feed, WindowSource, training_order
from kronos.training.objectives import Objective
from kronos.training.optimizer import base_rate
from kronos.training.result import FitResult, TrainingStopped, is_better
from kronos.training.settings import FitSettings, plan
from kronos.training.sharding import gathered
from kronos.training.train_step import MOST_OVERFLOWS, Stepper, out_of_memory
from kronos.training.validation import score
from kronos.utils.errors import UserError

ForecastScores = Callable[[nn.Module, Collectives, Callable[[], bool]], dict[str, float] | None]
Report = Callable[[int, dict[str, float]], None]
Progress = Callable[[int, int, dict[str, float]], None]


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
    forecasts: ForecastScores | None = None,
) -> FitResult:
    """Train `model` in place; the best weights are in folder/checkpoints/best_model.

    They are the best ones by val_loss, or with `forecasts` by the figure of forecasts that `early_stopping_metric`
    names. `forecasts(model, ranks, stop)` returns the figures of a model by their names without `val_`, on every rank
    the same, or None after a stop request; those that cannot be computed are left out.

    With `ema_decay` the averaged weights are the ones that are evaluated and kept as the best.
    The initial weights are evaluated too, as step 0. `report(step, metrics)` is called for each training interval
    and each evaluation, always before the checkpoint of that step; `before_save` is called just before a
    checkpoint is renamed, so that reports can be flushed first. With `resume` the run continues from
    folder/checkpoints/last if it exists. `stop_requested` is polled at each step and each validation batch: when
    true, the run is saved and ends with `interrupted`. Dropout draws from torch's global generator: seed it before
    the model is built.

    Raises UserError for empty windows, a checkpoint of other settings, or an error of the disk; TrainingStopped
    for a loss or gradient that is not finite.
    """
    for name, windows in (("training", train), ("validation", val)):
        if len(windows) == 0:
            raise UserError(f"{name} has no window: give it a longer range or a shorter lookback")
    forget_peak_memory(runtime.device)
    run = _Run(model, objective, train, val, settings, runtime, Path(folder), report, progress)
    run.stop_requested, run.before_save, run.forecasts = stop_requested, before_save, forecasts
    try:
        resumed_from = run.start(resume)
        interrupted = run.go()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(settings, runtime.world, runtime.device.type) from error
        raise
    finally:
        run.feed.close()
    return run.result(resumed_from, interrupted)


class _Run:
    """One call of `fit`; the state that is saved for resuming is in `self.state`."""

    stop_requested: Callable[[], bool]
    before_save: Callable[[], None]
    forecasts: ForecastScores | None

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
        fields = self.fields = settings.training
        self.ranks, self.is_rank_zero = Collectives(runtime.rank, runtime.world), runtime.rank == 0
        self.checkpoints = folder / "checkpoints"
        self.last = self.checkpoints / "last"
        order = training_order(train, fields)
        self.plan = plan(settings, order, runtime.world)
        self.state = LoopState(seconds={"data": 0.0, "step": 0.0, "evaluate": 0.0, "save": 0.0, "total": 0.0})
        self.saved_step = -1
        self.stopping = False
        self.stepper = Stepper(model, objective, settings, self.plan, runtime, self.ranks)
        self.scored = self.stepper.averaged.model if self.stepper.averaged else model
        self.training = self._training_objects()
        self.feed = Feed(train, order, settings, self.plan, runtime)
        scored = min(fields.n_val_iter, len(val))
        self.val_windows = epoch_order(len(val), scored, fields.seed, None)
        subset = min(settings.train_eval_windows, scored, len(train))
        self.train_eval_windows = order.fixed(subset)

    def _training_objects(self) -> TrainingObjects:
        stepper = self.stepper
        return TrainingObjects(
            self.model, stepper.optimizer, stepper.scheduler, stepper.scaler, stepper.averaged
        )

    def start(self, resume: bool) -> int | None:
        """Start with rank 0's weights, or resume from its `last`; return the resumed step, None for a new run."""
        step = self._same_state(resume)
        if self.fields.shard and self.ranks.world > 1:
            self.stepper.shard()
            self.training = self._training_objects()
        return step

    def _same_state(self, resume: bool) -> int | None:
        if self.is_rank_zero:
            clear_leftovers(self.checkpoints)
        resume = self.ranks.broadcast_object(resume and self.last.exists())
        if not resume:
            for model in dict.fromkeys((self.model, self.scored)):
                self.ranks.broadcast(model.state_dict().values())
            if not self.is_rank_zero:  # other dropout than rank 0, whose generator the caller has seeded
                purpose = f"rank {self.ranks.rank}"
                torch.manual_seed(generator(self.fields.seed, purpose).initial_seed())
            return None
        random_states: list[dict[str, torch.Tensor]] = []
        if self.is_rank_zero:
            self.state, random_states = load_last(
                self.last, self.training, settings_key=self.settings.settings_key
            )
            best = self.checkpoints / "best_model"
            if self.state.best_step is not None and not best.exists():
                raise UserError(f"{best} is gone, so the run in {self.last} cannot be resumed: train anew")
        self.state = share_state(self.ranks, self.training, self.state, random_states)
        self.saved_step = self.state.step
        return self.state.step

    def go(self) -> bool:
        """Train to the end; return True when the run was stopped before."""
        state, per_epoch = self.state, self.plan.steps_per_epoch
        save_steps = math.ceil(self.fields.save_windows / self.plan.effective_batch)
        before, began = state.seconds["total"], time.perf_counter()
        self.model.train()
        while True:
            boundary = state.step % per_epoch == 0
            if boundary and state.evaluated_step != state.step:
                self._evaluate()
            stop = self._stop_is_requested()
            due = boundary or stop or bool(save_steps and state.step % save_steps == 0)
            state.seconds["total"] = before + time.perf_counter() - began
            if due and self.saved_step != state.step:
                self._save()
            if self._complete() or self._out_of_patience() or stop:
                break
            self._step()
            if state.step % self.fields.log_interval == 0 or state.step % per_epoch == 0:
                self._report_interval()
            elif self.progress:
                self.progress(state.step, self.plan.total_steps, {})
        state.seconds["total"] = before + time.perf_counter() - began
        return stop and not (self._complete() or self._out_of_patience())

    def result(self, resumed_from: int | None, interrupted: bool) -> FitResult:
        state = self.state
        busy = state.seconds["data"] + state.seconds["step"]
        best = [entry["val_loss"] for entry in state.curve if entry["step"] == state.best_step]
        return FitResult(
            best_value=best[0] if best else None,
            best_step=state.best_step,
            curve=state.curve,
            learning_rates=state.learning_rates,
            seconds=state.seconds,
            windows_per_second=state.windows / busy if busy else 0.0,
            peak_memory=peak_memory(self.runtime.device),
            steps=state.step,
            resumed_from=resumed_from,
            interrupted=interrupted,
            stopped_early=not interrupted and not self._complete(),
        )

    def _stop_is_requested(self) -> bool:
        """Return whether to stop. A stop request is latched: no step may follow an aborted evaluation.

        Several ranks stop after a step or an evaluation, where the request is shared between them.
        """
        if self.ranks.world == 1:
            self.stopping = self.stopping or self.stop_requested()
        return self.stopping

    def _complete(self) -> bool:
        return self.state.step == self.plan.total_steps == self.state.evaluated_step

    def _out_of_patience(self) -> bool:
        patience = self.fields.early_stopping_patience
        return bool(patience) and self.state.evaluations_since_best >= patience

    def _evaluate(self) -> None:
        """Score validation and the training subset; save the best weights. Aborted by a stop request."""
        state = self.state
        with self._clock("evaluate"), gathered(self.scored):
            metrics = self._score("validation", self.val, self.val_windows)
            train_metrics = metrics and self._score(
                "the training subset", self.train, self.train_eval_windows
            )
            forecast_metrics = train_metrics and self._score_forecasts()
        if not metrics or not train_metrics or forecast_metrics is None:
            return
        metrics |= {"train_eval_loss": train_metrics["val_loss"], **forecast_metrics}
        chosen_by = self.fields.early_stopping_metric if self.forecasts else "val_loss"
        value = metrics.get(f"val_{chosen_by.removeprefix('val_')}")
        if state.best_step is None or is_better(value, state.best_value, higher=chosen_by == "rank_ic"):
            state.best_value, state.best_step, state.evaluations_since_best = value, state.step, 0
            with self._clock("save"):
                save_best(self.checkpoints / "best_model", self.scored, state.step, self.ranks)
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

    def _score_forecasts(self) -> dict[str, float] | None:
        """Return the figures of forecasts, {} where none are wanted, or None after a stop request."""
        if self.forecasts is None:
            return {}
        alone = self.ranks.world == 1
        stop = self._stop_is_requested if alone else self.stop_requested
        found = self.forecasts(self.scored, self.ranks, stop)
        self.stopping = self.stopping or found is None
        return found and {f"val_{name}": value for name, value in found.items()}

    def _score(self, what: str, source: WindowSource, windows: np.ndarray) -> dict[str, float] | None:
        """Return means over the windows, or None after a stop request."""
        # Twice the training batch fits in memory, because no gradients are kept.
        size = self.settings.eval_batch_size or 2 * self.fields.batch_size
        alone = self.ranks.world == 1
        metrics, wrong = score(
            self.scored, self.objective, source, windows, size, runtime=self.runtime, ranks=self.ranks,
            stop=self._stop_is_requested if alone else self.stop_requested,
        )  # fmt: skip
        if wrong is not None:
            raise self._stopped(f"the loss of {what} is {wrong[0]}", source, wrong[1])
        self.stopping = self.stopping or metrics is None
        return metrics

    def _save(self) -> None:
        with self._clock("save"):
            save_last(
                self.last,
                self.training,
                self.state,
                settings_key=self.settings.settings_key,
                before_rename=self.before_save,
                ranks=self.ranks,
            )
        self.saved_step = self.state.step

    def _step(self) -> None:
        """Make one optimizer step over the next windows of the epoch."""
        state = self.state
        state.learning_rate = base_rate(self.stepper.optimizer)
        windows = self.feed.windows(state.step)
        stop = self.ranks.world > 1 and self.stop_requested()
        step = self.stepper.step(self.feed.batches(state.step), state, self._clock, stop)
        too_many = state.overflows_in_a_row >= MOST_OVERFLOWS
        if too_many or not (step.finite or step.skipped):
            what = f"train_loss is {step.values['train_loss']}, gradient norm {step.values['grad_norm']}"
            if too_many:
                what += f" for {MOST_OVERFLOWS} float16 steps in a row (scale {self.stepper.scaler.get_scale():g})"
            raise self._stopped(what, self.train, windows)
        self.stopping = self.stopping or step.stop
        count = len(windows)
        state.step += 1
        state.windows += count
        if step.skipped:
            return
        state.epoch_loss += step.values["train_loss"] * count
        state.epoch_windows += count
        for name, number in step.values.items():
            state.interval[name] = state.interval.get(name, 0.0) + number * count
        state.interval_windows += count

    def _report_interval(self) -> None:
        """Report means over the windows since the last report, and the learning rate of the last step."""
        state = self.state
        metrics = {name: total / state.interval_windows for name, total in state.interval.items()}
        metrics |= {
            "learning_rate": state.learning_rate,
            "log10_learning_rate": math.log10(state.learning_rate),
            "windows_per_second": state.interval_windows / state.interval_seconds,
            "epoch": state.step / self.plan.steps_per_epoch,
        }
        if self.stepper.scaler.is_enabled():
            metrics |= {"overflows": float(state.overflows)}
        state.interval, state.interval_windows, state.interval_seconds = {}, 0, 0.0
        state.learning_rates.append([state.step, state.learning_rate])
        self.report(state.step, metrics)
        if self.progress:
            self.progress(state.step, self.plan.total_steps, metrics)

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        passed = time.perf_counter() - began
        self.state.seconds[part] += passed
        if part in ("data", "step"):
            self.state.interval_seconds += passed

    def _stopped(self, what: str, source: WindowSource, windows: np.ndarray) -> TrainingStopped:
        step = self.state.step + 1
        rate = base_rate(self.stepper.optimizer)
        describe = getattr(source, "describe", None)
        shown = describe(windows[:3]) if describe else [str(window) for window in windows[:8]]
        some = ", ".join(shown) + (", ..." if len(windows) > len(shown) else "")
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
