"""A market's backtest, 3,060 instruments x 1,312 bars, 220 test days: seconds and memory of all but the forecasts.

The bars are made up and read by the data stage, and `backtest` runs as from the command line. Its forecasts are
random walks with a little of what came, in place of the models' draws: they go through the same shards and tables.
`KRONOS_BENCH_INSTRUMENTS` sets the number of instruments.

python -m pytest tests/bench/test_market_size.py -m bench -s
"""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from test_data_scale import write_bars

from kronos.data.calendars import sessions

INSTRUMENTS = int(os.environ.get("KRONOS_BENCH_INSTRUMENTS", "3060"))
BARS, TEST_BARS, VALIDATION_BARS = 1312, 221, 150
SECONDS, MEMORY = 180.0, 4.0  # of all but the forecasts, on two cores; GB
PART = "evaluation: "  # lines of the stage that begin with this name what it does next


def test_a_market_is_evaluated_in_three_minutes_and_four_gigabytes(tmp_path: Path) -> None:
    times = sessions("XSHG", "2019-01-02", "2024-12-31")[:BARS]
    write_bars(tmp_path / "bars.parquet", INSTRUMENTS, times, False, volatility=0.02)
    days = [f"{day:%Y-%m-%d}" for day in times]
    split, tested = BARS - TEST_BARS - VALIDATION_BARS, BARS - TEST_BARS
    common = {
        "data_source": "csv", "data_path": "bars.parquet", "freq": "day", "calendar": "XSHG",
        "model_preset": "nano", "train_time_range": f"{days[0]},{days[split - 1]}",
        "val_time_range": f"{days[split - 90]},{days[tested - 1]}",
        "test_time_range": f"{days[tested - 90]},{days[-1]}", "backtest_time_range": f"{days[tested]},{days[-1]}",
        "n_val_iter": "100",
    }  # fmt: skip
    flags = [text for name, value in common.items() for text in (f"--{name.replace('_', '-')}", value)]
    subprocess.run([sys.executable, "-m", "kronos", "data", *flags], cwd=tmp_path, check=True)
    command = [sys.executable, __file__, "backtest", *flags, "--tokenizer-path", "tokenizer"]
    parts, code = run([*command, "--predictor-path", "predictor"], tmp_path)
    assert code == 0
    print(
        f"\n{INSTRUMENTS:,} instruments x {BARS:,} bars\n\n"
        "| part | seconds | peak memory so far, GB |\n| --- | --- | --- |"
    )
    for name, seconds, peak in parts:
        print(f"| {name} | {seconds:.1f} | {peak:.2f} |")
    total, most = sum(seconds for _, seconds, _ in parts[1:]), max(peak for *_, peak in parts)
    print(f"\nall but the forecasts: {total:.0f} s, {most:.2f} GB at most; load {os.getloadavg()[0]:.1f}")
    assert total < SECONDS and most < MEMORY


def run(command: list[str], folder: Path) -> tuple[list[tuple[str, float, float]], int]:
    """Run a command; returns (part, its seconds, the peak memory at its end in GB) of each, and the exit status.

    The first part is everything until the forecasts are there.
    """
    found, name, begin = [], "forecasts", time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        peaks = [0.0]
        watch = threading.Thread(target=watch_memory, args=(process, peaks))
        watch.start()
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith(PART):
                found.append((name, time.perf_counter() - begin, max(peaks)))
                name, begin = line.removeprefix(PART).strip(), time.perf_counter()
    watch.join()
    return [*found, (name, time.perf_counter() - begin, max(peaks))], process.returncode


def watch_memory(process: subprocess.Popen[str], peaks: list[float]) -> None:
    """Append the memory of the process and its descendants, GB, twice a second until it ends."""
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error):
            together = [tree, *tree.children(recursive=True)]
            peaks.append(sum(one.memory_info().rss for one in together) / 2**30)
        time.sleep(0.5)


def made_up(model: Any, points: Any, rules: dict[str, Any], kept: str, part: slice) -> tuple[np.ndarray, int]:
    """Random walks [n, S, H, 6] from the last bar whose drift knows a tenth of what came: see `Forecaster.make`."""
    from kronos.data.bars import CLOSE
    from kronos.forecast.store_forecaster import KEPT

    points = points.subset(np.arange(part.start, part.stop))
    store, horizon = model.store, model.config.data.predict_window
    last = np.asarray(store.values[points.row], np.float64)
    ends = store.offsets[points.instrument + 1] - 1
    came = store.values[np.minimum(points.row + horizon, ends), CLOSE] / last[:, CLOSE]
    random = np.random.default_rng([part.start, rules["sample_count"]])
    shape = (len(points), rules["sample_count"], horizon)
    moves = random.normal(0, 0.02, shape) + 0.1 * np.log(came)[:, None, None] / horizon
    growth = np.exp(moves.cumsum(axis=-1))
    return KEPT[kept]((last[:, None, None] * growth[..., None]).astype(np.float32)), 0


def main(arguments: list[str]) -> int:
    """Run the project's command line with made-up forecasts, by the folders `tokenizer` and `predictor` made here."""
    from kronos.__main__ import main as kronos
    from kronos.forecast.store_forecaster import Forecaster
    from kronos.model.presets import random_model

    for kind in ("tokenizer", "predictor"):
        random_model(kind, "nano").save_pretrained(kind)  # type: ignore[arg-type]
    Forecaster.make = made_up  # type: ignore[method-assign, assignment]
    return kronos(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

pytestmark = pytest.mark.bench
