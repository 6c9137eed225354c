"""The walk-forward stage: split the backtest days into folds, test each with models trained before it, and pool."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import FIELDS, Config, fields_of
from kronos.data.markets import sessions_per_year_of
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.distributed.launcher import world_size
from kronos.evaluation import benchmark
from kronos.report.saved_content import save
from kronos.report.walk_forward import PooledInputs, read_fold, write_pooled
from kronos.stages import looks
from kronos.stages.backtest import BacktestStage
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import key_of, write_record
from kronos.stages.calibrate import CalibrateStage
from kronos.stages.inputs import BY_CONTENT, log_dataset, resolve_splits, stored_bars
from kronos.stages.provenance import seen_before
from kronos.stages.report_pages import LANGUAGE
from kronos.stages.runner import run_stage
from kronos.stages.train import PredictorStage, TokenizerStage
from kronos.stages.weights import KINDS, given_address, load_weights, pretrained_address, trained_models
from kronos.tracking.metric_names import tracked
from kronos.utils.errors import UserError
from kronos.utils.files import atomic_folder, digest_bytes


class WalkForwardStage(Stage):
    """Train (unless refit is off) and backtest each fold as child runs of one run, then pool the test days."""

    name = "walk_forward"
    help = "train and backtest on several parts of the backtest's days, pooled"
    params = tuple(
        name
        for name in FIELDS
        if name
        not in fields_of(
            "audit", "generate", "embed", "head", "benchmark", "refit", "update", "registry", "search"
        )
    )
    by_content = BY_CONTENT
    packages = BacktestStage.packages

    def folder(self, config: Config) -> Path:
        output = config.output
        return Path(output.backtest_result_path) / f"{output.backtest_save_folder_name}_walk_forward"

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        digests = {
            "bars": store.digest,
            "splits": ", ".join(f"{name} {first}..{last}" for name, (first, last) in splits.days().items()),
            "benchmark": benchmark.fingerprint(config, store),
            "processes": str(world_size(config.launch.nproc_per_node)),
        }
        if config.backtest.walk_forward_refit:
            for kind in KINDS:
                address = pretrained_address(kind, config)
                digests[f"pretrained_{kind}"] = (
                    "random weights"
                    if address is None
                    else load_weights(kind, address, config.tracking.tracking_uri).digest
                )
        else:
            models, _ = trained_models(config, store, splits)
            digests |= {"tokenizer": models.tokenizer.digest, "predictor": models.predictor.digest}
        return Inputs(digests, store, splits)

    def code(self, config: Config) -> tuple[str, ...]:
        return ("kronos.stages.train", "kronos.stages.calibrate", "kronos.stages.backtest")

    def after_interrupt(self, config: Config) -> str:
        return (
            "the same command reuses what the folds have finished"
            if config.tracking.reuse
            else super().after_interrupt(config)
        )

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Run the folds and write the pooled report into a folder that is renamed to its final name when complete."""
        config, store, splits, run = context.config, inputs.store, inputs.splits, context.run
        assert store is not None and splits is not None
        log_dataset(context, store, "testing")
        refit, signal = config.backtest.walk_forward_refit, config.backtest.backtest_signal
        folds, warnings, predictors = [], [], []
        ledger, model = looks.ledger_of(config), key_of(key) if refit else ""
        for place, fold in enumerate(fold_configs(config, store, splits), start=1):
            name = f"fold {place}"
            first, last = resolve_splits(fold, store).backtest
            count = config.backtest.walk_forward_folds
            context.say(f"walk_forward: {name} of {count}, tested on {first} to {last}")
            if refit:
                if not fold.training.freeze_tokenizer:
                    run_stage(TokenizerStage(), fold, context, objective=context.objective)
                run_stage(PredictorStage(), fold, context, objective=context.objective)
            elif not config.launch.skip_calibrate:
                fold = recalibrated(fold, store, splits)
            if refit or not config.launch.skip_calibrate:
                run_stage(CalibrateStage(served=False), fold, context)
            tested = run_stage(BacktestStage(ledger, model), fold, context)
            used_weights = tested.record["made_from"]["inputs"]
            predictors.append(used_weights["predictor"])
            used = resolve_splits(fold, store)
            trained = f"{used.train[0]} to {used.train[1]}"
            folds.append(read_fold(fold.backtest_folder, name, trained, signal))
            warnings += seen_before(fold, used)
        if not refit:
            model = looks.model_digest(config, used_weights["tokenizer"], used_weights["predictor"])
        predictor = digest_bytes("\n".join(predictors).encode()) if refit else predictors[0]
        look = looks.look_of(looks.WALK_FORWARD, config, store, splits.backtest, predictor, model)
        before = looks.looked_before(ledger, look, context)
        with atomic_folder(self.folder(config)) as target:
            pooled = PooledInputs(
                folds=folds, signal=signal, horizon=config.data.predict_window, refit=refit,
                periods_per_year=sessions_per_year_of(store, *splits.backtest),
                before_spacing=config.backtest.baseline_day_step or config.data.predict_window,
                warnings=list(dict.fromkeys(warnings)), looks_before=before,
            )  # fmt: skip
            save(target, "walk_forward", inputs=pooled)
            metrics = write_pooled(target, pooled, config.backtest.report_language)
            names = sorted(
                path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()
            )
            record = write_record(
                target, key, run.id, names, {"metrics": metrics, LANGUAGE: config.backtest.report_language}
            )
            run.metrics(0, tracked(self.name, metrics))
            run.artifact(target)
            looks.record(ledger, look, run, context.say)
        context.say(f"walk_forward: report in {self.folder(config) / 'report.md'}")
        return Result(self.name, run.id, self.folder(config), record)


def recalibrated(fold: Config, store: BarStore, splits: Ranges) -> Config:
    """The configuration of a fold of models that are not trained again, whose bands follow the market.

    They are calibrated on as many days as the validation range has, as far before the fold as that range is before
    the backtest, in a folder of the fold's own.
    """
    days = pd.DatetimeIndex(np.unique(pd.DatetimeIndex(store.sessions[: store.last_session + 1]).normalize()))
    firsts = pd.DatetimeIndex([one.backtest[0] for one in (splits, resolve_splits(fold, store))])
    begin, tested = days.searchsorted(firsts)
    shift = int(tested - begin)
    best = {kind: str(fold.model_folder(kind) / "checkpoints" / "best_model") for kind in KINDS}
    return fold.replace(
        val_time_range=_moved(days, splits.val, shift), test_time_range=_moved(days, splits.test, shift),
        save_path=str(Path(fold.output.save_path) / "walk_forward" / Path(fold.output.backtest_result_path).name),
        tokenizer_path=given_address("tokenizer", fold) or best["tokenizer"],
        predictor_path=fold.output.predictor_path or [best["predictor"]],
    )  # fmt: skip


def fold_configs(config: Config, store: BarStore, splits: Ranges) -> list[Config]:
    """One configuration per fold: its part of the backtest days, with the other ranges shifted accordingly.

    The training range keeps its first day and grows (expanding window); validation and test ranges keep their length.
    The gaps between training, validation and the first fold are the same for every fold, so that purging by the
    horizon still holds.

    Raises:
        UserError: where the range has too few days for the folds, or weights are given although each fold is trained.
    """
    days = pd.DatetimeIndex(store.sessions[: store.last_session + 1])
    begin, end = (pd.Timestamp(day) for day in splits.backtest)
    tested = np.unique(days[(days >= begin) & (days < end + pd.Timedelta(days=1))].normalize())
    horizon = config.data.predict_window
    count, least = config.backtest.walk_forward_folds, horizon + 2
    if len(tested) < count * least:
        raise UserError(
            f"walk_forward_folds is {count}, but backtest_time_range {begin:%Y-%m-%d}..{end:%Y-%m-%d} has "
            f"{len(tested)} days and a fold needs {least} (horizon {horizon} + 2): lengthen the range "
            "or ask for fewer folds"
        )
    if not config.backtest.walk_forward_refit:
        ranges = {f"{name}_time_range": splits.days()[name] for name in ("train", "val", "test")}
        parts = np.array_split(tested, count)
        return [_placed(config, place, _days(part), **ranges) for place, part in enumerate(parts, start=1)]
    if config.output.tokenizer_path is not None or config.output.predictor_path is not None:
        raise UserError(
            "walk_forward_refit=true trains both models in each fold, but tokenizer_path or predictor_path is given: "
            "leave them out, or give --walk-forward-refit false"
        )
    all_days = pd.DatetimeIndex(np.unique(days.normalize()))
    start = all_days.searchsorted(pd.Timestamp(tested[0]))
    found = []
    for place, part in enumerate(np.array_split(tested, count), start=1):
        shift = int(all_days.searchsorted(pd.Timestamp(part[0])) - start)
        ranges = {
            "train_time_range": (splits.train[0], _later(all_days, splits.train[1], shift)),
            "val_time_range": _moved(all_days, splits.val, shift),
            "test_time_range": _moved(all_days, splits.test, shift),
        }
        found.append(_placed(config, place, _days(part), **ranges))
    return found


def _days(part: np.ndarray) -> tuple[date, date]:
    return pd.Timestamp(part[0]).date(), pd.Timestamp(part[-1]).date()


def _moved(days: pd.DatetimeIndex, given: tuple[date, date], shift: int) -> tuple[date, date]:
    return _later(days, given[0], shift), _later(days, given[1], shift)


def _later(days: pd.DatetimeIndex, day: date, shift: int) -> date:
    """The day `shift` sessions later; a day without a session counts as the last session before it."""
    place = int(days.searchsorted(pd.Timestamp(day), side="right")) - 1 + shift
    return day if shift == 0 else days[min(max(place, 0), len(days) - 1)].date()


def _placed(config: Config, place: int, tested: tuple[date, date], **ranges: tuple[date, date]) -> Config:
    """The configuration of a fold: its days and output folders, and model folders if models are trained again."""
    folder = WalkForwardStage().folder(config)
    changed: dict[str, Any] = {
        **ranges,
        "backtest_time_range": tested,
        "backtest_result_path": str(folder.with_name(f"{folder.name}_folds") / f"fold_{place}"),
        "run_name": None,
    }
    if config.backtest.walk_forward_refit:
        changed["save_path"] = str(Path(config.output.save_path) / "walk_forward" / f"fold_{place}")
    return config.replace(**changed)
