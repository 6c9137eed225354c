"""The command line of `python -m kronos data --check`."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from kronos.cli.arguments import Parser, parse_flags
from kronos.config.loading import load_config
from kronos.stages.data_check import Refused, check, columns, screen
from kronos.utils.error_messages import sentence
from kronos.utils.errors import UserError

PATHS = {"qlib": "qlib_data_path"}  # the field that a path is, by source; data_path for the others


def add_flags(parser: Parser) -> None:
    """Add `--check` and `--json` to the parser of the data stage."""
    group = parser.add_argument_group("check")
    group.add_argument(
        "--check", nargs="?", const="", metavar="PATH", default=argparse.SUPPRESS,
        help="print how the bars of a file or folder (default: of the configured source) are understood, and what "
        "would be left out; writes nothing",
    )  # fmt: skip
    group.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="with --check: print one JSON object"
    )


def asked(arguments: Sequence[str]) -> bool:
    """Return whether a command line of the data stage asks for a check."""
    return any(part.partition("=")[0] in ("--check", "--json") for part in arguments)


def check_command(parser: Parser, arguments: Sequence[str]) -> int:
    """`python -m kronos data --check [PATH] [--json]`.

    Of a refused file, what is understood of its columns is printed before the error. With `--json`, an error is an
    object on stdout too.
    """
    if "--json" not in arguments:
        try:
            print(screen(_check(parser, arguments)))
        except Refused as error:
            for shown in columns(error.layouts):
                print(shown)
            raise
        return 0
    try:
        print(json.dumps(_check(parser, arguments), ensure_ascii=False, indent=1))
    except (Exception, KeyboardInterrupt) as error:
        line: str | None = str(error) if isinstance(error, UserError) else sentence(error)
        if line is None:
            raise
        print(json.dumps({"error": line}, ensure_ascii=False))
        return 2
    return 0


def _check(parser: Parser, arguments: Sequence[str]) -> dict[str, Any]:
    config_path, flags, problems = parse_flags(parser, arguments)
    given: Any = flags.pop("check", None)
    if flags.pop("json", False) and given is None:
        raise UserError("--json belongs to --check: python -m kronos data --check PATH --json")
    if given:
        source = flags.setdefault("data_source", "csv")
        flags[PATHS.get(source, "data_path")] = given
    config, notes = load_config(config_path, flags, problems)
    found = check(config)
    return {**found, "notes": [*notes, *found["notes"]]}
