"""What a run says of itself in MLflow: its name, and a description with the result and how to go on."""

import shlex
from functools import cache
from typing import Any

from kronos.config.loading import load_config, to_text
from kronos.config.schema import FIELDS, SECTION_OF, Config
from kronos.config.weights import WEIGHTS
from kronos.stages.base import Result, Stage
from kronos.tracking.run import NOTE, SEPARATOR, Run

# Fields that say where results go or how they are recorded, not what is done.
PLACES = ("output", "tracking", "registry")
NAMED = ("training", "model", "forecast", "backtest", "launch")  # sections whose fields tell runs apart best
RESULTS = ("pipeline", "refit", "backtest", "walk_forward")  # stages whose result is that of the experiment
MOST_NAMED, LONGEST_NAME, LONGEST_LIST = 3, 120, 3000
NEXT = {
    "data": "tokenizer", "tokenizer": "predictor", "predictor": "calibrate", "calibrate": "backtest",
    "backtest": "predict", "pipeline": "predict", "refit": "predict", "search": "pipeline", "audit": "pipeline",
}  # fmt: skip


@cache
def _standard(source: str) -> dict[str, Any]:
    """The values that a configuration is compared with: the sample's for the sample bars, else the defaults."""
    if source == "sample":
        return load_config(None, {})[0].values()
    return {**{name: field.default for name, field in FIELDS.items()}, "data_source": source}


def changed(config: Config) -> dict[str, str]:
    """The fields that differ from the sample's configuration or from the defaults, as text, places included.

    A source of bars other than the default is among them.
    """
    standard = _standard(config.data.data_source)
    found = {name: to_text(value) for name, value in config.values().items() if value != standard[name]}
    if config.data.data_source not in ("sample", FIELDS["data_source"].default):
        found = {"data_source": config.data.data_source, **found}
    return found


def command(stage: str, config: Config) -> str:
    """A command line of a stage that means this configuration."""
    given = changed(config)
    if config.data.data_source != "sample":
        given = {"data_source": config.data.data_source, **given}
    flags = [part for name, text in given.items() for part in ("--" + name.replace("_", "-"), text)]
    return shlex.join(["python", "-m", "kronos", stage, *flags])


def run_name(stage: Stage, config: Config) -> str:
    """The name of a run: stage, size of the model, and the first fields that differ, for instance
    `pipeline · nano · predictor_learning_rate=0.001`."""
    values = changed(config)
    told = [
        name
        for name in values
        if name in stage.params and SECTION_OF[name] not in PLACES and name not in (*WEIGHTS, "model_preset")
    ]
    told.sort(key=lambda name: NAMED.index(SECTION_OF[name]) if SECTION_OF[name] in NAMED else len(NAMED))
    parts = [stage.name]
    if "model_preset" in stage.params:
        parts.append(config.model.model_preset)
    for name in told[:MOST_NAMED]:
        parts.append(f"{name}={values[name]}")
    if len(told) > MOST_NAMED:
        parts.append(f"{len(told) - MOST_NAMED} more")
    text = SEPARATOR.join(parts)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def describe(stage: Stage, config: Config, result: Result | None = None) -> str:
    """The description of a run in Markdown; without a result, of one that has not ended."""
    if result is None:
        first = (
            "**Not ended.** If this run is no longer running, its tag `kronos.reason` says why, and "
            f"{stage.after_interrupt(config)}."
        )
        return "\n\n".join([first, _differences(stage, config), _code(command(stage.name, config))])
    figures = stage.headline(result)
    parts = []
    if figures:
        rows = [f"| {_cell(one.name)} | **{_cell(one.value)}** | {_cell(one.detail)} |" for one in figures]
        parts.append("\n".join(["| figure | value | |", "| --- | --- | --- |", *rows]))
    if result.reused:
        parts.append(f"The output of run `{result.run_id}` was reused.")
    parts.append(_differences(stage, config))
    if stage.name in NEXT:
        parts.append("Next:\n\n" + _code(command(NEXT[stage.name], config)))
    return "\n\n".join(parts)


def log_description(run: Run, stage: Stage, config: Config, result: Result) -> None:
    """Describe a run that ends well, and the experiment by its newest result."""
    text = describe(stage, config, result)
    run.tags({NOTE: text})
    newest = f"Newest: {run_name(stage, config)}, run `{run.id}`\n\n{text}" if stage.name in RESULTS else ""
    run.describe_experiment(newest)


def _differences(stage: Stage, config: Config) -> str:
    what = "the sample's configuration" if config.data.data_source == "sample" else "the defaults"
    found = {name: text for name, text in changed(config).items() if name in stage.params}
    if not found:
        return f"Every field is as in {what}."
    text = f"Differs from {what}: " + ", ".join(f"`{name}={value}`" for name, value in found.items())
    return text if len(text) <= LONGEST_LIST else text[:LONGEST_LIST] + " …"


def _code(text: str) -> str:
    return f"```\n{text[:LONGEST_LIST]}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
