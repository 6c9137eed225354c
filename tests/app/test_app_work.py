"""What the page shows is what the commands say and make: checks, messages, forecasts, trainings."""

import ast
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest

from kronos.__main__ import main

pytest.importorskip("dash", reason="dash is not installed: pip install -e '.[app]'")

from kronos.app import trainings
from kronos.app.bars import FILE, STORE, Stores, chosen_fields, fields_of_text
from kronos.app.forecasts import make_forecast
from kronos.app.models import forecast_fields, offered, training_fields
from kronos.app.trainings import Training, Trainings, fields_of_training, flags_of, stop_run
from kronos.app.view_trainings import wanted
from kronos.app.work import Work, Worker, message
from kronos.config.loading import load_config
from kronos.config.schema import Config
from kronos.utils.errors import UserError

DAYS = pd.bdate_range("2020-01-01", periods=300)


@pytest.fixture
def bars(in_folder: Path) -> Path:
    """A file of three instruments on weekdays."""
    random = np.random.default_rng(5)
    parts = []
    for name in ("AAA", "BBB", "CCC"):
        close = 40 * np.exp(random.normal(0, 0.01, len(DAYS)).cumsum())
        parts.append(
            pd.DataFrame({
                "instrument": name, "datetime": DAYS, "open": close, "high": close * 1.01, "low": close * 0.99,
                "close": close, "volume": 1000.0,
            })
        )  # fmt: skip
    pd.concat(parts).to_csv("bars.csv", index=False)
    return in_folder / "bars.csv"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    found = Worker(tmp_path / "work")
    yield found
    found.close()


def wait(work: Work) -> Work:
    end = time.monotonic() + 120
    while not work.ended and time.monotonic() < end:
        time.sleep(0.01)
    return work


def run(tmp_path: Path, function: Callable[[Work], object]) -> Work:
    """The work of a function, done in this thread."""
    work = Work(tmp_path / "work")
    work.folder.mkdir(parents=True)
    work.result = function(work)
    return work


def test_the_check_of_the_page_is_that_of_the_command(bars, tmp_path, capsys):
    stores = Stores(tmp_path / "stores")
    work = run(
        tmp_path, lambda work: stores.check(FILE, chosen_fields(FILE, "bars.csv", "calendar=weekdays"), work)
    )
    assert main(["data", "--check", "bars.csv", "--calendar", "weekdays"]) == 0
    assert work.result.text == capsys.readouterr().out.rstrip("\n")
    assert all(name in (work.folder / "forecasts.html").read_text() for name in ("AAA", "BBB", "CCC"))


def test_a_file_that_the_command_refuses_gives_its_line(in_folder, tmp_path, capsys):
    Path("bad.csv").write_text("a,b\n1,2\n3,4\n")
    stores = Stores(tmp_path / "stores")
    for path in ("bad.csv", "missing.csv"):
        assert main(["data", "--check", path]) == 2
        line = capsys.readouterr().err.strip().removeprefix("kronos: ")
        try:
            problem = run(
                tmp_path / f"{path} work",
                lambda work, path=path: stores.check(FILE, chosen_fields(FILE, path, ""), work),
            ).result.problem
        except UserError as error:
            problem = message(error)
        assert problem == line
    with pytest.raises(UserError, match=r"unknown field nonsense(.|\n)*inference-T: 0 must be above 0"):
        load_config(None, {**chosen_fields(FILE, "bars.csv", "nonsense=1"), "inference_T": "0"})
    with pytest.raises(UserError, match="no bars are chosen"):
        chosen_fields(FILE, " ", "")
    with pytest.raises(UserError, match="'one', '= 3': further fields are given as field=value"):
        fields_of_text("one\nresample = 4h\n\n= 3")
    assert fields_of_text("--time-zone=UTC\ncolumn-names = Px=close") == {
        "time_zone": "UTC", "column_names": "Px=close",
    }  # fmt: skip


def test_a_bug_is_told_apart_from_a_mistake(capsys):
    assert message(UserError("one line")) == "one line"
    assert "this is a bug" in message(TypeError("no")) and "TypeError" in capsys.readouterr().err


def test_work_is_done_in_turn_and_can_be_stopped(worker):
    ready, go = threading.Event(), threading.Event()

    def long(work: Work) -> None:
        ready.set()
        go.wait(60)
        for step in range(1000):
            work.step("long", step, 1000)

    first, second = worker.begin(long), worker.begin(lambda work: "second")
    ready.wait(60)
    assert (first.state, second.state) == ("running", "waiting")
    first.stop()
    go.set()
    assert wait(first).state == "stopped" and wait(second).result == "second"
    failed = wait(worker.begin(lambda work: forecast_fields(None, None)))
    assert failed.state == "failed" and failed.problem.startswith("no model is chosen")
    old = [wait(worker.begin(lambda work: None)) for _ in range(12)]
    assert worker.find(old[0].id) is None and not old[0].folder.exists()
    assert worker.find(old[-1].id) is old[-1] and old[-1].folder.exists()


def test_models_and_the_fields_that_they_mean(in_folder, weights):
    found, problem = offered(None, "kronos", training=True)
    assert "there are no tracked runs here" in problem and found["NeoQuasar/Kronos-small"] == "public: small"
    assert forecast_fields("NeoQuasar/Kronos-mini", None) == {
        "predictor_path": "NeoQuasar/Kronos-mini", "tokenizer_path": "NeoQuasar/Kronos-Tokenizer-2k",
    }  # fmt: skip
    assert forecast_fields("runs:/abc", "")["tokenizer_path"] == "runs:/abc"
    assert forecast_fields("folder", "") == {"predictor_path": "folder"}
    with pytest.raises(UserError, match="the tokenizer of folder is not known"):
        training_fields("folder", None)
    fields = fields_of_training(
        chosen_fields(FILE, "bars.csv", "epochs=2"), "random:nano", None, False, False
    )
    config = load_config(None, fields)[0]
    assert config.model.model_preset == "nano" and config.model.pretrained_predictor_path is None
    assert config.launch.skip_backtest and config.training.epochs == 2
    with pytest.raises(UserError, match="epochs: 0 is too small"):
        flags_of({**fields, "epochs": "0"})


SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(130)))
print(sys.argv[1:], flush=True)
time.sleep(100)
"""


def begun(training: Training) -> list[str]:
    """The lines of a training that has begun."""
    end = time.monotonic() + 60
    while not training.lines() and time.monotonic() < end:
        time.sleep(0.02)
    return training.lines()


def tracked(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(**{"id": "abc", "status": "KILLED", "stage": "predictor", "process": "elsewhere 1 0",
                              "folder": Path(), **fields})  # fmt: skip


def test_a_training_is_a_command_that_is_stopped_and_gone_on_with(in_folder, monkeypatch):
    monkeypatch.setattr(trainings, "python_module", lambda name: [sys.executable, "-c", SLEEPER])
    own = Trainings(in_folder / "trainings")
    first = own.start("pipeline", ["--epochs=2"])
    assert begun(first) == ["['pipeline', '--epochs=2']"] and first.running and own.newest is first
    stop_run(tracked(status="RUNNING", process=f"{socket.gethostname()} {first.pid} "
                     f"{psutil.Process(first.pid).create_time():.2f}"))  # fmt: skip
    first.end()
    assert first.lines()[-1] == "saved" and first.outcome() == "ended with status 130"
    run = tracked(config=Config(epochs=7))
    second = own.go_on(run)
    stage, flag, path = ast.literal_eval(begun(second)[0])
    assert (stage, flag) == ("predictor", "--config-path") and load_config(path)[0] == run.config
    third = own.start("pipeline", [])
    begun(third)
    own.close()
    assert [one.lines()[-1] for one in (second, third)] == ["saved", "saved"] and not own.running()
    assert wanted([run], None, None) == (run, False) and wanted([run], "abc", 1) == (run, True)
    for other, why in (({"status": "FINISHED"}, "is finished"), ({"status": "RUNNING"}, "is still running")):
        with pytest.raises(UserError, match=why):
            own.go_on(tracked(**other))
    with pytest.raises(UserError, match="is of the machine elsewhere"):
        stop_run(tracked(status="RUNNING"))
    with pytest.raises(UserError, match="is not running"):
        stop_run(tracked())


@pytest.mark.slow
def test_a_forecast_of_the_page_is_that_of_the_predict_stage(bars, weights, tmp_path):
    """Of a file, and of the store that the data stage made of it, whose fields are those of its record."""
    flags = {
        "lookback_window": "40", "predict_window": "4", "inference_sample_count": "7", "inference_T": "0.9",
        "seed": "3",
    }  # fmt: skip
    models = forecast_fields(str(weights / "predictor"), str(weights / "tokenizer"))
    command = flags_of({"data_source": "csv", "data_path": "bars.csv", "calendar": "weekdays", **flags})
    assert main(["data", *command]) == 0
    assert (
        main(
            ["predict", *command, *(f"--{name.replace('_', '-')}={value}" for name, value in models.items())]
        )
        == 0
    )
    expected = pd.read_csv("outputs/predictions/latest/forecast.csv")
    stores = Stores(tmp_path / "stores")
    for kind, path, more in ((FILE, "bars.csv", "calendar=weekdays"), (STORE, "outputs/data", "")):
        fields = {**chosen_fields(kind, path, more), **flags, **models}
        work = run(
            tmp_path / kind,
            lambda work, kind=kind, fields=fields: make_forecast(stores, kind, fields, "", work),
        )
        pd.testing.assert_frame_equal(pd.read_csv(work.folder / "forecast.csv"), expected)
        assert "3 instruments" in work.result and "raw bands" in work.result
        one = run(tmp_path / f"{kind} one", lambda work, kind=kind, fields=fields: make_forecast(
            stores, kind, fields, "BBB", work))  # fmt: skip
        alone = pd.read_csv(one.folder / "forecast.csv")
        same = expected[expected["instrument"] == "BBB"].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, same)
        with pytest.raises(UserError, match=r"not forecast: ZZZ \(not among the bars\)"):
            make_forecast(stores, kind, fields, "ZZZ", work)
