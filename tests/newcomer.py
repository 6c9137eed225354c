"""A newcomer's clone: the project copied to a folder of its own, its recipes cut to seconds; a README's commands.

Only sizes are changed, never a command: the recipes train a moment on a few names; where they name public weights
and a Qlib store, small ones stand at those very names.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.utils import files

ROOT = Path(__file__).resolve().parent.parent
TAKEN = ("kronos", "experiments", "notebooks", "MLproject", "conda.yaml", "requirements.txt", "README.md",
         "README.zh-CN.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml")  # fmt: skip
SMALL = {
    "epochs": 1, "n_train_iter": 640, "n_val_iter": 64, "inference_sample_count": 1, "evaluation_sample_count": 20,
    "evaluation_series": 20, "calibration_series": 100, "calibration_sample_count": 10, "baseline_seeds": 1,
    "backtest_n_symbol_hold": 3, "backtest_n_symbol_drop": 1,
    "search_reports": 2, "search_batch_size": [16, 32], "audit_seeds": 20,
}  # fmt: skip
DAYS = {
    "dataset_begin_time": "2021-01-04", "train_time_range": ["2021-01-04", "2023-06-30"],
    "val_time_range": ["2023-03-01", "2024-06-28"], "backtest_time_range": ["2025-05-01", "2025-06-05"],
}  # fmt: skip
NAMES = "AAPL,ABT,ADBE,AEP,ALL,AMGN,AXP,BA,BAC,CAT,CL,COP,CSCO,CVX,DIS"
MEMBERS = [f"SH60000{place}" for place in range(6)]
HUB = ("NeoQuasar/Kronos-Tokenizer-base", "NeoQuasar/Kronos-Tokenizer-2k", "NeoQuasar/Kronos-small",
       "NeoQuasar/Kronos-base", "NeoQuasar/Kronos-mini")  # fmt: skip


def make_clone(folder: Path, weights: Path) -> Path:
    """Copy the project to `folder`, cut its recipes, and put small weights and bars where commands look for them."""
    copy(TAKEN, folder)
    for path in (folder / "experiments").glob("*.json"):
        fields = {**files.read_json(path), **SMALL}
        if fields.get("data_source") == "qlib":
            fields |= DAYS
        elif path.stem == "sample":
            fields["symbols"] = NAMES.split(",")
        files.write_json(path, fields)
    for name in HUB:
        kind = "tokenizer" if "Tokenizer" in name else "predictor"
        shutil.copytree(weights / kind, folder / name)
    chinese_bars(folder / "home" / ".qlib" / "qlib_data" / "cn_data")
    made_up_bars()[0].query("instrument != 'SH000300'").to_parquet(folder / "bars.parquet")
    return folder


def copy(names: Iterable[str], folder: Path) -> None:
    """Copy files and folders of the project."""
    folder.mkdir(parents=True)
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)


def made_up_bars() -> tuple[pd.DataFrame, pd.DatetimeIndex]:
    """Bars on Shanghai's calendar, 2021 to June 2025, of six names and an index."""
    from kronos.data.calendars import sessions

    days = sessions("XSHG", "2021-01-04", "2025-06-30").tz_localize(None)
    generator = np.random.default_rng(7)
    frames = []
    for name in (*MEMBERS, "SH000300"):
        close = 20 * np.exp(np.cumsum(generator.normal(0, 0.01, len(days))))
        frames.append(
            pd.DataFrame({
                "instrument": name, "datetime": days, "open": close, "high": close * 1.01, "low": close * 0.99,
                "close": close, "volume": 1e6, "amount": 1e6 * close,
            })
        )  # fmt: skip
    return pd.concat(frames), days


def chinese_bars(path: Path) -> None:
    """A Qlib store of the made-up bars: six members of csi300, and its index."""
    from kronos.evaluation.qlib_store import write_qlib_store

    frame, days = made_up_bars()
    write_qlib_store(frame, path, days)
    lines = "".join(f"{name}\t{days[0]:%Y-%m-%d}\t2099-12-31\n" for name in MEMBERS)
    (path / "instruments" / "csi300.txt").write_text(lines)


def environment(folder: Path) -> dict[str, str]:
    """Of a shell in the clone: its own home, this Python first on the path, no other tracking store."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "HOME": str(folder / "home"), "PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(folder)}  # fmt: skip


def shell(folder: Path, command: str) -> str:
    """Run a command line as typed; returns what it printed, and fails where it fails."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(folder), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"$ {command}\n{done.stdout[-4000:]}"
    return done.stdout


def kronos(folder: Path, arguments: list[str]) -> None:
    """`python -m kronos` in this process, which spares the imports, as if it was installed from the clone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("HOME", str(folder / "home"))
        patch.setattr(files, "clone", lambda: folder)
        try:
            status = main(arguments)
        except SystemExit as end:  # --help of a stage
            status = end.code or 0  # type: ignore[assignment]
        assert status == 0, arguments


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


@contextmanager
def service(folder: Path, command: str, port: int) -> Iterator[None]:
    """A command that serves until it is stopped; the block runs when it answers."""
    log = folder / f"service-{port}.log"
    with log.open("w") as words:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=folder, env=environment(folder), stdout=words, stderr=words,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=10)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise AssertionError(log.read_text())


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Every command of the bash blocks, without its comment."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := without_comment(line))]


def without_comment(line: str) -> str:
    return re.split(r"\s+#", f" {line}")[0].strip()


def code(block: str) -> str:
    """Python without its comments, to compare the languages."""
    return "\n".join(re.sub(r"\s*#.*", "", line) for line in block.splitlines())
