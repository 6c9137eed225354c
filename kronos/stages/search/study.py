"""An Optuna study that several processes share, with its trials, figures and table.

Only this module imports Optuna. The study does not depend on training or tracking: `go` takes the
objective, a function that returns a trial's values. A trial whose process died is retried once; batch sizes that ran
out of memory are not drawn again; every trial uses a generator seeded by (seed, trial number), so that different
machines draw different values.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, TrialPruned
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from kronos.stages.search.space import Dimension, Space
from kronos.stages.search.storage import opened
from kronos.stages.search.study_figures import quiet, write_figures
from kronos.utils.errors import Pruned, TrackingAway, UserError
from kronos.utils.files import lock_of
from kronos.utils.process_identity import is_gone, this_process

DIRECTIONS: dict[str, Any] = {"val_loss": "minimize", "rank_ic": "maximize", "crps": "minimize"}
DEFINITION = "definition"  # user attribute: the definition given by the process that created the study
NO_MEMORY = "out_of_memory_batch_size"
DAILY = "daily_rank_ic"  # user attribute of a trial: its Rank IC by day, where that is a metric
PROCESS = "process"
END_SECONDS = 30.0  # that interrupted trials have to end
JOIN_SECONDS = 30.0
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class _SqliteStorage(RDBStorage):
    """Gives each waiting trial to one worker: SQLite locks no row that is read to be changed, as Optuna expects."""

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if state != TrialState.RUNNING:
            return super().set_trial_state_values(trial_id, state, values)
        with lock_of(Path(self.engine.url.database or "")):
            return super().set_trial_state_values(trial_id, state, values)


def connect(address: str, heartbeat: int, retry_callback: Any = None) -> RDBStorage | JournalStorage:
    """Open a storage and create its tables if needed; safe with several processes. Raises UserError on failure."""
    if address.startswith("journal:"):
        return JournalStorage(JournalFileBackend(address.removeprefix("journal:")))
    local = address.startswith("sqlite")
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if local else {"pool_pre_ping": True}
    make = partial(
        _SqliteStorage if local else RDBStorage, address, engine_kwargs=options, heartbeat_interval=heartbeat,
        grace_period=3 * heartbeat, heartbeat_stale_trial_callback=retry_callback,
    )  # fmt: skip
    storage: RDBStorage = opened(address, lambda: quiet(make))
    return storage


def parent_of(address: str, name: str, key: str) -> Any:
    """Return a value stored with a study; None where there is no such study or value."""
    try:
        return optuna.load_study(study_name=name, storage=connect(address, 60)).user_attrs.get(key)
    except KeyError:
        return None


class Asked:
    """A trial as passed to the objective: its number and the values drawn for it."""

    def __init__(self, study: "Study", trial: optuna.Trial) -> None:
        self._study, self._trial = study, trial
        self.number = trial.number
        self.values: dict[str, Any] = study.space.draw(lambda item: _suggest(trial, item))

    def report(self, step: int, value: float) -> None:
        """Report the trial's value at report number `step`. Raises Pruned where the pruner stops the trial."""
        if not self._study.prunes:
            return
        self._trial.report(value, step)
        if self._trial.should_prune():
            raise Pruned(f"pruned after report {step} of {self._study.reports}, at {value:.5g}")

    def note(self, name: str, value: Any) -> None:
        """Store a value with the trial."""
        self._trial.set_user_attr(name, value)

    def out_of_memory(self, batch_size: int) -> None:
        """Exclude this batch size and larger ones from all later trials."""
        before = self._study.get(NO_MEMORY)
        self._study.set(NO_MEMORY, batch_size if before is None else min(before, batch_size))


Objective = Callable[[Asked], Sequence[float]]


class Study:
    """An Optuna study in a storage that other processes may use at the same time; created if it does not exist.

    Args:
        storage: a database URL of SQLAlchemy, or `journal:FILE`.
        definition: what is searched and with which inputs; a study with another definition raises UserError.
        reports: number of reports per trial, the pruner's maximum resource.
        heartbeat: interval in seconds of the heartbeats of running trials in a database.
    """

    def __init__(
        self, storage: str, name: str, space: Space, definition: dict[str, Any], metrics: Sequence[str], *,
        sampler: str, pruner: str, reports: int, seed: int, n_trials: int, heartbeat: int,
    ) -> None:  # fmt: skip
        self.space, self.metrics, self.reports, self.n_trials = space, tuple(metrics), reports, n_trials
        self.name, self.prunes = name, pruner != "none" and len(metrics) == 1
        self._retry = quiet(lambda: RetryHeartbeatStaleTrialCallback(max_retry=1))
        self._storage = connect(storage, heartbeat, self._retry)
        self._sampler = _PerTrial(self, sampler, seed, space)
        self._pruner = _pruner(pruner if self.prunes else "none", reports)
        self._mine: set[int] = set()
        self._stopped: BaseException | None = None
        as_stored = json.loads(json.dumps(definition))  # tuples become lists, as a storage returns them
        self.created, self.study = self._create(as_stored)

    def _create(self, definition: dict[str, Any]) -> tuple[bool, optuna.Study]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("optuna").setLevel(logging.CRITICAL)  # the stage reports trials itself
        given: dict[str, Any] = {"storage": self._storage, "sampler": self._sampler, "pruner": self._pruner}
        try:
            study = optuna.create_study(
                study_name=self.name, directions=[DIRECTIONS[name] for name in self.metrics], **given
            )
        except DuplicatedStudyError:
            study = optuna.load_study(study_name=self.name, **given)
            until = time.monotonic() + JOIN_SECONDS
            while DEFINITION not in study.user_attrs and time.monotonic() < until and not study.trials:
                time.sleep(0.2)  # the process that created it has not stored the definition yet
            stored = study.user_attrs.get(DEFINITION, {})
            if stored != definition:
                names = [key for key in definition if stored.get(key) != definition[key]]
                raise UserError(
                    f"the storage has a study named {self.name} with another {' and '.join(names)}: give another "
                    "--study-name, or auto to derive the name from them"
                ) from None
            return False, study
        study.set_user_attr(DEFINITION, definition)
        return True, study

    def get(self, name: str) -> Any:
        """Return a value stored with the study, or None."""
        return self.study.user_attrs.get(name)

    def set(self, name: str, value: Any) -> None:
        """Store a value with the study, for every process that shares it."""
        self.study.set_user_attr(name, value)

    def go(self, objective: Objective, *, n_jobs: int = 1, timeout: float = 0.0, poll: float = 1.0) -> None:
        """Run trials until the study has `n_trials` from all processes; waits for trials running elsewhere.

        A failing trial gets the state FAIL and the search continues. KeyboardInterrupt ends the search; interrupted
        trials are retried at the next start. `timeout` and `poll` are in seconds.
        """
        end = time.monotonic() + timeout if timeout else None
        while True:
            self._fail_abandoned_trials()
            finished, running = self.count()
            timed_out = end is not None and time.monotonic() >= end
            left = self.n_trials - finished - running
            if finished >= self.n_trials or timed_out:
                return
            if left <= 0:
                time.sleep(poll)
                continue
            try:
                quiet(
                    lambda left=left: self.study.optimize(  # type: ignore[misc]
                        lambda trial: self._one(objective, trial), n_trials=left, n_jobs=min(n_jobs, left),
                        timeout=end and max(0.0, end - time.monotonic()), catch=(Exception,),
                        callbacks=[self._stop_when_enough],
                    )
                )  # fmt: skip
            except KeyboardInterrupt:
                self._wait_for_own_trials()
                self._retry_interrupted_trials()
                raise
            if self._stopped is not None:
                self._retry_interrupted_trials()
                raise self._stopped

    def stop(self, error: BaseException) -> None:
        """End the search with an error that every further trial would raise."""
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
        """Return (finished trials, running trials); a trial that is retried counts once."""
        trials = self.study.get_trials(deepcopy=False)
        retried = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
        finished = sum(trial.state in FINISHED and trial.number not in retried for trial in trials)
        return finished, sum(trial.state == TrialState.RUNNING for trial in trials)

    def _fail_abandoned_trials(self) -> None:
        """Set trials whose process has ended to FAIL, and queue each for one retry.

        A process of this machine is looked up; one of another machine counts as ended when its heartbeats stop.
        """
        if isinstance(self._storage, RDBStorage):
            quiet(lambda: optuna.storages.fail_stale_trials(self.study))
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not is_gone(trial.user_attrs.get(PROCESS)):
                continue
            with self._lock:
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            self._queue_retry(trial.number)

    _lock = threading.Lock()

    def _wait_for_own_trials(self) -> None:
        """Wait until no trial of this process runs: an interrupt also ends Optuna's wait for its threads."""
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if not self._mine & {trial.number for trial in running}:
                return
            time.sleep(0.1)

    def _retry_interrupted_trials(self) -> None:
        """Queue this process's interrupted trials for the next start."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number in self._mine and trial.state == TrialState.FAIL:
                self._queue_retry(trial.number)
        self._mine.clear()

    def _queue_retry(self, number: int) -> None:
        frozen = next(trial for trial in self.study.get_trials() if trial.number == number)
        frozen.user_attrs = {}
        quiet(lambda: self._retry(self.study, frozen))

    def best(self, count: int) -> list[FrozenTrial]:
        """Return the best `count` finished trials, best first; with two objectives, those of the Pareto front."""
        complete = self.study.get_trials(states=(TrialState.COMPLETE,))
        done = complete if len(self.metrics) == 1 else self.study.best_trials
        sign = -1 if DIRECTIONS[self.metrics[0]] == "maximize" else 1
        return sorted(done, key=lambda trial: (sign * trial.values[0], trial.number))[:count]

    def state(self, number: int) -> str:
        """Return the state of a trial: RUNNING, COMPLETE, PRUNED, FAIL or WAITING."""
        return str(self.study.get_trials(deepcopy=False)[number].state.name)

    def states(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        names = [trial.state.name for trial in self.study.get_trials(deepcopy=False)]
        return {name: names.count(name) for name in sorted(set(names))}

    def failures(self) -> list[str]:
        """Return why trials failed, by trial number."""
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        reasons = [trial.user_attrs.get("reason", "its process was killed") for trial in failed]
        return [f"trial {trial.number}: {why}" for trial, why in zip(failed, reasons, strict=True)]

    def table(self) -> Any:
        """Return a pandas table with one row per trial."""
        attributes = ("number", "state", "value", "params", "user_attrs", "datetime_start", "duration")
        table = self.study.trials_dataframe(attrs=attributes)
        return table.drop(columns=f"user_attrs_{DAILY}", errors="ignore")

    def write_figures(self, folder: Path) -> list[str]:
        """Write Optuna's plots as PNG files; returns one line with the reason per plot that was left out."""
        return write_figures(self.study, self.metrics, self.prunes, folder)


class _PerTrial(BaseSampler):
    """Samples each trial with a generator seeded by (seed, trial number), without batch sizes that do not fit."""

    def __init__(self, study: Study, name: str, seed: int, space: Space) -> None:
        self._study, self._name, self._seed = study, name, seed
        self._conditional = any(item.when for item in space.dimensions)
        self._startup = max(4, min(10, study.n_trials // 4))
        self._samplers: dict[int, BaseSampler] = {}

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._samplers:
            seed = (self._seed * 1_000_003 + trial.number) % 2**32
            tpe = partial(TPESampler, n_startup_trials=self._startup, group=self._conditional)
            sampler = RandomSampler if self._name == "random" else tpe
            self._samplers[trial.number] = quiet(partial(sampler, seed=seed))
        return self._samplers[trial.number]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return quiet(lambda: self._of(trial).infer_relative_search_space(study, trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        values = self._of(trial).sample_relative(study, trial, search_space)
        return {name: self._fit(trial, name, search_space[name], value) for name, value in values.items()}

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
        """Return the drawn value, or a smaller one for a batch size that ran out of memory before."""
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
