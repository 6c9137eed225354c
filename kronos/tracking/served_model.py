"""The MLflow pyfunc model, loaded from code: bars in, forecasts out, with the same results as the run's own stages.

Its artifacts are the checkpoint folders of tokenizer and predictor and `serving.json`; nothing is pickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from kronos.data.bars import FEATURES, PRICES, rename_aliases
from kronos.data.calendars import next_sessions, time_features
from kronos.forecast import forecast_arrays, number_format, repair, series_keys
from kronos.utils.errors import UserError
from kronos.utils.files import read_json


class ServedKronos(PythonModel):
    """A pyfunc model that takes a table of bars and returns a table of forecasts."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights into `self.tokenizer` and `self.predictor`, which are torch modules in eval mode."""
        from kronos.model import load_predictor, load_tokenizer

        self.tokenizer = load_tokenizer(context.artifacts["tokenizer"]).eval()
        self.predictor = load_predictor(context.artifacts["predictor"]).eval()
        self.settings = read_json(Path(context.artifacts["serving"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Forecast each instrument of the table from its last bars.

        Args:
            context: not used; the weights are loaded in `load_context`.
            model_input: one row per instrument and bar: datetime, open, high, low, close, and optionally instrument,
                volume and amount.
            params: settings that replace those logged with the model, as listed in its signature.

        Returns:
            One row per instrument and forecast bar: instrument, as_of, datetime, step, the six features (means over
            the sample paths) and their quantiles.

        Raises:
            MlflowException: for invalid input, with error code INVALID_PARAMETER_VALUE and the reason.
        """
        try:
            return self._forecast(model_input, {**self.settings, **(params or {})})
        except UserError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None

    def _forecast(self, table: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
        lookback, horizon = int(settings["lookback"]), int(settings["pred_len"])
        if horizon < 1:
            raise UserError(f"pred_len is {horizon}, at least 1 was expected")
        series = [(name, bars) for name, bars in _bars(table).groupby("instrument", sort=True)]
        short = [f"{name} has {len(bars)}" for name, bars in series if len(bars) < lookback]
        if short:
            raise UserError(f"each instrument needs {lookback} bars: {', '.join(short[:5])}")
        names = [str(name) for name, _ in series]
        bars = np.stack([own[list(FEATURES)].to_numpy(np.float32)[-lookback:] for _, own in series])
        times = np.stack(
            [own["datetime"].to_numpy("datetime64[ns]").astype(np.int64)[-lookback:] for _, own in series]
        )
        future = {last: self._after(last, horizon, settings) for last in np.unique(times[:, -1])}
        ahead = np.stack([future[last] for last in times[:, -1]])
        paths = forecast_arrays(
            self.tokenizer, self.predictor, bars, time_features(times), time_features(ahead), horizon=horizon,
            max_context=int(settings["max_context"]), temperature=float(settings["T"]), top_k=int(settings["top_k"]),
            top_p=float(settings["top_p"]), sample_count=int(settings["sample_count"]),
            clip=float(settings["clip"]), seed=int(settings["seed"]), keys_N=series_keys(names, times[:, -1]),
            fine_rotary=settings["fine_rotary"], dtype=number_format(settings["precision"]),
        )  # fmt: skip
        paths, _ = repair(paths)
        return _table(names, times[:, -1], ahead, paths, [float(level) for level in settings["quantiles"]])

    @staticmethod
    def _after(last: int, horizon: int, settings: Mapping[str, Any]) -> np.ndarray:
        """Timestamps of the next H bars of the exchange calendar after `last`, int64 nanoseconds [H]."""
        after = pd.Timestamp(int(last))
        found = next_sessions(settings["calendar"], after, horizon, settings["freq"], settings["label"])
        return found.tz_localize(None).as_unit("ns").asi8


def _bars(table: pd.DataFrame) -> pd.DataFrame:
    """The table of a request as bars: missing columns filled in. Raises UserError for invalid values or order."""
    bars = rename_aliases(table).copy()
    missing = [name for name in ("datetime", *PRICES) if name not in bars]
    if missing:
        raise UserError(f"columns {', '.join(missing)} are missing: expected datetime, {', '.join(PRICES)}")
    if "instrument" not in bars or bars["instrument"].isna().all():
        bars["instrument"] = "series"
    try:
        bars["datetime"] = pd.to_datetime(bars["datetime"])
    except (ValueError, TypeError) as error:
        raise UserError(f"datetime: {error}") from None
    if "volume" not in bars or bars["volume"].isna().all():
        bars["volume"] = 0.0
    if "amount" not in bars or bars["amount"].isna().all():
        bars["amount"] = bars["volume"] * bars[list(PRICES)].mean(axis=1)
    bad = bars[list(FEATURES)].isna().any(axis=1) | bars["datetime"].isna()
    if bad.any():
        raise UserError(f"{int(bad.sum())} rows have a missing value, the first is row {int(np.argmax(bad))}")
    if (bars[list(PRICES)] <= 0).to_numpy().any():
        raise UserError("prices must be above 0")
    rising = bars.groupby("instrument")["datetime"].apply(
        lambda times: bool(times.is_monotonic_increasing and times.is_unique)
    )
    if not rising.all():
        raise UserError(
            f"datetime must increase within an instrument: for {rising.index[~rising][0]} it does not"
        )
    return bars


def _table(
    names: list[str], as_of: np.ndarray, ahead_NH: np.ndarray, paths_NSHF: np.ndarray, quantiles: list[float]
) -> pd.DataFrame:
    """The forecast as a table with one row per instrument and step; paths_NSHF is [N, samples, H, features]."""
    count, horizon = ahead_NH.shape
    columns: dict[str, Any] = {
        "instrument": np.repeat(names, horizon),
        "as_of": np.repeat(as_of.astype("datetime64[ns]"), horizon),
        "datetime": ahead_NH.reshape(-1).astype("datetime64[ns]"),
        "step": np.tile(np.arange(1, horizon + 1), count),
    }
    mean = paths_NSHF.mean(axis=1).reshape(-1, len(FEATURES))
    columns |= {name: mean[:, place] for place, name in enumerate(FEATURES)}
    if quantiles:
        if not all(0 <= level <= 1 for level in quantiles):
            raise UserError(f"quantiles {quantiles} must be from 0 to 1")
        levels = np.quantile(paths_NSHF, quantiles, axis=1).reshape(len(quantiles), -1, len(FEATURES))
        columns |= {
            f"{name}_q{level:g}": levels[number, :, place]
            for place, name in enumerate(FEATURES)
            for number, level in enumerate(quantiles)
        }
    return pd.DataFrame(columns)


mlflow.models.set_model(ServedKronos())
