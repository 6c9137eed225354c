"""Logging to an MLflow run: parameters, tags, metrics in batches, datasets, artifacts and the final status.

`client.py` starts and ends runs. Everything is sent through an `Outbox`, so that training continues while the server
is unreachable.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kronos.tracking.offline_queue import Message, Outbox

PARAMETERS_A_CALL = 100  # MLflow's limits for one log_batch
METRICS_A_CALL = 1000
FLUSH_METRICS = 400
FLUSH_SECONDS = 5.0
TAG = "kronos."
MODEL_TAG = "model_uri"  # tag of a run that has logged a model, which is not among its artifacts
SEPARATOR = " · "  # of the parts of a run's name
NOTE = "mlflow.note.content"  # the tag that MLflow shows as the description of a run or an experiment
# The beginning of a description of an experiment that we wrote; another one is a user's own and stays.
EXPERIMENT = "Fine-tuning, forecasts and backtests of Kronos, the foundation model of candlesticks."
# (request timeout in seconds, retries): BRISK while training waits, PATIENT for uploads and at the end of a run.
# MLflow's default of 7 retries takes about four minutes when the server is unreachable.
BRISK, PATIENT = (5, 1), (120, 1)


class Run:
    """One MLflow run. Metrics are buffered with their timestamps until `flush`.

    `there` maps each metric to the steps that a resumed run already has; these steps are not logged again.
    """

    def __init__(self, outbox: Outbox, run_id: str, experiment_id: str) -> None:
        self.outbox, self.id, self.experiment_id = outbox, run_id, experiment_id
        self.there: Mapping[str, set[int]] = {}
        self._waiting: list[tuple[str, float, int, int]] = []  # name, value, milliseconds, step
        self._flushed_at = time.monotonic()

    def parameters(self, values: Mapping[str, str]) -> None:
        """Log parameters that the run does not have yet; MLflow does not allow changing a logged parameter."""
        self.outbox.put(self.id, {"do": "parameters", "values": dict(values)})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; names without a dot get the prefix `kronos.` (see `named`)."""
        self.outbox.put(self.id, {"do": "tags", "values": named(values)})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics at a step; they are sent once 400 are buffered or 5 seconds after the last batch.

        MLflow draws metrics with a common beginning before a slash in one group.
        """
        now = int(time.time() * 1000)
        rows = {re.sub(r"[^\w./]+", "_", name): float(value) for name, value in values.items()}
        self._waiting += [
            (name, value, now, step) for name, value in rows.items() if step not in self.there.get(name, ())
        ]
        if len(self._waiting) >= FLUSH_METRICS or time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the buffered metrics, or write them to disk while the server is unreachable.

        A batch that is sent twice adds no duplicate rows, since each value keeps its timestamp.
        """
        while self._waiting:
            self.outbox.put(self.id, {"do": "metrics", "rows": self._waiting[:METRICS_A_CALL]})
            del self._waiting[:METRICS_A_CALL]
        self._flushed_at = time.monotonic()

    def dataset(
        self, name: str, digest: str, source: Mapping[str, Any], profile: Mapping[str, Any], context: str
    ) -> None:
        """Log a dataset input, shown in the MLflow UI with its digest; `context` is training, testing, ..."""
        fields = {
            "name": name, "digest": digest[:32], "source_type": "kronos_store", "source": json.dumps(source),
            "profile": json.dumps(profile),
        }  # fmt: skip
        self.outbox.put(self.id, {"do": "dataset", "fields": fields, "context": context})

    def models(self, runs: Sequence[str]) -> None:
        """Link the models that other runs have logged as outputs of this one, so that its page shows them."""
        self.outbox.put(self.id, {"do": "models", "runs": list(runs)})

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file, or the content of a folder, as artifacts under `folder`."""
        self.outbox.put(self.id, {"do": "artifact", "folder": folder}, Path(path))

    def json(self, value: Any, name: str) -> None:
        """Log a value as a JSON artifact."""
        self.text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", name)

    def text(self, text: str, name: str) -> None:
        """Log a text as an artifact."""
        self.outbox.put(self.id, {"do": "text", "text": text, "name": name})

    def describe_experiment(self, newest: str) -> None:
        """Describe the experiment by its newest result; without one, only where it has no description."""
        self.outbox.put(self.id, {"do": "experiment", "id": self.experiment_id, "newest": newest})

    def finish(self, status: str, reason: str = "") -> None:
        """End the run with status FINISHED, FAILED or KILLED; a reason is set as the tag `kronos.reason`."""
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
    """Tags as strings for MLflow; names without a dot get the prefix `kronos.`."""
    return {name if "." in name else TAG + name: str(text) for name, text in tags.items()}


def send_message(client: Any, run_id: str, message: Message, path: Path | None) -> None:
    """Send a message of `Run` to MLflow; sending the same message twice changes nothing."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag

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
        case "models":
            there = {model.model_id for model in client.get_run(run_id).outputs.model_outputs}
            tags = [client.get_run(other).data.tags for other in message["runs"]]
            addresses = [one[TAG + MODEL_TAG] for one in tags if TAG + MODEL_TAG in one]
            found = dict.fromkeys(address.removeprefix("models:/") for address in addresses)
            if linked := [LoggedModelOutput(name, step=0) for name in found if name not in there]:
                client.log_outputs(run_id, linked)
        case "artifact":
            log = client.log_artifacts if path is not None and path.is_dir() else client.log_artifact
            log(run_id, str(path), message["folder"])
        case "text":
            client.log_text(run_id, message["text"], message["name"])
        case "experiment":
            there = client.get_experiment(message["id"]).tags.get(NOTE, "")
            if not there or (message["newest"] and there.startswith(EXPERIMENT)):
                text = f"{EXPERIMENT}\n\n{message['newest']}".rstrip()
                client.set_experiment_tag(message["id"], NOTE, text)
        case "finish":
            client.set_terminated(run_id, message["status"], message["time"])


def is_away(error: Exception) -> bool:
    """Whether a call of a remote MLflow failed because the server is unreachable or broken."""
    from mlflow.exceptions import MlflowException

    code: int
    if isinstance(error, MlflowException):
        code = error.get_http_status_code()
        # MLflow also raises code 500 for client-side errors; only failed API requests mean an unreachable server.
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
    """Set timeout and retries of MLflow's requests within the block, by the environment variables that MLflow reads.

    `brisk` is for calls that training waits for. Without it, values that the user has set are kept.
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
