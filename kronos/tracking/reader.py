"""Tracked runs, read: the latest of a stage or one by id, its metrics, files and predictions as plain values.

The reading half of the door to MLflow; `tracking.py` is the writing half.
"""

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from kronos.config.schema import Config
from kronos.data.store import BarStore, open_store
from kronos.tracking.client import TAG, connect, first_line
from kronos.utils.errors import UserError
from kronos.utils.files import read_json

MAX_RUNS = 1000


class TrackedRun:
    """A run in the tracking store. Everything is read when asked for; artifacts are copied once."""

    def __init__(self, client: Any, run: Any) -> None:
        self._client, self._run = client, run
        self.id: str = run.info.run_id
        self.status: str = run.info.status
        self.name: str = run.info.run_name
        self.params: dict[str, str] = dict(run.data.params)
        self.metrics: dict[str, float] = dict(run.data.metrics)
        self.tags: dict[str, str] = dict(run.data.tags)

    def __repr__(self) -> str:
        return f"TrackedRun({self.stage or self.name}, {self.status}, {self.id})"

    @property
    def stage(self) -> str:
        """The stage that the run is of; empty for a run that is not of this project."""
        return self.tags.get(TAG + "stage", "")

    @property
    def parent(self) -> str | None:
        """The run id of the pipeline or search that the run belongs to."""
        return self.tags.get("mlflow.parentRunId")

    @cached_property
    def config(self) -> Config:
        """The configuration that the run was made with."""
        return Config.model_validate(read_json(self.file("config.json")))

    def history(self, metric: str) -> pd.Series:
        """A metric by step; empty where it was not recorded."""
        points = self._client.get_metric_history(self.id, metric)
        index = pd.Index([point.step for point in points], name="step")
        return pd.Series(
            [point.value for point in points], index=index, name=metric, dtype=float
        ).sort_index()

    def files(self, folder: str | None = None) -> list[str]:
        """Names of the run's artifacts, folders too, below `folder`."""
        return [item.path for item in self._client.list_artifacts(self.id, folder)]

    def file(self, name: str) -> Path:
        """An artifact (a file or a folder) as a local path."""
        from mlflow.exceptions import MlflowException

        try:
            return Path(self._client.download_artifacts(self.id, name, self._copies))
        except (MlflowException, OSError) as error:
            raise UserError(
                f"run {self.id} ({self.stage}) has no artifact {name}: {first_line(error)}"
            ) from None

    @cached_property
    def _copies(self) -> str:
        self._folder = tempfile.TemporaryDirectory(prefix="kronos-run-")  # goes with this object
        return self._folder.name

    def predictions(self) -> pd.DataFrame:
        """The forecasts of a backtest or predict run, long: instrument, as_of, datetime, step and the features."""
        names = {"backtest": "predictions.parquet", "predict": "forecast.parquet"}
        if self.stage not in names:
            raise UserError(
                f"run {self.id} ({self.stage or 'no stage'}) has no predictions: take a backtest run"
            )
        return pd.read_parquet(self.file(names[self.stage]))

    def store(self) -> BarStore:
        """The bars that the run used, from where it found them; other bars there by now are refused."""
        store = open_store(self.config.dataset_path)
        if store.digest != self.tags.get(TAG + "data_digest"):
            raise UserError(
                f"the store at {store.path} has other bars than run {self.id} used: build them again"
            )
        return store

    def children(self) -> list["TrackedRun"]:
        """The runs under this one, in the order in which they began."""
        return _search(
            self._client, [self._run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{self.id}'"
        )[::-1]


def latest(stage: str, uri: str | None = None, experiment: str = "kronos") -> TrackedRun:
    """The newest finished run of a stage.

    Args:
        stage: data, tokenizer, predictor, backtest, predict, pipeline or search.
        uri: tracking address; None is MLflow's own rule.
        experiment: name of the experiment.

    Raises:
        UserError: where there is no such experiment or run.
    """
    runs = newest(stage, 1, uri, experiment)
    if not runs:
        raise UserError(
            f"experiment {experiment!r} has no finished {stage} run: run  python -m kronos {stage}"
        )
    return runs[0]


def newest(stage: str, count: int, uri: str | None = None, experiment: str = "kronos") -> list[TrackedRun]:
    """Up to `count` finished runs of a stage, the newest first; those that point to another's output are left out."""
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        place = uri or "MLflow's default place"
        raise UserError(f"no experiment {experiment!r} at {place}: run  make pipeline  first")
    where = f"attributes.status = 'FINISHED' and tags.`{TAG}stage` = '{stage}'"
    elsewhere = {TAG + "reused_run", TAG + "search_parent"}
    runs = [run for run in _search(client, [found.experiment_id], where) if not elsewhere & run.tags.keys()]
    return runs[:count]


def compare(runs: Sequence[TrackedRun]) -> pd.DataFrame:
    """Runs as columns; rows are the parameters that differ, then every metric that one of them has.

    Predictor losses of runs with different tokenizers are not comparable: the row `tokenizer_digest` shows them.
    """
    columns = [f"{run.name} {run.id[:8]}" for run in runs]
    rows: dict[tuple[str, str], list[Any]] = {}
    for name in sorted({name for run in runs for name in run.params}):
        values = [run.params.get(name, "") for run in runs]
        if len(set(values)) > 1:
            rows["parameter", name] = values
    for name in ("data_digest", "tokenizer_digest", "git_commit"):
        values = [run.tags.get(TAG + name, "")[:12] for run in runs]
        if len(set(values)) > 1:
            rows["tag", name] = values
    for name in sorted({name for run in runs for name in run.metrics}):
        rows["metric", name] = [run.metrics.get(name, float("nan")) for run in runs]
    index = pd.MultiIndex.from_tuples(list(rows), names=["kind", "name"])
    return pd.DataFrame(list(rows.values()), index=index, columns=columns, dtype=object)


def load_run(run_id: str, uri: str | None = None) -> TrackedRun:
    """A run by its id. Raises UserError where there is none."""
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    try:
        return TrackedRun(client, client.get_run(run_id))
    except MlflowException as error:
        raise UserError(f"no run {run_id}: {first_line(error)}") from None


def _search(client: Any, experiments: Sequence[str], where: str) -> list[TrackedRun]:
    """Runs that fit, the newest first."""
    order = ["attributes.start_time DESC"]
    found = client.search_runs(list(experiments), where, max_results=MAX_RUNS, order_by=order)
    return [TrackedRun(client, run) for run in found]
