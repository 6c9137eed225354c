"""A backtest as a folder to read: report.md, two figures, the ledger as daily.csv, and its key figures as a dict.

The text depends on the inputs alone: no clock times, paths or run ids, so that two equal runs give equal
reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kronos import signals
from kronos.errors import UserError
from kronos.figures import cumulative_figure, ic_figure, number_text, save_png

EXCESS = {
    "with_cost": "with costs",
    "without_cost": "without costs",
    "with_both_costs": "with costs, benchmark too",
}


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Everything that the report says; plain values and frames.

    `ic` maps each signal to its `signals.daily_ic`; `daily`, `risk`, `turnover` and `stranded` are those of
    the backtest's result. `excluded` counts (day, instrument) pairs by the reason why they were not scored.
    """

    universe: (
        str  # a clause that can start a sentence: "524 members of the S&P 500 at some time of that year"
    )
    source_notes: Sequence[str] = ()  # whole sentences on the data: adjustments, survivorship
    benchmark: str  # a clause: "the equal weight of each day's members"
    signal: str  # the configured one; the others are exploratory
    horizon: int
    lookback: int
    seed: int
    topk: int
    n_drop: int
    hold_thresh: int
    account: float
    open_cost: float
    close_cost: float
    min_cost: float
    deal_price: str
    limit_threshold: float | None
    forecast: str = ""  # a clause on sampling: "5 samples at temperature 0.6, top-p 0.9"
    scored: int  # (day, instrument) pairs with a score
    excluded: Mapping[str, int]
    repaired_bars: int  # forecast bars whose high, low, volume or amount had to be made consistent
    model_digests: Mapping[str, str]
    ic: Mapping[str, pd.DataFrame]
    daily: pd.DataFrame
    risk: Mapping[str, Mapping[str, float]]
    turnover: float
    stranded: Sequence[str] = ()


def write_report(folder: str | Path, inputs: ReportInputs) -> dict[str, float]:
    """Write report.md, figures/cumulative_return.png, figures/daily_ic.png and daily.csv into `folder`.

    Returns the key figures by metric name, without those that are NaN. The files are written one after the
    other: give a folder that takes its name when it is whole. Raises UserError when the configured signal has
    no IC or the ledger is empty.
    """
    if inputs.signal not in inputs.ic:
        raise UserError(f"backtest_signal is {inputs.signal!r}, one of {', '.join(inputs.ic)} was expected")
    if inputs.daily.empty:
        raise UserError("the backtest has no day to report: give a longer backtest_time_range")
    place = Path(folder)
    (place / "figures").mkdir(parents=True, exist_ok=True)
    save_png(
        cumulative_figure(inputs.daily, inputs.signal, _period(inputs)),
        place / "figures/cumulative_return.png",
    )
    daily_ic = ic_figure(inputs.ic[inputs.signal], inputs.signal, inputs.horizon, _period(inputs))
    save_png(daily_ic, place / "figures/daily_ic.png")
    inputs.daily.to_csv(
        place / "daily.csv", index_label="datetime", date_format="%Y-%m-%d", float_format="%.10g"
    )
    (place / "report.md").write_text(report_text(inputs), encoding="utf-8")
    return metrics(inputs)


def metrics(inputs: ReportInputs) -> dict[str, float]:
    """The report's key figures under the names that a tracking run gives them; NaN is left out.

    IC figures are those of the configured signal. Returns, drawdowns and turnover are fractions (0.01 is 1
    %); `excess_*`, `information_ratio_*` and `max_drawdown_*` are of the daily excess over the benchmark.
    """
    values = signals.summary(inputs.ic[inputs.signal], inputs.horizon)
    values["ic_days"] = values.pop("days")
    values["ic_names_mean"] = values.pop("names")
    for name in EXCESS:
        if name in inputs.risk:
            figures = inputs.risk[name]
            values[f"excess_return_annualised_{name}"] = figures["annualised_return"]
            values[f"excess_volatility_annualised_{name}"] = figures["volatility"]
            values[f"information_ratio_{name}"] = figures["information_ratio"]
            values[f"max_drawdown_{name}"] = figures["max_drawdown"]
    for name in ("portfolio_with_cost", "portfolio_without_cost", "benchmark"):
        part, _, suffix = name.partition("_")
        key = f"{part}_return_annualised" + (f"_{suffix}" if suffix else "")
        values[key] = inputs.risk[name]["annualised_return"]
    values["turnover_daily"] = inputs.turnover
    values["cost_daily"] = float(inputs.daily["cost"].mean())
    values["holdings_mean"] = float(inputs.daily["holdings"].mean())
    values["test_days"] = float(len(inputs.daily))
    values["independent_periods"] = float(signals.independent_periods(len(inputs.daily), inputs.horizon))
    values["scored_pairs"] = float(inputs.scored)
    values["excluded_pairs"] = float(sum(inputs.excluded.values()))
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def report_text(inputs: ReportInputs) -> str:
    """The Markdown of report.md."""
    parts = [
        *_opening(inputs),
        *_portfolio(inputs),
        *_coefficients(inputs),
        *_coverage(inputs),
        *_making(inputs),
    ]
    return "\n".join(parts) + "\n"


def _opening(inputs: ReportInputs) -> list[str]:
    days = inputs.daily.index
    note = signals.verdict(len(days), inputs.horizon)
    if note:
        word = f"**{note[0].upper()}{note[1:]}.** No figure below is evidence for or against the forecasts."
    else:
        periods = signals.independent_periods(len(days), inputs.horizon)
        word = f"The days hold {periods} independent {inputs.horizon}-day periods."
    return [
        f"# Backtest of the {inputs.signal} signal, {inputs.horizon} days ahead",
        "",
        f"{inputs.universe[:1].upper()}{inputs.universe[1:]}; traded from {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d} "
        f"({len(days)} sessions); costs {number_text(inputs.open_cost, '{:.3%}')} to buy and "
        f"{number_text(inputs.close_cost, '{:.3%}')} to sell, at least {inputs.min_cost:g} an order; benchmark: "
        f"{inputs.benchmark}.",
        "",
        word,
        *(line for sentence in inputs.source_notes for line in ("", sentence)),
        "",
    ]


def _portfolio(inputs: ReportInputs) -> list[str]:
    note = signals.verdict(len(inputs.daily), inputs.horizon)
    columns = [name for name in EXCESS if name in inputs.risk]
    rows: list[list[str]] = []
    for label, key, style in (
        ("annualised excess return", "annualised_return", "{:+.2%}"),
        ("annualised volatility of the excess", "volatility", "{:.2%}"),
        ("information ratio", "information_ratio", "{:+.2f}"),
        ("maximum drawdown of the excess", "max_drawdown", "{:.2%}"),
    ):
        rows.append([label, *(number_text(inputs.risk[name][key], style) for name in columns), note])
    levels: list[list[str]] = []
    for label, name in (
        ("portfolio, with costs", "portfolio_with_cost"),
        ("portfolio, without costs", "portfolio_without_cost"),
        ("benchmark", "benchmark"),
    ):
        figures = inputs.risk[name]
        levels.append(
            [
                label,
                number_text(figures["annualised_return"], "{:+.2%}"),
                number_text(figures["volatility"], "{:.2%}"),
                number_text(figures["max_drawdown"], "{:.2%}"),
                note,
            ]
        )
    daily = inputs.daily
    # an annualised figure never stands without the note; where the period is long enough the column is empty
    last = ["note"] if note else [""]
    lines = [
        "## Portfolio against the benchmark",
        "",
        *_table(["", *(EXCESS[name] for name in columns), *last], rows),
        "",
        *_table(["", "annualised return", "annualised volatility", "maximum drawdown", *last], levels),
        "",
        f"Turnover {number_text(inputs.turnover, '{:.2%}')} of the account a day (bought plus sold), costs "
        f"{number_text(daily['cost'].mean(), '{:.4%}')} a day, {daily['holdings'].mean():.1f} names held on average; "
        f"the account went from {inputs.account:,.2f} to {daily['account'].iloc[-1]:,.2f}.",
    ]
    if inputs.stranded:
        lines += [
            "",
            f"{len(inputs.stranded)} names held at the end had no bar on the last day and stand at their last close: "
            f"{', '.join(inputs.stranded)}.",
        ]
    return [
        *lines,
        "",
        "Conventions (Qlib's): daily returns are summed, not compounded; a year has 238 days; the information ratio "
        "is the annualised excess return over its volatility; drawdown is the largest fall of the summed curve. "
        "Without costs means the same trades with their costs added back. On the first day the portfolio buys during "
        "the session, while the benchmark counts from the close before.",
        "",
        "![Cumulative return and excess](figures/cumulative_return.png)",
        "",
    ]


def _coefficients(inputs: ReportInputs) -> list[str]:
    rows = []
    for name in sorted(inputs.ic, key=lambda name: name != inputs.signal):
        figures = signals.summary(inputs.ic[name], inputs.horizon)
        numbers = [
            number_text(figures[key], style)
            for key, style in (
                ("ic_mean", "{:+.4f}"),
                ("icir", "{:+.3f}"),
                ("ic_t_newey_west", "{:+.2f}"),
                ("rank_ic_mean", "{:+.4f}"),
                ("rank_icir", "{:+.3f}"),
                ("rank_ic_t_newey_west", "{:+.2f}"),
                ("days", "{:.0f}"),
                ("names", "{:.0f}"),
            )
        ]
        configured = name == inputs.signal
        rows.append(
            [f"**{name}**" if configured else name, *numbers, "configured" if configured else "exploratory"]
        )
    note = signals.verdict(len(inputs.daily), inputs.horizon)
    return [
        "## Information coefficient",
        "",
        *_table(
            [
                "signal",
                "IC",
                "ICIR",
                "t (IC)",
                "Rank IC",
                "Rank ICIR",
                "t (Rank IC)",
                "days",
                "names a day",
                "role",
            ],
            rows,
        ),
        "",
        "Each day's correlation, across names, of the signal with what it predicts: the same reduction (last, mean, "
        f"max, min) of the closes of the next {inputs.horizon} sessions over the day's close. ICIR is mean over "
        f"standard deviation of the daily values, not annualised; t is Newey-West with lag {inputs.horizon - 1}. The "
        "configured signal was fixed before the test; exploratory ones were not: the best of them is not evidence."
        + (f" All of it: {note}." if note else ""),
        "",
        "![Daily IC](figures/daily_ic.png)",
        "",
    ]


def _coverage(inputs: ReportInputs) -> list[str]:
    rows = [["scored", f"{inputs.scored:,}"]]
    rows += [[f"left out: {reason}", f"{count:,}"] for reason, count in sorted(inputs.excluded.items())]
    return [
        "## What was scored",
        "",
        *_table(["(day, instrument) pairs", "count"], rows),
        "",
        f"{inputs.repaired_bars:,} forecast bars had a high, low, volume or amount that had to be made consistent.",
        "",
    ]


def _making(inputs: ReportInputs) -> list[str]:
    limit = "no price limit"
    if inputs.limit_threshold is not None:
        distance = number_text(inputs.limit_threshold, "{:.1%}")
        limit = f"no trade where that price is {distance} or more from the close before"
    sampling = f", {inputs.forecast}" if inputs.forecast else ""
    return [
        "## How it was made",
        "",
        f"Forecasts: {inputs.lookback} bars of context, {inputs.horizon} bars ahead, seed {inputs.seed}{sampling}.",
        "",
        f"Portfolio: the {inputs.topk} best names, at most {inputs.n_drop} replaced a day, each held at least "
        f"{inputs.hold_thresh} sessions (a name that may not be sold yet still makes room for a purchase, so more "
        f"names can be held). A day's signal trades in the next session at its {inputs.deal_price}; {limit}; a name "
        "without a bar is not traded. 95 % of the cash is invested.",
        "",
        *_table(
            ["model", "digest"], [[name, f"`{digest}`"] for name, digest in inputs.model_digests.items()]
        ),
    ]


def _period(inputs: ReportInputs) -> str:
    days = inputs.daily.index
    note = signals.verdict(len(days), inputs.horizon)
    return f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}, {len(days)} sessions" + (f"; {note}" if note else "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
