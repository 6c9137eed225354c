"""Figures of training and backtests: matplotlib figures on the Agg canvas, without pyplot's global state."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from kronos.evaluation.signals import summary
from kronos.report.numbers import number_text

INK, GREY, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, LIGHT_BLUE, GREEN, RED = "#1f5fa8", "#7fb2e5", "#2a9d74", "#c8553d"
# Of groups with an order, the lowest first: hue and lightness both rise, for readers with any colour vision.
ORDERED = ("#7b4fb5", "#4a7fd0", "#21a0a0", "#5fb857", "#d9ac00")
SEEN_ONLY: dict[str, Any] = {"facecolor": "white", "edgecolor": GREY, "hatch": "/////", "lw": 0.5}
SCORED: dict[str, Any] = {"facecolor": "#9ad4bd", "edgecolor": GREEN, "lw": 0.5}
LEGEND_LETTERS = 96  # letters in one row of a legend as wide as the figure


def blank_panels(
    title: str, period: str, rows: int, columns: int, *, sharex: bool = False
) -> tuple[Figure, Any]:
    """Return a figure of panels under a title and a line on the period, and its axes as `Figure.subplots` does."""
    layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, 0.88), hspace=0.06, wspace=0.04)
    figure = Figure(figsize=(9.6, 6.4), dpi=140, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.965, title, fontsize=14, fontweight="bold", color=INK, va="top", parse_math=False)
    figure.text(0.02, 0.92, period, fontsize=9.5, color=GREY, va="top")
    panels = figure.subplots(rows, columns, sharex=sharex)
    for axes in np.atleast_1d(panels).reshape(-1):
        axes.set_facecolor("white")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9, length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
    return figure, panels


def _panels(title: str, period: str) -> tuple[Figure, Axes, Axes]:
    """Return a figure of two panels that share the x axis, under a title and a line on the period."""
    figure, (upper, lower) = blank_panels(title, period, 2, 1, sharex=True)
    return figure, upper, lower


def panels_over_days(title: str, period: str, days: int) -> tuple[Figure, Axes, Axes]:
    """Return a figure of two panels over days, with a line at zero."""
    figure, upper, lower = _panels(title, period)
    for axes in (upper, lower):
        axes.axhline(0, color=GREY, linewidth=0.9)
    lower.xaxis.set_major_locator(AutoDateLocator(minticks=4, maxticks=9))
    lower.xaxis.set_major_formatter(DateFormatter("%d %b %Y" if days <= 150 else "%b %Y"))
    lower.set_xlabel("session", color=INK, fontsize=9.5)
    return figure, upper, lower


def signed(value: float, style: str) -> str:
    """Format a number with the minus sign of matplotlib's ticks, which is as wide as the plus sign."""
    return number_text(value, style).replace("-", "−")


def legend(axes: Axes) -> None:
    """Put the legend above the axes, where there is no data, in as many columns as have room."""
    handles, labels = axes.get_legend_handles_labels()
    place = axes.get_subplotspec()
    room = LEGEND_LETTERS // (place.get_gridspec().ncols if place else 1)
    columns = max(1, min(len(labels), room // (max(map(len, labels), default=0) + 8)))
    drawn = axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, frameon=False, fontsize=9,
        labelcolor=INK, ncols=columns,
    )  # fmt: skip
    for text in drawn.get_texts():
        text.set_parse_math(False)  # a name may hold dollar signs


def title_text(name: str, most: int = 60) -> str:
    """Return an instrument's name as a title has room for it."""
    return name if len(name) <= most else f"{name[:most]}..."


def loss_figure(curve: Sequence[Mapping[str, float]], title: str) -> Figure:
    """Draw losses over optimizer steps, from the entries of an evaluation curve.

    `val_loss` and `train_eval_loss` are the same quantity on two sets of windows and share the upper panel;
    `train_loss` is another quantity (sampled coarse tokens, all bars) and has the lower panel.
    """
    best = min(curve, key=lambda entry: entry["val_loss"])
    period = f"best validation loss {number_text(best['val_loss'], '{:.4g}')} at step {best['step']:.0f}"
    figure, upper, lower = _panels(title, period)
    steps = [entry["step"] for entry in curve]
    for axes, name, label, color in (
        (upper, "val_loss", "validation", BLUE),
        (upper, "train_eval_loss", "training subset, evaluated the same way", LIGHT_BLUE),
        (lower, "train_loss", "training loss (another quantity), mean since the last point", GREEN),
    ):
        values = [entry.get(name, float("nan")) for entry in curve]
        axes.plot(steps, values, color=color, label=label, lw=1.8, marker="o", ms=4)
    upper.axvline(best["step"], color=GREY, lw=1.0, ls=":")
    lower.set_xlabel("optimizer step", color=INK, fontsize=9.5)
    for axes in (upper, lower):
        axes.set_ylabel("loss", color=INK, fontsize=9.5)
        legend(axes)
    return figure


def cumulative_figure(
    daily: pd.DataFrame, signal: str, period: str, random_net: pd.DataFrame | None = None
) -> Figure:
    """Draw cumulative returns of the portfolio and the benchmark above, and their difference below.

    `daily` is a backtest's ledger with the columns return, cost and bench; `period` is the line under the title;
    `random_net` holds daily returns after costs of random rankings, one column per seed, drawn as a band.
    """
    net = daily["return"] - daily["cost"]
    figure, upper, lower = panels_over_days(f"Cumulative return, {signal} signal", period, len(daily))
    for label, series, color, style in (
        ("portfolio, with costs", net, BLUE, "-"),
        ("portfolio, without costs", daily["return"], LIGHT_BLUE, "--"),
        ("benchmark", daily["bench"], GREY, "-"),
    ):
        _line(upper, label, series, color, style)
    for label, series, color, style in (
        ("excess, with costs", net - daily["bench"], GREEN, "-"),
        ("excess, without costs", daily["return"] - daily["bench"], RED, "--"),
    ):
        _line(lower, label, series, color, style)
    if random_net is not None and random_net.shape[1]:
        label = f"{random_net.shape[1]} random rankings, with costs"
        for axes, band in ((upper, random_net), (lower, random_net.sub(daily["bench"], axis=0))):
            curves = band.cumsum()
            ends = curves.min(axis=1).to_numpy(), curves.max(axis=1).to_numpy()
            axes.fill_between(curves.index.to_numpy(), *ends, color=GREY, alpha=0.18, lw=0, label=label)
    upper.set_ylabel("cumulative return", color=INK, fontsize=9.5)
    lower.set_ylabel("cumulative excess over benchmark", color=INK, fontsize=9.5)
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value, "{:.1%}")))
        legend(axes)
    return figure


def _line(axes: Axes, label: str, series: pd.Series, color: str, style: str) -> None:
    curve = series.cumsum()
    text = f"{label}  {signed(float(curve.iloc[-1]), '{:+.2%}')}"
    # a line of a single day would be invisible
    marker = "o" if len(curve) < 3 else ""
    axes.plot(curve.index.to_numpy(), curve.to_numpy(), style, color=color, lw=1.8, label=text, marker=marker)


def data_figure(
    by_session: pd.DataFrame,
    ranges: Mapping[str, tuple[date, date]],
    contexts: Mapping[str, int],
    source: str,
) -> Figure:
    """Draw the number of instruments with a bar per session, the ranges, and filled, repaired and non-member rows.

    `by_session` counts rows: index session, columns `bars` and others; columns of zeros are left out. The first
    `contexts[name]` sessions of a range are only seen, the others are scored: ranges may share what is only seen.
    """
    first, last = by_session.index[0], by_session.index[-1]
    days = (last - first).days + 1
    title, period = f"Bars of {source}", f"{first:%Y-%m-%d} to {last:%Y-%m-%d}, {len(by_session):,} sessions"
    figure, upper, lower = panels_over_days(title, period, days)
    at = by_session.index.to_numpy()
    upper.plot(at, by_session["bars"].to_numpy(), color=BLUE, lw=1.2)
    upper.set_ylabel("instruments with a bar", color=INK, fontsize=9.5)
    upper.set_ylim(0, 1.05 * max(1, by_session["bars"].max()))
    for place, (name, (begin, end)) in enumerate(ranges.items()):
        left, right = pd.Timestamp(begin), pd.Timestamp(end) + pd.Timedelta(days=1)
        inside = by_session.index[(by_session.index >= left) & (by_session.index < right)]
        if not len(inside):
            continue
        scored = inside[contexts[name] :]
        start = scored[0] if len(scored) else inside[-1]
        low = 0.03 + 0.065 * place
        track = upper.get_xaxis_transform()
        for edge, other, style in ((inside[0], start, SEEN_ONLY), (start, inside[-1], SCORED)):
            upper.axvspan(edge.to_numpy(), other.to_numpy(), ymin=low, ymax=low + 0.05, **style)
        upper.text(
            start.to_numpy(), low + 0.022, f" {name}", transform=track, fontsize=7.5, color=INK, va="center"
        )
    upper.legend(
        [Patch(**SEEN_ONLY), Patch(**SCORED)], ["of a range: context, only seen", "scored"],
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2,
        frameon=False, fontsize=9, labelcolor=INK, borderaxespad=0.2,
    )  # fmt: skip
    shown = [name for name in by_session.columns if name != "bars" and by_session[name].any()]
    for name, color in zip(shown, (RED, GREEN, LIGHT_BLUE), strict=False):
        lower.plot(
            at, by_session[name].to_numpy(), color=color, lw=1.2, label=f"{name} ({by_session[name].sum():,})"
        )
    lower.set_ylabel("rows", color=INK, fontsize=9.5)
    lower.set_ylim(bottom=0)
    if shown:
        legend(lower)
    else:
        text = "nothing filled, repaired or outside the universe"
        lower.text(0.5, 0.5, text, transform=lower.transAxes, ha="center", color=GREY)
    return figure


def ic_figure(ic: pd.DataFrame, signal: str, horizon: int, period: str) -> Figure:
    """Draw Rank IC above and IC below, one bar per day, with their means; `ic` is a frame of `signals.daily_ic`."""
    figures = summary(ic, horizon)
    title = f"Information coefficient by day, {signal} signal, {horizon} days ahead"
    figure, upper, lower = panels_over_days(title, period, len(ic))
    for axes, column, label in ((upper, "rank_ic", "Rank IC"), (lower, "ic", "IC")):
        values = ic[column].dropna()
        axes.set_ylabel(f"{label} (correlation)", color=INK, fontsize=9.5)
        if values.empty:
            text = "no day with enough instruments"
            axes.text(0.5, 0.6, text, transform=axes.transAxes, ha="center", color=GREY)
            continue
        colors = np.where(values > 0, BLUE, RED)
        axes.bar(values.index.to_numpy(), values.to_numpy(), width=0.75, color=list(colors), alpha=0.75, lw=0)
        mean = figures[f"{column}_mean"]
        t_value = signed(figures[f"{column}_t"], "{:+.1f}")
        text = f"mean {signed(mean, '{:+.3f}')}, t {t_value}"
        axes.axhline(mean, color=INK, lw=1.4, ls="--", label=text)
        legend(axes)
    return figure


def compare_figure(curves: Mapping[str, pd.Series]) -> Figure:
    """Draw the validation losses of several runs over their steps, labelled by run."""
    figure = Figure(figsize=(9.6, 4.8), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(curve.index, curve, marker="o", ms=4, lw=1.6, label=name)
    axes.set_title("Validation loss", loc="left", color=INK)
    axes.set_xlabel("optimizer step", color=INK)
    axes.set_ylabel("val_loss", color=INK)
    axes.grid(axis="y", color=GRID)
    legend(axes)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure as PNG; the same figure gives the same bytes."""
    FigureCanvasAgg(figure).print_png(path)  # the bytes of `savefig`, which draws the figure twice


def save_plots(plots: Mapping[str, Callable[[], Any]], folder: Path) -> list[str]:
    """Save what functions draw with pyplot as NAME.png; returns why some were left out.

    For figures of other packages that only draw with pyplot. The user's open figures, the current figure, the
    backend and the style are the same afterwards.
    """
    import matplotlib
    import matplotlib.pyplot as pyplot

    folder.mkdir(parents=True, exist_ok=True)
    backend, left_out = matplotlib.get_backend(), []
    opened = set(pyplot.get_fignums())
    pyplot.switch_backend("Agg")  # no window opens and no notebook shows the figure
    try:
        for name, plot in plots.items():
            try:
                with warnings.catch_warnings(), matplotlib.rc_context():
                    warnings.simplefilter("ignore")  # empty legends, axes with one value
                    axes = plot()
                    figure = axes.flat[0].figure if hasattr(axes, "flat") else axes.figure
                    figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
            except (ValueError, RuntimeError, ImportError, IndexError) as error:
                left_out.append(f"{name}: {(str(error) or repr(error)).splitlines()[0]}")
            finally:
                for number in set(pyplot.get_fignums()) - opened:
                    pyplot.close(number)
    finally:
        pyplot.switch_backend(backend)
    return left_out
