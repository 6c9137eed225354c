"""Write a backtest's report: report.md, report.html, figures, ledger, tables and metrics.json.

The text depends on the inputs alone: no clock times, paths or run ids, so that equal runs give equal reports.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from kronos.evaluation.coverage import SHOWN
from kronos.evaluation.portfolio import QLIB_DAYS_A_YEAR
from kronos.evaluation.ranking import TRADABLE
from kronos.evaluation.signals import MIN_NAMES
from kronos.evaluation.statistics import independent_periods
from kronos.report.candle_figures import examples_figure
from kronos.report.content import Portfolio, ReportInputs, details, metrics
from kronos.report.evaluation_figures import (
    calibration_figure,
    coverage_figure,
    drawdown_figure,
    group_figure,
    monthly_ic_figure,
    rolling_figure,
    turnover_figure,
)
from kronos.report.figures import cumulative_figure, ic_figure, save_png
from kronos.report.forecast_chart import RANDOM
from kronos.report.language import Edition, words_of
from kronos.report.pages.curves import report_curves
from kronos.report.pages.forecasts import NAME, write_forecasts
from kronos.report.pages.plotly_script import copy_plotly
from kronos.report.rendering import render, write_pages
from kronos.report.tiles import report_tiles
from kronos.utils import files
from kronos.utils.csv_files import write_csv
from kronos.utils.errors import UserError

METRICS = "metrics.json"
__all__ = ["METRICS", "Portfolio", "ReportInputs", "metrics", "report_text", "write_report"]


def write_report(folder: str | Path, inputs: ReportInputs, language: str = "en") -> dict[str, float]:
    """Write report.md, report.html, metrics.json, ledger, daily IC, accuracy tables and figures/ into `folder`.

    Returns the key figures by metric name, without those that are NaN. The files are written one after the
    other: give a temporary folder that is renamed on success. Raises UserError when the configured signal has
    no portfolio or the ledger is empty.
    """
    if inputs.signal not in inputs.portfolios:
        known = ", ".join(inputs.portfolios)
        raise UserError(f"backtest_signal is {inputs.signal!r}, expected one of {known}")
    if inputs.daily.empty:
        raise UserError("the backtest has no day to report: give a longer backtest_time_range")
    place = Path(folder)
    (place / "figures").mkdir(parents=True, exist_ok=True)
    _figures(inputs, place / "figures")
    inputs.daily.to_csv(place / "daily.csv", index_label="datetime", float_format="%.10g")
    frames = {
        (target, name): one.daily
        for target, signals in inputs.ranking.worths.items()
        for name, one in signals.items()
    }
    pd.concat(frames, names=["target", "signal", "datetime"]).to_csv(
        place / "daily_ic.csv", float_format="%.10g"
    )
    baselines = {other.key: other.daily for other in inputs.ranking.comparisons}
    pd.concat(baselines, names=["baseline_key", "datetime"]).to_csv(
        place / "ranking_baselines.csv", float_format="%.10g"
    )
    inputs.accuracy.steps.to_csv(place / "accuracy_by_step.csv", index=False, float_format="%.10g")
    write_csv(inputs.accuracy.instruments, place / "accuracy_by_instrument.csv", float_format="%.10g")
    if inputs.time_series:
        ledgers = {name: one.daily for name, one in inputs.time_series.ledgers.items()}
        pd.concat(ledgers, names=["ledger", "datetime"]).to_csv(
            place / "time_series_ledgers.csv", float_format="%.10g"
        )
    files.write_json(
        place / METRICS, {**details(inputs), "headline": [asdict(one) for one in report_tiles(inputs)]}
    )
    copy_plotly(place)
    write_report_pages(place, inputs, language)
    return metrics(inputs)


def write_report_pages(folder: Path, inputs: ReportInputs, language: str) -> None:
    """Write report.md, report.html and forecasts.html into `folder`, in `language`: en, zh or both."""
    write_pages(
        folder, "report.j2", partial(_content, inputs), language=language,
        curves=partial(report_curves, inputs),
    )  # fmt: skip
    if inputs.charts:
        write_forecasts(folder, inputs.charts, inputs.signal, language)


def _figures(inputs: ReportInputs, place: Path) -> None:
    signal, horizon, period = inputs.signal, inputs.horizon, _period(inputs)
    ranking = inputs.ranking
    ic = ranking.worths[TRADABLE][signal].daily
    figures = {
        "cumulative_return": cumulative_figure(inputs.daily, signal, period, inputs.random_net),
        "drawdown": drawdown_figure(inputs.daily, signal, period),
        "daily_ic": ic_figure(ic, signal, horizon, period),
        "monthly_ic": monthly_ic_figure(ic, signal, horizon, period),
        "group_returns": group_figure(ranking.groups, ranking.group_means, signal, horizon, period),
        "turnover": turnover_figure(inputs.daily, ranking.turnover, signal, period),
    }
    if (sheet := inputs.tear_sheet).window:
        figures["rolling"] = rolling_figure(sheet.rolling, sheet.window, signal, period)
    if inputs.accuracy.distributions:
        figures["calibration"] = calibration_figure(inputs.accuracy.distributions, period)
    if examples := [chart for chart in inputs.charts if chart.kind == RANDOM]:
        figures["examples"] = examples_figure(examples, period)
    if inputs.coverages:
        figures["coverage"] = coverage_figure(inputs.coverages, period)
    for name, figure in figures.items():
        save_png(figure, place / f"{name}.png")


def report_text(inputs: ReportInputs) -> str:
    """Return the Markdown of report.md."""
    edition = Edition(words_of("en"))
    return render("report.j2", "markdown.j2", edition, **_content(inputs, edition))


def _content(inputs: ReportInputs, edition: Edition) -> dict[str, Any]:
    """Return the variables of the report's templates."""
    steps, decay = (frame.to_dict("records") for frame in (inputs.ranking.steps, inputs.ranking.decay))
    return {
        "inputs": inputs, "steps": list(zip(steps, decay, strict=True)), "fewest": MIN_NAMES,
        "periods": independent_periods(len(inputs.daily), inputs.horizon), "year": inputs.periods_per_year,
        "tiles": report_tiles(inputs, edition.words),
        "examples": any(chart.kind == RANDOM for chart in inputs.charts),
        "qlib_year": QLIB_DAYS_A_YEAR, "shown_band": SHOWN, "forecasts_page": edition.file(NAME, ".html"),
    }  # fmt: skip


def _period(inputs: ReportInputs) -> str:
    days = inputs.daily.index
    return f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}, {len(days)} sessions" + (
        f"; {inputs.note}" if inputs.note else ""
    )
