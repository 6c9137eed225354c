"""Pool the daily series of a walk-forward's folds, with intervals, and write the report on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.evaluation.statistics import Estimate, estimate, verdict
from kronos.report.content import plain
from kronos.report.evaluation_figures import fold_figure
from kronos.report.figures import save_png
from kronos.report.rendering import write_pages
from kronos.utils import files

BAND = "coverage_90"  # of the band of the key figures


@dataclass(frozen=True)
class Fold:
    """One test period: its ledger, and the daily Rank ICs of the model and of each baseline."""

    name: str
    trained: str  # a clause: the days that its models were trained on
    daily: pd.DataFrame  # of the backtest: return, cost, bench
    rank_ic: pd.Series  # with the tradable return, indexed by day
    baselines: Mapping[str, pd.DataFrame]  # name -> columns model, baseline; indexed by day
    coverage: Mapping[str, float] = field(default_factory=dict)  # of the 90 % band: raw, calibrated, series


@dataclass(frozen=True)
class Pooled:
    """Estimates over the days of all folds."""

    rank_ic: Estimate
    gains: dict[str, Estimate]  # over each baseline
    excess: Estimate  # per day, after costs
    periods: float  # per year


@dataclass(frozen=True, kw_only=True)
class PooledInputs:
    """What the report of a walk-forward is written from.

    Attributes:
        periods_per_year: sessions (bars, within a day) of the market's year.
        before_spacing: days from one forecast of the model before training to the next; None: the horizon.
        looks_before: other models that were evaluated on these days before.
    """

    folds: Sequence[Fold]
    signal: str
    horizon: int
    periods_per_year: float
    refit: bool
    before_spacing: int | None = None
    warnings: Sequence[str] = ()
    looks_before: int = 0

    @cached_property
    def pooled(self) -> Pooled:
        return pool(self.folds, self.horizon, self.periods_per_year, self.before_spacing)

    @cached_property
    def each(self) -> list[Pooled]:
        return [pool([fold], self.horizon, self.periods_per_year, self.before_spacing) for fold in self.folds]

    @property
    def days(self) -> int:
        return sum(len(fold.daily) for fold in self.folds)

    @property
    def note(self) -> str:
        """That the days are too few, else empty."""
        return verdict(self.days, self.horizon) or verdict(self.pooled.rank_ic.days, self.horizon)


def read_fold(folder: Path, name: str, trained: str, signal: str) -> Fold:
    """Read a fold from the files of its backtest."""
    daily = pd.read_csv(folder / "daily.csv", index_col="datetime", parse_dates=True)
    ic = pd.read_csv(folder / "daily_ic.csv", parse_dates=["datetime"])
    own = ic[(ic["target"] == "tradable") & (ic["signal"] == signal)].set_index("datetime")["rank_ic"]
    table = pd.read_csv(folder / "ranking_baselines.csv", parse_dates=["datetime"])
    baselines = {
        str(key): group.set_index("datetime")[["model", "baseline"]]
        for key, group in table.groupby("baseline_key", sort=False)
    }
    figures = files.read_json(folder / "metrics.json")["metrics"]
    shown = {"raw": f"{BAND}_raw", "calibrated": f"{BAND}_calibrated", "series": "coverage_series"}
    held = {key: figures[metric] for key, metric in shown.items() if figures.get(metric) is not None}
    return Fold(name, trained, daily, own, baselines, held)


def coverage(folds: Sequence[Fold]) -> dict[str, float]:
    """Return what the 90 % band held over all folds, raw and calibrated, each fold by its number of forecasts."""
    found = {}
    for kind in ("raw", "calibrated"):
        able = [fold.coverage for fold in folds if kind in fold.coverage]
        if able and len(able) == len(folds):
            weight = sum(one["series"] for one in able)
            found[kind] = sum(one[kind] * one["series"] for one in able) / weight
    return found


def pool(
    folds: Sequence[Fold], horizon: int, periods_per_year: float, before_spacing: int | None = None
) -> Pooled:
    """Return means over the concatenated days of all folds, with their intervals.

    `periods_per_year`: sessions (bars, within a day) of the market's year. `before_spacing`: days from one forecast
    of the model before training to the next; None: the horizon.
    """
    daily = pd.concat([fold.daily for fold in folds])
    keys = dict.fromkeys(key for fold in folds for key in fold.baselines)
    gains = {}
    for key in keys:
        both = pd.concat([fold.baselines[key] for fold in folds if key in fold.baselines]).dropna()
        spacing = (before_spacing or horizon) if key == "before" else 1
        gains[key] = estimate(both["model"] - both["baseline"], horizon, spacing)
    return Pooled(
        rank_ic=estimate(pd.concat([fold.rank_ic for fold in folds]), horizon), gains=gains,
        excess=estimate(_excess(daily), horizon), periods=periods_per_year,
    )  # fmt: skip


def _excess(daily: pd.DataFrame) -> pd.Series:
    return daily["return"] - daily["cost"] - daily["bench"]


def write_pooled(folder: Path, inputs: PooledInputs, language: str = "en") -> dict[str, float]:
    """Write report.md, report.html, metrics.json, folds.csv and a figure; returns the key figures."""
    folds, each, held = inputs.folds, inputs.each, coverage(inputs.folds)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    period = f"{len(folds)} folds, {inputs.days} sessions" + (f"; {inputs.note}" if inputs.note else "")
    figure = fold_figure([fold.name for fold in folds], [one.rank_ic for one in each],
                         pd.concat([_excess(fold.daily) for fold in folds]), inputs.signal, period)  # fmt: skip
    save_png(figure, folder / "figures" / "folds.png")
    write_pooled_pages(folder, inputs, language)
    rows = [
        {"fold": fold.name, "rank_ic": one.rank_ic.mean, "low": one.rank_ic.low, "high": one.rank_ic.high,
         "excess": one.excess.mean * one.periods, "days": len(fold.daily),
         **{f"{BAND}_{kind}": fold.coverage[kind] for kind in held}}
        for fold, one in zip(folds, each, strict=True)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "folds.csv", index=False, float_format="%.10g")
    values = {**_metrics(inputs.pooled, inputs.days, len(folds)), "looks_before": float(inputs.looks_before)}
    values |= {f"{BAND}_{kind}": share for kind, share in held.items()}
    found: dict[str, Any] = {
        "metrics": values, "too_short": inputs.note, "pooled": inputs.pooled, "folds": rows,
    }  # fmt: skip
    files.write_json(folder / "metrics.json", plain(found))
    return values


def write_pooled_pages(folder: Path, inputs: PooledInputs, language: str) -> None:
    """Write report.md and report.html into `folder`, in `language`: en, zh or both."""
    content = {
        "folds": list(zip(inputs.folds, inputs.each, strict=True)), "pooled": inputs.pooled, "note": inputs.note,
        "days": inputs.days, "signal": inputs.signal, "horizon": inputs.horizon, "refit": inputs.refit,
        "warnings": inputs.warnings, "looks_before": inputs.looks_before, "coverage": coverage(inputs.folds),
    }  # fmt: skip
    write_pages(folder, "walk_forward.j2", lambda edition: content, language=language)


def _metrics(pooled: Pooled, days: int, folds: int) -> dict[str, float]:
    values: dict[str, float] = {"folds": folds, "test_days": days, "periods_per_year": pooled.periods}
    for name, one, factor in (
        ("rank_ic_mean", pooled.rank_ic, 1), ("excess_return_annualised", pooled.excess, pooled.periods),
        *((f"rank_ic_gain_over_{key}", gain, 1) for key, gain in pooled.gains.items()),
    ):  # fmt: skip
        stem = name.removesuffix("_mean")
        values |= {
            name: one.mean * factor,
            f"{stem}_low": one.low * factor,
            f"{stem}_high": one.high * factor,
        }
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}
