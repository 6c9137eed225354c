"""Figures of an evaluation: drawdown, rolling figures, turnover, IC by month, groups, calibration, folds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kronos.evaluation.coverage import BINS, SHOWN, Coverage
from kronos.evaluation.statistics import Estimate
from kronos.report.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORDERED,
    RED,
    blank_panels,
    legend,
    panels_over_days,
    signed,
)

PER_CENT = FuncFormatter(lambda value, _: signed(value, "{:.1%}"))


def drawdown_figure(daily: pd.DataFrame, signal: str, period: str) -> Figure:
    """Draw the drawdown of the cumulative sums: portfolio and benchmark above, excess below."""
    net = daily["return"] - daily["cost"]
    figure, upper, lower = panels_over_days(f"Drawdown, {signal} signal", period, len(daily))
    for axes, label, series, color in (
        (upper, "portfolio, with costs", net, BLUE),
        (upper, "benchmark", daily["bench"], GREY),
        (lower, "excess, with costs", net - daily["bench"], GREEN),
    ):
        curve = series.cumsum()
        fall = (curve - curve.cummax().clip(lower=0)).to_numpy()
        text = f"{label}  {signed(float(fall.min()), '{:.2%}')} at most"
        axes.fill_between(daily.index.to_numpy(), fall, 0, color=color, alpha=0.2, lw=0)
        axes.plot(daily.index.to_numpy(), fall, color=color, lw=1.6, label=text)
    for axes, label in ((upper, "drawdown"), (lower, "drawdown of the excess")):
        axes.set_ylabel(label, color=INK, fontsize=9.5)
        axes.yaxis.set_major_formatter(PER_CENT)
        legend(axes)
    return figure


def rolling_figure(rolling: pd.DataFrame, window: int, signal: str, period: str) -> Figure:
    """Draw the rolling Sharpe ratio above and the rolling volatility below, of `window` sessions each."""
    title = f"Last {window} sessions, {signal} signal, with costs"
    figure, upper, lower = panels_over_days(title, period, len(rolling))
    for axes, column, label, style, color in (
        (upper, "sharpe", "Sharpe ratio", "{:+.2f}", BLUE),
        (lower, "volatility", "annualised volatility", "{:.1%}", GREEN),
    ):
        series = rolling[column]
        text = f"{label}, {signed(float(series.iloc[-1]), style)} at the end"
        axes.plot(series.index.to_numpy(), series.to_numpy(), color=color, lw=1.6, label=text)
        axes.set_ylabel(label, color=INK, fontsize=9.5)
        legend(axes)
    lower.yaxis.set_major_formatter(PER_CENT)
    return figure


def turnover_figure(daily: pd.DataFrame, ranking: pd.DataFrame, signal: str, period: str) -> Figure:
    """Draw the daily turnover of the portfolio above; below, how much of the highest group changes per day."""
    figure, upper, lower = panels_over_days(f"Turnover, {signal} signal", period, len(daily))
    for axes, label, series, color, side in (
        (upper, "portfolio: bought plus sold", daily["turnover"], BLUE, "share of the account"),
        (lower, "ranking: instruments new in the highest group", ranking["top"], GREEN, "share of the group"),
    ):
        text = f"{label}, {signed(float(series.mean()), '{:.1%}')} on average"
        axes.plot(series.index.to_numpy(), series.to_numpy(), color=color, lw=1.4, label=text)
        axes.set_ylabel(side, color=INK, fontsize=9.5)
        axes.yaxis.set_major_formatter(PER_CENT)
        legend(axes)
    return figure


def monthly_ic_figure(ic: pd.DataFrame, signal: str, horizon: int, period: str) -> Figure:
    """Draw the mean Rank IC and IC of each month, one bar per month, with the number of days."""
    title = f"Information coefficient by month, {signal} signal, {horizon} days ahead"
    figure, axes = blank_panels(title, period, 2, 1, sharex=True)
    months = pd.PeriodIndex(ic.index, freq="M")
    for panel, column, label in ((axes[0], "rank_ic", "Rank IC"), (axes[1], "ic", "IC")):
        grouped = ic[column].groupby(months)
        means, counts = grouped.mean(), grouped.count()
        places = np.arange(len(means))
        panel.bar(places, means.fillna(0).to_numpy(), width=0.6, lw=0,
                  color=[BLUE if value > 0 else RED for value in means])  # fmt: skip
        panel.axhline(0, color=GREY, lw=0.9)
        panel.set_ylabel(f"{label}, mean over days", color=INK, fontsize=9.5)
        labels = [f"{month:%b %Y}\n{count} days" for month, count in zip(means.index, counts, strict=True)]
        step = max(1, len(labels) // 12)
        panel.set_xticks(places[::step], labels[::step])
    axes[1].set_xlabel("month", color=INK, fontsize=9.5)
    return figure


def group_figure(
    groups: pd.DataFrame, means: Mapping[int, Estimate], signal: str, horizon: int, period: str
) -> Figure:
    """Draw the mean return of each group with its interval, left, and the groups' cumulative returns, right."""
    title = f"Returns of five groups, {signal} signal, open to open over {horizon} days"
    figure, axes = blank_panels(title, period, 1, 2)
    places = np.array(list(means))
    values = np.array([one.mean for one in means.values()])
    ends = np.array([[one.mean - one.low, one.high - one.mean] for one in means.values()]).T
    axes[0].bar(places, values, color=ORDERED, width=0.65, lw=0)
    if np.isfinite(ends).all():
        axes[0].errorbar(places, values, yerr=np.abs(ends), fmt="none", ecolor=INK, capsize=3, lw=1)
    axes[0].axhline(0, color=GREY, lw=0.9)
    axes[0].set_xticks(places, [f"{place}" for place in places])
    axes[0].set_xlabel("group by signal, 1 is the lowest; 95 % interval", color=INK, fontsize=9.5)
    for group, color in zip(groups, ORDERED, strict=True):
        # a return spans the horizon: 1 / horizon of it counts per day, since neighbouring returns overlap
        curve = (groups[group].dropna() / horizon).cumsum()
        axes[1].plot(curve.index.to_numpy(), curve.to_numpy(), color=color, lw=1.6, label=f"group {group}")
    axes[1].axhline(0, color=GREY, lw=0.9)
    axes[0].set_ylabel("mean return over the horizon", color=INK, fontsize=9.5)
    axes[1].set_ylabel("cumulative, 1/horizon of each day's return", color=INK, fontsize=9.5)
    axes[1].set_xlabel("session", color=INK, fontsize=9.5)
    axes[1].xaxis.set_major_formatter(DateFormatter("%d %b %Y" if len(groups) <= 150 else "%b %Y"))
    axes[1].tick_params(axis="x", labelrotation=30)
    for panel in axes:
        panel.yaxis.set_major_formatter(PER_CENT)
    legend(axes[1])
    return figure


def calibration_figure(distributions: Mapping[str, Mapping[str, Any]], period: str) -> Figure:
    """Draw rank histograms of the realised close among the sample paths; a flat one is calibrated."""
    figure, axes = blank_panels("Calibration: rank of the realised close among the sample paths", period,
                                1, len(distributions))  # fmt: skip
    for panel, (name, found) in zip(np.atleast_1d(axes), distributions.items(), strict=True):
        counts = np.asarray(found["ranks"], dtype=float)
        share = counts / max(counts.sum(), 1)
        panel.bar(np.arange(len(share)), share, width=0.85, color=BLUE, alpha=0.8, lw=0)
        panel.axhline(1 / len(share), color=INK, lw=1.4, ls="--", label="calibrated")
        panel.set_title(name, fontsize=10, color=INK)
        panel.set_xlabel("sample paths below the realised close", color=INK, fontsize=9.5)
        legend(panel)
        panel.set_ylabel("share of closes", color=INK, fontsize=9.5)
    return figure


def coverage_figure(coverages: Mapping[str, Coverage], period: str) -> Figure:
    """Draw the share inside the band at each step, left, and the histogram of levels, right; flat is calibrated."""
    figure, axes = blank_panels("Bands of the forecasts, raw and calibrated", period, 1, 2)
    for (name, found), color in zip(coverages.items(), (GREY, BLUE), strict=False):
        steps = found.steps[(found.steps["band"] == SHOWN) & (found.steps["step"] > 0)]
        ends = [steps["share"] - steps["low"], steps["high"] - steps["share"]]
        axes[0].errorbar(
            steps["step"], steps["share"], yerr=ends, color=color, lw=1.6, marker="o", ms=4, label=name
        )
        edges = np.linspace(0, 1, len(found.histogram) + 1)
        axes[1].stairs(found.histogram, edges, color=color, lw=1.6, label=name)
    axes[0].axhline(SHOWN, color=INK, lw=1.2, ls="--", label="nominal")
    axes[1].axhline(1 / BINS, color=INK, lw=1.2, ls="--", label="calibrated")
    axes[0].yaxis.set_major_formatter(PER_CENT)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel, below, side in (
        (axes[0], "step", f"closes inside the {SHOWN:.0%} band"),
        (axes[1], "level of the realised close", "share of closes"),
    ):
        panel.set_xlabel(below, color=INK, fontsize=9.5)
        panel.set_ylabel(side, color=INK, fontsize=9.5)
        legend(panel)
    return figure


def fold_figure(
    names: Sequence[str], rank_ics: Sequence[Estimate], excess: pd.Series, signal: str, period: str
) -> Figure:
    """Draw the mean Rank IC of each fold with its interval above; the cumulative excess after costs below."""
    figure, (upper, lower) = blank_panels(f"Walk-forward, {signal} signal", period, 2, 1)
    places, means = np.arange(len(names)), np.array([one.mean for one in rank_ics])
    upper.bar(places, means, width=0.55, color=[BLUE if value > 0 else RED for value in means], lw=0)
    ends = np.array([[one.mean - one.low, one.high - one.mean] for one in rank_ics]).T
    upper.errorbar(places, means, yerr=np.abs(np.nan_to_num(ends)), fmt="none", ecolor=INK, capsize=3, lw=1)
    upper.axhline(0, color=GREY, lw=0.9)
    upper.set_xticks(places, list(names))
    upper.set_ylabel("Rank IC, 95 % interval", color=INK, fontsize=9.5)
    upper.set_xlabel("fold", color=INK, fontsize=9.5)
    lower.set_xlabel("session", color=INK, fontsize=9.5)
    curve = excess.cumsum()
    text = f"excess, with costs  {signed(float(curve.iloc[-1]), '{:+.2%}')}"
    lower.plot(curve.index.to_numpy(), curve.to_numpy(), color=GREEN, lw=1.8, label=text)
    lower.axhline(0, color=GREY, lw=0.9)
    lower.yaxis.set_major_formatter(PER_CENT)
    lower.set_ylabel("cumulative excess over benchmark", color=INK, fontsize=9.5)
    legend(lower)
    return figure
