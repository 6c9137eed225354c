"""The predict stage: latest bars in, the next bars at the exchange's own times out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.data.calendars import next_sessions

RESULT = Path("outputs/predictions/latest")


def predict(weights: Path, *arguments: str) -> int:
    paths = ["--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor")]
    return main(["predict", *paths, *arguments])


@pytest.fixture
def predicted(store: Path, weights: Path) -> pd.DataFrame:
    assert predict(weights, "--inference-sample-count", "8", "--predict-figures", "AAPL,XOM") == 0
    return pd.read_parquet(RESULT / "forecast.parquet")


def test_every_instrument_is_forecast_at_the_next_sessions(predicted: pd.DataFrame) -> None:
    counts = predicted.groupby("instrument").size()
    assert (counts == 5).all()
    left_out = pd.read_csv(RESULT / "not_forecast.csv")
    assert len(counts) + len(left_out) == 524
    assert left_out["reason"].notna().all()
    last = pd.Timestamp("2010-08-20")
    assert (predicted["as_of"] == last).all()
    expected = next_sessions("XNYS", last, 5)
    for _, own in predicted.groupby("instrument"):
        assert list(own["datetime"]) == list(expected.tz_localize(None))
        break
    assert set(predicted["datetime"]) == set(expected.tz_localize(None))


def test_quantiles_are_ordered_and_belong_to_their_row(predicted: pd.DataFrame) -> None:
    for feature in ("open", "high", "low", "close", "volume", "amount"):
        levels = predicted[[f"{feature}_q{level}" for level in ("0.05", "0.25", "0.5", "0.75", "0.95")]]
        assert (np.diff(levels.to_numpy(), axis=1) >= 0).all()
        inside = predicted[feature].between(levels.iloc[:, 0] * 0.5, levels.iloc[:, -1] * 2 + 1)
        assert inside.all()
    assert (predicted["high"] >= predicted[["open", "close"]].max(axis=1) * (1 - 1e-6)).all()
    assert (predicted["volume"] >= 0).all()
    assert predicted["close_std"].gt(0).mean() > 0.9


def test_files_and_figures_are_written(predicted: pd.DataFrame) -> None:
    assert sorted(path.name for path in (RESULT / "figures").iterdir()) == ["AAPL.png", "XOM.png"]
    table = pd.read_csv(RESULT / "forecast.csv")
    assert list(table.columns) == list(predicted.columns)
    np.testing.assert_allclose(table["close"], predicted["close"], rtol=1e-4)


def test_an_instrument_that_is_not_forecast_is_refused_with_the_reason(
    store: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(weights, "--predict-figures", "AAPL,WYE,NOPE") == 2
    message = capsys.readouterr().err
    assert "WYE (no bar)" in message
    assert "NOPE (not in the store)" in message
    assert not RESULT.exists()


def test_levels_outside_0_to_1_are_refused(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--predict-quantiles", "0.5,1.5"]) == 2
    assert "levels from 0 to 1" in capsys.readouterr().err
