"""The page of candles, `forecasts.html`: a backtest's with a chooser, predict's with its ranking table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.report.forecast_chart import ASKED, KINDS, ForecastChart
from kronos.report.pages.candles import candle_template, chart_arrays
from kronos.report.pages.plotly_script import copy_plotly
from kronos.report.rendering import number_text, render

PAGE = "forecasts.html"
MOST_BYTES = 2_500_000  # of charts in a page: with Plotly's script it stays under 8 MB
# Columns of the ranking table: column of the table of risks -> (heading, number format).
RANKING = {
    "expected_return": ("expected return", "{:+.2%}"),
    "median": ("median", "{:+.2%}"),
    "rise_probability": ("chance of a rise", "{:.1%}"),
    "var_95": ("value at risk, 95 %", "{:.2%}"),
    "es_95": ("expected shortfall, 95 %", "{:.2%}"),
    "drawdown_probability": ("chance of the drawdown", "{:.1%}"),
}


def write_forecasts(folder: Path, charts: Sequence[ForecastChart], signal: str) -> None:
    """Write the page of a backtest's forecasts into a folder that has Plotly's script."""
    held = _fitting(sorted(charts, key=lambda chart: KINDS.index(chart.kind)))
    _write(
        folder,
        held,
        title=f"Forecasts of the backtest, {signal} signal",
        ranking=None,
        left_out=0,
        forecasts=True,
    )


def write_bars(folder: Path, charts: Sequence[ForecastChart], title: str, instruments: int) -> None:
    """Write a page of bars alone, without forecasts; as many of the charts as fit, of so many instruments."""
    held = _fitting(charts)
    copy_plotly(folder)
    _write(folder, held, title=title, ranking=None, left_out=instruments - len(held), forecasts=False)


def write_ranking(
    folder: Path, charts: Sequence[ForecastChart], risks: pd.DataFrame, drawdown: float
) -> None:
    """Write the page of the latest forecasts: the ranking table of the last step, and candles of each instrument.

    Where not all charts fit, those of the highest and the lowest of the ranking are held, after those asked for.
    """
    last = risks[risks["step"] == risks["step"].max()].sort_values("expected_return", ascending=False)
    order = {name: place for place, name in enumerate(last["instrument"])}
    middle = (len(order) - 1) / 2
    held = _fitting(sorted(charts, key=lambda one: (one.kind != ASKED, -abs(order[one.instrument] - middle))))
    drawn = {chart["instrument"] for chart in held}
    columns = [
        (f"{title} of {100 * drawdown:g} %" if name == "drawdown_probability" else title)
        for name, (title, _) in RANKING.items()
    ]
    rows = [
        {
            "instrument": row["instrument"],
            "cells": [
                (number_text(row[name], style), float(row[name]) if np.isfinite(row[name]) else "")
                for name, (_, style) in RANKING.items()
            ],
        }
        for row in last.to_dict("records")
    ]
    ranking = {"columns": columns, "rows": rows, "until": f"{last['datetime'].max():%Y-%m-%d %H:%M}"}
    copy_plotly(folder)
    title = f"Forecasts as of {last['as_of'].iloc[0]:%Y-%m-%d %H:%M}".removesuffix(" 00:00")
    _write(folder, held, title=title, ranking=ranking, left_out=len(order) - len(drawn), forecasts=True)


def _write(folder: Path, charts: list[dict[str, Any]], **content: Any) -> None:
    data = {"template": candle_template(), "charts": charts}
    text = render("forecasts.j2", "html.j2", data=data, **content)
    (folder / PAGE).write_text(text, encoding="utf-8")


def _fitting(charts: Sequence[ForecastChart]) -> list[dict[str, Any]]:
    """Return the first charts as arrays, as many as a page holds."""
    held: list[dict[str, Any]] = []
    size = 0
    for chart in charts:
        arrays = chart_arrays(chart)
        size += len(json.dumps(arrays, ensure_ascii=False, separators=(",", ":")).encode())
        if size > MOST_BYTES and held:
            break
        held.append(arrays)
    return held
