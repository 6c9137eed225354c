"""Conditions: columns known beside the bars (a sector, a size bucket, a percentile) as an addition to hidden states.

Axes: B batch, T bars, C columns, D width. Values are float32 [..., C]: the code of a category (its place in the
column's `categories`) or the number itself. NaN, and a code that the column does not have, is a missing value.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kronos.model.cpu_kernels.linear import Linear

KINDS = ("category", "number")
LARGEST = 5.0  # standard deviations that a number is clipped to


@dataclass(frozen=True)
class ConditionColumn:
    """One column: a category with the names of its values, or a number with its mean and deviation in training.

    `bars` is what a column that is computed from the bars looks back on; None for a column that is read.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    bars: int | None = None

    @classmethod
    def from_json(cls, value: Any) -> "ConditionColumn":
        """Read a column of config.json. Raises ValueError where it is not one."""
        known = {"name", "kind", "categories", "mean", "deviation", "bars"}
        if not isinstance(value, Mapping) or not {"name", "kind"} <= set(value) <= known:
            raise ValueError("a column of conditions has other keys than name, kind and what its kind needs")
        name, kind, categories = value["name"], value["kind"], value.get("categories", [])
        if not isinstance(name, str) or not name or kind not in KINDS:
            raise ValueError(
                f"a column of conditions is {name!r} of kind {kind!r}, expected a name and a kind"
            )
        if not isinstance(categories, list) or not all(isinstance(one, str) for one in categories):
            raise ValueError(f"the categories of the condition {name} are not a list of names")
        if (kind == "category") != bool(categories) or len(set(categories)) < len(categories):
            raise ValueError(
                f"the condition {name} has no categories, has one twice, or is a number with some"
            )
        mean, deviation, bars = value.get("mean", 0.0), value.get("deviation", 1.0), value.get("bars")
        for number in (mean, deviation):
            if type(number) not in (int, float) or not math.isfinite(number):
                raise ValueError(f"the condition {name} has a mean or a deviation that is no finite number")
        if deviation <= 0 or not (bars is None or (type(bars) is int and bars > 0)):
            raise ValueError(f"the condition {name} has a deviation or a number of bars that is not above 0")
        return cls(name, kind, tuple(categories), float(mean), float(deviation), bars)

    def to_json(self) -> dict[str, Any]:
        """Return the column as config.json has it."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "category":
            found["categories"] = list(self.categories)
        else:
            found |= {"mean": self.mean, "deviation": self.deviation}
        return found if self.bars is None else {**found, "bars": self.bars}


@dataclass(frozen=True)
class Conditions:
    """The columns of a predictor, and the number of blocks after which they are added to the hidden states.

    After block 0 is before the first block: they are then added to the embedded bars.
    """

    columns: tuple[ConditionColumn, ...]
    block: int

    @classmethod
    def from_json(cls, value: Any) -> "Conditions":
        """Read the key `conditions` of config.json. Raises ValueError where it does not describe conditions."""
        if not isinstance(value, Mapping) or set(value) != {"block", "columns"}:
            raise ValueError("conditions is not an object with block and columns")
        block, given = value["block"], value["columns"]
        if type(block) is not int or block < 0 or not isinstance(given, list) or not given:
            raise ValueError("conditions needs a block of 0 or more and a list of columns")
        columns = tuple(ConditionColumn.from_json(column) for column in given)
        if len({column.name for column in columns}) < len(columns):
            raise ValueError("conditions has a column twice")
        return cls(columns, block)

    def to_json(self) -> dict[str, Any]:
        """Return the description as config.json has it."""
        return {"block": self.block, "columns": [column.to_json() for column in self.columns]}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


class ConditionEmbedding(nn.Module):
    """Conditions [..., C] -> [..., D], to be added to hidden states; zero until the first step of training.

    A category has a row per value and one for missing values. A number is standardised by its mean and deviation in
    training, clipped, and multiplied by a row; a missing one has a row of its own. The sum over the columns is
    projected by a layer that begins with zeros. Rows begin as those of nn.Embedding do, with unit variance: the
    projection then learns at the pace of the model's other layers, whose inputs are normalised. Those of missing
    values begin at zero, so that a value which training never missed adds nothing that was not learnt.
    """

    def __init__(self, conditions: Conditions, width: int) -> None:
        super().__init__()
        self.columns, self.block = conditions.columns, conditions.block
        self.tables = nn.ModuleList(
            nn.Embedding((len(column.categories) or 1) + 1, width) for column in self.columns
        )
        for table in self.tables:
            assert isinstance(table, nn.Embedding)
            nn.init.zeros_(table.weight[-1].detach())  # the last row
        self.projection = Linear(width, width)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, values: Tensor) -> Tensor:
        return self.projection(self.summed(values))

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum of the columns' rows, [..., D], before the projection."""
        if values.shape[-1] != len(self.columns):
            raise ValueError(
                f"{values.shape[-1]} columns of conditions were given, expected {len(self.columns)}"
            )
        parts = []
        for value, column, table in zip(values.unbind(-1), self.columns, self.tables, strict=True):
            assert isinstance(table, nn.Embedding)
            if column.kind == "category":
                last = len(column.categories)
                known = (value >= 0) & (value < last)  # false for NaN
                parts.append(table(torch.where(known, value, last).long()))
            else:
                standard = (value - column.mean) / column.deviation
                known = standard.isfinite().unsqueeze(-1)
                kept = standard.clamp(-LARGEST, LARGEST).nan_to_num(0.0).to(table.weight.dtype)
                parts.append(torch.where(known, kept.unsqueeze(-1) * table.weight[0], table.weight[1]))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total
