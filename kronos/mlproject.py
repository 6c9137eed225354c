"""Prints the MLproject file from the stages: one entry point a stage, every field as a comment."""

from collections.abc import Sequence
from pathlib import Path

from kronos.config import Config
from kronos.errors import UserError
from kronos.files import clone, write_text
from kronos.flags import to_text
from kronos.stages import STAGES

HEAD = """\
# Written by `make mlproject` from kronos/stages; do not edit by hand.
#
# Only config_path is declared: MLflow logs declared defaults before the code starts, which would hide what a
# configuration file says. Every field is given as `-P field=value`, which MLflow passes on as `--field value`.
name: kronos
conda_env: conda.yaml
entry_points:
"""


def text() -> str:
    """The content of the MLproject file."""
    parts = [HEAD]
    for name, stage in (("main", STAGES["pipeline"]), *STAGES.items()):
        parts.append(f"  # {stage.help}\n")
        if name != "main":
            parts += [
                f"  #   {field}={to_text(Config.model_fields[field].default)}\n" for field in stage.fields
            ]
        parts.append(
            f"  {name}:\n    parameters:\n      config_path: {{type: string, default: none}}\n"
            f'    command: "python -m kronos {stage.name} --config-path {{config_path}}"\n'
        )
    return "".join(parts)


def command(arguments: Sequence[str]) -> int:
    """`python -m kronos mlproject [--check | --write]`: print the file, compare it, or write it."""
    if arguments == ["--write"]:
        write_text(_file(), text())
    elif arguments == ["--check"]:
        if _file().read_text(encoding="utf-8") != text():
            raise UserError(f"{_file()} is not what the stages say: run  make mlproject")
        print("MLproject is up to date")
    elif arguments:
        raise UserError(f"mlproject takes --check or --write, not {' '.join(arguments)}")
    else:
        print(text(), end="")
    return 0


def _file() -> Path:
    """MLproject of the clone; `mlflow run` needs it, an installed package has none."""
    folder = clone()
    if folder is None:
        raise UserError(
            "MLproject belongs to a clone of the project, and this is an installed package: run  kronos STAGE  here, "
            "or  mlflow run  in a clone"
        )
    return folder / "MLproject"
