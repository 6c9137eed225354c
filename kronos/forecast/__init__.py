"""Forecasts in prices and volumes, from arrays (`forecast_arrays`) or DataFrames (`KronosPredictor`)."""

from kronos.data.bars import FEATURES
from kronos.forecast.arrays import forecast_arrays, number_format, repair
from kronos.forecast.keys import series_keys
from kronos.forecast.paths import Paths
from kronos.forecast.predictor import KronosPredictor

__all__ = [
    "FEATURES",
    "KronosPredictor",
    "Paths",
    "forecast_arrays",
    "number_format",
    "repair",
    "series_keys",
]
