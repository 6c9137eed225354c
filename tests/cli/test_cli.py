"""A user's mistake on the command line: one clear message, exit status 2, no traceback, nothing half-written."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import kronos.__main__ as entry
from kronos.__main__ import main
from kronos.config.schema import FIELDS
from kronos.stages import STAGES
from kronos.tracking.reader import latest, newest
from kronos.utils.errors import TrackingAway, UserError
from kronos.utils.files import read_json, write_json

SMALL = ["--n-train-iter", "128", "--n-val-iter", "64",
         "--epochs", "1"]  # fmt: skip


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail as a user's mistake; returns its message."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    assert captured.err.startswith("kronos: ")
    return captured.err.strip()


def statuses() -> list[str]:
    client = MlflowClient()
    experiments = [item.experiment_id for item in client.search_experiments()]
    return [str(run.info.status) for run in client.search_runs(experiments)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokeniser"], "unknown stage 'tokeniser': did you mean tokenizer?"),
        (["data", "--epoch", "3"], "unknown flag --epoch: did you mean --epochs?"),
        (["data", "--config", "a.json"], "unknown flag --config: did you mean --config-path?"),
        (["data", "--xyzzy", "3"], "unknown flag --xyzzy"),
        (
            ["pipeline", "--learning-rate", "0.1"],
            "--learning-rate: did you mean --tokenizer-learning-rate or --predictor-learning-rate?",
        ),
        (["data", "--batch-size", "0"], "--batch-size: 0 is too small, the least is 1"),
        (["data", "--config-path", "nowhere.json"], "no file nowhere.json"),
        (["data", "--batch-size", "x", "--seed", "-1"], "2 problems:"),
        (["mlproject", "--chekc"], "mlproject takes --check or --write"),
    ],
)
def test_a_wrong_command_writes_nothing(
    arguments: list[str], message: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fail(capsys, *arguments)
    assert list(in_folder.iterdir()) == []


def test_help_lists_every_field_with_its_default_quickly() -> None:
    for arguments in (["--help-all"], ["pipeline", "--help-all"]):
        done = subprocess.run([sys.executable, "-m", "kronos", *arguments], capture_output=True, text=True)
        assert done.returncode == 0
        for text in (
            "--predictor-learning-rate",
            "default 4e-05",
            "--config-path",
            "finetune_tokenizer_demo",
        ):
            assert text in done.stdout


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        main(arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_short_help_lists_common_fields_and_help_all_those_that_the_stage_uses(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def flags(text: str) -> set[str]:
        return set(re.findall(r"^  (--[\w-]+) ", text, re.MULTILINE))

    short, whole = (shown(capsys, stage, option) for option in ("--help", "--help-all"))
    used = {"--" + name.replace("_", "-") for name in STAGES[stage].params}
    listed = flags(short) & used
    assert flags(whole) & {"--" + name.replace("_", "-") for name in FIELDS} == used
    assert 5 <= len(listed) <= 45 and 2 * len(listed) <= 1.5 * len(used)
    assert f"{len(used - listed)} more fields: --help-all" in short


def test_the_overview_has_a_space_after_every_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(entry.COMMANDS, "a_command_with_a_long_name", "what it does")
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (*STAGES, *entry.COMMANDS):
        assert sum(line.startswith(f"  {name}  ") for line in lines) == 1, name


@pytest.mark.parametrize("stage", ["tokenizer", "predictor", "backtest"])
def test_a_stage_without_a_store_says_which_to_run(
    stage: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no store at outputs/data (index.json missing): run  python -m kronos data" in fail(capsys, stage)
    assert statuses() == ["FAILED"]
    assert not (in_folder / "outputs").exists()


@pytest.mark.parametrize(("stage", "missing"), [("predictor", "tokenizer"), ("backtest", "tokenizer")])
def test_a_stage_without_its_model_says_which_to_run(
    stage: str, missing: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fail(capsys, stage, *SMALL)
    assert f"no {missing} at outputs/models" in message
    assert f"run  python -m kronos {missing}  or give --{missing}-path" in message
    assert statuses() == ["FAILED"]


def test_skipped_stages_must_have_left_their_output(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--skip-data-process", "--skip-tokenizer", "--skip-predictor"]
    message = fail(capsys, "pipeline", *flags)
    for flag in flags:
        assert flag in message
    assert statuses() == ["FAILED"]


def test_an_empty_range_shows_the_arithmetic(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in store.iterdir())
    config = read_json(Path(__file__).parents[2] / "experiments" / "sample.json")
    write_json("short.json", {**config, "val_time_range": ["2010-05-03", "2010-05-07"]})
    message = fail(capsys, "tokenizer", "--config-path", "short.json")
    assert "2010-05-03..2010-05-07 is 5 days, lookback 32 + horizon 5 needs 37" in message
    assert sorted(path.name for path in store.iterdir()) == before
    assert not Path("outputs/models").exists()


def test_overlapping_ranges_name_the_days(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_json(Path(__file__).parents[2] / "experiments" / "sample.json")
    write_json("overlap.json", {**config, "train_time_range": ["2009-08-21", "2010-04-30"]})
    message = fail(capsys, "tokenizer", "--config-path", "overlap.json")
    assert "2010-04-30" in message
    assert "2010-04-01" in message


def test_a_store_from_another_configuration_names_the_field(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_json(Path(__file__).parents[2] / "experiments" / "sample.json")
    write_json("later.json", {**config, "dataset_begin_time": "2009-08-24"})
    message = fail(capsys, "tokenizer", "--config-path", "later.json")
    assert "dataset_begin_time was 2009-08-21, is 2009-08-24" in message
    assert "run  python -m kronos data" in message


def test_a_damaged_store_names_the_file(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = store / "values.npy"
    path.write_bytes(path.read_bytes()[:1000])
    assert "values.npy" in fail(capsys, "tokenizer")
    assert statuses() == ["FAILED"]


@pytest.fixture
def trained(store: Path) -> Path:
    """A tokenizer of a few steps, in the working folder."""
    assert main(["tokenizer", *SMALL]) == 0
    return Path("outputs/models/finetune_tokenizer_demo")


def test_damaged_and_foreign_checkpoints(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "lookback_window was 32, is 40" in fail(capsys, "predictor", *SMALL, "--lookback-window", "40")
    weights = trained / "checkpoints" / "best_model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors" in fail(capsys, "predictor", *SMALL)
    weights.write_bytes(whole)
    shape = trained / "checkpoints" / "best_model" / "config.json"
    shape.write_text(json.dumps({**json.loads(shape.read_text()), "d_model": 32}))
    message = fail(capsys, "predictor", *SMALL)
    assert f"{shape} is damaged: it was altered" in message and "python -m kronos tokenizer" in message
    assert "RUNNING" not in statuses()
    assert not Path("outputs/models/finetune_predictor_demo").exists()


def test_a_finished_stage_is_reused_until_something_changes(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = np.frombuffer((trained / "summary.json").read_bytes(), np.uint8)
    assert main(["tokenizer", *SMALL]) == 0
    assert "tokenizer: reused" in capsys.readouterr().out
    assert (np.frombuffer((trained / "summary.json").read_bytes(), np.uint8) == before).all()
    assert main(["tokenizer", *SMALL, "--seed", "7"]) == 0
    assert "tokenizer: runs, since seed was 100, is 7" in capsys.readouterr().out


DISK = OSError(errno.ENOSPC, "No space left on device", "values.npy")


@pytest.mark.parametrize(
    "command", [["data"], ["compare", "1a2b"], ["rerun", "1a2b"], ["mlproject"], ["fields"]]
)
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DISK, 2),
        (MlflowException("no such run"), 2),
        (TrackingAway("the server is away"), 75),
        (KeyboardInterrupt(), 130),
    ],
    ids=["disk", "mlflow", "away", "interrupt"],
)
def test_debug_prints_the_traceback_before_the_same_line_with_the_same_status(
    command: list[str], error: BaseException, status: int,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def failing(arguments: list[str]) -> int:
        assert arguments == command
        raise error

    monkeypatch.setattr(entry, "_main", failing)
    assert main(command) == status
    line = capsys.readouterr().err
    assert line.startswith("kronos: ") and line.count("\n") == 1
    assert main([*command, "--debug"]) == status
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last):")
    assert "in failing" in printed
    assert printed.endswith(line)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_debug_stands_anywhere_and_shows_a_mistake_in_the_arguments(
    place: int, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "--epochs", "x"]
    arguments.insert(place, "--debug")
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.splitlines()[-1].startswith("kronos: --epochs: ")
    assert list(in_folder.iterdir()) == []


def test_debug_shows_the_exception_that_a_clear_error_hides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(arguments: list[str]) -> int:
        try:
            raise MlflowException("what MLflow said")
        except MlflowException:
            raise UserError("no run 1a2b") from None

    monkeypatch.setattr(entry, "_main", failing)
    assert main(["compare", "1a2b", "--debug"]) == 2
    printed = capsys.readouterr().err
    assert "MlflowException: what MLflow said" in printed
    assert printed.endswith("kronos: no run 1a2b\n")


def test_debug_is_listed_in_every_help_and_is_no_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--debug: print the full traceback" in capsys.readouterr().out
    for command in ("data", "compare", "rerun"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "--debug" in capsys.readouterr().out
    assert "debug" not in FIELDS


@pytest.mark.parametrize("arguments", [["--version"], ["data", "--epoch", "3"]])
def test_a_version_or_a_mistaken_flag_waits_for_no_large_package(arguments: list[str]) -> None:
    code = (
        "import sys; from kronos.__main__ import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'mlflow', 'optuna', 'qlib', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [1, 2])
def test_two_processes_that_begin_at_once_in_a_fresh_folder_both_succeed(
    attempt: int, tmp_path: Path
) -> None:
    command = ["data", "--symbols", "AAPL,ABT", "--data-source", "sample"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "kronos", *command], cwd=tmp_path, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    assert "already exists" not in "".join(printed)
    assert [path.name for path in tmp_path.glob("*.db")] == ["mlflow.db"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("kronos")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert sum("kronos.reused_run" in run.data.tags for run in runs) == 1


@pytest.mark.slow
def test_a_rerun_from_a_folder_below_is_tracked_beside_the_original(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "--symbols", "AAPL,ABT", "--data-source", "sample"]) == 0
    below = in_folder / "notebooks"
    below.mkdir()
    monkeypatch.chdir(below)
    original = latest("data")
    assert main(["rerun", original.id]) == 0
    assert "every number is equal" in capsys.readouterr().out
    assert [path.name for path in below.iterdir()] == ["outputs"]
    assert len(newest("data", 5)) == 2
