"""The curves of a backtest's report for Plotly: cumulative return, drawdown, rolling, IC, groups, turnover."""

from typing import Any

import numpy as np
import pandas as pd

from kronos.evaluation.ranking import TRADABLE
from kronos.report.content import ReportInputs
from kronos.report.figures import GREY, LIGHT_BLUE, ORDERED
from kronos.report.language import IN_ENGLISH, Words
from kronos.report.pages.candles import BLUE, DOWN, UP

MOST_POINTS = 1500  # of a curve: a screen has fewer pixels, and a year of 5-minute bars has 12,000
MONTH = 21  # sessions of the rolling mean of the daily Rank IC


def report_curves(inputs: ReportInputs, words: Words = IN_ENGLISH) -> dict[str, dict[str, Any]]:
    """Return the interactive form of figures, by the name of the PNG that each stands for, as JSON types."""
    daily = inputs.daily
    ic = inputs.ranking.worths[TRADABLE][inputs.signal].daily
    sheet = inputs.tear_sheet
    return {
        **({"rolling": _rolling(sheet.rolling, sheet.window, words)} if sheet.window else {}),
        "cumulative_return": _cumulative(daily, inputs.random_net, words),
        "drawdown": _drawdown(daily, words),
        "daily_ic": _ic(ic, words),
        "group_returns": _groups(inputs.ranking.groups, inputs.horizon, words),
        "turnover": _turnover(daily, inputs.ranking.turnover, words),
    }


def _figure(
    traces: list[dict[str, Any]], upper: str, lower: str, words: Words, style: str = "+.2%"
) -> dict[str, Any]:
    """Return a figure of two panels over days, whose y axes (y and y2) have these titles and number format."""
    import plotly.graph_objects as go

    layout = go.Layout(
        template=None, hovermode="x unified", dragmode="zoom", barmode="overlay", modebar={"orientation": "v"},
        margin={"l": 72, "r": 36, "t": 8, "b": 40},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={"anchor": "y2", "type": "date", "title": {"text": words.gettext("session")}},
        yaxis={"domain": [0.54, 1], "title": {"text": upper}, "tickformat": style, "hoverformat": style},
        yaxis2={"domain": [0, 0.46], "title": {"text": lower}, "tickformat": style, "hoverformat": style},
    )  # fmt: skip
    found: dict[str, Any] = go.Figure(traces, layout).to_plotly_json()
    return found


def _line(
    name: str, series: pd.Series, color: str, axis: str = "y", dash: str = "solid", **more: Any
) -> dict[str, Any]:
    thin = _thinned(series)
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": _times(thin.index), "y": _values(thin), "yaxis": axis,
        "line": {"color": color, "width": 1.8, "dash": dash}, **more,
    }  # fmt: skip


def _band(name: str, curves: pd.DataFrame, axis: str) -> list[dict[str, Any]]:
    """Return the band between the lowest and the highest of some curves."""
    low = _line(name, curves.min(axis=1), GREY, axis, showlegend=False, legendgroup=name, hoverinfo="skip")
    high = _line(name, curves.max(axis=1), GREY, axis, legendgroup=name, hoverinfo="skip", fill="tonexty",
                 fillcolor="rgba(123,135,148,0.2)", showlegend=axis == "y")  # fmt: skip
    for one in (low, high):
        one["line"] = {"width": 0, "color": GREY}
    return [low, high]


def _cumulative(daily: pd.DataFrame, random_net: pd.DataFrame | None, words: Words) -> dict[str, Any]:
    net = daily["return"] - daily["cost"]
    traces = []
    if random_net is not None and random_net.shape[1]:
        name = words.gettext("%(count)s random rankings, with costs", count=random_net.shape[1])
        traces += _band(name, random_net.cumsum(), "y")
        traces += _band(name, random_net.sub(daily["bench"], axis=0).cumsum(), "y2")
    traces += [
        _line(words.gettext("portfolio, with costs"), net.cumsum(), BLUE),
        _line(words.gettext("portfolio, without costs"), daily["return"].cumsum(), LIGHT_BLUE, dash="dash"),
        _line(words.gettext("benchmark"), daily["bench"].cumsum(), GREY),
        _line(words.gettext("excess, with costs"), (net - daily["bench"]).cumsum(), UP, "y2"),
        _line(
            words.gettext("excess, without costs"),
            (daily["return"] - daily["bench"]).cumsum(),
            DOWN,
            "y2",
            "dash",
        ),
    ]
    return _figure(traces, words.gettext("cumulative return"), words.gettext("cumulative excess"), words)


def _drawdown(daily: pd.DataFrame, words: Words) -> dict[str, Any]:
    net = daily["return"] - daily["cost"]
    traces = [
        _line(name, fall(series), color, axis, fill="tozeroy")
        for name, series, color, axis in (
            (words.gettext("portfolio, with costs"), net, BLUE, "y"),
            (words.gettext("benchmark"), daily["bench"], GREY, "y"),
            (words.gettext("excess, with costs"), net - daily["bench"], UP, "y2"),
        )
    ]
    return _figure(traces, words.gettext("drawdown"), words.gettext("drawdown of the excess"), words)


def _rolling(rolling: pd.DataFrame, window: int, words: Words) -> dict[str, Any]:
    traces = [
        _line(words.gettext("Sharpe ratio of %(window)s sessions", window=window), rolling["sharpe"], BLUE),
        _line(
            words.gettext("volatility of %(window)s sessions", window=window),
            rolling["volatility"],
            DOWN,
            "y2",
        ),
    ]
    found = _figure(traces, words.gettext("Sharpe ratio"), words.gettext("volatility"), words, ".1%")
    found["layout"]["yaxis"] |= {"tickformat": "+.2f", "hoverformat": "+.2f"}
    return found


def fall(series: pd.Series) -> pd.Series:
    """Return how far the cumulative sum, which starts at 0, is below its highest value so far."""
    curve = series.cumsum()
    return curve - curve.cummax().clip(lower=0)


def _ic(ic: pd.DataFrame, words: Words) -> dict[str, Any]:
    traces = []
    for column, name, axis in (("rank_ic", "Rank IC", "y"), ("ic", "IC", "y2")):
        values = ic[column].dropna()
        bars = _thinned(values)
        traces += [
            {"type": "bar", "name": words.gettext("%(name)s of a day", name=name), "x": _times(bars.index),
             "y": _values(bars), "yaxis": axis,
             "marker": {"color": [BLUE if value > 0 else DOWN for value in bars], "line": {"width": 0}},
             "opacity": 0.6, "showlegend": False},
            _line(words.gettext("%(name)s, mean of %(days)s days", name=name, days=MONTH),
                  values.rolling(MONTH).mean(), UP, axis),
            _line(words.gettext("%(name)s, mean so far", name=name), values.expanding().mean(), GREY, axis, "dash"),
        ]  # fmt: skip
    return _figure(traces, "Rank IC", "IC", words, "+.3f")


def _groups(groups: pd.DataFrame, horizon: int, words: Words) -> dict[str, Any]:
    # A return spans the horizon: 1 / horizon of it counts per day, since neighbouring returns overlap.
    curves = (groups.dropna() / horizon).cumsum()
    names = list(curves.columns)
    traces = [_line(words.gettext("group %(group)s", group=name), curves[name], color)
              for name, color in zip(names, ORDERED, strict=True)]  # fmt: skip
    spread = curves[names[-1]] - curves[names[0]]
    traces.append(_line(words.gettext("highest minus lowest"), spread, UP, "y2", fill="tozeroy"))
    return _figure(traces, words.gettext("cumulative return"), words.gettext("highest minus lowest"), words)


def _turnover(daily: pd.DataFrame, ranking: pd.DataFrame, words: Words) -> dict[str, Any]:
    traces = [
        _line(words.gettext("portfolio: bought plus sold, of the account"), daily["turnover"], BLUE),
        _line(words.gettext("ranking: share of the highest group that changes"), ranking["top"], DOWN, "y2"),
    ]
    return _figure(traces, words.gettext("turnover per day"), words.gettext("change of group"), words, ".1%")


def _thinned(series: pd.Series) -> pd.Series:
    """Return at most MOST_POINTS of a series, evenly spaced, the first and the last among them."""
    if len(series) <= MOST_POINTS:
        return series
    return series.iloc[np.linspace(0, len(series) - 1, MOST_POINTS).round().astype(int)]


def _times(index: pd.Index) -> list[str]:
    return [f"{stamp:%Y-%m-%dT%H:%M}" for stamp in pd.DatetimeIndex(index)]


def _values(series: pd.Series) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in series]
