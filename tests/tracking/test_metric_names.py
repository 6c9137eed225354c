"""The names of metrics in MLflow: few, in groups, and those of earlier versions are read under the present names."""

import re

import pytest

from kronos.tracking.metric_names import (
    BACKTEST,
    BENCHMARK,
    ENDS,
    MOST,
    MOST_OF_PIPELINE,
    PIPELINE,
    WALK_FORWARD,
    present,
    tracked,
    tracked_by_pipeline,
)
from kronos.tracking.reader import HEADLINE

GROUPED = re.compile(r"[a-z_]+/[a-z0-9_]+")


@pytest.mark.parametrize(
    "table", [BACKTEST, WALK_FORWARD, BENCHMARK], ids=["backtest", "walk_forward", "benchmark"]
)
def test_a_table_has_one_grouped_name_for_each_figure(table: dict[str, str]) -> None:
    assert len(set(table.values())) == len(table)
    assert all(GROUPED.fullmatch(name) for name in table.values())


def test_no_stage_logs_more_than_its_share() -> None:
    assert all(len(table) <= MOST for table in (BACKTEST, WALK_FORWARD, BENCHMARK))
    assert sum(len(table) for table in PIPELINE.values()) <= MOST_OF_PIPELINE
    data = {"instruments": 3.0, "bars": 9.0, **{f"found_{place}": float(place) for place in range(100)}}
    logged = tracked("data", data)
    assert len(logged) == MOST and logged["data/instruments"] == 3.0
    assert {name for name in logged if name.startswith("found/")} == {
        f"found/{place}" for place in range(62, 100)
    }


def test_an_audit_logs_its_shares_and_no_others() -> None:
    from kronos.evaluation.audit import KINDS, Case, Share
    from kronos.report.audit import Setting, metrics

    share = Share(1, 20, 0.05, 0.01, 0.2)
    cases = [
        Case(bars, forecasts, planted, 9, 0.0, 0.1, 0.1, share, share, share, share)
        for bars, (_, pairs) in KINDS.items()
        for forecasts, planted in pairs
    ]
    setting = Setting(
        universe="made up",
        first="2020-01-01",
        last="2020-12-31",
        days=200,
        names=50.0,
        horizon=5,
        lookback=60,
        seeds=20,
    )
    values = metrics(setting, cases)
    logged = tracked("audit", values)
    assert len(values) > MOST >= len(logged) > 20
    nulls = [case for case in cases if not case.planted]
    assert {f"false_alarms/{case.key}{end}" for case in nulls for end in ENDS} <= logged.keys()


def test_a_pipeline_logs_the_figures_of_its_stages_under_their_names() -> None:
    values = {"rank_ic_mean": 0.1, "mae": 2.0, "skill_mae": -0.01}
    assert tracked("backtest", values) == {
        "ranking/rank_ic": 0.1,
        "forecast/skill": -0.01,
        "forecast/mae": 2.0,
    }
    assert tracked_by_pipeline("backtest", values) == {"ranking/rank_ic": 0.1, "forecast/skill": -0.01}
    assert tracked_by_pipeline("predictor", {"best_val_loss": 2.5, "steps": 9.0}) == {"loss/predictor": 2.5}
    assert tracked_by_pipeline("mine", {"best_val_loss": 2.5}) == {}


def test_metrics_of_a_training_keep_their_names() -> None:
    values = {"val_loss": 1.0, "my_loss": 2.0, "my/loss": 3.0, "windows_per_second": 4.0}
    assert tracked("predictor", values) == values == present("predictor", values)


def test_the_scores_of_a_benchmark_have_names() -> None:
    from kronos.report.leaderboard import METRICS

    assert {f"{one.key}{end}" for one in METRICS for end in ENDS} <= BENCHMARK.keys()


@pytest.mark.parametrize(
    ("stage", "before", "now"),
    [
        ("backtest", "rank_ic_mean", "ranking/rank_ic"),
        ("pipeline", "backtest_rank_ic_mean", "ranking/rank_ic"),
        ("pipeline", "predictor_best_val_loss", "loss/predictor"),
        ("predictor", "windows_per_second", "windows_per_second"),
        ("audit", "power_0.02_random_low", "power/0.02_random_low"),
        ("benchmark", "price_rank_ic_low", "price/rank_ic_low"),
        ("walk_forward", "excess_return_annualised_low", "portfolio/excess_over_equal_weight_low"),
        ("data", "found_split", "found/split"),
        ("data", "bars", "data/bars"),
        ("backtest", "coverage_90_raw_step_3", "coverage_90_raw_step_3"),
        ("", "rank_ic_mean", "rank_ic_mean"),
    ],
)
def test_metrics_of_earlier_versions_have_the_present_names(stage: str, before: str, now: str) -> None:
    assert present(stage, {before: 1.0}) == {now: 1.0}
    assert present(stage, {now: 1.0}) == {now: 1.0}


def test_what_a_comparison_shows_first_is_logged() -> None:
    logged = {*BACKTEST.values(), *(name for table in PIPELINE.values() for name in table.values())}
    assert set(HEADLINE) <= logged | {"best_val_loss", "best_step"}
