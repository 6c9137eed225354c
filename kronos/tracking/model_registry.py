"""Models in MLflow: log a tokenizer and predictor as one model, register versions, find weights by their URI.

Part of the tracking package: `client.py` starts runs, `reader.py` reads them, this module logs and finds models.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kronos.data.bars import FEATURES
from kronos.evaluation.calibration import Calibration
from kronos.tracking.client import TAG, Run, connect, first_line, versions
from kronos.tracking.reader import TrackedRun, load_run
from kronos.tracking.run import MODEL_TAG, limits, named
from kronos.tracking.served_bounds import Bounds
from kronos.utils.errors import UserError
from kronos.utils.files import PACKAGE, write_json

ADDRESSES = ("runs:/", "models:/")
ALIAS_PENDING = "alias_pending"  # tag of a version that is to become the champion, until it has the alias
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
    calibration: Calibration | None = None,
    name: str = "kronos",
) -> str:
    """Log both models as one MLflow model of a run, with signature, input example and pinned requirements.

    Args:
        run: the run that the model belongs to.
        uri: tracking URI; None is MLflow's default.
        tokenizer: the tokenizer module.
        predictor: the predictor module.
        settings: defaults for serving. A request may override pred_len, T, top_p, top_k, sample_count, seed,
            quantiles and bands, but not lookback, max_context, clip, calendar, fine_rotary, sliding and precision.
            The bounds of a request are logged as the model config.
        example: bars as in a request, long format.
        step: MLflow shows the run's metrics of this step at the model too.
        calibration: of the two models' bands, None where there is none.
        name: of the logged model on MLflow's pages.

    Returns:
        The model URI. A model that an interrupted run has already logged is used again.

    Raises:
        TrackingAway: where the server is unreachable for longer than the wait time.
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
        if calibration is not None:
            write_json(folder / "calibration.json", calibration.to_json())
            parts["calibration"] = "calibration.json"

        client = connect(uri)

        def log() -> str:
            with limits(brisk=False):
                if there := _logged(run, client):
                    return there
                # Created here, since MLflow would use its process-wide active experiment instead of the run's.
                made = client.create_logged_model(
                    run.experiment_id, name, run.id, params=dict(client.get_run(run.id).data.params)
                )
                info = Model.log(
                    artifact_path=None, name=name, model_id=made.model_id, flavor=mlflow.pyfunc, run_id=run.id,
                    step=step,
                    python_model=str(PACKAGE / "tracking" / "served_model.py"),
                    artifacts={name: str(folder / part) for name, part in parts.items()},
                    code_paths=[str(PACKAGE)], signature=signature(settings, tokenizer.columns),
                    input_example=example, model_config=asdict(Bounds()),
                    pip_requirements=[
                        f"{name}=={version}" for name, version in versions(NEEDED).items() if name != "python"
                    ],
                )  # fmt: skip
                return str(info.model_uri)

        address = run.outbox.now(log)
        run.tags({MODEL_TAG: address})
        return address


def _logged(run: Run, client: Any) -> str | None:
    """The URI of the model that the run has logged; a model with an incomplete upload is deleted."""
    for model in client.search_logged_models([run.experiment_id], f"source_run_id = '{run.id}'"):
        if str(model.status) == "READY":
            return str(model.model_uri)
        client.delete_logged_model(model.model_id)
    return None


def signature(settings: Mapping[str, Any], columns: Sequence[str] = FEATURES) -> Any:
    """Return the MLflow signature of the served model: columns of bars and forecasts, params with their defaults.

    `columns` are those of the model; volume and amount need not be given.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    def column(kind: str, name: str, required: bool = True) -> Any:
        return ColSpec(kind, name, required=required)

    inputs = [column("string", "instrument", False), column("datetime", "datetime")]
    optional = ("volume", "amount")
    inputs += [column("double", name, name not in optional) for name in columns]
    inputs += [column("double", name, False) for name in optional if name not in columns]
    conditions = settings.get("conditions", {})
    types = {"category": "string", "number": "double"}
    inputs += [column(types[kind], name, False) for name, kind in conditions.items() if name not in columns]
    outputs = [
        column("string", "instrument"),
        column("datetime", "as_of"),
        column("datetime", "datetime"),
        column("long", "step"),
    ]
    outputs += [column("double", name) for name in columns]
    outputs += [column("string", "missing_conditions")] if conditions else []
    params = [
        ParamSpec("pred_len", "long", int(settings["pred_len"])),
        ParamSpec("T", "double", float(settings["T"])),
        ParamSpec("top_p", "double", float(settings["top_p"])),
        ParamSpec("top_k", "long", int(settings["top_k"])),
        ParamSpec("sample_count", "long", int(settings["sample_count"])),
        ParamSpec("seed", "long", int(settings["seed"])),
        ParamSpec("bands", "string", str(settings["bands"])),
        ParamSpec("quantiles", "double", [float(level) for level in settings["quantiles"]], (-1,)),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


@contextmanager
def _uri(uri: str | None) -> Iterator[None]:
    """Set MLflow's process-wide tracking URI, which its model functions use, and reset it at the end of the block.

    It is reset to None rather than to `get_tracking_uri()`, since the default depends on the working directory.
    """
    if uri is None:
        yield
        return
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)  # also sets the environment variable
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def weights(address: str, kind: str, uri: str | None) -> str:
    """Download the weights at `runs:/...` or `models:/...`, return the local folder; other paths are returned as is.

    `kind` is tokenizer or predictor. `runs:/RUN` without a path means the tokenizer or predictor of the model that
    the run logged, or else the run's best checkpoint. Raises UserError where there is no such checkpoint.
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
        reason = f"there is no {kind} checkpoint"
    raise UserError(f"{kind}_path {address}: {reason}")


def _candidates(address: str, uri: str | None) -> list[str]:
    """URIs to try: the address itself or, for a run without a path, its logged model and then its checkpoint."""
    if address.startswith("models:/") or "/" in address.removeprefix("runs:/").strip("/"):
        return [address]
    tags = load_run(address.removeprefix("runs:/").strip("/"), uri).tags
    logged = [tags[TAG + MODEL_TAG]] if TAG + MODEL_TAG in tags else []
    return [*logged, f"{address.rstrip('/')}/checkpoints/best_model"]


@dataclass(frozen=True)
class Version:
    """A version of a registered model; `run_id` is the run that logged the model."""

    name: str
    number: int
    run_id: str
    tags: dict[str, str]

    @property
    def address(self) -> str:
        return f"models:/{self.name}/{self.number}"

    def tag(self, name: str, default: str = "") -> str:
        """The value of the tag `kronos.NAME`, or the default."""
        return self.tags.get(TAG + name, default)


def register(
    name: str, model: str, run_id: str, tags: Mapping[str, Any], description: str, uri: str | None
) -> Version:
    """Register a logged model (`models:/m-...`) as the next version of `name`, which is created if needed."""
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    with _told(f"registered_model_name {name}"), _uri(uri):
        try:
            client.create_registered_model(name)
        except MlflowException:
            client.get_registered_model(name)  # it exists already, or this call raises the actual error
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
    """All versions of a registered model, oldest first; empty where the model does not exist."""
    client = connect(uri)
    with _told(f"registered_model_name {name}"):
        found = [_version(one) for one in client.search_model_versions(f"name = '{name}'")]
    return sorted(found, key=lambda version: version.number)


def newest_versions(uri: str | None, count: int) -> list[Version]:
    """The last versions of all registered models, newest first."""
    client = connect(uri)
    with _told("registered models"):
        found = client.search_model_versions(max_results=1000)
    ordered = sorted(found, key=lambda one: one.creation_timestamp, reverse=True)
    return [_version(one) for one in ordered[:count]]


def champion_of(name: str, uri: str | None) -> Version | None:
    """The version with the alias `champion`, or None."""
    client = connect(uri)
    with _told(f"registered_model_name {name}"):
        known = client.search_registered_models(f"name = '{name}'")
        if not known or CHAMPION not in client.get_registered_model(name).aliases:
            return None
        return _version(client.get_model_version_by_alias(name, CHAMPION))


def describe(version: Version, tags: Mapping[str, Any], description: str, uri: str | None) -> None:
    """Set tags and description of an existing version."""
    client = connect(uri)
    with _told(version.address):
        for key, text in named(tags).items():
            client.set_model_version_tag(version.name, str(version.number), key, text)
        client.update_model_version(version.name, str(version.number), description)


def make_champion(version: Version, uri: str | None) -> None:
    """Move the alias `champion` to this version, and delete its tag that says that this is still to be done."""
    client = connect(uri)
    with _told(version.address):
        client.set_registered_model_alias(version.name, CHAMPION, str(version.number))
        client.delete_model_version_tag(version.name, str(version.number), TAG + ALIAS_PENDING)


def download(version: Version, uri: str | None, folder: Path) -> Path:
    """Download a version into `folder`; returns the folder with tokenizer/, predictor/ and serving.json."""
    import mlflow

    with _told(version.address), _uri(uri):
        copied = mlflow.artifacts.download_artifacts(artifact_uri=version.address, dst_path=str(folder))
    return Path(copied) / "artifacts"


def _version(found: Any) -> Version:
    return Version(found.name, int(found.version), str(found.run_id), dict(found.tags))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Raise a UserError with the first line of an error of MLflow."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(f"{what}: error from MLflow's model registry: {first_line(error)}") from None


def pinned(address: str, uri: str | None) -> str:
    """Return `models:/NAME@ALIAS` as the version that has the alias now, `models:/NAME/3`; others as they are.

    Raises UserError where the registry has no such model or no version with that alias.
    """
    from mlflow.exceptions import MlflowException

    if not address.startswith("models:/") or "@" not in address:
        return address
    name, _, alias = address.removeprefix("models:/").rpartition("@")
    client = connect(uri)
    try:
        with limits(brisk=True):
            return _version(client.get_model_version_by_alias(name, alias)).address
    except MlflowException as error:
        raise UserError(
            f"{address}: no version of {name} has the alias {alias} ({first_line(error)}): register one with  "
            f"python -m kronos pipeline --registered-model-name {name}  or give a folder or runs:/..."
        ) from None


def source_run(address: str, what: str, uri: str | None) -> TrackedRun:
    """The run of a `runs:/...` or `models:/...` URI. Raises UserError, which begins with `what`, if there is none."""
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
