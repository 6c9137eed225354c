"""A market's worth of bars: seconds and memory to build a store from parquet, to open it, and windows a second.

Each store is built in a process of its own, so that its peak memory is its own.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kronos.data.calendars import sessions
from kronos.data.splits import make_split
from kronos.data.store import open_store
from kronos.data.window_order import epoch_order
from kronos.data.windows import Windows

pytestmark = pytest.mark.bench
BUILD = """
import json, resource, sys, time
from kronos import Config, DataProcessorFactory
config = Config(data_source="csv", data_path=sys.argv[1], dataset_path=sys.argv[2], freq=sys.argv[3])
begin = time.perf_counter()
store = DataProcessorFactory.create_processor("csv", config).run_pipeline()
seconds = time.perf_counter() - begin
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, len(store), store.digest]))
"""
CASES: dict[str, tuple[int, str, Callable[[], pd.DatetimeIndex]]] = {
    "5,000 instruments x 2,500 days": (
        5000,
        "day",
        lambda: sessions("XSHG", "2013-01-04", "2024-01-01")[:2500],
    ),
    "300 instruments x 5 minutes, 3 years": (
        300,
        "5min",
        lambda: sessions("XSHG", "2021-01-04", "2023-12-29", "5min"),
    ),
}


def write_bars(
    path: Path, instruments: int, times: pd.DatetimeIndex, by_time: bool, volatility: float = 0.002
) -> None:
    """A long parquet table of made-up bars, 1 in 500 missing; by instrument, or shuffled as by time."""
    generator = np.random.default_rng(0)
    writer = None
    for begin in range(0, instruments, 50):
        count = min(50, instruments - begin)
        shape = (count, len(times))
        close = 50 * np.exp(np.cumsum(generator.normal(0, volatility, shape), axis=1))
        opening = close * np.exp(generator.normal(0, 0.001, shape))
        columns = {
            "open": opening, "high": np.maximum(opening, close) * 1.002, "low": np.minimum(opening, close) / 1.002,
            "close": close, "volume": np.round(generator.lognormal(13, 1, shape)),
        }  # fmt: skip
        kept = generator.random(close.size) < 0.998
        names = np.repeat([f"SH{600000 + begin + place}" for place in range(count)], len(times))
        rows = np.flatnonzero(kept)
        if by_time:
            rows = rows[np.argsort(rows % len(times), kind="stable")]
        data = {
            "symbol": names[rows],
            "datetime": times.to_numpy()[rows % len(times)],
            **{name: values.reshape(-1)[rows] for name, values in columns.items()},
        }
        table = pa.table(data)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def write_files(
    folder: Path, instruments: int, times: pd.DatetimeIndex, kind: str, different: int = 20
) -> None:
    """A file of made-up bars for each instrument; after the `different` ones they are links to these."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for place in range(instruments):
        path = folder / f"S{place:05}.{kind}"
        if place >= different:
            os.link(folder / f"S{place % different:05}.{kind}", path)
            continue
        close = np.round(50 * np.exp(np.cumsum(generator.normal(0, 0.0005, len(times)))), 2)
        opening = np.round(close * np.exp(generator.normal(0, 0.0003, len(times))), 2)
        frame = pd.DataFrame({
            "datetime": times, "open": opening, "high": np.maximum(opening, close) + 0.01,
            "low": np.minimum(opening, close) - 0.01, "close": close,
            "volume": np.round(generator.lognormal(8, 1, len(times))),
        })  # fmt: skip
        frame = frame[generator.random(len(frame)) < 0.998]
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)


def build(source: Path, target: Path, freq: str) -> tuple[float, float, int]:
    """Seconds, peak memory in GB and rows of a store that another process builds."""
    command = [sys.executable, "-c", BUILD, str(source), str(target), freq]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    seconds, peak, rows, _ = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak, rows


FOLDERS: dict[str, tuple[int, str, str, Callable[[], pd.DatetimeIndex]]] = {
    "5,000 instruments x 2,500 days, a CSV each": (
        5000, "csv", "day", lambda: sessions("XSHG", "2013-01-04", "2024-01-01")[:2500]
    ),
    "100 instruments x 1 minute, 3 years, a parquet file each": (
        100, "parquet", "1min", lambda: sessions("XNYS", "2021-01-04", "2023-12-29", "1min")
    ),
    "400 instruments x 1 minute, 3 years, a parquet file each": (
        400, "parquet", "1min", lambda: sessions("XNYS", "2021-01-04", "2023-12-29", "1min")
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS, ids=lambda case: case.replace(" ", "-"))
def test_a_folder_is_built_in_bounded_memory(tmp_path: Path, case: str) -> None:
    instruments, kind, freq, times = FOLDERS[case]
    write_files(tmp_path / "bars", instruments, times(), kind)
    seconds, peak, rows = build(tmp_path / "bars", tmp_path / "store", freq)
    print(
        f"\n{case}: {rows:,} rows built in {seconds:.0f} s, {rows / seconds:,.0f} a second, with {peak:.2f} GB at "
        f"most; load {os.getloadavg()[0]:.1f}"
    )
    assert peak < 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
@pytest.mark.parametrize("layout", ["by instrument", "by time"])
def test_a_market_is_built_opened_and_read_fast(tmp_path: Path, case: str, layout: str) -> None:
    instruments, freq, times = CASES[case]
    write_bars(tmp_path / "bars.parquet", instruments, times(), layout == "by time")
    seconds, peak, rows = build(tmp_path / "bars.parquet", tmp_path / "store", freq)

    opened = []
    for _ in range(5):
        begin = time.perf_counter()
        store = open_store(tmp_path / "store")
        opened.append(1000 * (time.perf_counter() - begin))
    split = make_split(
        store, "train", date(2011, 1, 1), date(2025, 1, 1), lookback=90, horizon=10, length=101
    )
    windows = Windows(store, split, lookback=90, clip=5.0, seed=1)
    order = epoch_order(len(windows), 512 * 1000, 1, 0)
    windows.batch(order[:512], 0)
    speeds = [_windows_per_second(windows, order[place::5]) for place in range(5)]
    print(
        f"\n{case}, {layout}: {rows:,} rows built in {seconds:.1f} s with {peak:.2f} GB at most, opened in "
        f"{statistics.median(opened):.1f} ms; 1,000 random batches of 512 windows: "
        f"median {statistics.median(speeds):,.0f} "
        f"windows/s ({min(speeds):,.0f} to {max(speeds):,.0f}); load {os.getloadavg()[0]:.1f}"
    )
    assert seconds < 60 and peak < 3 and statistics.median(opened) < 50
    assert statistics.median(speeds) > 300_000


def _windows_per_second(windows: Any, order: np.ndarray) -> float:
    begin = time.perf_counter()
    for start in range(0, len(order), 512):
        windows.batch(order[start : start + 512], 0)
    return len(order) / (time.perf_counter() - begin)
