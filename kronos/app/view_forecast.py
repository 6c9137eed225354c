"""The tab of forecasts: a model, how its sample paths are drawn, then the ranking table and candles."""

from typing import Any

from dash import Dash, Input, Output, State, dcc, html

from kronos.app.models import forecast_fields, offered
from kronos.app.parts import (
    field_inputs,
    field_states,
    frame,
    given,
    labelled,
    lines,
    watch,
    watched_button,
)
from kronos.app.session import Session
from kronos.app.view_bars import CHOICE, chosen
from kronos.app.work import Work

FIELDS = {
    "inference_T": "temperature", "inference_top_p": "top-p", "inference_sample_count": "sample paths",
    "predict_window": "horizon, bars", "lookback_window": "lookback, bars", "seed": "seed",
}  # fmt: skip
FILES = ("forecast.csv", "ranking.csv")


def model_chooser(prefix: str) -> html.Div:
    """A list of models, and inputs for the address of another one."""
    return html.Div([
        html.Label(["model", dcc.Dropdown(id=f"{prefix}-model", clearable=False)], className="wide field",
                   style={"width": "min(22rem, 88vw)"}),
        html.Button("refresh", id=f"{prefix}-refresh", title="list the models again"),
        html.Details([
            html.Summary("another model"),
            html.Div([
                labelled("predictor", dcc.Input(id=f"{prefix}-predictor", type="text"),
                         "folder, Hub name, runs:/RUN_ID or models:/...; it wins over the list", wide=True),
                labelled("tokenizer", dcc.Input(id=f"{prefix}-tokenizer", type="text"),
                         "empty: the one that belongs to the predictor", wide=True),
            ], className="controls"),
        ]),
    ], className="controls")  # fmt: skip


def model_states(prefix: str) -> list[State]:
    return [State(f"{prefix}-{name}", "value") for name in ("model", "predictor", "tokenizer")]


def connect_models(app: Dash, session: Session, prefix: str, training: bool = False) -> None:
    """List the models when the page is opened, and again when asked; what cannot be listed is said."""

    @app.callback(
        Output(f"{prefix}-model", "options"), Output(f"{prefix}-model", "value"),
        Output(f"{prefix}-hint", "children"),
        Input(f"{prefix}-refresh", "n_clicks"), State(f"{prefix}-model", "value"),
    )  # fmt: skip
    def listed(_: Any, before: str | None) -> tuple[list[dict[str, str]], str, str]:
        found, problem = offered(session.uri, session.experiment, training)
        options = [{"label": label, "value": address} for address, label in found.items()]
        hint = f"Only public weights are listed: {problem}" if problem else ""
        return options, before if before in found else options[0]["value"], hint


def tab() -> list[Any]:
    return [
        model_chooser("forecast"),
        html.P(id="forecast-hint", className="hint"),
        html.Div(field_inputs("forecast", FIELDS), className="controls"),
        html.P("An empty field has the value that it shows, or that of the stored universe.", className="hint"),
        html.Div(labelled("instruments", dcc.Input(id="forecast-instruments", type="text",
                                                   placeholder="all; or names joined by commas"), wide=True),
                 className="controls"),
        *watched_button("forecast", "forecast"),
    ]  # fmt: skip


def connect(app: Dash, session: Session) -> None:
    connect_models(app, session, "forecast")
    states = [*CHOICE, *model_states("forecast"), State("forecast-instruments", "value"),
              *field_states("forecast", FIELDS)]  # fmt: skip

    def begin(kind: str, path: Any, uploaded: Any, more: Any, model: Any, predictor: Any, tokenizer: Any,
              instruments: str | None, *values: Any) -> Work:  # fmt: skip
        fields = {
            **chosen(kind, path, uploaded, more), **session.tracking_fields(), **given(FIELDS, values),
            **forecast_fields(predictor or model, tokenizer),
        }  # fmt: skip

        def run(work: Work) -> str:
            work.step("PyTorch is loaded")
            from kronos.app.forecasts import (
                make_forecast,
            )  # only now: a page that is opened need not wait for it

            return make_forecast(session.stores, kind, fields, instruments, work)

        return session.worker.begin(run)

    def show(work: Work) -> list[Any]:
        address = f"/results/{work.id}"
        links = [html.A(name, href=f"{address}/{name}", style={"marginRight": "1rem"}) for name in FILES]
        page = frame(f"{address}/forecasts.html", "ranking table and candles of the forecast")
        return [html.P(work.result), lines(work.lines), page, html.P(links)]

    watch(app, session, "forecast", states, begin, show)
