"""The calibrate stage: fit the temperatures and errors that make the bands of forecasts hold their nominal share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kronos.config.schema import Config, fields_of
from kronos.data.bars import CLOSE
from kronos.data.holdout import digest_of
from kronos.evaluation.calibration import (
    LEAST_SERIES,
    TEMPERATURES,
    Calibration,
    fit_errors,
    fit_scale,
    fit_temperatures,
    moves,
)
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import write_record
from kronos.stages.calibration import (
    FILE,
    SETTINGS,
    bars_of,
    context_closes,
    draw_moves,
    last_closes,
    settings_of,
    validation_points,
)
from kronos.stages.ensemble import forecaster_of
from kronos.stages.inputs import BY_CONTENT, log_dataset, resolve_splits, stored_bars
from kronos.stages.model_logging import log_inputs, log_served_model
from kronos.stages.provenance import trained_on
from kronos.stages.weights import trained_models
from kronos.utils.digests import with_own_digest
from kronos.utils.errors import UserError
from kronos.utils.files import atomic_folder, write_json

SHARE = 5  # the temperatures are chosen on one fifth as many series, which have no part in the errors
LEAST = LEAST_SERIES * (SHARE + 1) // SHARE  # forecasts, of which enough are left for the errors


class CalibrateStage(Stage):
    """Write calibration.json: per-step temperatures and the errors of forecasts on validation days.

    Works on any pair of weights, trained here or not; no bar after the validation range is read. The models are
    logged together with the calibration, unless `served` is off.
    """

    name = "calibrate"
    help = "calibrate the bands of forecasts on the validation days"
    params = (
        *fields_of("data", "tracking"), *(name for name in SETTINGS if name not in fields_of("data")),
        "calibration_series", "calibration_sample_count", "inference_compile", "backtest_batch_size", "save_path",
        "tokenizer_save_folder_name", "predictor_save_folder_name", "tokenizer_path", "predictor_path",
        "pretrained_tokenizer_path", "freeze_tokenizer", "seed", "device", "cpu", "nproc_per_node",
    )  # fmt: skip
    by_content = BY_CONTENT
    packages = ("torch", "numpy", "exchange_calendars")

    def __init__(self, served: bool = True) -> None:
        self._served = served

    def folder(self, config: Config) -> Path:
        return config.calibration_folder

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        models, notes = trained_models(config, store, splits)
        tokenizer, predictor = models.tokenizer, models.predictor
        digests = {
            "bars": store.digest, "validation days": " to ".join(str(day) for day in splits.val),
            "tokenizer": tokenizer.digest, "predictor": predictor.digest,
        }  # fmt: skip
        if splits.held_out:
            digests["held out"] = digest_of(splits.held_out)
        seen = trained_on(config, splits.val)
        return Inputs(digests, store, splits, models, notes=(*notes, *seen))

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Draw, fit and write the output folder, which is renamed to its final name when complete."""
        config, store, splits, run = context.config, inputs.store, inputs.splits, context.run
        assert store is not None and splits is not None
        log_dataset(context, store, "validation")
        log_inputs(context, **inputs.models.named())
        metrics, content = fit(context, inputs)
        with atomic_folder(self.folder(config)) as folder:
            write_json(folder / FILE, with_own_digest(content))
            record = write_record(folder, key, run.id, [FILE], {"metrics": metrics})
            run.metrics(0, metrics)
            run.artifact(folder)
        if self._served and len(inputs.models.pairs) == 1 and "reason" not in content:
            ((tokenizer, predictor),) = inputs.models.pairs
            found = Calibration.from_json(content)
            run.outbox.unless_rejected(
                run.id,
                lambda: log_served_model(
                    run, config, store, tokenizer.model, predictor.model, calibration=found
                ),
            )
        return Result(self.name, run.id, self.folder(config), record)


def fit(context: Context, inputs: Inputs) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the metrics and the content of calibration.json.

    With fewer than `LEAST_SERIES` forecasts in the validation range nothing is fitted, and the content says why.
    """
    config, store, splits = context.config, inputs.store, inputs.splits
    assert store is not None and splits is not None
    content: dict[str, Any] = {
        "weights": {"tokenizer": inputs.digests["tokenizer"], "predictor": inputs.digests["predictor"]},
        "settings": settings_of(config), "days": [str(day) for day in splits.val], "bars": bars_of(store),
    }  # fmt: skip
    try:
        points, realised = validation_points(config, store, splits)
        there = len(points)
    except UserError as error:
        context.say(f"calibrate: {error}")
        there = 0
    wanted, size = config.forecast.calibration_series, config.forecast.calibration_sample_count
    chosen = min(wanted // SHARE, there // (SHARE + 1))
    used = min(wanted, there - chosen)
    if used < LEAST_SERIES:
        reason = f"the validation range has {there} forecasts with a realised horizon, {LEAST} are needed"
        context.say(f"calibrate: nothing fitted, bands stay raw: {reason}")
        return {"calibration_series": 0.0}, {**content, "series": 0, "reason": reason}
    model = forecaster_of(config, store, inputs.models, context.shards)
    last = last_closes(store, points)
    came = moves(realised, last[:, None, None])
    few, rest = np.arange(chosen), np.arange(chosen, chosen + used)
    horizon = config.data.predict_window
    tried = {
        one: draw_moves(model, points.subset(few), [one] * horizon, size, f"temperature {one:g}")
        for one in TEMPERATURES
    }
    best = fit_temperatures({one: drawn[..., CLOSE] for one, drawn in tried.items()}, came[few][..., CLOSE])
    at_best = np.stack([tried[one][:, :, step] for step, one in enumerate(best)], axis=2)
    weight, decay = fit_scale(at_best, context_closes(model, points.subset(few)), came[few])
    part = points.subset(rest)
    drawn = draw_moves(model, part, best, size, "calibration")
    closes = context_closes(model, part)
    found = fit_errors(drawn, closes, came[rest], temperatures=best, weight=weight, decay=decay)
    context.say(
        f"calibrate: {used:,} forecasts of {splits.val[0]}..{splits.val[1]}; temperature by step "
        f"{', '.join(f'{one:g}' for one in best)}; weight of the paths' spread {weight:g}; "
        f"in {config.calibration_folder}"
    )
    metrics = {
        "calibration_series": float(used), "calibration_weight": weight, "calibration_decay": decay,
        "calibration_temperature_mean": float(np.mean(best)),
    }  # fmt: skip
    return metrics, {**content, "series": used, **found.to_json()}
