"""Candles of forecasts for Plotly: one figure with the style of every trace, and the arrays of each chart.

The page holds the style once and the arrays of every chart, which its script puts together for the one that is
chosen. The x axis counts bars, 0 is the last one seen: nights, weekends and holidays leave no gap.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kronos.report.forecast_chart import COLUMNS, OTHER_DAY, ForecastChart
from kronos.report.language import IN_ENGLISH, Words

# Colours that are seen on a white and on a dark page.
UP, DOWN, BLUE, AMBER = "#2a9d74", "#c8553d", "#3b82c4", "#d08b1d"
APART = 0.22  # the forecast is drawn left of a bar's place and what came right of it
BAND_SHADES = (0.16, 0.28, 0.36)  # opacity of bands, the widest first
MOST_BANDS = len(BAND_SHADES)


def candle_template(words: Words = IN_ENGLISH) -> dict[str, Any]:
    """Return the figure of every chart without its data: traces, told apart by `meta`, and layout, as JSON types."""
    import plotly.graph_objects as go

    gettext = words.gettext
    hover = (
        f"%{{text}}<br>{gettext('open')} %{{open:.6~g}}<br>{gettext('high')} %{{high:.6~g}}<br>{gettext('low')} "
        f"%{{low:.6~g}}<br>{gettext('close')} %{{close:.6~g}}<extra>%{{fullData.name}}</extra>"
    )
    traces: list[Any] = []
    for place, opacity in enumerate(BAND_SHADES):
        shade = go.Scatter(
            meta=f"band_{place}", fill="toself", fillcolor=f"rgba(59,130,196,{opacity})", line_width=0,
            mode="lines", hoverinfo="skip",
        )  # fmt: skip
        traces.append(shade)
    traces.append(
        go.Scatter(
            meta="paths",
            name=gettext("sample paths"),
            mode="lines",
            line={"color": AMBER, "width": 1},
            opacity=0.75,
            hoverinfo="skip",
            visible="legendonly",
        )
    )
    for meta, name, up, down in (
        ("seen", gettext("seen"), UP, DOWN),
        ("forecast", gettext("forecast (mean)"), BLUE, BLUE),
        ("came", gettext("what came"), UP, DOWN),
    ):
        # Hollow candles rise and filled ones fall, so that colour is not needed to tell them apart.
        traces.append(
            go.Candlestick(
                meta=meta,
                name=name,
                hovertemplate=hover,
                whiskerwidth=0,
                increasing={"line": {"color": up, "width": 1.2}, "fillcolor": "rgba(0,0,0,0)"},
                decreasing={"line": {"color": down, "width": 1.2}, "fillcolor": down},
            )
        )
    for meta, name, symbol, color in (
        ("buy", gettext("bought"), "triangle-up", UP),
        ("sell", gettext("sold"), "triangle-down", DOWN),
    ):
        traces.append(
            go.Scatter(
                meta=meta,
                name=name,
                mode="markers",
                hovertemplate="%{text}<extra>%{fullData.name}</extra>",
                marker={"symbol": symbol, "size": 12, "color": color, "line": {"width": 1, "color": "white"}},
            )
        )
    for meta, name, color in (
        ("volume_seen", gettext("volume seen"), "#7b8794"),
        ("volume_forecast", gettext("volume forecast"), BLUE),
        ("volume_came", gettext("volume that came"), "#a0762b"),
    ):
        traces.append(
            go.Bar(
                meta=meta,
                name=name,
                yaxis="y2",
                marker={"color": color, "line_width": 0},
                opacity=0.8,
                showlegend=False,
                hovertemplate="%{y:.4~s}<extra>%{fullData.name}</extra>",
            )
        )
    layout = go.Layout(
        template=None, hovermode="x", dragmode="pan", barmode="overlay", bargap=0.3, boxgap=0.12,
        modebar={"orientation": "v"},
        margin={"l": 64, "r": 40, "t": 8, "b": 44},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={"anchor": "y2", "hoverformat": ".0f", "showgrid": False, "zeroline": False, "tickangle": 0,
               "ticklabeloverflow": "allow",
               "rangeslider": {"visible": False}},
        yaxis={"domain": [0.26, 1], "title": {"text": gettext("price")}, "zeroline": False},
        yaxis2={"domain": [0, 0.2], "title": {"text": gettext("volume")}, "rangemode": "tozero", "nticks": 3,
                "fixedrange": True},
        # The forecast begins after the last bar seen.
        shapes=[
            {"type": "line", "xref": "x", "yref": "paper", "x0": 0.5, "x1": 0.5, "y0": 0, "y1": 1,
             "line": {"width": 1, "dash": "dot", "color": "#7b8794"}}
        ],
    )  # fmt: skip
    found: dict[str, Any] = go.Figure(traces, layout).to_plotly_json()
    return found


def chart_arrays(chart: ForecastChart, words: Words = IN_ENGLISH) -> dict[str, Any]:
    """Return what a page holds of one chart: its names, its times and the arrays of each trace that has data.

    Volumes stand with the candles, and times once: the script gives them to the traces.
    """
    ahead = np.arange(1, len(chart.forecast) + 1)
    traces: dict[str, dict[str, Any]] = {}
    bands = sorted(chart.bands.items(), reverse=True)[:MOST_BANDS]
    last = float(chart.seen["close"].iloc[-1])
    for place, (share, (low, high)) in enumerate(bands):
        across = [0, *ahead.tolist(), *ahead[::-1].tolist()]
        traces[f"band_{place}"] = {
            "name": words.gettext("%(share)s %% band", share=f"{100 * share:g}"), "x": across,
            "y": _numbers([last, *high, *np.asarray(low)[::-1]]),
        }  # fmt: skip
    if len(chart.paths):
        gap: list[float | None] = [None]
        traces["paths"] = {
            "x": [place for _ in chart.paths for place in (*range(len(ahead) + 1), None)],
            "y": [value for path in chart.paths for value in _numbers([last, *path]) + gap],
        }
    before = np.arange(1 - len(chart.seen), 1)
    came = chart.places(chart.came.index)
    for meta, frame, places, shift in (
        ("seen", chart.seen, before, 0.0),
        ("forecast", chart.forecast, ahead, -APART if len(chart.came) else 0.0),
        ("came", chart.came, came, APART),
    ):
        if not len(frame):
            continue
        columns = {name: _numbers(frame[name]) for name in COLUMNS}
        traces[meta] = {"x": _numbers(np.asarray(places) + shift), **columns}
    for side in ("buy", "sell"):
        own = chart.fills[chart.fills["side"] == side]
        places = chart.places(pd.Index(own["datetime"]))
        own, places = own[np.isfinite(places)], places[np.isfinite(places)]
        if len(own):
            texts = [
                words.gettext(
                    "%(day)s: %(shares)s shares at %(price)s", day=f"{one.datetime:%Y-%m-%d}",
                    shares=f"{one.shares:,.0f}", price=f"{one.price:.6g}",
                )
                for one in own.itertuples()
            ]  # fmt: skip
            traces[side] = {"x": _numbers(places), "y": _numbers(own["price"]), "text": texts}
    return {
        "instrument": chart.instrument, "kind": words.phrase(chart.kind), "listed": chart.kind != OTHER_DAY,
        "as_of": chart.times[len(chart.seen) - 1],
        "first": 1 - len(chart.seen), "times": chart.times, "traces": traces,
    }  # fmt: skip


def _numbers(values: Sequence[float] | np.ndarray | pd.Series) -> list[float | None]:
    """Numbers with six digits, as JSON types; what is not finite is None."""
    listed = np.asarray(values, np.float64).tolist()
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in listed]
