"""Batches for training a head: hidden states, or the contexts that they are made of, with the outcomes.

Axes: B examples of a batch, G instruments of an example (1, or the group of one day that is ranked), D width of the
predictor, L bars of a context, F features, C conditions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from kronos.data.bars import FEATURES
from kronos.data.forecast_points import context_rows, contexts
from kronos.data.normalization import normalise
from kronos.data.store import BarStore
from kronos.data.window_order import epoch_order
from kronos.utils.random_keys import hash_counters

GROUP = 32  # most instruments that are ranked against each other in one example
LEAST_GROUP = 5  # as for a Rank IC
MEMBERS = 3  # key of the draw of groups


class HeadBatch(NamedTuple):
    """Examples as the objective takes them."""

    inputs: torch.Tensor  # float32 [B, G, D] hidden states, or [B, G, L, F] normalised and clipped bars
    stamp: torch.Tensor  # int64 [B, G, L, K] time features; [B, G, 0] of hidden states
    conditions: torch.Tensor  # float32 [B, G, L, C]; [B, G, 0] of states and of a predictor without any
    target: torch.Tensor  # float32 [B, G]; NaN where an example has fewer instruments


class HeadExamples:
    """The points of a split with a known outcome, ready for batches in any order and grouping.

    Args:
        store: the bars.
        rows: int64 [N], the store's row of the last bar of each context.
        target: float [N], what the head is trained to say.
        lookback, clip: of the contexts.
        members: int64 [E, G] places in `rows` of each example, -1 where it has fewer instruments.
        states: float32 [N, D], the hidden states of the contexts; without them, batches have the contexts.
        conditions: float32 [store's rows, C], of a predictor that has some.
        columns: the features of a bar.
        stamps: int64 [sessions, K], the time features of a predictor that has others than the store's.
    """

    def __init__(
        self, store: BarStore, rows: np.ndarray, target: np.ndarray, *, lookback: int, clip: float,
        members: np.ndarray, states: np.ndarray | None = None, conditions: np.ndarray | None = None,
        columns: Sequence[str] = FEATURES, stamps: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.store, self.rows, self.target, self.members, self.states = store, rows, target, members, states
        self.lookback, self.clip, self.conditions = lookback, clip, conditions
        self.columns, self.stamps = columns, stamps

    def __len__(self) -> int:
        return len(self.members)

    def describe(self, indices: np.ndarray) -> list[str]:
        """Instrument and day of the first point of examples, for messages."""
        rows = self.rows[self.members[np.asarray(indices, np.int64), 0]]
        days = pd.DatetimeIndex(self.store.times[rows].astype("datetime64[ns]"))
        names = [self.store.instruments[place] for place in self.store.instrument_of_row[rows]]
        return [
            f"{index} ({name} {day:%Y-%m-%d})" for index, name, day in zip(indices, names, days, strict=True)
        ]

    def batch(self, indices: np.ndarray, epoch: int | None) -> HeadBatch:
        """Return the examples `indices`, int64 [B]; they are the same in every epoch."""
        members = self.members[np.asarray(indices, np.int64)]
        places = np.where(members < 0, members[:, :1], members).reshape(-1)  # any context in an empty place
        target = np.where(members < 0, np.nan, self.target[members]).astype(np.float32)
        shape = members.shape
        stamp, known = torch.zeros((*shape, 0), dtype=torch.int64), torch.zeros((*shape, 0))
        if self.states is not None:
            inputs = torch.from_numpy(np.asarray(self.states[places]))
        else:
            rows = self.rows[places]
            bars, stamps = contexts(self.store, rows, self.lookback, self.columns, self.stamps)
            inputs = normalise(torch.from_numpy(bars), self.lookback)[0].clamp_(-self.clip, self.clip)
            stamp = torch.from_numpy(stamps.astype(np.int64)).unflatten(0, shape)
            if self.conditions is not None:
                values = self.conditions[context_rows(self.rows[places], self.lookback)]
                known = torch.from_numpy(values).unflatten(0, shape)
        return HeadBatch(inputs.unflatten(0, shape), stamp, known, torch.from_numpy(target))


def singles(count: int) -> np.ndarray:
    """Return one example per point: int64 [N, 1]."""
    return np.arange(count, dtype=np.int64)[:, None]


def day_groups(sessions: np.ndarray, seed: int) -> np.ndarray:
    """Return groups of up to GROUP points of one session, places int64 [E, GROUP], -1 where a group has fewer.

    Each point is in one group. The points of a session are in an order drawn by the seed, and its groups are of
    nearly equal size. Sessions with fewer than LEAST_GROUP points have none.
    """
    drawn = hash_counters(np.arange(len(sessions), dtype=np.uint64), MEMBERS, seed)
    order = np.lexsort((drawn, sessions))
    _, starts = np.unique(sessions[order], return_index=True)
    groups = [
        part
        for day in np.split(order, starts[1:])
        if len(day) >= LEAST_GROUP
        for part in np.array_split(day, -(-len(day) // GROUP))
    ]
    members = np.full((len(groups), GROUP), -1, np.int64)
    for place, group in enumerate(groups):
        members[place, : len(group)] = group
    return members


def limited(members: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return some of the examples, drawn by the seed, that have at most `most` points (one example at least)."""
    return members[epoch_order(len(members), max(1, most // members.shape[1]), seed, None)]
