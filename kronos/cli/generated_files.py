"""Files written from the code: MLproject, and the tables of fields and of files' layouts in both READMEs."""

from collections.abc import Sequence
from pathlib import Path

from kronos.config.loading import to_text, type_text
from kronos.config.schema import FIELDS, SECTION_OF, SECTIONS
from kronos.data.sources.csv_layouts import LAYOUTS, OTHERS
from kronos.stages import STAGES
from kronos.utils.errors import UserError
from kronos.utils.files import PACKAGE, clone, read_json, write_text

MLPROJECT_HEAD = """\
# Written by `make mlproject` from kronos/stages; do not edit by hand.
#
# Only config_path is declared: MLflow logs declared defaults before the code starts, which would hide what a
# configuration file says. Every field is given as `-P field=value`, which MLflow passes on as `--field value`.
name: kronos
conda_env: conda.yaml
entry_points:
"""


def mlproject_text() -> str:
    """The content of the MLproject file."""
    parts = [MLPROJECT_HEAD]
    for name, stage in (("main", STAGES["pipeline"]), *STAGES.items()):
        parts.append(f"  # {stage.help}\n")
        if name != "main":
            parts += [f"  #   {field}={to_text(FIELDS[field].default)}\n" for field in stage.params]
        parts.append(
            f"  {name}:\n    parameters:\n      config_path: {{type: string, default: none}}\n"
            f'    command: "python -m kronos {stage.name} --config-path {{config_path}}"\n'
        )
    return "".join(parts)


def mlproject_command(arguments: Sequence[str]) -> int:
    """`python -m kronos mlproject [--check | --write]`: print the file, compare it, or write it."""
    if arguments == ["--write"]:
        write_text(_mlproject(), mlproject_text())
    elif arguments == ["--check"]:
        if _mlproject().read_text(encoding="utf-8") != mlproject_text():
            raise UserError(f"{_mlproject()} is not what the stages say: run  make mlproject")
        print("MLproject is up to date")
    elif arguments:
        raise UserError(f"mlproject takes --check or --write, not {' '.join(arguments)}")
    else:
        print(mlproject_text(), end="")
    return 0


def _mlproject() -> Path:
    """MLproject of the clone; `mlflow run` needs it, an installed package has none."""
    folder = clone()
    if folder is None:
        raise UserError(
            "MLproject belongs to a clone of the project, and this is an installed package: run  kronos STAGE  here, "
            "or  mlflow run  in a clone"
        )
    return folder / "MLproject"


CHINESE = PACKAGE / "config" / "fields.zh.json"  # {"heads": [...], "groups": {...}, "fields": {name: help}}
READMES = {"README.md": False, "README.zh-CN.md": True}
BEGIN, END = "<!-- {}: written by `make mlproject` -->", "<!-- /{} -->"
HEADS = ("field", "default", "takes", "what it is")


def fields_text(chinese: bool = False) -> str:
    """The fields as Markdown, a table for each group."""
    words = read_json(CHINESE) if chinese else {}
    helps = words["fields"] if chinese else {}
    parts = []
    for group in SECTIONS:
        parts.append(f"**{words['groups'][group] if chinese else group}**\n")
        parts.append(
            "| " + " | ".join(words["heads"] if chinese else HEADS) + " |\n| --- | --- | --- | --- |"
        )
        for name, field in FIELDS.items():
            if SECTION_OF[name] == group:
                help = helps.get(name, field.description) if chinese else field.description
                default = to_text(field.default)
                parts.append(f"| `{name}` | `{default}` | {_cell(type_text(field))} | {_cell(str(help))} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def layouts_text(chinese: bool = False) -> str:
    """The layouts of tools' files as a Markdown table."""
    rows = [(one.tool, one.header, one.understood) for one in LAYOUTS] + list(OTHERS)
    heads = ("工具", "表头") if chinese else ("tool", "header", "what is known of it")
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for tool, header, understood in rows:
        lines.append("| " + " | ".join((tool, f"`{_cell(header)}`", understood)[: len(heads)]) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def fields_command(arguments: Sequence[str]) -> int:
    """`python -m kronos fields [--check | --write]`: print the table, compare the READMEs' tables, or write them."""
    if not arguments:
        print(fields_text(), end="")
        return 0
    if arguments not in (["--check"], ["--write"]):
        raise UserError(f"fields takes --check or --write, not {' '.join(arguments)}")
    folder = clone()
    if folder is None:
        raise UserError("the READMEs belong to a clone of the project, and this is an installed package")
    for name, chinese in READMES.items():
        path = folder / name
        wanted = path.read_text(encoding="utf-8")
        for what, table in (("fields", fields_text(chinese)), ("layouts", layouts_text(chinese))):
            wanted = _with_table(path, wanted, what, table)
        if arguments == ["--write"]:
            write_text(path, wanted)
        elif path.read_text(encoding="utf-8") != wanted:
            raise UserError(f"a table in {path} is not what the code says: run  make mlproject")
    print("the READMEs' tables are up to date")
    return 0


def _with_table(path: Path, text: str, what: str, table: str) -> str:
    first, last = BEGIN.format(what), END.format(what)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise UserError(f"{path} has no place for the table of {what}: it needs the lines {first} and {last}")
    return f"{before}{first}\n\n{table}\n{last}{after}"
