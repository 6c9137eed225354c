"""Series for the tests of the model: walks and time stamps."""

import torch


def bars(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Normalised walks [batch, length, 6], clipped as windows are."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(batch, length, 6, generator=generator).cumsum(1)
    return ((walk - walk.mean(1, keepdim=True)) / (walk.std(1, keepdim=True) + 1e-5)).clamp(-5, 5)


def stamps(batch: int, length: int, first: int = 0) -> torch.Tensor:
    """int64 [batch, length, 5]: minute, hour, weekday, day, month of consecutive five-minute bars."""
    bar = torch.arange(first, first + length)
    day = bar // 288
    columns = (bar * 5 % 60, bar // 12 % 24, day % 7, day % 28 + 1, day // 28 % 12 + 1)
    return torch.stack(columns, dim=-1).expand(batch, -1, -1).contiguous()
