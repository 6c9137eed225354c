"""Whether bands hold their nominal share: by step, volatility and instrument, before and after calibration.

Pure functions of arrays. N forecasts, H steps, S samples, B bands. The central band of 90 % lies between the
quantiles 0.05 and 0.95, as `predict` writes them. A level is the place of the realised close in the forecast's
distribution, in (0, 1); uniform levels mean a calibrated forecast.
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
        series: number of forecasts.
    """

    steps: pd.DataFrame
    regimes: pd.DataFrame
    instruments: dict[str, float]
    histogram: np.ndarray
    width: float
    crps: float
    days: int
    series: int

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


def ends(band: float) -> tuple[float, float]:
    """Return the quantiles that a central band lies between."""
    return (1 - band) / 2, (1 + band) / 2


def inside(realised_NH: np.ndarray, bands_BNH2: np.ndarray) -> np.ndarray:
    """Return 1 where a realised value lies within the ends of a band, 0 where it does not, [B, N, H]; NaN stays."""
    within = (bands_BNH2[..., 0] <= realised_NH) & (realised_NH <= bands_BNH2[..., 1])
    known = np.isfinite(realised_NH) & np.isfinite(bands_BNH2).all(axis=-1)
    return np.where(known, within, np.nan)


def sample_bands(samples_NSH: np.ndarray) -> np.ndarray:
    """Return the ends of each of `BANDS` from the quantiles of samples, [B, N, H, 2].

    NaN where there are too few samples: with 8 or fewer, no two of them have 80 % of the distribution between them.
    """
    count = samples_NSH.shape[1]
    found = []
    for band in BANDS:
        pair = np.quantile(samples_NSH, ends(band), axis=1)
        found.append(pair if count >= round(2 / (1 - band)) - 1 else np.full_like(pair, np.nan))
    return np.moveaxis(np.array(found), 1, -1)


def measure(
    levels_NH: np.ndarray,
    samples_NSH: np.ndarray,
    realised_NH: np.ndarray,
    bands_BNH2: np.ndarray,
    *,
    volatility_N: np.ndarray,
    day_N: np.ndarray,
    instruments: Sequence[str],
) -> Coverage:
    """Return the coverage of bands.

    Args:
        levels_NH: levels of the realised closes, NaN where there is none.
        samples_NSH: an ensemble of the forecast distribution, for the CRPS.
        realised_NH: realised closes, in the units of the samples.
        bands_BNH2: lower and upper end of each of `BANDS`; NaN for a band that there is not.
        volatility_N: recent volatility at the forecast, whose thirds are the regimes.
        day_N: session of each forecast; days are the units of the intervals, with overlapping horizons allowed for.
        instruments: the instrument of each forecast.
    """
    horizon = levels_NH.shape[1]
    regime = np.digitize(volatility_N, np.quantile(volatility_N, [1 / 3, 2 / 3]))
    steps, regimes = [], []
    held = inside(realised_NH, bands_BNH2)
    for band, within in zip(BANDS, held, strict=True):
        for step in range(horizon + 1):
            part = within if step == 0 else within[:, step - 1 : step]
            steps.append({"band": band, "step": step, **_share(part, day_N, horizon)})
        for place, name in enumerate(REGIMES):
            rows = regime == place
            regimes.append({"band": band, "regime": name, **_share(within[rows], day_N[rows], horizon)})
    shown = BANDS.index(SHOWN)
    frame = pd.DataFrame(
        {"instrument": np.repeat(np.asarray(instruments, object), horizon), "in": held[shown].ravel()}
    )
    grouped = frame.dropna().groupby("instrument")["in"]
    shares = grouped.mean()[grouped.count() >= LEAST].sort_values()
    known = levels_NH[np.isfinite(levels_NH)]
    counts = np.histogram(known, BINS, (0.0, 1.0))[0]
    score = crps(np.moveaxis(samples_NSH, 1, 2), realised_NH)
    width = float((bands_BNH2[shown, ..., 1] - bands_BNH2[shown, ..., 0]).mean())
    return Coverage(
        pd.DataFrame(steps), pd.DataFrame(regimes), {str(name): float(share) for name, share in shares.items()},
        counts / max(1, counts.sum()), width, float(np.nanmean(score)),
        len(np.unique(day_N)), len(levels_NH),
    )  # fmt: skip


def _share(within: np.ndarray, day_N: np.ndarray, horizon: int) -> dict[str, float]:
    """Share inside over all closes; its interval treats a day's closes as one observation.

    There is no interval where there are too few days, or where all of them have the same share.
    """
    known = np.isfinite(within)
    counts = (
        pd.DataFrame({"hits": np.nansum(within, axis=1), "closes": known.sum(axis=1)}).groupby(day_N).sum()
    )
    hits, closes = counts[counts["closes"] > 0].to_numpy(np.float64).T
    share, low, high = ratio(hits, closes, horizon)
    if not high > low:  # also NaN
        return {"share": share, "low": np.nan, "high": np.nan}
    return {"share": share, "low": max(0.0, low), "high": min(1.0, high)}
