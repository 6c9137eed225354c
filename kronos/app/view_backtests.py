"""The tab of backtests: tracked ones ranked by their Rank IC, any of them side by side, and the report of one."""

from typing import Any

from dash import Dash, Input, Output, State, dcc, html

from kronos.app.parts import frame, table
from kronos.app.session import Session
from kronos.app.work import message
from kronos.report.rendering import interval_text, number_text
from kronos.tracking.reader import TrackedRun, compare, newest

MOST = 100
NAN = float("nan")
RANK_IC = "ranking/rank_ic"
# Columns of the table: heading, metric and number format. Those of COLUMNS have an interval.
COLUMNS = (
    ("Rank IC", RANK_IC, "{:+.4f}"),
    ("excess return per year over equal weight, with costs", "portfolio/excess_over_equal_weight", "{:+.1%}"),
    ("skill over no change", "forecast/skill", "{:+.2%}"),
)
COUNTS = (("days", "evidence/test_days"), ("looks before", "evidence/looks_before"))
REPORTS = {"backtest": ("report.html", "forecasts.html"), "benchmark": ("benchmark.html",)}


def tab() -> list[Any]:
    return [
        html.P("Tracked backtests, the highest Rank IC first; intervals are of 95 %. Few days and many looks before "
               "mean that a high figure may be chance: the report says how likely.", className="hint"),
        html.Div(html.Button("refresh", id="backtests-refresh"), className="controls"),
        html.P(id="backtests-problem", className="problem", role="alert"),
        html.Div(id="backtests-table"),
        html.Label(["one: its report; several: side by side", dcc.Dropdown(id="backtests-chosen", multi=True)],
                   className="field"),
        html.Div(id="backtests-shown"),
    ]  # fmt: skip


def connect(app: Dash, session: Session) -> None:
    @app.callback(
        Output("backtests-table", "children"), Output("backtests-chosen", "options"),
        Output("backtests-problem", "children"), Input("backtests-refresh", "n_clicks"),
    )  # fmt: skip
    def listed(_: Any) -> tuple[Any, list[dict[str, str]], str]:
        try:
            found = ranked(newest("backtest", MOST, session.uri, session.experiment))
            others = newest("benchmark", MOST, session.uri, session.experiment)
        except Exception as error:
            return "", [], message(error)
        if not found:
            return html.P("No backtest is tracked here yet: python -m kronos backtest"), [], ""
        header = ("run", "day", *(name for name, *_ in COLUMNS), *(name for name, _ in COUNTS))
        options = [{"label": f"{run.stage} {run.label}", "value": run.id} for run in (*found, *others)]
        return table(header, map(cells, found)), options, ""

    @app.callback(
        Output("backtests-shown", "children"), Input("backtests-chosen", "value"),
        State("backtests-chosen", "options"), prevent_initial_call=True,
    )  # fmt: skip
    def shown(chosen: list[str] | None, _: Any) -> Any:
        try:
            runs = [session.run(identifier) for identifier in chosen or ()]
            return side_by_side(runs) if len(runs) > 1 else [part for run in runs for part in reports(run)]
        except Exception as error:
            return html.P(message(error), className="problem")


def ranked(runs: list[TrackedRun]) -> list[TrackedRun]:
    """Backtests by their Rank IC, the highest first; those without one last."""
    return sorted(runs, key=lambda run: -run.metrics.get(RANK_IC, float("-inf")))


def cells(run: TrackedRun) -> list[str]:
    """A row of the table."""
    found = [run.label, f"{run.started:%Y-%m-%d}"]
    for _, name, style in COLUMNS:
        value = run.metrics.get(name, NAN)
        between = interval_text([run.metrics.get(f"{name}_{end}", NAN) for end in ("low", "high")], style)
        found.append(number_text(value, style) + (f" ({between})" if between != "n/a" else ""))
    return found + [number_text(run.metrics.get(name, NAN), "{:,.0f}") for _, name in COUNTS]


def side_by_side(runs: list[TrackedRun]) -> html.Div:
    """The table of `kronos compare`."""
    found = compare(runs, headline=True)
    rows = [
        [" ".join(place), *(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row)]
        for place, row in zip(found.index, found.to_numpy(), strict=True)
    ]
    return table(("", *found.columns), rows)


def reports(run: TrackedRun) -> list[Any]:
    """The pages of a run, each in a frame."""
    there = run.files()
    names = [name for name in REPORTS.get(run.stage, ()) if name in there]
    if not names:
        return [html.P(f"run {run.id} has no report to show", className="problem")]
    return [frame(f"/runs/{run.id}/{name}", f"{name} of {run.label}") for name in names]
