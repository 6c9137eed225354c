"""The key of a series' random draws: its instrument and the time of its last bar, nothing else."""

from collections.abc import Sequence

import numpy as np

from kronos.utils.files import digest_bytes

MINUTE = 60 * 10**9


def series_keys(instruments: Sequence[str], as_of: np.ndarray) -> np.ndarray:
    """Return one int64 per series, from its instrument and the time of its last bar (int64 ns).

    So a forecast is the same whichever others are made beside it: in a backtest, alone, or by a served model.
    """
    names, places = np.unique(np.array(instruments, dtype=object), return_inverse=True)
    return keys_of_places(names.tolist(), places, as_of)


def keys_of_places(names: Sequence[str], places: np.ndarray, as_of: np.ndarray) -> np.ndarray:
    """Return the keys of series whose instruments are given by their places in `names`."""
    numbers = np.array([int(digest_bytes(name.encode())[:8], 16) for name in names], np.int64)
    minutes = np.asarray(as_of, np.int64) // MINUTE  # since 1970, below 2**31 until the year 6053
    return (numbers[places] << 31) ^ minutes
