"""Calibrated distributions of forecasts: sample paths corrected by their errors on validation days.

Split conformal prediction with normalised errors (a conformal predictive system, Vovk et al. 2019): the error of the
paths' median is divided by a scale, which mixes the spread of the paths with the recent volatility of the instrument;
a forecast's distribution is its median plus its scale times the errors on the validation days. Under exchangeability
the interval between two of its quantiles holds its nominal share whatever the model.

Pure functions of arrays. N forecasts, S sample paths, H steps, P = 4 prices (open, high, low, close). Moves are
relative to the last close: 0.01 is one per cent of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kronos.data.bars import CLOSE, HIGH, LOW, OPEN, PRICES
from kronos.evaluation.accuracy import crps
from kronos.utils.errors import UserError

DECAYS = (0.85, 0.9, 0.94, 0.97)  # of squared returns per bar, tried; 0.94 is RiskMetrics' (1996) for days
LEAST_SCALE = 1e-8  # of an instrument whose price does not move
LEAST_PRICE = 0.01  # of the last close
LEAST_SERIES = 100  # validation series, below which no correction is fitted
# Tried for the paths' spread, against the recent volatility. Few, since a small weight on a spread that says nothing
# is likelier by chance, and then shares in calm and in wild times differ.
WEIGHTS = (0.0, 0.5, 1.0)
TEMPERATURES = (0.7, 0.85, 1.0, 1.2, 1.45)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How paths are drawn for calibrated bands, and the errors that correct them.

    Attributes:
        temperatures: sampling temperature of each step, [H]; top-p and top-k are off.
        samples: paths per series that the errors were measured with.
        weight: exponent of the paths' spread in the scale; 1 - weight is that of the recent volatility.
        decay: of the squared returns in the recent volatility, per bar.
        errors: sorted normalised errors, float64 [P, H, K].
    """

    temperatures: tuple[float, ...]
    samples: int
    weight: float
    decay: float
    errors: np.ndarray

    @property
    def horizon(self) -> int:
        return int(self.errors.shape[1])

    def first(self, horizon: int) -> "Calibration":
        """Return the calibration of the first `horizon` steps."""
        return replace(self, temperatures=self.temperatures[:horizon], errors=self.errors[:, :horizon])

    def quantiles(
        self, moves_NSHP: np.ndarray, volatility_N: np.ndarray, levels: Sequence[float]
    ) -> np.ndarray:
        """Return calibrated quantiles of the moves, float64 [levels, N, H, P]."""
        centre, scale = location_and_scale(moves_NSHP, volatility_N, self.weight)
        picked = np.stack([self.error_quantile(level) for level in levels])  # [levels, P, H]
        return np.asarray(centre + scale * np.moveaxis(picked, 1, 2)[:, None])

    def price_quantiles(
        self, moves_NSHP: np.ndarray, volatility_N: np.ndarray, last_N: np.ndarray, levels: Sequence[float]
    ) -> np.ndarray:
        """Return calibrated quantiles as prices, [levels, N, H, P]; none is below one per cent of the last close.

        For each level, high is at least open and close, and low at most.
        """
        size = np.abs(last_N)[:, None, None]
        prices = last_N[:, None, None] + size * self.quantiles(moves_NSHP, volatility_N, levels)
        prices = np.maximum(prices, LEAST_PRICE * size)
        # A high is never below the open or the close, so that none of its quantiles is below theirs.
        body = prices[..., [OPEN, CLOSE]]
        prices[..., HIGH] = np.maximum(prices[..., HIGH], body.max(axis=-1))
        prices[..., LOW] = np.minimum(prices[..., LOW], body.min(axis=-1))
        return np.asarray(prices)

    def error_quantile(self, level: float) -> np.ndarray:
        """Return the conformal quantile of the errors, [P, H].

        Below one half it is rounded down and above it up, so that at least the nominal share lies between two
        quantiles; beyond the errors there are, the smallest or largest one is taken.
        """
        if not 0 <= level <= 1:
            raise UserError(f"the quantile is {level}, expected 0 to 1")
        count = self.errors.shape[-1]
        place = level * (count + 1)
        rank = np.floor(place + 1e-9) if level < 0.5 else np.ceil(place - 1e-9)
        if level == 0.5:
            return np.asarray(np.median(self.errors, axis=-1))
        return np.asarray(self.errors[..., int(np.clip(rank, 1, count)) - 1])

    def close_levels(
        self, realised_NH: np.ndarray, moves_NSHP: np.ndarray, volatility_N: np.ndarray
    ) -> np.ndarray:
        """Return the level of each realised close in its calibrated distribution, in (0, 1), [N, H]; NaN stays.

        Among errors that equal the realised one, as those of a price that does not move, it is drawn at random.
        """
        centre, scale = location_and_scale(moves_NSHP, volatility_N, self.weight)
        standardised = (realised_NH - centre[..., CLOSE]) / scale[..., CLOSE]
        errors = self.errors[CLOSE]
        low, high = (
            np.stack(
                [np.searchsorted(errors[step], standardised[:, step], side) for step in range(self.horizon)],
                1,
            )
            for side in ("left", "right")
        )
        chance = np.random.default_rng(0).random(low.shape)
        levels = (low + np.floor(chance * (high - low + 1)) + 0.5) / (errors.shape[-1] + 1)
        return np.where(np.isfinite(realised_NH), levels, np.nan)

    def paths(self, moves_NSHP: np.ndarray, volatility_N: np.ndarray) -> np.ndarray:
        """Return the paths with calibrated distributions at each step, [N, S, H, P].

        Each path keeps its rank among the paths at every step (ensemble copula coupling, Schefzik et al. 2013), so
        that dependence between steps and prices is the model's.
        """
        samples = moves_NSHP.shape[1]
        order = np.argsort(np.argsort(moves_NSHP, axis=1, kind="stable"), axis=1, kind="stable")
        levels = (np.arange(samples) + 0.5) / samples
        count = self.errors.shape[-1]
        places = np.clip(levels * (count + 1) - 1, 0, count - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, count - 1)
        share = places - low
        values = self.errors[..., low] * (1 - share) + self.errors[..., high] * share  # [P, H, S]
        by_rank = np.moveaxis(values, -1, 0)[None]  # [1, S, P, H]
        by_rank = np.broadcast_to(np.swapaxes(by_rank, 2, 3), moves_NSHP.shape)
        centre, scale = location_and_scale(moves_NSHP, volatility_N, self.weight)
        return np.asarray(centre[:, None] + scale[:, None] * np.take_along_axis(by_rank, order, axis=1))

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        errors = {
            name: [[float(f"{value:.7g}") for value in step] for step in self.errors[place]]
            for place, name in enumerate(PRICES)
        }
        return {
            "temperatures": list(self.temperatures), "samples": self.samples, "weight": self.weight,
            "decay": self.decay, "errors": errors,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Calibration":
        """Return the calibration of `to_json`."""
        errors = np.array([stored["errors"][name] for name in PRICES], np.float64)
        temperatures = tuple(float(one) for one in stored["temperatures"])
        return cls(
            temperatures, int(stored["samples"]), float(stored["weight"]), float(stored["decay"]), errors
        )


def moves(prices: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return prices relative to the last close as moves, float64; `last` broadcasts to the prices."""
    return np.asarray((prices.astype(np.float64) - last) / np.abs(last))


def recent_volatility(closes_NL: np.ndarray, decay: float) -> np.ndarray:
    """Return the exponentially weighted volatility per bar of the closes of a context, as a fraction of them, [N]."""
    closes = closes_NL.astype(np.float64)
    returns = np.diff(closes, axis=1) / np.abs(closes[:, :-1])
    weights = decay ** np.arange(returns.shape[1])[::-1]
    return np.asarray(np.sqrt((returns**2 * weights).sum(axis=1) / weights.sum()))


def location_and_scale(
    moves_NSHP: np.ndarray, volatility_N: np.ndarray, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return median and scale of the paths, [N, H, P] each.

    The scale is the mean absolute deviation of the paths to the power `weight` times the recent volatility, which
    grows with the square root of the step, to the power 1 - `weight`.
    """
    centre = np.median(moves_NSHP, axis=1)
    spread = np.abs(moves_NSHP - centre[:, None]).mean(axis=1)
    steps = np.sqrt(np.arange(1, moves_NSHP.shape[2] + 1))
    recent = volatility_N[:, None, None] * steps[:, None]
    scale = np.maximum(spread, LEAST_SCALE) ** weight * np.maximum(recent, LEAST_SCALE) ** (1 - weight)
    return centre, scale


def fit_temperatures(
    closes_by_temperature: Mapping[float, np.ndarray], realised_NH: np.ndarray
) -> list[float]:
    """Return the temperature of each step with the lowest mean CRPS of the closes.

    `closes_by_temperature` holds moves [N, S, H] drawn at each temperature; `realised_NH` is NaN where unknown.
    """
    tried = list(closes_by_temperature)
    scores = []
    for drawn in closes_by_temperature.values():
        score = crps(np.moveaxis(drawn, 1, 2), realised_NH)
        scores.append(np.nanmean(score, axis=0))
    return [tried[place] for place in np.argmin(np.array(scores), axis=0)]


def fit_scale(moves_NSHP: np.ndarray, closes_NL: np.ndarray, realised_NHP: np.ndarray) -> tuple[float, float]:
    """Return the weight of the paths' spread and the decay of the recent volatility that make the errors likeliest.

    The likelihood is that of a Laplace distribution with a factor of its own for each step and price. `closes_NL` are
    the contexts' closes; NaN of `realised_NHP` are left out.
    """
    best, least = (1.0, DECAYS[0]), np.inf
    for decay in DECAYS:
        volatility = recent_volatility(closes_NL, decay)
        for weight in WEIGHTS:
            centre, scale = location_and_scale(moves_NSHP, volatility, weight)
            error = np.abs(realised_NHP - centre)
            known = np.isfinite(error)
            factor = np.nanmean(error / scale, axis=0)
            loss = float((np.log(scale) + np.log(np.maximum(factor, LEAST_SCALE)))[known].mean())
            if loss < least - 1e-12:
                best, least = (weight, decay), loss
    return best


def fit_errors(
    moves_NSHP: np.ndarray,
    closes_NL: np.ndarray,
    realised_NHP: np.ndarray,
    *,
    temperatures: Sequence[float],
    weight: float,
    decay: float,
) -> Calibration:
    """Fit the errors on forecasts that had no part in the choice of the temperatures, the weight and the decay.

    Every forecast must have its whole horizon realised: NaN raises ValueError.
    """
    if not np.isfinite(realised_NHP).all():
        raise ValueError("a calibration is fitted on series whose horizon is realised")
    centre, scale = location_and_scale(moves_NSHP, recent_volatility(closes_NL, decay), weight)
    errors = np.sort(np.moveaxis((realised_NHP - centre) / scale, 0, -1), axis=-1)  # [H, P, N]
    drawn_at = tuple(float(one) for one in temperatures)
    return Calibration(drawn_at, moves_NSHP.shape[1], weight, decay, np.swapaxes(errors, 0, 1))
