"""Pipelines in a row in one process hold no more memory, files, threads, processes and folders than the first ones.

`make soak` runs 50 of them; this test runs as many as fit in about two minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = 10


@pytest.mark.nightly
def test_nothing_grows_with_the_number_of_pipelines() -> None:
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "soak.py"), str(PIPELINES)], env={**os.environ, **variables},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["pipelines"] == PIPELINES and set(found["growth"]) >= {
        "memory_mb",
        "files",
        "threads",
        "children",
    }
