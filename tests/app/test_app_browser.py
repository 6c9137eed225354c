"""The page end to end in a real headless Chromium: a file, its check, candles, a forecast, a training."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Browser

from kronos.tracking.reader import recent

pytestmark = pytest.mark.slow
pytest.importorskip("dash", reason="dash is not installed: pip install -e '.[app]'")
DAYS = pd.bdate_range("2018-01-01", periods=700)
NAMES = ("AAA", "BBB")
TINY = "n_val_iter=64\nlookback_window=30\npredict_window=4\nskip_calibrate=true\ncalendar=weekdays"


def write_bars(path: Path) -> pd.DataFrame:
    random = np.random.default_rng(5)
    parts = []
    for name in NAMES:
        close = 40 * np.exp(random.normal(0, 0.01, len(DAYS)).cumsum())
        parts.append(
            pd.DataFrame({
                "instrument": name, "datetime": DAYS, "open": close * 0.999, "high": close * 1.01,
                "low": close * 0.99, "close": close, "volume": 1000.0,
            })
        )  # fmt: skip
    bars = pd.concat(parts)
    bars.to_csv(path, index=False)
    return bars


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the page is started in, with a file of bars and one for temporary files."""
    folder = tmp_path_factory.mktemp("page")
    write_bars(folder / "bars.csv")
    (folder / "temporary").mkdir()
    return folder


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    """A page on a free port; at its end no file and no process is left."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "KRONOS_"))},
        "TMPDIR": str(place / "temporary"), "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "kronos", "app", "--port", "0"], cwd=place, env=environment, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert found is not None
    yield found[0]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert [path.name for path in (place / "temporary").glob("kronos-app-*")] == []


@pytest.fixture
def browser(opened: Browser, address: str) -> Iterator[Browser]:
    """Every test ends with: nothing was asked of another machine, and nothing was complained about."""
    yield opened
    elsewhere = [url for url in opened.asked if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == [] and opened.complaints == []


def closes(frame: Any, trace: str) -> list[float]:
    """What Plotly has drawn in a frame."""
    frame.locator("#chart .main-svg").first.wait_for()
    return frame.locator("#chart").evaluate(
        "(chart, name) => chart.data.find((one) => one.meta === name).close", trace
    )


def test_a_file_is_checked_drawn_and_forecast(browser, address, place, weights):
    page = browser.open(address)
    page.fill("#bars-path", "bars.csv")
    page.click("#check-go")
    page.wait_for_selector("#check-result pre")
    text = page.inner_text("#check-result pre")
    assert "2: AAA, BBB" in text and "1,400 of day" in text
    seen = pd.read_csv(place / "bars.csv").query("instrument == 'AAA'")["close"].to_numpy()
    candles = page.frame_locator("#check-result iframe")
    np.testing.assert_allclose(closes(candles, "seen"), seen[-120:], rtol=1e-5)
    page.click("#tab-forecast")
    page.click("#panel-forecast summary")
    page.fill("#forecast-predictor", str(weights / "predictor"))
    page.fill("#forecast-tokenizer", str(weights / "tokenizer"))
    for name, value in (("inference_T", "0"), ("inference_sample_count", "3"), ("lookback_window", "40"),
                        ("predict_window", "4")):  # fmt: skip
        page.fill(f"#forecast-{name}", value)
    page.click("#forecast-go")
    page.wait_for_selector("#forecast-problem:not(:empty)")
    assert page.inner_text("#forecast-problem") == "--inference-T: 0 must be above 0.0"
    page.fill("#forecast-inference_T", "0.8")
    page.click("#forecast-go")
    frame = page.frame_locator("#forecast-result iframe")
    frame.locator("#ranking tbody tr").first.wait_for()
    names = frame.locator("#ranking tbody tr td:nth-child(2)").all_inner_texts()
    assert sorted(names) == list(NAMES) and len(closes(frame, "forecast")) == 4
    frame.locator("tr[data-instrument=BBB]").click()
    assert page.inner_text("#forecast-problem") == ""
    with page.expect_download() as download:
        page.click("text=forecast.csv")
    assert len(pd.read_csv(download.value.path())) == 2 * 4


def test_an_uploaded_file_is_checked_and_not_trained_on(browser, address, place):
    page = browser.open(address)
    page.check("text=upload a file")
    page.set_input_files("#bars-upload input[type=file]", str(place / "bars.csv"))
    page.locator("#bars-upload-name", has_text="bars.csv (").wait_for()
    page.click("#check-go")
    page.wait_for_selector("#check-result pre")
    assert "2: AAA, BBB" in page.inner_text("#check-result pre")
    page.click("#tab-trainings")
    page.click("#training-start")
    page.wait_for_selector("#training-problem:not(:empty)")
    assert "an uploaded file is removed with this page" in page.inner_text("#training-problem")


def test_a_training_is_started_watched_and_stopped(browser, address, place, weights):
    """It is a run like any other, which is KILLED by a stop; tests/stages has what the same command then does."""
    page = browser.open(address)
    page.fill("#bars-path", "bars.csv")
    page.click("text=further fields")
    page.fill("#bars-more", TINY)
    page.click("#tab-trainings")
    page.click("#panel-trainings summary")
    page.fill("#training-predictor", str(weights / "predictor"))
    page.fill("#training-tokenizer", str(weights / "tokenizer"))
    page.fill("#training-epochs", "500")
    page.fill("#training-n_train_iter", "640")
    page.click("#training-start")
    drawn = page.locator("#training-losses .scatterlayer .trace path.point").nth(3)
    drawn.wait_for(state="attached")
    assert "python -m kronos pipeline" in page.inner_text("#training-log")
    assert re.search(r"running, step [\d,]+ of [\d,]+", page.inner_text("#training-status"))
    page.click("#training-stop")
    page.locator("#training-status", has_text="stopped").wait_for()
    (first,) = recent(["pipeline"], 9, f"sqlite:///{place}/mlflow.db")
    (child,) = (run for run in first.children() if run.stage == "predictor")
    assert (first.status, child.status) == ("KILLED", "KILLED")
