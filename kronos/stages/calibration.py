"""The calibration that belongs to a pair of models: drawn paths as moves, the stored file, and which one fits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import FIELDS, Config
from kronos.data.bars import CLOSE, PRICES, Flag
from kronos.data.forecast_points import ForecastPoints, contexts
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.evaluation.calibration import DECAYS, Calibration, moves, recent_volatility
from kronos.evaluation.coverage import BANDS, Coverage, ends, measure, sample_bands, sample_levels
from kronos.forecast.store_forecaster import Forecaster, random_order
from kronos.stages.inputs import windows_of
from kronos.stages.weights import given_address
from kronos.tracking.model_registry import ADDRESSES
from kronos.utils.digests import read_object
from kronos.utils.files import digest_bytes, given_path

FILE = "calibration.json"
MADE_BY = "run  python -m kronos calibrate"
# Fields that the errors depend on besides the weights.
SETTINGS = (
    "lookback_window",
    "predict_window",
    "max_context",
    "clip",
    "inference_fine_rotary",
    "inference_sliding",
    "inference_precision",
    "windows_across_days",
)


@dataclass(frozen=True)
class Found:
    """The calibration of a pair of models, or None and the reason; `digest` is part of a stage's cache key.

    With a calibration, a note says what it may not hold for.
    """

    calibration: Calibration | None
    note: str
    digest: str
    path: Path | None = None


NOT_ASKED = Found(None, "", "raw")


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that a calibration holds for, by name."""
    return {name: getattr(config, name) for name in SETTINGS}


def bars_of(store: BarStore) -> dict[str, str]:
    """What a calibration records of its bars: their length, and the digest of the names of the instruments."""
    return {
        "freq": store.freq,
        "instruments": digest_bytes("\n".join(sorted(store.instruments)).encode())[:16],
    }


def find(
    config: Config, store: BarStore, tokenizer: str, predictor: str, tested: date | None = None
) -> Found:
    """Find the calibration of the weights with these digests: the calibrate stage's, or one beside given weights.

    A calibration of other weights, settings or bars of another length is not used, and neither is one that was fitted
    on days from `tested` on, the first day that is evaluated; the reason is the note. Raises Damaged where the file
    was altered.
    """
    reason = f"there is none: {MADE_BY}"
    for path in _places(config):
        if not path.is_file():
            continue
        stored = read_object(path, f"{MADE_BY}  again")
        wanted = {"tokenizer": tokenizer, "predictor": predictor}
        # A setting that is newer than the file had its default.
        made_with = {name: stored["settings"].get(name, FIELDS[name].default) for name in SETTINGS}
        if stored["weights"] != wanted:
            reason = f"the one at {path} is of other weights: {MADE_BY}"
        elif names := [name for name, value in settings_of(config).items() if made_with[name] != value]:
            reason = f"the one at {path} is of another {', '.join(names)}: {MADE_BY}"
        elif stored["bars"]["freq"] != store.freq:
            reason = f"the one at {path} is of bars of {stored['bars']['freq']}: {MADE_BY}"
        elif tested is not None and stored["days"][1] >= tested.isoformat():
            reason = (
                f"the one at {path} was fitted on days up to {stored['days'][1]}, and {tested} is tested: {MADE_BY}  "
                "on earlier days"
            )
        elif "reason" in stored:
            reason = stored["reason"]
        else:
            same = stored["bars"] == bars_of(store)
            note = "" if same else "the bands are calibrated on bars of other instruments"
            return Found(Calibration.from_json(stored), note, digest_bytes(path.read_bytes())[:16], path)
    return Found(None, f"no calibration of the bands: {reason}", "none")


def _places(config: Config) -> list[Path]:
    """Files to look for, the stage's own first."""
    places = [config.calibration_folder / FILE]
    address = given_address("predictor", config) if len(config.members()) == 1 else None
    if address is not None and not address.startswith(ADDRESSES):
        folder = given_path(address).absolute()
        places += [
            place / part / FILE for place in (folder, *folder.parents[:2]) for part in ("", "calibration")
        ]
    return places


def validation_points(config: Config, store: BarStore, splits: Ranges) -> tuple[ForecastPoints, np.ndarray]:
    """Forecast points whose context and horizon lie in the validation range, in random order, and what came.

    The realised prices are float64 [N, H, 4]. They are the validation windows, in which no bar that is scored was
    scored in training; windows with a filled bar in the horizon are left out. The order depends on days and
    instruments only.
    """
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    split = windows_of(config, store, "val", splits, lookback + horizon)
    row = split.starts + lookback - 1
    ahead = row[:, None] + np.arange(1, horizon + 1)
    whole = ((np.asarray(store.flags)[ahead] & Flag.FILLED) == 0).all(axis=1)
    row, ahead = row[whole], ahead[whole]
    points = ForecastPoints(
        row, np.asarray(store.instrument_of_row[row], np.int32), np.asarray(store.session[row], np.int32),
        pd.DataFrame(columns=["instrument", "datetime", "session", "reason"]),
    )  # fmt: skip
    order = random_order(store, points)
    return points.subset(order), np.asarray(store.values[ahead[order]][..., : len(PRICES)], np.float64)


def draw_moves(
    model: Forecaster, points: ForecastPoints, temperatures: Sequence[float], samples: int, label: str
) -> np.ndarray:
    """Sample paths of the four prices as moves from the last close, float64 [N, S, H, 4]; top-p and top-k are off."""
    rules = {"temperature": tuple(temperatures), "top_k": 0, "top_p": 1.0, "sample_count": samples}
    last = last_closes(model.store, points)
    found = [
        moves(prices, last[part][:, None, None, None])
        for part, prices, _ in model.chunks(points, rules, label, "prices")
    ]
    return np.concatenate(found)


def last_closes(store: BarStore, points: ForecastPoints) -> np.ndarray:
    """The closes of the last bars seen, float64 [N]."""
    return np.asarray(store.values[points.row, CLOSE], np.float64)


def context_closes(model: Forecaster, points: ForecastPoints) -> np.ndarray:
    """The closes of each point's context, float32 [N, L]."""
    bars, _ = contexts(model.store, points.row, model.config.data.lookback_window)
    return np.asarray(bars[..., CLOSE])


def coverages(
    model: Forecaster,
    points: ForecastPoints,
    raw_NSH: np.ndarray,
    realised_NH: np.ndarray,
    calibration: Calibration | None,
) -> dict[str, Coverage]:
    """How often realised closes lie within the bands, `raw` and, with a calibration, `calibrated`.

    `raw_NSH` are closes of sample paths at temperature 1 and `realised_NH` realised closes, both relative to the
    last close; NaN where a close is not known.
    """
    closes = context_closes(model, points)
    recent = recent_volatility(closes, calibration.decay if calibration else DECAYS[0])
    names = [model.store.instruments[place] for place in points.instrument]
    measured = partial(measure, volatility_N=recent, day_N=points.session, instruments=names)
    raw, realised = raw_NSH - 1, realised_NH - 1
    found = {"raw": measured(sample_levels(raw, realised), raw, realised, sample_bands(raw))}
    if calibration is not None:
        drawn = draw_moves(model, points, calibration.temperatures, calibration.samples, "calibrated bands")
        levels = calibration.close_levels(realised, drawn, recent)
        bands = [calibration.quantiles(drawn, recent, ends(band))[..., CLOSE] for band in BANDS]
        paths = calibration.paths(drawn, recent)[..., CLOSE]
        found["calibrated"] = measured(levels, paths, realised, np.moveaxis(np.array(bands), 1, -1))
    return found
