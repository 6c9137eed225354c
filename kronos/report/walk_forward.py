"""Several test periods as one: daily series of folds in a row, pooled with intervals, and the report on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.evaluation.portfolio import periods_a_year
from kronos.evaluation.statistics import Estimate, estimate, verdict
from kronos.report.content import plain
from kronos.report.document import (
    Block,
    Figure,
    Heading,
    Points,
    Table,
    Text,
    number_text,
    to_html,
    to_markdown,
)
from kronos.report.evaluation_figures import fold_figure
from kronos.report.figures import save_png
from kronos.report.summary import interval_text
from kronos.utils import files


@dataclass(frozen=True)
class Fold:
    """One test period: its days, its ledger, and daily Rank ICs of the model and of each baseline."""

    name: str
    trained: str  # a clause: the days that its models were trained on
    daily: pd.DataFrame  # of the backtest: return, cost, bench
    rank_ic: pd.Series  # with the tradable return, indexed by day
    baselines: Mapping[str, pd.DataFrame]  # name -> columns model, baseline; indexed by day


@dataclass(frozen=True)
class Pooled:
    """What the folds amount to together."""

    rank_ic: Estimate
    gains: dict[str, Estimate]  # over each baseline
    excess: Estimate  # a day, after costs
    periods: int  # a year


def read_fold(folder: Path, name: str, trained: str, signal: str) -> Fold:
    """A fold from the files of its backtest."""
    daily = pd.read_csv(folder / "daily.csv", index_col="datetime", parse_dates=True)
    ic = pd.read_csv(folder / "daily_ic.csv", parse_dates=["datetime"])
    own = ic[(ic["target"] == "tradable") & (ic["signal"] == signal)].set_index("datetime")["rank_ic"]
    table = pd.read_csv(folder / "ranking_baselines.csv", parse_dates=["datetime"])
    baselines = {
        str(key): group.set_index("datetime")[["model", "baseline"]]
        for key, group in table.groupby("baseline_key", sort=False)
    }
    return Fold(name, trained, daily, own, baselines)


def pool(folds: Sequence[Fold], horizon: int, before_spacing: int | None = None) -> Pooled:
    """Means over the days of all folds, one after the other, with intervals by blocks of days.

    `before_spacing`: days from one forecast of the model before training to the next; None: the horizon.
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
        excess=estimate(_excess(daily), horizon), periods=periods_a_year(daily.index),
    )  # fmt: skip


def _excess(daily: pd.DataFrame) -> pd.Series:
    return daily["return"] - daily["cost"] - daily["bench"]


def write_pooled(
    folder: Path,
    folds: Sequence[Fold],
    *,
    signal: str,
    horizon: int,
    refit: bool,
    before_spacing: int | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, float]:
    """Write report.md, report.html, metrics.json, folds.csv and a figure; returns the key figures."""
    pooled = pool(folds, horizon, before_spacing)
    days = sum(len(fold.daily) for fold in folds)
    note = verdict(days, horizon) or verdict(pooled.rank_ic.days, horizon)
    each = [pool([fold], horizon, before_spacing) for fold in folds]
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    period = f"{len(folds)} folds, {days} sessions" + (f"; {note}" if note else "")
    figure = fold_figure([fold.name for fold in folds], [one.rank_ic for one in each],
                         pd.concat([_excess(fold.daily) for fold in folds]), signal, period)  # fmt: skip
    save_png(figure, folder / "figures" / "folds.png")
    blocks: list[Block] = [
        Heading(1, f"Walk-forward of the {signal} signal, {horizon} days ahead, {len(folds)} folds"),
        *_words(pooled, note),
        *(Text(f"**Warning:** {warning}") for warning in warnings),
        Text(
            "Each fold is tested on its own days by models "
            + ("trained anew on the days before it." if refit else "that are the same for all.")
            + " Days of all folds are pooled in a row; intervals are a block bootstrap over days (95 %), returns are "
            "summed."
        ),
        _table(folds, each, pooled),
        _gains(pooled),
        Figure("Folds", "figures/folds.png"),
    ]
    (folder / "report.md").write_text(to_markdown(blocks), encoding="utf-8")
    (folder / "report.html").write_text(to_html(blocks, folder), encoding="utf-8")
    rows = [
        {"fold": fold.name, "rank_ic": one.rank_ic.mean, "low": one.rank_ic.low, "high": one.rank_ic.high,
         "excess": one.excess.mean * one.periods, "days": len(fold.daily)}
        for fold, one in zip(folds, each, strict=True)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "folds.csv", index=False, float_format="%.10g")
    values = _metrics(pooled, days, len(folds))
    found: dict[str, Any] = {"metrics": values, "too_short": note, "pooled": pooled, "folds": rows}
    files.write_json(folder / "metrics.json", plain(found))
    return values


def _words(pooled: Pooled, note: str) -> list[Block]:
    if note:
        return [
            Text(
                f"**{note[0].upper()}{note[1:]}.** No figure below is evidence for or against the forecasts."
            )
        ]
    found = pooled.rank_ic
    head = {
        1: "**Over all folds the ranking is worth something:**",
        0: "**Nothing was found over all folds: the ranking cannot be told from chance;**",
        -1: "**Over all folds the ranking is worse than chance:**",
    }[found.sign]
    verb = {1: "beats", 0: "cannot be told from", -1: "is beaten by"}[pooled.excess.sign]
    return [Points([
        f"{head} Rank IC {number_text(found.mean, '{:+.4f}')} ({interval_text(found, '{:+.4f}')}).",
        f"After its costs the portfolio {verb} the benchmark by "
        f"{number_text(pooled.excess.mean * pooled.periods, '{:+.1%}')} a year "
        f"({interval_text(pooled.excess, '{:+.1%}', pooled.periods)}).",
    ])]  # fmt: skip


def _table(folds: Sequence[Fold], each: Sequence[Pooled], pooled: Pooled) -> Table:
    rows = []
    for fold, one in zip(folds, each, strict=True):
        days = fold.daily.index
        rows.append([
            fold.name, fold.trained, f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}", f"{len(days)}", *_cells(one),
        ])  # fmt: skip
    total = sum(len(fold.daily) for fold in folds)
    rows.append(["**all**", "", "", f"{total}", *_cells(pooled)])
    header = ["fold", "trained on", "tested on", "sessions", "Rank IC", "95 % interval", "annualised excess",
              "95 % interval"]  # fmt: skip
    return Table(header, rows)


def _cells(one: Pooled) -> list[str]:
    return [
        number_text(one.rank_ic.mean, "{:+.4f}"), interval_text(one.rank_ic, "{:+.4f}"),
        number_text(one.excess.mean * one.periods, "{:+.2%}"), interval_text(one.excess, "{:+.2%}", one.periods),
    ]  # fmt: skip


def _gains(pooled: Pooled) -> Table:
    rows = [
        [key, number_text(gain.mean, "{:+.4f}"), interval_text(gain, "{:+.4f}"), f"{gain.days}"]
        for key, gain in pooled.gains.items()
    ]
    return Table(["gain in Rank IC over", "mean", "95 % interval", "days"], rows)


def _metrics(pooled: Pooled, days: int, folds: int) -> dict[str, float]:
    values: dict[str, float] = {"folds": folds, "test_days": days}
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
