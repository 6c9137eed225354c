"""Candles of forecasts as static figures: example forecasts of a backtest, and one forecast of the predict stage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerBase, HandlerTuple
from matplotlib.patches import Patch

from kronos.report.figures import BLUE, GREEN, GREY, GRID, INK, RED, blank_panels, title_text
from kronos.report.forecast_chart import ForecastChart

WIDTH = 0.36  # of a candle, where the next bar is 1 away
SEEN_PER_STEP = 4  # bars seen, in units of the horizon, that a small panel has room for
FEWEST_SEEN = 20
TICKS = 5
SHADES = (0.16, 0.28, 0.36)  # of bands, the widest first
SIDE_BY_SIDE: dict[type, HandlerBase] = {tuple: HandlerTuple(ndivide=None)}


def examples_figure(charts: Sequence[ForecastChart], period: str) -> Figure:
    """Draw a few forecasts in panels of their own: bars seen, forecast with its bands, and what came."""
    columns = 2 if len(charts) > 1 else 1
    rows = max(1, -(-len(charts) // columns))
    figure, axes = blank_panels("Example forecasts, the first of the fixed subset", period, rows, columns)
    panels = np.atleast_1d(axes).reshape(-1)
    for panel, chart in zip(panels, charts, strict=False):
        _chart(panel, chart, max(FEWEST_SEEN, SEEN_PER_STEP * len(chart.forecast)))
        title = f"{title_text(chart.instrument, 30)}, {chart.as_of:%Y-%m-%d}"
        panel.set_xlabel(title, fontsize=10, color=INK, parse_math=False)
    if charts:
        handles, labels = _legend_entries(charts[0])
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9,
            labelcolor=INK, handler_map=SIDE_BY_SIDE,
        )  # fmt: skip
    for panel in panels[len(charts) :]:
        panel.set_axis_off()
    return figure


def forecast_figure(chart: ForecastChart) -> Figure:
    """Draw one forecast: candles of the bars seen, of the forecast with its bands, and volume below."""
    figure = Figure(figsize=(9.6, 5.6), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _chart(axes, chart, len(chart.seen))
    handles, labels = _legend_entries(chart)
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(labels), frameon=False, fontsize=9,
        labelcolor=INK, handler_map=SIDE_BY_SIDE,
    )  # fmt: skip
    for frame, places, color in (
        (chart.seen, np.arange(1 - len(chart.seen), 1), GREY),
        (chart.forecast, np.arange(1, len(chart.forecast) + 1), BLUE),
    ):
        below.bar(places, frame["volume"].to_numpy(), width=2 * WIDTH, color=color, lw=0)
    below.set_ylabel("volume", color=INK)
    below.set_xlabel("time of the bar", color=INK)
    figure.suptitle(
        f"{title_text(chart.instrument)}, as of {chart.times[len(chart.seen) - 1]}", x=0.02, ha="left",
        color=INK, parse_math=False,
    )  # fmt: skip
    return figure


def _chart(axes: Axes, chart: ForecastChart, most: int) -> None:
    """Draw at most so many bars seen, then the forecast and what came, over the places of bars."""
    seen = chart.seen.iloc[-most:]
    steps = np.arange(len(chart.forecast) + 1)
    last = float(seen["close"].iloc[-1])
    for (_, ends), alpha in zip(sorted(chart.bands.items(), reverse=True), SHADES, strict=False):
        low, high = (np.append(last, one) for one in ends)
        axes.fill_between(steps, low, high, color=BLUE, alpha=alpha, lw=0)
    _candles(axes, np.arange(1 - len(seen), 1), seen, GREEN, RED)
    apart = 0.2 if len(chart.came) else 0.0
    _candles(axes, steps[1:] - apart, chart.forecast, BLUE, BLUE)
    if len(chart.came):
        _candles(axes, chart.places(chart.came.index) + apart, chart.came, GREEN, RED)
    axes.axvline(0.5, color=GREY, lw=0.9, ls=":")
    times, first = chart.times[len(chart.seen) - len(seen) :], 1 - len(seen)
    ticks = np.unique(np.linspace(0, len(times) - 1, TICKS).round().astype(int))
    axes.set_xticks(ticks + first, [times[place].replace(" ", "\n") for place in ticks])
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.set_ylabel("price", color=INK, fontsize=9.5)


def _legend_entries(chart: ForecastChart) -> tuple[list[Any], list[str]]:
    """Handles and names of what a chart shows; a pair of candles stands for rise and fall."""
    bands = sorted(chart.bands, reverse=True)[: len(SHADES)]
    handles: list[Any] = [
        Patch(color=BLUE, alpha=alpha, lw=0) for _, alpha in zip(bands, SHADES, strict=False)
    ]
    names = [f"{100 * share:g} % band" for share in bands]
    for up, down, name in (
        (BLUE, BLUE, "mean forecast"),
        (GREEN, RED, "bars seen and what came" if len(chart.came) else "bars seen"),
    ):
        handles.append((Patch(facecolor="white", edgecolor=up), Patch(facecolor=down, edgecolor=down)))
        names.append(f"{name} (rise, fall)")
    return handles, names


def _candles(axes: Axes, places: np.ndarray, bars: pd.DataFrame, up: str, down: str) -> None:
    """Draw candles: hollow ones rise and filled ones fall, so that colour is not needed to tell them apart."""
    opening, high, low, close = (bars[name].to_numpy(np.float64) for name in ("open", "high", "low", "close"))
    rises = close >= opening
    colors = np.where(rises, up, down)
    axes.vlines(places, low, np.minimum(opening, close), color=list(colors), lw=0.8)
    axes.vlines(places, np.maximum(opening, close), high, color=list(colors), lw=0.8)
    fills = ["white" if one else color for one, color in zip(rises, colors, strict=True)]
    axes.bar(
        places, np.abs(close - opening), WIDTH, bottom=np.minimum(opening, close), color=fills,
        edgecolor=list(colors), lw=0.8,
    )  # fmt: skip
