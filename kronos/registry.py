"""Models in MLflow: log a tokenizer and predictor as one model, register versions, find weights by their address.

With `tracking.py` (writing runs) and `tracked.py` (reading them) a part of the one door to MLflow.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from kronos.errors import UserError
from kronos.files import write_json
from kronos.recording import limits
from kronos.tracked import load_run
from kronos.tracking import TAG, Run, connect, first_line, versions

PACKAGE = Path(__file__).resolve().parent
MODEL = "model"  # name of the model under its run
MODEL_TAG = "model_uri"  # of the run: a logged model does not lie among its run's artifacts
ADDRESSES = ("runs:/", "models:/")
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
) -> str:
    """Log both models as one MLflow model of a run, with signature, example and pinned requirements.

    `settings` are the defaults of serving: pred_len, T, top_p, top_k, sample_count, seed, quantiles may be given
    with a request; lookback, max_context, clip, calendar, fine_rotary and precision may not.

    A model that the run has from before it was interrupted stays the only one.

    Returns the model's address. Raises TrackingAway where the server is away for too long.
    """
    import mlflow
    from mlflow.models import Model

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
                    python_model=str(PACKAGE / "served_model.py"),
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
