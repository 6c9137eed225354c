"""`checkpoints/last`: the complete training state, saved atomically and restored bit for bit.

The folder is a model checkpoint (config.json, model.safetensors) with two more files: `training.safetensors` holds
the optimizer's tensors, averaged weights and torch's random states, `training.json` the rest. There is no pickle.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from kronos.distributed.collectives import Collectives
from kronos.model.checkpoint import CONFIG, WEIGHTS, save_model
from kronos.training import adapters
from kronos.training.averaging import AveragedWeights
from kronos.training.optimizer import load_schedule
from kronos.training.sharding import SCALE, whole, whole_state
from kronos.utils import files
from kronos.utils.digests import altered, file_digest, read_object, with_own_digest
from kronos.utils.errors import Damaged, UserError

FORMAT = 2
REMEDY = "train anew with resume=never"
TENSORS, STATE = "training.safetensors", "training.json"
AVERAGE = "average"  # prefix of the averaged weights in TENSORS; those of the optimizer have its own names


@dataclass
class LoopState:
    """State of the training loop other than weights, optimizer, scheduler, gradient scaler and random states."""

    step: int = 0  # optimizer steps made
    evaluated_step: int = -1  # the step at which the last complete evaluation was made
    best_value: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)  # one entry per evaluation, without times
    learning_rates: list[list[float]] = field(default_factory=list)  # [step, rate] at each report
    interval: dict[str, float] = field(default_factory=dict)  # sums over the windows since the last report
    interval_windows: int = 0
    interval_seconds: float = 0.0
    learning_rate: float = 0.0  # of the last step
    epoch_loss: float = 0.0  # sum over the windows of the epoch so far
    epoch_windows: int = 0
    windows: int = 0  # trained on since the start
    overflows: int = 0  # skipped float16 steps
    overflows_in_a_row: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # per part of the loop, over all sessions


@dataclass(frozen=True)
class TrainingObjects:
    """The objects whose state a checkpoint stores, apart from the loop's own."""

    model: Any
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    averaged: AveragedWeights | None = None

    def named_parameters(self) -> list[tuple[str, nn.Parameter | torch.Tensor]]:
        """Names and trained parameters in the optimizer's order."""
        names: dict[Any, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        groups = self.optimizer.param_groups
        return [(names[parameter], parameter) for group in groups for parameter in group["params"]]


def save_last(
    folder: Path,
    training: TrainingObjects,
    state: LoopState,
    *,
    settings_key: str,
    before_rename: Callable[[], None],
    ranks: Collectives,
) -> None:
    """Write a temporary folder, call `before_rename`, then rename the folder.

    Every rank calls this, rank 0 writes. Raises UserError for an error of the disk; the previous checkpoint is
    kept then.
    """
    writes = ranks.rank == 0
    random_states = ranks.all_gather(_random_states(training.model))
    tensors = {
        f"rng/{rank}/{name}": value
        for rank, states in enumerate(random_states)
        for name, value in states.items()
    }
    weights = whole_state(training.model, writes)
    for name, parameter in training.named_parameters():
        for key, value in training.optimizer.state[parameter].items():
            full = whole(value.detach())
            if writes:
                tensors[f"{key}/{name}"] = full.cpu().contiguous()
    if training.averaged:
        average = whole_state(training.averaged.model, writes)
        tensors |= {f"{AVERAGE}/{name}": value for name, value in average.items()}
    if not writes:
        return
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in training.optimizer.param_groups
    ]
    document = {
        "format": FORMAT,
        "settings_key": settings_key,
        "loop": asdict(state),
        "scheduler": training.scheduler.state_dict(),
        "scaler": training.scaler.state_dict(),
        "optimizer": groups,
        "torch": torch.__version__,
        "ranks": ranks.world,
    }
    with _disk_errors(folder, state.step), files.atomic_folder(folder) as temporary:
        save_model(training.model, temporary, weights)
        save_file(tensors, temporary / TENSORS)
        (temporary / TENSORS).chmod(0o644)
        document["files"] = {name: file_digest(temporary / name) for name in (CONFIG, WEIGHTS, TENSORS)}
        files.write_json(temporary / STATE, with_own_digest(document))
        before_rename()


def save_best(folder: Path, model: Any, step: int, ranks: Collectives) -> None:
    """Write `best_model`: every rank calls this, rank 0 writes. Raises UserError for an error of the disk.

    An adapter is merged into the weights, and its own files are beside them in a folder.
    """
    weights = whole_state(model, ranks.rank == 0)
    if ranks.rank != 0:
        return
    with _disk_errors(folder, step):
        if not adapters.has_adapter(model):
            save_model(model, folder, weights)
            return
        with files.atomic_folder(folder) as temporary:
            save_model(model, temporary, adapters.merged(model, weights))
            adapters.save_adapter(model, weights, temporary / adapters.FOLDER)


def load_last(
    folder: Path, training: TrainingObjects, *, settings_key: str
) -> tuple[LoopState, list[dict[str, torch.Tensor]]]:
    """Restore model, optimizer, scheduler and scaler; return the loop's state and each rank's random states.

    Raises UserError for other settings, another format or a damaged checkpoint.
    """
    document = read_object(folder / STATE, REMEDY)
    try:
        for problem in altered(
            folder, document.get("files", {})
        ).values():  # earlier versions wrote no digests
            raise Damaged(problem, REMEDY)
        if document["format"] != FORMAT:
            raise UserError(
                f"{folder} has format {document['format']}, this version reads {FORMAT}: {REMEDY}"
            )
        if document["settings_key"] != settings_key:
            raise UserError(
                f"{folder} was trained with other settings (key {document['settings_key']}, now {settings_key}): "
                "train anew, or give the settings it was made with"
            )
        tensors = load_file(folder / TENSORS)
        training.model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
        parameters = training.named_parameters()
        stored: list[dict[str, torch.Tensor]] = [{} for _ in parameters]
        index_of = {name: index for index, (name, _) in enumerate(parameters)}
        for label, tensor in tensors.items():
            key, _, name = label.partition("/")
            if key not in ("rng", AVERAGE):
                stored[index_of[name]][key] = tensor
        if training.averaged:
            average = {
                label.removeprefix(f"{AVERAGE}/"): tensor
                for label, tensor in tensors.items()
                if label.startswith(f"{AVERAGE}/")
            }
            training.averaged.model.load_state_dict(average, strict=True)
        layout = training.optimizer.state_dict()["param_groups"]
        # Groups differ in their multiple of the learning rate, and in their weight decay, which the settings fix.
        own = ("params", "weight_decay")
        groups = []
        for group in layout:
            common = next(one for one in document["optimizer"] if one[SCALE] == group[SCALE])
            groups.append({**common, "betas": tuple(common["betas"]), **{key: group[key] for key in own}})
        entries = {index: entry for index, entry in enumerate(stored) if entry}
        training.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        load_schedule(training.scheduler, document["scheduler"])
        training.scaler.load_state_dict(document["scaler"])
        state = LoopState(**document["loop"])
        random_states: list[dict[str, torch.Tensor]] = [{} for _ in range(document["ranks"])]
        for label, tensor in tensors.items():
            if label.startswith("rng/"):
                _, rank, device = label.split("/")
                random_states[int(rank)][device] = tensor
    except (KeyError, StopIteration, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(
            f"{folder} is damaged or of another model ({type(error).__name__}: {error}): {REMEDY}"
        ) from error
    return state, random_states


def share_state(
    ranks: Collectives,
    training: TrainingObjects,
    state: LoopState,
    random_states: list[dict[str, torch.Tensor]],
) -> LoopState:
    """Copy what rank 0 loaded to all ranks and restore each rank's random state; return the loop's state."""
    model, optimizer = training.model, training.optimizer
    own = optimizer.state_dict()
    layout = [
        (index, key, tuple(value.shape), value.dtype, value.device.type)
        for index, entry in own["state"].items()
        for key, value in entry.items()
    ]
    states = (asdict(state), training.scheduler.state_dict(), training.scaler.state_dict())
    received = ranks.broadcast_object((states, own["param_groups"], layout, random_states))
    (document, schedule, scale), groups, layout, random_states = received
    if len(random_states) != ranks.world:
        raise UserError(
            f"the unfinished run was made by {len(random_states)} process(es), now there are {ranks.world}: "
            "use as many, or train anew with resume=never"
        )
    ranks.broadcast(model.state_dict().values())
    if training.averaged:
        ranks.broadcast(training.averaged.model.state_dict().values())
    if ranks.rank != 0:
        device = next(model.parameters()).device
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for index, key, shape, dtype, kind in layout:
            where = device if kind == device.type else torch.device(kind)
            entries.setdefault(index, {})[key] = torch.empty(shape, dtype=dtype, device=where)
        optimizer.load_state_dict({"state": entries, "param_groups": groups})
        load_schedule(training.scheduler, schedule)
        training.scaler.load_state_dict(scale)
    # The tensors are taken from state_dict() again: load_state_dict may have copied them.
    ranks.broadcast(value for entry in optimizer.state_dict()["state"].values() for value in entry.values())
    own_states = random_states[ranks.rank]
    torch.set_rng_state(own_states["cpu"])
    if "cuda" in own_states and torch.cuda.is_available():
        torch.cuda.set_rng_state(own_states["cuda"])
    return LoopState(**document)


def clear_leftovers(checkpoints: Path) -> None:
    """Remove the hidden temporary folders of a process that was killed while it saved.

    A previous checkpoint that had been moved aside, and was not replaced yet, gets its name back.
    """
    for name in ("last", "best_model"):
        for aside in sorted(checkpoints.glob(f".{name}.old.*/folder")):
            if not (checkpoints / name).exists():
                os.rename(aside, checkpoints / name)
    for leftover in checkpoints.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _disk_errors(folder: Path, step: int) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        kept = "the checkpoint before it is whole" if folder.exists() else "there is no earlier one"
        raise UserError(f"cannot save step {step} to {folder}: {error}; {kept}") from error


def _random_states(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the states of torch's global generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if next(model.parameters()).device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states
