"""Command-line arguments: one flag for every field of the configuration, and the help that lists them."""

import argparse
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from kronos.config.loading import to_text, type_text, unknown_name
from kronos.config.schema import FIELDS, SECTION_OF, SECTIONS
from kronos.utils.errors import UserError

DEBUG_HELP = "print the full traceback of an error before its one line"


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line is a `UserError` like every other mistake.

    `--debug` is listed here for the help only: `kronos.__main__.main` takes it off the command line, since it
    concerns mistakes in the arguments too.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG_HELP)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}")


def help_parser(program: str, description: str, fields: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser that takes every field and lists `fields`, grouped, with defaults, in its help."""
    parser = Parser(
        prog=program, description=description, allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
        epilog="Precedence: flag, then file, then default. Flags may be spelled with - or _.",
    )  # fmt: skip
    parser.add_argument("--config-path", metavar="FILE", help="JSON file of fields, or none (default none)")
    listed = set(fields)
    for group in SECTIONS:
        section = parser.add_argument_group(f"{group} fields")
        for name, field in FIELDS.items():
            if SECTION_OF[name] != group:
                continue
            text = f"{field.description} ({type_text(field)}; default {to_text(field.default)})".replace(
                "%", "%%"
            )
            flag: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
            section.add_argument(
                "--" + name.replace("_", "-"), dest=name, metavar="X", default=argparse.SUPPRESS,
                help=text if name in listed else argparse.SUPPRESS, **flag,
            )  # fmt: skip
    return parser


def parse_flags(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[str | None, dict[str, str], list[str]]:
    """Read the command line; return (configuration file or None, {field: text}, problems such as unknown flags)."""
    spelled = [
        "--" + "=".join([part.split("=")[0][2:].replace("_", "-"), *part.split("=")[1:]])
        if part.startswith("--") and len(part) > 2
        else part
        for part in arguments
    ]
    namespace, unknown = parser.parse_known_args(spelled)
    flags = dict(vars(namespace))
    path = flags.pop("config_path")
    problems = []
    for part in unknown:
        if part.startswith("--"):
            problems.append(unknown_name(part.split("=")[0][2:].replace("-", "_"), "flag", prefix="--"))
        elif not _follows_unknown_flag(part, spelled, unknown):
            problems.append(f"{part!r} was not expected: fields are given as --field value")
    return (None if path is None or path.lower() in ("", "none") else path), flags, problems


def _follows_unknown_flag(part: str, arguments: Sequence[str], unknown: Sequence[str]) -> bool:
    """Return whether `part` is the value of a flag that is reported as unknown already."""
    return any(
        after == part and before.startswith("--") and "=" not in before and before in unknown
        for before, after in itertools.pairwise(arguments)
    )
