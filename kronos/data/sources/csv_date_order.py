"""Files whose dates can be read two ways, day or month first: they are read as other files of their folder show."""

from pathlib import Path
from threading import Lock

import pyarrow as pa

from kronos.data.sources.csv_bars import read_file
from kronos.data.sources.csv_file import FileBars
from kronos.data.sources.csv_schema import Said
from kronos.data.sources.csv_times import TwoWays
from kronos.utils.errors import UserError


class DateOrders:
    """Reads files; one whose dates can be read two ways is read as the other files of the folder show."""

    def __init__(self, paths: list[Path], said: Said) -> None:
        self._paths, self._said = paths, said
        self._order: str | None = None
        self._lock = Lock()

    def read(self, path: Path) -> list[FileBars]:
        """Read one file. Raises UserError where it is not understood."""
        try:
            found = read_file(path, self._said)
        except TwoWays:
            if not self._shown():
                raise
            found = []
        if found and not any(bars.times.order.endswith("?") and self._shown() for bars in found):
            return found
        found = read_file(path, self._said._replace(date_order=self._shown()))
        for bars in found:
            bars.notes.append(f"Dates are read {self._shown()} first, as other files of the folder show.")
        return found

    def _shown(self) -> str:
        """Return what stands first in the dates that prove it; empty where none do, or where files differ."""
        with self._lock:
            if self._order is None:
                orders = {order for path in self._paths for order in _proven(path, self._said)}
                self._order = orders.pop() if len(orders) == 1 else ""
        return self._order


def _proven(path: Path, said: Said) -> set[str]:
    try:
        return {bars.times.order for bars in read_file(path, said)} - {"", "day?", "month?", "year?"}
    except (UserError, pa.ArrowException, OSError):
        return set()
