"""Validation: sums and counts over the windows, equal for any number of ranks, and the measures from them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kronos.data.window_order import epoch_order
from kronos.distributed.collectives import Collectives
from kronos.distributed.device import Runtime
from kronos.training.dataloader import WindowSource, to_device
from kronos.utils.errors import UserError

PERPLEXITIES = {"val_coarse": "val_perplexity_coarse", "val_fine": "val_perplexity_fine"}
ALONE = 100  # windows per batch of `score_alone`
Totals = dict[str, tuple[Tensor, float]]


def score(
    model: nn.Module,
    objective: Any,
    source: WindowSource,
    windows: np.ndarray,
    size: int,
    *,
    runtime: Runtime,
    ranks: Collectives,
    stop: Callable[[], bool],
) -> tuple[dict[str, float] | None, tuple[float, np.ndarray] | None]:
    """Return (means over the windows, None), or (None, None) where a rank was asked to stop.

    Returns (None, (value, windows)) for a loss that is not finite, with the windows of its batch. Ranks take the
    batches in turn, so each batch is one that a single process would have.
    """
    totals: Totals = {}
    losses: list[Tensor] = []
    starts = range(runtime.rank * size, len(windows), runtime.world * size)
    stopped = False
    model.eval()
    with torch.inference_mode():
        for start in starts:
            if stopped := stop():
                break
            batch = to_device(source.batch(windows[start : start + size], None), runtime)
            with runtime.autocast():
                found = objective.score(model, batch)
            losses.append(found["val_loss"][0])
            for name, (total, count) in found.items():
                old = totals.get(name)
                totals[name] = (old[0] + total, old[1] + count) if old else (total, count)
    model.train()
    wrong = None
    for start, loss in zip(starts, torch.stack(losses).tolist() if losses else [], strict=False):
        if not math.isfinite(loss) and wrong is None:
            wrong = loss, windows[start : start + size]
    on_host = {name: (total.cpu(), count) for name, (total, count) in totals.items()}
    by_rank = ranks.all_gather((on_host, stopped, wrong))
    if any(stopped for _, stopped, _ in by_rank):
        return None, None
    for _, _, wrong in by_rank:
        if wrong is not None:
            return None, wrong
    merged: Totals = {}
    for part, _, _ in by_rank:
        for name, (total, count) in part.items():
            old = merged.get(name)
            merged[name] = (old[0] + total, old[1] + count) if old else (total, count)
    return measures(merged), None


def score_alone(
    model: nn.Module, objective: Any, source: WindowSource, most: int, seed: int, device: torch.device
) -> dict[str, float]:
    """Return the means over at most `most` fixed windows, by this process alone and in float32.

    The model, on `device`, is left in training mode. Raises UserError for a loss that is not finite.
    """
    chosen = epoch_order(len(source), min(most, len(source)), seed, None)
    runtime, ranks = Runtime(device), Collectives(0, 1)
    means, _ = score(
        model, objective, source, chosen, ALONE, runtime=runtime, ranks=ranks, stop=lambda: False
    )
    if means is None:
        raise UserError("the loss of fixed windows is not finite: the weights are damaged")
    return means


def measures(totals: Totals) -> dict[str, float]:
    """Convert sums to means, and histograms of ids to the share of ids in use and their perplexity.

    The perplexity of a mean cross-entropy, or of a histogram, is the number of equally likely ids with the same
    uncertainty.
    """
    found: dict[str, float] = {}
    for name, (total, count) in totals.items():
        if total.ndim:
            shares = total.double() / total.sum()
            found[name] = (total > 0).double().mean().item()
            found[name.replace("_use", "_perplexity")] = torch.special.entr(shares).sum().exp().item()
        else:
            found[name] = total.item() / count
            if name in PERPLEXITIES:
                found[PERPLEXITIES[name]] = math.exp(min(found[name], 700.0))
    return found
