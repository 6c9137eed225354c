"""The walk-forward stage: the backtest's days in folds, each tested by models of the days before it, pooled."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.store import BarStore
from kronos.report.walk_forward import read_fold, write_pooled
from kronos.stages import backtest
from kronos.stages.base import SPLIT_FIELDS, Work, origin, write_record
from kronos.stages.data import log_dataset, settled, stored_bars
from kronos.stages.provenance import seen_before
from kronos.stages.train import PREDICTOR_FIELDS, TOKENIZER_FIELDS
from kronos.utils.errors import UserError
from kronos.utils.files import atomic_folder

FIELDS = tuple(dict.fromkeys(
    (*TOKENIZER_FIELDS, *PREDICTOR_FIELDS, *backtest.FIELDS, *SPLIT_FIELDS, "walk_forward_folds",
     "walk_forward_refit")
))  # fmt: skip


def made_from(config: Config) -> dict[str, Any]:
    store = stored_bars(config)
    inputs = {"bars": store.digest, "benchmark": backtest.benchmark.fingerprint(config, store)}
    if not config.walk_forward_refit:
        inputs |= {name: backtest.made_from(config)["inputs"][name] for name in ("tokenizer", "predictor")}
    return origin("walk_forward", config, FIELDS, inputs)


def run(work: Work, made: dict[str, Any]) -> dict[str, Any]:
    """Train (unless refit is off) and backtest each fold as children of this run, then pool their days."""
    from kronos.stages import STAGES
    from kronos.stages.runner import PipelineRun

    store = stored_bars(work.config)
    config = settled(work.config, store)
    if not work.config.walk_forward_refit:  # the weights are looked up by the ranges that were given
        config = work.config.model_copy(update={"backtest_time_range": config.backtest_time_range})
    log_dataset(work, store, "testing")
    refit = config.walk_forward_refit
    folds, warnings = [], []
    for place, fold in enumerate(fold_configs(config, store), start=1):
        name = f"fold {place}"
        first, last = fold.backtest_time_range
        work.say(f"walk_forward: {name} of {config.walk_forward_folds}, tested on {first} to {last}")
        child = PipelineRun(fold, work.tracking, work.run, work.say, work.crew)
        if refit:
            for stage in ("tokenizer", "predictor"):
                if not (stage == "tokenizer" and fold.freeze_tokenizer):
                    child.stage(STAGES[stage], work.objective)
        child.stage(STAGES["backtest"])
        trained = " to ".join(str(day) for day in fold.train_time_range)
        folds.append(read_fold(fold.backtest_folder, name, trained, config.backtest_signal))
        warnings += seen_before(fold)
    with atomic_folder(folder(config)) as target:
        metrics = write_pooled(
            target, folds, signal=config.backtest_signal, horizon=config.predict_window, refit=refit,
            before_spacing=config.baseline_day_step or config.predict_window,
            warnings=list(dict.fromkeys(warnings)),
        )  # fmt: skip
        names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
        record = write_record(target, made, work.run.id, names, {"metrics": metrics})
        work.run.metrics(0, metrics)
        work.run.artifact(target)
    work.say(f"walk_forward: report in {folder(config) / 'report.md'}")
    return record


def folder(config: Config) -> Path:
    return Path(config.backtest_result_path) / f"{config.backtest_save_folder_name}_walk_forward"


def fold_configs(config: Config, store: BarStore) -> list[Config]:
    """One configuration a fold: its part of the backtest's days, and the other ranges moved along with it.

    Training keeps its first day and grows; validation and test keep their length. What lies between training,
    validation and the first fold is kept between every fold and its own, so that a horizon that is purged stays so.
    """
    days = pd.DatetimeIndex(store.sessions[: store.last_session + 1])
    begin, end = (pd.Timestamp(day) for day in config.backtest_time_range)
    tested = np.unique(days[(days >= begin) & (days < end + pd.Timedelta(days=1))].normalize())
    count, least = config.walk_forward_folds, config.predict_window + 2
    if len(tested) < count * least:
        raise UserError(
            f"walk_forward_folds is {count}, but backtest_time_range {begin:%Y-%m-%d}..{end:%Y-%m-%d} has "
            f"{len(tested)} days and a fold needs {least} (horizon {config.predict_window} + 2): lengthen the range "
            "or ask for fewer folds"
        )
    if not config.walk_forward_refit:
        parts = [part for part in np.array_split(tested, count)]
        return [_placed(config, place, _days(part)) for place, part in enumerate(parts, start=1)]
    if config.tokenizer_path is not None or config.predictor_path is not None:
        raise UserError(
            "walk_forward_refit=true trains both models anew in each fold, tokenizer_path and predictor_path say "
            "which to use instead: leave them out, or give --walk-forward-refit false"
        )
    all_days = pd.DatetimeIndex(np.unique(days.normalize()))
    start = all_days.searchsorted(pd.Timestamp(tested[0]))
    found = []
    for place, part in enumerate(np.array_split(tested, count), start=1):
        shift = int(all_days.searchsorted(pd.Timestamp(part[0])) - start)
        moved = {
            "train_time_range": (
                config.train_time_range[0],
                _later(all_days, config.train_time_range[1], shift),
            ),
            **{
                name: tuple(_later(all_days, day, shift) for day in getattr(config, name))
                for name in ("val_time_range", "test_time_range")
            },
        }
        found.append(_placed(config, place, _days(part)).model_copy(update=moved))
    return found


def _days(part: np.ndarray) -> tuple[date, date]:
    return pd.Timestamp(part[0]).date(), pd.Timestamp(part[-1]).date()


def _later(days: pd.DatetimeIndex, day: date, shift: int) -> date:
    """The day so many sessions later; a day without a session stands for the last one before it."""
    place = int(days.searchsorted(pd.Timestamp(day), side="right")) - 1 + shift
    return day if shift == 0 else days[min(max(place, 0), len(days) - 1)].date()


def _placed(config: Config, place: int, tested: tuple[date, date]) -> Config:
    """The fold's own folders; its models' too, where they are trained anew."""
    update: dict[str, Any] = {
        "backtest_time_range": tested,
        "backtest_result_path": str(
            folder(config).with_name(f"{folder(config).name}_folds") / f"fold_{place}"
        ),
        "run_name": None,
    }
    if config.walk_forward_refit:
        update["save_path"] = str(Path(config.save_path) / "walk_forward" / f"fold_{place}")
    return config.model_copy(update=update)
