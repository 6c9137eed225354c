"""What every section of the configuration has in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def field(default: Any, help: str, **limits: Any) -> Any:
    """Define a field by its default, its help text and pydantic's limits (ge, gt, le, lt)."""
    return Field(default=default, description=help, **limits)


class Section(BaseModel):
    """One section of the configuration: frozen, no unknown fields, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
