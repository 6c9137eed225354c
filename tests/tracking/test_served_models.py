"""Runs are found, compared, repeated; their models load by address, forecast as the run did, and are served."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from serving import ask, serving

from kronos import compare, latest, load_run, newest
from kronos.__main__ import main
from kronos.utils.errors import UserError
from kronos.utils.files import digest_folder

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def there(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(finished)
    mlflow.set_tracking_uri(f"sqlite:///{finished}/mlflow.db")
    yield
    mlflow.set_tracking_uri(None)


def bars_and_forecasts(day: str = "2010-07-15") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of two instruments: their bars up to a day, and what the backtest forecast on it."""
    own, bars = latest("backtest").predictions(), latest("backtest").store().frame()
    names = sorted(own["instrument"].unique())[:2]
    own = own[(own["as_of"] == day) & own["instrument"].isin(names)]
    bars = bars[bars["instrument"].isin(names) & (bars["datetime"] <= day)]
    assert own["instrument"].nunique() == 2
    return bars.groupby("instrument").tail(40).reset_index(drop=True), own


def test_predictions_of_the_latest_backtest_in_two_lines() -> None:
    predictions = latest("backtest").predictions()
    assert {"instrument", "as_of", "datetime", "step", "close"} <= set(predictions.columns)


def test_runs_are_read_as_they_were_written() -> None:
    run = latest("predictor")
    assert run.config.epochs == 1
    assert next(iter(run.history("val_loss").index)) == 0
    assert run.parent == latest("pipeline").id
    inputs = {
        name: latest("backtest").tags[f"kronos.{name}_run"] for name in ("data", "tokenizer", "predictor")
    }
    assert inputs == {name: latest(name).id for name in inputs}
    assert [child.stage for child in latest("pipeline").children()][-1] == "backtest"
    assert "val_loss" in compare([run, latest("tokenizer")]).loc["metric"].index
    with pytest.raises(UserError, match="no run 123"):
        load_run("123")
    with pytest.raises(UserError, match="has no predictions"):
        run.predictions()
    with pytest.raises(UserError, match="has no artifact nothing"):
        run.file("nothing")


def test_the_logged_model_forecasts_as_the_backtest_did() -> None:
    uri = latest("predictor").tags["kronos.model_uri"]
    code = (
        "import sys, mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri('sqlite:///{os.getcwd()}/mlflow.db')\n"
        f"mlflow.pyfunc.load_model({uri!r}).predict(pd.read_parquet('in.parquet')).to_parquet('out.parquet')\n"
    )
    bars, own = bars_and_forecasts()
    bars.to_parquet("in.parquet")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    served = pd.read_parquet("out.parquet")
    assert list(served["datetime"]) == list(own["datetime"])
    np.testing.assert_allclose(served["close"], own["close"], rtol=1e-5)


@pytest.mark.parametrize("stage", ["predictor", "backtest"])
def test_a_run_is_repeated_from_its_own_artifacts(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest_folder("outputs/models")
    assert main(["rerun", latest(stage).id]) == 0
    assert "every number is equal" in capsys.readouterr().out
    assert digest_folder("outputs/models") == before


def test_weights_are_found_by_run_and_model_address(capsys: pytest.CaptureFixture[str]) -> None:
    run = next(run for run in newest("predictor", 9) if run.parent)
    paths = ["--tokenizer-path", f"runs:/{run.id}", "--predictor-path", run.tags["kronos.model_uri"]]
    assert main(["predict", *paths]) == 0
    assert latest("predict").tags["kronos.predictor_digest"] == run.tags["kronos.model_digest"]
    assert main(["predict", "--predictor-path", "runs:/0123"]) == 2
    assert "no run 0123" in capsys.readouterr().err
    assert main(["predict", "--predictor-path", "models:/nobody@champion"]) == 2
    assert "predictor_path models:/nobody@champion" in capsys.readouterr().err


def test_compare_prints_a_table_and_draws(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runs = [latest("tokenizer").id, latest("predictor").id]
    assert main(["compare", *runs, "--output", str(tmp_path / "figure.png")]) == 0
    assert "best_val_loss" in capsys.readouterr().out
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert main(["compare", "nope"]) == 2


@pytest.fixture(scope="module")
def served(finished: Path) -> Iterator[str]:
    """`mlflow models serve` of the logged model on loopback; yields its address."""
    store = f"sqlite:///{finished}/mlflow.db"
    with serving(latest("predictor", store).tags["kronos.model_uri"], store) as address:
        yield address


def test_the_served_answer_is_the_runs_own_and_bad_input_gets_400(served: str) -> None:
    bars, own = bars_and_forecasts()
    bars = bars[["instrument", "datetime", "open", "high", "low", "close", "volume", "amount"]]
    status, answer = ask(served, bars)
    assert status == 200
    np.testing.assert_allclose([row["close"] for row in answer["predictions"]], own["close"], rtol=1e-5)
    status, answer = ask(
        served,
        bars[bars["instrument"] == bars["instrument"][0]].drop(columns=["volume", "amount"]),
        {"pred_len": 3, "seed": 5, "quantiles": [0.5]},
    )
    assert (status, len(answer["predictions"])) == (200, 3)
    assert "close_q0.5" in answer["predictions"][0]
    for table, params, reason in (
        (bars.head(10), {}, f"each instrument needs 32 bars: {bars['instrument'][0]} has 10"),
        (bars.iloc[::-1], {}, "datetime must increase within an instrument"),
        (bars.assign(close=-1.0), {}, "prices must be above 0"),
        (bars.drop(columns="close"), {}, "close"),
        (bars, {"pred_len": 0}, "pred_len is 0"),
        (bars, {"top_p": "x"}, "top_p"),
        (bars, {"sampel_count": 5}, "unknown param sampel_count"),
        (bars, {"sample_count": 10**6}, "over max_path_bars"),
    ):
        status, text = ask(served, table, params)
        assert (status, reason in str(text)) == (400, True), (status, text)


def test_a_damaged_local_copy_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(
        finished / "outputs/models/finetune_predictor_demo/checkpoints/best_model", tmp_path / "weights"
    )
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"no")
    assert main(["predict", "--predictor-path", str(tmp_path / "weights")]) == 2


def test_logging_a_model_leaves_mlflows_address_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_tracking_uri(None)
    monkeypatch.chdir(tmp_path)
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert "MLFLOW_TRACKING_URI" not in os.environ
