"""Training losses and validation scores: functions of (model, batch), independent of loop, device and logging.

Axes: B batch, T bars of a window, F features, V ids. A batch has x [B, T, F] normalised and clipped bars,
stamp int64 [B, T, 5], window int64 [B], uniform float32 [B, T] in [0, 1).

A score is {name: (sum, count)} in float64, so that any split of the windows over batches or processes gives the
same mean. A sum that is a vector is a histogram of ids, reported as the share of ids in use.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.model.cpu_kernels.dispatch import derived_here
from kronos.utils.errors import UserError

Score = dict[str, tuple[Tensor, float]]


class BatchLike(Protocol):
    """The fields of `data.windows.Batch` that an objective reads."""

    @property
    def x(self) -> Tensor: ...
    @property
    def stamp(self) -> Tensor: ...
    @property
    def uniform(self) -> Tensor: ...


class Objective(Protocol):
    """What `trainer.fit` optimizes and selects the best model by.

    The loss is a mean over the windows of its batch. Where part of it is a function of the whole batch, define a
    method `between_ranks(model, average)` too: with several ranks it is called before each loss with a
    differentiable function that maps this rank's mean to that of all ranks, and with None after a step.
    """

    @property
    def name(self) -> str: ...

    def loss(self, model: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar training loss and detached scalars to report."""
        ...

    def score(self, model: Any, batch: Any) -> Score:
        """Return deterministic and causal sums and counts for validation; the first key is `val_loss`."""
        ...


class TokenizerObjective:
    """Reconstruction of normalised bars from coarse bits and from all bits, plus the quantizer's loss.

    `val_loss` is the squared error of the full reconstruction on the `horizon` bars after `lookback`.
    """

    name = "tokenizer"

    def __init__(self, lookback: int, horizon: int) -> None:
        self.forecast = slice(lookback, lookback + horizon)

    @staticmethod
    def between_ranks(model: Any, average: Callable[[Tensor], Tensor] | None) -> None:
        """Use the mean code probabilities of the batches of all ranks, or (None) of this rank's batch."""
        model.tokenizer.bsq.average = average

    def loss(self, model: nn.Module, batch: BatchLike) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (MSE from coarse bits + MSE from all bits + quantizer loss) / 2, over all bars."""
        (coarse_x, full_x), quantizer_loss, _, _ = model(batch.x)
        coarse = F.mse_loss(coarse_x, batch.x)
        full = F.mse_loss(full_x, batch.x)
        parts = {"train_mse_coarse": coarse, "train_mse_full": full, "train_quantizer": quantizer_loss}
        return (coarse + full + quantizer_loss) / 2, {key: value.detach() for key, value in parts.items()}

    def score(self, model: Any, batch: BatchLike) -> Score:
        """Return squared errors in normalised units, and histograms of the coarse and fine ids."""
        _check_length(batch.x, self.forecast.stop)
        (coarse_x, full_x), _, _, ids = model(batch.x)
        coarse_error = (coarse_x - batch.x).square()
        full_error = (full_x - batch.x).square()
        return {
            "val_loss": sum_and_count(full_error[:, self.forecast]),
            "val_loss_window": sum_and_count(full_error),
            "val_loss_coarse": sum_and_count(coarse_error[:, self.forecast]),
            "val_coarse_use": _histogram(ids & (2**model.s1_bits - 1), 2**model.s1_bits),
            "val_fine_use": _histogram(ids >> model.s1_bits, 2**model.s2_bits),
        }


class PredictorObjective:
    """Cross-entropy of the next bar's coarse and fine id, the ids being those of a frozen tokenizer.

    In training the fine head is conditioned on a coarse id drawn from the model's own coarse distribution, in the
    score on the true one. These are different quantities and are reported under different names.
    """

    name = "predictor"

    def __init__(
        self,
        tokenizer: Any,
        lookback: int,
        horizon: int,
        loss_bars: Literal["window", "horizon"] = "window",
    ) -> None:
        if loss_bars not in ("window", "horizon"):
            raise UserError(f"loss_bars is {loss_bars!r}, expected window or horizon")
        self.tokenizer = tokenizer.eval()
        self.lookback, self.horizon = lookback, horizon
        # Position t of the logits predicts bar t + 1, so the first forecast bar is predicted at lookback - 1.
        self.forecast = slice(lookback - 1, lookback - 1 + horizon)
        self.trained = self.forecast if loss_bars == "horizon" else slice(None)

    def loss(self, model: Any, batch: BatchLike) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of the coarse and the fine cross-entropy over the trained bars."""
        coarse, fine = self.terms(model, batch, drawn=True)
        coarse_mean, fine_mean = coarse[:, self.trained].mean(), fine[:, self.trained].mean()
        parts = {"train_coarse": coarse_mean.detach(), "train_fine": fine_mean.detach()}
        return (coarse_mean + fine_mean) / 2, parts

    def score(self, model: Any, batch: BatchLike) -> Score:
        """Return teacher-forced cross-entropies in nats; `val_loss` counts the `horizon` forecast bars."""
        _check_length(batch.x, self.lookback + self.horizon)
        coarse, fine = self.terms(model, batch, drawn=False)
        both = (coarse + fine) / 2
        return {
            "val_loss": sum_and_count(both[:, self.forecast]),
            "val_loss_window": sum_and_count(both),
            "val_coarse": sum_and_count(coarse[:, self.forecast]),
            "val_fine": sum_and_count(fine[:, self.forecast]),
        }

    def terms(self, model: Any, batch: BatchLike, *, drawn: bool) -> tuple[Tensor, Tensor]:
        """Return coarse and fine cross-entropy [B, T - 1]; place t is bar t + 1 and depends on no later bar.

        With `drawn`, the fine head is conditioned on a draw of the coarse id (by `batch.uniform`), otherwise on the
        true one.
        """
        coarse_BT, fine_BT = self.tokens(batch.x)
        conditions = getattr(batch, "conditions", None)  # which only batches for a predictor with some have
        seen = None if conditions is None else conditions[:, :-1]
        hidden = model.hidden(coarse_BT[:, :-1], fine_BT[:, :-1], batch.stamp[:, :-1], None, seen)
        coarse_target, fine_target = coarse_BT[:, 1:], fine_BT[:, 1:]
        coarse, probabilities_BTV = cross_entropy(model.coarse_logits(hidden), coarse_target)
        coarse_ids = draw(probabilities_BTV, batch.uniform[:, 1:]) if drawn else coarse_target
        fine, _ = cross_entropy(model.fine_logits(hidden, coarse_ids), fine_target)
        return coarse, fine

    def tokens(self, x_BTF: Tensor) -> tuple[Tensor, Tensor]:
        """Return `token_ids` of the objective's tokenizer."""
        return token_ids(self.tokenizer, x_BTF)


@torch.no_grad()
def token_ids(tokenizer: Any, x_BTF: Tensor) -> tuple[Tensor, Tensor]:
    """Return coarse and fine ids, each int64 [B, T], on the device of `x_BTF`, where the tokenizer is moved.

    In float32 whatever the autocast, since forecasts encode in float32: in bfloat16 one id in sixty differs.
    """
    if next(tokenizer.parameters()).device != x_BTF.device:
        tokenizer.to(x_BTF.device)
    with torch.autocast(x_BTF.device.type, enabled=False):
        coarse, fine = tokenizer.encode(x_BTF, half=True)
    return coarse, fine


def cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy [...] in nats and the probabilities [..., V] (no gradient) of logits [..., V].

    Both are computed in float32, or in float64 where the logits are float64.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if derived_here():
        return _CrossEntropy.apply(logits, target)
    logs = F.log_softmax(logits, dim=-1)
    return _nats(logs, target), logs.detach().exp()


def _nats(logs: Tensor, target: Tensor) -> Tensor:
    return -logs.gather(-1, target.unsqueeze(-1)).squeeze(-1)


class _CrossEntropy(torch.autograd.Function):
    """The same, with a derivative from the probabilities, which are needed for the draws anyway."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logs = F.log_softmax(logits, dim=-1)
        nats = _nats(logs, target)
        probabilities = logs.exp_()
        ctx.save_for_backward(probabilities, target)
        ctx.mark_non_differentiable(probabilities)
        ctx.set_materialize_grads(False)  # otherwise a gradient of zeros is allocated for the probabilities
        return nats, probabilities

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None]:
        probabilities, target = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)
        return (probabilities * gradient).scatter_add_(-1, target.unsqueeze(-1), -gradient), None


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw int64 ids [...] from probabilities [..., V] with uniforms [...] in [0, 1].

    A pure function of each row, so the draw is the same in any batch, on any rank, at any step. The id is found
    bit by bit, lowest first, and each bit is drawn by its own number, which is derived from the uniform. A rounding
    error then affects one of log2(V) thresholds; in a draw from the cumulative sum it would affect all V, and
    two ranks would sometimes draw other ids than one. An id of probability zero is never drawn.
    """
    probabilities = probabilities.flatten(0, -2)
    size = 1 << (probabilities.shape[-1] - 1).bit_length()
    lacking = size - probabilities.shape[-1]
    sums = [F.pad(probabilities, (0, lacking)) if lacking else probabilities]
    while size > 1:  # sums[-1][:, i]: the ids that end in the bits of i
        size //= 2
        sums.append(sums[-1][:, :size] + sums[-1][:, size:])
    counter = (uniform.flatten() * 2**24).long()
    ids = torch.zeros_like(counter)
    for level, pair in enumerate(reversed(sums[:-1])):
        zero = pair.gather(1, ids[:, None]).squeeze(1)
        one = pair.gather(1, (ids + (1 << level))[:, None]).squeeze(1)
        above = _level_uniform(counter, level) * (zero + one) >= zero
        ids = ids + ((above & (one > 0)).long() << level)
    return ids.view(uniform.shape)


def _level_uniform(counter: Tensor, level: int) -> Tensor:
    """Return float32 in [0, 1), independent between levels: a hash of a 24-bit counter."""
    low = (1 << 32) - 1
    bits = (counter * 0x9E3779B1 + (level + 1) * 0x85EBCA77) & low
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        bits = ((bits ^ (bits >> shift)) * factor) & low
    return ((bits ^ (bits >> 15)) >> 8).float() * 2.0**-24


def sum_and_count(values: Tensor) -> tuple[Tensor, float]:
    """Return the sum of the values in float64 and their number."""
    if values.device.type == "mps":  # has no float64
        values = values.cpu()
    return values.sum(dtype=torch.float64), float(values.numel())


def _histogram(ids: Tensor, size: int) -> tuple[Tensor, float]:
    return torch.bincount(ids.flatten().cpu(), minlength=size).double(), float(ids.numel())


def _check_length(x_BTF: Tensor, needed: int) -> None:
    """Raise UserError for windows that are too short: fewer bars would be scored than configured."""
    if x_BTF.shape[1] < needed:
        raise UserError(f"windows have {x_BTF.shape[1]} bars, lookback + horizon needs {needed}")
