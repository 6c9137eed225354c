"""The connection to MLflow: tracking URI, experiment, and starting, resuming and ending runs.

Only the parent process or rank 0 calls MLflow. Nothing here depends on MLflow's process-wide "active run": every call
passes a run id, so runs can be nested, resumed and used from a notebook. What a run records is in `run.py`.
"""

import logging
import os
import platform
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from kronos.tracking.offline_queue import Message, Outbox
from kronos.tracking.run import TAG, Run, is_away, limits, named, send_message
from kronos.utils.error_messages import innermost, sentence
from kronos.utils.errors import Pruned, TrackingAway, UserError
from kronos.utils.files import check_sqlite, digest_bytes, lock_of
from kronos.utils.interrupts import uninterrupted
from kronos.utils.process_identity import is_gone, this_process

PACKAGES = ("torch", "mlflow", "optuna", "pyqlib", "pandas", "numpy", "matplotlib", "safetensors", "pydantic")
WAIT_SECONDS = 120.0
LOCK_SECONDS = 60.0  # that a local database may be locked by another process
Answer = TypeVar("Answer")


def connect(uri: str | None, begins: bool = False) -> Any:
    """Return an MLflow client for a tracking URI, or for MLflow's default (None), with telemetry and info logs off.

    Raises UserError where the store is a local database file that does not exist or, with `begins` (runs will be
    created there), cannot be written. MLflow itself would create an empty file or retry for minutes.
    """
    _refuse_old_file_store(uri)
    _check_file(_address(uri), begins)
    # Set before MLflow is imported, since the import starts a telemetry thread and logs database migrations.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # These log every retry, and the traceback of a database error that is also raised; we report the error once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient
    from sqlalchemy import Engine, event

    if not event.contains(Engine, "connect", _wait_for_locks):
        event.listen(Engine, "connect", _wait_for_locks)
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # the import resets the level
    return MlflowClient(uri)


def _refuse_old_file_store(uri: str | None) -> None:
    """Raise UserError where an old `mlruns` folder makes MLflow choose its file store, which no longer works."""
    if uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return
    old = next(Path("mlruns").glob("*/meta.yaml"), None)
    if old is not None:
        raise UserError(
            f"{old} belongs to MLflow's old file store, which MLflow would choose here but no longer supports: move "
            "the folder mlruns away, or give --tracking-uri sqlite:///mlflow.db"
        )


def _wait_for_locks(connection: Any, _: Any) -> None:
    """Let a new SQLite connection wait while another process writes; Python's own wait is 5 seconds."""
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000:.0f}")


def _address(uri: str | None) -> str:
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


def database_file(uri: str | None) -> Path | None:
    """The database file of a tracking URI (None: MLflow's default) that is a local SQLite store, else None."""
    scheme, _, path = _address(uri).partition(":///")
    return Path(unquote(path)).absolute() if scheme == "sqlite" else None


def _one_at_a_time(address: str) -> AbstractContextManager:
    """A lock to hold while a local store is opened: MLflow fails when two processes create the tables at once."""
    file = database_file(address)
    if file is None:
        return nullcontext()
    return lock_of(file)


def _check_file(address: str, begins: bool) -> None:
    file = database_file(address)
    if file is None:
        return
    if not begins and not file.exists():
        raise UserError(
            f"there are no tracked runs here ({file} is missing): run in the folder where they were made, or give "
            "the tracking URI"
        )
    check_sqlite(file)
    place = next(one for one in (file, *file.parents) if one.exists())
    if begins and not os.access(place, os.W_OK):
        raise UserError(
            f"no permission to write to {place}, where the tracking store {file.name} belongs: run in a folder that "
            "you can write to, or give another --tracking-uri"
        )


class NotMlflow(OSError):
    """A server whose answers lack what MLflow's have, such as a gateway before it."""


class Tracking:
    """A connection to one MLflow experiment.

    Args:
        uri: tracking URI, or None for MLflow's default (the environment variable, else ./mlflow.db).
        experiment: name of the experiment; a run started by `mlflow run` stays in the experiment it was given.
        unsent: folder for messages that an unreachable server has not received; messages left there are sent first.
        wait: seconds to wait for an unreachable server, before a run starts or after the outermost run ends.
        say: called with each line to print.

    Raises:
        UserError: where MLflow does not answer. Later, methods that need an answer raise TrackingAway.
    """

    def __init__(
        self, uri: str | None, experiment: str, *, unsent: str | Path = "outputs/unsent",
        wait: float = WAIT_SECONDS, say: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        from mlflow.exceptions import MlflowException

        self._given_run = os.environ.get("MLFLOW_RUN_ID")
        self.uri = uri
        try:
            with _one_at_a_time(_address(uri)):
                self.client = connect(uri, begins=True)
                self.outbox = self._outbox(self.client.tracking_uri, Path(unsent), wait, say)
                with limits(brisk=True):
                    self.experiment_id = self._experiment(experiment)
            self.outbox.take_over()
            self._end_orphans()
        except (MlflowException, OSError) as error:
            raise UserError(
                sentence(error)
                or f"MLflow at {uri or 'its default place'} does not answer: {innermost(error)}"
            ) from None

    def _outbox(self, address: str, unsent: Path, wait: float, say: Callable[[str], None]) -> Outbox:
        parts = urlsplit(address)
        remote = parts.scheme.startswith(("http", "postgresql", "mysql", "mssql"))
        host = (parts.hostname or "local") + (f":{parts.port}" if parts.port else "")

        def send(run_id: str, message: Message, path: Path | None) -> None:
            with limits(brisk=message["do"] != "artifact" and not self.outbox.patient):
                send_message(self.client, run_id, message, path)

        def is_refusal(error: Exception) -> bool:
            """Whether MLflow answered and rejected the request, for instance because the run has been deleted."""
            from mlflow.exceptions import MlflowException

            if not isinstance(error, MlflowException) or sentence(error) is not None:
                return False
            return 400 <= error.get_http_status_code() < 500

        def ping() -> None:
            with limits(brisk=True):
                self._real(self.client.get_experiment(self.experiment_id).experiment_id)

        return Outbox(
            unsent / f"{host.replace(':', '-')}-{digest_bytes(address.encode())[:8]}", send,
            lambda error: remote and is_away(error), ping,
            place=f"{parts.scheme}://{host}", wait=wait, say=say, is_refusal=is_refusal,
        )  # fmt: skip

    def ask(self, call: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:
        """Call an MLflow function and return its result, waiting for an unreachable server.

        Raises TrackingAway where the server is not back within the wait time.
        """

        def limited() -> Answer:
            with limits(brisk=True):
                return call(*arguments, **options)

        return self.outbox.now(limited)

    def view(self, run_id: str) -> str:
        """Where to look at a run: its page in the training view, or without a server the command that starts one."""
        parts = urlsplit(self.client.tracking_uri)
        if parts.scheme in ("http", "https"):
            host = parts.netloc.rpartition("@")[2]  # without a password
            page = f"#/experiments/{self.experiment_id}/runs/{run_id}?workflowType=machine_learning"
            return f"run {parts.scheme}://{host}{parts.path.rstrip('/')}/{page}"
        default = database_file(self.client.tracking_uri) == Path("mlflow.db").absolute()
        store = (
            ""
            if default or parts.password
            else f" --backend-store-uri {shlex.quote(self.client.tracking_uri)}"
        )
        return f"run {run_id}; view it with  mlflow ui{store}"

    def attach(self, run_id: str) -> Run:
        """A run that another process has started, for logging more to it."""
        return Run(self.outbox, run_id, self.experiment_id)

    def _experiment(self, name: str) -> str:
        given = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if self._given_run and given:
            return given
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise UserError(f"MLflow experiment {name!r} is deleted: restore it or give --experiment-name")
        if found is not None:
            return self._real(found.experiment_id)
        try:
            return self._real(self.client.create_experiment(name))
        except MlflowException:  # another process created it in the meantime
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _real(self, identifier: str | None) -> str:
        """Return an id that the server gave. Raises NotMlflow where its answer has none."""
        if not identifier:
            raise NotMlflow("what answers there is not an MLflow tracking server")
        return str(identifier)

    def _end_orphans(self) -> None:
        """Mark runs of this machine as FAILED if they are RUNNING and their process no longer exists."""
        running = self.ask(
            self.client.search_runs,
            [self.experiment_id],
            f"attributes.status = 'RUNNING' and tags.`{TAG}host` = '{socket.gethostname()}'",
        )
        for run in running:
            if is_gone(process_of(run)):
                self.attach(run.info.run_id).finish("FAILED", "its process was killed")

    @contextmanager
    def run(
        self, name: str, tags: Mapping[str, Any], parent: Run | None = None, run_id: str | None = None
    ) -> Iterator[Run]:
        """Start a run and end it with its block: FINISHED, KILLED (Ctrl-C, SIGTERM) or FAILED, with the reason.

        The outermost run uses the run created by `mlflow run`, if any; `run_id` resumes another one. A resumed run
        keeps the metrics it has. Raises TrackingAway where the server is unreachable for longer than the wait time
        when the run starts, or when a run without a parent ends.
        """
        given, self._given_run = self._given_run, None
        host, _, process = this_process().partition(" ")
        own = {"host": host, "process": process, **tags}
        opened: list[Run] = []  # filled as soon as the run exists, so that an interrupt ends it
        try:
            self._open(opened, name, named(own), parent, run_id or given)
            yield opened[0]
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt | SystemExit | Pruned)
            # An error of the store (a full disk) must not hide why the run ended; the next start marks it FAILED.
            with suppress(Exception):
                for run in opened:
                    run.finish(
                        "KILLED" if killed else "FAILED", f"{type(error).__name__}: {error}".rstrip(": ")
                    )
                if (
                    parent is None and opened and not isinstance(error, TrackingAway)
                ):  # that message has already been printed
                    self.outbox.leave()
            raise
        with uninterrupted():
            opened[0].finish("FINISHED")
        if parent is None:
            self.outbox.wait()

    def _open(
        self, opened: list[Run], name: str, tags: dict[str, str], parent: Run | None, run_id: str | None
    ) -> None:
        """Start or resume a run and append it to `opened`."""
        from mlflow.exceptions import MlflowException

        # A resumed run becomes a child of the pipeline run that finishes it.
        if parent is not None:
            tags = {**tags, "mlflow.parentRunId": parent.id}

        def create() -> None:
            with uninterrupted():
                created = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
                opened.append(Run(self.outbox, self._real(created.info.run_id), self.experiment_id))

        def resume(known: str) -> None:
            with uninterrupted():
                self.client.update_run(known, status="RUNNING", name=name)
                opened.append(Run(self.outbox, known, self.experiment_id))

        if run_id is None:
            self.ask(create)
            return
        try:
            self.ask(resume, run_id)
            recorded = self.ask(self.client.get_run, run_id).data
            if TAG + "reason" in recorded.tags:  # of the interruption
                self.ask(self.client.delete_tag, run_id, TAG + "reason")
            opened[0].there = {
                metric: {row.step for row in self.ask(self.client.get_metric_history, run_id, metric)}
                for metric in recorded.metrics
            }
        except MlflowException as error:
            raise UserError(f"MLflow run {run_id} cannot be continued: {first_line(error)}") from None
        opened[0].tags(tags)

    def busy(self, run_id: str) -> bool:
        """Whether a run is RUNNING in a process that exists, or on another machine, where that cannot be checked."""
        found = self.ask(self.client.get_run, run_id)
        if found.info.status != "RUNNING":
            return False
        return not is_gone(process_of(found))

    def exists(self, run_id: str) -> bool:
        """Whether the store still has this run."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.ask(self.client.get_run, run_id).info.lifecycle_stage == "active")
        except MlflowException:
            return False


def process_of(run: Any) -> str:
    """The process that started a run, in the format of `this_process`."""
    tags = run.data.tags
    return f"{tags.get(TAG + 'host', '-')} {tags.get(TAG + 'process', '0 0')}"


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of packages, by default those that results depend on."""
    return dict(_versions(tuple(packages)))


@cache  # a search calls this several times per trial, and each call reads files
def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def source_tags(folder: Path | None) -> dict[str, str]:
    """Tags with the git commit and whether there are uncommitted changes; empty outside a clone (None)."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = bool(_git(folder, "status", "--porcelain"))
    return {"mlflow.source.git.commit": commit, "git_commit": commit, "git_dirty": str(dirty).lower()}


def uncommitted_changes(folder: Path | None) -> str:
    """The uncommitted changes as a diff; empty for a clean tree or outside a clone."""
    return _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff")


def _git(folder: Path | None, *arguments: Sequence[str] | str) -> str:
    if folder is None:
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *map(str, arguments)], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
