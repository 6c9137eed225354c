"""Checkpoint folders: config.json, model.safetensors and their digests, saved atomically, checked when loaded."""

import hashlib
import inspect
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kronos.model.hub import download, is_hub_name
from kronos.utils import files
from kronos.utils.digests import altered, file_digest, read_object, with_own_digest
from kronos.utils.errors import Damaged, UserError
from kronos.utils.files import given_path

CONFIG, WEIGHTS = "config.json", "model.safetensors"
DIGESTS = "digests.json"  # of the two files; other programs need not have it
REMEDY = "download or save it again"
MOST_BITS = 20  # of one code: a table of 2**20 rows is far above the public models' 2**10
Model = TypeVar("Model", bound=nn.Module)


def save_model(model: Any, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
    """Write the folder under a temporary name, then rename it; an old folder of that name is replaced.

    `state` is the model's state dict where its own tensors are sharded.
    """
    from safetensors.torch import save_file

    with files.atomic_folder(folder) as temporary:
        files.write_json(temporary / CONFIG, model.config)
        save_file(_state(model) if state is None else state, temporary / WEIGHTS, metadata={"format": "pt"})
        (temporary / WEIGHTS).chmod(0o644)
        digests = {name: file_digest(temporary / name) for name in (CONFIG, WEIGHTS)}
        files.write_json(temporary / DIGESTS, with_own_digest({"files": digests}))


def load(kind: type[Model], path_or_name: str | Path, revision: str | None = None) -> Model:
    """Build `kind` from a checkpoint and fill it, in evaluation mode; torch's random state is not touched.

    Raises UserError where the folder, a file, a constructor argument, a key or a shape is not as expected.
    """
    folder = find_folder(path_or_name, revision)
    config, stored = read_saved(folder)
    config = _arguments(kind, config, folder)
    _check_sizes(kind, config, stored, folder)
    try:
        with torch.device("meta"), _NoInitialisation():  # of weights that are overwritten
            model = kind(**config)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(
            f"{folder / CONFIG} holds arguments of which no {kind.__name__} can be made: {error}"
        ) from None
    _check_keys(model, stored, folder)
    model.to_empty(device="cpu")
    model.load_state_dict(stored, strict=True)
    return model.eval()


class _NoInitialisation(TorchFunctionMode):
    """Leave weights as they are allocated. On the meta device, drawing them imports torch._dynamo, for a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def find_folder(path_or_name: str | Path, revision: str | None = None) -> Path:
    """Return the folder itself, or the local copy of a Hub repository."""
    folder = given_path(path_or_name)
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"revision {revision} with the folder {folder}: a revision is for Hub names only")
        return folder
    if folder.exists():
        raise UserError(f"{folder} is a file: give the folder that holds {CONFIG} and {WEIGHTS}")
    if isinstance(path_or_name, str) and is_hub_name(path_or_name):
        return download(path_or_name, (CONFIG, WEIGHTS), revision)
    raise UserError(
        f"no folder {folder}: give one that holds {CONFIG} and {WEIGHTS}, or a Hub name (owner/name)"
    )


def check_pair(tokenizer: Any, predictor: Any) -> None:
    """Raise UserError where the tokenizer and the predictor have different numbers of bits."""
    gives = (tokenizer.config["s1_bits"], tokenizer.config["s2_bits"])
    expects = (predictor.config["s1_bits"], predictor.config["s2_bits"])
    if gives != expects:
        raise UserError(
            f"tokenizer gives {gives[0]}+{gives[1]} bits, predictor expects {expects[0]}+{expects[1]}: "
            "they were not trained together"
        )


def digest(model: Any) -> str:
    """Return the SHA-256 of the configuration and the weights (float32 bytes, by sorted name)."""
    total = hashlib.sha256(json.dumps(model.config, sort_keys=True).encode())
    for name, tensor in sorted(_state(model).items()):
        wide = tensor.float() if tensor.is_floating_point() else tensor
        total.update(name.encode())
        total.update(wide.numpy().tobytes())
    return total.hexdigest()


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def read_saved(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return configuration and weights of a checkpoint as they are in its files, compared with their digests.

    `save_model` writes the digests; each file is compared once per process. Checkpoints of other programs and of
    earlier versions have none and are accepted. Raises UserError where a file is missing, and Damaged where one was
    altered or cannot be read.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}: give the folder of a tokenizer or predictor, or save it again"
            )
    if (folder / DIGESTS).is_file():
        digests = read_object(folder / DIGESTS, REMEDY).get("files", {})
        for problem in altered(folder, digests).values():
            raise Damaged(problem, f"{REMEDY}, or delete {DIGESTS} beside it if you changed it yourself")
    return _read_config(folder), _read_weights(folder / WEIGHTS)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = files.read_json(folder / CONFIG)
    except UserError as error:
        raise Damaged(str(error), REMEDY) from None
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} holds a {type(config).__name__}, expected an object of arguments")
    return config


def _arguments(kind: type[nn.Module], config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the constructor's arguments; other keys are ignored, as by the public loader.

    Arguments with a default are additions to the public models, and most checkpoints do not have them.
    """
    parameters = inspect.signature(kind).parameters.items()
    wanted = [name for name, one in parameters if name in config or one.default is one.empty]
    missing = [name for name in wanted if name not in config]
    if missing:
        raise UserError(f"{folder / CONFIG} lacks {', '.join(missing)}: it is not that of a {kind.__name__}")
    return {name: config[name] for name in wanted}


def _check_sizes(
    kind: type[nn.Module], config: dict[str, Any], stored: dict[str, Tensor], folder: Path
) -> None:
    """Raise UserError where an argument has another type than the constructor's, or a size that no weights can fill.

    The model is built before its keys are compared, so that a layer count of 10**9 would otherwise take hours.
    """
    values = sum(tensor.numel() for tensor in stored.values())
    for name, value in config.items():
        expected = inspect.signature(kind).parameters[name].annotation
        if expected is bool and not isinstance(value, bool):
            wanted = "true or false"
        elif expected is float and not (type(value) in (int, float) and math.isfinite(value)):
            wanted = "a finite number"
        elif expected is int:
            most = (
                MOST_BITS if name.endswith("bits")
                else len(stored) + 1 if name.endswith("layers")  # each layer has a weight; tokenizers build one fewer
                else max(1, values)
            )  # fmt: skip
            if type(value) is int and 1 <= value <= most:
                continue
            wanted = f"a whole number from 1 to {most}, which the {values} values of {WEIGHTS} can fill"
        else:
            continue
        raise UserError(f"{folder / CONFIG} has {name} {_short(value)}, expected {wanted}: {REMEDY}")


def _short(value: Any) -> str:
    text = (
        json.dumps(value)
        if not isinstance(value, int) or abs(value) < 10**40
        else "a number of over 40 digits"
    )
    return text if len(text) <= 40 else text[:40] + "..."


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    expected = _expected_size(path)
    size = path.stat().st_size
    if expected is None or size != expected:
        says = "no safetensors header" if expected is None else f"its header says {expected} bytes"
        raise Damaged(f"{path} is damaged: {size} bytes, {says}", REMEDY)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} cannot be read: {error}", REMEDY) from None


def _expected_size(path: Path) -> int | None:
    """Return the file size that a safetensors header implies, None where there is no such header."""
    with open(path, "rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            return None
        (length,) = struct.unpack("<Q", start)
        if length > path.stat().st_size:
            return None
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None
    return 8 + length + max(ends, default=0)


def _check_keys(model: nn.Module, stored: dict[str, Tensor], folder: Path) -> None:
    """Raise UserError that names missing keys, unexpected keys and differing shapes, a few of each."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    problems = []
    if missing := [name for name in wanted if name not in found]:
        problems.append(f"missing {_some(missing)}")
    if extra := [name for name in found if name not in wanted]:
        problems.append(f"not expected {_some(extra)}")
    if differ := [
        f"{name} is {list(found[name])}, {CONFIG} says {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]:
        problems.append(_some(differ))
    if problems:
        raise UserError(f"{folder / WEIGHTS} does not fit a {type(model).__name__}: {'; '.join(problems)}")
    for name, tensor in stored.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{folder / WEIGHTS} cannot be used: {name} has values that are no finite numbers"
            )


def _some(items: list[str], most: int = 3) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
