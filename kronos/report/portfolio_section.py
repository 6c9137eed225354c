"""The section on simulated portfolios: beside the benchmark, the equal weight and the exploratory signals."""

from kronos.evaluation.portfolio import periods_a_year
from kronos.report.content import EXCESS, ReportInputs
from kronos.report.document import Block, Figure, Heading, Table, Text, number_text
from kronos.report.summary import interval_text, sign_word

RISK_ROWS = (
    ("annualised_return", "annualised return", "{:+.2%}"),
    ("volatility", "annualised volatility", "{:.2%}"),
    ("information_ratio", "information ratio", "{:+.2f}"),
    ("max_drawdown", "maximum drawdown", "{:.2%}"),
    ("calmar", "Calmar ratio", "{:+.2f}"),
    ("win_rate", "days above 0", "{:.1%}"),
)


def portfolio_section(inputs: ReportInputs) -> list[Block]:
    """The ledger in figures, beside the benchmark, the equal weight and the exploratory signals."""
    result, note = inputs.portfolio, inputs.note
    # an annualised figure never stands without the note; where the period is long enough the column is empty
    last = ["note"] if note else [""]
    columns = [name for name in EXCESS if name in result.risk]
    excess = [
        [f"{label} of the excess", *(number_text(result.risk[name][key], style) for name in columns), note]
        for key, label, style in RISK_ROWS
    ]
    levels = ("portfolio_with_cost", "portfolio_without_cost", "benchmark")
    own = [
        [
            label.replace("information", "Sharpe"),
            *(number_text(result.risk[name][key], style) for name in levels), note,
        ]
        for key, label, style in RISK_ROWS
    ]  # fmt: skip
    daily = result.daily
    blocks: list[Block] = [
        Heading(2, "Portfolio against the benchmark"),
        Table(["", *(EXCESS[name] for name in columns), *last], excess),
        Table(["", "portfolio, with costs", "portfolio, without costs", "benchmark", *last], own),
        Text(
            f"Turnover {number_text(result.turnover, '{:.2%}')} of the account a day (bought plus sold), costs "
            f"{number_text(daily['cost'].mean(), '{:.4%}')} a day, {daily['holdings'].mean():.1f} names "
            "held on average; "
            f"the account went from {inputs.account:,.2f} to {daily['account'].iloc[-1]:,.2f}."
        ),
        Heading(3, "After costs, beside doing nothing"),
        _excess_table(inputs),
        Heading(3, "All four signals"),
        _signal_table(inputs),
    ]
    if result.stranded:
        blocks.append(Text(
            f"{len(result.stranded)} names held at the end had no bar on the last day and stand at their last close: "
            f"{', '.join(result.stranded)}."
        ))  # fmt: skip
    return [
        *blocks,
        Text(
            "Conventions (Qlib's): daily returns are summed, not compounded; a year has "
            f"{periods_a_year(daily.index):,} of them; the information ratio is the annualised excess return over "
            "its volatility, the Sharpe ratio the same of the portfolio's own returns, without a risk-free rate; "
            "drawdown is the largest fall of the summed curve; Calmar is the annualised return over it. Without "
            "costs means the same trades with their costs added back. On the first day the portfolio buys during "
            "the session, while the benchmark counts from the close before."
        ),
        Figure("Cumulative return and excess", "figures/cumulative_return.png"),
        Figure("Drawdown", "figures/drawdown.png"),
    ]


def _excess_table(inputs: ReportInputs) -> Table:
    rows = []
    for other in inputs.excesses:
        gap = other.difference
        rows.append([
            other.name, number_text(other.annualised, "{:+.2%}"), number_text(gap.mean * other.periods, "{:+.2%}"),
            interval_text(gap, "{:+.2%}", other.periods), number_text(other.information_ratio, "{:+.2f}"),
            inputs.note or sign_word(gap, ""),
        ])  # fmt: skip
    header = [
        "",
        "annualised return",
        "excess of the portfolio",
        "95 % interval",
        "information ratio",
        "the portfolio",
    ]
    return Table(header, rows)


def _signal_table(inputs: ReportInputs) -> Table:
    rows = []
    for name in sorted(inputs.portfolios, key=lambda name: name != inputs.signal):
        one, own = inputs.portfolios[name], name == inputs.signal
        figures, before = one.risk["with_cost"], one.risk["without_cost"]
        rows.append([
            f"**{name}**" if own else name, number_text(figures["annualised_return"], "{:+.2%}"),
            number_text(before["annualised_return"], "{:+.2%}"), number_text(figures["information_ratio"], "{:+.2f}"),
            number_text(figures["max_drawdown"], "{:.2%}"), number_text(one.turnover, "{:.2%}"),
            "configured" if own else "exploratory", inputs.note,
        ])  # fmt: skip
    header = [
        "signal", "annualised excess, with costs", "without costs", "information ratio", "maximum drawdown",
        "turnover a day", "role", "note" if inputs.note else "",
    ]  # fmt: skip
    return Table(header, rows)
