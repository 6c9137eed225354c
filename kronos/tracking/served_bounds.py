"""How much one request to the served model may take, and the check that ends a forecast over its time."""

import math
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields
from threading import Event
from typing import Any

from kronos.utils.errors import UserError

# Set by the scoring server once the client of the current request has closed the connection.
CLIENT_GONE: ContextVar[Event | None] = ContextVar("client_gone", default=None)


@dataclass(frozen=True)
class Bounds:
    """Bounds of one request. They are logged as the model's `model_config`, which a server can replace.

    max_body_mb: megabytes (2**20 bytes) of the HTTP body. max_rows: bars in the table. max_path_bars: series x
    samples x horizon. max_answer_values: rows x columns of the answer. max_seconds: a request waits at most this long
    for the requests before it, and then computes at most this long.
    """

    max_body_mb: float = 32
    max_rows: int = 200_000
    max_path_bars: int = 500_000
    max_answer_values: int = 2_000_000
    max_seconds: float = 20

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> "Bounds":
        """Return the bounds in a model config; the defaults where it has none. Raises UserError for a bad value."""
        known = {field.name: (config or {}).get(field.name, field.default) for field in fields(cls)}
        for name, value in known.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise UserError(f"{name} in the model config is {value!r}, expected a number above 0")
        return cls(**known)

    @property
    def max_body(self) -> int:
        """The largest HTTP body in bytes."""
        return int(self.max_body_mb * 2**20)

    def check_work(self, series: int, samples: int, horizon: int, columns: int) -> None:
        """Raise UserError where the paths to draw, or the answer with so many columns, would be over a bound."""
        if series * samples * horizon > self.max_path_bars:
            raise UserError(
                f"{series} series x {samples} samples x {horizon} bars are over max_path_bars = "
                f"{self.max_path_bars}: ask for less at once"
            )
        if series * horizon * columns > self.max_answer_values:
            raise UserError(
                f"an answer of {series * horizon} rows x {columns} columns is over max_answer_values = "
                f"{self.max_answer_values}: ask for fewer series, bars or quantiles"
            )


class Stop:
    """Ends the work on a request: `check` raises UserError over `max_seconds`, or once the client has gone."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.began, self.gone = bounds, time.monotonic(), CLIENT_GONE.get()

    def check(self, *_: Any) -> None:
        if self.gone is not None and self.gone.is_set():
            raise UserError("the client closed the connection before the forecast was done")
        if time.monotonic() - self.began > self.bounds.max_seconds:
            raise UserError(
                f"the forecast takes longer than max_seconds = {self.bounds.max_seconds:g}: ask for fewer series, "
                "samples or bars"
            )
