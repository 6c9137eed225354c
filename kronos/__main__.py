"""The one command line: `python -m kronos STAGE --field value ...`.

Everything that may fail, imports of packages included, runs inside `main`, which reports a failure in one line. An
unsupported Python must be able to read this file up to that check, hence the annotations that are never evaluated.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from kronos import __version__
from kronos.utils.errors import TrackingAway, UserError

COMMANDS = {
    "compare": "compare RUN_ID RUN_ID ...: tracked runs side by side",
    "rerun": "rerun RUN_ID: repeat a tracked run from its own artifacts",
    "verify": "verify [FOLDER]: compare stored files with their digests and list the damaged ones",
    "to_qlib": "to_qlib FOLDER: write the bar store in Qlib's own format",
    "app": "a page in the browser: check bars, candles, forecasts, backtests, fine-tuning",
    "mlproject": "print the MLproject file; --check compares it, --write writes it",
    "fields": "print the table of every field; --check compares the READMEs' tables, --write writes them",
}
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
USAGE = "python -m kronos {STAGE} [--config-path FILE] [--field value ...] [--debug]"
DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 is success, 2 a mistake of the user's or a failure of the machine, 75 a tracking server that went away (try
    again), 130 an interruption. With `--debug` anywhere on the command line, the traceback is printed first.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  this file is the one that such a Python still reads
        found = sys.version.split()[0]
        return _fail(
            f"Python 3.11 or later is needed, this is {found}: make the environment with a newer one"
        )
    from kronos.utils.error_messages import (
        one_line,
        quiet_end_of_output,
        show_warnings,
        speak_any_encoding,
    )

    speak_any_encoding()
    show_warnings()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in given
    try:
        return _place([part for part in given if part != DEBUG])
    except BrokenPipeError:
        return quiet_end_of_output()
    except (Exception, KeyboardInterrupt) as error:
        status = TRY_AGAIN if isinstance(error, TrackingAway) else 2
        line = one_line(error)
        if isinstance(error, KeyboardInterrupt):
            status, line = 130, ": ".join(("interrupted", *map(str, error.args)))
        if line is None:
            raise
        if debug:
            _print_traceback(error)
        return _fail(line, status)


def _fail(line: str, status: int = 2) -> int:
    print(f"kronos: {line}", file=sys.stderr)
    return status


def _print_traceback(error: BaseException) -> None:
    """Print the traceback with every earlier exception, those too that `raise ... from None` hides."""
    part: BaseException | None = error
    while part is not None:
        part.__suppress_context__ = False
        part = part.__cause__ or part.__context__
    traceback.print_exception(error)


def _place(arguments: list[str]) -> int:
    """Run the command line, or follow rank 0 where torchrun started this process as another rank."""
    from kronos.distributed.launcher import launched, release_torchrun_workers
    from kronos.utils.interrupts import interruptible

    place = launched()
    if place is not None and place.rank > 0:  # rank 0 reads the command line and reports its mistakes
        from kronos.stages import train_worker

        train_worker.under_torchrun()
        return 0
    with interruptible():
        try:
            return _main(arguments)
        finally:
            release_torchrun_workers()


def _main(arguments: list[str]) -> int:
    from kronos.cli.arguments import asks_for_all, common_fields, help_parser, parse_flags
    from kronos.config.loading import load_config, nearest
    from kronos.stages import STAGES, execute

    if not arguments or arguments[0] in ("-h", "--help", "help") or asks_for_all(arguments[:1]):
        print(overview(asks_for_all(arguments)))
        return 0
    name, *rest = arguments
    if name == "--version":
        print(f"kronos {__version__}")
        return 0
    if name == "mlproject":
        from kronos.cli.generated_files import mlproject_command

        return mlproject_command(rest)
    if name == "fields":
        from kronos.cli.generated_files import fields_command

        return fields_command(rest)
    if name == "verify":
        from kronos.cli.verify import verify_command

        return verify_command(rest)
    if name == "to_qlib":
        from kronos.cli.to_qlib import to_qlib_command

        return to_qlib_command(rest)
    if name == "app":
        from kronos.cli.app import app_command

        return app_command(rest)
    if name in ("compare", "rerun"):
        from kronos.cli.runs import compare_command, rerun_command

        return {"compare": compare_command, "rerun": rerun_command}[name](rest)
    if name not in STAGES:
        close = nearest(name, [*STAGES, *COMMANDS])
        hint = f": did you mean {close}?" if close else ""
        raise UserError(f"unknown stage {name!r}{hint} (stages: {', '.join(STAGES)})")
    stage = STAGES[name]
    shown = None if asks_for_all(rest) else common_fields(name, stage.params)
    parser = help_parser(f"python -m kronos {name}", stage.help, stage.params, shown)
    if name == "data":
        from kronos.cli.data_check import add_flags, asked, check_command

        add_flags(parser)
        if asked(rest):
            return check_command(parser, rest)
    if name == "update":
        from kronos.cli import update

        update.add_flags(parser)
        if update.DRY_RUN in rest:
            return update.dry_run_command(parser, rest)
    if name == "refit":
        from kronos.cli import refit

        refit.add_flags(parser)
    config_path, flags, problems = parse_flags(parser, rest)
    config, notes = load_config(config_path, flags, problems)
    for note in notes:
        print(note, flush=True)
    try:
        execute(name, config)
    except KeyboardInterrupt as error:
        error.args = error.args or (stage.after_interrupt(config),)
        raise
    return 0


def overview(everything: bool = False) -> str:
    """Return the text of `python -m kronos --help`: stages, commands, and the common fields or every field."""
    from kronos.cli.arguments import COMMON, DEBUG_HELP, HELP_ALL, help_parser
    from kronos.config.schema import FIELDS
    from kronos.stages import STAGES

    width = max(map(len, (*STAGES, *COMMANDS))) + 2
    stages = "\n".join(f"  {name:<{width}}{stage.help}" for name, stage in STAGES.items())
    commands = "\n".join(f"  {name:<{width}}{text}" for name, text in COMMANDS.items())
    shown = None if everything else COMMON
    fields = help_parser("python -m kronos", "", FIELDS, shown).format_help().split("\n\n", 2)[2]
    return (
        f"usage: {USAGE}\n\nstages:\n{stages}\n\ncommands:\n{commands}\n\n"
        f"`python -m kronos STAGE --help` lists the common fields of a stage, {HELP_ALL} all that it uses.\n"
        f"Every stage and command takes {DEBUG}: {DEBUG_HELP}.\n\n{fields}"
    )


if __name__ == "__main__":
    sys.exit(main())
