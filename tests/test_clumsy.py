"""A clumsy user on a bad day: whatever goes wrong ends in one clear line, and what was whole stays whole."""

import ast
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from newcomer import NAMES

from kronos.__main__ import main
from kronos.utils.error_messages import sentence
from kronos.utils.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--epochs", "1", "--n-train-iter", "320", "--n-val-iter", "64", "--inference-sample-count", "1",
         "--baseline-seeds", "1", "--evaluation-series", "20", "--evaluation-sample-count", "2",
         "--calibration-series", "100", "--calibration-sample-count", "10",
         "--backtest-n-symbol-hold", "3", "--backtest-n-symbol-drop", "1")  # fmt: skip
SAMPLE = ("--data-source", "sample", "--symbols", NAMES)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's own tools")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(more or {})}


def start(
    *arguments: str, before: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(
        [*before, sys.executable, "-m", "kronos", *arguments], env=environment(env), text=True, errors="replace",
        start_new_session=True, **pipes,
    )  # fmt: skip


def run(
    *arguments: str, status: int, before: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> str:
    """The output of a command that must end with this status, without a traceback."""
    process = start(*arguments, before=before, env=env)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == status, output
    assert "Traceback" not in output
    return output


def only_line(output: str) -> str:
    """The one line that says what went wrong."""
    (line,) = [line for line in output.splitlines() if line.startswith("kronos: ")]
    return line


def statuses() -> list[str]:
    client = MlflowClient()
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    return sorted(str(found.info.status) for found in runs)


def hidden() -> list[Path]:
    """Half-written things; an interrupted training may leave what it can go on from."""
    return [
        path for path in Path("outputs").rglob(".*") if path.name != ".gitignore"
        and not (path / "checkpoints" / "last").is_dir() and "checkpoints" not in path.parts
    ]  # fmt: skip


# Words that nobody meant.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pipelin"], "unknown stage 'pipelin': did you mean pipeline?"),
        (["comapre", "1"], "did you mean compare?"),
        (["--pipeline"], "unknown stage '--pipeline': did you mean pipeline?"),
        (["compare"], "the following arguments are required: RUN_ID"),
        (["rerun", "0123"], "there are no tracked runs here"),
        (["compare", "0123", "4567"], "mlflow.db is missing"),
        (["data", "--epochs"], "--epochs: expected one argument"),
        (["data", "epochs=3"], "'epochs=3' was not expected: fields are given as --field value"),
        (["pipeline", "--config-path", "."], "is a folder, a JSON file was expected"),
        (["search", "--search-space", "nowhere.json"], "no file nowhere.json"),
        (["fields", "--chekc"], "fields takes --check or --write"),
    ],
)
def test_a_slip_of_the_hand(
    arguments: list[str], message: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("kronos: ") and captured.err.count("\n") == 1
    assert list(in_folder.iterdir()) == []


def test_windows_line_ends_and_a_byte_order_mark_everywhere(
    in_folder: Path, sina: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my.json").write_bytes(b'\xef\xbb\xbf{"data_source": "sample",\r\n "lookback_window": 1}\r\n')
    Path("names.txt").write_bytes(b"\xef\xbb\xbfsh600519\r\nsz000001\r\n")
    assert main(["data", "--config-path", "my.json"]) == 2
    assert "lookback_window: 1 is too small" in capsys.readouterr().err
    asked = ("--sina-url", sina, "--sina-factor-url", "none", "--sina-symbols", "names.txt")
    assert main(["data", "--data-source", "sina", *asked]) == 0
    assert "of 2 instruments" in capsys.readouterr().out


# The machine.


def test_an_old_python_is_told_so_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    monkeypatch.setattr(sys, "version", "3.9.18 (main)")
    assert main(["data"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "kronos: Python 3.11 or later is needed, this is 3.9.18: make the environment with a newer one\n"
    )
    for name in ("__init__", "__main__", "utils/__init__", "utils/errors"):  # what is read before that line
        ast.parse((ROOT / "kronos" / f"{name}.py").read_text(), feature_version=(3, 8))
        assert (
            name.startswith("utils")
            or "from __future__ import annotations" in (ROOT / "kronos" / f"{name}.py").read_text()
        )


@pytest.mark.parametrize("package", ["pydantic", "torch", "mlflow", "optuna", "qlib", "exchange_calendars"])
@pytest.mark.slow
def test_a_missing_package_is_named(package: str, in_folder: Path) -> None:
    stage = "search" if package == "optuna" else "pipeline"
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from kronos.__main__ import main\n"
        f"sys.exit(main({[stage, *SAMPLE, *SMALL]!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert f"the package {package} is not installed" in only_line(done.stderr)
    assert "Traceback" not in done.stderr


def test_an_optional_package_is_named_with_what_installs_it(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    from kronos.stages.search.study import connect
    from kronos.utils.errors import UserError

    with pytest.raises(UserError, match="pip install psycopg2-binary"):
        connect("postgresql+psycopg2://someone:secret@127.0.0.1/nothing", 5)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "outputs/x"), "the disk is full (outputs/x)"),
        (OSError(27, "File too large"), "the disk is full"),
        (PermissionError(13, "Permission denied", "outputs"), "no permission to read or write (outputs)"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (OSError(36, "File name too long", "x"), "a path or name is longer than the file system allows (x)"),
        (OSError(40, "Too many levels of symbolic links", "x"), "a path is a link to itself (x)"),
        (NotADirectoryError(20, "Not a directory", "x"), "a path leads through a file, not a folder (x)"),
        (IsADirectoryError(21, "Is a directory", "x"), "a path is a folder where a file was expected (x)"),
        (ValueError("Key backend: 'foo' is not a valid value"), "is no backend of matplotlib: unset it"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "the disk is full"),
        (RuntimeError("(sqlite3.OperationalError) disk I/O error"), "the disk or file system failed: (sqlite3"),
        (OSError(5, "Input/output error", "outputs/x"), "the disk or file system failed (outputs/x)"),
        (RuntimeError("(sqlite3.OperationalError) attempt to write a readonly database"), "no permission to read"),
        (ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2"), "psycopg2-binary"),
        (ModuleNotFoundError("No module named 'optuna.x'", name="optuna.x"), "the package optuna is not installed"),
    ],
)  # fmt: skip
def test_faults_of_the_machine_in_words(error: Exception, said: str) -> None:
    assert said in str(sentence(error))
    outer = RuntimeError("outer")
    outer.__cause__ = error
    assert said in str(sentence(outer))


def test_without_a_compiler_torch_compile_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there is none: the compiler asked for is not there, and nothing is left from earlier ones."""
    import torch
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    with pytest.raises(Exception, match="compiler") as caught:
        torch.compile(lambda x: (x * 3 + 7).sin())(torch.ones(37))
    assert str(sentence(caught.value)).startswith("torch.compile failed")


def test_faults_of_the_code_keep_their_traceback() -> None:
    for error in (ValueError("x"), FileNotFoundError(2, "No such file", "x"),
                  ModuleNotFoundError("No module named 'kronos.x'", name="kronos.x")):  # fmt: skip
        assert sentence(error) is None


@pytest.fixture
def unprivileged() -> tuple[str, ...]:
    """What starts a process that the bits of a folder bind, for root too."""
    if os.getuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root needs setpriv (util-linux) to be bound by the bits of a folder")
    return ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")


@LINUX
@pytest.mark.slow
def test_a_folder_that_may_not_be_written(in_folder: Path, unprivileged: tuple[str, ...]) -> None:
    os.chmod(in_folder, 0o555)
    try:
        said = only_line(run("data", *SAMPLE, status=2, before=unprivileged))
        assert (
            f"no permission to write to {in_folder}, where" in said and "the tracking store mlflow.db" in said
        )
        assert list(in_folder.iterdir()) == []
    finally:
        os.chmod(in_folder, 0o755)
    # The tracking store can be written, the outputs cannot.
    Path("outputs").mkdir(0o555)
    said = only_line(run("data", *SAMPLE, status=2, before=unprivileged))
    assert f"no permission to write to {in_folder / 'outputs'}, where" in said and "mlflow.db" not in said
    assert list(Path("outputs").iterdir()) == [] and not Path("mlflow.db").exists()


@LINUX
@pytest.mark.slow
def test_a_file_that_may_not_grow(in_folder: Path) -> None:
    """The system's limit stands for a full disk: the bars are larger than it, the tracking store is not."""
    code = (
        "import resource, sys; from kronos.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "sys.exit(main(['data']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the disk is full" in only_line(done.stderr)
    assert "Traceback" not in done.stderr
    assert statuses() == ["FAILED"]
    assert not Path("outputs/data").exists() and hidden() == []


def tiny_disk(folder: str, size: str) -> tuple[str, ...]:
    """What starts a process that has a disk of this size at a folder, which others see as it was."""
    mount = f'mount -t tmpfs -o size={size} tiny "{folder}" && exec "$@"'
    tried = subprocess.run(["unshare", "--mount", "bash", "-c", mount, "-", "true"], capture_output=True)
    if tried.returncode:
        pytest.skip("a small disk needs the right to mount")
    return ("unshare", "--mount", "bash", "-c", mount, "-")


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "folder", "size"),
    [pytest.param("tokenizer", "models", "300k", marks=pytest.mark.nightly), ("predictor", "models", "700k"),
     ("backtest", "backtest_results", "1m"),
     pytest.param("predict", "predictions", "100k", marks=pytest.mark.nightly), ("search", "search", "50k")],
)  # fmt: skip
def test_a_full_disk(stage: str, folder: str, size: str, finished: Path, in_folder: Path) -> None:
    shutil.copytree(finished / "outputs", "outputs")
    models = "outputs/models/finetune_{}_demo/checkpoints/best_model"
    weights = [
        flag for kind in ("tokenizer", "predictor")
        for flag in (f"--{kind}-path", str(finished / models.format(kind))) if stage not in ("search", kind)
    ]  # fmt: skip
    Path("outputs", folder).mkdir(exist_ok=True)
    small = tiny_disk(f"outputs/{folder}", size)
    flags = [*SMALL, *weights, "--reuse", "false"]
    flags += ["--n-trials", "1", "--search-batch-size", "8,16"] if stage == "search" else []
    said = only_line(run(stage, *flags, status=2, before=small))
    if stage in ("tokenizer", "predictor"):  # the size of checkpoints is known before a run begins
        assert "disk: at least" in said and f"checkpoints of the {stage}" in said
        assert not Path("mlflow.db").exists()
        return
    assert "the disk is full" in said or "No space left" in said or "cannot be written" in said
    assert "FAILED" in statuses() and "RUNNING" not in statuses()


@LINUX
@pytest.mark.slow
def test_a_full_disk_from_the_first_moment(in_folder: Path) -> None:
    """Not even the tracking store finds room."""
    Path("work").mkdir()
    disk = tiny_disk("work", "200k")
    inside = (*disk, "bash", "-c", 'cd work && exec "$@"', "-")
    assert "kronos: " in only_line(run("data", *SAMPLE, status=2, before=inside))


@pytest.mark.slow
def test_a_port_that_is_taken(in_folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": taken}
        said = only_line(run("tokenizer", *SMALL, status=2, env=ranks))
    assert f"could not meet at 127.0.0.1:{taken}" in said and "--master_port" in said


# Ctrl-C.


def interrupt(process: subprocess.Popen[str], after: str) -> str:
    """Ctrl-C as soon as a line has been printed; returns all that was said."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if after in line:
            break
    else:
        raise AssertionError(said)
    os.killpg(process.pid, signal.SIGINT)
    said += process.communicate(timeout=60)[0]
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        "data",
        pytest.param("tokenizer", marks=pytest.mark.nightly),
        "predictor",
        "backtest",
        pytest.param("predict", marks=pytest.mark.nightly),
        "search",
        "walk_forward",
        "audit",
        pytest.param("calibrate", marks=pytest.mark.nightly),
        pytest.param("generate", marks=pytest.mark.nightly),
    ],
)
def test_ctrl_c_at_every_stage(stage: str, finished: Path, in_folder: Path) -> None:
    shutil.copytree(finished / "outputs", "outputs")
    before = {path: path.read_bytes() for path in Path("outputs").rglob("*") if path.is_file()}
    sizes = [flag if flag != "320" else "20000" for flag in SMALL]
    flags = [
        *(sizes if stage in ("tokenizer", "predictor", "search", "walk_forward") else ()),
        "--reuse",
        "false",
    ]
    process = start(stage, *flags)
    said = interrupt(process, {"search": "trial", "walk_forward": "fold 1"}.get(stage, f"{stage}: run "))
    assert process.returncode == 130, said
    assert only_line(said).startswith("kronos: interrupted")
    assert "Traceback" not in said
    assert "KILLED" in statuses() and "RUNNING" not in statuses() and "FAILED" not in statuses()
    assert all(path.is_file() for path in before)
    if stage != "search":  # which has made bars and tokenizer anew before its first trial
        assert all(path.read_bytes() == content for path, content in before.items())
    assert hidden() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "seconds", [0.5, *(pytest.param(one, marks=pytest.mark.nightly) for one in (0.15, 1.5))]
)
def test_ctrl_c_while_it_starts(seconds: float, in_folder: Path) -> None:
    process = start("data", *SAMPLE)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), said  # before our first line Python itself ends it
    assert "Traceback" not in said or process.returncode == -signal.SIGINT


# Two at once, and names that are hard to spell.


@pytest.mark.slow
def test_two_runs_at_once_in_one_empty_folder(in_folder: Path) -> None:
    both = [start("pipeline", *SAMPLE, *SMALL) for _ in range(2)]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 2]), outputs
    assert all("Traceback" not in output for output in outputs), outputs
    if codes == [0, 2]:
        failed = next(output for output, process in zip(outputs, both, strict=True) if process.returncode)
        assert "another process" in only_line(failed)
    assert hidden() == []
    assert "pipeline: reused" not in outputs
    assert run("pipeline", *SAMPLE, *SMALL, status=0).count("reused, nothing it depends on has changed") == 5


@pytest.mark.slow
def test_a_c_locale_and_a_path_with_spaces_and_chinese_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone in which the READMEs' commands run has such a path too."""
    folder = tmp_path / "新 文件夹 (1)"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_json(
        "配置 1.json", {**read_json(ROOT / "experiments" / "sample.json"), "symbols": NAMES.split(",")}
    )
    flags = ("--config-path", "配置 1.json", *SMALL)
    assert "pipeline: done" in run("pipeline", *flags, status=0, env={"LC_ALL": "C"})
    assert "没有.json" in only_line(run("data", "--config-path", "没有.json", status=2))


def test_a_locale_that_cannot_spell_the_folder_says_what_to_set(in_folder: Path) -> None:
    """ASCII, and Python told to believe it: MLflow cannot name its file."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    Path("数据").mkdir()
    os.chdir("数据")
    assert "set PYTHONUTF8=1" in only_line(run("data", *SAMPLE, status=2, env=ascii_only))
    assert list(Path.cwd().iterdir()) == []


def test_letters_that_a_terminal_lacks_are_escaped(in_folder: Path) -> None:
    said = run("data", "--config-path", "没有.json", status=2, env={"PYTHONIOENCODING": "ascii"})
    assert "\\u6ca1\\u6709.json" in only_line(said)


@LINUX
def test_a_reader_that_leaves_early_is_no_error(in_folder: Path) -> None:
    done = subprocess.run(
        f"set -o pipefail; {shlex.quote(sys.executable)} -m kronos --help | head -1", shell=True,
        executable="/bin/bash", env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("usage:") and done.stderr == ""
