"""Pieces that the tabs of the page share: inputs of fields, and a button whose work is watched."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html

from kronos.app.session import Session
from kronos.app.work import Work, message
from kronos.config.loading import to_text
from kronos.config.schema import FIELDS

LOOK_MILLISECONDS = 400
SANDBOX = "allow-scripts allow-downloads"


def field_inputs(prefix: str, fields: Mapping[str, str]) -> list[Any]:
    """Inputs of some fields under their labels; an empty one shows the field's default."""
    return [
        labelled(label, dcc.Input(id=f"{prefix}-{name}", type="text", placeholder=to_text(FIELDS[name].default)),
                 f"{name}: {FIELDS[name].description}")
        for name, label in fields.items()
    ]  # fmt: skip


def field_states(prefix: str, names: Iterable[str]) -> list[State]:
    return [State(f"{prefix}-{name}", "value") for name in names]


def given(names: Iterable[str], values: Sequence[Any]) -> dict[str, str]:
    """The fields that were filled in."""
    texts = {name: str(value).strip() for name, value in zip(names, values, strict=True) if value is not None}
    return {name: text for name, text in texts.items() if text}


def labelled(name: str, part: Any, help_text: str = "", wide: bool = False) -> html.Label:
    return html.Label([name, part], title=help_text, className="wide" if wide else "")


def frame(address: str, title: str) -> html.Iframe:
    """A page of the package's own in a frame without rights over this one."""
    return html.Iframe(src=address, title=title, sandbox=SANDBOX)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> html.Div:
    body = [html.Tr([html.Td(cell) for cell in row]) for row in rows]
    head = html.Thead(html.Tr([html.Th(name) for name in header]))
    return html.Div(html.Table([head, html.Tbody(body)]), className="scroll", tabIndex=0)


def watched_button(prefix: str, text: str) -> list[Any]:
    """A button, the progress of its work, a button that stops it, and the place of its result."""
    return [
        html.Div([
            html.Button(text, id=f"{prefix}-go", className="go"),
            html.Button("stop", id=f"{prefix}-stop", hidden=True),
            html.Progress(id=f"{prefix}-progress", hidden=True),
            html.Span(id=f"{prefix}-label", className="hint", role="status"),
        ], className="controls"),
        html.P(id=f"{prefix}-problem", className="problem", role="alert"),
        html.Div(id=f"{prefix}-result"),
        dcc.Store(id=f"{prefix}-work"),
        dcc.Interval(id=f"{prefix}-tick", interval=LOOK_MILLISECONDS, disabled=True),
    ]  # fmt: skip


def watch(
    app: Dash,
    session: Session,
    prefix: str,
    states: Sequence[State],
    begin: Callable[..., Work],
    show: Callable[[Work], Any],
) -> None:
    """Connect a `watched_button`.

    `begin` is called with the values of `states`, `show` with the work when it is done. An error of `begin` is shown
    as the command line prints it.
    """

    @app.callback(
        Output(f"{prefix}-work", "data"), Output(f"{prefix}-tick", "disabled"),
        Output(f"{prefix}-problem", "children"), Output(f"{prefix}-result", "children"),
        Output(f"{prefix}-label", "children"),
        Output(f"{prefix}-progress", "value"), Output(f"{prefix}-progress", "max"),
        Output(f"{prefix}-progress", "hidden"), Output(f"{prefix}-stop", "hidden"),
        Input(f"{prefix}-go", "n_clicks"), Input(f"{prefix}-tick", "n_intervals"),
        Input(f"{prefix}-stop", "n_clicks"), State(f"{prefix}-work", "data"), *states, prevent_initial_call=True,
    )  # fmt: skip
    def look(_: Any, __: Any, ___: Any, known: str | None, *values: Any) -> tuple[Any, ...]:
        problem, work = "", session.worker.find(known)
        if ctx.triggered_id == f"{prefix}-go":
            if work is not None:
                work.stop()  # its result would have no place
            try:
                work = begin(*values)
            except Exception as error:
                problem, work = message(error), None
        if work is None:
            return None, True, problem, [], "", "0", "1", True, True
        if ctx.triggered_id == f"{prefix}-stop":
            work.stop()
        result = show(work) if work.state == "done" else []
        if work.ended:
            return work.id, True, work.problem, result, _ended(work), "0", "1", True, True
        steps = f" {work.done:,} of {work.total:,}" if work.total else ""
        value = (str(work.done), str(work.total)) if work.total else ("0", "1")
        return work.id, False, "", [], f"{work.label or work.state}{steps} ...", *value, False, False


def _ended(work: Work) -> str:
    return "stopped" if work.state == "stopped" else ""


def lines(texts: Iterable[str]) -> html.Ul | str:
    """Lines that a work had to say, as a list; nothing where there are none."""
    own = [html.Li(text) for text in dict.fromkeys(texts)]
    return html.Ul(own, className="hint") if own else ""
