"""A backtest as a folder to read: report.md, report.html, figures, ledgers, metrics.json, and key figures as a dict.

The text depends on the inputs alone: no clock times, paths or run ids, so that two equal runs give equal
reports.
"""

from pathlib import Path

import pandas as pd

from kronos.evaluation.ranking import TRADABLE
from kronos.report.content import Example, Portfolio, ReportInputs, details, metrics
from kronos.report.document import Block, Heading, Points, Text, number_text, to_html, to_markdown
from kronos.report.evaluation_figures import (
    calibration_figure,
    drawdown_figure,
    examples_figure,
    group_figure,
    monthly_ic_figure,
)
from kronos.report.figures import cumulative_figure, ic_figure, save_png
from kronos.report.portfolio_section import portfolio_section
from kronos.report.sections import (
    accuracy_section,
    coverage_section,
    making_section,
    ranking_section,
)
from kronos.report.summary import conclusion
from kronos.utils import files
from kronos.utils.errors import UserError

__all__ = ["Example", "Portfolio", "ReportInputs", "metrics", "report_text", "write_report"]


def write_report(folder: str | Path, inputs: ReportInputs) -> dict[str, float]:
    """Write report.md, report.html, metrics.json, ledger, daily IC, accuracy tables and figures/ into `folder`.

    Returns the key figures by metric name, without those that are NaN. The files are written one after the
    other: give a folder that takes its name when it is whole. Raises UserError when the configured signal has
    no portfolio or the ledger is empty.
    """
    if inputs.signal not in inputs.portfolios:
        known = ", ".join(inputs.portfolios)
        raise UserError(f"backtest_signal is {inputs.signal!r}, one of {known} was expected")
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
    beside = {other.key: other.daily for other in inputs.ranking.comparisons}
    pd.concat(beside, names=["baseline_key", "datetime"]).to_csv(
        place / "ranking_baselines.csv", float_format="%.10g"
    )
    inputs.accuracy.steps.to_csv(place / "accuracy_by_step.csv", index=False, float_format="%.10g")
    inputs.accuracy.instruments.to_csv(place / "accuracy_by_instrument.csv", float_format="%.10g")
    files.write_json(place / "metrics.json", details(inputs))
    blocks = report_blocks(inputs)
    (place / "report.md").write_text(to_markdown(blocks), encoding="utf-8")
    (place / "report.html").write_text(to_html(blocks, place), encoding="utf-8")
    return metrics(inputs)


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
    }
    if inputs.accuracy.distributions:
        figures["calibration"] = calibration_figure(inputs.accuracy.distributions, period)
        figures["examples"] = examples_figure(inputs.examples, period)
    for name, figure in figures.items():
        save_png(figure, place / f"{name}.png")


def report_blocks(inputs: ReportInputs) -> list[Block]:
    """The report, to be read as Markdown or HTML."""
    return [
        *_opening(inputs), *portfolio_section(inputs), *ranking_section(inputs), *accuracy_section(inputs),
        *coverage_section(inputs), *making_section(inputs),
    ]  # fmt: skip


def report_text(inputs: ReportInputs) -> str:
    """The Markdown of report.md."""
    return to_markdown(report_blocks(inputs))


def _opening(inputs: ReportInputs) -> list[Block]:
    days = inputs.daily.index
    blocks: list[Block] = [
        Heading(1, f"Backtest of the {inputs.signal} signal, {inputs.horizon} days ahead"),
        Points(conclusion(inputs)) if not inputs.note else Text(conclusion(inputs)[0]),
        *(Text(f"**Warning:** {warning}") for warning in inputs.warnings),
        Text(
            f"{inputs.universe[:1].upper()}{inputs.universe[1:]}; traded from {days[0]:%Y-%m-%d} to "
            f"{days[-1]:%Y-%m-%d} "
            f"({len(days)} sessions); costs {number_text(inputs.open_cost, '{:.3%}')} to buy and "
            f"{number_text(inputs.close_cost, '{:.3%}')} to sell, at least {inputs.min_cost:g} an order; benchmark: "
            f"{inputs.benchmark}."
        ),
        *(Text(sentence) for sentence in inputs.source_notes),
    ]
    return blocks


def _period(inputs: ReportInputs) -> str:
    days = inputs.daily.index
    return f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}, {len(days)} sessions" + (
        f"; {inputs.note}" if inputs.note else ""
    )
