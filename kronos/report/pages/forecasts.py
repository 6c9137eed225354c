"""The page of candles, `forecasts.html`: a backtest's with a chooser, predict's with its ranking table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.report.forecast_chart import ASKED, KINDS, ForecastChart
from kronos.report.language import Edition, Words, editions
from kronos.report.numbers import number_text
from kronos.report.pages.candles import candle_template, chart_arrays
from kronos.report.pages.plotly_script import copy_plotly
from kronos.report.rendering import render

NAME = "forecasts"
PAGE = f"{NAME}.html"
MOST_BYTES = 2_500_000  # of charts in a page: with Plotly's script it stays under 8 MB
# Columns of the ranking table, from those of the table of risks, and their number formats.
RANKING = {
    "expected_return": "{:+.2%}", "median": "{:+.2%}", "rise_probability": "{:.1%}", "var_95": "{:.2%}",
    "es_95": "{:.2%}", "drawdown_probability": "{:.1%}",
}  # fmt: skip


def write_forecasts(folder: Path, charts: Sequence[ForecastChart], signal: str, language: str = "en") -> None:
    """Write the page of a backtest's forecasts into a folder that has Plotly's script; `language`: en, zh or both."""
    ordered = sorted(charts, key=lambda chart: KINDS.index(chart.kind))
    for edition in editions(language):
        held = _fitting(ordered, edition.words)
        title = edition.words.gettext("Forecasts of the backtest, %(signal)s signal", signal=signal)
        _write(folder, edition, held, title=title, ranking=None, left_out=0, forecasts=True)


def write_bars(folder: Path, charts: Sequence[ForecastChart], title: str, instruments: int) -> None:
    """Write a page of bars alone, without forecasts; as many of the charts as fit, of so many instruments."""
    (edition,) = editions("en")
    held = _fitting(charts, edition.words)
    copy_plotly(folder)
    _write(
        folder, edition, held, title=title, ranking=None, left_out=instruments - len(held), forecasts=False
    )


def write_ranking(
    folder: Path, charts: Sequence[ForecastChart], risks: pd.DataFrame, drawdown: float, language: str = "en"
) -> None:
    """Write the page of the latest forecasts: the ranking table of the last step, and candles of each instrument.

    Where not all charts fit, those of the highest and the lowest of the ranking are held, after those asked for.
    `language` is en, zh or both.
    """
    last = risks[risks["step"] == risks["step"].max()].sort_values("expected_return", ascending=False)
    order = {name: place for place, name in enumerate(last["instrument"])}
    middle = (len(order) - 1) / 2
    ordered = sorted(charts, key=lambda one: (one.kind != ASKED, -abs(order[one.instrument] - middle)))
    rows = [
        {
            "instrument": row["instrument"],
            "cells": [
                (number_text(row[name], style), float(row[name]) if np.isfinite(row[name]) else "")
                for name, style in RANKING.items()
            ],
        }
        for row in last.to_dict("records")
    ]
    until, as_of = f"{last['datetime'].max():%Y-%m-%d %H:%M}", f"{last['as_of'].iloc[0]:%Y-%m-%d %H:%M}"
    copy_plotly(folder)
    for edition in editions(language):
        held = _fitting(ordered, edition.words)
        drawn = {chart["instrument"] for chart in held}
        title = edition.words.gettext("Forecasts as of %(as_of)s", as_of=as_of.removesuffix(" 00:00"))
        ranking = {"columns": _headings(edition.words, drawdown), "rows": rows, "until": until}
        _write(
            folder,
            edition,
            held,
            title=title,
            ranking=ranking,
            left_out=len(order) - len(drawn),
            forecasts=True,
        )


def _headings(words: Words, drawdown: float) -> list[str]:
    """Headings of the ranking table's columns, in the order of `RANKING`."""
    return [
        words.gettext("expected return"), words.gettext("median"), words.gettext("chance of a rise"),
        words.gettext("value at risk, 95 %%"), words.gettext("expected shortfall, 95 %%"),
        words.gettext("chance of the drawdown of %(drawdown)s %%", drawdown=f"{100 * drawdown:g}"),
    ]  # fmt: skip


def _write(folder: Path, edition: Edition, charts: list[dict[str, Any]], **content: Any) -> None:
    data = {"template": candle_template(edition.words), "charts": charts}
    text = render("forecasts.j2", "html.j2", edition, page_name=NAME, data=data, **content)
    (folder / edition.file(NAME, ".html")).write_text(text, encoding="utf-8")


def _fitting(charts: Sequence[ForecastChart], words: Words) -> list[dict[str, Any]]:
    """Return the first charts as arrays, as many as a page holds."""
    held: list[dict[str, Any]] = []
    size = 0
    for chart in charts:
        arrays = chart_arrays(chart, words)
        size += len(json.dumps(arrays, ensure_ascii=False, separators=(",", ":")).encode())
        if size > MOST_BYTES and held:
            break
        held.append(arrays)
    return held
