"""The units of volume and amount: shares and currency, found by comparing the amount with volume x price."""

from collections.abc import Iterator
from typing import Any

import numpy as np

# amount / (volume x price), as the file has them: the factors that make shares and currency of the two, and words
RATIOS: dict[float, tuple[float, float, str]] = {
    1.0: (1, 1, ""),
    100.0: (100, 1, "volume in lots of 100"),
    0.1: (100, 1e3, "volume in lots of 100, amount in thousands"),
    1e-3: (1, 1e3, "amount in thousands"),
    1e-2: (100, 1e4, "volume in lots of 100, amount in ten thousands"),
    1e-4: (1, 1e4, "amount in ten thousands"),
    1e-8: (1, 1e8, "amount in hundred millions"),
    1e3: (1e3, 1, "volume in thousands"),
    1e4: (1e4, 1, "volume in ten thousands"),
}
SLACK = 0.02  # how far the mean price may lie outside of low and high: amounts are rounded
AGREE = 0.9  # share of the bars looked at that must agree
WINDOW = (
    20  # bars at the beginning and at the end: prices that are adjusted are the traded ones at one of the two
)
SHARE = (
    1000.0  # a column `turnover` with a lower median that fits no unit is a share of the capital, not money
)


AGREES, UNKNOWN, SHARES, SWAPPED = "agrees", "unknown", "shares", "swapped"
UNITS_SAID = {  # what is written about instruments; for a text of RATIOS it follows from the text
    UNKNOWN: "The amount fits no unit of volume x price and is kept as it is.",
    SHARES: "Column turnover is a share of the capital, no money: the amount is volume x price instead.",
    SWAPPED: "The columns of volume and amount are exchanged, as volume / (amount x price) shows.",
}


def settle_units(
    columns: dict[str, np.ndarray],
    code: np.ndarray | None,
    times: np.ndarray,
    doubtful: bool,
    known: tuple[float, float] | None,
) -> dict[str, int]:
    """Convert volume and amount in `columns` to shares and currency, by the evidence of each instrument.

    `code` numbers the instrument of each row, None for one instrument; `times` are int64 ns [N]. `doubtful` says that
    the amount may be a share of the capital (a column `turnover`); `known` are the factors of volume and amount in
    the layout, for instruments without evidence. Returns how many instruments AGREES and each text of RATIOS or
    UNITS_SAID are true of.
    """
    counts: dict[str, int] = {}
    low, high, volume, amount = (columns[name] for name in ("low", "high", "volume", "amount"))
    changed = False
    for rows in _instruments(code, len(times)):
        rows = rows if (np.diff(times[rows]) > 0).all() else _in_order(rows, times)
        ratio = amount_ratio(low[rows], high[rows], volume[rows], amount[rows])
        if ratio == 1.0:
            counts[AGREES] = counts.get(AGREES, 0) + 1
            continue
        if not changed:
            volume, amount, changed = volume.copy(), amount.copy(), True
        if ratio is None and doubtful and not _median(amount[rows]) >= SHARE:
            amount[rows] = np.nan
            text = SHARES
        elif ratio is None and amount_ratio(low[rows], high[rows], amount[rows], volume[rows]) == 1.0:
            volume[rows], amount[rows] = amount[rows].copy(), volume[rows].copy()
            text = SWAPPED
        elif ratio is None and known is None:
            text = UNKNOWN if (amount[rows] > 0).any() else ""
        else:
            by_volume, by_amount, text = RATIOS[ratio] if ratio is not None else (*known, "")  # type: ignore[misc]
            volume[rows] *= by_volume
            amount[rows] *= by_amount
        if text:
            counts[text] = counts.get(text, 0) + 1
    columns["volume"], columns["amount"] = volume, amount
    return counts


def _instruments(code: np.ndarray | None, size: int) -> Iterator[Any]:
    """Yield the rows of each instrument, as a slice where they stand together."""
    if code is None:
        yield slice(0, size)
        return
    bounds = np.flatnonzero(np.diff(code)) + 1
    starts, ends = np.append(0, bounds), np.append(bounds, size)
    if len(np.unique(code[starts])) == len(starts):
        yield from (slice(begin, end) for begin, end in zip(starts.tolist(), ends.tolist(), strict=True))
        return
    order = np.argsort(code, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(code[order])) + 1)


def _in_order(rows: Any, times: np.ndarray) -> np.ndarray:
    places = np.arange(len(times))[rows]
    return places[np.argsort(times[places], kind="stable")]


def _median(values: np.ndarray) -> float:
    positive = values[values > 0]
    return float(np.median(positive)) if len(positive) else 0.0


def amount_ratio(low: np.ndarray, high: np.ndarray, volume: np.ndarray, amount: np.ndarray) -> float | None:
    """Return the ratio of RATIOS at which amount / volume lies between low and high; None where none does."""
    traded = np.flatnonzero((volume > 0) & (amount > 0) & (low > 0) & (high >= low))
    if not len(traded):
        return None
    for rows in (traded[:: max(1, len(traded) // 64)], traded[-WINDOW:], traded[:WINDOW]):
        mean = amount[rows] / volume[rows]
        for ratio in RATIOS:
            inside = (mean >= low[rows] * ratio * (1 - SLACK)) & (mean <= high[rows] * ratio * (1 + SLACK))
            if inside.mean() >= AGREE:
                return ratio
    return None
