"""From bars to report: a planted pattern is found and beats every ranking baseline; without it nothing is found.

The pattern alone can also be run by hand: `python tests/stages/planted.py FOLDER`, then the pipeline there
(experiments/README.md).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import SEED, planted_bars, planted_store

from kronos import newest
from kronos.__main__ import main
from kronos.evaluation import ranking, signals

CONFIG = Path(__file__).resolve().parents[2] / "experiments" / "planted.json"
RESULT = Path("outputs/backtest_results/finetune_backtest_demo")


def pipeline(pattern: bool, *flags: str, seed: int = SEED) -> tuple[dict[str, Any], str]:
    """(metrics.json, first lines of the report) of a whole run in the working directory."""
    planted_store(Path("outputs/data").absolute(), seed, pattern=pattern)
    given = [
        "--baseline-seeds",
        "3",
        "--calibration-series",
        "150",
        "--calibration-sample-count",
        "10",
        *flags,
    ]
    assert main(["pipeline", "--config-path", str(CONFIG), "--skip-data-process", *given]) == 0
    text = (RESULT / "report.md").read_text(encoding="utf-8")
    return json.loads((RESULT / "metrics.json").read_text(encoding="utf-8")), text.split("## ")[0]


@pytest.mark.slow
def test_a_planted_pattern_is_found_and_beats_every_ranking_by_prices(in_folder):
    found, opening = pipeline(True, "--holdout-instruments", "0.25")
    metrics = found["metrics"]
    assert (
        metrics["instruments_unseen"] > 0 and metrics["rank_ic_unseen_low"] > 0
    )  # found where it was not learnt
    assert metrics["rank_ic_unseen_minus_seen_low"] < 0 < metrics["rank_ic_unseen_minus_seen_high"]
    assert metrics["rank_ic_mean"] > 0.15 and metrics["rank_ic_low"] > 0
    baselines = {one["key"]: one for one in found["ranking_baselines"]}
    assert set(baselines) == {
        "momentum",
        "reversal",
        "mean_distance",
        "linear",
        "lightgbm",
        "random",
        "before",
    }
    gains = {f"rank_ic_gain_over_{key}" for key in baselines}
    assert gains <= newest("backtest", 1)[0].figures.keys()
    assert baselines.pop("lightgbm")["rank_ic"]["low"] > 0.1  # Alpha158 has features of volume
    for key, one in baselines.items():
        assert one["difference"]["low"] > 0, key
    for key in ("momentum", "reversal"):
        assert baselines[key]["rank_ic"]["low"] < 0 < baselines[key]["rank_ic"]["high"], key
    assert "**The ranking has predictive value:**" in opening and "too short" not in opening
    assert "the model beats momentum of 20 days" in opening


@pytest.mark.slow
def test_without_the_pattern_the_interval_holds_zero_and_the_report_says_nothing_was_found(in_folder):
    """One 95 % interval in twenty misses zero by chance: of two samples both do in 0.3 % of cases."""
    held = []
    short = [
        "--epochs",
        "1",
        "--n-train-iter",
        "6000",
        "--inference-sample-count",
        "5",
        "--baseline-lightgbm",
        "false",
    ]
    for seed in (SEED, SEED + 1):
        found, opening = pipeline(False, *short, seed=seed)
        held.append(found["metrics"]["rank_ic_low"] < 0 < found["metrics"]["rank_ic_high"])
        if held[-1]:
            words = "**No evidence of predictive value: the ranking is indistinguishable from chance:**"
            assert words in opening
    assert any(held)


def wide(bars: pd.DataFrame, column: str) -> pd.DataFrame:
    return bars.pivot(index="datetime", columns="instrument", values=column)


@pytest.mark.parametrize("pattern", [True, False])
def test_neither_momentum_nor_reversal_nor_chance_finds_the_pattern_but_volume_does(pattern):
    bars = planted_bars(pattern=pattern)
    opening, close, volume = (wide(bars, column) for column in ("open", "close", "volume"))
    earned = signals.tradable_returns(opening, close, 5).iloc[-150:]
    if (
        pattern
    ):  # what the planted sample promises; shuffled, each strays in one sample of twenty like any ranking
        for score in (ranking.momentum(close, 20), ranking.reversal(close, 5)):
            assert ranking.worth(score.iloc[-150:], earned, 5).rank_ic.sign == 0
    assert (ranking.worth(volume.iloc[-150:], earned, 5).rank_ic.mean > 0.25) == pattern
    chance = [ranking.worth(score, earned, 5).rank_ic.sign for score in ranking.random_rankings(earned, 10)]
    assert chance.count(0) >= 9


def test_momentum_and_reversal_are_worth_nothing_on_average_over_seeds():
    found = []
    for seed in range(10):
        bars = planted_bars(seed)
        opening, close = wide(bars, "open"), wide(bars, "close")
        earned = signals.tradable_returns(opening, close, 5).iloc[-150:]
        found.append([
            signals.daily_ic(score.iloc[-150:], earned)["rank_ic"].mean()
            for score in (ranking.momentum(close, 20), ranking.reversal(close, 5))
        ])  # fmt: skip
    assert np.abs(np.mean(found, axis=0)).max() < 0.03


def test_the_bars_without_the_pattern_are_the_same_returns_in_another_order():
    close, shuffled = (wide(planted_bars(pattern=pattern), "close") for pattern in (True, False))
    left, right = (np.sort(np.diff(np.log(frame.to_numpy()), axis=0), axis=0) for frame in (close, shuffled))
    assert np.abs(left - right).max() < 0.1 and not np.allclose(close, shuffled)
    np.testing.assert_allclose(close.iloc[-1], shuffled.iloc[-1])
