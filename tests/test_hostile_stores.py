"""Stores and checkpoints with any damage: each is refused in one line, or what is read is what was written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kronos.data.store import open_store
from kronos.model import load_predictor, load_tokenizer
from kronos.utils.errors import UserError

pytestmark = pytest.mark.nightly
MANY = settings(
    max_examples=500, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
TEXTS = st.sampled_from(
    [b"", b"{}", b"[]", b"null", b"\x00" * 64, b"[" * 5000, b'{"format": 99}', b"\xff\xfe"]
)


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """One to three damages: (what is done, where or with what), places as shares of a file."""
    share = st.floats(0, 1)
    kinds = {
        "flip": st.tuples(share, st.integers(1, 255)),
        "cut": share,
        "insert": st.tuples(share, st.binary(min_size=1, max_size=9)),
        "remove": st.tuples(share, st.integers(1, 9)),
        "zeros": st.tuples(share, st.integers(1, 4096)),
        "swap": share,
        "replace": TEXTS,
        "delete": st.none(),
        "folder": st.none(),
    }
    names = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=3))
    return [(name, draw(kinds[name])) for name in names]


def damage(file: Path, others: list[Path], how: str, what: Any) -> None:
    """Do one damage to a file, if it is there still."""
    if not file.is_file():
        return
    content = file.read_bytes()
    place = int((what[0] if isinstance(what, tuple) else what or 0) * len(content)) if how in (
        "flip", "cut", "insert", "remove", "zeros"
    ) else 0  # fmt: skip
    match how:
        case "flip" if place < len(content):
            file.write_bytes(content[:place] + bytes([content[place] ^ what[1]]) + content[place + 1 :])
        case "cut":
            file.write_bytes(content[:place])
        case "insert":
            file.write_bytes(content[:place] + what[1] + content[place:])
        case "remove":
            file.write_bytes(content[:place] + content[place + what[1] :])
        case "zeros":
            end = min(place + what[1], len(content))
            file.write_bytes(content[:place] + b"\0" * (end - place) + content[end:])
        case "swap":
            file.write_bytes(others[int(what * (len(others) - 1))].read_bytes())
        case "replace":
            file.write_bytes(what)
        case "delete" | "folder":
            file.unlink()
            if how == "folder":
                file.mkdir()


def check(
    source: Path, tmp_path: Path, name: str, done: list[tuple[str, Any]], read: Callable[[Path], Any]
) -> None:
    """Damage a copy's file; reading it gives what reading the source gives, or one line that names the copy."""
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    whole = read(folder)
    others = sorted(path for path in source.iterdir() if path.is_file())
    for how, what in done:
        damage(folder / name, others, how, what)
    try:
        found = read(folder)
    except UserError as error:
        assert str(folder) in str(error) and "\n" not in str(error) and len(str(error)) < 500
    else:
        assert found == whole


def stored(folder: Path) -> Any:
    """All that a store holds."""
    store = open_store(folder)
    arrays = (store.values, store.session, store.flags, store.offsets, store.sessions)
    return store.instruments, store.calendar, store.findings, [np.asarray(one).tobytes() for one in arrays]


def weights_of(kind: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        model = (load_tokenizer if kind == "tokenizer" else load_predictor)(folder)
        return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}

    return read


STORE = [
    "values.npy",
    "session.npy",
    "flags.npy",
    "offsets.npy",
    "sessions.npy",
    "findings.json",
    "index.json",
]


@MANY
@given(name=st.sampled_from(STORE), done=damages())
def test_a_damaged_store(sample_store: Path, tmp_path: Path, name: str, done: list[tuple[str, Any]]) -> None:
    check(sample_store, tmp_path, name, done, stored)


@MANY
@given(
    kind=st.sampled_from(["tokenizer", "predictor"]), done=damages(),
    name=st.sampled_from(["config.json", "model.safetensors"]),
)  # fmt: skip
def test_a_damaged_checkpoint(
    weights: Path, tmp_path: Path, kind: str, name: str, done: list[tuple[str, Any]]
) -> None:
    check(weights / kind, tmp_path, name, done, weights_of(kind))
