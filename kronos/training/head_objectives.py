"""The objective of a head: squared error, cross-entropy or a pairwise ranking loss of one number per instrument.

Axes: B examples of a batch, G instruments of an example (1, or the group of one day that is ranked).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kronos.data.head_windows import HeadBatch
from kronos.data.outcomes import Answer
from kronos.training.objectives import Score, sum_and_count, token_ids


class HeadObjective:
    """What a head is trained on; the validation's loss is the same function without dropout.

    Args:
        objective: `return` and `volatility`: the squared error in units of the training outcomes; `direction`: the
            cross-entropy of a rise in nats; `rank`: see `pairwise`.
        tokenizer: makes the ids of a `HeadedPredictor`; None for a head on hidden states.
    """

    name = "head"

    def __init__(self, objective: Answer, tokenizer: Any = None) -> None:
        self.objective = objective
        self.tokenizer = None if tokenizer is None else tokenizer.eval()

    def loss(self, model: Any, batch: HeadBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over the examples; no further scalars."""
        return self.losses(model, batch).mean(), {}

    def score(self, model: Any, batch: HeadBatch) -> Score:
        """Return the sum of the loss over the examples and their number, as `val_loss`."""
        return {"val_loss": sum_and_count(self.losses(model, batch))}

    def losses(self, model: Any, batch: HeadBatch) -> Tensor:
        """Return the loss of each example, [B]."""
        inputs = batch.inputs.flatten(0, 1)
        if self.tokenizer is None:
            flat = model(inputs)
        else:
            known = batch.conditions.flatten(0, 1) if batch.conditions.ndim > 3 else None
            flat = model(*token_ids(self.tokenizer, inputs), batch.stamp.flatten(0, 1), known)
        said_BG = flat.unflatten(0, batch.target.shape)
        target_BG = batch.target.to(said_BG.dtype)
        if self.objective == "rank":
            return pairwise(said_BG, target_BG)
        if self.objective == "direction":
            return F.binary_cross_entropy_with_logits(said_BG, target_BG, reduction="none").mean(dim=1)
        return (said_BG - target_BG).square().mean(dim=1)


def pairwise(said_BG: Tensor, target_BG: Tensor) -> Tensor:
    """Return the mean over the pairs of each group of -log sigmoid of how far the better one is ahead, [B].

    The loss of RankNet (Burges et al., "Learning to rank using gradient descent", ICML 2005): log 2 for equal scores.
    It reads the order of the targets only, so that one extreme return has no more weight than any other. Targets
    that are NaN and pairs of equal targets are left out; a group without a pair has loss 0.
    """
    known = ~target_BG.isnan()
    target = target_BG.nan_to_num()
    better = (target[:, :, None] > target[:, None, :]) & known[:, :, None] & known[:, None, :]
    each = F.softplus(said_BG[:, None, :] - said_BG[:, :, None])
    zero = torch.zeros((), dtype=each.dtype, device=each.device)
    return torch.where(better, each, zero).sum(dim=(1, 2)) / better.sum(dim=(1, 2)).clamp(min=1)
