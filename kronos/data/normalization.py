"""The normalisation of bars, one function for training and for forecasts, so that both see the same token ids.

Shapes: B windows of a batch, T bars of a window (the first `lookback` decide mean and deviation), F features.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-5  # the public normalisation: (x - mean) / (std + 1e-5)
SMALL = 2**16  # values: below it numpy's lower overhead wins, above it torch's threads do


def normalise(bars_BTF: Tensor, lookback: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return ((bars - mean) / scale as float32, mean, scale), of the first `lookback` bars of each window.

    Scale is the population standard deviation + 1e-5; mean and scale are float64 [B, 1, F]. `bars_BTF`, on the CPU,
    is float32 or float64 and is overwritten. The first bar is subtracted before anything is summed or made
    float32, which would lose the small moves of a large price. A window's values do not depend on its batch, bit
    for bit, and bars that float32 holds exactly give the same values in either type.
    """
    bars = bars_BTF.shape[1]
    first_B1F = bars_BTF[:, :1].to(torch.float64, copy=True).numpy()
    bars_BTF -= _at_each_bar(bars_BTF[:, :1], bars)
    x_BTF = bars_BTF.float()
    mean_B1F = _sum_of_bars(x_BTF[:, :lookback]) / lookback
    x_BTF -= _at_each_bar(mean_B1F, bars)
    variance_B1F = _sum_of_bars(x_BTF[:, :lookback].square()) / lookback
    # numpy's root is rounded correctly; that of PyTorch differs in the last bit between processors.
    std_B1F = torch.from_numpy(np.sqrt(variance_B1F.numpy()))
    x_BTF *= _at_each_bar(1 / (std_B1F + EPSILON), bars)
    return x_BTF, first_B1F + mean_B1F.double().numpy(), std_B1F.double().numpy() + EPSILON


def _at_each_bar(x_B1F: Tensor, bars: int) -> Tensor:
    """Repeat [B, 1, F] to [B, T, F]: broadcasting over T runs loops of six values, twice as slow as this copy."""
    return torch.from_numpy(np.repeat(x_B1F.numpy(), bars, axis=1))


def _sum_of_bars(x_BTF: Tensor) -> Tensor:
    """Sum over T by halves, [B, 1, F]: element-wise additions, so that no sum depends on the batch's size."""
    x: Any = x_BTF.numpy() if x_BTF.numel() < SMALL else x_BTF  # either adds the same pairs
    while (bars := x.shape[1]) > 1:
        half = bars // 2
        summed = x[:, :half] + x[:, half : 2 * half]
        if bars % 2:
            summed[:, :1] += x[:, 2 * half :]
        x = summed
    return torch.as_tensor(x)
