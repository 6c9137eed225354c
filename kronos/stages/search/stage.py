"""The search stage: trials of the training stages in a study that machines may share, and its answer as a file."""

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kronos.config.loading import to_text
from kronos.config.schema import Config
from kronos.distributed.launcher import launched
from kronos.stages.base import RECORD, Outcome
from kronos.stages.search.space import Space, configuration, space_of
from kronos.stages.search.trial import is_out_of_memory, quietly, train
from kronos.stages.search.trial_pool import TrialFailed, TrialProcesses
from kronos.stages.train_setup import windows
from kronos.tracking.client import Run, Tracking
from kronos.utils.errors import Pruned, TrackingAway, UserError
from kronos.utils.files import digest_bytes

PARENT = "mlflow_parent"
PARENT_SECONDS = 10.0
FORECAST_FIELDS = (
    "inference_T", "inference_top_p", "inference_top_k", "inference_sample_count", "backtest_signal",
)  # fmt: skip


def run(config: Config, say: Callable[[str], None]) -> dict[str, Outcome]:
    """Search as one run with a child a trial; the same study goes on where it was left."""
    from kronos.stages.runner import log_config, tags_of, tracking_of

    if (place := launched()) is not None and place.world > 1:
        raise UserError(
            "search starts the processes of its trials itself: leave out torchrun, give --nproc-per-node"
        )
    if config.registered_model_name is not None and config.search_stage == "tokenizer":
        raise UserError("registered_model_name: a search of the tokenizer alone has no predictor to register")
    space = space_of(config)
    tracking = tracking_of(config, say)
    before = _run_to_go_on_with(config, space, tracking)
    with tracking.run(config.run_name or "search", tags_of("search", config), run_id=before) as own:
        log_config(own, config)
        _prepare(config, tracking, own, say)
        search = _Search(config, space, tracking, own, say)
        search.go()
        search.repeat()
        record = search.answer()
    return {"search": Outcome("search", search.parent.id, search.folder, record)}


def _prepare(config: Config, tracking: Tracking, own: Run, say: Callable[[str], None]) -> None:
    """Bars, and the tokenizer that every trial shares, as runs of their own beside the search."""
    from kronos.stages import STAGES
    from kronos.stages.runner import beside

    needed = ["data"] * (not config.skip_data_process)
    if config.search_stage == "predictor" and not (
        config.skip_tokenizer or config.freeze_tokenizer or config.tokenizer_path
    ):
        needed.append("tokenizer")
    for name in needed:
        outcome = beside(STAGES[name], config, tracking, say)
        own.tags({f"{name}_run": outcome.run_id})


def definition_of(config: Config, space: Space) -> dict[str, Any]:
    """What a study searches and from what: two studies that differ in it cannot share trials."""
    from kronos.stages.search.trial import KINDS
    from kronos.stages.train import PREDICTOR_FIELDS, predictor_made_from, tokenizer_made_from

    stage = config.search_stage
    made = (predictor_made_from if stage == "predictor" else tokenizer_made_from)(config)
    searched = {item.name for item in space.dimensions}
    fields = {name: text for name, text in made["fields"].items() if name not in searched}
    if stage == "both":
        fields |= {name: to_text(getattr(config, name)) for name in PREDICTOR_FIELDS if name not in searched}
    if set(config.search_metric) - {"val_loss"}:
        fields |= {name: to_text(getattr(config, name)) for name in FORECAST_FIELDS}
    definition = {
        "space": space.describe(), "inputs": made["inputs"], "metric": list(config.search_metric),
        "stages": list(KINDS[stage]), "reports": config.search_reports, "fields": fields,
    }  # fmt: skip
    return dict(json.loads(json.dumps(definition)))


def study_name(config: Config, definition: dict[str, Any]) -> str:
    if config.study_name != "auto":
        return config.study_name
    digest = digest_bytes(json.dumps(definition, sort_keys=True).encode())[:12]
    return f"{config.search_stage}-{digest}"


def _run_to_go_on_with(config: Config, space: Space, tracking: Tracking) -> str | None:
    """The run of a study that was left by a process that is gone."""
    from kronos.stages.search.study import parent_of

    try:
        name = study_name(config, definition_of(config, space))
        parent = parent_of(config.storage, name, PARENT)
    except UserError:  # said again inside the run, where it is on record
        return None
    return parent if parent and tracking.exists(parent) and not tracking.busy(parent) else None


class _Search:
    """One process's part in a search."""

    def __init__(
        self, config: Config, space: Space, tracking: Tracking, own: Run, say: Callable[[str], None]
    ) -> None:
        from kronos.stages.data import stored_bars
        from kronos.stages.search.study import Study

        self.config, self.space, self.tracking, self.own, self.say = config, space, tracking, own, say
        training, _ = windows(config, stored_bars(config))
        self.budget = budget(config, len(training))
        space.check_batches(config, self.budget["n_train_iter"], config.nproc_per_node)
        definition = definition_of(config, space)
        pruner = "none" if config.search_stage == "both" else config.search_pruner
        self.study = Study(
            config.storage, study_name(config, definition), space, definition, config.search_metric,
            sampler=config.search_sampler, pruner=pruner, reports=self.budget["epochs"], seed=config.seed,
            n_trials=config.n_trials, heartbeat=config.search_heartbeat,
        )  # fmt: skip
        self.folder = Path(config.search_path) / self.study.name
        self.parent = self._parent()
        self.processes = TrialProcesses(config) if self._apart() else None
        self._keeping = threading.Lock()
        self._introduce()

    def _introduce(self) -> None:
        config, study = self.config, self.study
        finished, running = study.count()
        going = f", {finished} trials over, {running} running" if finished or running else ""
        self.say(f"search: study {study.name} in {config.storage.split('@')[-1]}{going}")
        each = self.budget["n_train_iter"]
        self.say(
            f"  {config.n_trials} trials of {self.budget['epochs'] * each:,} windows, whatever the batch size, a "
            f"report every {each:,}; sampler {config.search_sampler}, pruner "
            + (config.search_pruner if study.prunes else "none")
        )
        if not study.prunes and config.search_pruner != "none":
            why = (
                "two objectives have no order to prune by"
                if len(config.search_metric) > 1
                else "predictors with different tokenizers have no loss in common"
            )
            self.say(f"  nothing is pruned: {why}")
        if self.processes:
            self.say(f"  each trial in processes of its own, {self.processes.threads} thread(s) each")
        self.own.tags({"study": study.name, "storage_kind": config.storage.split(":")[0]})

    def _apart(self) -> bool:
        """Whether trials need processes of their own: several at a time, several ranks, a GPU, a time limit."""
        from kronos.distributed.device import choose

        config = self.config
        if config.n_jobs > 1 or config.nproc_per_node > 1 or config.search_trial_timeout:
            return True
        return choose(config.device, config.cpu, config.precision).device.type != "cpu"

    def _parent(self) -> Run:
        """The run that all trials of the study are children of: whoever created the study gives its own."""
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
        """Run trials until the study has enough."""
        with self._end_processes_with_this_one():
            self.study.go(self._try, n_jobs=self.config.n_jobs, timeout=self.config.search_timeout)

    def _try(self, asked: Any) -> list[float]:
        from kronos.stages.search.study import DIRECTIONS

        sign = -1.0 if DIRECTIONS[self.config.search_metric[0]] == "maximize" else 1.0
        evaluations = [-1]  # the first one is of the untrained weights

        def report(metrics: dict[str, float]) -> None:
            if "val_loss" in metrics:
                evaluations[0] += 1
                if evaluations[0]:
                    asked.report(evaluations[0], sign * metrics["val_loss"])

        config = configuration(self.config, {**self.budget, **asked.values})
        try:
            result = self._train(config, f"trial {asked.number}", asked, report)
        except BaseException as error:
            if is_out_of_memory(error) or getattr(error, "out_of_memory", False):
                asked.out_of_memory(config.batch_size)
            raise
        asked.note(
            "metrics", {name: value for name, value in result["metrics"].items() if math.isfinite(value)}
        )
        return list(result["values"])

    def _train(
        self, config: Config, name: str, asked: Any, report: Callable[[dict[str, float]], None],
        more: dict[str, Any] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """One training as a run of its own under the search's parent."""
        from kronos.stages.train import closing

        number, began = asked.number, time.monotonic()
        folder = self.folder / "trials" / name.replace(" ", "-")
        config = configuration(config, {"save_path": str(folder), "resume": "never", "reuse": False,
                                        **self._shared_tokenizer()})  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        given = {
            "stage": "trial",
            "study": self.study.name,
            "trial": number,
            "seed": config.seed,
            **(more or {}),
        }
        drawn = ", ".join(f"{key} {_short(value)}" for key, value in asked.values.items())
        with self.tracking.run(name, given, parent=self.parent) as run:
            asked.note("mlflow_run", run.id)
            fields = {key: to_text(getattr(config, key)) for key in type(config).model_fields}
            run.parameters({**fields, "log10_learning_rate": f"{math.log10(_rate(config)):.6g}"})

            def record(step: int, metrics: dict[str, float]) -> None:
                run.metrics(step, metrics)
                report(metrics)

            try:
                if self.processes:
                    limit = float(config.search_trial_timeout)
                    result = self.processes.train(config, record, limit, self.folder / "logs" / f"{name}.txt")
                else:
                    result = quietly(lambda: train(config, record))
                run.metrics(int(result["metrics"]["steps"]), closing(result["metrics"]))
                run.tags({"trial_state": "COMPLETE", "model_digest": result["digest"]})
            except BaseException as error:
                shutil.rmtree(folder, ignore_errors=True)
                pruned = isinstance(error, Pruned)
                run.tags({"trial_state": "PRUNED" if pruned else "FAIL"})
                seconds = time.monotonic() - began
                self.say(
                    f"{name}: {'pruned' if pruned else 'failed'}, {error or 'interrupted'} ({drawn}; {seconds:.0f} s)"
                )
                raise
            finally:
                run.metrics(0, {"duration_seconds": time.monotonic() - began})
        shown = ", ".join(
            f"{key} {value:.5g}" for key, value in zip(config.search_metric, result["values"], strict=True)
        )
        self.say(f"{name}: {shown} ({drawn}; {time.monotonic() - began:.0f} s)")
        return result

    def _shared_tokenizer(self) -> dict[str, Any]:
        """The fields by which a trial, and later the pipeline, finds the one tokenizer of all trials."""
        config = self.config
        if config.search_stage != "predictor" or config.tokenizer_path or config.freeze_tokenizer:
            return {}
        kept = self.folder / "tokenizer"
        with self._keeping:
            if not kept.is_dir():
                from kronos.utils.files import atomic_folder

                with atomic_folder(kept) as new:
                    shutil.copytree(
                        config.tokenizer_folder / "checkpoints" / "best_model", new, dirs_exist_ok=True
                    )
                    record = config.tokenizer_folder / RECORD
                    if record.is_file():  # which days the tokenizer has seen
                        shutil.copyfile(record, new / RECORD)
        return {"tokenizer_path": str(kept)}

    @contextmanager
    def _end_processes_with_this_one(self) -> Iterator[None]:
        processes = self.processes
        if processes is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(number: int, frame: object) -> None:
            processes.stop()
            raise KeyboardInterrupt

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def repeat(self) -> None:
        """Train the best few with further seeds, so that luck is not taken for a better value."""
        count = self.config.search_repeats
        for trial in self.study.best(self.config.search_top) if count > 1 else []:
            for offset in range(1, count):
                key = f"repeat {trial.number} {self.config.seed + offset}"
                if self.study.get(key) is not None:
                    continue
                values = {**self.budget, **trial.params, "seed": self.config.seed + offset}
                asked = _Again(trial.number, trial.params)
                try:
                    with self._end_processes_with_this_one():
                        result = self._train(
                            configuration(self.config, values), f"trial {trial.number} seed {values['seed']}",
                            asked, lambda metrics: None, {"repeat": offset},
                        )  # fmt: skip
                except TrackingAway:
                    raise
                except Exception as error:
                    self.say(f"{key}: {error}")
                    continue
                self.study.set(key, result["values"])
                shutil.rmtree(self.folder / "trials" / f"trial-{trial.number}-seed-{values['seed']}")

    def answer(self) -> dict[str, Any]:
        """Write best.json, the tables and the figures, and log them on the parent."""
        from kronos.stages.search.results import write_answer

        return write_answer(self)


class _Again:
    """A trial trained once more: nothing is asked of the study."""

    def __init__(self, number: int, values: dict[str, Any]) -> None:
        self.number, self.values = number, values

    def note(self, name: str, value: Any) -> None: ...


def budget(config: Config, windows_there_are: int) -> dict[str, int]:
    """Epochs and windows an epoch that make the configured budget with a validation at each report."""
    epoch = min(config.n_train_iter, windows_there_are)
    reports = max(config.search_reports, config.epochs)
    return {"epochs": reports, "n_train_iter": max(1, math.ceil(config.epochs * epoch / reports))}


def _rate(config: Config) -> float:
    kind = "tokenizer" if config.search_stage == "tokenizer" else "predictor"
    return float(getattr(config, f"{kind}_learning_rate"))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else to_text(value)


__all__ = ["TrialFailed", "budget", "definition_of", "run", "study_name"]
