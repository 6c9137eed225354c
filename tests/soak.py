"""Many pipelines in a row in one process: what must not grow. `python tests/soak.py [PIPELINES]` in any folder.

Prints one line of JSON per pipeline and the verdict; the exit status is 1 where something has grown.
"""

import contextlib
import gc
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from kronos.__main__ import main

WARM_UP = 4  # pipelines that are not counted: imports, caches and allocators fill
MEMORY_MB = 25.0  # growth of the median resident memory that counts as none
NAMES = "AAPL,ABT,ADBE,AEP,ALL,AMGN,AXP,BA"
TINY = ["--data-source", "sample", "--symbols", NAMES, "--epochs", "1", "--n-train-iter", "64", "--n-val-iter", "16",
        "--inference-sample-count", "1", "--baseline-seeds", "1", "--evaluation-series", "4",
        "--evaluation-sample-count", "2", "--backtest-n-symbol-hold", "2", "--backtest-n-symbol-drop", "1",
        "--baseline-lightgbm", "false", "--backtest-time-range", "2010-06-01,2010-06-30",
        "--calibration-series", "100", "--calibration-sample-count", "10"]  # fmt: skip


def measure(scratch: Path) -> dict[str, float]:
    """What this process holds, and what lies in the temporary and the working folder."""
    gc.collect()
    me = psutil.Process()
    hidden = [path for path in Path("outputs").rglob(".*") if "checkpoints" not in path.parts]
    return {
        "memory_mb": me.memory_info().rss / 1e6, "files": me.num_fds(), "threads": me.num_threads(),
        "children": len(me.children(recursive=True)), "temporary": len(list(scratch.rglob("*"))),
        "outputs": len([path for path in Path("outputs").rglob("*")]) if Path("outputs").is_dir() else 0,
        "hidden": len(hidden), "folder": len(os.listdir(".")),
    }  # fmt: skip


def soak(pipelines: int, scratch: Path) -> list[dict[str, float]]:
    """Run pipelines one after the other, each with another seed, and measure after each."""
    rows = []
    for number in range(pipelines):
        began, said = time.monotonic(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = main(["pipeline", *TINY, "--seed", str(number)])
        assert status == 0, said.getvalue()
        rows.append({**measure(scratch), "seconds": time.monotonic() - began})
        print(json.dumps({name: round(value, 1) for name, value in rows[-1].items()}), flush=True)
    return rows


def growth(rows: list[dict[str, float]]) -> dict[str, Any]:
    """How much the median of the last third is above that of the first, after the warm-up."""
    counted = rows[WARM_UP:]
    third = max(1, len(counted) // 3)
    first, last = counted[:third], counted[-third:]
    return {
        name: round(
            statistics.median(row[name] for row in last) - statistics.median(row[name] for row in first), 1
        )
        for name in rows[0]
        if name != "seconds"
    }


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as temporary:
        os.chdir(place)
        tempfile.tempdir = os.environ["TMPDIR"] = temporary
        found = growth(soak(count, Path(temporary)))
        os.chdir(temporary)
    print(json.dumps({"pipelines": count, "growth": found}))
    sys.exit(any(value > (MEMORY_MB if name == "memory_mb" else 0) for name, value in found.items()))
