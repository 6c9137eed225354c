"""The command `verify`: every file below a folder that has a digest is read and compared with it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kronos.cli.arguments import Parser
from kronos.data.store import INDEX, read_index
from kronos.model import checkpoint
from kronos.stages.cache import read_record, run_again
from kronos.stages.inputs import SPLITS
from kronos.stages.run_folder import RUN_FILE
from kronos.training.checkpoint import REMEDY, STATE
from kronos.utils.digests import altered, read_object
from kronos.utils.errors import UserError
from kronos.utils.files import RECORD


def verify_command(arguments: Sequence[str]) -> int:
    """`python -m kronos verify [FOLDER]`: list the damaged files. Raises UserError where there are any."""
    parser = Parser(
        prog="python -m kronos verify",
        description="Compare the files below a folder with their digests, and list the damaged ones.",
    )
    parser.add_argument("folder", nargs="?", default="outputs", metavar="FOLDER", help="default %(default)s")
    folder = Path(parser.parse_args(list(arguments)).folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the folder of the outputs")
    found: dict[Path, str] = {}
    for place in _folders(folder):
        _check(place, found)
    damaged = [problem for problem in found.values() if problem]
    for problem in damaged:
        print(problem)
    if damaged:
        raise UserError(f"{len(damaged)} of {len(found)} files in {folder} are damaged: each is listed above")
    print(f"{len(found)} files in {folder} have digests, and all of them are as they were written")
    return 0


def _folders(root: Path) -> Iterator[Path]:
    """The folder and all below it, without hidden ones except those of interrupted trainings."""
    for name, below, _ in os.walk(root):
        place = Path(name)
        yield place
        below[:] = sorted(one for one in below if one[0] != "." or (place / one / RUN_FILE).is_file())


def _check(folder: Path, found: dict[Path, str]) -> None:
    """Add each file of a folder that has a digest to `found`, with what is wrong with it, or an empty text."""

    def read(name: str, how: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if not (folder / name).is_file():
            return {}
        found.setdefault(folder / name, "")
        try:
            return how()
        except UserError as error:
            found[folder / name] = found[folder / name] or str(error)
            return {}

    def compare(digests: Mapping[str, str], remedy: str) -> None:
        wrong = altered(folder, digests)
        for name in digests:
            problem = f"{wrong[name]}; {remedy}" if name in wrong else ""
            found[folder / name] = found.get(folder / name) or problem

    record = read(RECORD, lambda: read_record(folder))
    compare(record.get("outputs", {}), run_again(record.get("made_from", {}).get("stage", "STAGE")))
    index = read(INDEX, lambda: read_index(folder))
    compare({name: one["sha256"] for name, one in index.get("files", {}).items()}, run_again("data"))
    if index.get("key") and not (folder / RECORD).is_file():  # written by the stage, whose record came last
        found[folder / RECORD] = f"{folder / RECORD} is missing; {run_again('data')}"
    read(SPLITS, lambda: read_object(folder / SPLITS, run_again("data")))
    state = read(STATE, lambda: read_object(folder / STATE, REMEDY))
    compare(state.get("files", {}), REMEDY)
    digests = read(checkpoint.DIGESTS, lambda: read_object(folder / checkpoint.DIGESTS, checkpoint.REMEDY))
    compare(digests.get("files", {}), checkpoint.REMEDY)
