"""A forecast of the latest bars, by the predict stage's own functions, without a run and an output folder."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kronos.app.bars import Stores, configured
from kronos.app.work import Work
from kronos.data.forecast_points import ForecastPoints, latest_points
from kronos.data.store import BarStore
from kronos.forecast.store_forecaster import Forecaster
from kronos.report.forecast_chart import times_text
from kronos.report.pages.forecasts import write_ranking
from kronos.stages.base import Context
from kronos.stages.ensemble import forecaster_of
from kronos.stages.predict import bands_of, forecast, latest_charts, write_tables
from kronos.stages.weights import trained_models, with_columns_of_model
from kronos.utils.csv_files import write_csv
from kronos.utils.errors import UserError

AT_A_TIME = 64  # series, so that progress is seen and a stop is soon obeyed


class Watched:
    """A `Forecaster` that tells a `Work` how far it is; everything else is the forecaster's."""

    def __init__(self, model: Forecaster, work: Work) -> None:
        self._model, self._work = model, work

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def chunks(
        self, points: ForecastPoints, rules: Mapping[str, Any], label: str, kept: str = "paths", size: int = 0
    ) -> Iterator[tuple[slice, np.ndarray, int]]:
        """As `Forecaster.chunks`, whose draws do not depend on how many series are drawn at a time."""
        self._work.step(label, 0, len(points))
        size = min(size or self._model.size(points, rules), AT_A_TIME)
        for part, values, count in self._model.chunks(points, rules, label, kept, size):
            self._work.step(label, part.stop, len(points))
            yield part, values, count


def make_forecast(
    stores: Stores, kind: str, fields: Mapping[str, Any], instruments: str | None, work: Work
) -> str:
    """Forecast the next bars and write forecasts.html, forecast.csv and ranking.csv into the folder of the work.

    `instruments` are names joined by commas, all where it is empty. Returns a line about what was forecast.
    """
    config = configured({"bands": "calibrated", **fields}, work)
    if "feature_list" not in fields:
        work.step("the tokenizer is loaded")
        config = with_columns_of_model(config)
    store = stores.open(kind, config, work)
    work.step("the model is loaded")
    models, notes = trained_models(config, store, None)
    calibration, more = bands_of(config, store, models)
    for note in (*notes, *more):
        work.say(note)
    points = _chosen(latest_points(store, config.data.lookback_window), store, instruments)
    model: Any = Watched(forecaster_of(config, store, models), work)
    context: Any = Context(config, None, None, work.say, None)  # type: ignore[arg-type]  # no run, no processes
    frame, risks, paths = forecast(context, model, points, calibration.calibration)
    work.step("candles are drawn")
    charts = latest_charts(config, store, points, frame, paths, ())
    write_csv(frame, work.folder / "forecast.csv", index=False, float_format="%.6g")
    write_tables(work.folder, risks)
    write_ranking(work.folder, charts, risks, config.forecast.predict_drawdown)
    first, last = times_text(pd.DatetimeIndex([frame["as_of"].iloc[0], frame["datetime"].max()]))
    bands = "calibrated bands" if calibration.calibration is not None else "raw bands"
    return (
        f"{len(points):,} instruments as of {first}, until {last}; {bands}; "
        f"{len(points.excluded):,} without {config.data.lookback_window} bars in a row up to that time"
    )


def _chosen(points: ForecastPoints, store: BarStore, instruments: str | None) -> ForecastPoints:
    """The points of some instruments. Raises UserError for those that are not forecast, with the reason."""
    wanted: Sequence[str] = [name for part in (instruments or "").split(",") if (name := part.strip())]
    if not wanted:
        return points
    known = {store.instruments[number]: place for place, number in enumerate(points.instrument)}
    why = dict(zip(points.excluded["instrument"], points.excluded["reason"], strict=True))
    missing = [f"{name} ({why.get(name, 'not among the bars')})" for name in wanted if name not in known]
    if missing:
        raise UserError(f"not forecast: {', '.join(missing)}")
    return points.subset(np.array(sorted({known[name] for name in wanted})))
