"""The calibrate stage: fitted on validation days alone, used by predict, backtest and the served model alike."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from serving import save_model

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.data.store import open_store
from kronos.evaluation.calibration import Calibration
from kronos.stages.calibrate import CalibrateStage, fit
from kronos.stages.calibration import FILE
from kronos.utils.digests import OWN, with_own_digest
from kronos.utils.files import read_json, write_json

FOLDER = Path("outputs/models/finetune_predictor_demo/calibration")
FEW = ["--calibration-series", "150", "--calibration-sample-count", "12"]
PREDICTED = Path("outputs/predictions/latest")


def flags(weights: Path) -> list[str]:
    return ["--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor")]


@pytest.fixture(scope="module")
def once(sample_store: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the calibrate stage has run."""
    folder = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(sample_store, folder / "outputs" / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["calibrate", *flags(weights), *FEW]) == 0
    return folder


@pytest.fixture
def calibrated(once: Path, in_folder: Path) -> Path:
    """A copy of its outputs in the working directory."""
    shutil.copytree(once / "outputs", "outputs")
    return FOLDER / FILE


def test_it_is_the_same_whatever_comes_after_the_validation_days(calibrated: Path, weights: Path) -> None:
    given = dict(zip(("tokenizer_path", "predictor_path"), flags(weights)[1::2], strict=True))
    fields = {"calibration_series": 150, "calibration_sample_count": 12, **given}
    config = load_config(None, fields)[0]
    inputs = CalibrateStage().inputs(config)
    bars, splits = inputs.store, inputs.splits
    assert bars is not None and splits is not None
    later = np.asarray(bars.times) > pd.Timestamp(splits.val[1]).value
    values = np.array(bars.values)
    values[later] *= np.linspace(1, 3, int(later.sum()), dtype=np.float32)[:, None]
    context = SimpleNamespace(config=config, say=lambda line: None, shards=None)
    _, content = fit(context, replace(inputs, store=replace(bars, values=values)))  # type: ignore[arg-type]
    stored = read_json(calibrated)
    stored.pop(OWN)
    assert later.any() and content == stored
    values = np.array(bars.values)
    inside = ~later & (np.asarray(bars.times) >= pd.Timestamp(splits.val[0]).value)
    values[inside, 3] *= np.linspace(1, 1.1, int(inside.sum()), dtype=np.float32)
    _, other = fit(context, replace(inputs, store=replace(bars, values=values)))  # type: ignore[arg-type]
    assert other["errors"] != stored["errors"]


def test_predict_and_the_served_model_give_the_same_calibrated_bands(
    calibrated: Path, weights: Path, in_folder: Path
) -> None:
    assert main(["predict", *flags(weights), "--inference-sample-count", "3"]) == 0
    predicted = pd.read_parquet(PREDICTED / "forecast.parquet")
    config, bars = load_config(None, {})[0], open_store("outputs/data")
    model = save_model(
        in_folder / "served", weights, calibrated, lookback=config.lookback_window, pred_len=5, sample_count=3,
        T=config.inference_T, top_p=config.inference_top_p, seed=config.seed, max_context=config.max_context,
        quantiles=list(config.predict_quantiles), bands="calibrated",
    )  # fmt: skip
    names = list(predicted["instrument"].unique()[:3])
    frame = bars.frame(("open", "high", "low", "close", "volume", "amount"))
    request = frame[frame["instrument"].isin(names)].groupby("instrument").tail(config.lookback_window)
    answer = mlflow.pyfunc.load_model(model).predict(request.reset_index(drop=True))
    own = predicted[predicted["instrument"].isin(names)].reset_index(drop=True)
    for level in config.predict_quantiles:
        for price in ("open", "high", "low", "close"):
            column = f"{price}_q{level:g}"
            np.testing.assert_allclose(answer[column], own[column], rtol=2e-5, err_msg=column)
    raw = mlflow.pyfunc.load_model(model).predict(request.reset_index(drop=True), params={"bands": "raw"})
    assert not np.allclose(raw["close_q0.05"], answer["close_q0.05"], rtol=1e-3)
    np.testing.assert_allclose(raw["close"], answer["close"])  # the mean is that of the raw paths


@pytest.mark.slow
def test_quantiles_and_risk_belong_together(calibrated: Path, weights: Path) -> None:
    assert main(["predict", *flags(weights)]) == 0
    predicted, figures = (pd.read_parquet(PREDICTED / f"{name}.parquet") for name in ("forecast", "risk"))
    ordered = predicted[[f"close_q{level}" for level in ("0.05", "0.25", "0.5", "0.75", "0.95")]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()
    assert (figures["es_95"] >= figures["var_95"]).all() and (figures["var_99"] >= figures["var_95"]).all()
    assert figures["rise_probability"].between(0, 1).all()
    rises = figures["median"] > 0
    assert (figures["rise_probability"] >= 0.5)[rises].mean() > 0.95
    ranking = pd.read_csv(PREDICTED / "ranking.csv")
    assert list(ranking["rank"]) == list(range(1, len(ranking) + 1)) and (ranking["step"] == 5).all()
    assert ranking["expected_return"].is_monotonic_decreasing


@pytest.mark.slow
def test_raw_bands_are_the_quantiles_of_the_paths(
    calibrated: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *flags(weights), "--bands", "raw"]) == 0
    said = capsys.readouterr().out
    assert "0.05 quantile of 5 sample paths is mostly chance: 100 paths are needed" in said
    calibrated.unlink()
    shutil.rmtree(PREDICTED)
    assert main(["predict", *flags(weights)]) == 0
    said = capsys.readouterr().out
    assert "no calibration of the bands" in said and "python -m kronos calibrate" in said


@pytest.mark.slow
def test_a_calibration_of_other_weights_or_settings_is_not_used(
    calibrated: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *flags(weights), "--max-context", "256"]) == 0
    assert "is of another max_context" in capsys.readouterr().out
    stored = read_json(calibrated)
    assert Calibration.from_json(stored).horizon == 5
    del stored["settings"]["inference_sliding"]  # as of a version without that field, which had its default
    write_json(calibrated, with_own_digest(stored))
    assert main(["predict", *flags(weights)]) == 0
    assert "no calibration" not in capsys.readouterr().out
    assert main(["predict", *flags(weights), "--inference-sliding", "cached"]) == 0
    assert "is of another inference_sliding" in capsys.readouterr().out
    stored["weights"]["predictor"] = "other"
    write_json(calibrated, with_own_digest(stored))
    assert main(["predict", *flags(weights)]) == 0
    assert "is of other weights" in capsys.readouterr().out


def test_an_altered_calibration_is_refused_with_the_command_that_makes_it_anew(
    calibrated: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated.write_text(calibrated.read_text().replace('"samples": 12', '"samples": 13'))
    assert main(["predict", *flags(weights)]) == 2
    assert "python -m kronos calibrate  again" in capsys.readouterr().err


@pytest.mark.slow
def test_too_few_forecasts_leave_the_bands_raw(
    in_folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = str(Path(__file__).resolve().parents[2] / "experiments" / "sample.json")
    arguments = ["--config-path", sample, "--symbols", "AAPL,XOM", "--dataset-path", "outputs/two"]
    assert main(["data", *arguments]) == 0
    assert main(["calibrate", *flags(weights), *arguments, *FEW]) == 0
    assert "120 are needed" in capsys.readouterr().out
    assert main(["predict", *flags(weights), *arguments]) == 0
    assert "no calibration of the bands" in capsys.readouterr().out
