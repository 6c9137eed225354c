"""A market of 3,060 instruments x 1,312 bars, a year of it forecast: seconds and memory of everything else.

The bars are made up and the models are nano with a few steps of training. The seconds of a part are those from its
line of output to the next one, so that the forecasts, which other benchmarks measure, are told apart from the rest.
Nothing fails on a time: the table is printed, and written to outputs/bench/market_size.txt.

KRONOS_BENCH_INSTRUMENTS=600 python -m pytest tests/bench/test_market_size.py -m bench -s
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_data_scale import write_bars

from kronos.data.calendars import sessions

pytestmark = pytest.mark.bench
INSTRUMENTS = int(os.environ.get("KRONOS_BENCH_INSTRUMENTS", "3060"))
BARS, FORECAST_DAYS = 1312, 221
LOOKBACK, HORIZON = 60, 10


def flags(folder: Path) -> list[str]:
    days = sessions("XSHG", "2020-01-02", "2025-12-31")[:BARS].strftime("%Y-%m-%d")
    train, val = BARS - FORECAST_DAYS - 200, BARS - FORECAST_DAYS - 60
    ranges = {
        "dataset": (days[0], days[-1]),
        "train": (days[0], days[train]), "val": (days[train - LOOKBACK + 1], days[val]),
        "test": (days[val - LOOKBACK + 1], days[-1]), "backtest": (days[-FORECAST_DAYS], days[-1]),
    }  # fmt: skip
    given: dict[str, object] = {
        "data_source": "csv", "data_path": folder / "bars.parquet", "calendar": "XSHG", "model_preset": "nano",
        "dataset_begin_time": ranges["dataset"][0], "dataset_end_time": ranges["dataset"][1],
        **{f"{name}_time_range": ",".join(ranges[name]) for name in ("train", "val", "test", "backtest")},
        "lookback_window": LOOKBACK, "predict_window": HORIZON, "pretrained_tokenizer_path": "null",
        "pretrained_predictor_path": "null", "epochs": 1, "n_train_iter": 640, "n_val_iter": 640,
        "inference_sample_count": 1,
    }  # fmt: skip
    return [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def timed(stage: str, folder: Path) -> tuple[list[tuple[str, float]], float, float]:
    """Run a stage; return (line of output, seconds to the next one), all seconds, and peak memory in GB."""
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "kronos", stage, *flags(folder)]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines = [("start", began), *((line.strip(), time.perf_counter()) for line in process.stdout)]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, lines[-1][0]
    ends = [*(at for _, at in lines[1:]), time.perf_counter()]
    parts = [(line, end - at) for (line, at), end in zip(lines, ends, strict=True)]
    return parts, ends[-1] - began, usage.ru_maxrss / 2**20


def test_everything_but_the_forecasts_of_a_market(tmp_path: Path) -> None:
    times = sessions("XSHG", "2020-01-02", "2025-12-31")[:BARS]
    write_bars(tmp_path / "bars.parquet", INSTRUMENTS, times, by_time=False, volatility=0.02)
    table = [f"{INSTRUMENTS:,} instruments x {BARS:,} bars, load {os.getloadavg()[0]:.1f}"]
    for stage in ("data", "tokenizer", "predictor", "backtest"):
        parts, seconds, peak = timed(stage, tmp_path)
        table.append(f"{stage}: {seconds:.0f} s, {peak:.2f} GB at most")
        if stage in ("data", "backtest"):
            table += [f"  {spent:7.1f} s  {line[:100]}" for line, spent in parts if spent >= 0.5]
    print("\n" + "\n".join(table))
    target = Path("outputs/bench/market_size.txt")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(table) + "\n")
