"""The one command line: `python -m kronos STAGE --field value ...`.

Whatever may fail, the import of a package too, fails inside `main`, which answers in one line. An old Python has
to come as far as its own line, hence the annotations that are never evaluated.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from kronos import __version__
from kronos.utils.errors import TrackingAway, UserError

COMMANDS = {
    "compare": "compare RUN_ID RUN_ID ...: tracked runs side by side",
    "rerun": "rerun RUN_ID: repeat a tracked run from its own artifacts",
    "mlproject": "print the MLproject file; --check compares it, --write writes it",
    "fields": "print the table of every field; --check compares the READMEs' tables, --write writes them",
}
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
USAGE = "python -m kronos {STAGE} [--config-path FILE] [--field value ...]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit status.

    0 is done, 2 a mistake of the user's, 75 (try again, as of old) a tracking server that went away, 130 interrupted.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  this file is the one that such a Python still reads
        said = sys.version.split()[0]
        return _say(f"Python 3.11 or later is needed, this is {said}: make the environment with a newer one")
    from kronos.utils.error_messages import quiet_end_of_output, refusal, sentence, speak_any_encoding

    speak_any_encoding()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _place(given)
    except TrackingAway as error:
        return _say(str(error), TRY_AGAIN)
    except UserError as error:
        return _say(str(error))
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        return quiet_end_of_output()
    except Exception as error:
        told = sentence(error) or refusal(error)
        if told is None:
            raise
        return _say(told)


def _say(sentence: str, status: int = 2) -> int:
    print(f"kronos: {sentence}", file=sys.stderr)
    return status


def _place(arguments: list[str]) -> int:
    """What this process is for: the command line, or following torchrun's rank 0."""
    from kronos.distributed.launcher import dismiss, launched

    place = launched()
    if place is not None and place.rank > 0:  # rank 0 reads the command line, and tells of its mistakes
        from kronos.stages import train_worker

        train_worker.under_torchrun()
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _main(arguments)
    finally:
        dismiss()


def _main(arguments: list[str]) -> int:
    from kronos.cli.arguments import help_parser, parse_flags
    from kronos.config.loading import load_config, nearest
    from kronos.stages import STAGES, execute

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
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
    if name in ("compare", "rerun"):
        from kronos.cli.runs import compare_command, rerun_command

        return {"compare": compare_command, "rerun": rerun_command}[name](rest)
    if name not in STAGES:
        close = nearest(name, [*STAGES, *COMMANDS])
        hint = f": did you mean {close}?" if close else ""
        raise UserError(f"unknown stage {name!r}{hint} (stages: {', '.join(STAGES)})")
    stage = STAGES[name]
    parser = help_parser(f"python -m kronos {name}", stage.help, stage.params)
    config_path, flags, problems = parse_flags(parser, rest)
    config, notes = load_config(config_path, flags, problems)
    for note in notes:
        print(note, flush=True)
    execute(name, config)
    return 0


def overview() -> str:
    """The text of `python -m kronos --help`: stages, then every field with its default and help."""
    from kronos.cli.arguments import help_parser
    from kronos.config.schema import FIELDS
    from kronos.stages import STAGES

    stages = "\n".join(f"  {name:<12}{stage.help}" for name, stage in STAGES.items())
    commands = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    fields = help_parser("python -m kronos", "", FIELDS).format_help().split("\n\n", 2)[2]
    return (
        f"usage: {USAGE}\n\nstages:\n{stages}\n\ncommands:\n{commands}\n\n"
        f"`python -m kronos STAGE --help` lists the fields that a stage uses.\n\n{fields}"
    )


def _interrupt(signum: int, frame: object) -> NoReturn:
    """SIGTERM ends a run as Ctrl-C does: cleanly, with its MLflow run marked KILLED."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
