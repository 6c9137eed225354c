"""The upper part of the page: which bars, and the tab with their check and candles."""

import base64
from typing import Any

from dash import Dash, Input, Output, State, dcc, html

from kronos.app.bars import FILE, STORE, UPLOAD, Checked, chosen_fields
from kronos.app.parts import frame, labelled, lines, watch, watched_button
from kronos.app.session import MOST_UPLOAD, Session
from kronos.app.work import Work, message
from kronos.config.schema import FIELDS

KINDS = {FILE: "file or folder on this machine", UPLOAD: "upload a file", STORE: "stored universe"}
CHOICE = [
    State("bars-kind", "value"), State("bars-path", "value"), State("bars-uploaded", "data"),
    State("bars-more", "value"),
]  # fmt: skip


def chooser() -> html.Div:
    """The choice of bars, which all tabs use."""
    kinds = [{"label": text, "value": kind} for kind, text in KINDS.items()]
    return html.Div([
        dcc.RadioItems(kinds, FILE, id="bars-kind", className="choice"),
        html.Div([
            html.Div(labelled("path", dcc.Input(id="bars-path", type="text", placeholder="bars.csv"), wide=True),
                     id="bars-path-part", className="controls"),
            html.Div(dcc.Upload(html.Span("choose a file, or drop it here", id="bars-upload-name"), id="bars-upload",
                                className="upload", max_size=MOST_UPLOAD), id="bars-upload-part", hidden=True),
            html.Details([
                html.Summary("further fields"),
                dcc.Textarea(id="bars-more", placeholder="calendar=XNYS\nresample=4h"),
                html.P(["One in a line, as field=value: every field of ",
                        html.Code("python -m kronos data --help-all"), "."], className="hint"),
            ]),
        ], className="controls"),
        dcc.Store(id="bars-uploaded"),
        html.P(id="bars-upload-problem", className="problem", role="alert"),
    ])  # fmt: skip


def tab() -> list[Any]:
    text = "How the bars are understood, what would be left out, and their candles. Nothing is written."
    return [html.P(text, className="hint"), *watched_button("check", "check the bars")]


def chosen(kind: str, path: str | None, uploaded: str | None, more: str | None) -> dict[str, str]:
    """The fields of the values of CHOICE."""
    return chosen_fields(kind, uploaded if kind == UPLOAD else path, more)


def connect(app: Dash, session: Session) -> None:
    """Connect the choice of bars and their check."""

    @app.callback(
        Output("bars-path-part", "hidden"), Output("bars-upload-part", "hidden"), Output("bars-path", "value"),
        Output("bars-path", "placeholder"), Input("bars-kind", "value"), State("bars-path", "value"),
        prevent_initial_call=True,
    )  # fmt: skip
    def kind_changed(kind: str, path: str | None) -> tuple[bool, bool, str, str]:
        usual = str(FIELDS["dataset_path"].default)
        if kind == STORE:
            path = path or usual
        elif path == usual:
            path = ""
        return kind == UPLOAD, kind != UPLOAD, path or "", usual if kind == STORE else "bars.csv"

    @app.callback(
        Output("bars-uploaded", "data"), Output("bars-upload-name", "children"),
        Output("bars-upload-problem", "children"), Input("bars-upload", "contents"), State("bars-upload", "filename"),
        prevent_initial_call=True,
    )  # fmt: skip
    def uploaded(content: str | None, name: str | None) -> tuple[str | None, str, str]:
        try:
            own = base64.b64decode((content or "").partition(",")[2])
            return str(session.keep_upload(name or "", own)), f"{name} ({len(own):,} bytes)", ""
        except Exception as error:
            return None, "choose a file, or drop it here", message(error)

    def begin(kind: str, *rest: Any) -> Work:
        fields = {**chosen(kind, *rest), **session.tracking_fields()}
        return session.worker.begin(lambda work: session.stores.check(kind, fields, work))

    def show(work: Work) -> list[Any]:
        found: Checked = work.result
        if found.problem:
            return [
                html.P(found.problem, className="problem", role="alert"),
                html.Pre(found.text, className="plain"),
            ]
        what = dcc.Markdown(found.markdown) if found.markdown else html.Pre(found.text, className="plain")
        candles = frame(f"/results/{work.id}/forecasts.html", "candles of the bars")
        return [lines(work.lines), what, candles]

    watch(app, session, "check", CHOICE, begin, show)
