"""Figures to act on from a forecast's distribution: chance of a rise, expected return, value at risk, shortfall.

Pure functions of arrays. N forecasts, S samples, H steps. Moves are relative to the last close; losses are positive.
"""

from collections.abc import Sequence

import numpy as np

from kronos.data.bars import CLOSE
from kronos.evaluation.calibration import LEAST_PRICE, Calibration, location_and_scale

TAILS = (0.95, 0.99)
LEAST_RISE = 1e-6  # a ten-thousandth of a per cent: less, as of a price that stands still, is no rise


def of_samples(moves_NSH: np.ndarray, tails: Sequence[float] = TAILS) -> dict[str, np.ndarray]:
    """Return the figures of each step, [N, H] each, from sample paths of the close.

    `median`, `rise_probability`, `expected_return`, and for each tail `var_95` (the loss that is exceeded in 5 % of
    cases) and `es_95` (the mean loss of these cases).
    """
    ordered = np.sort(moves_NSH, axis=1)
    found = {
        "median": np.median(ordered, axis=1), "rise_probability": (ordered > LEAST_RISE).mean(axis=1),
        "expected_return": ordered.mean(axis=1),
    }  # fmt: skip
    for tail in tails:
        count = max(1, round((1 - tail) * ordered.shape[1]))
        found[f"var_{100 * tail:g}"] = -np.quantile(ordered, 1 - tail, axis=1)
        found[f"es_{100 * tail:g}"] = -ordered[:, :count].mean(axis=1)
    return found


def of_calibration(
    calibration: Calibration, moves_NSHP: np.ndarray, volatility_N: np.ndarray, tails: Sequence[float] = TAILS
) -> dict[str, np.ndarray]:
    """Return the same figures of the calibrated distribution of the close, in which no price is below its floor."""
    centre, scale = location_and_scale(moves_NSHP, volatility_N, calibration.weight)
    centre, scale, errors = centre[..., CLOSE], scale[..., CLOSE], calibration.errors[CLOSE]  # [H, K]
    below = np.stack(
        [
            np.searchsorted(errors[step], (LEAST_RISE - centre[:, step]) / scale[:, step], side="right")
            for step in range(len(errors))
        ],
        axis=1,
    )
    found = {
        "median": centre + scale * np.median(errors, axis=1), "rise_probability": 1 - below / errors.shape[1],
        "expected_return": centre + scale * errors.mean(axis=1),
    }  # fmt: skip
    for tail in tails:
        count = max(1, round((1 - tail) * errors.shape[1]))
        found[f"var_{100 * tail:g}"] = -(centre + scale * calibration.error_quantile(1 - tail)[CLOSE])
        found[f"es_{100 * tail:g}"] = -(centre + scale * errors[:, :count].mean(axis=1))
    least = LEAST_PRICE - 1
    for row, step in np.argwhere(centre + scale * errors[:, 0] < least):
        floored = np.maximum(centre[row, step] + scale[row, step] * errors[step], least)
        found["expected_return"][row, step] = floored.mean()
        for tail in tails:
            count = max(1, round((1 - tail) * errors.shape[1]))
            at = calibration.error_quantile(1 - tail)[CLOSE, step]
            found[f"var_{100 * tail:g}"][row, step] = -max(centre[row, step] + scale[row, step] * at, least)
            found[f"es_{100 * tail:g}"][row, step] = -floored[:count].mean()
    return found


def drawdown_probability(moves_NSH: np.ndarray, depth: float) -> np.ndarray:
    """Return the share of paths whose close falls by `depth` or more from its highest value so far, [N].

    The last close counts as the first value.
    """
    prices = np.maximum(
        np.concatenate([np.ones_like(moves_NSH[:, :, :1]), 1 + moves_NSH], axis=2), LEAST_PRICE
    )
    falls = 1 - prices / np.maximum.accumulate(prices, axis=2)
    return np.asarray((falls.max(axis=2) >= depth).mean(axis=1))
