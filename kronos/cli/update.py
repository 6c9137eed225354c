"""The command line of `python -m kronos update`: its two short flags."""

import argparse
from collections.abc import Sequence

from kronos.cli.arguments import Parser, parse_flags
from kronos.config.loading import load_config

DRY_RUN = "--dry-run"


def add_flags(parser: Parser) -> None:
    """Add `--forecast`, short for `--update-forecast`, and `--dry-run` to the parser of the update stage."""
    group = parser.add_argument_group("update")
    group.add_argument(
        "--forecast", dest="update_forecast", nargs="?", const="true", metavar="X", default=argparse.SUPPRESS,
        help="the same as --update-forecast",
    )  # fmt: skip
    group.add_argument(
        DRY_RUN, action="store_true", default=argparse.SUPPRESS,
        help="print what would be asked for; nothing is asked and nothing is written",
    )  # fmt: skip


def dry_run_command(parser: Parser, arguments: Sequence[str]) -> int:
    """`python -m kronos update --dry-run`."""
    from kronos.stages.update import dry_run

    config_path, flags, problems = parse_flags(parser, [part for part in arguments if part != DRY_RUN])
    config, notes = load_config(config_path, flags, problems)
    for line in (*notes, *dry_run(config)):
        print(line)
    return 0
