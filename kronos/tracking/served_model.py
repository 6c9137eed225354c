"""The MLflow pyfunc model, loaded from code: bars in, forecasts out, with the same results as the run's own stages.

Its artifacts are the checkpoint folders of tokenizer and predictor and `serving.json`; nothing is pickled.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from kronos.data.bars import CLOSE, PRICES, cell_text
from kronos.data.calendars import next_sessions, time_features
from kronos.data.conditions import from_frame
from kronos.data.time_features import time_table
from kronos.evaluation.calibration import LEAST_PRICE, Calibration, moves, recent_volatility
from kronos.forecast import forecast_arrays, number_format, repair, series_keys
from kronos.tracking import scoring_server
from kronos.tracking.served_bounds import Bounds, Stop
from kronos.tracking.served_input import check_bars, check_params, shown
from kronos.utils.errors import UserError
from kronos.utils.files import read_json

ROW = ("instrument", "as_of", "datetime", "step")
MISSING = "missing_conditions"


class ServedKronos(PythonModel):
    """A pyfunc model that takes a table of bars and returns a table of forecasts."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load weights and settings, and the bounds of a request from the model config.

        `self.tokenizer` and `self.predictor` are torch modules in eval mode. In the process of MLflow's scoring
        server, the bounds are applied to its HTTP requests too.
        """
        from kronos.model import load_predictor, load_tokenizer

        self.tokenizer = load_tokenizer(context.artifacts["tokenizer"]).eval()
        self.predictor = load_predictor(context.artifacts["predictor"]).eval()
        self.settings = read_json(Path(context.artifacts["serving"]))
        fitted = context.artifacts.get("calibration")
        self.calibration = Calibration.from_json(read_json(Path(fitted))) if fitted else None
        self.bounds = Bounds.of(context.model_config)
        self.conditions = self.predictor.config.get("conditions", {"columns": []})["columns"]
        scoring_server.install(self.bounds, self.conditions, self.tokenizer.columns)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Forecast each instrument of the table from its last bars.

        Args:
            context: not used; the weights are loaded in `load_context`.
            model_input: one row per instrument and bar: datetime, open, high, low, close, and optionally instrument,
                volume and amount, the further columns that the tokenizer was trained on, and those that the predictor
                is conditioned on.
            params: settings that replace those logged with the model, as listed in its signature.

        Returns:
            One row per instrument and forecast bar: instrument, as_of, datetime, step, the features (means over the
            sample paths) and their quantiles. Of a predictor with conditions also `missing_conditions`, those
            that the instrument's last bar lacks, with the value in brackets where it is one that is not known.

        Raises:
            MlflowException: for invalid input and for work over a bound, with error code INVALID_PARAMETER_VALUE
                (HTTP 400) and the reason.
        """
        try:
            return self._forecast(model_input, check_params(params))
        except UserError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None

    def _forecast(self, table: pd.DataFrame, params: Mapping[str, Any]) -> pd.DataFrame:
        stop, settings = Stop(self.bounds), {**self.settings, **params}
        lookback, horizon, samples = (
            int(settings[name]) for name in ("lookback", "pred_len", "sample_count")
        )
        levels = [float(level) for level in settings["quantiles"]]
        if horizon > int(settings["max_context"]):
            raise UserError(
                f"pred_len is {horizon}, at most max_context = {settings['max_context']} was expected"
            )
        calibration = self._calibration(settings["bands"], horizon) if levels else None
        drawn = samples + (calibration.samples if calibration else 0)
        features = self.tokenizer.columns
        bars = check_bars(table, self.bounds.max_rows, self.conditions, features)
        code, names = pd.factorize(bars["instrument"], sort=True)
        count = np.bincount(code)
        columns = len(ROW) + len(features) * (1 + len(levels)) + bool(self.conditions)
        self.bounds.check_work(len(names), drawn, horizon, columns)
        short = np.flatnonzero(count < lookback)
        if len(short):
            first = ", ".join(f"{shown(names[place])} has {count[place]}" for place in short[:5])
            raise UserError(f"each instrument needs {lookback} bars: {first}")
        last_rows = count.cumsum()[:, None] + np.arange(-lookback, 0)  # [N, L]
        rows = np.argsort(code, kind="stable")[last_rows]
        context = bars[list(features)].to_numpy(np.float32)[rows]
        known = from_frame(bars, self.conditions)[0][rows] if self.conditions else None
        times = bars["datetime"].to_numpy().astype(np.int64)[rows]
        future = {}
        for last in np.unique(times[:, -1]):
            stop.check()
            future[last] = self._after(last, horizon, settings)
        ahead = np.stack([future[last] for last in times[:, -1]])
        draw = partial(
            forecast_arrays,
            self.tokenizer, self.predictor, context, self._stamps(times), self._stamps(ahead), horizon=horizon,
            max_context=int(settings["max_context"]), clip=float(settings["clip"]), seed=int(settings["seed"]),
            keys_N=series_keys(list(names), times[:, -1]), each_bar=stop.check, fine_rotary=settings["fine_rotary"],
            sliding=settings.get("sliding", "exact"),  # models registered before there was a choice have none
            dtype=number_format(settings["precision"]), conditions_NLC=known,
        )  # fmt: skip
        floor, last = (
            LEAST_PRICE * context[:, None, -1:, CLOSE, None],
            context[:, -1, CLOSE].astype(np.float64),
        )
        paths, _ = repair(
            draw(
                temperature=float(settings["T"]), top_k=int(settings["top_k"]), top_p=float(settings["top_p"]),
                sample_count=samples,
            ),
            floor,
            features,
        )  # fmt: skip
        quantiles = np.quantile(paths, levels, axis=1) if levels else np.empty((0, *paths[:, 0].shape))
        if calibration is not None:
            spread, _ = repair(
                draw(
                    temperature=calibration.temperatures, top_k=0, top_p=1.0, sample_count=calibration.samples
                ),
                floor,
                features,
            )  # fmt: skip
            drawn_moves = moves(spread[..., : len(PRICES)], last[:, None, None, None])
            recent = recent_volatility(context[..., CLOSE], calibration.decay)
            quantiles[..., : len(PRICES)] = calibration.price_quantiles(drawn_moves, recent, last, levels)
        answer = _table(
            list(names),
            times[:, -1],
            ahead,
            paths.mean(axis=1),
            dict(zip(levels, quantiles, strict=True)),
            features,
        )
        if known is not None:
            lacking = self._missing(bars.iloc[rows[:, -1]], known[:, -1])
            answer[MISSING] = np.repeat(np.array(lacking, dtype=object), horizon)
        return answer

    def _stamps(self, times: np.ndarray) -> np.ndarray:
        """The predictor's time features of times int64 ns [...], by the calendar of the bars it was logged with."""
        described = self.predictor.config.get("time_features")
        if described is None:
            return time_features(times)
        of_bars = (str(self.settings[name]) for name in ("calendar", "freq", "label"))
        return time_table(times, described["names"], *of_bars)

    def _missing(self, last: pd.DataFrame, known_NC: np.ndarray) -> list[str]:
        """Name the conditions that the last bar of each instrument lacks, with the value that is not known."""
        found = []
        for (_, row), known in zip(last.iterrows(), known_NC, strict=True):
            texts = []
            for column, value in zip(self.conditions, known, strict=True):
                given = cell_text(row.get(column["name"]))
                if np.isnan(value):
                    texts.append(
                        f"{column['name']} ({shown(given)})" if isinstance(given, str) else column["name"]
                    )
            found.append(", ".join(texts))
        return found

    def _calibration(self, bands: str, horizon: int) -> Calibration | None:
        """The calibration of the first `horizon` bars, or None for raw bands."""
        if bands == "raw":
            return None
        if self.calibration is None:
            raise UserError(
                "this model was logged without a calibration: give bands = raw, or serve the model of a calibrate run"
            )
        if horizon > self.calibration.horizon:
            raise UserError(
                f"pred_len is {horizon}, bands are calibrated for {self.calibration.horizon} bars: "
                "ask for at most as many, or give bands = raw"
            )
        return self.calibration.first(horizon)

    @staticmethod
    def _after(last: int, horizon: int, settings: Mapping[str, Any]) -> np.ndarray:
        """Timestamps of the next H bars of the exchange calendar after `last`, int64 nanoseconds [H]."""
        after = pd.Timestamp(int(last))
        found = next_sessions(settings["calendar"], after, horizon, settings["freq"], settings["label"])
        return found.tz_localize(None).as_unit("ns").asi8


def _table(
    names: list[str],
    as_of: np.ndarray,
    ahead_NH: np.ndarray,
    means_NHF: np.ndarray,
    quantiles: Mapping[float, np.ndarray],
    features: Sequence[str],
) -> pd.DataFrame:
    """The forecast as a table with one row per instrument and step; `quantiles` holds [N, H, features] by level."""
    count, horizon = ahead_NH.shape
    rows = (
        np.repeat(names, horizon),
        np.repeat(as_of.astype("datetime64[ns]"), horizon),
        ahead_NH.reshape(-1).astype("datetime64[ns]"),
        np.tile(np.arange(1, horizon + 1), count),
    )
    columns: dict[str, Any] = dict(zip(ROW, rows, strict=True))
    columns |= {name: means_NHF[..., place].reshape(-1) for place, name in enumerate(features)}
    columns |= {
        f"{name}_q{level:g}": values[..., place].reshape(-1)
        for place, name in enumerate(features)
        for level, values in quantiles.items()
    }
    return pd.DataFrame(columns)


mlflow.models.set_model(ServedKronos())
