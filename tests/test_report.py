"""The report says what it must, the same for the same inputs, and gives its key figures as plain numbers."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos import signals
from kronos.errors import UserError
from kronos.qlib_bridge import risk
from kronos.report import ReportInputs, report_text, write_report

NOTE = "too short to tell (57 days, 11 independent 5-day periods)"


def make_inputs(days: int = 57, seed: int = 0) -> ReportInputs:
    random = np.random.default_rng(seed)
    index = pd.bdate_range("2010-05-28", periods=days, name="datetime")
    daily = pd.DataFrame(
        {"return": random.normal(0, 0.01, days), "cost": 0.00025, "turnover": 0.2}, index=index
    )
    daily["bench"], daily["bench_cost"] = random.normal(0, 0.01, days), 0.00005
    daily["account"] = 1e8 * (1 + daily["return"] - daily["cost"]).cumprod()
    daily["cash"], daily["holdings"] = 5e6, 52
    daily["value"] = daily["account"] - daily["cash"]
    ic = {}
    for name in signals.SIGNALS:
        frame = pd.DataFrame(
            {"ic": random.normal(0, 0.1, days), "rank_ic": random.normal(0, 0.1, days)}, index
        )
        ic[name] = frame.assign(n=500)
        ic[name].iloc[-5:, :2] = np.nan
    return ReportInputs(
        universe="some hundred members of an index",
        source_notes=[
            "The names were chosen with hindsight: survivorship remains, and returns prove nothing."
        ],
        benchmark="the equal weight of each day's members",
        signal="mean",
        horizon=5,
        lookback=60,
        seed=100,
        topk=50,
        n_drop=5,
        hold_thresh=5,
        account=1e8,
        open_cost=0.001,
        close_cost=0.0015,
        min_cost=5,
        deal_price="open",
        limit_threshold=0.095,
        forecast="5 samples at temperature 0.6",
        scored=28500,
        excluded={"too few bars": 310, "filled bar": 12},
        repaired_bars=153,
        model_digests={"tokenizer": "ab12", "predictor": "cd34"},
        ic=ic,
        daily=daily,
        risk=risk(daily),
        turnover=float(daily["turnover"].mean()),
        stranded=("ARG", "MFE"),
    )


def test_first_lines_say_universe_days_costs_benchmark_and_that_it_is_too_short():
    opening = report_text(make_inputs()).split("## ")[0]
    assert "Some hundred members of an index; traded from 2010-05-28 to 2010-08-16 (57 sessions)" in opening
    assert "0.100 % to buy and 0.150 % to sell, at least 5 an order" in opening
    assert "benchmark: the equal weight of each day's members" in opening
    assert f"**T{NOTE[1:]}.**" in opening
    assert "survivorship remains" in opening


def test_every_annualised_line_carries_the_note_and_none_when_the_period_is_long():
    lines = report_text(make_inputs()).splitlines()
    section = lines[
        lines.index("## Portfolio against the benchmark") : lines.index("## Information coefficient")
    ]
    rows = [line for line in section if line.startswith("| ") and ("%" in line or "ratio" in line)]
    assert len(rows) == 7 and all(NOTE in row for row in rows)

    text = report_text(make_inputs(days=120))
    assert "too short" not in text and "note" not in text
    assert "The days hold 24 independent 5-day periods." in text


def test_the_configured_signal_is_marked_and_the_others_are_exploratory():
    lines = report_text(replace(make_inputs(), signal="max")).splitlines()
    rows = [line for line in lines if line.endswith(("| configured |", "| exploratory |"))]
    assert [row.split("|")[1].strip() for row in rows] == ["**max**", "last", "mean", "min"]
    assert [row.split("|")[-2].strip() for row in rows] == ["configured", *["exploratory"] * 3]


def test_metrics_are_the_numbers_of_the_parts(tmp_path):
    inputs = make_inputs()
    metrics = write_report(tmp_path, inputs)
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    summary = signals.summary(inputs.ic["mean"], 5)
    for name in ("ic_mean", "rank_ic_mean", "icir", "rank_icir", "ic_t_newey_west", "rank_ic_t_newey_west"):
        assert metrics[name] == summary[name]
    for name in ("with_cost", "without_cost", "with_both_costs"):
        assert metrics[f"excess_return_annualised_{name}"] == inputs.risk[name]["annualised_return"]
        assert metrics[f"excess_volatility_annualised_{name}"] == inputs.risk[name]["volatility"]
        assert metrics[f"information_ratio_{name}"] == inputs.risk[name]["information_ratio"]
        assert metrics[f"max_drawdown_{name}"] == inputs.risk[name]["max_drawdown"]
    assert metrics["test_days"] == 57 and metrics["independent_periods"] == 11 and metrics["ic_days"] == 52
    assert metrics["turnover_daily"] == pytest.approx(0.2)
    assert metrics["scored_pairs"] == 28500 and metrics["excluded_pairs"] == 322


def test_the_folder_holds_report_figures_and_ledger(tmp_path):
    inputs = make_inputs()
    write_report(tmp_path, inputs)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["daily.csv", "figures/cumulative_return.png", "figures/daily_ic.png", "report.md"]
    for name in names[1:3]:
        data = (tmp_path / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 20_000
        assert f"]({name})" in (tmp_path / "report.md").read_text(encoding="utf-8")
    read = pd.read_csv(tmp_path / "daily.csv", index_col="datetime", parse_dates=True)
    assert list(read.columns) == list(inputs.daily.columns) and read.index.equals(inputs.daily.index)
    np.testing.assert_allclose(read, inputs.daily, rtol=1e-9)


def test_equal_inputs_give_equal_files_without_paths(tmp_path):
    for place in ("first", "second"):
        write_report(tmp_path / place, make_inputs())
    for name in ("report.md", "daily.csv", "figures/cumulative_return.png", "figures/daily_ic.png"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "first" / "report.md").read_text(encoding="utf-8")


def test_numbers_that_do_not_exist_are_left_out_of_metrics_and_said_in_the_text(tmp_path):
    inputs = make_inputs(days=1)
    empty = {name: frame.assign(ic=np.nan, rank_ic=np.nan, n=3) for name, frame in inputs.ic.items()}
    metrics = write_report(tmp_path, replace(inputs, ic=empty, limit_threshold=None, stranded=()))
    assert "ic_mean" not in metrics and "information_ratio_with_cost" not in metrics
    assert metrics["test_days"] == 1 and metrics["independent_periods"] == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "n/a" in text and "no price limit" in text and "nan" not in text


def test_a_report_of_nothing_is_refused(tmp_path):
    inputs = make_inputs()
    with pytest.raises(UserError, match="backtest_signal is 'median', one of last, mean, max, min"):
        write_report(tmp_path, replace(inputs, signal="median"))
    with pytest.raises(UserError, match="no day to report"):
        write_report(tmp_path, replace(inputs, daily=inputs.daily.iloc[:0]))
    assert list(tmp_path.iterdir()) == []


def test_drawing_leaves_pyplot_alone():
    code = "import sys, kronos.report; print('matplotlib.pyplot' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
