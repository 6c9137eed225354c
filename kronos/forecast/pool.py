"""An ensemble: the sample paths of several pairs of models, pooled."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kronos.data.forecast_points import ForecastPoints
from kronos.forecast.models import Windows
from kronos.forecast.store_forecaster import Forecaster

MEMBER = 1_000_003  # added to the seed per member, so that draws are not repeated
SEEDS = 2**31


@dataclass(frozen=True)
class Pool(Forecaster):
    """Of S sample paths each member draws its share, with draws of its own; the first member's come first."""

    members: tuple[Forecaster, ...] = ()

    def chunks(
        self, points: ForecastPoints, rules: Mapping[str, Any], label: str, kept: str = "paths", size: int = 0
    ) -> Iterator[tuple[slice, np.ndarray, int]]:
        """As `Forecaster.chunks`: each member's shards are made by all processes, one member after the other."""
        shares = self._shares(rules["sample_count"])
        if self.shards is None or min(shares) < 1:
            yield from Forecaster.chunks(replace(self, shards=None), points, rules, label, kept, size)
            return
        size = size or self.size(points, {**rules, "sample_count": min(shares)})
        made = []
        for place, (member, share) in enumerate(zip(self.members, shares, strict=True)):
            one = replace(
                member, config=member.config.replace(seed=_seed(member.config.training.seed, place))
            )
            name = f"{label}, member {place + 1}"
            made.append(one.chunks(points, {**rules, "sample_count": share}, name, kept, size))
        for parts in zip(*made, strict=True):
            values = [value for _, value, _ in parts]
            if kept == "mean":
                weighted = sum(
                    share * value.astype(np.float64) for share, value in zip(shares, values, strict=True)
                )
                joined = (weighted / sum(shares)).astype(np.float32)
            else:
                joined = np.concatenate(values, axis=1)
            yield parts[0][0], joined, sum(count for _, _, count in parts)

    def _shares(self, whole: int) -> list[int]:
        count = len(self.members)
        return [whole // count + (place < whole % count) for place in range(count)]

    def draw(self, windows: Windows, rules: Mapping[str, Any]) -> np.ndarray:
        """Raw sample paths of all members, [n, S, H, F].

        Where fewer paths are asked for than there are members, the key of a window says whose it has.
        """
        shares = self._shares(rules["sample_count"])
        if min(shares) < 1:
            return self._few(windows, {**rules, "sample_count": 1}, rules["sample_count"])
        found = []
        for place, (member, share) in enumerate(zip(self.members, shares, strict=True)):
            own = replace(windows, seed=_seed(windows.seed, place))
            found.append(member.draw(own, {**rules, "sample_count": share}))
        return np.concatenate(found, axis=1)

    def _few(self, windows: Windows, rules: Mapping[str, Any], whole: int) -> np.ndarray:
        count, size = len(self.members), len(windows.bars)
        paths = np.empty((size, whole, windows.horizon, windows.bars.shape[2]), np.float32)
        for place in range(whole):
            chosen = (windows.keys + place) % count
            for number, member in enumerate(self.members):
                rows = np.flatnonzero(chosen == number)
                if len(rows):
                    own = replace(windows.rows(rows), seed=_seed(windows.seed, number))
                    paths[rows, place] = member.draw(own, rules)[:, 0]
        return paths


def _seed(seed: int, place: int) -> int:
    return (seed + place * MEMBER) % SEEDS


def pool(members: Sequence[Forecaster]) -> Forecaster:
    """The only member, or an ensemble of several."""
    first = members[0]
    if len(members) == 1:
        return first
    return Pool(
        first.config,
        first.store,
        first.tokenizer,
        first.predictor,
        first.shards,
        first.threads,
        tuple(members),
    )
