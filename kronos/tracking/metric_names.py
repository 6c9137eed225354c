"""The metrics that a run logs to MLflow and their names there: a group, a slash and the figure.

A stage's record (`summary.json`) has every figure under the name of the code; MLflow gets those that tell the result,
in groups, since its pages show one chart for each metric. Metrics of a training keep their names without a group:
MLflow shows groups first, and the losses would come last.
"""

from collections.abc import Mapping
from itertools import product

MOST_OF_PIPELINE, MOST = 15, 40  # metrics of a pipeline's run, and of any other
ENDS = ("", "_low", "_high")  # a figure and its 95 % interval


def _interval(name: str, shown: str) -> dict[str, str]:
    return {f"{name}{end}": f"{shown}{end}" for end in ENDS}


BASELINES = ("before", "momentum", "reversal", "linear", "lightgbm")
BACKTEST: dict[str, str] = {
    "rank_ic_mean": "ranking/rank_ic", "rank_ic_low": "ranking/rank_ic_low", "rank_ic_high": "ranking/rank_ic_high",
    "rank_ic_t": "ranking/rank_ic_t", "rank_icir": "ranking/rank_icir", "ic_mean": "ranking/ic",
    **{f"rank_ic_gain_over_{name}": f"ranking/gain_over_{name}" for name in BASELINES},
    "top_group_not_buyable": "ranking/top_group_not_buyable", "rank_ic_unseen": "ranking/rank_ic_unseen",
    "rank_ic_unseen_minus_seen": "ranking/unseen_minus_seen",
    **_interval("skill_mae", "forecast/skill"),
    "mae": "forecast/mae", "crps_skill_last": "forecast/crps_skill", "direction": "forecast/direction",
    **_interval("coverage_90_calibrated", "forecast/coverage_90"), "coverage_90_raw": "forecast/coverage_90_raw",
    **_interval("excess_return_annualised_over_equal_weight", "portfolio/excess_over_equal_weight"),
    "excess_return_annualised_with_cost": "portfolio/excess_over_benchmark",
    "information_ratio_with_cost": "portfolio/information_ratio",
    "portfolio_return_annualised_with_cost": "portfolio/return", "portfolio_sharpe_with_cost": "portfolio/sharpe",
    "portfolio_max_drawdown_with_cost": "portfolio/max_drawdown", "turnover_daily": "portfolio/turnover",
    "diebold_mariano_p": "over_time/diebold_mariano_p", "long_flat_sharpe": "over_time/long_flat_sharpe",
    "direction_over_always_up": "over_time/direction_over_always_up",
    "test_days": "evidence/test_days", "looks_before": "evidence/looks_before",
    "test_loss_tokenizer": "loss/test_tokenizer", "test_loss_predictor": "loss/test_predictor",
}  # fmt: skip
PIPELINE: dict[str, dict[str, str]] = {
    "data": {"instruments": "data/instruments"},
    "tokenizer": {"best_val_loss": "loss/tokenizer"},
    "predictor": {"best_val_loss": "loss/predictor"},
    "backtest": {
        name: BACKTEST[name]
        for name in (
            *(f"{stem}{end}" for stem, end in product(
                ("skill_mae", "excess_return_annualised_over_equal_weight"), ENDS
            )),
            "rank_ic_mean", "rank_ic_low", "rank_ic_high", "coverage_90_calibrated", "test_days", "looks_before",
        )
    },
}  # fmt: skip
WALK_FORWARD: dict[str, str] = {
    **_interval("excess_return_annualised", "portfolio/excess_over_equal_weight"),
    **{f"rank_ic_gain_over_{name}{end}": f"ranking/gain_over_{name}{end}" for name, end in product(BASELINES, ENDS)},
    **{name: BACKTEST[name] for name in (
        "rank_ic_mean", "rank_ic_low", "rank_ic_high", "test_days", "looks_before", "coverage_90_calibrated",
        "coverage_90_raw",
    )},
    "folds": "evidence/folds",
}  # fmt: skip
EVIDENCE = {name: f"evidence/{name}" for name in ("test_days", "independent_periods", "looks_before")}
BENCHMARK: dict[str, str] = {
    **{f"{name}{end}": f"{name.replace('_', '/', 1)}{end}" for name, end in product(
        ("price_ic", "price_rank_ic", "return_ic", "return_rank_ic", "volatility_mae", "volatility_r2",
         "synthetic_ic", "synthetic_rank_ic"), ENDS
    )},
    **_interval("discriminative", "synthetic/discriminative"),
    **_interval("excess_return", "portfolio/excess_return"),
    **_interval("information_ratio", "portfolio/information_ratio"),
    **EVIDENCE,
}  # fmt: skip
TABLES = {"backtest": BACKTEST, "walk_forward": WALK_FORWARD, "benchmark": BENCHMARK}
HEAD_TRAINING = {
    "best_val_loss": "best_val_loss",
    "best_step": "best_step",
    "steps": "",
    "windows_per_second": "",
}
AUDIT = ("false_alarms", "power", "coverage")  # beginnings of the names of shares
HEAD_INTERVALS = (
    "rank_ic",
    "auc",
    "accuracy",
    "qlike",
    "groups_spread",
)  # the other intervals are in the record
GAIN = "gain_"  # beginning of the names of what a head gains over a naive answer
FOUND = "found_"  # beginning of the names of counts of findings


def tracked(stage: str, values: Mapping[str, float]) -> dict[str, float]:
    """The figures of a stage that its run logs, by their names in MLflow.

    Of a backtest, a walk-forward and a benchmark these are the ones in the tables; a benchmark logs those of the
    trained model. Of an audit, false alarms, power and coverage. Of the data, the counts and the most frequent kinds
    of findings. Of a head, all figures and the most important intervals. Of any other stage, all.
    """
    if stage == "data":
        counts = {_data_name(name): value for name, value in values.items() if not name.startswith(FOUND)}
        found = {_data_name(name): value for name, value in values.items() if name.startswith(FOUND)}
        kept = sorted(found, key=lambda name: -found[name])[: MOST - len(counts)]
        return {**counts, **{name: found[name] for name in kept}}
    if stage == "audit":
        return {shown: value for name, value in values.items() if (shown := _audit_name(name))}
    if stage == "head":
        return {shown: value for name, value in values.items() if (shown := _head_name(name))}
    if stage in TABLES:
        return {shown: values[name] for name, shown in TABLES[stage].items() if name in values}
    return dict(values)


def tracked_by_pipeline(stage: str, values: Mapping[str, float]) -> dict[str, float]:
    """The figures of a stage that the pipeline's run logs too."""
    return {shown: values[name] for name, shown in PIPELINE.get(stage, {}).items() if name in values}


def present(stage: str, values: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a tracked run by their present names, whichever version logged it.

    Earlier versions logged every figure under its name in the record, a pipeline with the stage's name before it.
    """
    names = TABLES.get(stage, {})
    if stage == "pipeline":
        names = {f"{part}_{name}": shown for part, table in PIPELINE.items() for name, shown in table.items()}
    if stage in ("data", "audit"):
        rename = _data_name if stage == "data" else _audit_name
        names = {name: rename(name) or name for name in values if "/" not in name}
    return {names.get(name, name): value for name, value in values.items()}


def _data_name(name: str) -> str:
    return f"found/{name.removeprefix(FOUND)}" if name.startswith(FOUND) else f"data/{name}"


def _audit_name(name: str) -> str:
    """The name in MLflow; empty for a figure that is not logged."""
    for group in AUDIT:
        case = name.removeprefix(f"{group}_")
        is_end = group == "coverage" and case.endswith(ENDS[1:])
        if case != name and not is_end and not case.startswith(("above_", "below_")):
            return f"{group}/{case}"
    return EVIDENCE.get(name, "")


def _head_name(name: str) -> str:
    """The name in MLflow; empty for a figure that is not logged. Those of the training keep their names."""
    if name in HEAD_TRAINING:
        return HEAD_TRAINING[name]
    stem = name.removesuffix("_low").removesuffix("_high")
    if stem != name and stem not in HEAD_INTERVALS:
        return ""
    if name.startswith(GAIN):
        return f"gain/{name.removeprefix(GAIN)}"
    return EVIDENCE.get(name, f"score/{name}")
