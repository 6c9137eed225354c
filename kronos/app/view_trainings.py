"""The tab of trainings: start a fine-tuning, watch its progress and losses, stop it and go on with it."""

import threading
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from kronos.app.parts import field_inputs, field_states, given
from kronos.app.session import Session
from kronos.app.trainings import (
    WATCHED,
    Training,
    fields_of_training,
    flags_of,
    is_running,
    steps_of,
    stop_run,
    trained_by,
)
from kronos.app.view_bars import CHOICE, chosen
from kronos.app.view_forecast import connect_models, model_chooser, model_states
from kronos.app.work import message
from kronos.report.pages.candles import AMBER, BLUE, DOWN, UP
from kronos.tracking.reader import TrackedRun, recent
from kronos.utils.errors import UserError

FIELDS = {
    "epochs": "epochs", "n_train_iter": "windows per epoch", "batch_size": "batch size",
    "predictor_learning_rate": "learning rate", "tokenizer_learning_rate": "of the tokenizer",
    "early_stopping_patience": "patience, epochs",
}  # fmt: skip
LOOK_MILLISECONDS = 2000
MOST = 20  # runs in the list
TOKENIZER, BACKTEST = "tokenizer", "backtest"
AXIS = {"gridcolor": "rgba(123,135,148,0.25)", "zeroline": False}
LOSSES = {"train_loss": "training", "val_loss": "validation"}
COLORS = {("predictor", "train_loss"): BLUE, ("predictor", "val_loss"): DOWN,
          ("tokenizer", "train_loss"): UP, ("tokenizer", "val_loss"): AMBER}  # fmt: skip


def tab() -> list[Any]:
    also = [
        {"label": "train the tokenizer too", "value": TOKENIZER},
        {"label": "backtest afterwards", "value": BACKTEST},
    ]
    return [
        html.P(["A fine-tuning on the bars chosen above: the command ", html.Code("python -m kronos pipeline"),
                ", a tracked run like any other. It ends with this page, and can be gone on with. Fine-tuning easily "
                "makes public weights worse: a learning rate of 1e-5 or lower and few epochs are gentle."],
               className="hint"),
        model_chooser("training"),
        html.P(id="training-hint", className="hint"),
        html.Div(field_inputs("training", FIELDS), className="controls"),
        dcc.Checklist(also, [], id="training-also", className="choice"),
        html.Div([
            html.Button("start", id="training-start", className="go"),
            html.Button("stop", id="training-stop"),
            html.Button("go on", id="training-go-on"),
        ], className="controls"),
        html.P(id="training-problem", className="problem", role="alert"),
        html.Pre(id="training-log", className="plain"),
        html.Label(["run", dcc.Dropdown(id="training-run", clearable=False)], className="field"),
        html.Div([html.Progress(id="training-progress", value="0", max="1"),
                  html.Span(id="training-status", className="hint", role="status")], className="controls"),
        dcc.Graph(id="training-losses", figure=losses_figure([]), config={"displaylogo": False}),
        dcc.Store(id="training-follow"),
        dcc.Interval(id="training-tick", interval=LOOK_MILLISECONDS, disabled=True),
    ]  # fmt: skip


def connect(app: Dash, session: Session) -> None:
    connect_models(app, session, "training", training=True)
    states = [*CHOICE, *model_states("training"), State("training-also", "value"),
              *field_states("training", FIELDS)]  # fmt: skip

    @app.callback(
        Output("training-problem", "children"), Output("training-follow", "data"),
        Input("training-start", "n_clicks"), Input("training-stop", "n_clicks"), Input("training-go-on", "n_clicks"),
        State("training-run", "value"), *states, prevent_initial_call=True,
    )  # fmt: skip
    def act(_: Any, __: Any, ___: Any, run_id: str | None, *values: Any) -> tuple[str, int | None]:
        try:
            if ctx.triggered_id == "training-start":
                return "", start(session, *values).pid
            if ctx.triggered_id == "training-go-on":
                return "", session.trainings.go_on(chosen_run(session, run_id)).pid
            stop(session, run_id)
        except Exception as error:
            return message(error), None
        return "", None

    looking = threading.Lock()

    @app.callback(
        Output("training-run", "options"), Output("training-run", "value"), Output("training-log", "children"),
        Output("training-status", "children"), Output("training-progress", "value"),
        Output("training-progress", "max"), Output("training-losses", "figure"),
        Output("training-follow", "data", allow_duplicate=True),
        Input("training-tick", "n_intervals"), Input("training-run", "value"), State("training-follow", "data"),
        prevent_initial_call=True,
    )  # fmt: skip
    def look(_: Any, run_id: str | None, follow: int | None) -> tuple[Any, ...]:
        if not looking.acquire(blocking=False):  # a tracking server that is slow is not asked again meanwhile
            raise PreventUpdate
        log = ""
        try:
            own = session.trainings.newest
            log = "" if own is None else output_of(own)
            runs = recent(WATCHED, MOST, session.uri, session.experiment)
            run, found = wanted(runs, run_id, follow)
            trained = [] if run is None else trained_by(run)
            done, total = steps_of(trained[-1]) if trained else (0, 0)
            figure = losses_figure(trained)
        except Exception as error:
            return [], None, log, message(error), "0", "1", losses_figure([]), no_update
        finally:
            looking.release()
        options = [{"label": f"{one.started:%Y-%m-%d %H:%M} {one.label}, {state_of(one)}", "value": one.id}
                   for one in runs]  # fmt: skip
        status = "" if run is None else status_of(run, done, total)
        # Only what this call has found is forgotten: another one may have been started meanwhile.
        waits = None if found else no_update
        return options, run and run.id, log, status, str(done), str(max(total, 1)), figure, waits


def start(session: Session, kind: str, path: Any, uploaded: Any, more: Any, model: Any, predictor: Any,
          tokenizer: Any, also: list[str], *values: Any) -> Training:  # fmt: skip
    """Start the training that the form describes. Raises UserError for what the command would refuse at once."""
    bars = chosen(kind, path, uploaded, more)
    if session.is_upload(bars.get("data_path", "")):
        raise UserError(
            "an uploaded file is removed with this page, and a training must find its bars again: put the file on "
            "this machine and give its path"
        )
    fields = {
        **fields_of_training(bars, predictor or model, tokenizer, TOKENIZER not in also, BACKTEST in also),
        **session.tracking_fields(), **given(FIELDS, values),
    }  # fmt: skip
    return session.trainings.start("pipeline", flags_of(fields))


def stop(session: Session, run_id: str | None) -> None:
    """Stop the chosen run, or the training of this page that has no run yet."""
    own = session.trainings.newest
    run = chosen_run(session, run_id) if run_id else None
    if own is not None and own.running and (run is None or not is_running(run)):
        own.stop()
    elif run is not None:
        stop_run(run)
    else:
        raise UserError("nothing is running")


def chosen_run(session: Session, run_id: str | None) -> TrackedRun:
    """The run of the list, as it is now. Raises UserError where none is chosen."""
    found = [run for run in recent(WATCHED, MOST, session.uri, session.experiment) if run.id == run_id]
    if not found:
        raise UserError("no run is chosen: take one of the list")
    return found[0]


def wanted(runs: list[TrackedRun], chosen: str | None, follow: int | None) -> tuple[TrackedRun | None, bool]:
    """(the run to show, whether it is that of the process `follow`).

    The run of a process that was just started is shown once it exists, otherwise the chosen one, else the newest.
    """
    own = [run for run in runs if follow is not None and run.process.split()[1] == str(follow)]
    return next(iter([*own, *(run for run in runs if run.id == chosen), *runs]), None), bool(own)


def output_of(training: Training) -> str:
    """The command of a training, its last lines, and how it ended."""
    return "\n".join([f"$ {training.text}", *training.lines(), training.outcome()])


def state_of(run: TrackedRun) -> str:
    if run.status == "RUNNING" and not is_running(run):
        return "its process is gone"
    return {"KILLED": "stopped"}.get(run.status, run.status.lower())


def status_of(run: TrackedRun, done: int, total: int) -> str:
    steps = f"step {done:,}" + (f" of {total:,}" if total else "")
    reason = run.tags.get("kronos.reason", "")
    return ", ".join(filter(None, (state_of(run), steps if done else "", reason)))


def losses_figure(trained: list[TrackedRun]) -> Any:
    """The losses of trainings over their steps."""
    import plotly.graph_objects as go

    traces = []
    for run in trained:
        for name, word in LOSSES.items():
            losses = run.history(name)
            traces.append(
                go.Scatter(
                    x=losses.index.tolist(), y=losses.tolist(), name=f"{run.stage}, {word}", mode="lines+markers",
                    line={"color": COLORS[run.stage, name]}, marker={"size": 4},
                )
            )  # fmt: skip
    layout = go.Layout(
        template=None, hovermode="x unified", height=360, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"color": "#7b8794"}, margin={"l": 64, "r": 24, "t": 8, "b": 44},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={**AXIS, "title": {"text": "step"}, "visible": bool(traces)},
        yaxis={**AXIS, "title": {"text": "loss"}, "visible": bool(traces)},
    )  # fmt: skip
    return go.Figure(traces, layout)
