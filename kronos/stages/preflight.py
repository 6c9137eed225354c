"""What can be known to fail before a stage begins: checked in its first seconds, all problems in one message.

Estimates of memory and disk space are low ones, so that nothing that would have worked is refused: memory is that of
the weights, the optimizer and about three quarters of the activations (`MARGIN`), disk space that of the files whose
size follows from the configuration.
"""

import importlib.util
import os
import re
import shutil
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kronos.config.loading import to_text
from kronos.config.registries import CLIENTS
from kronos.config.schema import Config
from kronos.data.store import INDEX
from kronos.distributed.launcher import Place, launched
from kronos.evaluation import benchmark
from kronos.stages.additions import addition_problems
from kronos.stages.addresses import check_addresses
from kronos.stages.base import Stage
from kronos.stages.cache import read_record
from kronos.stages.inputs import stored_bars
from kronos.stages.train_setup import adapter_problem, features_problem
from kronos.stages.weights import KINDS, Kind, pretrained_address
from kronos.tracking.client import database_file
from kronos.tracking.model_registry import ADDRESSES
from kronos.utils.error_messages import OPTIONAL
from kronos.utils.errors import UserError
from kronos.utils.files import RECORD, given_path

FORECAST = ("backtest", "predict", "walk_forward")
TESTED = ("backtest", "walk_forward")
PACKAGES = {
    "backtest": ("qlib",),
    "walk_forward": ("qlib",),
    "search": ("optuna",),
    "predict": ("matplotlib",),
}
FORMAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_BYTES = 16  # per weight: itself, its gradient and AdamW's two moments, in float32
# Values kept for the backward pass, per layer and bar, in units of 6 d_model + 3 ff_dim; measured are 1.3 to 1.7 of
# the tokenizers and 2.1 to 2.7 of the predictors.
MARGIN = {"tokenizer": 1.2, "predictor": 1.8}
CONNECT_SECONDS = 5.0
LONGEST_NAME = 200  # bytes of a folder's name: 255 less what locks and temporary folders add
BAR_BYTES = 24  # of a stored bar: six values in float32
GIB = 2**30


def check(stage: Stage, config: Config) -> None:
    """Raise UserError with everything that would make a stage fail later; takes a few seconds at most."""
    parts, found = {part.name: part for part in stage.parts(config)}, []
    try:
        stage.check(config)
    except UserError as error:
        found.append(str(error))
    wrong = [*check_addresses(config, "search" in parts)]
    found += [
        *_packages(parts, config),
        *_writable(stage, parts, config),
        *_foreign(parts, config),
        *(wrong or _reachable(config.tracking.tracking_uri)),
        *_files(parts, config),
    ]
    try:
        found += [*_memory(parts, config)]
    except UserError as error:  # the device or its precision
        found.append(str(error))
    found += _disk(parts, config)
    if found:
        raise UserError(found[0] if len(found) == 1 else "\n  ".join([f"{len(found)} problems:", *found]))


def _trained(name: str, config: Config) -> tuple[Kind, ...]:
    """The models that a stage trains, except for the trials of a search."""
    if name == "walk_forward":
        return KINDS if config.backtest.walk_forward_refit else ()
    return tuple(kind for kind in KINDS if kind == name)


def _fitted(name: str, config: Config) -> tuple[Kind, ...]:
    """The models that a stage trains, in the trials of a search too."""
    if name != "search":
        return _trained(name, config)
    wanted = config.search.search_stage
    return tuple(kind for kind in KINDS if wanted in (kind, "both"))


def _packages(parts: dict[str, Stage], config: Config) -> Iterator[str]:
    """Packages that a stage imports only when it comes to them."""
    needed = {name: None for part in parts for name in PACKAGES.get(part, ())}
    if "data" in parts and config.data.data_source.lower() == "qlib":
        needed["qlib"] = None
    if "data" in parts and config.data.data_source.lower() in CLIENTS:
        needed[config.data.data_source.lower()] = None
    if set(TESTED) & parts.keys() and config.backtest.baseline_lightgbm:
        needed["lightgbm"] = None
    if config.training.adapter != "none" and any(_fitted(name, config) or name == "head" for name in parts):
        needed["peft"] = None
    for name in needed:
        if not _installed(name):
            remedy = OPTIONAL.get(name, "pip install -r requirements.txt  in the clone")
            yield f"the package {name} is not installed: run  {remedy}"


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # the name of a module that was made to be missing
        return False


def outputs(stage: Stage, parts: dict[str, Stage], config: Config) -> dict[str, Path]:
    """The folders that a stage writes, by what they hold."""
    found = {"the bar store" if name == "data" else f"the output of {name}": part.folder(config)
             for name, part in parts.items()}  # fmt: skip
    if "data" in parts and config.data.data_source.lower() in ("auto", "sina", *CLIENTS):
        found["the cache of downloaded bars"] = Path(config.data.cache_path)
    return {f"the output of {stage.name}": stage.folder(config), **found}


def _writable(stage: Stage, parts: dict[str, Stage], config: Config) -> Iterator[str]:
    """Folders that cannot be made or written, one sentence for each place."""
    refused: dict[Path, list[str]] = {}
    for what, folder in outputs(stage, parts, config).items():
        place = _existing(folder)
        whole = folder.absolute()
        link = next(
            (one for one in (whole, *whole.parents) if os.path.islink(one) and not os.path.exists(one)), None
        )
        longest = max(len(os.fsencode(part)) for part in whole.parts)
        if link is not None:
            yield f"{link} is a link to {os.readlink(link)}, which is not there: make it, or remove the link"
        elif longest > LONGEST_NAME:
            yield f"a name of {longest} bytes is too long for {what}: at most {LONGEST_NAME} are possible"
        elif not place.is_dir():
            yield f"{place} is a file, a folder was expected there for {what}: move it away, or give another folder"
        elif not os.access(place, os.W_OK | os.X_OK):
            refused.setdefault(place, []).append(what)
    database = database_file(config.tracking.tracking_uri)
    if database is not None and not os.access(place := _existing(database), os.W_OK):
        refused.setdefault(place, []).append(f"the tracking store {database.name}")
    for place, whats in refused.items():
        yield (
            f"no permission to write to {place}, where {', '.join(whats)} would be: run in a folder that you can "
            "write to, or give another one"
        )


def _foreign(parts: dict[str, Stage], config: Config) -> Iterator[str]:
    """Folders of something else than an earlier output, which the new output would replace as a whole."""
    for name, part in parts.items():
        folder = part.folder(config)
        if part.resumable or not part.cached or not folder.is_dir():
            continue  # what is resumed writes into its folder and replaces nothing
        own = INDEX if name == "data" else RECORD
        there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if there and own not in there:
            yield (
                f"{folder} holds {', '.join(there[:3])}{' and more' * (len(there) > 3)}, not an output of {name}, "
                "which would replace it: move it away, or give another folder"
            )


def _existing(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    whole = path.absolute()
    return next(one for one in (whole, *whole.parents) if os.path.exists(one))


def _reachable(uri: str | None) -> Iterator[str]:
    """Whether a tracking server accepts connections; a proxy would answer in its place."""
    address = uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return
    if any(os.environ.get(name) for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")):
        return
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        yield f"MLflow at {address} does not answer: {error}"


def _files(parts: dict[str, Stage], config: Config) -> Iterator[str]:
    """Files and folders of the configuration that are read only after other work, and weights that lack."""
    fitted = [kind for kind in KINDS if any(kind in _fitted(name, config) for name in parts)]
    yield from filter(
        None, (features_problem(fitted, config), *(adapter_problem(kind, config) for kind in fitted))
    )
    if "predictor" in fitted:
        yield from addition_problems(config)
    for kind in KINDS:
        if any(kind in _trained(name, config) for name in parts):
            address = pretrained_address(kind, config)
            hub = address is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", address)
            if address and not hub and not address.startswith(ADDRESSES) and not given_path(address).is_dir():
                yield f"pretrained_{kind}_path: there is no folder {address}: give a folder, a Hub name, or none"
    wanted = config.backtest.backtest_benchmark
    if set(TESTED) & parts.keys() and wanted.lower().endswith(".csv") and not given_path(wanted).is_file():
        yield f"backtest_benchmark: there is no file {wanted}"
    elif set(TESTED) & parts.keys() and "data" not in parts:
        try:
            check_benchmark(config)
        except UserError as error:
            yield str(error)


def check_benchmark(config: Config) -> None:
    """Raise UserError for a benchmark that the stored bars do not have; a pipeline asks after its data stage."""
    try:
        store = stored_bars(config)
    except UserError:  # the stage says so when it opens its inputs
        return
    benchmark.check(config, store)


def _memory(parts: dict[str, Stage], config: Config) -> Iterator[str]:
    """The device, the precision, and the memory of the first batch of each training."""
    trained = [kind for kind in KINDS if any(kind in _trained(name, config) for name in parts)]
    tried = "search" in parts
    if not trained and not tried and not set(FORECAST) & parts.keys():
        return
    from kronos.distributed.device import choose, free_memory

    launch = config.launch
    local = launched() or Place(0, launch.nproc_per_node, 0, launch.nproc_per_node)
    runtime = choose(
        launch.device, launch.cpu, config.training.precision if trained or tried else "auto", local
    )
    batch = config.training.batch_size
    if tried:  # a trial that runs out of memory ends alone, and the search avoids its size
        stage = config.search.search_stage
        trained, batch = list(KINDS) if stage == "both" else [stage], min(config.search.search_batch_size)
    sharing = local.local_world if runtime.device.type == "cpu" else 1
    free = free_memory(runtime.device)
    for kind in trained:
        each = batch_memory(kind, config, batch, FORMAT_BYTES[str(runtime.dtype).removeprefix("torch.")])
        if sharing * each > free:
            processes = f" in {sharing} processes" if sharing > 1 else ""
            field = "search_batch_size" if tried else "batch_size"
            yield (
                f"memory: the first batch of the {kind} needs at least {sharing * each / GIB:.1f} GiB{processes} "
                f"({batch} windows of {config.window_length} bars, model_preset {config.model.model_preset}), but "
                f"{free / GIB:.1f} GiB is free on {runtime.device}: lower {field} and raise "
                "accumulation_steps, or take a smaller model_preset"
            )


def batch_memory(kind: Kind, config: Config, batch: int, value_bytes: int) -> int:
    """A low estimate of the bytes that training holds during a step of `batch` windows."""
    shape = _shape(kind, config.model.model_preset)
    layers = shape["n_layers"] if kind == "predictor" else shape["n_enc_layers"] + shape["n_dec_layers"]
    if kind == "predictor":
        layers = max(1, layers - config.training.freeze_blocks)
    values = MARGIN[kind] * (6 * shape["d_model"] + 3 * shape["ff_dim"])
    activations = batch * config.window_length * layers * values * value_bytes
    weights = parameters(kind, config.model.model_preset)
    frozen = config.training.adapter != "none" or (kind == "predictor" and config.training.freeze_blocks)
    return int(activations) + (4 if frozen else OPTIMIZER_BYTES) * weights


def _shape(kind: Kind, preset: str) -> dict[str, Any]:
    from kronos.model.presets import PREDICTOR_PRESETS, TOKENIZER_PRESETS, tokenizer_preset_for

    return (
        PREDICTOR_PRESETS[preset] if kind == "predictor" else TOKENIZER_PRESETS[tokenizer_preset_for(preset)]
    )


@cache
def parameters(kind: Kind, preset: str) -> int:
    """The number of weights of a preset, counted without making them."""
    import torch

    from kronos.model.presets import build_model

    with torch.device("meta"):
        model = build_model(kind, _shape(kind, preset))
    return sum(weight.numel() for weight in model.parameters())


def _disk(parts: dict[str, Stage], config: Config) -> Iterator[str]:
    """File systems with less space than the stages will need at the same time."""
    needs: dict[int, tuple[Path, list[tuple[str, int]]]] = {}
    for what, folder, size in disk_space(parts, config):
        place = _existing(folder)
        needs.setdefault(place.stat().st_dev, (place, []))[1].append((what, size))
    for place, items in needs.values():
        needed, free = sum(size for _, size in items), shutil.disk_usage(place).free
        if needed > free:
            listed = ", ".join(f"{what} {_size(size)}" for what, size in items)
            yield (
                f"disk: at least {_size(needed)} are needed ({listed}), but {_size(free)} are free on the disk of "
                f"{place}: free some space, or give folders on another disk"
            )


def disk_space(parts: dict[str, Stage], config: Config) -> Iterator[tuple[str, Path, int]]:
    """(what, folder, bytes) of the files whose size follows from the configuration; none for stages that are reused.

    A training writes its last checkpoint (weights and two moments) anew before the old one is deleted, beside its
    best weights; that of an adapter has no moments of the weights that stay. Its weights are copied to MLflow, those
    of the predictor twice, for the served model.
    """
    database = database_file(config.tracking.tracking_uri)
    for name, part in parts.items():
        if _is_made(part, config):
            continue
        if name == "data" and (rows := _source_size(config)):
            yield "the bar store", part.folder(config), rows
        for kind in _trained(name, config):
            weights = 4 * parameters(kind, config.model.model_preset)
            folder = part.folder(config)
            yield (
                f"checkpoints of the {kind}",
                folder,
                (7 if config.training.adapter == "none" else 3) * weights,
            )
            if database is not None:  # MLflow's folder of artifacts is beside it
                yield f"the {kind} in MLflow", database.parent, (2 if kind == "predictor" else 1) * weights


def _is_made(part: Stage, config: Config) -> bool:
    """Whether a stage has an output of these fields, which it will probably reuse."""
    fields = {name: to_text(getattr(config, name)) for name in part.key_fields(config)}
    folder = part.folder(config)
    if not config.tracking.reuse or not (folder / RECORD).is_file():
        return False
    try:
        return bool(read_record(folder).get("made_from", {}).get("fields") == fields)
    except UserError:  # damaged, so that it is made again
        return False


def _source_size(config: Config) -> int:
    """A low estimate of the store of bars: half of what Qlib's files hold, or of the bytes of a file or folder.

    A row of text takes more bytes than a stored bar. Sina's answers are short: at most `sina_datalen` bars each.
    """
    data = config.data
    if data.data_source.lower() == "qlib" and data.qlib_data_path and not data.symbols:
        from kronos.data.sources.qlib import QlibStore

        try:
            store = QlibStore(data.qlib_data_path, "day" if data.freq == "auto" else data.freq)
            bars = store.least_bars(data.instrument, data.dataset_begin_time, data.dataset_end_time)
        except UserError:  # told by the data stage, with what there is instead
            return 0
        return bars * BAR_BYTES // 2
    if config.data.data_source.lower() != "csv" or not config.data.data_path:
        return 0
    path = given_path(config.data.data_path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) // 2


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
