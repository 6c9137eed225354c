"""Command-line arguments: one flag for every field of the configuration, and the help that lists them."""

import argparse
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from kronos.config.loading import to_text, type_text, unknown_name
from kronos.config.schema import FIELDS, SECTION_OF, SECTIONS
from kronos.utils.errors import UserError

DEBUG_HELP = "print the full traceback of an error before its one line"
HELP_ALL = "--help-all"
FEW = 12  # fields of a stage that are not worth being split into common ones and others
# Fields that most users set; the short help lists them, and those that begin with the name of the stage.
COMMON = frozenset((
    "data_source", "data_path", "instrument", "symbols", "freq", "train_time_range", "val_time_range",
    "test_time_range", "backtest_time_range", "since", "lookback_window", "predict_window", "model_preset", "epochs",
    "batch_size", "tokenizer_learning_rate", "predictor_learning_rate", "n_train_iter", "seed", "device",
    "nproc_per_node", "fast_mode", "tokenizer_path", "predictor_path", "inference_T", "inference_top_p",
    "inference_sample_count", "backtest_n_symbol_hold", "backtest_n_symbol_drop", "n_trials", "n_jobs",
    "tracking_uri", "experiment_name", "run_name", "registered_model_name",
))  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line is a `UserError` like every other mistake.

    `--debug` is listed here for the help only: `kronos.__main__.main` takes it off the command line, since it
    concerns mistakes in the arguments too. `fields` are those that the command uses.
    """

    def __init__(self, fields: Iterable[str] = FIELDS, **options: Any) -> None:
        super().__init__(**options)
        self.fields = tuple(fields)
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG_HELP)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}")


def common_fields(stage: str, fields: Iterable[str]) -> tuple[str, ...]:
    """The fields that the short help of a stage lists: all of them where they are few."""
    names = tuple(fields)
    if len(names) <= FEW:
        return names
    return tuple(name for name in names if name in COMMON or name.startswith(f"{stage}_"))


def help_parser(
    program: str, description: str, fields: Iterable[str], shown: Iterable[str] | None = None
) -> Parser:
    """Return a parser that takes every field.

    Its help lists `fields` with their defaults, grouped by section; or of them only `shown`, as the common ones.
    """
    used = tuple(fields)
    listed = set(used if shown is None else shown)
    more = len(set(used) - listed)
    parser = Parser(
        used, prog=program, description=description, allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
        epilog=(f"{more} more fields: {HELP_ALL}. " if more else "")
        + "Precedence: flag, then file, then default. Flags may be spelled with - or _.",
    )  # fmt: skip
    parser.add_argument("--config-path", metavar="FILE", help="JSON file of fields, or none (default none)")
    parser.add_argument(HELP_ALL, action="help", default=argparse.SUPPRESS, help="show every field and exit")
    common = parser.add_argument_group("common fields") if shown is not None else None
    for group in SECTIONS:
        section = common or parser.add_argument_group(f"{group} fields")
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


def asks_for_all(arguments: Iterable[str]) -> bool:
    """Return whether the help of every field is asked for."""
    return any(part.replace("_", "-") == HELP_ALL for part in arguments)


def parse_flags(parser: Parser, arguments: Sequence[str]) -> tuple[str | None, dict[str, str], list[str]]:
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
            problems.append(
                unknown_name(part.split("=")[0][2:].replace("-", "_"), "flag", "--", parser.fields)
            )
        elif not _follows_unknown_flag(part, spelled, unknown):
            problems.append(f"{part!r} was not expected: fields are given as --field value")
    return (None if path is None or path.lower() in ("", "none") else path), flags, problems


def _follows_unknown_flag(part: str, arguments: Sequence[str], unknown: Sequence[str]) -> bool:
    """Return whether `part` is the value of a flag that is reported as unknown already."""
    return any(
        after == part and before.startswith("--") and "=" not in before and before in unknown
        for before, after in itertools.pairwise(arguments)
    )
