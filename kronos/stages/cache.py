"""The cache of finished stages: the cache key of a stage, and the record in its output folder.

The key of a stage is the digest of its name, the values of the fields that can change its numbers, the digests of
its inputs, the code that it uses, and the versions of the packages that can change its numbers. Comments, docstrings
and modules that only report, track or launch are not part of it.
"""

import ast
import inspect
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from kronos.config.loading import to_text
from kronos.config.schema import Config
from kronos.stages.base import Inputs, Stage
from kronos.tracking.client import versions
from kronos.utils.digests import altered, file_digest, read_object, with_own_digest
from kronos.utils.errors import Damaged, UserError
from kronos.utils.files import PACKAGE, RECORD, digest_bytes, write_json

# By a file or folder beside it: the stage that wrote a record which no longer says so.
WRITTEN_BY = {
    "index.json": "data", "predictions.parquet": "backtest", "forecast.csv": "predict", "head.json": "head",
    "checkpoints/tokenizer": "predictor", "checkpoints": "tokenizer",
}  # fmt: skip
# Packages and modules whose code cannot change a stage's numbers.
NO_NUMBERS = (
    "kronos.__main__", "kronos.cli", "kronos.config", "kronos.distributed.launcher",
    "kronos.distributed.child_process", "kronos.distributed.shards_folder", "kronos.distributed.work_list",
    "kronos.forecast.shards", "kronos.report", "kronos.tracking", "kronos.utils", "kronos.stages.base",
    "kronos.stages.cache",
    "kronos.stages.model_logging", "kronos.stages.provenance", "kronos.stages.run_folder", "kronos.stages.runner",
    "kronos.stages.train_worker", "kronos.stages.search",
)  # fmt: skip
NUMBERS = ("kronos.utils.random_keys", "kronos.report.content")  # modules of these packages that can
SAME_MODEL = (
    "model_preset",
    "lookback_window",
    "predict_window",
    "clip",
)  # a model trained with other values of these fields cannot be used
# How a changed input is named in messages, by its name in `Inputs.digests`; the others show both values.
CHANGED_INPUTS = {
    "bars": "the bars have changed",
    "source": "the source data have changed",
    "tokenizer": "the tokenizer has other weights",
    "predictor": "the predictor has other weights",
    "pretrained": "the pretrained weights have changed",
    "pretrained_tokenizer": "pretrained_tokenizer_path: other weights",
    "pretrained_predictor": "pretrained_predictor_path: other weights",
    "before": "the weights that the models were trained from have changed",
    "signals": "the registered signals have changed",
    "benchmark": "the benchmark has changed",
    "seen": "the days that the models were trained on have changed",
    "objective": "the training objective has changed",
}
DIGEST = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b")


def key_parts(stage: Stage, config: Config, inputs: Inputs, objective: Any = None) -> dict[str, Any]:
    """Everything that decides a stage's output; equal parts give equal output."""
    digests = dict(inputs.digests)
    if objective is not None:
        digests["objective"] = source_digest(objective)
    return {
        "stage": stage.name,
        "fields": {name: to_text(getattr(config, name)) for name in stage.key_fields(config)},
        "inputs": digests,
        "code": code_digest(type(stage).__module__, *stage.code(config)),
        "versions": {name: text for name, text in versions(stage.packages).items() if name != "python"},
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """The cache key: a short digest of `key_parts`."""
    return digest_bytes(json.dumps(parts, sort_keys=True).encode())[:16]


@cache
def code_digest(*modules: str) -> str:
    """Digest of the code of some modules and of all project modules that they import, without comments."""
    files = _imported_from(modules)
    return digest_bytes(
        *(part for name in sorted(files) for part in (name.encode(), _code(files[name]).encode()))
    )


def forecast_code() -> str:
    """Digest of the code and of the package versions that forecasts depend on."""
    texts = [
        code_digest("kronos.forecast.store_forecaster"),
        *map(str, sorted(versions(("torch", "numpy")).items())),
    ]
    return digest_bytes("/".join(texts).encode())


def _imported_from(modules: Iterable[str]) -> dict[str, Path]:
    """{module: file} of the modules and all that they import, as far as it can change a stage's numbers."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        if file is None or name in found or not has_numbers(name):
            continue
        found[name] = file
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
    return found


def has_numbers(module: str) -> bool:
    """Whether the code of a project module can change a stage's numbers."""
    if module in NUMBERS:
        return True
    return not any(module == name or module.startswith(f"{name}.") for name in NO_NUMBERS)


def _file_of(module: str) -> Path | None:
    """Source file of a module of this project or of a registered stage's module; None for any other module."""
    parts = module.split(".")
    if parts[0] != "kronos":
        loaded = getattr(sys.modules.get(module), "__file__", None)
        return Path(loaded) if loaded and module in _stage_modules else None
    path = PACKAGE.joinpath(*parts[1:])
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


_stage_modules: set[str] = set()  # modules outside the package whose stages were added to STAGES


def know_module(name: str) -> None:
    """Include the code of a module outside the package in the cache keys of its stages."""
    _stage_modules.add(name)


@cache
def _code(file: Path) -> str:
    """A file's syntax tree as text, without docstrings, comments and layout."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)


def source_digest(function: Any) -> str:
    """Name and digest of a user's callable: the source of its modules, and the values that it has captured.

    The modules are the one that defines it and the user's own modules that this one imports. A captured value whose
    `repr` is not stable makes the digest differ in each process, so that the stage is run again.
    """
    if isinstance(function, partial):
        bound = [
            source_digest(function.func),
            *map(_value, function.args),
            *map(_value, function.keywords.items()),
        ]
        return f"partial {digest_bytes(*(text.encode() for text in bound))[:16]}"
    if not hasattr(function, "__qualname__"):  # an object that can be called
        kind = type(function)
        texts = [_source_of(kind), *map(_value, sorted(vars(function).items()))]
        return f"{kind.__qualname__} {digest_bytes(*(text.encode() for text in texts))[:16]}"
    cells = getattr(function, "__closure__", None) or ()
    values = [*(cell.cell_contents for cell in cells), *(getattr(function, "__defaults__", None) or ())]
    texts = [_source_of(function), *map(_value, values)]
    return f"{function.__qualname__} {digest_bytes(*(text.encode() for text in texts))[:16]}"


def _value(value: Any) -> str:
    return source_digest(value) if callable(value) else repr(value)


def _source_of(what: Any) -> str:
    """Source of the module that defines a function or class, and of the user's modules that it imports."""
    module = inspect.getmodule(what)
    if module is None or getattr(module, "__file__", None) is None:  # defined in an interactive session
        return what.__code__.co_code.hex() if inspect.isfunction(what) else repr(what)
    texts: dict[str, str] = {}
    waiting = [module.__name__]
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in texts or not file or not _is_users(Path(file)):
            continue
        texts[name] = Path(file).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(texts[name])):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return "\n".join(texts[name] for name in sorted(texts)) or inspect.getsource(what)


def _is_users(file: Path) -> bool:
    """Whether a module is the user's own: not of this package, not installed, not of the standard library."""
    if file.suffix != ".py" or file.is_relative_to(PACKAGE):
        return False
    installed = {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return "site-packages" not in file.parts and not any(file.is_relative_to(path) for path in installed)


def write_record(
    folder: Path, parts: Mapping[str, Any], run_id: str, outputs: Iterable[str], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `summary.json`, the last file of a stage: its cache key and parts, run id, and file digests."""
    record = with_own_digest({
        **more,
        "key": key_of(parts),
        "run_id": run_id,
        "outputs": file_digests(folder, outputs),
        "made_from": dict(parts),
    })  # fmt: skip
    write_json(folder / RECORD, record)
    return record


def rewrite_record(folder: Path, record: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """Write a record with other entries than it had, whose key and run stay."""
    new = with_own_digest({**record, **changed})
    write_json(folder / RECORD, new)
    return new


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the named files of a folder."""
    return {name: file_digest(folder / name) for name in names}


def finished(folder: Path, parts: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """(record, "") of a finished output with this key and unchanged files, else (None, the reason)."""
    if not (folder / RECORD).is_file():
        return None, "there is no finished output"
    try:
        record = read_record(folder)
    except Damaged as error:
        return None, error.what
    if record.get("key") != key_of(parts):
        return None, "; ".join(differences(record.get("made_from", {}), parts)) or "its record does not match"
    damaged = altered(folder, record.get("outputs", {}))
    return (None, "; ".join(damaged.values())) if damaged else (record, "")


def copy_record(record: Mapping[str, Any], folder: Path) -> None:
    """Write the record of weights into a folder with a copy of them, which has none of the stage's other files."""
    write_json(folder / RECORD, with_own_digest({**record, "outputs": {}}))


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a stage's output. Raises Damaged where it was altered or is not a JSON object."""
    try:
        return read_object(folder / RECORD, "run its stage again")
    except Damaged as error:
        text = (folder / RECORD).read_text(encoding="utf-8", errors="replace")
        stages = re.findall(r'"stage": "(\w+)"', text)[-1:]
        stages += [stage for name, stage in WRITTEN_BY.items() if (folder / name).exists()][:1]
        raise Damaged(error.what, run_again(stages[0]) if stages else "run its stage again") from None


def run_again(stage: str) -> str:
    """The command that makes a stage's output anew, as a remedy in messages."""
    return f"run  python -m kronos {stage}  again"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List what differs between two cache keys, one phrase per field, input or package; the code comes last."""
    found = []
    for part in ("fields", "inputs", "versions"):
        before, after = old.get(part, {}), new.get(part, {})
        found += [
            _change(part, name, str(before.get(name, "unknown")), str(after[name]))
            for name in after
            if before.get(name) != after[name]
        ]
    if old.get("code") != new.get("code"):
        found.append("the code has changed")
    return found


def _change(part: str, name: str, before: str, after: str) -> str:
    """One difference in words. Digests of inputs are not shown, since a user cannot read them."""
    if part == "inputs" and name in CHANGED_INPUTS:
        return CHANGED_INPUTS[name]
    if DIGEST.search(before) or DIGEST.search(after):
        return f"{name} has changed"
    return f"{name} was {before}, is {after}"


def refuse_other_configuration(
    folder: Path, what: str, remedy: str, fields: Mapping[str, str], inputs: Mapping[str, str]
) -> None:
    """Raise UserError for a stored output that was made with other values of `fields` or from other `inputs`.

    Only names that the output's record contains are compared. A folder without a record (weights from elsewhere, a
    store built in a notebook) is accepted.
    """
    if not (folder / RECORD).is_file():
        return
    before = read_record(folder).get("made_from", {})
    now = {
        part: {name: text for name, text in given.items() if name in before.get(part, {})}
        for part, given in (("fields", fields), ("inputs", inputs))
    }
    found = differences({**before, "code": None, "versions": {}}, {**now, "code": None})
    if found:
        raise UserError(f"{what} at {folder} is from another configuration: {'; '.join(found)}: {remedy}")
