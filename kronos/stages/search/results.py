"""Results of a search: best.json, the best weights, tables and figures, in its folder and on its MLflow run."""

import csv
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kronos.config.schema import SECTION_OF, Config
from kronos.report.content import plain
from kronos.report.rendering import write_pages
from kronos.stages.search.selection import Selection, selection_of, table_of
from kronos.stages.search.session import Search
from kronos.utils.csv_files import write_csv
from kronos.utils.errors import UserError
from kronos.utils.files import write_json


def write_results(search: Search, asked: Config, looks_before: int = 0) -> dict[str, Any]:
    """Write the current results of the study; with several processes, the last one to finish writes the final ones.

    `looks_before`: other models that were evaluated on the validation days before this study.

    Returns the record with the best trial and its metrics. Raises UserError where no trial has finished.
    """
    study, folder, config = search.study, search.folder, search.config
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(study.table(), folder / "trials.csv", index=False)
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
    chosen, why_not = selection_of(search, best.number)
    others = {name: _other_seeds(first, name) for name in study.metrics}
    record = {
        "run_id": best.user_attrs.get("mlflow_run"), "trial": best.number, "study": study.name,
        "storage": config.storage.split("@")[-1], "metric": list(study.metrics), "values": list(best.values),
        "params": dict(best.params), "states": states, "top": top,
        "compared": sum(states.get(name, 0) for name in ("COMPLETE", "PRUNED")), "other_seeds": others,
        "selection": plain(chosen) if chosen else {"left_out": why_not},
        "model_digest": best.user_attrs.get("model_digest"),
        "tokenizer_digest": study.get("definition")["inputs"].get("tokenizer"),
    }  # fmt: skip
    write_json(folder / "best_trial.json", record)
    content = {
        "study": study.name, "best": first, "others": others, "top": top, "parameters": list(best.params),
        "chosen": chosen, "why_not": why_not, "looks_before": looks_before, "compared": record["compared"],
    }  # fmt: skip
    write_pages(folder, "search.j2", lambda edition: content)
    with (folder / "top_trials.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(first))
        writer.writeheader()
        writer.writerows([{name: row.get(name, "") for name in first} for row in top])
    _keep_weights(search, best.number)
    for name in ("best.json", "best_trial.json", "top_trials.csv", "report.md", "report.html"):
        search.parent.artifact(folder / name)
    metrics = _metrics(dict(zip(study.metrics, best.values, strict=True)), others, chosen)
    search.parent.metrics(trials, metrics)
    search.parent.tags({"best_trial": best.number, "best_run": record["run_id"]})
    search.parent.flush()
    if search.parent.id != search.own.id and not search.tracking.busy(search.parent.id):
        search.parent.finish("FINISHED")  # its process has ended, and this one completed the search
    for line in left_out:
        search.say(f"  figure left out, {line}")
    counted = ", ".join(f"{count} {name.lower()}" for name, count in states.items())
    search.say(f"search: {counted}; best is trial {best.number}: " + _row_text(first, others))
    search.say(f"search: python -m kronos pipeline --config-path {folder / 'best.json'}")
    if config.registered_model_name is not None:
        _register(search, found, record)
    return {"metrics": metrics, **record}


def _other_seeds(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Mean and interval of a metric over the seeds that did not choose the trial; None where there are none."""
    return {key: row[f"{name}_other_{key}"] for key in ("seeds", "mean", "low", "high")}


def _metrics(
    values: Mapping[str, float], others: Mapping[str, Mapping[str, Any]], chosen: Selection | None
) -> dict[str, float]:
    """The key figures of the best trial; those that do not exist are left out."""
    metrics = {f"best_{name}": value for name, value in values.items()}
    metrics |= {f"best_{name}_other_seeds": found["mean"] for name, found in others.items() if found["seeds"]}
    if chosen:
        metrics |= {
            "deflated_sharpe": chosen.deflated_sharpe,
            "overfitting_probability": chosen.overfitting,
        }
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


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


def _row_text(row: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> str:
    shown = []
    for name, found in others.items():
        text = f"{name} {row[name]:.5g}"
        if found["seeds"]:
            text += f", with {found['seeds']} other seed{'s' * (found['seeds'] != 1)} {found['mean']:.5g}"
        if found["low"] is not None:
            text += f" ({found['low']:.5g} to {found['high']:.5g})"
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
