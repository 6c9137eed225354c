"""A running search: trials of a study as child runs, in this process or in separate processes."""

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kronos.config.loading import to_text
from kronos.config.schema import Config
from kronos.distributed.device import choose, is_out_of_memory
from kronos.stages.base import Context
from kronos.stages.cache import copy_record, read_record
from kronos.stages.inputs import resolve_splits, stored_bars
from kronos.stages.search.space import Space
from kronos.stages.search.study import DAILY, DIRECTIONS, Study
from kronos.stages.search.trial import KINDS, STAGES_BY_KIND, quietly, train
from kronos.stages.search.trial_pool import TrialProcesses
from kronos.stages.train import log_closing
from kronos.stages.train_setup import windows
from kronos.stages.weights import given_address
from kronos.tracking.run import NOTE, Run
from kronos.utils.errors import Pruned, TrackingAway
from kronos.utils.files import RECORD, atomic_folder, digest_bytes
from kronos.utils.interrupts import on_interrupt
from kronos.utils.names import file_name

PARENT = "mlflow_parent"  # user attribute of the study: id of the parent run of all trials
PARENT_SECONDS = 10.0
FORECAST_FIELDS = (
    "inference_T", "inference_top_p", "inference_top_k", "inference_sample_count", "backtest_signal",
    "backtest_limit_threshold", "backtest_delisting_return",
)  # fmt: skip


def definition_of(config: Config, space: Space) -> dict[str, Any]:
    """Everything that decides the results of a study's trials; studies share trials only if it is equal."""
    search = config.search
    stage = STAGES_BY_KIND["predictor" if search.search_stage == "predictor" else "tokenizer"]
    names = dict.fromkeys(stage.key_fields(config))
    if search.search_stage == "both":
        names |= dict.fromkeys(STAGES_BY_KIND["predictor"].key_fields(config))
    if set(search.search_metric) - {"val_loss"}:
        names |= dict.fromkeys(FORECAST_FIELDS)
    searched = {item.name for item in space.dimensions}
    definition = {
        "space": space.describe(), "inputs": dict(stage.inputs(config).digests), "metric": list(search.search_metric),
        "stages": list(KINDS[search.search_stage]), "reports": search.search_reports,
        "fields": {name: to_text(getattr(config, name)) for name in names if name not in searched},
    }  # fmt: skip
    return dict(json.loads(json.dumps(definition)))


def study_name(config: Config, definition: dict[str, Any]) -> str:
    """The study's name: as configured, or derived from the definition."""
    if config.search.study_name != "auto":
        return config.search.study_name
    digest = digest_bytes(json.dumps(definition, sort_keys=True).encode())[:12]
    return f"{config.search.search_stage}-{digest}"


class Search:
    """One process of a search: it runs trials of a study that several processes may share."""

    def __init__(self, context: Context, space: Space) -> None:
        self.config, self.space, self.say = context.config, space, context.say
        assert context.tracking is not None
        self.tracking, self.own = context.tracking, context.run
        config, search = self.config, self.config.search
        store = stored_bars(config)
        training, _ = windows(config, store, resolve_splits(config, store))
        self.budget = budget(config, len(training))
        space.check_batches(config, self.budget["n_train_iter"], config.launch.nproc_per_node)
        definition = definition_of(config, space)
        pruner = "none" if search.search_stage == "both" else search.search_pruner
        self.study = Study(
            search.storage, study_name(config, definition), space, definition, search.search_metric,
            sampler=search.search_sampler, pruner=pruner, reports=self.budget["epochs"], seed=config.training.seed,
            n_trials=search.n_trials, heartbeat=search.search_heartbeat,
        )  # fmt: skip
        self.folder = Path(search.search_path) / file_name(self.study.name, lower=True)
        self.parent = self._parent()
        self.processes = TrialProcesses(config) if self._needs_processes() else None
        self._keeping = threading.Lock()
        self._introduce()

    def _introduce(self) -> None:
        config, study = self.config, self.study
        finished, running = study.count()
        going = f", {finished} trials finished, {running} running" if finished or running else ""
        self.say(f"search: study {study.name} in {config.search.storage.split('@')[-1]}{going}")
        each = self.budget["n_train_iter"]
        self.say(
            f"  {config.search.n_trials} trials of {self.budget['epochs'] * each:,} windows at any batch size, a "
            f"report every {each:,} windows; sampler {config.search.search_sampler}, pruner "
            + (config.search.search_pruner if study.prunes else "none")
        )
        if not study.prunes and config.search.search_pruner != "none":
            why = (
                "pruning is not possible with two objectives"
                if len(config.search.search_metric) > 1
                else "losses of predictors with different tokenizers are not comparable"
            )
            self.say(f"  no pruning: {why}")
        if self.processes:
            self.say(f"  each trial in a separate process with {self.processes.threads} thread(s)")
        self.own.tags({"study": study.name, "storage_kind": config.search.storage.split(":")[0]})

    def _needs_processes(self) -> bool:
        """Whether trials need separate processes: for parallel trials, several ranks, a GPU or a time limit."""
        launch, search = self.config.launch, self.config.search
        if search.n_jobs > 1 or launch.nproc_per_node > 1 or search.search_trial_timeout:
            return True
        return choose(launch.device, launch.cpu).device.type != "cpu"

    def _parent(self) -> Run:
        """The parent run of all trials of the study, which is the run of the process that created the study."""
        until = time.monotonic() + (0.0 if self.study.created else PARENT_SECONDS)
        parent = self.study.get(PARENT)
        while parent is None and time.monotonic() < until:
            time.sleep(0.2)
            parent = self.study.get(PARENT)
        if parent is None or not self.tracking.exists(parent):
            self.study.set(PARENT, self.own.id)
            return self.own
        if parent == self.own.id:
            return self.own
        self.own.tags({"search_parent": parent})
        self.say(f"  joins the search of run {parent}")
        return self.tracking.attach(parent)

    def go(self) -> None:
        """Run trials until the study has `n_trials` finished trials or the timeout is reached."""
        with self._end_processes_with_this_one():
            self.study.go(
                self._try, n_jobs=self.config.search.n_jobs, timeout=self.config.search.search_timeout
            )

    def _try(self, asked: Any) -> list[float]:
        sign = -1.0 if DIRECTIONS[self.config.search.search_metric[0]] == "maximize" else 1.0
        evaluations = [-1]  # the first evaluation is that of the untrained weights

        def report(metrics: dict[str, float]) -> None:
            if "val_loss" in metrics:
                evaluations[0] += 1
                if evaluations[0]:
                    asked.report(evaluations[0], sign * metrics["val_loss"])

        config = self.config.replace(**{**self.budget, **asked.values})
        try:
            result = self._train(config, f"trial {asked.number}", asked, report)
        except BaseException as error:
            if is_out_of_memory(error) or getattr(error, "out_of_memory", False):
                asked.out_of_memory(config.training.batch_size)
            raise
        asked.note("model_digest", result["digest"])
        if DAILY in result:
            asked.note(DAILY, result[DAILY])
        asked.note(
            "metrics", {name: value for name, value in result["metrics"].items() if math.isfinite(value)}
        )
        return list(result["values"])

    def _train(
        self, config: Config, name: str, asked: Any, report: Callable[[dict[str, float]], None],
        more: dict[str, Any] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Train one trial as a child run of the search's parent run; returns its result."""
        number, began = asked.number, time.monotonic()
        folder = self.folder / "trials" / name.replace(" ", "-")
        config = config.replace(save_path=str(folder), resume="never", reuse=False, **self.shared_tokenizer())
        shutil.rmtree(folder, ignore_errors=True)
        given = {
            "stage": "trial",
            "study": self.study.name,
            "trial": number,
            "seed": config.training.seed,
            **(more or {}),
        }
        drawn = ", ".join(f"{key} {_short(value)}" for key, value in asked.values.items())
        given[NOTE] = f"{name[:1].upper()}{name[1:]} of the study {self.study.name}: {drawn}"
        with self.tracking.run(name, given, parent=self.parent) as run:
            asked.note("mlflow_run", run.id)
            fields = {key: to_text(value) for key, value in config.values().items()}
            run.parameters({**fields, "log10_learning_rate": f"{math.log10(_rate(config)):.6g}"})

            def record(step: int, metrics: dict[str, float]) -> None:
                run.metrics(step, metrics)
                report(metrics)

            try:
                if self.processes:
                    limit = float(config.search.search_trial_timeout)
                    result = self.processes.train(config, record, limit, self.folder / "logs" / f"{name}.txt")
                else:
                    result = quietly(lambda: train(config, record))
                log_closing(run, result["metrics"])
                run.tags({"trial_state": "COMPLETE", "model_digest": result["digest"]})
            except BaseException as error:
                shutil.rmtree(folder, ignore_errors=True)
                pruned = isinstance(error, Pruned)
                run.tags({"trial_state": "PRUNED" if pruned else "FAIL"})
                seconds = time.monotonic() - began
                ended = "pruned" if pruned else "failed"
                self.say(f"{name}: {ended}, {str(error) or 'interrupted'} ({drawn}; {seconds:.0f} s)")
                raise
            finally:
                run.metrics(0, {"duration_seconds": time.monotonic() - began})
        shown = ", ".join(
            f"{key} {value:.5g}"
            for key, value in zip(config.search.search_metric, result["values"], strict=True)
        )
        self.say(f"{name}: {shown} ({drawn}; {time.monotonic() - began:.0f} s)")
        return result

    def shared_tokenizer(self) -> dict[str, Any]:
        """The field `tokenizer_path` of the tokenizer shared by all trials, also for the final configuration."""
        config = self.config
        if config.search.search_stage != "predictor" or given_address("tokenizer", config) is not None:
            return {}
        kept, source = self.folder / "tokenizer", config.model_folder("tokenizer")
        with self._keeping:
            if not kept.is_dir():
                with atomic_folder(kept) as new:
                    shutil.copytree(source / "checkpoints" / "best_model", new, dirs_exist_ok=True)
                    if (source / RECORD).is_file():  # has the days that the tokenizer was trained on
                        copy_record(read_record(source), new)
        return {"tokenizer_path": str(kept)}

    @contextmanager
    def _end_processes_with_this_one(self) -> Iterator[None]:
        processes = self.processes
        if processes is None:
            yield
            return

        def interrupt() -> bool:
            processes.stop()
            return True

        with on_interrupt(interrupt):
            yield

    def repeat(self) -> None:
        """Train the best trials again with other seeds, to measure the variance over seeds."""
        count = self.config.search.search_repeats
        for trial in self.study.best(self.config.search.search_top) if count > 1 else []:
            for offset in range(1, count):
                key = f"repeat {trial.number} {self.config.training.seed + offset}"
                if self.study.get(key) is not None:
                    continue
                values = {**self.budget, **trial.params, "seed": self.config.training.seed + offset}
                asked = _Again(trial.number, trial.params)
                try:
                    with self._end_processes_with_this_one():
                        result = self._train(
                            self.config.replace(**values), f"trial {trial.number} seed {values['seed']}",
                            asked, lambda metrics: None, {"repeat": offset},
                        )  # fmt: skip
                except TrackingAway:
                    raise
                except Exception as error:
                    self.say(f"{key}: {error}")
                    continue
                self.study.set(key, result["values"])
                shutil.rmtree(self.folder / "trials" / f"trial-{trial.number}-seed-{values['seed']}")


class _Again:
    """A repeated trial with fixed parameters, which is not part of the Optuna study."""

    def __init__(self, number: int, values: dict[str, Any]) -> None:
        self.number, self.values = number, values

    def note(self, name: str, value: Any) -> None: ...


def budget(config: Config, windows_there_are: int) -> dict[str, int]:
    """Epochs and windows per epoch for the configured training budget, with one validation per report."""
    epoch = min(config.training.n_train_iter, windows_there_are)
    reports = max(config.search.search_reports, config.training.epochs)
    return {"epochs": reports, "n_train_iter": max(1, math.ceil(config.training.epochs * epoch / reports))}


def _rate(config: Config) -> float:
    training = config.training
    if config.search.search_stage == "tokenizer":
        return training.tokenizer_learning_rate
    return training.predictor_learning_rate


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else to_text(value)
