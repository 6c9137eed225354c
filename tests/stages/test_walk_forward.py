"""Folds of a walk-forward: their days, what is kept between the ranges, and pooling."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import planted_store

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.data.splits import settle_ranges
from kronos.evaluation.statistics import degrees_of_freedom
from kronos.report.walk_forward import Fold, PooledInputs, pool, write_pooled
from kronos.stages.inputs import resolve_splits
from kronos.stages.looks import read_looks
from kronos.stages.walk_forward import fold_configs
from kronos.utils.errors import UserError
from kronos.utils.files import read_json

CONFIG = Path(__file__).resolve().parents[2] / "experiments" / "planted.json"


def folds_of(config, store):
    return fold_configs(config, store, resolve_splits(config, store))


def configured(**changes):
    config, _ = load_config(str(CONFIG))
    return config.replace(**changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return planted_store(tmp_path_factory.mktemp("planted") / "store")


@pytest.mark.parametrize("refit", [True, False])
def test_folds_cover_the_days_once_and_none_trains_on_its_own(store, refit):
    config = configured(walk_forward_folds=4, walk_forward_refit=refit)
    folds = folds_of(config, store)
    days = pd.DatetimeIndex(store.sessions[: store.last_session + 1])
    tested = [days[(days >= pd.Timestamp(a)) & (days <= pd.Timestamp(b))] for a, b in
              (fold.backtest_time_range for fold in folds)]  # fmt: skip
    whole = days[(days >= pd.Timestamp(config.backtest_time_range[0]))]
    assert list(np.concatenate([part.to_numpy() for part in tested])) == list(whole.to_numpy())
    assert folds[0].train_time_range == config.train_time_range
    for fold in folds:
        assert fold.train_time_range[0] == config.train_time_range[0]
        assert fold.train_time_range[1] < fold.backtest_time_range[0]
        assert fold.val_time_range[1] < fold.backtest_time_range[0]
        settle_ranges(
            store, fold.train_time_range, fold.val_time_range, fold.test_time_range, fold.backtest_time_range,
            lookback=fold.lookback_window, embargo=0,
        )  # fmt: skip
    grows = [fold.train_time_range[1] for fold in folds]
    assert len(set(grows)) == (4 if refit else 1) and grows == sorted(grows)
    assert len({fold.backtest_folder for fold in folds}) == 4
    assert len({fold.model_folder("predictor") for fold in folds}) == (4 if refit else 1)


def test_the_gap_between_ranges_is_the_same_in_every_fold(store):
    config = configured(walk_forward_folds=3, walk_forward_refit=True)
    days = pd.DatetimeIndex(store.sessions)

    def gap(first: date, last: date) -> int:
        return int(days.searchsorted(pd.Timestamp(last)) - days.searchsorted(pd.Timestamp(first)))

    gaps = {
        (
            gap(fold.train_time_range[1], fold.val_time_range[0]),
            gap(fold.val_time_range[1], fold.backtest_time_range[0]),
        )
        for fold in folds_of(config, store)
    }  # fmt: skip
    assert len(gaps) == 1


def test_folds_that_cannot_be_are_refused(store):
    with pytest.raises(UserError, match=r"walk_forward_folds is 40, but .* a fold needs 7"):
        folds_of(configured(walk_forward_folds=40), store)
    with pytest.raises(UserError, match="give --walk-forward-refit false"):
        folds_of(configured(predictor_path="weights"), store)


def made_up(seed: int, name: str, gain: float, start: str) -> Fold:
    random, days = np.random.default_rng(seed), pd.bdate_range(start, periods=60, name="datetime")
    daily = pd.DataFrame({"return": random.normal(gain, 0.01, 60), "cost": 0.0, "bench": 0.0}, days)
    ic = pd.Series(random.normal(50 * gain, 0.1, 60), days)
    beside = pd.DataFrame({"model": ic, "baseline": random.normal(0, 0.1, 60)})
    return Fold(name, "before", daily, ic, {"momentum": beside, "before": beside.iloc[::5]})


def test_pooled_means_are_those_of_all_days_with_more_degrees_of_freedom(tmp_path):
    folds = [made_up(1, "fold 1", 0.004, "2024-01-01"), made_up(2, "fold 2", 0.004, "2024-04-01")]
    found = pool(folds, 5, 252)
    ic = pd.concat([fold.rank_ic for fold in folds])
    assert found.rank_ic.mean == pytest.approx(ic.mean()) and found.rank_ic.days == 120
    alone = pool(folds[:1], 5, 252)
    assert found.rank_ic.freedom > alone.rank_ic.freedom
    assert found.gains["momentum"].days == 120 and found.gains["before"].days == 24
    assert found.gains["before"].freedom == degrees_of_freedom(24, 1)  # a horizon apart: no overlap

    given = PooledInputs(
        folds=folds, signal="mean", horizon=5, periods_per_year=252, refit=True, warnings=["seen."]
    )
    metrics = write_pooled(tmp_path, given)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "**Over all folds the ranking has predictive value:**" in text and "**Warning:** seen." in text
    excess = pd.concat([fold.daily["return"] for fold in folds]).mean()
    assert metrics["excess_return_annualised"] == pytest.approx(252 * excess)
    assert metrics["periods_per_year"] == 252 and "252.0 periods make a year" in text
    assert metrics["rank_ic_mean"] == pytest.approx(ic.mean()) and metrics["folds"] == 2
    short = [replace(fold, daily=fold.daily.iloc[:30]) for fold in folds]
    write_pooled(tmp_path, replace(given, folds=short, warnings=()))
    assert (
        "**Too short to tell (60 days, 12 independent 5-day periods).**"
        in (tmp_path / "report.md").read_text()
    )


@pytest.mark.slow
@pytest.mark.parametrize("refit", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_walk_forward_runs_its_folds_as_children_and_pools_them(in_folder, refit):
    planted_store(Path("outputs/data").absolute())
    quick = [
        "--config-path", str(CONFIG), "--epochs", "1", "--n-train-iter", "2000", "--n-val-iter", "300",
        "--walk-forward-folds", "2", "--inference-sample-count", "2", "--baseline-seeds", "2",
        "--evaluation-series", "30", "--baseline-lightgbm", "false",
        "--calibration-series", "100", "--calibration-sample-count", "10",
    ]  # fmt: skip
    if not refit:
        assert main(["tokenizer", *quick]) == 0 and main(["predictor", *quick]) == 0
    assert main(["walk_forward", *quick, "--walk-forward-refit", str(refit).lower()]) == 0
    folder = Path("outputs/backtest_results/finetune_backtest_demo_walk_forward")
    found = read_json(folder / "metrics.json")
    assert len(found["folds"]) == 2 and found["metrics"]["test_days"] > 140
    assert (folder / "report.html").is_file() and (folder / "figures" / "folds.png").is_file()
    pooled = read_json(folder / "metrics.json")["pooled"]["rank_ic"]
    assert pooled["low"] < pooled["mean"] < pooled["high"]
    models = Path("outputs/models/walk_forward")
    kept = [
        read_json(models / f"fold_{place}" / "finetune_predictor_demo" / "calibration" / "calibration.json")
        for place in (1, 2)
    ]
    assert kept[0]["days"] != kept[1]["days"]  # they follow the market
    assert (kept[0]["weights"] == kept[1]["weights"]) != refit
    assert 0 < found["metrics"]["coverage_90_calibrated"] <= 1
    looked = read_looks(Path("outputs/looks.jsonl"), pytest.fail)
    assert [one.kind for one in looked] == ["fold", "fold", "walk_forward"] and len(
        {one.model for one in looked}
    ) == 1
    assert found["metrics"]["looks_before"] == 0
    assert "These days had not been looked at before" in (folder / "report.md").read_text(encoding="utf-8")
