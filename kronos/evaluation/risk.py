"""Figures to act on from a forecast's distribution: chance of a rise, expected return, value at risk, shortfall.

Pure functions of arrays. N forecasts, S samples, H steps. Moves are relative to the last close; losses are positive.
"""

from collections.abc import Sequence

import numpy as np

from kronos.evaluation.calibration import CLOSE, Calibration, location_and_scale

TAILS = (0.95, 0.99)


def of_samples(moves_NSH: np.ndarray, tails: Sequence[float] = TAILS) -> dict[str, np.ndarray]:
    """Return the figures of each step, [N, H] each, from sample paths of the close.

    `median`, `rise_probability`, `expected_return`, and for each tail `var_95` (the loss that is exceeded in 5 % of
    cases) and `es_95` (the mean loss of these cases).
    """
    ordered = np.sort(moves_NSH, axis=1)
    found = {
        "median": np.median(ordered, axis=1), "rise_probability": (ordered > 0).mean(axis=1),
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
    """Return the same figures of the calibrated distribution of the close."""
    centre, scale = location_and_scale(moves_NSHP, volatility_N, calibration.weight)
    centre, scale, errors = centre[..., CLOSE], scale[..., CLOSE], calibration.errors[CLOSE]  # [H, K]
    below = np.stack(
        [np.searchsorted(errors[step], -centre[:, step] / scale[:, step]) for step in range(len(errors))], 1
    )
    found = {
        "median": centre + scale * np.median(errors, axis=1), "rise_probability": 1 - below / errors.shape[1],
        "expected_return": centre + scale * errors.mean(axis=1),
    }  # fmt: skip
    for tail in tails:
        count = max(1, round((1 - tail) * errors.shape[1]))
        found[f"var_{100 * tail:g}"] = -(centre + scale * calibration.error_quantile(1 - tail)[CLOSE])
        found[f"es_{100 * tail:g}"] = -(centre + scale * errors[:, :count].mean(axis=1))
    return found


def drawdown_probability(moves_NSH: np.ndarray, depth: float) -> np.ndarray:
    """Return the share of paths whose close falls by `depth` or more from its highest value so far, [N].

    The last close counts as the first value.
    """
    prices = np.concatenate([np.ones_like(moves_NSH[:, :, :1]), 1 + moves_NSH], axis=2)
    falls = 1 - prices / np.maximum.accumulate(prices, axis=2)
    return np.asarray((falls.max(axis=2) >= depth).mean(axis=1))
