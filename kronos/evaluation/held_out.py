"""Instruments that no training saw beside those that it saw: Rank IC, skill and the differences.

What a model learnt of an instrument's own past may not hold elsewhere. Both groups are ranked within themselves, so
that neither gains from a difference between the groups.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.evaluation import accuracy, signals
from kronos.evaluation.forecast_evaluation import Forecasts
from kronos.evaluation.statistics import Estimate, estimate, paired

DRAWS = 20  # random groups of the size of the smaller one
SALT = 20261128


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Figures of the forecasts of instruments that were trained on (seen) and of those held out (unseen)."""

    names: tuple[str, ...]  # held out, of those that are forecast
    maybe_seen: bool  # by weights that the training started from, such as public ones
    seen: int  # instruments that are forecast and were not held out
    rank_ic_seen: Estimate  # of the configured signal with the tradable return
    rank_ic_unseen: Estimate
    # unseen minus seen, over the days that both have, both of groups of the same size (see `equal_groups`)
    rank_ic_difference: Estimate
    skill_seen: tuple[float, float, float]  # of the MAE against the last price's, with its interval
    skill_unseen: tuple[float, float, float]
    skill_difference: Estimate  # unseen minus seen


def measure(
    forecasts: Forecasts, score: pd.DataFrame, held_out: Collection[str], maybe_seen: bool = False
) -> HeldOut | None:
    """Return the figures of both groups; None where no forecast is of a held-out instrument, or all are.

    Args:
        forecasts: of all instruments.
        score: the configured signal, wide.
        held_out: instruments that neither training nor validation windows were made of.
        maybe_seen: whether the weights that training started from may have seen them.
    """
    columns = forecasts.close.columns
    unseen_I = columns.isin(list(held_out))
    unseen_N = unseen_I[forecasts.instrument_N]
    if unseen_N.all() or not unseen_N.any():
        return None
    horizon = forecasts.horizon
    earned = signals.tradable_returns(forecasts.opening, forecasts.close, horizon, forecasts.tradable)
    aligned = score.reindex(columns=columns)
    daily = [
        signals.daily_ic(aligned.loc[:, own], earned.loc[:, own])["rank_ic"] for own in (unseen_I, ~unseen_I)
    ]
    smaller = equal_groups(aligned, earned, unseen_I)
    realised = forecasts.realised()
    loss = np.abs(forecasts.close_NH / forecasts.last_N[:, None] - realised)
    still = np.abs(1 - realised)
    skills = [
        accuracy.skill(loss[own], still[own], forecasts.day_N[own], horizon)[:3]
        for own in (unseen_N, ~unseen_N)
    ]
    known = np.unique(forecasts.instrument_N)
    return HeldOut(
        names=tuple(columns[known[unseen_I[known]]]), seen=int((~unseen_I[known]).sum()), maybe_seen=maybe_seen,
        rank_ic_unseen=estimate(daily[0], horizon), rank_ic_seen=estimate(daily[1], horizon),
        rank_ic_difference=paired(*smaller, horizon), skill_unseen=skills[0], skill_seen=skills[1],
        skill_difference=skill_difference(loss, still, forecasts.day_N, unseen_N, horizon),
    )  # fmt: skip


def equal_groups(score: pd.DataFrame, target: pd.DataFrame, group: np.ndarray) -> tuple[pd.Series, pd.Series]:
    """Return the daily Rank IC of a group of columns and of the others, of as many instruments of each.

    The mean of a rank correlation is smaller for fewer instruments (Moran, "Rank correlation and product-moment
    correlation", Biometrika 1948), so that two groups of different sizes would differ by that alone. Of the larger
    group the value is the mean over DRAWS random groups of the smaller one's size.
    """
    known = (score.notna() & target.reindex_like(score).notna()).to_numpy()
    sides = [known & group, known & ~group]
    size_D = np.minimum(*(side.sum(axis=1) for side in sides))
    random = np.random.default_rng(SALT)
    found = []
    for side in sides:
        draws = DRAWS if (side.sum(axis=1) > size_D).any() else 1
        series = []
        for _ in range(draws):
            order = np.where(side, random.random(side.shape), np.inf).argsort(axis=1).argsort(axis=1)
            series.append(signals.daily_ic(score.where(side & (order < size_D[:, None])), target)["rank_ic"])
        found.append(pd.concat(series, axis=1).mean(axis=1))
    return found[0], found[1]


def skill_difference(
    loss: np.ndarray, baseline: np.ndarray, day: np.ndarray, group: np.ndarray, horizon: int
) -> Estimate:
    """Estimate the skill (1 - mean loss / mean baseline) of a group of forecasts minus that of the others.

    `loss` and `baseline` are [N, H], `day` and `group` (bool) [N]. By the delta method, over the days on which both
    have a forecast: the interval is that of the daily values whose mean the difference is to first order.
    """
    parts = []
    for own in (group, ~group):
        both = np.isfinite(loss[own]) & np.isfinite(baseline[own])
        days = np.repeat(day[own][:, None], loss.shape[1], axis=1)[both]
        frame = pd.DataFrame({"loss": loss[own][both], "baseline": baseline[own][both]})
        parts.append(frame.groupby(days, sort=True).mean())
    common = parts[0].index.intersection(parts[1].index)
    daily = np.zeros(len(common))
    for sign, part in zip((-1, 1), parts, strict=True):
        own_days = part.loc[common]
        below = float(own_days["baseline"].mean()) if len(common) else 0.0
        if not below > 0:
            return estimate([], horizon)
        quotient = float(own_days["loss"].mean()) / below
        around = (own_days["loss"] - quotient * own_days["baseline"]).to_numpy() / below
        daily += sign * (quotient + around)
    return estimate(daily, horizon)
