"""The page as a whole: its tabs, and the files that it shows in frames."""

from pathlib import Path
from typing import Any

from dash import Dash, Input, Output, ctx, html
from flask import Flask, Response, abort, send_from_directory

from kronos.app import view_backtests, view_bars, view_forecast, view_trainings
from kronos.app.guard import FRAMED, OPEN_TO_ALL, protect
from kronos.app.session import MOST_UPLOAD, SHOWN, Session
from kronos.report.language import editions
from kronos.report.pages.plotly_script import NAME, plotly_script
from kronos.report.rendering import render
from kronos.utils.errors import UserError

TABS: dict[str, tuple[str, Any]] = {
    "bars": ("Bars", view_bars),
    "forecast": ("Forecast", view_forecast),
    "backtests": ("Backtests", view_backtests),
    "trainings": ("Fine-tuning", view_trainings),
}
MOST_BODY = MOST_UPLOAD * 4 // 3 + 1_000_000  # bytes of a request: an uploaded file comes as Base64


def make_page(session: Session, host: str, password: str | None) -> Dash:
    """Build the page over a session; nobody else than `guard.protect` lets in reaches any part of it."""
    server: Any = Flask("kronos.app", static_folder=None)  # Dash's annotation names no Flask
    server.config["MAX_CONTENT_LENGTH"] = MOST_BODY
    protect(server, host, password)
    serve_files(server, session)
    app = Dash(
        "kronos.app", server=server, title="Kronos", update_title="", serve_locally=True,
        index_string=render("app.j2", "html.j2", editions("en")[0]), enable_mcp=False,
    )  # fmt: skip
    app.layout = layout()
    connect_tabs(app)
    for _, view in TABS.values():
        view.connect(app, session)
    return app


def layout() -> html.Div:
    aria: dict[str, Any] = {name: {"aria-selected": _selected(name == "bars")} for name in TABS}
    buttons = [
        html.Button(title, id=f"tab-{name}", role="tab", **aria[name]) for name, (title, _) in TABS.items()
    ]
    panels = [
        html.Section(view.tab(), id=f"panel-{name}", hidden=name != "bars")
        for name, (_, view) in TABS.items()
    ]
    return html.Div([
        html.H1("Kronos"), view_bars.chooser(), html.Div(buttons, className="tabs", role="tablist"), *panels,
    ])  # fmt: skip


def connect_tabs(app: Dash) -> None:
    """Show the tab whose button was pressed; trainings are only looked at while their tab is open."""

    @app.callback(
        *[Output(f"panel-{name}", "hidden") for name in TABS],
        *[Output(f"tab-{name}", "aria-selected") for name in TABS],
        Output("training-tick", "disabled"),
        *[Input(f"tab-{name}", "n_clicks") for name in TABS],
        prevent_initial_call=True,
    )
    def pressed(*_: Any) -> tuple[Any, ...]:
        chosen = str(ctx.triggered_id).removeprefix("tab-")
        hidden = [name != chosen for name in TABS]
        return (*hidden, *(_selected(name == chosen) for name in TABS), chosen != "trainings")


def serve_files(server: Flask, session: Session) -> None:
    """Serve the files of a result, and the reports of tracked runs, without rights over the page itself."""

    @server.get(f"/results/<identifier>/{NAME}", endpoint=OPEN_TO_ALL)
    @server.get(f"/runs/<identifier>/{NAME}", endpoint=OPEN_TO_ALL)
    def script(identifier: str) -> Response:
        return Response(
            plotly_script(), mimetype="text/javascript", headers={"Cache-Control": "max-age=3600"}
        )

    @server.get("/results/<identifier>/<name>")
    def of_work(identifier: str, name: str) -> Response:
        work = session.worker.find(identifier)
        if work is None or name not in SHOWN:
            abort(404)
        return _framed(work.folder, name)

    @server.get("/runs/<identifier>/<name>")
    def of_run(identifier: str, name: str) -> Response:
        if name not in SHOWN:
            abort(404)
        try:
            file = session.run(identifier).file(name)
        except UserError:
            abort(404)
        return _framed(file.parent, name)


def _framed(folder: Path, name: str) -> Response:
    response = send_from_directory(folder, name, as_attachment=name.endswith(".csv"), max_age=0)
    response.headers["Content-Security-Policy"] = FRAMED
    return response


def _selected(is_selected: bool) -> str:
    return "true" if is_selected else "false"
