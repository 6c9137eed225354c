"""Ensembles: the paths of several predictors pooled, calibrated together, and each member beside the pool."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.forecast.models import Windows
from kronos.forecast.store_forecaster import MEMBER, Pool
from kronos.utils.files import read_json

REPORT = Path("outputs/backtest_results/finetune_backtest_demo")


class Member:
    """Draws its number and the seed that it was given."""

    def __init__(self, number: int) -> None:
        self.number = number

    def draw(self, windows: Windows, rules: dict[str, int], progress: object = None) -> np.ndarray:
        shape = (len(windows.bars), rules["sample_count"], windows.horizon, 6)
        return np.full(shape, self.number + windows.seed / 1e9, np.float32)


def test_members_draw_their_share_of_the_paths_and_have_seeds_of_their_own() -> None:
    pool = Pool(None, None, None, None, tuple(Member(one) for one in range(3)))  # type: ignore[arg-type]
    keys = np.array([3, 4, 5, 9])
    windows = Windows(np.zeros((4, 8, 6)), np.zeros((4, 8, 5)), np.zeros((4, 2, 5)), keys, 0)
    paths = pool.draw(windows, {"sample_count": 7})
    assert paths.shape == (4, 7, 2, 6)
    expected = [number + number * MEMBER / 1e9 for number in (0, 0, 0, 1, 1, 2, 2)]
    np.testing.assert_allclose(paths[0, :, 0, 0], expected, rtol=1e-6)
    few = pool.draw(windows, {"sample_count": 1})
    np.testing.assert_array_equal(np.floor(few[:, 0, 0, 0]), keys % 3)
    np.testing.assert_array_equal(pool.draw(windows.rows(np.array([2])), {"sample_count": 1})[0], few[2])


def test_what_an_ensemble_cannot_be_is_told_at_once(
    capsys: pytest.CaptureFixture[str], in_folder: Path
) -> None:
    assert main(["pipeline", "--predictor-path", "a,b", "--registered-model-name", "kronos"]) == 2
    assert "an ensemble of predictors cannot be registered" in capsys.readouterr().err
    assert main(["predict", "--predictor-path", "a,a,b", "--inference-sample-count", "2"]) == 2
    told = capsys.readouterr().err
    assert "names a predictor twice" in told and "as many at least" in told
    assert len(load_config(None, {"predictor_path": "a,b"})[0].members()) == 2


@pytest.fixture
def second(weights: Path, in_folder: Path) -> Path:
    """Another predictor for the same tokenizer."""
    import torch

    from kronos.model import Kronos
    from kronos.model.presets import PREDICTOR_PRESETS

    with torch.random.fork_rng():
        torch.manual_seed(11)
        Kronos(**PREDICTOR_PRESETS["nano"]).save_pretrained(in_folder / "second")
    return in_folder / "second"


@pytest.mark.slow
def test_the_report_shows_each_member_and_the_pool_and_bands_are_calibrated_together(
    store: Path, weights: Path, second: Path
) -> None:
    tokenizer = ["--tokenizer-path", str(weights / "tokenizer")]
    given = [
        *tokenizer,
        "--evaluation-series",
        "30",
        "--baseline-day-step",
        "15",
        "--evaluation-sample-count",
        "20",
    ]
    given += ["--inference-sample-count", "4", "--backtest-max-instruments", "6"]
    given += ["--backtest-n-symbol-hold", "4", "--backtest-n-symbol-drop", "1"]
    given += ["--n-val-iter", "50"]
    given += ["--baseline-lightgbm", "false", "--baseline-seeds", "2"]
    few = ["--calibration-series", "100", "--calibration-sample-count", "10"]
    both = ["--predictor-path", f"{weights / 'predictor'},{second}"]
    assert main(["calibrate", *tokenizer, *both, *few]) == 0
    assert main(["backtest", *given, *both]) == 0
    figures = read_json(REPORT / "metrics.json")["metrics"]
    assert {"member_1_rank_ic", "member_2_crps", "coverage_90_calibrated", "crps_raw"} <= figures.keys()
    report = (REPORT / "report.md").read_text()
    assert "Members of the ensemble" in report and str(second) in report and "the pool" in report
    assert "no calibrated bands" not in report
    pooled = pd.read_parquet(REPORT / "predictions.parquet")
    alone = []
    for path in (weights / "predictor", second):
        assert main(["backtest", *given, "--predictor-path", str(path)]) == 0
        alone.append(pd.read_parquet(REPORT / "predictions.parquet")["close"])
        one = read_json(REPORT / "metrics.json")["metrics"]
        assert one["crps_raw"] == pytest.approx(figures[f"member_{len(alone)}_crps"], rel=1e-6)
    assert np.corrcoef(pooled["close"], (alone[0] + alone[1]) / 2)[0, 1] > 0.9
    assert main(["predict", *tokenizer, *both, "--inference-sample-count", "4"]) == 0
    assert main(["generate", *tokenizer, *both, "--generate-instruments", "3", "--generate-bars", "7"]) == 0
