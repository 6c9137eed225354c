"""Forecasts kept as they were made, and their score when the days have come: coverage, Rank IC, skill.

A log is a long frame: model, made, as_of, instrument, datetime, step, last_close (of `as_of`, when the forecast was
made), close (mean) and low and high (the outermost quantiles of the close). What is in the log is never changed: a
forecast of the same bar by the same model is not added again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.evaluation import signals
from kronos.evaluation.statistics import Estimate, estimate, ratio
from kronos.utils.files import digest_bytes

KEYS = ["model", "as_of", "instrument", "step"]
COLUMNS = ("model", "made", "as_of", "instrument", "datetime", "step", "last_close", "close", "low", "high")


@dataclass(frozen=True)
class Scorecard:
    """What the forecasts of one model were worth so far, with 95 % intervals over the days that they were made on.

    Attributes:
        days: days of forecasts whose whole horizon has passed.
        forecasts: (day, instrument) pairs of these days.
        coverage: share of closes within low and high, over all steps.
        rank_ic: of the signal with what it predicts.
        skill: 1 - mean absolute error of the signal over that of no change; with its interval.
        waiting: pairs whose horizon has not passed.
    """

    days: int
    forecasts: int
    waiting: int
    coverage: Estimate
    rank_ic: Estimate
    skill: tuple[float, float, float]

    def values(self) -> dict[str, float]:
        """The figures by name, without those that are not known yet."""
        found: dict[str, float] = {"days": self.days, "forecasts": self.forecasts, "waiting": self.waiting}
        for name, one in (("coverage", self.coverage), ("rank_ic", self.rank_ic)):
            found |= {name: one.mean, f"{name}_low": one.low, f"{name}_high": one.high}
        found |= dict(zip(("skill", "skill_low", "skill_high"), self.skill, strict=True))
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def added(
    log: pd.DataFrame | None, forecast: pd.DataFrame, last_close: pd.Series, model: str, made: str
) -> pd.DataFrame:
    """Return the log with the forecasts that are not in it yet.

    `forecast` is what the stage predict writes; `last_close` holds the close at its `as_of` by instrument.
    """
    levels = sorted(
        (float(name.removeprefix("close_q")), name) for name in forecast.columns if name.startswith("close_q")
    )
    new = forecast[["as_of", "instrument", "datetime", "step", "close"]].copy()
    new["model"], new["made"] = model, made
    new["last_close"] = new["instrument"].map(last_close).to_numpy(dtype=np.float64)
    new["low"] = forecast[levels[0][1]] if levels else np.nan
    new["high"] = forecast[levels[-1][1]] if levels else np.nan
    new = new[list(COLUMNS)]
    if log is None:
        return new.reset_index(drop=True)
    known = pd.MultiIndex.from_frame(log[KEYS])
    fresh = ~pd.MultiIndex.from_frame(new[KEYS]).isin(known)
    return log if not fresh.any() else pd.concat([log, new[fresh]], ignore_index=True)


def scorecard(log: pd.DataFrame, close: pd.DataFrame, signal: str) -> Scorecard:
    """Score the forecasts of one model and one horizon with the closes that have come.

    `close` is wide, one row per session, NaN where there is no bar. Forecasts and closes are compared as returns on
    the close of `as_of`, so that a split in between changes nothing.
    """
    horizon = int(log["step"].max())
    base = log.drop_duplicates(["as_of", "instrument"]).set_index(["as_of", "instrument"])["last_close"]
    score = signals.scores(log, base)[signal].unstack("instrument")
    passed = close.index.get_indexer(score.index) + horizon < len(close)
    score = score[passed]
    target = signals.targets(close, horizon)[signal].reindex(index=score.index, columns=score.columns)
    both = score.notna() & target.notna()
    error = (score - target).abs().where(both).mean(axis=1)
    unchanged = target.abs().where(both).mean(axis=1)
    known = both.any(axis=1).to_numpy()
    worse, low, high = ratio(error[known].to_numpy(), unchanged[known].to_numpy(), horizon)
    inside = _inside(log[log["as_of"].isin(score.index)], close)
    pairs = log.drop_duplicates(["as_of", "instrument"])
    return Scorecard(
        days=int(known.sum()),
        forecasts=int(both.to_numpy().sum()),
        waiting=int((~pairs["as_of"].isin(score.index)).sum()),
        coverage=estimate(inside.groupby(level="as_of").mean(), horizon),
        rank_ic=estimate(signals.daily_ic(score.where(both), target)["rank_ic"], horizon),
        skill=(1 - worse, 1 - high, 1 - low),
    )


def log_id(log: pd.DataFrame) -> str:
    """Return a name for the log of one model that stays while the log grows: a digest of its first forecast."""
    return digest_bytes(log.iloc[:1].to_csv(index=False).encode())[:16]


def skill_verdict(card: Mapping[str, float]) -> str:
    """One sentence about what the forecasts were worth so far, by the interval of their skill."""
    if not card.get("days"):
        return "No forecast has come to its end yet."
    low, high = card.get("skill_low"), card.get("skill_high")
    if low is None or high is None:
        return "Too few days have come for an interval of the skill over no change."
    if low > 0:
        return "Better than no change: the whole interval of the skill is above 0."
    if high < 0:
        return "Worse than no change: the whole interval of the skill is below 0."
    return "Not told apart from no change: the interval of the skill holds 0."


def drift(live: Mapping[str, float], tested: Mapping[str, float], band: int = 90) -> list[str]:
    """Sentences about figures that are known well enough live and lie outside the interval of the backtest.

    `band` is the share, in per cent, that lies between the outermost quantiles of the forecasts.
    """
    found = []
    for name, theirs in (("coverage", f"coverage_{band}_calibrated"), ("rank_ic", "predicted_rank_ic")):
        low, high = tested.get(f"{theirs}_low"), tested.get(f"{theirs}_high")
        here, there = live.get(f"{name}_low"), live.get(f"{name}_high")
        if low is None or high is None or here is None or there is None:
            continue
        if there < low or here > high:
            found.append(
                f"{name} {live[name]:.3f} ({here:.3f} to {there:.3f}) has left the backtest's interval, {low:.3f} to "
                f"{high:.3f}"
            )
    return found


def _inside(log: pd.DataFrame, close: pd.DataFrame) -> pd.Series:
    """Whether each close lies within its band, 1 or 0, by as_of and instrument; without closes that are missing."""
    columns = close.columns.get_indexer(pd.Index(log["instrument"]))
    values = close.to_numpy(dtype=np.float64)

    def at(times: pd.Series) -> np.ndarray:
        rows = close.index.get_indexer(pd.DatetimeIndex(times))
        known = (rows >= 0) & (columns >= 0)
        return np.where(known, values[rows, columns], np.nan)

    realised = at(log["datetime"]) / at(log["as_of"])
    low, high = log["low"] / log["last_close"], log["high"] / log["last_close"]
    inside = pd.Series(
        ((realised >= low) & (realised <= high)).to_numpy(dtype=np.float64),
        index=pd.MultiIndex.from_frame(log[["as_of", "instrument"]]),
    )
    return inside[np.isfinite(realised) & np.isfinite(low.to_numpy())]
