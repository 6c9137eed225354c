"""Models in MLflow: log a tokenizer and predictor as one model, register versions, find weights by their address.

Part of the tracking package: `client.py` opens runs, `reader.py` reads them, this module logs and finds models.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kronos.tracking.client import TAG, Run, connect, first_line, versions
from kronos.tracking.reader import TrackedRun, load_run
from kronos.tracking.run import limits, named
from kronos.utils.errors import UserError
from kronos.utils.files import PACKAGE, write_json

MODEL = "model"  # name of the model under its run
MODEL_TAG = "model_uri"  # of the run: a logged model does not lie among its run's artifacts
ADDRESSES = ("runs:/", "models:/")
CHAMPION = "champion"  # alias
NEEDED = (
    "torch",
    "mlflow",
    "pandas",
    "numpy",
    "safetensors",
    "pydantic",
    "exchange_calendars",
    "psutil",
    "tqdm",
)


def log_model(
    run: Run,
    uri: str | None,
    tokenizer: Any,
    predictor: Any,
    settings: Mapping[str, Any],
    example: pd.DataFrame,
    step: int = 0,
) -> str:
    """Log both models as one MLflow model of a run, with signature, example and pinned requirements.

    MLflow shows the run's metrics of `step` at the model too.

    `settings` are the defaults of serving: pred_len, T, top_p, top_k, sample_count, seed, quantiles may be given
    with a request; lookback, max_context, clip, calendar, fine_rotary and precision may not.

    A model that the run has from before it was interrupted stays the only one.

    Returns the model's address. Raises TrackingAway where the server is away for too long.
    """
    import mlflow
    from mlflow.models import Model

    run.flush()
    with tempfile.TemporaryDirectory(prefix="kronos-model-") as scratch, _uri(uri):
        folder = Path(scratch)
        tokenizer.save_pretrained(folder / "tokenizer")
        predictor.save_pretrained(folder / "predictor")
        write_json(folder / "serving.json", dict(settings))
        parts = {"tokenizer": "tokenizer", "predictor": "predictor", "serving": "serving.json"}

        client = connect(uri)

        def log() -> str:
            with limits(brisk=False):
                if there := _logged(run, client):
                    return there
                # Made here: MLflow would put it into its process-wide experiment, not the run's.
                made = client.create_logged_model(
                    run.experiment_id, MODEL, run.id, params=dict(client.get_run(run.id).data.params)
                )
                info = Model.log(
                    artifact_path=None, name=MODEL, model_id=made.model_id, flavor=mlflow.pyfunc, run_id=run.id,
                    step=step,
                    python_model=str(PACKAGE / "tracking" / "served_model.py"),
                    artifacts={name: str(folder / part) for name, part in parts.items()},
                    code_paths=[str(PACKAGE)], signature=_signature(settings), input_example=example,
                    pip_requirements=[
                        f"{name}=={version}" for name, version in versions(NEEDED).items() if name != "python"
                    ],
                )  # fmt: skip
                return str(info.model_uri)

        address = run.outbox.now(log)
        run.tags({MODEL_TAG: address})
        return address


def _logged(run: Run, client: Any) -> str | None:
    """The address of the model that a run has; one that did not arrive whole is deleted."""
    for model in client.search_logged_models([run.experiment_id], f"source_run_id = '{run.id}'"):
        if str(model.status) == "READY":
            return str(model.model_uri)
        client.delete_logged_model(model.model_id)
    return None


def _signature(settings: Mapping[str, Any]) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    def column(kind: str, name: str, required: bool = True) -> Any:
        return ColSpec(kind, name, required=required)

    inputs = [column("string", "instrument", False), column("datetime", "datetime")]
    inputs += [column("double", name) for name in ("open", "high", "low", "close")]
    inputs += [column("double", name, False) for name in ("volume", "amount")]
    outputs = [
        column("string", "instrument"),
        column("datetime", "as_of"),
        column("datetime", "datetime"),
        column("long", "step"),
    ]
    outputs += [column("double", name) for name in ("open", "high", "low", "close", "volume", "amount")]
    params = [
        ParamSpec("pred_len", "long", int(settings["pred_len"])),
        ParamSpec("T", "double", float(settings["T"])),
        ParamSpec("top_p", "double", float(settings["top_p"])),
        ParamSpec("top_k", "long", int(settings["top_k"])),
        ParamSpec("sample_count", "long", int(settings["sample_count"])),
        ParamSpec("seed", "long", int(settings["seed"])),
        ParamSpec("quantiles", "double", [float(level) for level in settings["quantiles"]], (-1,)),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


@contextmanager
def _uri(uri: str | None) -> Iterator[None]:
    """MLflow's model functions know one process-wide tracking address: set it, and leave no trace of that.

    Putting back what `get_tracking_uri` says would pin the default, which follows the working directory.
    """
    if uri is None:
        yield
        return
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)  # sets the variable too
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def weights(address: str, kind: str, uri: str | None) -> str:
    """A local folder of the weights at `runs:/...` or `models:/...`; another path is returned as it is.

    `kind` is tokenizer or predictor. A `runs:/RUN` address without a path means that part of the model that the
    run logged, or its own best checkpoint.
    """
    if not address.startswith(ADDRESSES):
        return address
    from mlflow.exceptions import MlflowException

    connect(uri)
    import mlflow

    for tried in _candidates(address, uri):
        try:
            with _uri(uri):
                folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=tried))
        except (MlflowException, OSError) as error:
            reason = first_line(error)
            continue
        for found in (folder, folder / "artifacts" / kind):
            if (found / "model.safetensors").is_file():
                return str(found)
        reason = f"no checkpoint of a {kind} there"
    raise UserError(f"{kind}_path {address}: {reason}")


def _candidates(address: str, uri: str | None) -> list[str]:
    """What an address may mean: itself; for a bare run, the model that it logged or its checkpoint."""
    if address.startswith("models:/") or "/" in address.removeprefix("runs:/").strip("/"):
        return [address]
    tags = load_run(address.removeprefix("runs:/").strip("/"), uri).tags
    logged = [tags[TAG + MODEL_TAG]] if TAG + MODEL_TAG in tags else []
    return [*logged, f"{address.rstrip('/')}/checkpoints/best_model"]


@dataclass(frozen=True)
class Version:
    """A version of a registered model; `run_id` is that of the run whose model it is."""

    name: str
    number: int
    run_id: str
    tags: dict[str, str]

    @property
    def address(self) -> str:
        return f"models:/{self.name}/{self.number}"

    def tag(self, name: str, default: str = "") -> str:
        """A tag of this project."""
        return self.tags.get(TAG + name, default)


def register(
    name: str, model: str, run_id: str, tags: Mapping[str, Any], description: str, uri: str | None
) -> Version:
    """Make a logged model (`models:/m-...`) the next version under a name; the first makes the name."""
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    with _told(f"registered_model_name {name}"), _uri(uri):
        try:
            client.create_registered_model(name)
        except MlflowException:
            client.get_registered_model(name)  # it is there already, or this says what is wrong
        found = client.create_model_version(
            name,
            model,
            run_id=run_id,
            tags=named(tags),
            description=description,
            model_id=model.removeprefix("models:/"),
        )
    return _version(found)


def versions_of(name: str, uri: str | None) -> list[Version]:
    """All versions under a name, the oldest first; none where the name is not there."""
    client = connect(uri)
    with _told(f"registered_model_name {name}"):
        found = [_version(one) for one in client.search_model_versions(f"name = '{name}'")]
    return sorted(found, key=lambda version: version.number)


def champion_of(name: str, uri: str | None) -> Version | None:
    """The version that has the alias `champion`, if any."""
    client = connect(uri)
    with _told(f"registered_model_name {name}"):
        known = client.search_registered_models(f"name = '{name}'")
        if not known or CHAMPION not in client.get_registered_model(name).aliases:
            return None
        return _version(client.get_model_version_by_alias(name, CHAMPION))


def describe(version: Version, tags: Mapping[str, Any], description: str, uri: str | None) -> None:
    """Set tags and the description of a version that is there."""
    client = connect(uri)
    with _told(version.address):
        for key, text in named(tags).items():
            client.set_model_version_tag(version.name, str(version.number), key, text)
        client.update_model_version(version.name, str(version.number), description)


def make_champion(version: Version, uri: str | None) -> None:
    """Move the alias `champion` to this version."""
    with _told(version.address):
        connect(uri).set_registered_model_alias(version.name, CHAMPION, str(version.number))


def download(version: Version, uri: str | None, folder: Path) -> Path:
    """Copy a version into `folder`; tokenizer/, predictor/ and serving.json lie in the folder returned."""
    import mlflow

    with _told(version.address), _uri(uri):
        copied = mlflow.artifacts.download_artifacts(artifact_uri=version.address, dst_path=str(folder))
    return Path(copied) / "artifacts"


def _version(found: Any) -> Version:
    return Version(found.name, int(found.version), str(found.run_id), dict(found.tags))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """MLflow's refusal as one sentence."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(f"{what}: MLflow's registry says: {first_line(error)}") from None


def source_run(address: str, what: str, uri: str | None) -> TrackedRun:
    """The run behind `runs:/...` or `models:/...`; `what` names the address in the error where there is none."""
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    scheme, _, rest = address.partition(":/")
    rest = rest.strip("/")
    try:
        if scheme == "runs":
            run_id = rest.split("/")[0]
        elif "@" in rest:
            run_id = client.get_model_version_by_alias(*rest.rsplit("@", 1)).run_id
        elif "/" in rest:
            run_id = client.get_model_version(*rest.split("/", 1)).run_id
        else:
            run_id = client.get_logged_model(rest).source_run_id
    except MlflowException as error:
        raise UserError(f"{what} {address}: {first_line(error)}") from None
    return load_run(run_id, uri)
