"""The one door to MLflow: runs with parameters, metrics in batches, datasets, artifacts, and an honest end.

Only the parent process or rank 0 talks to MLflow. Nothing here depends on MLflow's process-wide "active run":
every call names its run, so runs can be nested, resumed and used from a notebook without surprises.
"""

import json
import logging
import os
import platform
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from kronos.errors import Pruned, UserError

PACKAGES = ("torch", "mlflow", "optuna", "pyqlib", "pandas", "numpy", "matplotlib", "safetensors", "pydantic")
PARAMETERS_A_CALL = 100  # MLflow's limits for one log_batch
METRICS_A_CALL = 1000
FLUSH_METRICS = 400
FLUSH_SECONDS = 5.0
TAG = "kronos."


def connect(uri: str | None) -> Any:
    """An MLflow client for a tracking address, or for MLflow's own choice; quiet, and calling home nobody."""
    # Set before MLflow is imported: it starts a thread that calls home, and logs set-up steps.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # the import sets it
    return MlflowClient(uri)


class Run:
    """One MLflow run. Metrics wait in a buffer, with the time they were recorded at, until `flush`.

    A run that is `continued` keeps the rows it has: a metric is not recorded again at a step where it is there.
    """

    def __init__(self, client: Any, run_id: str, experiment_id: str, continued: bool = False) -> None:
        self.client, self.id, self.experiment_id = client, run_id, experiment_id
        self.continued = continued
        self._there: dict[str, set[int]] = {}  # steps that the store has, by metric
        self._waiting: list[Any] = []
        self._flushed_at = time.monotonic()

    def parameters(self, values: Mapping[str, str]) -> None:
        """Log parameters that the run does not have yet; MLflow refuses to change one it has."""
        from mlflow.entities import Param

        there = self.client.get_run(self.id).data.params
        new = [Param(name, text) for name, text in values.items() if name not in there]
        for start in range(0, len(new), PARAMETERS_A_CALL):
            self.client.log_batch(self.id, params=new[start : start + PARAMETERS_A_CALL])

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; names without a dot get the project's prefix."""
        from mlflow.entities import RunTag

        named = [RunTag(name if "." in name else TAG + name, str(text)) for name, text in values.items()]
        self.client.log_batch(self.id, tags=named)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at a step; sent when enough are waiting or the last batch is some seconds old."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = {re.sub(r"[^\w.]+", "_", name): float(value) for name, value in values.items()}
        self._waiting += [
            Metric(name, value, now, step) for name, value in named.items() if not self._has(name, step)
        ]
        if len(self._waiting) >= FLUSH_METRICS or time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def _has(self, name: str, step: int) -> bool:
        """Whether the row is there from before the run was interrupted."""
        if not self.continued:
            return False
        if name not in self._there:
            self._there[name] = {row.step for row in self.client.get_metric_history(self.id, name)}
        return step in self._there[name]

    def flush(self) -> None:
        """Send what is waiting. A batch sent twice adds no row: each metric keeps its recorded time."""
        while self._waiting:
            self.client.log_batch(self.id, metrics=self._waiting[:METRICS_A_CALL])
            del self._waiting[:METRICS_A_CALL]
        self._flushed_at = time.monotonic()

    def dataset(
        self, name: str, digest: str, source: Mapping[str, Any], profile: Mapping[str, Any], context: str
    ) -> None:
        """Log a dataset input, shown in the UI with its digest; `context` is training, testing, ..."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=name, digest=digest[:32], source_type="kronos_store", source=json.dumps(source),
            profile=json.dumps(profile),
        )  # fmt: skip
        self.client.log_inputs(self.id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file, or a folder's content, under `folder` of the run's artifacts."""
        if Path(path).is_dir():
            self.client.log_artifacts(self.id, str(path), folder)
        else:
            self.client.log_artifact(self.id, str(path), folder)

    def json(self, value: Any, name: str) -> None:
        """Log a value as a JSON artifact."""
        self.text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", name)

    def text(self, text: str, name: str) -> None:
        """Log a text as an artifact."""
        self.client.log_text(self.id, text, name)

    def finish(self, status: str, reason: str = "") -> None:
        """End the run FINISHED, FAILED or KILLED; a reason becomes the tag `kronos.reason`."""
        try:
            self.flush()
            if reason:
                self.tags({"reason": reason[:4000]})
        except BaseException:
            status = "FAILED"
            raise
        finally:
            self.client.set_terminated(self.id, status)


class Tracking:
    """A connection to one MLflow experiment.

    Args:
        uri: tracking address, or None for MLflow's own rule (the environment, else ./mlflow.db).
        experiment: name of the experiment; a run started by `mlflow run` stays in the one it was given.
    """

    def __init__(self, uri: str | None, experiment: str) -> None:
        from mlflow.exceptions import MlflowException

        self._given_run = os.environ.get("MLFLOW_RUN_ID")
        self.uri = uri
        try:
            self.client = connect(uri)
            self.experiment_id = self._experiment(experiment)
        except (MlflowException, OSError) as error:
            raise UserError(
                f"MLflow at {uri or 'its default place'} does not answer: {first_line(error)}"
            ) from None
        self._end_orphans()

    def attach(self, run_id: str) -> Run:
        """A run that is there already, to write into; its state stays as it is."""
        return Run(self.client, run_id, self.experiment_id)

    def _experiment(self, name: str) -> str:
        given = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if self._given_run and given:
            return given
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise UserError(f"MLflow experiment {name!r} is deleted: restore it or give --experiment-name")
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name))
        except MlflowException:  # another process was faster
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _end_orphans(self) -> None:
        """Mark runs of this machine FAILED whose process is gone: killed without a chance to say so."""
        running = self.client.search_runs(
            [self.experiment_id],
            f"attributes.status = 'RUNNING' and tags.`{TAG}host` = '{socket.gethostname()}'",
        )
        for run in running:
            pid, started = run.data.tags.get(TAG + "process", "0 0").split()
            if not _is_alive(int(pid), started):
                Run(self.client, run.info.run_id, self.experiment_id).finish(
                    "FAILED", "its process was killed"
                )

    @contextmanager
    def run(
        self, name: str, tags: Mapping[str, Any], parent: Run | None = None, run_id: str | None = None
    ) -> Iterator[Run]:
        """Open a run and end it as its block ends: FINISHED, KILLED (Ctrl-C, SIGTERM) or FAILED and why.

        The outermost run goes on in the one that `mlflow run` made, if any; `run_id` resumes another.
        """
        given, self._given_run = self._given_run, None
        run = self._open(name, parent, run_id or given)
        process = psutil.Process()
        try:
            run.tags(
                {
                    "host": socket.gethostname(),
                    "process": f"{process.pid} {process.create_time():.2f}",
                    **tags,
                }
            )
            yield run
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt | SystemExit | Pruned)
            run.finish("KILLED" if killed else "FAILED", f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        run.finish("FINISHED")

    def _open(self, name: str, parent: Run | None, run_id: str | None) -> Run:
        from mlflow.exceptions import MlflowException

        if run_id is not None:
            try:
                self.client.update_run(run_id, status="RUNNING", name=name)
            except MlflowException as error:
                raise UserError(f"MLflow run {run_id} cannot be continued: {first_line(error)}") from None
            run = Run(self.client, run_id, self.experiment_id, continued=True)
            if parent is not None:  # the pipeline that finishes it is the one to find it under
                run.tags({"mlflow.parentRunId": parent.id})
            return run
        tags = {"mlflow.parentRunId": parent.id} if parent else {}
        created = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        return Run(self.client, created.info.run_id, self.experiment_id)

    def busy(self, run_id: str) -> bool:
        """Whether a run is open in a process that lives, or may live: one of another machine."""
        found = self.client.get_run(run_id)
        if found.info.status != "RUNNING":
            return False
        pid, started = found.data.tags.get(TAG + "process", "0 0").split()
        return found.data.tags.get(TAG + "host") != socket.gethostname() or _is_alive(int(pid), started)

    def exists(self, run_id: str) -> bool:
        """Whether the store still has this run."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException:
            return False


def _is_alive(pid: int, started: str) -> bool:
    """Whether the process that began at `started` still runs (its id may have been given again)."""
    try:
        return abs(psutil.Process(pid).create_time() - float(started)) < 1.0
    except psutil.Error:
        return False


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of packages, by default those that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def source_tags(folder: Path) -> dict[str, str]:
    """The git commit of the code, and whether the tree has uncommitted changes; empty outside a clone."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = bool(_git(folder, "status", "--porcelain"))
    return {"mlflow.source.git.commit": commit, "git_commit": commit, "git_dirty": str(dirty).lower()}


def uncommitted_changes(folder: Path) -> str:
    """What the tree has that its commit has not, as a diff; empty for a clean tree or outside a clone."""
    return _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff")


def _git(folder: Path, *arguments: Sequence[str] | str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *map(str, arguments)], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
