"""Further columns of bars, beside open, high, low, close, volume and amount: turnover, open interest, sector, ...

Those that `feature_list` and `condition_columns` name travel from the source to the store. In a frame of bars such a
column has the name `extra:NAME`, so that it is never taken for one that the pipeline understands. It holds numbers
(float64, NaN for none) or, as a pandas categorical, words. It is never adjusted, and never summed.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from kronos.config.registries import BUILT_IN
from kronos.data.bars import ALIASES, FEATURES, MARK, PRICES
from kronos.utils.errors import UserError


@dataclass(frozen=True)
class ExtraColumn:
    """A further column of a store: numbers, or categories, whose codes 0, 1, ... are places in `categories`."""

    name: str
    kind: Literal["number", "category"]
    categories: tuple[str, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the column as the index of a store has it."""
        return {**asdict(self), "categories": None if self.categories is None else list(self.categories)}

    @staticmethod
    def of(stored: dict[str, Any]) -> "ExtraColumn":
        """Return the column of an entry of the index of a store."""
        words = stored["categories"]
        return ExtraColumn(stored["name"], stored["kind"], None if words is None else tuple(words))


class Wanted(NamedTuple):
    """The further columns that a configuration names: as features of the model, and as conditions."""

    features: tuple[str, ...]
    conditions: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Each name once, features first."""
        return tuple(dict.fromkeys((*self.features, *self.conditions)))

    @property
    def text(self) -> str:
        """What decides how the columns are stored, for cache keys; empty without any."""
        parts = {"feature_list": self.features, "condition_columns": self.conditions}
        return "; ".join(f"{name} {','.join(columns)}" for name, columns in parts.items() if columns)


def wanted_columns(config: Any) -> Wanted:
    """Return the further columns of a configuration; a configuration without the fields names none.

    Conditions that are computed from the bars are no columns of a source.
    """
    features, conditions = (
        tuple(name for name in map(plain_name, getattr(config, field, None) or ()) if name not in own)
        for field, own in (("feature_list", FEATURES), ("condition_columns", (*FEATURES, *BUILT_IN)))
    )
    return Wanted(features, conditions)


def model_columns(config: Any) -> tuple[str, ...]:
    """Return the columns of `feature_list` in the order of a model: open, high, low, close, then the others."""
    names = tuple(map(plain_name, config.feature_list))
    return (*PRICES, *(name for name in names if name not in PRICES))


def plain_name(name: str) -> str:
    """Return the name of a column in the store: `volume` for the guide's `vol`, `amount` for `amt`."""
    return ALIASES.get(name, name)


def mark(raw: pd.DataFrame, wanted: Wanted) -> pd.DataFrame:
    """Add the wanted columns of a table under their marked names. Raises UserError for one that is not there."""
    if not wanted.names:
        return raw
    own = {str(name).strip(): name for name in raw.columns}
    missing = [name for name in wanted.names if name not in own and MARK + name not in own]
    if missing:
        refuse_missing(missing[0], wanted, [name for name in own if not name.startswith(MARK)])
    return raw.assign(**{MARK + name: raw[own[name]] for name in wanted.names if MARK + name not in own})


def refuse_missing(name: str, wanted: Wanted, columns: Any, where: str = "the bars have") -> None:
    """Raise UserError for a named column that is missing, with the columns that there are."""
    field = "feature_list" if name in wanted.features else "condition_columns"
    there = ", ".join(one for one in columns if one) or "none"
    raise UserError(f"{field}: {where} no column {name!r}: the columns are {there}")


def encoded(column: pd.Series) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return a typed column as float32 [N], and the categories that its codes are places in, or None for numbers."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        with np.errstate(over="ignore"):  # refused by the writer, in one line
            return column.to_numpy().astype("<f4"), None
    column = column.cat.remove_unused_categories()
    code = column.cat.codes.to_numpy().astype("<f4")
    return np.where(code < 0, np.float32(np.nan), code), tuple(column.cat.categories)


def number_texts(values: np.ndarray) -> list[str]:
    """Write numbers as the categories that they are in a column where other instruments have words."""
    return [np.format_float_positional(value, trim="-") for value in values]
