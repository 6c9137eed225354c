"""What a run records, and how it is handed to MLflow: metrics in batches, datasets, artifacts, an honest end.

With `client.py`, which opens and ends runs, a part of the one door to MLflow. Everything goes through an `Outbox`,
so that a server that is away stops no training.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kronos.tracking.offline_queue import Message, Outbox

PARAMETERS_A_CALL = 100  # MLflow's limits for one log_batch
METRICS_A_CALL = 1000
FLUSH_METRICS = 400
FLUSH_SECONDS = 5.0
TAG = "kronos."
# (seconds until a request is given up, tries after the first) while work waits for it, and where nothing else is to
# be done. MLflow's own 7 retries take some four minutes when the server is away.
BRISK, PATIENT = (5, 1), (120, 1)


class Run:
    """One MLflow run. Metrics wait in a buffer, with the time they were recorded at, until `flush`.

    `there` are the steps that the run has already, by metric: nothing is recorded at them again.
    """

    def __init__(
        self, outbox: Outbox, run_id: str, experiment_id: str, there: Mapping[str, set[int]] | None = None
    ) -> None:
        self.outbox, self.id, self.experiment_id = outbox, run_id, experiment_id
        self._there = there or {}
        self._waiting: list[tuple[str, float, int, int]] = []  # name, value, milliseconds, step
        self._flushed_at = time.monotonic()

    def parameters(self, values: Mapping[str, str]) -> None:
        """Log parameters that the run does not have yet; MLflow refuses to change one it has."""
        self.outbox.put(self.id, {"do": "parameters", "values": dict(values)})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; `named` says how."""
        self.outbox.put(self.id, {"do": "tags", "values": named(values)})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at a step; sent when enough are waiting or the last batch is some seconds old."""
        now = int(time.time() * 1000)
        rows = {re.sub(r"[^\w.]+", "_", name): float(value) for name, value in values.items()}
        self._waiting += [
            (name, value, now, step) for name, value in rows.items() if step not in self._there.get(name, ())
        ]
        if len(self._waiting) >= FLUSH_METRICS or time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is waiting, or have it on disk. A batch sent twice adds no row: each metric keeps its time."""
        while self._waiting:
            self.outbox.put(self.id, {"do": "metrics", "rows": self._waiting[:METRICS_A_CALL]})
            del self._waiting[:METRICS_A_CALL]
        self._flushed_at = time.monotonic()

    def dataset(
        self, name: str, digest: str, source: Mapping[str, Any], profile: Mapping[str, Any], context: str
    ) -> None:
        """Log a dataset input, shown in the UI with its digest; `context` is training, testing, ..."""
        fields = {
            "name": name, "digest": digest[:32], "source_type": "kronos_store", "source": json.dumps(source),
            "profile": json.dumps(profile),
        }  # fmt: skip
        self.outbox.put(self.id, {"do": "dataset", "fields": fields, "context": context})

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file, or a folder's content, under `folder` of the run's artifacts."""
        self.outbox.put(self.id, {"do": "artifact", "folder": folder}, Path(path))

    def json(self, value: Any, name: str) -> None:
        """Log a value as a JSON artifact."""
        self.text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", name)

    def text(self, text: str, name: str) -> None:
        """Log a text as an artifact."""
        self.outbox.put(self.id, {"do": "text", "text": text, "name": name})

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
            self.outbox.put(self.id, {"do": "finish", "status": status, "time": int(time.time() * 1000)})


def named(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as MLflow takes them; names without a dot get the project's prefix."""
    return {name if "." in name else TAG + name: str(text) for name, text in tags.items()}


def hand_over(client: Any, run_id: str, message: Message, path: Path | None) -> None:
    """Hand a message of `Run` to MLflow; one that it has had before changes nothing."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    match message["do"]:
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*row) for row in message["rows"]])
        case "parameters":
            there = client.get_run(run_id).data.params
            new = [Param(name, text) for name, text in message["values"].items() if name not in there]
            for start in range(0, len(new), PARAMETERS_A_CALL):
                client.log_batch(run_id, params=new[start : start + PARAMETERS_A_CALL])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(name, text) for name, text in message["values"].items()])
        case "dataset":
            context = InputTag("mlflow.data.context", message["context"])
            client.log_inputs(run_id, [DatasetInput(Dataset(**message["fields"]), [context])])
        case "artifact":
            log = client.log_artifacts if path is not None and path.is_dir() else client.log_artifact
            log(run_id, str(path), message["folder"])
        case "text":
            client.log_text(run_id, message["text"], message["name"])
        case "finish":
            client.set_terminated(run_id, message["status"], message["time"])


def is_away(error: Exception) -> bool:
    """Whether a call of a remote MLflow failed for want of a server that works, not for what was asked of it."""
    from mlflow.exceptions import MlflowException

    code: int
    if isinstance(error, MlflowException):
        code = error.get_http_status_code()
        # Where nobody answered it is the 500 of any mistake in code on this side, which is no absence.
        if type(error) is MlflowException and code == 500:
            return str(error).startswith("API request to")
    elif getattr(error, "response", None) is not None:
        code = error.response.status_code  # type: ignore[attr-defined]
    else:
        return isinstance(error, OSError)
    return code >= 500 or code == 429


_calling = threading.Lock()


@contextmanager
def limits(brisk: bool) -> Iterator[None]:
    """Bound MLflow's requests while the block runs; it reads its limits from the environment at each one.

    `brisk` is for calls that work waits for. Otherwise limits that the user has set stand.
    """
    seconds, retries = BRISK if brisk else PATIENT
    wanted = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries)}
    with _calling:
        before = {name: os.environ[name] for name in wanted if name in os.environ}
        os.environ.update(wanted if brisk else {**wanted, **before})
        try:
            yield
        finally:
            for name in wanted:
                del os.environ[name]
            os.environ.update(before)
