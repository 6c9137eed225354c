"""Commands on tracked runs: `compare` shows them side by side, `rerun` repeats one from its own artifacts."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kronos.cli.arguments import Parser
from kronos.config.schema import Config
from kronos.report.figures import compare_figure, save_png
from kronos.stages import STAGES, execute
from kronos.tracking.client import TAG
from kronos.tracking.reader import TrackedRun, compare, load_run
from kronos.utils.errors import UserError

# Figures of how long something took and how much memory, and of what was done before, which differ each time.
TIMES = ("seconds", "windows_per_second", "peak_memory", "looks_before")


def compare_command(arguments: Sequence[str]) -> int:
    """`python -m kronos compare RUN_ID RUN_ID ...`: print a table and draw a figure of the losses."""
    parser = Parser(prog="python -m kronos compare", description="Tracked runs side by side.")
    parser.add_argument("run_ids", nargs="+", metavar="RUN_ID")
    parser.add_argument("--tracking-uri", help="MLflow tracking address (default: MLflow's own rule)")
    parser.add_argument(
        "--all", action="store_true", help="every figure, not only those that tell the result"
    )
    parser.add_argument("--output", default="outputs/compare.png", help="figure (default %(default)s)")
    given = parser.parse_args(list(arguments))
    runs = [load_run(run_id, given.tracking_uri) for run_id in given.run_ids]
    with pd.option_context("display.max_rows", None, "display.width", None, "display.max_colwidth", 40):
        table = compare(runs, headline=not given.all)
        print(table.to_string())
    figures = {name for run in runs for name in run.figures}
    if (left_out := len(figures) - int((table.index.get_level_values("kind") == "metric").sum())) > 0:
        print(f"{left_out} more figures: --all")
    curves = {run.label: run.history("val_loss") for run in runs}
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    if curves:
        Path(given.output).parent.mkdir(parents=True, exist_ok=True)
        save_png(compare_figure(curves), Path(given.output))
        print(f"figure: {given.output}")
    return 0


def rerun_command(arguments: Sequence[str]) -> int:
    """`python -m kronos rerun RUN_ID`: repeat a run and report the metrics that differ."""
    parser = Parser(prog="python -m kronos rerun", description="Repeat a tracked run from its own artifacts.")
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("--tracking-uri", help="MLflow tracking address (default: MLflow's own rule)")
    parser.add_argument("--output", help="folder of what it makes (default outputs/rerun/RUN_ID)")
    given = parser.parse_args(list(arguments))
    original = load_run(given.run_id, given.tracking_uri)
    folder = Path(given.output or f"outputs/rerun/{original.id[:8]}")
    repeated = rerun(original, folder, original.uri, lambda text: print(text, flush=True))
    found = unequal(original, repeated)
    for line in found:
        print(line)
    print(
        f"rerun of {original.id}: " + (f"{len(found)} numbers differ" if found else "every number is equal")
    )
    return 0


def rerun(original: TrackedRun, folder: Path, uri: str | None, say: Callable[[str], None]) -> TrackedRun:
    """Run a stage again with its configuration, its input models and bars read anew; returns the new run.

    Everything is written below `folder`. Raises UserError for a run that is not of a stage, and when the
    source now gives other bars than the run had.
    """
    if original.stage not in STAGES:
        raise UserError(f"run {original.id} is not of a stage: a run of {', '.join(STAGES)} was expected")
    config = _elsewhere(original.config, folder, uri)
    if original.stage not in ("data", "pipeline"):
        record = execute("data", config, say)["data"].record
        wanted = original.tags.get(TAG + "data_digest")
        if record["digest"] != wanted:
            raise UserError(
                f"the source gives other bars (digest {record['digest']}) than the run had ({wanted})"
            )
    there = original.files("inputs") if "inputs" in original.files() else []
    weights = {f"{name}_path": str(original.file(f"inputs/{name}")) for name in ("tokenizer", "predictor")
               if f"inputs/{name}" in there}  # fmt: skip
    if "inputs/calibration.json" in there:
        original.file("inputs/calibration.json")  # it is found beside the predictor's folder
    results = execute(original.stage, config.replace(**weights), say)
    made = load_run(next(iter(results.values())).run_id, uri)
    return load_run(made.parent, uri) if original.stage == "pipeline" and made.parent else made


def _elsewhere(config: Config, folder: Path, uri: str | None) -> Config:
    """Return the configuration with every output below `folder`."""
    places: dict[str, Any] = {
        "dataset_path": str(folder / "data"), "save_path": str(folder / "models"),
        "backtest_result_path": str(folder / "backtest_results"),
        "predict_result_path": str(folder / "predictions"), "generate_path": str(folder / "generated"),
        "embed_path": str(folder / "embeddings"),
        "tracking_uri": uri, "reuse": False,
        "registered_model_name": None, "promote": "auto",
    }  # fmt: skip
    return config.replace(**places)


def unequal(original: TrackedRun, repeated: TrackedRun) -> list[str]:
    """Return a line for each figure whose value differs; times and earlier looks are left out."""
    lines = []
    for name, value in sorted(original.figures.items()):
        if any(part in name for part in TIMES):
            continue
        again = repeated.figures.get(name, math.nan)
        if again != value:
            lines.append(f"{name}: was {value!r}, is {again!r}")
    return lines
