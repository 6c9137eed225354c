"""The key of a series' random draws: its instrument and the time of its last bar, nothing else."""

from collections.abc import Sequence

import numpy as np

from kronos.utils.files import digest_bytes

MINUTE = 60 * 10**9


def series_keys(instruments: Sequence[str], as_of: np.ndarray) -> np.ndarray:
    """Return one int64 per series, from its instrument and the time of its last bar (int64 ns).

    So a forecast is the same whichever others are made beside it: in a backtest, alone, or by a served model.
    """
    numbers = {name: int(digest_bytes(name.encode())[:8], 16) for name in set(instruments)}
    names = np.array([numbers[name] for name in instruments], np.int64)
    minutes = np.asarray(as_of, np.int64) // MINUTE  # since 1970, below 2**31 until the year 6053
    return (names << 31) ^ minutes
