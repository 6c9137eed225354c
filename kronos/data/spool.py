"""Hold frames and arrays in memory up to a budget, and on disk beyond it, so that a build has bounded memory.

Frames are written in the Arrow format by pyarrow, which reads columns and ranges of rows of it without parsing. The
files have no name: nothing of them is left, even after a kill.
"""

import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa

BUDGET = 1_000_000_000  # bytes of frames and arrays in memory at one time
FILE = 1_000_000_000  # bytes after which another file is begun: the space of one is freed as a whole
ALIGNED = 64  # bytes: where Arrow expects its buffers


class Held:
    """One frame or array of a spool."""

    def __init__(self, spool: "Spool", value: pd.DataFrame | np.ndarray, size: int) -> None:
        self._spool, self._size = spool, size
        self._value: pd.DataFrame | np.ndarray | None = value
        self._shape, self._dtype = value.shape, value.dtype if isinstance(value, np.ndarray) else None
        self._file: IO[bytes] | None = None
        self._place = 0

    def __len__(self) -> int:
        return int(self._shape[0])

    def move(self, file: IO[bytes]) -> None:
        """Append the value to a file and forget it."""
        if isinstance(self._value, pd.DataFrame):
            table = pa.Table.from_pandas(self._value, preserve_index=False)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            content: Any = sink.getvalue()
        else:
            content = np.ascontiguousarray(self._value).data
        self._place = -(-file.tell() // ALIGNED) * ALIGNED
        file.seek(self._place)
        file.write(content)
        file.flush()
        self._file, self._size, self._value = (
            file,
            content.size if self._dtype is None else content.nbytes,
            None,
        )

    def get(self, begin: int = 0, end: int | None = None, columns: list[str] | None = None) -> Any:
        """Return the rows from `begin` to `end`, all by default, of the columns asked for; a frame's index is new.

        What it returns may share memory with the spool: do not change it in place.
        """
        if self._file is None:
            value = self._value
            if isinstance(value, np.ndarray):
                return value[begin:end]
            assert value is not None, "taken or dropped before"
            value = value if columns is None else value[columns]
            return value if (begin, end) == (0, None) else value.iloc[begin:end].reset_index(drop=True)
        if self._dtype is not None:
            mapped = np.memmap(self._file, self._dtype, "r", self._place, self._shape)
            return mapped[begin:end]
        content = np.memmap(self._file, np.uint8, "r", self._place, (self._size,))
        table = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
        table = table.slice(begin, None if end is None else end - begin)
        return (table if columns is None else table.select(columns)).to_pandas()

    def take(self) -> Any:
        """Return the whole value, and drop it from the spool."""
        value = self.get()
        self.drop()
        return value

    def drop(self) -> None:
        """Free the memory; the space of a file is freed with its last value."""
        if self._file is None:
            self._spool.in_memory -= self._size
        self._value, self._size, self._file = None, 0, None


class Spool:
    """Holds what is put into it in memory, until `budget` bytes are held, then in unnamed files in `folder`."""

    def __init__(self, folder: Path, budget: int | None = None) -> None:
        self.in_memory = 0
        self.folder, self._budget = folder, BUDGET if budget is None else budget
        self._file: IO[bytes] | None = None

    def put(self, value: pd.DataFrame | np.ndarray) -> Held:
        """Hold a frame or an array. Raises OSError where it cannot be written, as on a full disk."""
        size = value.nbytes if isinstance(value, np.ndarray) else int(value.memory_usage(index=False).sum())
        held = Held(self, value, size)
        if self.in_memory + size <= self._budget:
            self.in_memory += size
            return held
        if self._file is None or self._file.tell() > FILE:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  # open while a value is in it
        held.move(self._file)
        return held
