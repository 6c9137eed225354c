"""One asset of a market that never closes, from an hourly file: verdict, forecast, a challenge, a search."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.tracking.model_registry import champion_of, versions_of

pytestmark = pytest.mark.slow
RESULT = Path("outputs/backtest_results/finetune_backtest_demo")
NAME = ("--registered-model-name", "btc")


@pytest.fixture
def small(in_folder: Path) -> list[str]:
    """Flags of a short pipeline on 250 days of hourly bars, whose volatility switches."""
    generator = np.random.default_rng(5)
    hours = 24 * 250
    wild = np.cumsum(generator.random(hours) < 0.01) % 2 == 1
    close = 20_000 * np.exp(np.cumsum(np.where(wild, 0.008, 0.003) * generator.standard_normal(hours)))
    opened = np.concatenate([[20_000], close[:-1]])
    spread = 0.002 * generator.random((2, hours))
    bars = pd.DataFrame({
        "timestamp": pd.date_range("2023-01-01", periods=hours, freq="h"), "open": opened,
        "high": np.maximum(opened, close) * (1 + spread[0]), "low": np.minimum(opened, close) * (1 - spread[1]),
        "close": close, "volume": generator.lognormal(5, 0.5, hours),
    })  # fmt: skip
    bars.round(2).to_csv("BTCUSDT.csv", index=False)
    return [
        "--data-source", "csv", "--data-path", "BTCUSDT.csv", "--model-preset", "nano",
        "--pretrained-tokenizer-path", "none", "--pretrained-predictor-path", "none", "--lookback-window", "32",
        "--predict-window", "4", "--epochs", "1", "--n-train-iter", "2000", "--n-val-iter", "200",
        "--baseline-seeds", "1", "--inference-sample-count", "2", "--evaluation-series", "200",
        "--calibration-series", "200", "--calibration-sample-count", "20", "--tokenizer-learning-rate", "1e-3",
        "--predictor-learning-rate", "1e-3",
    ]  # fmt: skip


def test_a_verdict_a_forecast_a_challenge_and_a_search(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline", *small, *NAME]) == 0
    opening = (RESULT / "report.md").read_text(encoding="utf-8").split("## Portfolio")[0]
    assert "The forecasts are no better than the last price" in opening  # a random walk
    assert "GARCH(1, 1)" in opening and "long or short" in opening and "seasonal naive of 24 bars" in opening
    metrics = json.loads((RESULT / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert {
        "diebold_mariano_t",
        "diebold_mariano_p",
        "crps_skill_over_garch",
        "coverage_90_calibrated",
    } <= set(metrics)
    assert metrics["coverage_90_calibrated"] == pytest.approx(0.9, abs=0.06)
    ledger = pd.read_csv(RESULT / "time_series_ledgers.csv", index_col=["ledger", "datetime"])
    held = ledger.loc["hold"]
    assert (held["position"] == 1).all() and held["cost"].iloc[1:].abs().max() == 0
    assert main(["predict", *small]) == 0
    risk = pd.read_parquet("outputs/predictions/latest/risk.parquet")
    assert len(risk) == 4 and risk["var_95"].between(0, 0.2).all()
    assert "90 % band of this model held" in capsys.readouterr().out

    assert main(["pipeline", *small, *NAME, "--predictor-learning-rate", "2e-3"]) == 0
    versions = versions_of("btc", None)
    assert [one.number for one in versions] == [1, 2]
    second = versions[1]
    assert second.tag("measure") == "CRPS skill" and second.tag("decision") in ("promoted", "refused")
    assert float(second.tag("crps")) > 0 and float(second.tag("champion_crps")) > 0
    better = float(second.tag("difference")) > 0 and float(second.tag("p")) < float(second.tag("level"))
    champion = champion_of("btc", None)
    assert champion is not None and champion.number == (2 if better else 1)

    assert main(["search", *small, "--search-metric", "rank_ic", "--n-trials", "1"]) == 2
    assert "rank_ic needs at least 5 instruments on a day, the bars have 1" in capsys.readouterr().err
