"""The one door to Optuna: a study that several processes share, its trials, figures and table.

The study knows nothing of training or tracking: `go` is given the function that makes a trial's values. A trial
whose process died is tried once more; out-of-memory batch sizes are not drawn again; every trial draws from a
generator keyed by (seed, trial number), so that no two machines repeat each other.
"""

import json
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, TrialPruned
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from kronos.report.figures import save_plots
from kronos.stages.search.space import Dimension, Space
from kronos.utils.errors import Pruned, TrackingAway, UserError
from kronos.utils.process_identity import is_gone, this_process

DIRECTIONS: dict[str, Any] = {"val_loss": "minimize", "rank_ic": "maximize", "crps": "minimize"}
DEFINITION = "definition"  # what the study searches, as given by whoever created it
NO_MEMORY = "out_of_memory_batch_size"
PROCESS = "process"
JOIN_SECONDS = 30.0
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Asked:
    """One trial: its number and the values drawn for it."""

    def __init__(self, study: "Study", trial: optuna.Trial) -> None:
        self._study, self._trial = study, trial
        self.number = trial.number
        self.values: dict[str, Any] = study.space.draw(lambda item: _suggest(trial, item))

    def report(self, step: int, value: float) -> None:
        """Tell how the trial does after `step` reports; raises Pruned when it should be given up."""
        if not self._study.prunes:
            return
        self._trial.report(value, step)
        if self._trial.should_prune():
            raise Pruned(f"given up after report {step} of {self._study.reports}, at {value:.5g}")

    def note(self, name: str, value: Any) -> None:
        """Keep a value beside the trial."""
        self._trial.set_user_attr(name, value)

    def out_of_memory(self, batch_size: int) -> None:
        """No trial after this one is given this batch size, or a larger one."""
        before = self._study.get(NO_MEMORY)
        self._study.set(NO_MEMORY, batch_size if before is None else min(before, batch_size))


Objective = Callable[[Asked], Sequence[float]]


class Study:
    """An Optuna study in a storage that others may use at the same time; it is created where it is not there.

    Args:
        storage: an address that SQLAlchemy knows, or `journal:FILE`.
        name: of the study.
        definition: what is searched and from what; a study of that name with another one is refused.
        reports: how many a trial makes; the pruner's largest resource.
    """

    def __init__(
        self, storage: str, name: str, space: Space, definition: dict[str, Any], metrics: Sequence[str], *,
        sampler: str, pruner: str, reports: int, seed: int, n_trials: int, heartbeat: int,
    ) -> None:  # fmt: skip
        self.space, self.metrics, self.reports, self.n_trials = space, tuple(metrics), reports, n_trials
        self.name, self.prunes = name, pruner != "none" and len(metrics) == 1
        self._retry = _quiet(lambda: RetryHeartbeatStaleTrialCallback(max_retry=1))
        self._storage = connect(storage, heartbeat, self._retry)
        self._sampler = _PerTrial(self, sampler, seed, space)
        self._pruner = _pruner(pruner if self.prunes else "none", reports)
        self._mine: set[int] = set()
        self._stopped: BaseException | None = None
        self.created, self.study = self._create(
            json.loads(json.dumps(definition))
        )  # as a storage gives it back

    def _create(self, definition: dict[str, Any]) -> tuple[bool, optuna.Study]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("optuna").setLevel(logging.CRITICAL)  # the stage says it in its own words
        given: dict[str, Any] = {"storage": self._storage, "sampler": self._sampler, "pruner": self._pruner}
        try:
            study = optuna.create_study(
                study_name=self.name, directions=[DIRECTIONS[name] for name in self.metrics], **given
            )
        except DuplicatedStudyError:
            study = optuna.load_study(study_name=self.name, **given)
            until = time.monotonic() + JOIN_SECONDS
            while DEFINITION not in study.user_attrs and time.monotonic() < until and not study.trials:
                time.sleep(0.2)  # whoever creates it is about to say what it is
            there = study.user_attrs.get(DEFINITION, {})
            if there != definition:
                names = [key for key in definition if there.get(key) != definition[key]]
                raise UserError(
                    f"the storage has another study named {self.name}, with another {' and '.join(names)}: give "
                    "another --study-name, or auto, which follows from them"
                ) from None
            return False, study
        study.set_user_attr(DEFINITION, definition)
        return True, study

    def get(self, name: str) -> Any:
        """A value kept with the study, or None."""
        return self.study.user_attrs.get(name)

    def set(self, name: str, value: Any) -> None:
        """Keep a value with the study, for every process that shares it."""
        self.study.set_user_attr(name, value)

    def go(self, objective: Objective, *, n_jobs: int = 1, timeout: float = 0.0, poll: float = 1.0) -> None:
        """Run trials until the study has `n_trials`, whoever made them; waits for those still running elsewhere.

        Trials that fail are FAIL and the search goes on. KeyboardInterrupt ends it; the trials it cut short are
        tried again at the next start.
        """
        end = time.monotonic() + timeout if timeout else None
        while True:
            self._give_up_the_dead()
            finished, running = self.count()
            late = end is not None and time.monotonic() >= end
            left = self.n_trials - finished - running
            if finished >= self.n_trials or late:
                return
            if left <= 0:
                time.sleep(poll)
                continue
            try:
                _quiet(
                    lambda left=left: self.study.optimize(  # type: ignore[misc]
                        lambda trial: self._one(objective, trial), n_trials=left, n_jobs=min(n_jobs, left),
                        timeout=end and max(0.0, end - time.monotonic()), catch=(Exception,),
                        callbacks=[self._stop_when_enough],
                    )
                )  # fmt: skip
            except KeyboardInterrupt:
                self._try_again_later()
                raise
            if self._stopped is not None:
                self._try_again_later()
                raise self._stopped

    def stop(self, error: BaseException) -> None:
        """End the search with an error that no other trial could escape."""
        self._stopped = self._stopped or error
        self.study.stop()

    def _one(self, objective: Objective, trial: optuna.Trial) -> Any:
        self._mine.add(trial.number)
        trial.set_user_attr(PROCESS, this_process())
        try:
            values = objective(Asked(self, trial))
        except Pruned as error:
            trial.set_user_attr("reason", str(error))
            raise TrialPruned(str(error)) from None
        except BaseException as error:
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}"[:2000])
            if isinstance(error, KeyboardInterrupt | TrackingAway):
                self._stopped = error
            else:
                self._mine.discard(trial.number)
            raise
        self._mine.discard(trial.number)
        return tuple(values)

    def _stop_when_enough(self, study: optuna.Study, trial: FrozenTrial) -> None:
        finished, running = self.count()
        if finished + running >= self.n_trials or self._stopped is not None:
            study.stop()

    def count(self) -> tuple[int, int]:
        """(trials that are over, those running); one that is tried again counts once."""
        trials = self.study.get_trials(deepcopy=False)
        again = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
        over = sum(trial.state in FINISHED and trial.number not in again for trial in trials)
        return over, sum(trial.state == TrialState.RUNNING for trial in trials)

    def _give_up_the_dead(self) -> None:
        """Fail the trials of processes that are gone, and queue each for one more try.

        On this machine a look at the process is enough; elsewhere it has to have been silent.
        """
        if isinstance(self._storage, RDBStorage):
            _quiet(lambda: optuna.storages.fail_stale_trials(self.study))
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not is_gone(trial.user_attrs.get(PROCESS)):
                continue
            with self._lock:
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            self._again(trial.number)

    _lock = threading.Lock()

    def _try_again_later(self) -> None:
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number in self._mine and trial.state == TrialState.FAIL:
                self._again(trial.number)
        self._mine.clear()

    def _again(self, number: int) -> None:
        frozen = next(trial for trial in self.study.get_trials() if trial.number == number)
        frozen.user_attrs = {}
        _quiet(lambda: self._retry(self.study, frozen))

    def best(self, count: int) -> list[FrozenTrial]:
        """The best finished trials, best first; with two objectives the Pareto front, by the first one."""
        done = self.study.get_trials(states=(TrialState.COMPLETE,))
        if len(self.metrics) > 1:
            done = self.study.best_trials
        sign = -1 if DIRECTIONS[self.metrics[0]] == "maximize" else 1
        return sorted(done, key=lambda trial: (sign * trial.values[0], trial.number))[:count]

    def state(self, number: int) -> str:
        """RUNNING, COMPLETE, PRUNED, FAIL or WAITING."""
        return str(self.study.get_trials(deepcopy=False)[number].state.name)

    def states(self) -> dict[str, int]:
        """How many trials are in each state."""
        names = [trial.state.name for trial in self.study.get_trials(deepcopy=False)]
        return {name: names.count(name) for name in sorted(set(names))}

    def failures(self) -> list[str]:
        """Why trials failed, in their order."""
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [
            f"trial {trial.number}: {trial.user_attrs.get('reason', 'its process was killed')}"
            for trial in failed
        ]

    def write_table(self, path: Path) -> None:
        """Every trial as a row of a CSV file."""
        attributes = ("number", "state", "value", "params", "user_attrs", "datetime_start", "duration")
        self.study.trials_dataframe(attrs=attributes).to_csv(path, index=False)

    def write_figures(self, folder: Path) -> list[str]:
        """Optuna's figures as PNG files; returns why some were left out."""
        from optuna.visualization import matplotlib as draw

        first = self.metrics[0]
        about: dict[str, Any] = {"target": lambda trial: trial.values[0], "target_name": first}
        figures: dict[str, Callable[[], Any]] = {
            "history": lambda: draw.plot_optimization_history(self.study, **about),
            "importance": lambda: draw.plot_param_importances(self.study, **about),
            "slice": lambda: draw.plot_slice(self.study, **about),
            "contour": lambda: draw.plot_contour(self.study, **about),
            "parallel_coordinates": lambda: draw.plot_parallel_coordinate(self.study, **about),
            "timeline": lambda: draw.plot_timeline(self.study),
        }
        if len(self.metrics) > 1:
            figures["pareto_front"] = lambda: draw.plot_pareto_front(
                self.study, target_names=list(self.metrics)
            )
        elif self.prunes:
            figures["intermediate_values"] = lambda: draw.plot_intermediate_values(self.study)
        return save_plots({name: partial(_quiet, plot) for name, plot in figures.items()}, folder)


def connect(address: str, heartbeat: int, retry: Any = None) -> RDBStorage | JournalStorage:
    """Open a storage, making its tables where it is new; two processes may do so at once."""
    if address.startswith("journal:"):
        return JournalStorage(JournalFileBackend(address.removeprefix("journal:")))
    if "://" not in address:
        raise UserError(
            f"storage {address!r} is no address: expected sqlite:///FILE or postgresql+psycopg2://..."
        )
    sqlite = address.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    for attempt in range(1, 9):
        try:
            return _quiet(
                lambda: RDBStorage(
                    address, engine_kwargs=options, heartbeat_interval=heartbeat, grace_period=3 * heartbeat,
                    heartbeat_stale_trial_callback=retry,
                )
            )  # fmt: skip
        except Exception as error:
            words = str(error)
            # Another process makes the same tables at this moment.
            racing = any(
                part in words.lower() for part in ("already exists", "unique", "duplicate", "locked")
            )
            if not racing or attempt == 8:
                why = (words.splitlines() or [type(error).__name__])[0]
                shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", address)
                driver = "psycopg2" in words or (address[:10] == "postgresql" and "DB access module" in words)
                hint = ": pip install psycopg2-binary" if driver else ""
                raise UserError(
                    f"the storage {shown} cannot be reached: {why}{hint}; check --storage and that its server runs"
                ) from None
            time.sleep(0.1 * attempt + 0.001 * (os.getpid() % 97))
    raise AssertionError("unreachable")


def parent_of(address: str, name: str, key: str) -> Any:
    """A value kept with a study that may not be there: None then."""
    try:
        return optuna.load_study(study_name=name, storage=connect(address, 60)).user_attrs.get(key)
    except KeyError:
        return None


class _PerTrial(BaseSampler):
    """Draws each trial from a sampler seeded by (seed, trial number), and leaves out what ran out of memory."""

    def __init__(self, study: Study, name: str, seed: int, space: Space) -> None:
        self._study, self._name, self._seed = study, name, seed
        self._conditional = any(item.when for item in space.dimensions)
        self._startup = max(4, min(10, study.n_trials // 4))
        self._samplers: dict[int, BaseSampler] = {}

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._samplers:
            seed = (self._seed * 1_000_003 + trial.number) % 2**32
            self._samplers[trial.number] = (
                RandomSampler(seed)
                if self._name == "random"
                else _quiet(
                    lambda: TPESampler(seed=seed, n_startup_trials=self._startup, group=self._conditional)
                )
            )
        return self._samplers[trial.number]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return _quiet(lambda: self._of(trial).infer_relative_search_space(study, trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        found = self._of(trial).sample_relative(study, trial, search_space)
        return {name: self._fit(trial, name, search_space[name], value) for name, value in found.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        value = self._of(trial).sample_independent(study, trial, param_name, param_distribution)
        return self._fit(trial, param_name, param_distribution, value)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._of(trial).after_trial(study, trial, state, values)
        self._samplers.pop(trial.number, None)

    def _fit(self, trial: FrozenTrial, name: str, distribution: Any, value: Any) -> Any:
        limit = self._study.get(NO_MEMORY) if name == "batch_size" else None
        if limit is None or value < limit:
            return value
        if not hasattr(distribution, "choices"):
            return max(distribution.low, min(value, limit - 1))
        fits = [choice for choice in distribution.choices if choice < limit]
        if not fits:
            self._study.stop(UserError(f"every batch size of the space, from {limit}, ran out of memory"))
            return value
        return fits[trial.number % len(fits)]


def _pruner(name: str, reports: int) -> Any:
    match name:
        case "hyperband":
            return HyperbandPruner(min_resource=1, max_resource=reports, reduction_factor=4)
        case "asha":
            return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        case "median":
            return MedianPruner(n_startup_trials=3, n_warmup_steps=1)
    return NopPruner()


def _suggest(trial: optuna.Trial, item: Dimension) -> Any:
    if item.kind == "categorical":
        return trial.suggest_categorical(item.name, item.choices)
    if item.kind == "int":
        return trial.suggest_int(item.name, int(item.low), int(item.high), step=item.step, log=item.log)
    return trial.suggest_float(item.name, item.low, item.high, log=item.log)


def _quiet(function: Callable[[], Any]) -> Any:
    """Call without Optuna's notes that something is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return function()
