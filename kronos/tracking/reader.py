"""Read tracked runs: the latest run of a stage or a run by id, with its metrics, artifacts and predictions.

Only reads from MLflow; `tracking.client` starts runs and `tracking.run` logs to them.
"""

import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from kronos.config.schema import Config
from kronos.data.store import BarStore, open_store
from kronos.tracking import metric_names
from kronos.tracking.client import TAG, connect, first_line, process_of
from kronos.tracking.run import SEPARATOR
from kronos.utils.errors import UserError
from kronos.utils.files import RECORD, read_json

MAX_RUNS = 1000
# Metrics that tell the result of a training, a backtest or a pipeline, in the order of a comparison.
HEADLINE = (
    "best_val_loss", "best_step", "loss/tokenizer", "loss/predictor", "ranking/rank_ic", "ranking/rank_ic_low",
    "ranking/rank_ic_high", "forecast/skill", "forecast/skill_low", "forecast/skill_high", "forecast/coverage_90",
    "forecast/coverage_90_low", "forecast/coverage_90_high", "forecast/coverage_90_raw",
    "portfolio/excess_over_benchmark", *(f"portfolio/excess_over_equal_weight{end}" for end in metric_names.ENDS),
    "evidence/test_days", "evidence/looks_before",
)  # fmt: skip
PIPELINE_STAGES = ("data", "tokenizer", "predictor", "calibrate", "backtest")
OF_SEARCHES = ("search_parent", "search", "trial")  # tags of runs that belong to a search
DATABASE = "mlflow.db"  # MLflow's default, in the working folder of the runs


class TrackedRun:
    """A run in the tracking store. Data are read on access; each artifact is downloaded to a temporary folder.

    Args:
        client: the MLflow client that found the run.
        run: the MLflow run entity.
        uri: tracking URI of the store; None is MLflow's default.
        folder: working folder of the run, which relative paths in its configuration start from.
    """

    def __init__(self, client: Any, run: Any, uri: str | None = None, folder: Path = Path()) -> None:
        self._client, self._run = client, run
        self.uri, self.folder = uri, folder
        self.id: str = run.info.run_id
        self.status: str = run.info.status
        self.name: str = run.info.run_name
        self.params: dict[str, str] = dict(run.data.params)
        self.tags: dict[str, str] = dict(run.data.tags)
        # Runs of earlier versions have the present names too.
        self.metrics: dict[str, float] = metric_names.present(self.stage, run.data.metrics)

    def __repr__(self) -> str:
        return f"TrackedRun({self.stage or self.name}, {self.status}, {self.id})"

    @property
    def stage(self) -> str:
        """The stage of the run; empty for a run of another project."""
        return self.tags.get(TAG + "stage", "")

    @property
    def label(self) -> str:
        """The beginning of the name, without the fields that differ, and of the id: for headings and legends."""
        return f"{self.name.partition(SEPARATOR)[0]} {self.id[:8]}"

    @property
    def parent(self) -> str | None:
        """The run id of the parent run (pipeline or search), or None."""
        return self.tags.get("mlflow.parentRunId")

    @property
    def started(self) -> pd.Timestamp:
        """The time of the start, UTC."""
        return pd.Timestamp(self._run.info.start_time, unit="ms")

    @property
    def process(self) -> str:
        """The process that started or resumed the run last, as `utils.process_identity` writes it."""
        return process_of(self._run)

    @cached_property
    def config(self) -> Config:
        """The configuration of the run."""
        return Config.model_validate(read_json(self.file("config.json")))

    @cached_property
    def figures(self) -> dict[str, float]:
        """Every figure of the result, not only the tracked metrics: those of the record, by its names.

        Of a pipeline, the figures of its stages, with the stage before the name; of a run that reused an output, the
        figures of the run that made it. A run without a record has its metrics.
        """
        if self.stage == "pipeline":
            runs = {
                name: self.tags[tag] for name in PIPELINE_STAGES if (tag := f"{TAG}{name}_run") in self.tags
            }
            return {
                f"{stage}/{name}": value
                for stage, run_id in runs.items()
                for name, value in load_run(run_id, self.uri).figures.items()
            }
        if (reused := self.tags.get(f"{TAG}reused_run", self.id)) != self.id:
            return load_run(reused, self.uri).figures
        if RECORD not in self.files():
            return self.metrics
        recorded = read_json(self.file(RECORD)).get("metrics", {})
        shown = metric_names.present(self.stage, recorded)
        own = {name: value for name, value in self.metrics.items() if name not in shown}  # of single steps
        return {**own, **recorded}

    def history(self, metric: str) -> pd.Series:
        """Return a metric as a series over steps; empty where it was not logged."""
        points = self._client.get_metric_history(self.id, metric)
        index = pd.Index([point.step for point in points], name="step")
        return pd.Series(
            [point.value for point in points], index=index, name=metric, dtype=float
        ).sort_index()

    def files(self, folder: str | None = None) -> list[str]:
        """Return the paths of the run's artifacts (files and folders) directly below `folder`."""
        return [item.path for item in self._client.list_artifacts(self.id, folder)]

    def file(self, name: str) -> Path:
        """Download an artifact (file or folder) and return its local path. Raises UserError if it is missing."""
        from mlflow.exceptions import MlflowException

        try:
            return Path(self._client.download_artifacts(self.id, name, self._copies))
        except (MlflowException, OSError) as error:
            raise UserError(
                f"run {self.id} ({self.stage}) has no artifact {name}: {first_line(error)}"
            ) from None

    @cached_property
    def _copies(self) -> str:
        self._folder = tempfile.TemporaryDirectory(prefix="kronos-run-")  # deleted with this object
        return self._folder.name

    def predictions(self) -> pd.DataFrame:
        """Return the forecasts of a backtest or predict run: instrument, as_of, datetime, step and the features.

        Raises UserError for a run of another stage.
        """
        names = {"backtest": "predictions.parquet", "predict": "forecast.parquet"}
        if self.stage not in names:
            raise UserError(
                f"run {self.id} ({self.stage or 'no stage'}) has no predictions: use a backtest or predict run"
            )
        return pd.read_parquet(self.file(names[self.stage]))

    def store(self) -> BarStore:
        """Open the bar store that the run used. Raises UserError where it has been rebuilt with other bars since."""
        store = open_store(self.folder / self.config.dataset_path)
        if store.digest != self.tags.get(TAG + "data_digest"):
            raise UserError(
                f"the store at {store.path} has other bars than run {self.id} used: run the data stage again"
            )
        return store

    def children(self) -> list["TrackedRun"]:
        """Return the child runs, in order of their start times."""
        where = f"tags.`mlflow.parentRunId` = '{self.id}'"
        found = _search(self._client, self._run.info.experiment_id, where)
        return [TrackedRun(self._client, run, self.uri, self.folder) for run in found[::-1]]


def latest(stage: str, uri: str | None = None, experiment: str = "kronos") -> TrackedRun:
    """Return the newest finished run of a stage, except the runs that `newest` excludes.

    Args:
        stage: data, tokenizer, predictor, backtest, walk_forward, audit, predict, pipeline or search.
        uri: tracking URI; None is MLflow's default, with `mlflow.db` searched for in the parent folders too.
        experiment: name of the experiment.

    Raises:
        UserError: where the experiment or such a run does not exist.
    """
    runs = newest(stage, 1, uri, experiment)
    if not runs:
        raise UserError(
            f"experiment {experiment!r} has no finished {stage} run: run  python -m kronos {stage}"
        )
    return runs[0]


def newest(stage: str, count: int, uri: str | None = None, experiment: str = "kronos") -> list[TrackedRun]:
    """Return up to `count` finished runs of a stage, the newest first.

    Excluded are runs that reused the output of another run, and runs that belong to a search: its trials, and the
    data and tokenizer runs that prepared them.
    """
    where = f"attributes.status = 'FINISHED' and tags.`{TAG}stage` = '{stage}'"
    left_out = {TAG + name for name in ("reused_run", *OF_SEARCHES)}
    found = _runs_of(where, uri, experiment)
    return [run for run in found if not left_out & run.tags.keys()][:count]


def recent(
    stages: Sequence[str], count: int, uri: str | None = None, experiment: str = "kronos"
) -> list[TrackedRun]:
    """Return up to `count` runs of some stages, running, finished or not, the newest first.

    Excluded are runs that belong to a pipeline or to a search. Arguments and errors are as of `newest`.
    """
    left_out = {TAG + name for name in OF_SEARCHES}
    found = [
        run
        for stage in stages
        for run in _runs_of(f"tags.`{TAG}stage` = '{stage}'", uri, experiment)
        if run.parent is None and not left_out & run.tags.keys()
    ]
    return sorted(found, key=lambda run: run.started, reverse=True)[:count]


def _runs_of(where: str, uri: str | None, experiment: str) -> list[TrackedRun]:
    """The matching runs of an experiment, newest first. Raises UserError where the experiment does not exist."""
    uri, folder = _place(uri)
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        place = uri or "MLflow's default place"
        raise UserError(f"no experiment {experiment!r} at {place}: run  make pipeline  first")
    return [TrackedRun(client, run, uri, folder) for run in _search(client, found.experiment_id, where)]


def compare(runs: Sequence[TrackedRun], headline: bool = False) -> pd.DataFrame:
    """Return a table with one column per run: the parameters and tags that differ, then every figure of the results.

    With `headline`, only the tracked metrics that tell a stage's result, where a run has any of them.

    Predictor losses of runs with different tokenizers are not comparable; the row `tokenizer_digest` shows whether
    the tokenizers differ.
    """
    columns = [run.label for run in runs]
    rows: dict[tuple[str, str], list[Any]] = {}
    for name in sorted({name for run in runs for name in run.params}):
        values = [run.params.get(name, "") for run in runs]
        if len(set(values)) > 1:
            rows["parameter", name] = values
    for name in ("data_digest", "tokenizer_digest", "git_commit"):
        values = [run.tags.get(TAG + name, "")[:12] for run in runs]
        if len(set(values)) > 1:
            rows["tag", name] = values
    found = [run.metrics for run in runs]
    names = [name for name in HEADLINE if headline and any(name in one for one in found)]
    if not names:
        found = found if headline else [run.figures for run in runs]
        names = sorted({name for one in found for name in one})
    for name in names:
        rows["metric", name] = [one.get(name, float("nan")) for one in found]
    index = pd.MultiIndex.from_tuples(list(rows), names=["kind", "name"])
    return pd.DataFrame(list(rows.values()), index=index, columns=columns, dtype=object)


def load_run(run_id: str, uri: str | None = None) -> TrackedRun:
    """Return a run by its id; `uri` is as in `latest`. Raises UserError where the run does not exist."""
    from mlflow.exceptions import MlflowException

    uri, folder = _place(uri)
    client = connect(uri)
    try:
        return TrackedRun(client, client.get_run(run_id), uri, folder)
    except MlflowException as error:
        raise UserError(f"no run {run_id}: {first_line(error)}") from None


def _place(uri: str | None) -> tuple[str | None, Path]:
    """Return the tracking URI and the folder that relative paths of its runs start from.

    Without a URI, the nearest parent folder with `mlflow.db` is used, up to the root of the project's clone, since
    the working folder of a notebook is below the one in which the runs were made.
    """
    if uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri, Path()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / DATABASE).is_file():
            return (
                (None, Path()) if folder == here else (f"sqlite:///{(folder / DATABASE).as_posix()}", folder)
            )
        if (folder / "MLproject").is_file():
            break
    return None, Path()


def _search(client: Any, experiment_id: str, where: str) -> list[Any]:
    """Return the matching runs, newest first."""
    order = ["attributes.start_time DESC"]
    return list(client.search_runs([experiment_id], where, max_results=MAX_RUNS, order_by=order))
