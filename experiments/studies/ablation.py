"""What each option of fine-tuning changes: nano models, several seeds, each compared with the default.

    python experiments/studies/ablation.py --config-path experiments/sample.json

Flags are the fields of a training; --seeds 3 and --rows NAME,... are the script's own. A tokenizer and a predictor
are trained once from random weights on the older half of train_time_range. Every row then fine-tunes this predictor
on the newer half with each seed, so that rows are compared in pairs on the same windows and draws (a row that chooses
other windows excepted). The store is made if there is none.

Measured on the test range, which chooses nothing: the loss (nats), the mean daily Rank IC and the CRPS of forecasts
(percent of the last close); and the loss on fixed windows of the older half after fine-tuning (nats). The table, in
outputs/ablation.md, has the mean difference to the default and its 95 % interval over the seeds by Student's t.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from kronos.cli.arguments import help_parser, parse_flags
from kronos.config.loading import load_config
from kronos.config.schema import FIELDS, Config
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.forecast.store_forecaster import forecaster, trading_rules
from kronos.stages.base import Inputs
from kronos.stages.data import DataStage
from kronos.stages.inputs import resolve_splits, stored_bars
from kronos.stages.runner import run_stage
from kronos.stages.search.selection import interval
from kronos.stages.test_loss import test_losses
from kronos.stages.train import PredictorStage, TokenizerStage
from kronos.stages.validation_forecasts import validation_forecasts
from kronos.stages.weights import Models, load_weights
from kronos.utils.files import write_json

DEFAULT = "default"
ROWS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "layer_decay=0.8": {"layer_decay": 0.8},
    "unfreeze_every=0.5": {"unfreeze_every": 0.5},
    "ema_decay=0.98": {"ema_decay": 0.98},
    "early_stopping_metric=rank_ic": {"early_stopping_metric": "rank_ic"},
    "early_stopping_metric=crps": {"early_stopping_metric": "crps"},
    "window_order=coverage": {"window_order": "coverage"},
    "balance_windows=year": {"balance_windows": "year"},
    "balance_windows=size": {"balance_windows": "size"},
    "replay_fraction=0.3": {"replay_fraction": 0.3},
    "adapter=lora": {"adapter": "lora"},
}
ADAPTER_RATE = 10.0  # learning rate of an adapter as a multiple of that of the weights
MEASURES = ("test_loss", "older_loss", "rank_ic", "crps")
PRETRAINING = {
    "epochs": 3, "n_train_iter": 6000, "tokenizer_learning_rate": 5e-3, "predictor_learning_rate": 5e-3,
}  # fmt: skip
VALIDATED_SHARE = 0.2  # days that choose the pretrained weights, after the older half, as a share of it


def days_of_halves(store: BarStore, train: tuple[Any, Any], lookback: int) -> dict[str, Any]:
    """Return `older_train`, `older_val` (ranges of days) and `since`, the first day of the newer half of training."""
    days = pd.DatetimeIndex(np.unique(pd.DatetimeIndex(store.sessions[: store.last_session + 1]).normalize()))
    days = days[(days >= pd.Timestamp(train[0])) & (days <= pd.Timestamp(train[1]))]
    middle = len(days) // 2
    ahead = middle + round(VALIDATED_SHARE * middle)
    return {
        "older_train": (days[0].date(), days[middle - 1].date()),
        "older_val": (days[middle - lookback].date(), days[ahead].date()),
        "since": days[middle].date(),
    }  # fmt: skip


def pretrain(config: Config, halves: Mapping[str, Any]) -> dict[str, str]:
    """Train both models on the older half; return the fields with their addresses."""
    older = config.replace(
        train_time_range=halves["older_train"], val_time_range=halves["older_val"],
        save_path="outputs/ablation/pretrained", run_name="pretrained", **PRETRAINING,
    )  # fmt: skip
    found = {}
    for stage in (TokenizerStage(), PredictorStage()):
        folder = run_stage(stage, older).folder
        found[f"pretrained_{stage.kind}_path"] = str(folder / "checkpoints" / "best_model")
    return found


def measure(config: Config, store: BarStore, splits: Ranges) -> dict[str, float]:
    """Return the figures of the trained predictor on the test range."""
    best = config.model_folder("predictor") / "checkpoints" / "best_model"
    pair = (
        load_weights("tokenizer", str(config.pretrained_tokenizer_path), None),
        load_weights("predictor", str(best), None),
    )
    inputs = Inputs(store=store, splits=splits, models=Models((pair,)))
    context: Any = SimpleNamespace(config=config, say=print)
    loss = test_losses(context, inputs)["test_loss_predictor"]
    tested = validation_forecasts(config, store, replace(splits, val=splits.test))
    model = forecaster(config, store, *(one.model for one in pair))
    figures, _ = tested.scores(
        model.closes(tested.points, trading_rules(config), "test"), ("rank_ic", "crps")
    )
    return {"test_loss": loss, "rank_ic": figures["rank_ic"], "crps": 100 * figures["crps"]}


def row_config(config: Config, name: str, start: Mapping[str, Any], since: Any) -> Config:
    """Return the configuration of a row: fine-tune the pretrained predictor on the windows since the middle."""
    given = {**start, "since": since, "freeze_tokenizer": True, **ROWS[name]}
    if given.get("adapter"):
        given["predictor_learning_rate"] = min(ADAPTER_RATE * config.predictor_learning_rate, 1.0)
    folder = name.replace("=", "_")
    return config.replace(**given, save_path=f"outputs/ablation/{folder}_{config.seed}", run_name=name)


def run(config: Config, rows: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """Train and measure every row with every seed; return one entry each, also written after each training."""
    if not (Path(config.dataset_path) / "index.json").exists():
        run_stage(DataStage(), config)
    store = stored_bars(config)
    splits = resolve_splits(config, store)
    halves = days_of_halves(store, splits.train, config.lookback_window)
    start = pretrain(config, halves)
    found: list[dict[str, Any]] = []
    for seed in range(config.seed, config.seed + seeds):
        for name in rows:
            fine = row_config(config.replace(seed=seed), name, start, halves["since"])
            result = run_stage(PredictorStage(), fine)
            metrics = result.record["metrics"]
            figures = {**measure(fine, store, splits), "older_loss": metrics["older_loss_after"]}
            entry = {
                "row": name,
                "seed": seed,
                "run": result.run_id,
                "best_step": metrics["best_step"],
                **figures,
            }
            found.append({**entry, "older_loss_before": metrics["older_loss_before"]})
            write_json(Path("outputs/ablation.json"), found)
            print(name, seed, {key: round(value, 5) for key, value in figures.items()}, flush=True)
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table: the default's mean per measure, then differences to it with their intervals."""
    frame = pd.DataFrame(found).set_index(["row", "seed"])
    default = frame.loc[DEFAULT]
    heads = ("row", "test loss", "older loss", "Rank IC", "CRPS, %", "best steps", "runs")
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for name in dict.fromkeys(frame.index.get_level_values("row")):
        own = frame.loc[name]
        cells = []
        for measure_ in MEASURES:
            if name == DEFAULT:
                cells.append(f"{own[measure_].mean():.4f}")
                continue
            mean, low, high = interval(list((own[measure_] - default[measure_]).dropna()))
            if low is None or high is None:
                cells.append(f"{mean:+.4f}")
                continue
            text = f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
            cells.append(f"**{text}**" if low * high > 0 else text)
        steps = ", ".join(str(int(step)) for step in own["best_step"])
        lines.append(f"| {' | '.join([name, *cells, steps, ', '.join(run[:8] for run in own['run'])])} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Run the ablation of the command line."""
    own, rest = {"--seeds": "3", "--rows": ",".join(ROWS)}, list(arguments)
    for flag in own:
        if flag in rest:
            place = rest.index(flag)
            own[flag] = rest[place + 1]
            del rest[place : place + 2]
    path, flags, problems = parse_flags(help_parser("ablation", "", FIELDS), rest)
    config, _ = load_config(path, flags, problems)
    text = table(run(config, own["--rows"].split(","), int(own["--seeds"])))
    Path("outputs/ablation.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
