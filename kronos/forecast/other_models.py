"""Models of other packages behind the interface of `models`: Chronos (chronos-forecasting) and GARCH (arch)."""

import hashlib
import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri

from kronos.forecast.models import Windows
from kronos.utils.errors import UserError
from kronos.utils.files import digest_bytes, given_path

BATCH = 256  # windows per call
LEAST_RETURNS = 30  # of a window, below which no GARCH is fitted
SCALE = 100.0  # arch's optimiser wants returns of about 1


class ChronosModel:
    """Chronos, Chronos-Bolt or Chronos-2 from a folder or the Hub; forecasts closes alone.

    Chronos draws paths. The others give quantiles by step: paths are then drawn with these distributions at each step
    and, from step to step, the dependence of a random walk.
    """

    def __init__(self, address: str, device: torch.device | str = "cpu") -> None:
        chronos = _package("chronos", "chronos-forecasting", "chronos")
        try:
            self._pipeline = chronos.BaseChronosPipeline.from_pretrained(address, device_map=str(device))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"models: chronos:{address} cannot be loaded: {reason}") from None
        self._levels = getattr(self._pipeline, "quantiles", None)
        self.digest = _digest_of(address, self._pipeline)

    def forecast(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
        """Return closes [N, samples, horizon]."""
        parts = []
        for start in range(0, len(windows.bars), BATCH):
            part = slice(start, start + BATCH)
            closes = [torch.from_numpy(row.astype(np.float32)) for row in windows.close[part]]
            with torch.random.fork_rng(), warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.manual_seed(int(windows.keys[start]) % 2**31 + windows.seed)
                if self._levels is None:
                    drawn = self._pipeline.predict(closes, prediction_length=horizon, num_samples=samples)
                    parts.append(np.asarray(drawn.float().cpu(), np.float64))
                else:
                    found, _ = self._pipeline.predict_quantiles(
                        closes, prediction_length=horizon, quantile_levels=list(self._levels)
                    )
                    quantiles = np.stack([np.asarray(one.float().cpu(), np.float64) for one in found])
                    quantiles = quantiles.reshape(len(closes), horizon, len(self._levels))
                    parts.append(walk(quantiles, self._levels, windows.uniforms(samples)[part]))
        return np.concatenate(parts)


class GarchModel:
    """GARCH(1, 1) with normal errors and no drift, fitted to the closes of each window by `arch`."""

    def __init__(self) -> None:
        self._arch = _package("arch", "arch", "garch")
        self.digest = f"garch {self._arch.__version__}"

    def forecast(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
        """Return closes [N, samples, horizon]; of windows that are short or do not move, the last close."""
        close, shocks = windows.close, ndtri(windows.uniforms(samples))
        moves = np.diff(close, axis=1) / np.abs(close[:, :-1])
        if moves.shape[1] < LEAST_RETURNS:
            raise UserError(
                f"models: garch needs a lookback_window of at least {LEAST_RETURNS + 1}, this is {close.shape[1]}"
            )
        drawn = np.zeros_like(shocks)
        for row in np.flatnonzero(moves.std(axis=1) > 0):
            drawn[row] = self._simulated(moves[row], shocks[row])
        return np.asarray(close[:, -1, None, None] * (1 + drawn).cumprod(axis=-1))

    def _simulated(self, moves_L: np.ndarray, shocks_SH: np.ndarray) -> np.ndarray:
        """Returns [S, H] from the fitted variances and standard normal shocks."""
        model = self._arch.arch_model(moves_L * SCALE, mean="Zero", vol="GARCH", p=1, q=1, rescale=False)
        fitted = model.fit(disp="off", show_warning=False)
        omega, alpha, beta = fitted.params
        last = float(fitted.conditional_volatility[-1])
        variance = np.full(len(shocks_SH), omega + alpha * (moves_L[-1] * SCALE) ** 2 + beta * last**2)
        found = np.empty_like(shocks_SH)
        for step in range(shocks_SH.shape[1]):
            found[:, step] = np.sqrt(variance) * shocks_SH[:, step]
            variance = omega + alpha * found[:, step] ** 2 + beta * variance
        return np.asarray(found / SCALE)


def walk(quantiles_NHQ: np.ndarray, levels: list[float], uniforms_NSH: np.ndarray) -> np.ndarray:
    """Return paths [N, S, H] whose distribution at each step has these quantiles.

    The steps depend on each other as those of a random walk do. Between two quantiles, and beyond the outermost ones,
    the distribution is that of a straight line over the normal quantiles.
    """
    count = np.arange(1, uniforms_NSH.shape[2] + 1)
    place = ndtri(uniforms_NSH).cumsum(axis=2) / np.sqrt(count)  # standard normal at each step
    knots = ndtri(np.asarray(levels, np.float64))
    below = np.clip(np.searchsorted(knots, place) - 1, 0, len(knots) - 2)  # [N, S, H]
    share = (place - knots[below]) / (knots[below + 1] - knots[below])
    table = np.sort(quantiles_NHQ, axis=2)[:, None]
    low = np.take_along_axis(table, below[..., None], axis=3)[..., 0]
    high = np.take_along_axis(table, below[..., None] + 1, axis=3)[..., 0]
    return np.asarray(low + share * (high - low))


def _package(module: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"models: the package {package} is not installed: pip install 'kronos-pipeline[{extra}]'"
        ) from None


def _digest_of(address: str, pipeline: Any) -> str:
    """Digest of the files of a folder; of a Hub name, its commit where the configuration knows it."""
    folder = Path(given_path(address))
    if not folder.is_dir():
        commit = getattr(getattr(pipeline.model, "config", None), "_commit_hash", None)
        return digest_bytes(f"{address} {commit}".encode())[:16]
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()
