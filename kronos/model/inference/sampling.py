"""Draws from logits with one uniform a row, and uniforms that depend on keys alone.

Axes: R rows, V ids, N series, S samples, H bars of the horizon.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kronos.utils.errors import UserError
from kronos.utils.random_keys import hash_keys, to_uniform


def per_bar(temperature: float | Sequence[float], horizon: int) -> list[float]:
    """Return the temperature of each of `horizon` bars.

    Raises UserError for another number of them, or one that is not above 0.
    """
    found = list(temperature) if isinstance(temperature, Sequence) else [temperature] * horizon
    if len(found) != horizon:
        raise UserError(f"T has {len(found)} values, expected one, or one for each of {horizon} bars")
    for one in found:
        if not one > 0:
            raise UserError(f"T is {one}, expected more than 0 (for the likeliest path, give top_k=1)")
    return found


def filter_and_sample(
    logits_RV: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = 0,
    top_p: float | None = 1.0,
    uniform_R: Tensor,
) -> Tensor:
    """int64 ids [R] by inverse CDF from uniforms [R] in [0, 1).

    `top_k` keeps the k likeliest ids (0 or None: all), then `top_p` the fewest likeliest of these whose
    probabilities, made to sum to 1, reach top_p (1 or None: all). Ids that tie with the last one kept stay too.
    """
    if top_k == 1:
        return logits_RV.argmax(-1)
    logits_RV = logits_RV.float() / temperature
    if top_k and top_k < logits_RV.shape[-1]:
        least = logits_RV.topk(top_k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        logits_RV = logits_RV.masked_fill(logits_RV < least, -torch.inf)
    p_RV = logits_RV.softmax(-1)
    if top_p is not None and top_p < 1:
        p_RV = p_RV.masked_fill(p_RV < _nucleus_threshold(p_RV, top_p), 0.0)
    cumulative = p_RV.cumsum(-1)
    total = cumulative[:, -1:]
    below_total = torch.nextafter(
        total, torch.zeros_like(total)
    )  # rounding up must not pass the last id kept
    wanted = torch.minimum(uniform_R[:, None] * total, below_total)
    return torch.searchsorted(cumulative, wanted, right=True).squeeze(-1)


def _nucleus_threshold(p_RV: Tensor, top_p: float) -> Tensor:
    """[R, 1]: the smallest probability kept, such that those above it sum to at most top_p."""
    if p_RV.device.type == "cpu":
        # numpy sorts 100 x 1024 values in 0.14 ms (AVX-512), torch in 1.7 ms
        falling = torch.from_numpy(np.sort(p_RV.neg().numpy(), axis=-1)).neg_()
    else:
        falling = p_RV.sort(dim=-1, descending=True).values
    last = (falling.cumsum(-1) <= top_p).sum(-1, keepdim=True)
    return falling.gather(-1, last.clamp_(max=p_RV.shape[-1] - 1))


def keyed_uniforms(seed: int, keys_N: np.ndarray, samples: int, horizon: int) -> np.ndarray:
    """float32 [N, S, H, 2] in [0, 1): each value depends on (seed, its series' key, sample, bar, coarse or fine).

    So a series draws the same numbers whichever other series, and however many samples and bars, are forecast.
    """
    bits = hash_keys(hash_keys(np.array([seed % 2**64], np.uint64)) ^ keys_N.astype(np.int64).view(np.uint64))
    for count in (samples, horizon, 2):
        bits = hash_keys(bits[..., None] ^ hash_keys(np.arange(count, dtype=np.uint64)))
    return to_uniform(bits)
