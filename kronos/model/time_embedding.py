"""Embeddings of the time features of a bar: the five of the public models, and further ones from the calendar.

Axes: B batch, T bars, K time features in the order of the model's list, D width.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TIME_TABLES = {"minute": 60, "hour": 24, "weekday": 7, "day": 32, "month": 13}  # in the stamp's order
# Values 0 to rows - 1; `data.time_features` says what they mean.
CALENDAR_TABLES = {
    "days_to_holiday": 11, "days_after_holiday": 11, "half_day": 2, "days_to_month_end": 32, "days_to_expiry": 32,
    "minutes_to_close": 153,
}  # fmt: skip
PUBLIC = tuple(TIME_TABLES)


def names_of(described: Any) -> tuple[str, ...]:
    """Return the names of the key `time_features` of config.json, those of the public models for None.

    Raises ValueError where it does not describe time features.
    """
    if described is None:
        return PUBLIC
    if not isinstance(described, Mapping) or set(described) != {"names", "calendar", "freq", "label"}:
        raise ValueError("time_features is not an object with names, calendar, freq and label")
    names = described["names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the names of time_features are not a list of names")
    unknown = [name for name in names if name not in TIME_TABLES and name not in CALENDAR_TABLES]
    if unknown or len(set(names)) < len(names) or not set(names) & TIME_TABLES.keys():
        raise ValueError(
            f"time_features has the names {', '.join(names)}, expected one of {', '.join(PUBLIC)} at least, each once"
        )
    return tuple(names)


class FixedEmbedding(nn.Module):
    """A fixed sinusoidal embedding; its weight is in the checkpoint under `emb`."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # as in `Rotary`
            angle = torch.arange(rows).float()[:, None] * torch.exp(
                torch.arange(0, width, 2).float() * -(math.log(10000.0) / width)
            )
            table = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
        self.emb = nn.Embedding(rows, width)
        self.emb.weight = nn.Parameter(table.to(torch.get_default_device()), requires_grad=False)

    def forward(self, index: Tensor) -> Tensor:
        return self.emb(index)


class TemporalEmbedding(nn.Module):
    """Sum of the embeddings of minute, hour, weekday, day and month, as far as `names` has them: [B, T, K] -> D."""

    def __init__(self, width: int, learned: bool, names: Sequence[str] = PUBLIC) -> None:
        super().__init__()
        self.names = tuple(names)
        kind = nn.Embedding if learned else FixedEmbedding
        for name, rows in TIME_TABLES.items():
            if name in self.names:
                self.add_module(f"{name}_embed", kind(rows, width))

    def forward(self, stamp: Tensor) -> Tensor:
        parts = dict(zip(self.names, stamp.long().unbind(-1), strict=True))
        order = (
            "hour",
            "weekday",
            "day",
            "month",
            "minute",
        )  # the order of the public code, for equal rounding
        first, *rest = (
            self.get_submodule(f"{name}_embed")(parts[name]) for name in order if name in self.names
        )
        for part in rest:
            first = first + part
        return first


class CalendarEmbedding(nn.Module):
    """Sum of the embeddings of the features from the calendar among `names`: [B, T, K] -> [B, T, D].

    They begin at zero, and their making draws no random number, so that they change nothing before training.
    """

    def __init__(self, width: int, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.tables = nn.ModuleDict({
            name: nn.Embedding(rows, width, _weight=torch.zeros(rows, width))
            for name, rows in CALENDAR_TABLES.items()
            if name in self.names
        })  # fmt: skip

    def forward(self, stamp: Tensor) -> Tensor:
        parts = dict(zip(self.names, stamp.long().unbind(-1), strict=True))
        first, *rest = (table(parts[name]) for name, table in self.tables.items())
        for part in rest:
            first = first + part
        return first


def embed_time(temporal: TemporalEmbedding, calendar: CalendarEmbedding | None, stamp: Tensor) -> Tensor:
    """Return the embedding [B, T, D] of all time features of `stamp`, int64 [B, T, K]."""
    found = temporal(stamp)
    return found if calendar is None else found + calendar(stamp)
