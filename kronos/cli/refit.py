"""The command line of `python -m kronos refit`: its short flag."""

import argparse

from kronos.cli.arguments import Parser


def add_flags(parser: Parser) -> None:
    """Add `--from`, short for `--refit-from`, to the parser of the refit stage."""
    group = parser.add_argument_group("refit")
    group.add_argument(
        "--from", dest="refit_from", metavar="X", default=argparse.SUPPRESS, help="the same as --refit-from"
    )
