"""A small recurrent network (GRU) that classifies sequences or predicts a number from them, for judging bars."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, EPOCHS, BATCH, RATE = 24, 20, 64, 4e-3
LARGEST = 8.0  # standard deviations, at which a feature is cut


class Gru(nn.Module):
    """One GRU layer; the mean and the last of its outputs, and one number from them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer = nn.GRU(features, WIDTH, batch_first=True)
        self.head = nn.Linear(2 * WIDTH, 1)

    def forward(self, x_NBC: Tensor) -> Tensor:
        outputs, _ = self.layer(x_NBC)
        return self.head(torch.cat([outputs.mean(dim=1), outputs[:, -1]], dim=1))[:, 0]


class Fitted:
    """A trained network with the scale of its inputs; call it with sequences [N, B, C] for one number each."""

    def __init__(self, network: Gru, mean: np.ndarray, scale: np.ndarray) -> None:
        self._network, self._mean, self._scale = network, mean, scale

    def __call__(self, x_NBC: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(self._network(_scaled(x_NBC, self._mean, self._scale)).numpy(), np.float64)


def classifier(x_NBC: np.ndarray, y_N: np.ndarray, seed: int) -> Fitted:
    """Train on sequences and their classes, 0 or 1; a value above 0 means class 1."""
    return _fit(x_NBC, y_N, seed, functional.binary_cross_entropy_with_logits)


def regressor(x_NBC: np.ndarray, y_N: np.ndarray, seed: int) -> Fitted:
    """Train on sequences and the numbers that follow them, by squared error."""
    return _fit(x_NBC, y_N, seed, functional.mse_loss)


def _fit(x_NBC: np.ndarray, y_N: np.ndarray, seed: int, loss: Callable[[Tensor, Tensor], Tensor]) -> Fitted:
    """Train with Adam and a learning rate that falls to 0; the same seed gives the same network."""
    mean = x_NBC.mean(axis=(0, 1))
    scale = np.maximum(x_NBC.std(axis=(0, 1)), 1e-8)
    x, y = _scaled(x_NBC, mean, scale), torch.from_numpy(y_N.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Gru(x.shape[2])
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        steps = EPOCHS * math.ceil(len(x) / BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(EPOCHS):
            for part in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                loss(network(x[part]), y[part]).backward()
                optimizer.step()
                schedule.step()
    return Fitted(network.eval(), mean, scale)


def _scaled(x_NBC: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Tensor:
    return torch.from_numpy(np.clip((x_NBC - mean) / scale, -LARGEST, LARGEST).astype(np.float32))
