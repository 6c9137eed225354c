"""Accuracy of forecasts: errors, direction, distributions, calibration, volatility.

Pure functions of arrays. N forecasts, H steps, S sample paths. Closes are relative: divided by the last known
close, so that instruments of any price have the same weight and 0.01 is one per cent of it. NaN where a step has
no bar.
"""

from collections.abc import Sequence
from math import pi, sqrt

import numpy as np
import pandas as pd
from scipy import special

from kronos.evaluation.statistics import Estimate, estimate, ratio

QUANTILES = (0.1, 0.5, 0.9)
BANDS = (0.5, 0.9)


def errors(predicted_NH: np.ndarray, realised_NH: np.ndarray) -> dict[str, np.ndarray]:
    """Return absolute, squared and percentage errors (of the realised value) of relative closes, [N, H]."""
    difference = predicted_NH - realised_NH
    return {
        "absolute": np.abs(difference), "squared": difference**2,
        "percentage": np.abs(difference) / realised_NH,
    }  # fmt: skip


def by_step(
    predicted_NH: np.ndarray, realised_NH: np.ndarray, baselines: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Return MAE, RMSE, MAPE, skill and direction hit rate per step and, as step 0, over all steps.

    `baselines` holds other forecasts [N, H]; `last` must be among them (ones). Skill is 1 - MAE / MAE of the last
    price, and likewise for RMSE. `direction` is the share of moves whose sign is forecast, unchanged closes left
    out; `rises` is the share of those that rose: the hit rate of always forecasting a rise.
    """
    steps = predicted_NH.shape[1]
    rows = []
    for step in (0, *range(1, steps + 1)):
        part = slice(None) if step == 0 else slice(step - 1, step)
        model = errors(predicted_NH[:, part], realised_NH[:, part])
        row: dict[str, float] = {
            "step": step, "pairs": int(np.isfinite(model["absolute"]).sum()), "mae": _mean(model["absolute"]),
            "rmse": sqrt(_mean(model["squared"])), "mape": _mean(model["percentage"]),
        }  # fmt: skip
        for name, other in baselines.items():
            found = errors(other[:, part], realised_NH[:, part])
            row[f"mae_{name}"] = _mean(found["absolute"])
            row[f"rmse_{name}"] = sqrt(_mean(found["squared"]))
        row["skill_mae"] = _skill(row["mae"], row["mae_last"])
        row["skill_rmse"] = _skill(row["rmse"], row["rmse_last"])
        hit, rose = direction(predicted_NH[:, part], realised_NH[:, part])
        row["direction"], row["rises"] = _mean(hit), _mean(rose)
        rows.append(row)
    return pd.DataFrame(rows).astype({"step": int, "pairs": int})


def direction(predicted: np.ndarray, realised: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (1 where the sign of the move from the last close is right, 1 where it rose); NaN for no move."""
    moved = np.isfinite(realised) & (realised != 1) & np.isfinite(predicted)
    hit = np.where(moved, np.sign(predicted - 1) == np.sign(realised - 1), np.nan)
    return hit, np.where(moved, realised > 1, np.nan)


def by_instrument(
    predicted_NH: np.ndarray, realised_NH: np.ndarray, last_N: np.ndarray, instruments: Sequence[str]
) -> pd.DataFrame:
    """Return the same measures per instrument, over all steps, and the MAE in price units."""
    model, still = errors(predicted_NH, realised_NH), errors(np.ones_like(predicted_NH), realised_NH)
    hit, rose = direction(predicted_NH, realised_NH)
    columns = {
        "mae": model["absolute"], "squared": model["squared"], "mape": model["percentage"],
        "mae_last": still["absolute"], "mae_price": model["absolute"] * last_N[:, None],
        "direction": hit, "rises": rose,
    }  # fmt: skip
    steps = predicted_NH.shape[1]
    frame = pd.DataFrame({name: values.reshape(-1) for name, values in columns.items()})
    grouped = frame.groupby(np.repeat(np.asarray(instruments, dtype=object), steps), sort=True)
    result = grouped.mean()
    result.insert(0, "pairs", grouped["mae"].count())
    result["rmse"] = np.sqrt(result.pop("squared"))
    result["skill_mae"] = 1 - result["mae"] / result["mae_last"]
    return result.rename_axis("instrument")


def skill(
    loss: np.ndarray, baseline: np.ndarray, day: np.ndarray, horizon: int
) -> tuple[float, float, float, Estimate]:
    """Return 1 - mean loss / mean baseline with its 95 % interval, and the difference of the daily mean losses.

    `loss` and `baseline` are [N] or [N, H]; both are averaged over each day first, so that every day has the same
    weight. NaN ends of the interval where there are too few days.
    """
    both = np.isfinite(loss) & np.isfinite(baseline)
    if loss.ndim == 2:
        day = np.repeat(day[:, None], loss.shape[1], axis=1)
    frame = pd.DataFrame({"loss": loss[both], "baseline": baseline[both]})
    daily = frame.groupby(day[both], sort=True).mean().to_numpy()
    quotient, low, high = ratio(daily[:, 0], daily[:, 1], horizon)
    return 1 - quotient, 1 - high, 1 - low, estimate(daily[:, 0] - daily[:, 1], horizon)


def crps(samples_NS: np.ndarray, realised_N: np.ndarray) -> np.ndarray:
    """Return the fair continuous ranked probability score of each ensemble, unbiased in the number of samples.

    Mean |x - y| minus half the mean |x - x'| over pairs of different members; needs at least two members; NaN where
    the realised value is NaN.
    """
    ordered = np.sort(samples_NS, axis=-1)
    size = ordered.shape[-1]
    if size < 2:
        raise ValueError("a fair CRPS needs at least two samples")
    weights = 2 * np.arange(1, size + 1) - size - 1
    spread = (ordered * weights).sum(-1) / (size * (size - 1))
    return np.asarray(np.abs(ordered - realised_N[..., None]).mean(-1) - spread)


def crps_normal(mean: np.ndarray, deviation: np.ndarray, realised: np.ndarray) -> np.ndarray:
    """Return the CRPS of a normal distribution in closed form; with a deviation of 0 it is the absolute error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (realised - mean) / deviation
        density = np.exp(-(z**2) / 2) / sqrt(2 * pi)
        score = deviation * (z * (2 * special.ndtr(z) - 1) + 2 * density - 1 / sqrt(pi))
    return np.asarray(np.where(deviation > 0, score, np.abs(realised - mean)))


def pinball(samples_NS: np.ndarray, realised_N: np.ndarray, level: float) -> np.ndarray:
    """Return the pinball loss of the samples' quantile (linear between order statistics) at `level`."""
    gap = realised_N - np.quantile(samples_NS, level, axis=-1)
    return np.asarray(np.maximum(level * gap, (level - 1) * gap))


def rank_histogram(samples_NS: np.ndarray, realised_N: np.ndarray, seed: int = 0) -> np.ndarray:
    """Count how often the realised value has each rank among the samples, [S + 1]; ties are broken at random."""
    known = np.isfinite(realised_N)
    samples, realised = samples_NS[known], realised_N[known][:, None]
    below, equal = (samples < realised).sum(-1), (samples == realised).sum(-1)
    ranks = below + np.random.default_rng(seed).integers(0, equal + 1)
    return np.bincount(ranks, minlength=samples_NS.shape[-1] + 1)


def band(samples: int, level: float) -> tuple[int, float] | None:
    """Return (k, exact level) of the band from the k-th smallest to the k-th largest sample nearest to `level`.

    A draw of the same distribution falls inside with probability 1 - 2k / (S + 1). None where even the widest band
    is narrower than `level`: 90 % needs 19 samples.
    """
    if 1 - 2 / (samples + 1) < level - 1e-9:
        return None
    place = max(1, int(((1 - level) * (samples + 1) / 2) + 1e-9))
    return place, 1 - 2 * place / (samples + 1)


def coverage(samples_NS: np.ndarray, realised_N: np.ndarray, place: int) -> np.ndarray:
    """Return 1 where the realised value lies within the band of `band`, 0 outside, NaN where it is NaN."""
    ordered = np.sort(samples_NS, axis=-1)
    inside = (ordered[..., place - 1] <= realised_N) & (realised_N <= ordered[..., -place])
    return np.where(np.isfinite(realised_N), inside, np.nan)


def path_volatility(closes: np.ndarray) -> np.ndarray:
    """Return the root mean squared log return of relative closes [..., H] that start at 1; NaN if one is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.concatenate([np.ones_like(closes[..., :1]), closes], axis=-1))
    return np.asarray(np.sqrt(np.mean(np.diff(logs, axis=-1) ** 2, axis=-1)))


def volatility_scores(predicted_N: np.ndarray, realised_N: np.ndarray) -> dict[str, float]:
    """Return MAE and R2 (1 - squared error / variance of the realised values) of forecast volatilities."""
    known = np.isfinite(predicted_N) & np.isfinite(realised_N)
    predicted, realised = predicted_N[known], realised_N[known]
    if len(realised) < 2:
        return {"mae": float("nan"), "r2": float("nan"), "pairs": float(len(realised))}
    variance = float(((realised - realised.mean()) ** 2).sum())
    left = float(((realised - predicted) ** 2).sum())
    return {
        "mae": float(np.abs(realised - predicted).mean()),
        "r2": 1 - left / variance if variance > 0 else float("nan"),
        "pairs": float(len(realised)),
    }


def distribution_scores(
    samples_NSH: np.ndarray, realised_NH: np.ndarray, volatility_N: np.ndarray, day_N: np.ndarray
) -> dict[str, object]:
    """Return all scores of sample paths, over all steps together; `volatility_N` is the rolling volatility per bar.

    The rolling-volatility baseline is a normal distribution around the last close whose deviation grows with the
    square root of the step.
    """
    samples = np.moveaxis(samples_NSH, 1, 2)  # [N, H, S]
    horizon, size = samples.shape[1:]
    steps = np.sqrt(np.arange(1, horizon + 1))
    score = crps(samples, realised_NH) if size > 1 else np.full(realised_NH.shape, np.nan)
    rolling = crps_normal(np.ones_like(realised_NH), volatility_N[:, None] * steps, realised_NH)
    point = np.abs(realised_NH - 1)
    found: dict[str, object] = {
        "samples": size, "series": len(samples), "crps": _mean(score),
        "crps_by_step": [_mean(score[:, step]) for step in range(horizon)],
        "crps_last": _mean(np.where(np.isfinite(score), point, np.nan)), "crps_rolling": _mean(rolling),
        "skill_last": skill(score, point, day_N, horizon)[:3],
        "skill_rolling": skill(score, rolling, day_N, horizon)[:3],
        "pinball": {level: _mean(pinball(samples, realised_NH, level)) for level in QUANTILES},
        "ranks": rank_histogram(samples, realised_NH).tolist(), "coverage": {}, "coverage_missing": [],
    }  # fmt: skip
    inside, missing = {}, []
    for level in BANDS:
        place = band(size, level)
        if place is None:
            missing.append(level)
        else:
            inside[level] = (place[1], _mean(coverage(samples, realised_NH, place[0])))
    found["coverage"], found["coverage_missing"] = inside, missing
    real = path_volatility(realised_NH)
    found["volatility"] = volatility_scores(path_volatility(samples_NSH).mean(axis=1), real)
    found["volatility_rolling"] = volatility_scores(volatility_N, real)
    return found


def _mean(values: np.ndarray) -> float:
    known = np.isfinite(values)
    return float(values[known].mean()) if known.any() else float("nan")


def _skill(loss: float, baseline: float) -> float:
    return float(1 - loss / baseline) if baseline > 0 else float("nan")
