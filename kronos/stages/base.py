"""What every stage shares: its description, what it is given, and the record that makes its output reusable."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kronos.config.loading import to_text
from kronos.config.schema import Config
from kronos.distributed.launcher import Crew
from kronos.tracking.client import Run, Tracking, versions
from kronos.utils.errors import UserError
from kronos.utils.files import PACKAGE, digest_bytes, read_json, write_json

RECORD = "summary.json"
RUN_FILE = "run.json"
# What a store is made from: fields of every source, and those that only some sources read.
STORE_FIELDS = (
    "data_source", "freq", "dataset_begin_time", "dataset_end_time", "symbols", "calendar", "adjust",
)  # fmt: skip
SOURCE_FIELDS = {
    "sample": (),
    "csv": ("data_path",),
    "qlib": ("qlib_data_path", "instrument"),
    "sina": ("sina_url", "sina_factor_url", "sina_symbols", "sina_datalen", "qlib_data_path", "instrument"),
}
SPLIT_FIELDS = (
    "train_time_range", "val_time_range", "test_time_range", "backtest_time_range", "lookback_window",
    "predict_window", "embargo", "windows_across_days",
)  # fmt: skip
# A model trained with other values of these cannot be used with the present ones: other shapes, other scales,
# or days that it must not have seen.
MODEL_FIELDS = (
    "model_preset",
    "lookback_window",
    "predict_window",
    "clip",
    "train_time_range",
    "val_time_range",
    "embargo",
)


def store_fields(config: Config) -> tuple[str, ...]:
    """The fields that decide what the store of this configuration holds; one's own class may read any of them."""
    everything = tuple(dict.fromkeys(name for names in SOURCE_FIELDS.values() for name in names))
    return (*STORE_FIELDS, *SOURCE_FIELDS.get(config.data_source, everything))


@dataclass(frozen=True)
class Work:
    """What a stage is given: the configuration, its open run, where to speak, and who trains with it."""

    config: Config
    run: Run
    tracking: Tracking
    say: Callable[[str], None]
    crew: Crew
    objective: Callable[[Config, Any], Any] | None = None  # of (config, tokenizer), instead of the public one


@dataclass(frozen=True)
class Outcome:
    """What a stage leaves: its run, the folder it wrote, and the content of the record there."""

    stage: str
    run_id: str
    folder: Path
    record: Mapping[str, Any]
    reused: bool = False


class Body(NamedTuple):
    """What a stage does: `made_from` says what its output follows from, `run` makes it and returns its record."""

    made_from: Callable[[Config], dict[str, Any]]
    run: Callable[[Work, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One step of the research loop.

    `fields` are those that its help lists, `folder` is where its output goes, and `load` imports its body, so
    that listing the stages loads neither PyTorch nor MLflow.
    """

    name: str
    help: str
    fields: tuple[str, ...]
    folder: Callable[[Config], Path]
    load: Callable[[], Body]


@cache
def code_digest() -> str:
    """Digest of the package's source: other code may give other numbers."""
    files = sorted(PACKAGE.rglob("*.py"))
    return digest_bytes(*(part for file in files for part in (file.name.encode(), file.read_bytes())))


def origin(
    stage: str, config: Config, fields: Iterable[str], inputs: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """All that a stage's output follows from; two equal origins give equal output."""
    return {
        "stage": stage,
        "fields": {name: to_text(getattr(config, name)) for name in fields},
        "inputs": dict(inputs or {}),
        "code": code_digest(),
        "versions": versions(),
    }


def key_of(made_from: Mapping[str, Any]) -> str:
    """A short name for an origin."""
    return digest_bytes(json.dumps(made_from, sort_keys=True).encode())[:16]


def working_path(folder: Path, key: str) -> Path:
    """Where output that will become `folder` grows: beside it, hidden, one an origin."""
    return folder.parent / f".{folder.name}-{key}"


def unfinished_run(folder: Path, key: str) -> str | None:
    """The MLflow run of an interrupted stage of this origin that can go on, else None."""
    working = working_path(folder, key)
    if not (working / "checkpoints" / "last").is_dir() or not (working / RUN_FILE).is_file():
        return None
    return str(read_json(working / RUN_FILE).get("run_id"))


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the named files of a folder."""
    return {name: digest_bytes((folder / name).read_bytes()) for name in names}


def write_record(
    folder: Path, made_from: Mapping[str, Any], run_id: str, outputs: Iterable[str], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `summary.json`, last of a stage's files: what the output is, follows from, and was made by."""
    record = {
        **more,
        "key": key_of(made_from),
        "run_id": run_id,
        "outputs": digests(folder, outputs),
        "made_from": dict(made_from),
    }
    write_json(folder / RECORD, record)
    return record


def finished(folder: Path, made_from: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The record of an output of this very origin that is still whole, else None and why not."""
    if not (folder / RECORD).is_file():
        return None, "there is no finished one"
    record = read_record(folder)
    if record.get("key") != key_of(made_from):
        return None, "; ".join(differences(record.get("made_from", {}), made_from)) or "it was made otherwise"
    try:
        whole = digests(folder, record["outputs"]) == record["outputs"]
    except OSError:
        whole = False
    return (record, "") if whole else (None, "its files changed")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a stage's output; a damaged one is a `UserError`."""
    record = read_json(folder / RECORD)
    if not isinstance(record, dict):
        raise UserError(
            f"{folder / RECORD} is not a record of a stage: delete {folder} and run the stage again"
        )
    return record


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where two origins differ, in words; code and versions come last."""
    found = []
    for part in ("fields", "inputs", "versions"):
        before, after = old.get(part, {}), new.get(part, {})
        found += [
            f"{name} was {before.get(name, 'unknown')}, is {after[name]}"
            for name in after
            if before.get(name) != after[name]
        ]
    if old.get("code") != new.get("code"):
        found.append("the code changed")
    return found


def refuse_other_origin(
    folder: Path, what: str, remedy: str, now: Mapping[str, Any], fields: Iterable[str]
) -> None:
    """Refuse a stored output made with other values of `fields`, or from other inputs, than `now` says.

    A folder without a record (weights from elsewhere, a store built in a notebook) is taken as it is.
    """
    if not (folder / RECORD).is_file():
        return
    before = read_record(folder).get("made_from", {})
    kept = {name: now["fields"][name] for name in fields if name in before.get("fields", {})}
    inputs = {name: value for name, value in now["inputs"].items() if name in before.get("inputs", {})}
    found = differences(
        {**before, "code": None, "versions": {}}, {"fields": kept, "inputs": inputs, "code": None}
    )
    if found:
        raise UserError(f"{what} at {folder} is from another configuration: {'; '.join(found)}: {remedy}")
