"""From a head to its forecasts and figures: every day of the backtest range, and the last bars of all."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.bars import CLOSE
from kronos.data.forecast_points import ForecastPoints, context_rows, contexts, gather, latest_points
from kronos.data.outcomes import outcomes
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.evaluation import departures, heads
from kronos.evaluation.head_baselines import Recent, recent
from kronos.evaluation.tradability import trading_mask
from kronos.forecast.heads import StoredHead
from kronos.report.heads import HeadPage
from kronos.stages import looks
from kronos.stages.base import Context, Inputs
from kronos.stages.ensemble import forecaster_of
from kronos.stages.head_setup import AT_ONCE, LEAST_DAYS
from kronos.stages.inputs import backtest_points, wide_bars
from kronos.stages.provenance import seen_before
from kronos.utils.errors import UserError
from kronos.utils.progress import Progress

FORECASTS = "forecasts.parquet"


def scored_points(config: Config, store: BarStore, splits: Ranges) -> ForecastPoints:
    """The points of a backtest. Raises UserError where too few days are followed by a whole horizon."""
    points, horizon = backtest_points(config, store, splits), config.data.predict_window
    days = len(np.unique(points.session[points.session + horizon <= store.last_session]))
    least = max(LEAST_DAYS, 2 * horizon)
    if days < least:
        raise UserError(
            f"head: {days} days of backtest_time_range {splits.backtest[0]}..{splits.backtest[1]} are followed by "
            f"{horizon} bars, at least {least} are needed for an interval: lengthen it or shorten predict_window"
        )
    return points


def with_latest(config: Config, store: BarStore, points: ForecastPoints) -> ForecastPoints:
    """The points and those of the last bars of the store, of the same instruments where their number is limited."""
    try:
        last = latest_points(store, config.data.lookback_window)
    except UserError:  # no instrument has enough bars in a row there
        return points
    kept = ~np.isin(last.row, points.row)
    if config.backtest.backtest_max_instruments:
        kept &= np.isin(last.instrument, points.instrument)
    last = last.subset(kept)
    joined = [
        np.concatenate([getattr(one, name) for one in (points, last)])
        for name in ("row", "instrument", "session")
    ]
    return replace(points, row=joined[0], instrument=joined[1], session=joined[2])


def look_of(config: Config, inputs: Inputs, head: str) -> looks.Look:
    """The look of a head at the days of the backtest range."""
    assert inputs.store is not None and inputs.splits is not None
    predictor = inputs.digests["predictor"]
    model = looks.model_digest(config, head, predictor)
    return looks.look_of(looks.HEAD, config, inputs.store, inputs.splits.backtest, predictor, model)


def answers_at(
    config: Config, head: StoredHead, pair: Any, stop: Callable[[], bool], rows: np.ndarray, label: str
) -> np.ndarray:
    """The head's answer to the context that ends in each row of the store, float64 [N].

    Raises KeyboardInterrupt after a stop request.
    """
    found = np.empty(len(rows))
    with Progress(label, "contexts") as progress:
        for start in range(0, len(rows), AT_ONCE):
            if stop():
                raise KeyboardInterrupt
            part = slice(start, min(start + AT_ONCE, len(rows)))
            bars, stamps = contexts(pair.store, rows[part], config.data.lookback_window, pair.columns)
            places = context_rows(rows[part], config.data.lookback_window)
            found[part] = head.answers(
                pair.tokenizer,
                pair.predictor,
                bars,
                pair.stamps_of(pair.store.times[places], stamps),
                pair.conditions_of(places),
                config.forecast.backtest_batch_size,
            )
            progress(part.stop, len(rows))
    return found


def recent_at(config: Config, store: BarStore, rows: np.ndarray) -> Recent:
    """What the last bars of the context that ends in each row say."""
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    closes = np.ascontiguousarray(np.asarray(store.values)[:, CLOSE : CLOSE + 1])
    parts = [
        recent(gather(closes, rows[start : start + AT_ONCE] - lookback + 1, lookback)[..., 0], horizon)
        for start in range(0, len(rows), AT_ONCE)
    ]
    return Recent(
        *(np.concatenate([getattr(one, name) for one in parts]) for name in Recent.__dataclass_fields__)
    )


def outcomes_in(
    config: Config, close: pd.DataFrame, day_N: np.ndarray, instrument_N: np.ndarray
) -> np.ndarray:
    """The outcome of each point from the closes of real bars, NaN where its horizon runs past the last session."""
    horizon = config.data.predict_window
    bars, held = (np.vstack([one.to_numpy(np.float64), np.full((horizon, close.shape[1]), np.nan)])
                  for one in (close, close.ffill()))  # fmt: skip
    found = np.empty(len(day_N))
    steps = np.arange(horizon + 1)
    for start in range(0, len(day_N), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        places = (day_N[part, None] + steps, instrument_N[part, None])
        found[part] = outcomes(config.head.objective, held[places], np.isfinite(bars[places])[:, 1:])
    return found


def evaluate(
    context: Context,
    inputs: Inputs,
    head: StoredHead,
    looks_before: int,
    curve: list[dict[str, float]],
    stop: Callable[[], bool],
) -> tuple[pd.DataFrame, HeadPage]:
    """The table of forecasts (as_of, instrument, value, realised), and what the report is written from."""
    config, store, splits = context.config, inputs.store, inputs.splits
    assert store is not None and splits is not None
    points = scored_points(config, store, splits)
    tested = len(points)
    points = with_latest(config, store, points)
    pair = forecaster_of(config, store, inputs.models)
    answer = partial(answers_at, config, head, pair, stop)
    value = answer(points.row, "forecasts of the head")
    start = max(0, int(points.session.min()) - config.data.lookback_window)
    bars = departures.pay_out(wide_bars(store, start), config.backtest.backtest_delisting_return)
    day, instrument = points.session.astype(np.int64) - start, points.instrument.astype(np.int64)
    came = outcomes_in(config, bars["close"], day, instrument)
    train, validation = inputs.more["train"], inputs.more["val"]
    trained = heads.Trained(train.outcome, recent_at(config, store, train.rows))
    if config.head.objective == "volatility":
        said = answer(validation.rows, "validation")
        before = recent_at(config, store, validation.rows)
        factors = heads.variance_factors(said, validation.outcome, before, trained)
        trained = replace(trained, factors=factors)
    scored = slice(0, tested)
    found = heads.measure(
        heads.Answers(
            objective=config.head.objective, horizon=config.data.predict_window,
            lookback=config.data.lookback_window, value_N=value[scored], outcome_N=came[scored],
            day_N=day[scored], instrument_N=instrument[scored], recent=recent_at(config, store, points.row[scored]),
            opening=bars["open"], close=bars["close"],
            tradable=trading_mask(store, bars, "open", config.backtest.backtest_limit_threshold),
        ),
        trained,
    )  # fmt: skip
    times = store.sessions[points.session].astype("datetime64[ns]")
    names = np.array(store.instruments, dtype=object)[points.instrument]
    table = pd.DataFrame({"as_of": times, "instrument": names, "value": value, "realised": came})
    table = table.sort_values(["as_of", "instrument"], ignore_index=True)
    warnings = seen_before(config, splits)
    if head.facts["days"]["val"][1] >= str(splits.backtest[0]):
        until = head.facts["days"]["val"][1]
        warnings.append(f"the head was trained or chosen on days up to {until}: only later days are clean.")
    first, last = splits.backtest
    page = HeadPage(
        objective=config.head.objective, horizon=config.data.predict_window, lookback=config.data.lookback_window,
        universe=str(store.source.get("universe", f"{len(store.instruments)} instruments")),
        first=str(first), last=str(last), instruments=len(np.unique(points.instrument[scored])), scores=found,
        adapter=str(head.facts["adapter"]), latest=f"{table['as_of'].iloc[-1]:%Y-%m-%d %H:%M}".removesuffix(" 00:00"),
        train_days=tuple(head.facts["days"]["train"]), val_days=tuple(head.facts["days"]["val"]),
        trained_points=len(train.rows), curve=curve, warnings=warnings, looks_before=looks_before,
    )  # fmt: skip
    return table, page
