"""Rank IC and CRPS of forecasts of validation days: what trials of a search and the best weights are chosen by.

Both are computed in the same way as in the backtest, and no bar after the validation range is used.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from kronos.config.schema import Config
from kronos.data.bars import CLOSE
from kronos.data.forecast_points import ForecastPoints, forecast_points
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.distributed.collectives import Collectives
from kronos.evaluation import accuracy, signals
from kronos.evaluation.departures import pay_out
from kronos.evaluation.tradability import trading_mask
from kronos.forecast.shards import parts_of
from kronos.forecast.store_forecaster import Forecaster, trading_rules
from kronos.stages.inputs import wide_bars
from kronos.utils.errors import UserError


@dataclass(frozen=True)
class ValidationForecasts:
    """The forecasts of a validation range, and how they are scored."""

    config: Config
    store: BarStore
    splits: Ranges
    points: ForecastPoints

    def scores(
        self, closes_NSH: np.ndarray, metrics: Collection[str]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Return the metrics of the closes of sample paths, and the Rank IC of each day that has one.

        `rank_ic` is the mean over days of `backtest_signal` with the tradable return, as in the report, `crps` the
        fair CRPS of the predicted closes divided by the last close of the context, computed where `metrics` has it.
        The key of a day is its time in ISO 8601.
        """
        config, store, points = self.config, self.store, self.points
        horizon = config.data.predict_window
        start = max(int(points.session.min()) - 1, 0)  # the close before tells a limit
        bars = wide_bars(store, start)
        close = bars["close"]
        mean_NH, count = closes_NSH.mean(axis=1), len(points)
        forecast = pd.DataFrame({
            "instrument": np.repeat(np.array(store.instruments, dtype=object)[points.instrument], horizon),
            "as_of": np.repeat(store.sessions[points.session], horizon).astype("datetime64[ns]"),
            "step": np.tile(np.arange(1, horizon + 1, dtype=np.int32), count), "close": mean_NH.reshape(-1),
        })  # fmt: skip
        predicted = signals.wide(signals.score(close, forecast), config.backtest.backtest_signal)
        end = pd.Timestamp(self.splits.val[1]) + pd.Timedelta(days=1)
        known = {name: frame[frame.index < end] for name, frame in bars.items()}  # no bar after the range
        known = pay_out(known, config.backtest.backtest_delisting_return)
        mask = trading_mask(store, known, "open", config.backtest.backtest_limit_threshold)
        realised = signals.tradable_returns(known["open"], known["close"], horizon, mask)
        daily = signals.daily_ic(predicted, realised)["rank_ic"]
        found = {"rank_ic": float(daily.mean())}
        if "crps" in metrics:
            seen = store.values[points.row, CLOSE].astype(np.float64)
            place = points.session.astype(np.int64)[:, None] - start + np.arange(1, horizon + 1)
            ahead_NH = close.to_numpy()[place, points.instrument[:, None]] / seen[:, None]
            parts = accuracy.crps((closes_NSH / seen[:, None, None]).transpose(0, 2, 1), ahead_NH)
            found["crps"] = float(np.nanmean(parts))
        finite: Any = daily.dropna()
        return found, {day.isoformat(): float(value) for day, value in finite.items()}


def validation_forecasts(config: Config, store: BarStore, splits: Ranges) -> ValidationForecasts:
    """The forecasts that begin at the validation range's start + lookback and end within the range.

    Days are subsampled evenly so that about n_val_iter forecasts remain, of instruments that are not held out.
    Raises UserError where the range is too short.
    """
    lookback, horizon = config.data.lookback_window, config.data.predict_window
    points = forecast_points(store, *splits.val, lookback, horizon)
    held_out = np.isin(np.array(store.instruments, dtype=object), list(splits.held_out))
    points = points.subset(~held_out[points.instrument])
    sessions = np.unique(points.session)
    first = int(np.searchsorted(store.sessions, pd.Timestamp(splits.val[0]).value)) + lookback - 1
    last = int(np.searchsorted(store.sessions, pd.Timestamp(splits.val[1]).value, "right")) - 1 - horizon
    days = sessions[(sessions >= first) & (sessions <= min(last, store.last_session - horizon))]
    if not len(days):
        raise UserError(
            "val_time_range is too short: no forecast begins at its start + lookback and ends within it"
        )
    whole = int(np.isin(points.session, days).sum())
    points = points.subset(np.isin(points.session, days[:: math.ceil(whole / config.training.n_val_iter)]))
    return ValidationForecasts(config, store, splits, points)


def scored_by_forecasts(
    config: Config, store: BarStore, splits: Ranges, tokenizer: Any
) -> Callable[[nn.Module, Collectives, Callable[[], bool]], dict[str, float] | None]:
    """Return the function that scores a predictor during its training by its forecasts, on every rank the same.

    A copy of the model without adapter forecasts, the ranks share the forecasts, and the model itself is left as it
    is. A figure that cannot be computed is left out. Raises UserError where the validation days cannot give the
    figure that is asked for.
    """
    wanted = validation_forecasts(config, store, splits)
    few = len(np.unique(wanted.points.instrument))
    if config.training.early_stopping_metric == "rank_ic" and few < signals.MIN_NAMES:
        raise UserError(
            f"early_stopping_metric: rank_ic ranks at least {signals.MIN_NAMES} instruments, {few} have forecasts of "
            "validation days: give crps or val_loss"
        )
    rules = trading_rules(config)
    metrics = ("rank_ic", "crps") if rules["sample_count"] > 1 else ("rank_ic",)

    def score(model: nn.Module, ranks: Collectives, stop: Callable[[], bool]) -> dict[str, float] | None:
        device = next(model.parameters()).device
        forecaster = Forecaster(config, store, tokenizer.to(device), _plain_copy(model).to(device).eval())
        parts = parts_of(len(wanted.points), forecaster.size(wanted.points, rules))
        own: dict[int, np.ndarray] = {}
        stopped = False
        for number in range(ranks.rank, len(parts), ranks.world):
            if stopped := stop():
                break
            own[number] = forecaster.make(wanted.points, rules, "close", parts[number])[0]
        by_rank = ranks.all_gather((own, stopped))
        if any(stopped for _, stopped in by_rank):
            return None
        every = {number: closes for closes_of, _ in by_rank for number, closes in closes_of.items()}
        closes = np.concatenate([every[number] for number in range(len(parts))]).astype(np.float64)
        found, _ = wanted.scores(closes, metrics)
        # Rank 0's figures: the ranks may be on machines that round differently.
        return ranks.broadcast_object({name: value for name, value in found.items() if math.isfinite(value)})

    return score


def _plain_copy(model: Any) -> Any:
    """A copy of a predictor with its adapter merged and its sharded weights gathered; every rank must call this."""
    from kronos.model.presets import build_model
    from kronos.training import adapters
    from kronos.training.sharding import whole_state

    weights = whole_state(model)
    if adapters.has_adapter(model):
        weights = adapters.merged(model, weights)
    with (
        torch.random.fork_rng()
    ):  # the random weights of a new model are not taken from those of the training
        copy = build_model("predictor", model.config)
    copy.load_state_dict(weights)
    return copy
