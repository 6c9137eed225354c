"""Results of a search: best.json, the best weights, tables and figures, in its folder and on its MLflow run."""

import csv
import math
import shutil
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kronos.config.schema import SECTION_OF, Config
from kronos.stages.search.session import Search
from kronos.utils.errors import UserError
from kronos.utils.files import write_json

INTERVAL = 0.95


def write_results(search: Search, asked: Config) -> dict[str, Any]:
    """Write the current results of the study; with several processes, the last one to finish writes the final ones.

    Returns the record with the best trial and its metrics. Raises UserError where no trial has finished.
    """
    study, folder, config = search.study, search.folder, search.config
    folder.mkdir(parents=True, exist_ok=True)
    study.write_table(folder / "trials.csv")
    left_out = study.write_figures(folder / "figures")
    for name in ("trials.csv", "figures"):
        search.parent.artifact(folder / name, "figures" if name == "figures" else None)
    states = study.states()
    trials = sum(
        states.values()
    )  # used as the step, so that a continued study adds metrics to its parent run
    search.parent.metrics(trials, {f"trials_{name.lower()}": count for name, count in states.items()})
    search.parent.flush()
    top = table_of(search)
    if not top:
        why = "; ".join(study.failures()[:3])
        raise UserError(f"no trial finished: {why or 'give more --n-trials or --search-timeout'}")
    first = top[0]
    best = next(trial for trial in study.best(10**6) if trial.number == first["trial"])
    found = config.replace(**{**search.budget, **best.params, **search.shared_tokenizer()})
    write_json(folder / "best.json", answer_fields(found, asked))
    record = {
        "run_id": best.user_attrs.get("mlflow_run"), "trial": best.number, "study": study.name,
        "storage": config.storage.split("@")[-1], "metric": list(study.metrics), "values": list(best.values),
        "params": dict(best.params), "states": states, "top": top,
        "model_digest": best.user_attrs.get("model_digest"),
        "tokenizer_digest": study.get("definition")["inputs"].get("tokenizer"),
    }  # fmt: skip
    write_json(folder / "best_trial.json", record)
    with (folder / "top_trials.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(first))
        writer.writeheader()
        writer.writerows([{name: row.get(name, "") for name in first} for row in top])
    _keep_weights(search, best.number)
    for name in ("best.json", "best_trial.json", "top_trials.csv"):
        search.parent.artifact(folder / name)
    values = dict(zip(study.metrics, best.values, strict=True))
    search.parent.metrics(trials, {f"best_{name}": value for name, value in values.items()})
    search.parent.tags({"best_trial": best.number, "best_run": record["run_id"]})
    search.parent.flush()
    if search.parent.id != search.own.id and not search.tracking.busy(search.parent.id):
        search.parent.finish("FINISHED")  # its process has ended, and this one completed the search
    for line in left_out:
        search.say(f"  figure left out, {line}")
    counted = ", ".join(f"{count} {name.lower()}" for name, count in states.items())
    search.say(f"search: {counted}; best is trial {best.number}: " + _row_text(first))
    search.say(f"search: python -m kronos pipeline --config-path {folder / 'best.json'}")
    if config.registered_model_name is not None:
        _register(search, found, record)
    return {"metrics": {f"best_{name}": value for name, value in values.items()}, **record}


def answer_fields(found: Config, asked: Config) -> dict[str, Any]:
    """The fields for `pipeline --config-path` that differ from the defaults, with the output paths of `asked`."""
    found = found.replace(dataset_path=asked.data.dataset_path, save_path=asked.output.save_path)
    values, defaults = found.model_dump(mode="json"), Config().model_dump(mode="json")
    kept = {
        name: value
        for name, value in values.items()
        if SECTION_OF[name] not in ("search", "tracking", "registry") and value != defaults[name]
    }
    if found.search_stage == "predictor" and found.tokenizer_path:
        kept["skip_tokenizer"] = True  # the validation loss was reached with this tokenizer
    return {"data_source": values["data_source"], **kept}


def table_of(search: Search) -> list[dict[str, Any]]:
    """The best trials with their parameters, and mean and 95 % interval over seeds where trials were repeated.

    Repeated trials are sorted by their means and come first.
    """
    study, rows = search.study, []
    for trial in study.best(max(search.config.search_top, 10)):
        row: dict[str, Any] = {"trial": trial.number}
        again = [study.get(f"repeat {trial.number} {search.config.seed + offset}")
                 for offset in range(1, search.config.search_repeats)]  # fmt: skip
        for place, name in enumerate(study.metrics):
            values = [trial.values[place], *(found[place] for found in again if found)]
            mean, low, high = interval(values)
            row |= {name: trial.values[place], f"{name}_seeds": len(values), f"{name}_mean": mean,
                    f"{name}_low": low, f"{name}_high": high}  # fmt: skip
        rows.append({**row, **trial.params, "run_id": trial.user_attrs.get("mlflow_run")})
    name = study.metrics[0]
    if search.config.search_repeats > 1 and len(study.metrics) == 1:
        repeated = [row for row in rows if row[f"{name}_seeds"] > 1]
        sign = 1 if name != "rank_ic" else -1
        repeated.sort(key=lambda row: sign * row[f"{name}_mean"])
        rows = repeated + [row for row in rows if row[f"{name}_seeds"] == 1]
    return rows


def interval(values: list[float]) -> tuple[float, float | None, float | None]:
    """(mean, low, high) with the 95 % interval of the mean by Student's t; (value, None, None) for one value."""
    from scipy.stats import t

    if len(values) < 2:
        return values[0], None, None
    half = float(t.ppf((1 + INTERVAL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values), fmean(values) - half, fmean(values) + half


def _row_text(row: dict[str, Any]) -> str:
    names = [name.removesuffix("_seeds") for name in row if name.endswith("_seeds")]
    shown = []
    for name in names:
        text = f"{name} {row[name]:.5g}"
        if row[f"{name}_low"] is not None:
            text += (
                f", over {row[f'{name}_seeds']} seeds {row[f'{name}_mean']:.5g} "
                f"({row[f'{name}_low']:.5g} to {row[f'{name}_high']:.5g})"
            )
        shown.append(text)
    return "; ".join(shown)


def _keep_weights(search: Search, number: int) -> None:
    """Copy the best trial's folder to `best` if it was trained on this machine; delete folders of ended trials."""
    trials = search.folder / "trials"
    source = trials / f"trial-{number}"
    if source.is_dir():
        shutil.rmtree(search.folder / "best", ignore_errors=True)
        shutil.copytree(source, search.folder / "best")
    for folder in sorted(trials.glob("trial-*")) if trials.is_dir() else []:
        if _is_over(search, folder):
            shutil.rmtree(folder, ignore_errors=True)
    if trials.is_dir() and not any(trials.iterdir()):
        trials.rmdir()


def _register(search: Search, found: Config, record: dict[str, Any]) -> None:
    """Register the best trial's weights."""
    from kronos.stages.promote import register_search

    best = {"save_path": str(search.folder / "best")}
    given = {name: getattr(search.config, name) for name in ("registered_model_name", "tracking_uri")}
    values = dict(zip(record["metric"], record["values"], strict=True))
    try:
        version = register_search(
            search.tracking,
            found.replace(**best, **given),
            str(record["run_id"]),
            values,
            search.say,
        )
    except UserError as error:
        search.say(f"registry: {error}; train them here with the pipeline above and --registered-model-name")
    else:
        search.parent.tags({"registered_version": f"{version.name}/{version.number}"})


def _is_over(search: Search, folder: Path) -> bool:
    number = int(folder.name.split("-")[1])
    return search.study.state(number) not in ("RUNNING", "WAITING")
