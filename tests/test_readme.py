"""Every command of the READMEs is run as written, in a clone of its own whose recipes are cut to seconds."""

import re
import shlex
import time
from pathlib import Path

import pytest
from newcomer import ROOT, blocks, code, commands, free_port, kronos, service, shell

from kronos import newest
from kronos.cli.arguments import help_parser, parse_flags
from kronos.config.loading import load_config
from kronos.config.schema import FIELDS

ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
# Commands that are not run here, by their beginning, and why; a `python -m kronos` among them is still parsed.
NOT_RUN = {
    "make pipeline": "installs from the package index; CI does it",
    "make test": "is this suite",
    "make bench": "measures for minutes, alone on the machine",
    "make gpu": "needs a GPU; tests/training/test_devices.py runs on the CPU",
    "mlflow run . -e pipeline --env-manager uv": "builds an environment from the package index",
    "mlflow run . -e pipeline$": "needs conda",
    "python -m kronos pipeline --model-preset nano --data-source csv": "the file has no column turnover; "
    "tests/stages/test_feature_list.py runs it with one that has",
    "pip install .$": "tests/test_packaging.py builds the wheel and runs it",
    "pip install '.[postgres]'": "installs from the package index",
    "pip install '.[dashboard]'": "installs from the package index",
    "pip install '.[app]'": "installs from the package index",
    "pip install jupyterlab": "installs from the package index; tests/test_notebooks.py runs the notebooks",
    "pip install '.[sources]'": "installs from the package index",
    "python -m kronos data --data-source yfinance": "asks the service; test_today_libraries.py has one",
    "python -m kronos data --data-source akshare": "asks the service; a test has one on loopback",
    "python -m kronos data --data-source ccxt": "asks the service; a test has one on loopback",
    "python -m kronos data --data-source auto": "asks several services; tests/data/sources/test_auto.py",
    "source .venv/bin/activate": ".venv is made by make pipeline",
    "python -m qlib.cli.data": "downloads",
    "pip install '.[lora]'": "installs from the package index",
    "python -m kronos pipeline --config-path experiments/csi300_lora.json": "tests/stages/test_adapter_stage.py",
    "python -m kronos pipeline --config-path experiments/csi300_8gb.json": "tests/stages/test_adapter_stage.py",
    "python -m kronos pipeline --device cuda": "needs a GPU",
    "torchrun --standalone --nproc_per_node=4 -m kronos predictor --model-preset": "needs 26 GiB; test_ranks.py",
    "torchrun --nnodes=2": "needs two machines; tests/distributed/test_launch.py has two nodes on loopback",
    "python -m kronos benchmark": "tests/stages/test_benchmark_stage.py runs it on fewer bars",
    "python -m kronos refit": "needs a champion and new bars; tests/stages/test_refit.py has both",
    "mlflow server": "needs PostgreSQL; tests/tracking/test_tracking_server.py has one on loopback",
    "python -m kronos pipeline --tracking-uri": "needs the server; tests/tracking/test_tracking_server.py has one",
    "python -m kronos search --storage": "needs PostgreSQL; tests/stages/search/test_machines.py has one on loopback",
}

# Commands whose stage runs with other fields too, by their beginning: left to `make nightly`.
LEFT_TO_NIGHTLY = (
    "mlflow run . -e tokenizer",
    "python -m kronos tokenizer --epochs",
    "python -m kronos predictor",
    "python -m kronos pipeline --config-path experiments/sample.json",
    "python -m kronos pipeline --fast-mode",
    "python -m kronos pipeline --config-path experiments/csi300_gentle.json",
    "python -m kronos pipeline --nproc-per-node 2",
    "python -m kronos search --n-trials 12",
    "python -m kronos head --objective volatility",
)


def not_run(command: str) -> str | None:
    for start, why in NOT_RUN.items():
        if command == start.removesuffix("$") or (not start.endswith("$") and command.startswith(start)):
            return why
    return None


def test_both_readmes_have_the_same_commands_and_code() -> None:
    assert commands(ENGLISH) == commands(CHINESE)
    for language in ("python", "json"):
        english, chinese = blocks(ENGLISH, language), blocks(CHINESE, language)
        assert [code(block) for block in english] == [code(block) for block in chinese], language
    assert ENGLISH.count("\n## ") + 1 == CHINESE.count(
        "\n## "
    )  # the map of the guide is the Chinese one's own
    assert re.findall(r"!\[.*?\]\((.*?)\)", ENGLISH) == re.findall(r"!\[.*?\]\((.*?)\)", CHINESE)


def test_what_is_not_run_is_still_in_the_readme_and_its_fields_exist() -> None:
    there = commands(ENGLISH)
    for start in (*NOT_RUN, *LEFT_TO_NIGHTLY):
        assert any(line == start.removesuffix("$") or line.startswith(start) for line in there), start
    for line in there:
        if not_run(line) and "-m kronos" in line:
            flags = line.split("-m kronos ")[1].split()[1:]
            _, given, problems = parse_flags(help_parser("kronos", "", FIELDS), flags)
            assert not problems, line
            load_config(None, given)


def test_links_and_pictures_are_there() -> None:
    for text in (ENGLISH, CHINESE):
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (ROOT / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["most", "all"])
def test_every_command_works_as_written_in_its_order(clone: Path, sina: str, every: bool) -> None:
    """One after the other, as a reader would: what a command needs, those before it have left."""
    parts = re.findall(r"^```(bash|python)\n(.*?)^```", ENGLISH, flags=re.MULTILINE | re.DOTALL)
    own_source, request = (
        next(block for language, block in parts if language == "python" and word in block)
        for word in ("BaseDataProcessor", "httpx")
    )
    (clone / "mybars.py").write_text(own_source)
    kronos(clone, ["pipeline"])  # what `make pipeline` leaves
    for language, block in parts:
        if language == "python" and block not in (own_source, request):
            (clone / "block.py").write_text(block)
            shell(clone, "python block.py")
        for command in commands(f"```bash\n{block}```") if language == "bash" else ():
            if not_run(command) is None and (every or not command.startswith(LEFT_TO_NIGHTLY)):
                began = time.monotonic()
                run(clone, filled(command, clone, sina), request)
                print(f"{time.monotonic() - began:6.1f} s  {command}")
    check_metrics(f"sqlite:///{clone}/mlflow.db")


def filled(command: str, clone: Path, sina: str) -> str:
    """The words in capitals put in, and what a test machine has less or other of."""
    if "RUN_ID" in command:
        for run in newest("predictor", command.count("RUN_ID"), f"sqlite:///{clone}/mlflow.db"):
            command = command.replace("RUN_ID", run.id, 1)
    if "STUDY" in command:
        command = command.replace(
            "STUDY", max((clone / "outputs/search").iterdir(), key=lambda path: path.stat().st_mtime).name
        )
    if "sina" in command:
        command += f" --sina-url {sina} --sina-factor-url none"
    return (
        command.replace("--nproc_per_node=4", "--nproc_per_node=2")
        .replace("n_trials=12", "n_trials=2").replace("--n-trials 12", "--n-trials 2")
    )  # fmt: skip


def run(clone: Path, command: str, request: str) -> None:
    if command.startswith(("mlflow ui", "mlflow models serve", "python -m kronos app")):
        port = free_port()
        command = re.sub(r"--port \d+", "", command) + f" --port {port}"
        with service(clone, command, port):
            if "serve" in command:
                (clone / "request.py").write_text(request.replace(":5001", f":{port}"))
                assert "'close':" in shell(clone, "python request.py")
    elif command.startswith("python -m kronos"):
        kronos(clone, shlex.split(command)[3:])
    else:
        shell(clone, command)


def check_metrics(store: str) -> None:
    """The names of the READMEs' table are those of MLflow's metrics, and of the figures in the records of the runs.

    The trees find no split in the few names of this clone, so that no run has a gain over them; that there is one
    otherwise is seen in tests/stages/test_planted.py.
    """
    runs = [newest(stage, 1, store)[0] for stage in ("tokenizer", "predictor", "backtest")]
    logged = {name for run in runs for name in run.metrics} | {"ranking/gain_over_lightgbm"}
    figures = {name for run in runs for name in run.figures} | {"rank_ic_gain_over_lightgbm"}
    for text in (ENGLISH, CHINESE):
        table = re.split(r"\n\| .*MLflow.* \| .*\n\| --- \| --- \| --- \|\n", text)[1].split("\n\n")[0]
        for line in table.splitlines():
            for column, known in zip(line.split("|")[1:3], (logged, figures), strict=True):
                first = ""
                for name in re.findall(r"`([\w/]+)`", column):
                    first = first if name.startswith("_") else name
                    stem = first.removesuffix("_mean").removesuffix("_momentum")
                    assert name in known or stem + name in known, f"no run has {name}"
