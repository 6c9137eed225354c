"""Whether bands hold their nominal share: by step, volatility and instrument, before and after calibration.

Pure functions of arrays. N forecasts, H steps, S samples. A level is the place of the realised close in the
forecast's distribution, in (0, 1); uniform levels mean a calibrated forecast. The central band of 90 % holds a close
whose level lies between 0.05 and 0.95.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.evaluation.accuracy import crps
from kronos.evaluation.statistics import ratio

BANDS = (0.5, 0.8, 0.9, 0.95)
SHOWN = 0.9  # the band of the key figures
REGIMES = ("low", "medium", "high")  # thirds of the forecasts by recent volatility
BINS = 20  # of the histogram of levels
LEAST = 10  # closes per instrument, below which its share is not listed


@dataclass(frozen=True)
class Coverage:
    """Shares of realised closes inside central bands, with 95 % intervals by days, and the sharpness of the bands.

    Attributes:
        steps: columns band, step (0: all steps), share, low, high.
        regimes: the same with regime instead of step.
        instruments: share inside the 90 % band of each instrument with at least 10 closes.
        histogram: share of closes in each of 20 equal bins of levels.
        width: mean width of the 90 % band, relative to the last close.
        crps: mean CRPS of the closes, relative to the last close.
        days: number of days with a forecast.
    """

    steps: pd.DataFrame
    regimes: pd.DataFrame
    instruments: dict[str, float]
    histogram: np.ndarray
    width: float
    crps: float
    days: int

    def share(self, band: float = SHOWN, step: int = 0) -> pd.Series:
        """Return share, low and high of a band at a step; step 0 is all of them."""
        found = self.steps[(self.steps["band"] == band) & (self.steps["step"] == step)]
        return found.iloc[0][["share", "low", "high"]]


def sample_levels(samples_NSH: np.ndarray, realised_NH: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the level of each realised value among samples, [N, H]; NaN stays.

    Between two samples and beyond the outermost ones the level is drawn at random (the randomised PIT), so that a
    calibrated ensemble of any size has uniform levels.
    """
    known = np.isfinite(realised_NH)
    values = np.where(known, realised_NH, 0.0)[:, None]
    draws = np.random.default_rng(seed).random((2, *realised_NH.shape))
    below, equal = (samples_NSH < values).sum(axis=1), (samples_NSH == values).sum(axis=1)
    rank = below + np.floor(draws[0] * (equal + 1))
    return np.where(known, (rank + draws[1]) / (samples_NSH.shape[1] + 1), np.nan)


def measure(
    levels_NH: np.ndarray,
    samples_NSH: np.ndarray,
    realised_NH: np.ndarray,
    width_NH: np.ndarray,
    *,
    volatility_N: np.ndarray,
    day_N: np.ndarray,
    instruments: Sequence[str],
) -> Coverage:
    """Return the coverage of bands whose realised levels are `levels_NH`.

    Args:
        levels_NH: levels of the realised closes, NaN where there is none.
        samples_NSH: an ensemble of the forecast distribution, for the CRPS.
        realised_NH: realised closes, in the units of the samples.
        width_NH: width of the 90 % band.
        volatility_N: recent volatility at the forecast, whose thirds are the regimes.
        day_N: session of each forecast; days are the units of the intervals, with overlapping horizons allowed for.
        instruments: the instrument of each forecast.
    """
    horizon = levels_NH.shape[1]
    regime = np.digitize(volatility_N, np.quantile(volatility_N, [1 / 3, 2 / 3]))
    steps, regimes = [], []
    for band in BANDS:
        inside = np.where(np.isfinite(levels_NH), np.abs(levels_NH - 0.5) <= band / 2, np.nan)
        for step in range(horizon + 1):
            part = inside if step == 0 else inside[:, step - 1 : step]
            steps.append({"band": band, "step": step, **_share(part, day_N, horizon)})
        for place, name in enumerate(REGIMES):
            rows = regime == place
            regimes.append({"band": band, "regime": name, **_share(inside[rows], day_N[rows], horizon)})
    inside = np.where(np.isfinite(levels_NH), np.abs(levels_NH - 0.5) <= SHOWN / 2, np.nan)
    frame = pd.DataFrame(
        {"instrument": np.repeat(np.asarray(instruments, object), horizon), "in": inside.ravel()}
    )
    grouped = frame.dropna().groupby("instrument")["in"]
    shares = grouped.mean()[grouped.count() >= LEAST].sort_values()
    known = levels_NH[np.isfinite(levels_NH)]
    counts = np.histogram(known, BINS, (0.0, 1.0))[0]
    score = crps(np.moveaxis(samples_NSH, 1, 2), realised_NH)
    return Coverage(
        pd.DataFrame(steps), pd.DataFrame(regimes), {str(name): float(share) for name, share in shares.items()},
        counts / max(1, counts.sum()), float(np.nanmean(width_NH)), float(np.nanmean(score)),
        len(np.unique(day_N)),
    )  # fmt: skip


def _share(inside: np.ndarray, day_N: np.ndarray, horizon: int) -> dict[str, float]:
    """Share inside over all closes; its interval treats a day's closes as one observation."""
    known = np.isfinite(inside)
    counts = (
        pd.DataFrame({"hits": np.nansum(inside, axis=1), "closes": known.sum(axis=1)}).groupby(day_N).sum()
    )
    hits, closes = counts[counts["closes"] > 0].to_numpy(np.float64).T
    share, low, high = ratio(hits, closes, horizon)
    return {"share": share, "low": max(0.0, low), "high": min(1.0, high)}
