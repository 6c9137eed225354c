"""Odd surroundings: the same numbers, or one line; the home folder, temporary folders, time zones, the clock."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from newcomer import NAMES

from kronos.utils.files import read_json

pytestmark = pytest.mark.slow
SAMPLE = ["--data-source", "sample", "--symbols", NAMES]
BARS = ["data", *SAMPLE]
TRAINING = ["tokenizer", *SAMPLE, "--model-preset", "nano", "--epochs", "1", "--n-train-iter", "64",
            "--n-val-iter", "64", "--batch-size", "32"]  # fmt: skip
BOTH = [
    sys.executable,
    "-c",
    f"from kronos.__main__ import main; raise SystemExit(main({BARS}) or main({TRAINING}))",
]


def run(command: list[str], folder: Path, **changes: str | None) -> subprocess.CompletedProcess:
    """A command in a folder with other environment variables; None takes one away."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize(
    "option",
    [
        "error",
        *(
            pytest.param(one, marks=pytest.mark.nightly)
            for one in ("e,ignore::UserWarning", "error::DeprecationWarning")
        ),
    ],
)
def test_warnings_of_other_packages_are_printed_where_the_environment_makes_them_errors(
    option: str, tmp_path: Path
) -> None:
    code = (
        "import os, sys, warnings; from kronos.utils.error_messages import show_warnings; show_warnings();"
        "warnings.warn('one', DeprecationWarning); warnings.warn('two', UserWarning);"
        "child = 'import warnings; warnings.warn(\"three\", DeprecationWarning)';"
        "import subprocess; subprocess.run([sys.executable, '-c', child], check=True)"
    )
    done = run([sys.executable, "-c", code], tmp_path, PYTHONWARNINGS=option)
    assert done.returncode == 0, done.stderr
    assert "DeprecationWarning: one" in done.stderr and "DeprecationWarning: three" in done.stderr
    assert ("UserWarning: two" in done.stderr) == ("ignore" not in option)


@pytest.mark.nightly
def test_a_pipeline_goes_through_where_the_environment_makes_warnings_errors(tmp_path: Path) -> None:
    given = [
        *SAMPLE, "--backtest-n-symbol-hold", "3", "--backtest-n-symbol-drop", "1",
        "--epochs", "1", "--n-train-iter", "64", "--n-val-iter", "64", "--inference-sample-count", "1",
        "--backtest-max-instruments", "4", "--baseline-lightgbm", "false", "--baseline-seeds", "2",
        "--calibration-series", "100", "--calibration-sample-count", "10", "--nproc-per-node", "2",
    ]  # fmt: skip
    done = run([sys.executable, "-m", "kronos", "pipeline", *given], tmp_path, PYTHONWARNINGS="error")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "outputs/backtest_results/finetune_backtest_demo/report.md").is_file()


def numbers(folder: Path) -> tuple[Any, Any]:
    """The digest of the bars and the losses of the training."""
    summary = read_json(folder / "outputs/models/finetune_tokenizer_demo/summary.json")
    return read_json(folder / "outputs/data/index.json")["digest"], summary["curve"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("usual")
    assert run(BOTH, folder).returncode == 0
    return numbers(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"HOME": None, "USER": None, "LOGNAME": None, "PATH": "", "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0",
         "TZ": "No/Such_Zone", "PYTHONHASHSEED": "7"},
        pytest.param(
            {"HOME": "/proc", "MPLCONFIGDIR": "/nonexistent/matplotlib", "TMPDIR": "/nonexistent/tmp",
             "TZ": "Pacific/Kiritimati"}, marks=pytest.mark.nightly,
        ),
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)  # fmt: skip
def test_the_numbers_are_the_same(
    changes: dict[str, str | None], tmp_path: Path, usual: tuple[Any, Any]
) -> None:
    done = run(BOTH, tmp_path, **changes)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert numbers(tmp_path) == usual


CLOCK = """
import sys, time
shift = float(sys.argv[1]) * 86400
for name in ("time", "time_ns"):
    real, scale = getattr(time, name), 1 if name == "time" else 10**9
    setattr(time, name, lambda real=real, scale=scale: type(real())(real() + shift * scale))
sys.argv = ["kronos", *sys.argv[2:]]
from kronos.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_clock_that_is_set_back_and_forth_reuses_what_is_finished(
    tmp_path: Path, usual: tuple[Any, Any]
) -> None:
    for days, command in ((0, BARS), (-400, TRAINING), (-800, TRAINING), (4000, TRAINING)):
        done = run([sys.executable, "-c", CLOCK, str(days), *command], tmp_path)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        if days in (-800, 4000):
            assert "tokenizer: reused" in done.stdout
    assert numbers(tmp_path) == usual
