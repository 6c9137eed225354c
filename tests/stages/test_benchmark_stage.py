"""The benchmark stage: every model on every task, on the sample bars."""

from pathlib import Path

import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.utils.files import read_json

MADE = Path("outputs/benchmark")
OWN = '''
import numpy as np


class Drift:
    """The mean move of the window, repeated."""

    def forecast(self, windows, horizon, samples):
        close = windows.close
        step = (close[:, -1] - close[:, 0]) / (close.shape[1] - 1)
        path = close[:, -1:] + step[:, None] * np.arange(1, horizon + 1)
        return np.repeat(path[:, None], samples, axis=1)
'''


def small(weights: Path) -> list[str]:
    return [
        "benchmark", "--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor"),
        "--backtest-max-instruments", "6", "--evaluation-series", "30", "--evaluation-sample-count", "4",
        "--inference-sample-count", "2", "--backtest-n-symbol-hold", "4", "--backtest-n-symbol-drop", "1",
    ]  # fmt: skip


@pytest.mark.slow
def test_models_of_any_kind_stand_side_by_side(
    store: Path, weights: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_folder / "mine_for_benchmark.py").write_text(OWN)
    pair = f"{weights / 'predictor'}+{weights / 'tokenizer'}"
    asked = [*small(weights), "--benchmark-bars", "12", "--models", f"mine_for_benchmark:Drift,{pair},garch"]
    assert main(asked) == 0
    table = pd.read_csv(MADE / "leaderboard.csv").set_index("model")
    assert list(table.index) == [
        str(weights / "predictor"), "mine_for_benchmark:Drift", pair, "garch", "random walk",
        "bootstrap of the window", "mean of the window",
    ]  # fmt: skip
    keys = {
        "price_ic",
        "return_rank_ic",
        "volatility_r2",
        "discriminative",
        "synthetic_ic",
        "information_ratio",
    }
    assert keys <= set(table.columns)
    pd.testing.assert_series_equal(table.iloc[0], table.loc[pair], check_names=False)  # the same weights
    assert table.loc["mean of the window", ["volatility_mae", "discriminative"]].isna().all()
    scores = pd.read_csv(MADE / "scores.csv")
    assert {"kurtosis", "leverage", "range"} <= set(scores["score"])
    found = scores[(scores["model"] == pair) & scores["difference"].notna()]
    assert len(found) and (found["difference"].abs() < 1e-9).all()
    stored = read_json(MADE / "benchmark.json")
    assert stored["metrics"]["return_rank_ic"] == pytest.approx(table.iloc[0]["return_rank_ic"], rel=1e-4)
    report = (MADE / "benchmark.md").read_text()
    assert "Too short to tell" in report and "mine_for_benchmark:Drift" in report
    assert (MADE / "benchmark.html").exists() and (MADE / "figures" / "leaderboard.png").exists()
    looked = Path("outputs/looks.jsonl").read_text().splitlines()
    assert len(looked) == 2 and all('"kind": "benchmark"' in line for line in looked)
    assert "returns: Rank IC" in capsys.readouterr().out
    assert main(asked) == 0
    assert "benchmark: reused" in capsys.readouterr().out
    assert main([*small(weights), "--models", "nowhere:Model,chronos:nowhere,also/missing"]) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in ("nowhere", "also/missing"))


def test_too_few_bars_per_series_are_refused(
    store: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*small(weights), "--benchmark-bars", "8"]) == 2
    assert "benchmark_bars is 8, at least predict_window + 4 (9) are needed" in capsys.readouterr().err
