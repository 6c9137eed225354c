"""Models of other columns than the six: trained, forecast with and served by the names of their columns."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from kronos import Config, KronosPredictor, KronosTokenizer, latest
from kronos.__main__ import main
from kronos.data.calendars import sessions
from kronos.model import load_predictor
from kronos.stages.weights import with_columns_of_model
from kronos.utils.errors import UserError

COLUMNS = ("open", "high", "low", "close", "turnover")
RECIPE = [
    "--data-source", "csv", "--data-path", "bars.csv", "--feature-list", ",".join(COLUMNS), "--model-preset", "nano",
    "--lookback-window", "16", "--predict-window", "3", "--epochs", "1", "--n-train-iter", "256", "--batch-size",
    "64", "--n-val-iter", "64", "--inference-sample-count", "2", "--evaluation-sample-count", "4",
    "--evaluation-series", "20", "--calibration-series", "100", "--calibration-sample-count", "10",
    "--baseline-lightgbm", "false", "--baseline-seeds", "2", "--backtest-n-symbol-hold", "3",
    "--backtest-n-symbol-drop", "1",
]  # fmt: skip


def table(days: int = 150, names: int = 6) -> pd.DataFrame:
    """Made-up bars with a column turnover, which is negative on some days as a flow of money is."""
    random = np.random.default_rng(7)
    calendar = sessions("XNYS", "2020-01-02", "2021-12-31")[:days]
    close = 50 * np.exp(random.normal(0, 0.02, (names, days)).cumsum(axis=1))
    opening = close * np.exp(random.normal(0, 0.01, close.shape))
    frame = pd.DataFrame({
        "instrument": np.repeat([f"N{number}" for number in range(names)], days),
        "datetime": np.tile(calendar, names),
        "open": opening.ravel(), "high": (np.maximum(opening, close) * 1.01).ravel(),
        "low": (np.minimum(opening, close) * 0.99).ravel(), "close": close.ravel(),
        "volume": random.lognormal(12, 1, close.size).round(), "turnover": random.normal(0.5, 2, close.size),
    })  # fmt: skip
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a pipeline of five columns has run."""
    folder = tmp_path_factory.mktemp("columns")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        table().to_csv("bars.csv", index=False)
        assert main(["pipeline", *RECIPE]) == 0
    return folder


@pytest.fixture
def there(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(trained)
    mlflow.set_tracking_uri(f"sqlite:///{trained}/mlflow.db")
    yield trained
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_five_columns_go_through_every_stage(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training, backtest, predict, embed and generate know the columns by name, and the served model forecasts so."""
    tokens = there / "outputs/models/finetune_tokenizer_demo/checkpoints/best_model"
    config = json.loads((tokens / "config.json").read_text())
    assert config["d_in"] == 5 and config["columns"] == list(COLUMNS)
    predictions = latest("backtest").predictions()
    assert predictions.columns.tolist() == ["instrument", "as_of", "datetime", "step", *COLUMNS]
    assert main(["predict", *RECIPE]) == 0
    forecast = pd.read_parquet("outputs/predictions/latest/forecast.parquet")
    assert {"turnover", "turnover_q0.5", "turnover_std"} <= set(forecast) and not {"volume", "amount"} & set(
        forecast
    )
    best = there / "outputs/models/finetune_predictor_demo/checkpoints/best_model"
    members = [
        "--predictor-path",
        f"{best},{shutil.copytree(best, there / 'second')}",
        "--tokenizer-path",
        str(tokens),
    ]
    assert main(["predict", *RECIPE, *members, "--predict-save-folder-name", "pooled"]) == 0
    pooled = pd.read_parquet("outputs/predictions/pooled/forecast.parquet")
    assert pooled.columns.equals(forecast.columns)
    assert main(["embed", *RECIPE]) == 0
    assert main(["generate", *RECIPE, "--generate-bars", "5", "--generate-instruments", "2"]) == 0
    assert set(pd.read_parquet("outputs/generated/bars.parquet")) == {
        "instrument",
        "datetime",
        *COLUMNS,
        "synthetic",
    }

    model = mlflow.pyfunc.load_model(latest("predictor").tags["kronos.model_uri"])
    bars = table().groupby("instrument").tail(16)
    answer = model.predict(
        bars[["instrument", "datetime", *COLUMNS]], params={"quantiles": [], "bands": "raw"}
    )
    own = forecast.merge(answer, on=["instrument", "as_of", "datetime", "step"], suffixes=("", "_served"))
    assert len(own) == len(forecast)
    for name in COLUMNS:
        np.testing.assert_allclose(own[f"{name}_served"], own[name], rtol=1e-3, atol=1e-3)
    with pytest.raises(mlflow.MlflowException, match="turnover"):
        model.predict(bars.drop(columns="turnover"))
    capsys.readouterr()


@pytest.mark.slow
def test_the_public_api_reads_the_columns_of_its_tokenizer(there: Path) -> None:
    models = there / "outputs/models"
    tokenizer = KronosTokenizer.from_pretrained(models / "finetune_tokenizer_demo/checkpoints/best_model")
    predictor = KronosPredictor(
        load_predictor(models / "finetune_predictor_demo/checkpoints/best_model"), tokenizer
    )
    bars = table()[:40]
    later = sessions("XNYS", bars["datetime"].iloc[-1], "2020-12-31")[1:4]
    paths = predictor.predict_paths(
        bars, bars["datetime"], later, 3, sample_count=2, verbose=False, seed=1, repair=True
    )
    assert paths.mean().columns.tolist() == list(COLUMNS) and paths.samples().columns.tolist() == list(
        COLUMNS
    )
    with pytest.raises(
        UserError, match="df has no column turnover: expected open high low close turnover; it has"
    ):
        predictor.predict(bars.drop(columns="turnover"), bars["datetime"], later, 3)


@pytest.mark.slow
def test_the_page_in_the_browser_takes_the_columns_of_the_chosen_model(there: Path, weights: Path) -> None:
    tokens = str(there / "outputs/models/finetune_tokenizer_demo/checkpoints/best_model")
    assert with_columns_of_model(Config(tokenizer_path=tokens)).data.feature_list == COLUMNS
    usual = Config(tokenizer_path=str(weights / "tokenizer"))
    assert with_columns_of_model(usual) is usual


@pytest.mark.slow
def test_a_model_of_other_columns_than_the_list_is_refused(
    there: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = str(there / "outputs/models/finetune_tokenizer_demo/checkpoints/best_model")
    pair = ["--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor")]
    for arguments, text in (
        (
            ["predict", *RECIPE, *pair],
            "feature_list: open, high, low, close, turnover is given, and the tokenizer at",
        ),
        (
            ["tokenizer", *RECIPE, "--pretrained-tokenizer-path", str(weights / "tokenizer")],
            "sees open, high, low, c",
        ),
        (
            ["predictor", *RECIPE, "--feature-list", "open,high,low,close,vol", "--tokenizer-path", own],
            "give --feature-list open,high,low,close,turnover, or a tokenizer of these columns",
        ),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("open,high,low,vol,amt", "open,high,low,vol,amt lacks close: open, high, low and close are needed"),
        ("open,high,low,close,vol,volume", "open,high,low,close,vol,volume names volume twice"),
        ("open,high,low,close,oi,oi", "open,high,low,close,oi,oi names oi twice"),
        ("open,high,low,close,date", "'date' is no column of numbers"),
        ("", "nothing lacks open, high, low, close"),
    ],
)
def test_a_list_that_cannot_be_is_refused_in_one_line(
    given: str, problem: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "--feature-list", given]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1


def test_public_weights_know_six_columns(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--feature-list", "open,high,low,close,vol", "--model-preset", "small"]
    tokenizer = "pretrained_tokenizer_path NeoQuasar/Kronos-Tokenizer-base"
    both = f"{tokenizer} and pretrained_predictor_path NeoQuasar/Kronos-small"
    for stage, named in (("tokenizer", tokenizer), ("pipeline", both)):
        assert main([stage, *arguments]) == 2
        error = capsys.readouterr().err
        assert f"vol is given beside {named}, of the columns open,high,low,close,volume,amount" in error
        assert error.count("\n") == 1


def test_the_guides_list_in_another_order_or_spelling_is_the_guides(in_folder: Path) -> None:
    from kronos.data.extra_columns import model_columns, wanted_columns

    config = Config(feature_list=("close", "open", "high", "low", "volume", "amount"))
    assert model_columns(config.data) == model_columns(Config().data)
    assert wanted_columns(config.data).names == ()
