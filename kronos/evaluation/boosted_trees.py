"""The baseline that Qlib's users have at hand: LightGBM on Qlib's Alpha158 features of the same bars.

It is trained on the training range to predict the tradable return of the horizon, stops by the validation range, and
ranks the days of the backtest. Parameters are those of Qlib's published benchmark of LightGBM on Alpha158.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES
from kronos.data.store import BarStore
from kronos.distributed.worker_processes import on_processes
from kronos.evaluation.qlib_features import FIELDS, alpha158
from kronos.evaluation.qlib_store import initialised, qlib_freq, write_qlib_store

NAME = "LightGBM on Qlib's Alpha158 features"
PARAMETERS = {
    "objective": "mse", "learning_rate": 0.2, "num_leaves": 210, "max_depth": 8, "feature_fraction": 0.8879,
    "bagging_fraction": 0.8789, "lambda_l1": 205.6999, "lambda_l2": 580.9768,
}  # fmt: skip
ROUNDS, PATIENCE = 1000, 50
MAX_ROWS = 500_000  # of training, and of validation: beyond it days are left out evenly
MIN_ROWS = 1000  # of training, fewer are no basis for trees of 210 leaves
ROWS = 100_000  # of bars whose features are computed at once, in 400 MB
PARTS_PER_PROCESS = 4  # at least, since a process takes seconds to import what it needs


def ranking(
    store: BarStore, earned: Mapping[str, pd.DataFrame], days: pd.DatetimeIndex, threads: int, seed: int
) -> pd.DataFrame:
    """Return scores for `days`, wide; all NaN where training or validation has too few returns to fit trees.

    `earned["train"]` and `earned["val"]` are the wide tradable returns of the days of these ranges, NaN where there
    is none. `days` are sessions of the store.
    """
    labels = {name: _labels(earned[name]) for name in ("train", "val")}
    if labels["train"].notna().to_numpy().sum() < MIN_ROWS or not labels["val"].notna().to_numpy().any():
        return pd.DataFrame(
            np.nan, index=days.rename("datetime"), columns=pd.Index(store.instruments, name="instrument")
        )
    begin = min(labels["train"].index[0], days[0])
    end = max(labels["val"].index[-1], days[-1])
    parts: dict[str, list[pd.DataFrame]] = {"train": [], "val": [], "days": []}
    frame, freq = store.frame((*FEATURES, "flag")), qlib_freq(store.freq)
    with tempfile.TemporaryDirectory(prefix="kronos-qlib-") as scratch:
        path = write_qlib_store(frame, Path(scratch) / "bars", store.sessions, freq, matrices=FIELDS)
        del frame
        part = np.cumsum(np.diff(store.offsets)) // ROWS
        wanted = {**{name: label.index for name, label in labels.items()}, "days": days}
        groups = [np.flatnonzero(part == number) for number in np.unique(part)]
        pieces = [
            (path, [store.instruments[place] for place in group], begin, end, freq, wanted)
            for group in groups
        ]
        processes = min(threads, len(pieces) // PARTS_PER_PROCESS)
        for found in on_processes(_features, pieces, processes):
            for key, rows in found.items():
                parts[key].append(rows)
    to_rank = parts.pop("days")
    model = _train(parts, labels, threads, seed)
    predicted = [
        pd.Series(model.predict(part, num_iteration=model.best_iteration), part.index) for part in to_rank
    ]
    wide = pd.concat(predicted).unstack("instrument")
    return wide.reindex(index=days.rename("datetime"), columns=pd.Index(store.instruments, name="instrument"))


def _features(
    path: Path, names: list[str], begin: pd.Timestamp, end: pd.Timestamp, freq: str,
    wanted: Mapping[str, pd.Index],
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Return the features of some instruments on the wanted days: key -> days in, rows out."""
    with initialised(path):
        found = alpha158(path, names, begin, end, freq)
    when = found.index.get_level_values("datetime")
    return {key: found[when.isin(days)] for key, days in wanted.items()}


def _labels(earned: pd.DataFrame) -> pd.DataFrame:
    """Return the returns standardised over the instruments of each day, with about MAX_ROWS values at most."""
    step = max(1, -(-int(earned.notna().to_numpy().sum()) // MAX_ROWS))
    kept = earned.iloc[::step]
    return kept.sub(kept.mean(axis=1), axis=0).div(kept.std(axis=1).replace(0.0, np.nan), axis=0)


def _train(
    parts: dict[str, list[pd.DataFrame]], labels: Mapping[str, pd.DataFrame], threads: int, seed: int
) -> lightgbm.Booster:
    """Train on the features in `parts`, which is emptied: only LightGBM's binned copies are kept."""
    parameters = {
        **PARAMETERS, "num_threads": threads, "seed": seed, "deterministic": True, "force_row_wise": True,
        "verbose": -1,
    }  # fmt: skip
    train = _dataset(parts.pop("train"), labels["train"], parameters)
    val = _dataset(parts.pop("val"), labels["val"], parameters, train)
    return lightgbm.train(
        parameters, train, ROUNDS, valid_sets=[val],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )  # fmt: skip


def _dataset(
    parts: list[pd.DataFrame], label: pd.DataFrame, parameters: dict[str, Any],
    reference: lightgbm.Dataset | None = None,
) -> lightgbm.Dataset:  # fmt: skip
    """Return the labelled rows of the features, binned at once so that the features themselves can go."""
    values = label.to_numpy()
    kept, labels = [], []
    for part in parts:
        names, days = (part.index.get_level_values(level) for level in ("instrument", "datetime"))
        row, column = label.index.get_indexer(days), label.columns.get_indexer(names)
        of_rows = np.where((row >= 0) & (column >= 0), values[row, column], np.nan)
        known = np.isfinite(of_rows)
        kept.append(part[known])
        labels.append(of_rows[known])
    features = pd.concat(kept)
    target = pd.Series(np.concatenate(labels), features.index)
    if not features.index.is_monotonic_increasing:
        features, target = features.sort_index(), target.sort_index()
    return lightgbm.Dataset(features, target, reference=reference, params=parameters).construct()
