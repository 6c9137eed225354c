"""The command `to_qlib`: write a bar store as a folder that Qlib reads."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kronos.cli.arguments import Parser
from kronos.data.bars import FEATURES, Flag
from kronos.data.store import BarStore, open_store
from kronos.evaluation.qlib_store import qlib_freq, write_index, write_qlib_store
from kronos.utils.errors import UserError
from kronos.utils.files import replace_folder, write_json, write_text
from kronos.utils.names import file_name

MADE_BY = "kronos.json"  # says that the folder was written by this command, so that it may be replaced


def to_qlib_command(arguments: Sequence[str]) -> int:
    """`python -m kronos to_qlib FOLDER [--dataset-path STORE]`. Raises UserError for a folder of something else."""
    parser = Parser(
        prog="python -m kronos to_qlib",
        description="Write a bar store as a folder in Qlib's own format: calendars, instruments by dates, features.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder to write, the provider_uri of qlib.init")
    parser.add_argument("--dataset-path", default="outputs/data", metavar="STORE", help="default %(default)s")
    given = parser.parse_args(list(arguments))
    store = open_store(given.dataset_path, verify=True)
    universe = to_qlib(store, given.folder)
    print(
        f"{len(store.instruments)} instruments to {pd.Timestamp(store.sessions[store.last_session]):%Y-%m-%d} are in "
        f"{given.folder}, universe {universe}: qlib.init(provider_uri={str(given.folder)!r}), or  --data-source qlib "
        f"--qlib-data-path {given.folder} --instrument {universe}"
    )
    return 0


def to_qlib(store: BarStore, folder: str | Path) -> str:
    """Write a store as a Qlib folder, as a whole or not at all, and return the name of its universe.

    Prices stay on the store's basis, so that every `factor` is 1. The universe has the days on which instruments were
    members; an index that came with the bars has its closes. Raises UserError where `folder` holds something else.
    """
    target = Path(folder)
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / MADE_BY).is_file()):
        raise UserError(
            f"{target} exists and was not written by  python -m kronos to_qlib : it would be replaced; give another "
            "folder or move it"
        )
    freq = qlib_freq(store.freq)
    target.parent.mkdir(parents=True, exist_ok=True)
    frame = store.frame((*FEATURES, "flag"))
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        made = write_qlib_store(frame, Path(scratch) / "store", store.sessions, freq)
        universe = re.match(r"\w+", str(store.source.get("universe", "")))
        name = universe[0].lower() if universe else "members"
        name = "members" if name == "all" else name
        write_text(made / "instruments" / f"{name}.txt", "".join(_spans(store)))
        if store.benchmark is not None:
            write_index(made, store.benchmark, store.sessions, freq)
        write_json(made / MADE_BY, {"digest": store.digest, "source": store.source.get("name", "")})
        replace_folder(made, target)
    return name


def _spans(store: BarStore) -> Iterator[str]:
    """Lines of an instrument and the first and last session of each span in which it was a member."""
    sessions = pd.DatetimeIndex(store.sessions.astype("datetime64[ns]"))
    pattern = "%Y-%m-%d" if bool((sessions == sessions.normalize()).all()) else "%Y-%m-%d %H:%M:%S"
    flags, places = np.asarray(store.flags), np.asarray(store.session)
    for number, name in enumerate(store.instruments):
        rows = store.symbol_rows(number)
        member = (flags[rows] & int(Flag.NONMEMBER)) == 0
        edges = np.flatnonzero(np.diff(np.concatenate([[0], member.astype(int), [0]])))
        for begin, end in zip(edges[::2], edges[1::2] - 1, strict=True):
            first, last = (sessions[places[rows][place]].strftime(pattern) for place in (begin, end))
            yield f"{file_name(name)}\t{first}\t{last}\n"
