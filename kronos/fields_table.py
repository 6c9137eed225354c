"""Prints the table of every field, for the READMEs: names, defaults and limits from `Config`, in two languages."""

from collections.abc import Sequence
from pathlib import Path

from kronos.config import GROUPS, Config, group_of
from kronos.errors import UserError
from kronos.files import PACKAGE, clone, read_json, write_text
from kronos.flags import to_text, type_text

CHINESE = PACKAGE / "fields.zh.json"  # {"heads": [...], "groups": {...}, "fields": {name: help}}
READMES = {"README.md": False, "README.zh-CN.md": True}
BEGIN, END = "<!-- fields: written by `make mlproject` -->", "<!-- /fields -->"
HEADS = ("field", "default", "takes", "what it is")


def text(chinese: bool = False) -> str:
    """The fields as Markdown, a table for each group."""
    words = read_json(CHINESE) if chinese else {}
    helps = words["fields"] if chinese else {}
    parts = []
    for group in GROUPS:
        parts.append(f"**{words['groups'][group] if chinese else group}**\n")
        parts.append(
            "| " + " | ".join(words["heads"] if chinese else HEADS) + " |\n| --- | --- | --- | --- |"
        )
        for name, field in Config.model_fields.items():
            if group_of(field) == group:
                help = helps.get(name, field.description) if chinese else field.description
                default = to_text(field.default)
                parts.append(f"| `{name}` | `{default}` | {_cell(type_text(field))} | {_cell(str(help))} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def command(arguments: Sequence[str]) -> int:
    """`python -m kronos fields [--check | --write]`: print the table, compare the READMEs', or write it there."""
    if not arguments:
        print(text(), end="")
        return 0
    if arguments not in (["--check"], ["--write"]):
        raise UserError(f"fields takes --check or --write, not {' '.join(arguments)}")
    folder = clone()
    if folder is None:
        raise UserError("the READMEs belong to a clone of the project, and this is an installed package")
    for name, chinese in READMES.items():
        path = folder / name
        wanted = _with_table(path, text(chinese))
        if arguments == ["--write"]:
            write_text(path, wanted)
        elif path.read_text(encoding="utf-8") != wanted:
            raise UserError(f"the table of fields in {path} is not what the code says: run  make mlproject")
    print("the READMEs' tables are up to date")
    return 0


def _with_table(path: Path, table: str) -> str:
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path} has no place for the table of fields: it needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"
