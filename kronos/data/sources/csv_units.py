"""The units of volume and amount: shares and currency, found by comparing the amount with volume x price."""

import numpy as np
import pandas as pd

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


UNKNOWN, SHARES, SWAPPED = "unknown", "shares", "swapped"
UNITS_SAID = {  # what is written about instruments; for a text of RATIOS it follows from the text
    UNKNOWN: "The amount fits no unit of volume x price and is kept as it is.",
    SHARES: "Column turnover is a share of the capital, no money: the amount is volume x price instead.",
    SWAPPED: "The columns of volume and amount are exchanged, as volume / (amount x price) shows.",
}


def settle_units(frame: pd.DataFrame, doubtful: bool, known: tuple[float, float] | None) -> dict[str, int]:
    """Convert volume and amount of a frame to shares and currency, in place, by the evidence of each instrument.

    `doubtful` says that the amount may be a share of the capital (a column `turnover`); `known` are the factors of
    volume and amount in the layout, for instruments without evidence. Returns how many instruments each text of
    RATIOS or UNITS_SAID is true of.
    """
    counts: dict[str, int] = {}
    code, names = pd.factorize(frame["instrument"])
    order = np.argsort(code, kind="stable")
    begins = np.searchsorted(code[order], np.arange(len(names) + 1))
    columns = [
        frame[name].to_numpy(dtype=np.float64, copy=True) for name in ("low", "high", "volume", "amount")
    ]
    times = frame["datetime"].to_numpy()
    for place in range(len(names)):
        rows = order[begins[place] : begins[place + 1]]
        rows = rows[np.argsort(times[rows], kind="stable")] if len(rows) > 1 else rows
        low, high, volume, amount = (column[rows] for column in columns)
        ratio = _ratio(low, high, volume, amount)
        if ratio is None and doubtful and not _median(amount) >= SHARE:
            columns[3][rows] = np.nan
            counts[SHARES] = counts.get(SHARES, 0) + 1
            continue
        if ratio is None and _ratio(low, high, amount, volume) == 1.0:
            columns[2][rows], columns[3][rows] = amount, volume
            counts[SWAPPED] = counts.get(SWAPPED, 0) + 1
            continue
        if ratio is None and known is None:
            counts[UNKNOWN] = counts.get(UNKNOWN, 0) + bool((amount > 0).any())
            continue
        by_volume, by_amount, text = RATIOS[ratio] if ratio is not None else (*known, "")  # type: ignore[misc]
        if by_volume != 1:
            columns[2][rows] = volume * by_volume
        if by_amount != 1:
            columns[3][rows] = amount * by_amount
        counts[text] = counts.get(text, 0) + 1
    frame["volume"], frame["amount"] = columns[2], columns[3]
    return {text: count for text, count in counts.items() if count}


def _median(values: np.ndarray) -> float:
    positive = values[values > 0]
    return float(np.median(positive)) if len(positive) else 0.0


def _ratio(low: np.ndarray, high: np.ndarray, volume: np.ndarray, amount: np.ndarray) -> float | None:
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
