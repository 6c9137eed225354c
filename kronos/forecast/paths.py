"""The sample paths of one series, and their mean, deviation and quantiles."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES
from kronos.forecast.arrays import repair
from kronos.utils.errors import UserError


@dataclass(frozen=True)
class Paths:
    """Sample paths float32 [S, H, F] of one series, in prices and volumes, their times, and the features' names."""

    values: np.ndarray
    times: pd.DatetimeIndex
    columns: tuple[str, ...] = FEATURES

    def mean(self) -> pd.DataFrame:
        """Return the mean over the samples, H rows: of each feature by itself."""
        return self._frame(self.values.mean(axis=0))

    def std(self) -> pd.DataFrame:
        """Return the population standard deviation over the samples; 0 with one sample."""
        return self._frame(self.values.std(axis=0))

    def quantile(self, q: float) -> pd.DataFrame:
        """Return the q-quantile over the samples of each feature and bar, linear between order statistics."""
        if not 0 <= q <= 1:
            raise UserError(f"the quantile is {q}, expected 0 to 1")
        return self._frame(np.quantile(self.values, q, axis=0).astype(np.float32))

    def samples(self) -> pd.DataFrame:
        """Return all paths, S x H rows indexed by (sample, datetime)."""
        index = pd.MultiIndex.from_product(
            (range(len(self.values)), self.times), names=("sample", "datetime")
        )
        flat = self.values.reshape(-1, len(self.columns))
        return pd.DataFrame(flat, index=index, columns=list(self.columns))

    def table(self, quantiles: Sequence[float] = (0.1, 0.5, 0.9)) -> pd.DataFrame:
        """Return H rows: the means under the features' names, then e.g. close_std, close_q10, close_q90."""
        parts = [self.mean(), self.std().add_suffix("_std")]
        parts += [self.quantile(q).add_suffix(f"_q{100 * q:g}") for q in quantiles]
        return pd.concat(parts, axis=1)

    def repaired(self) -> tuple["Paths", int]:
        """Return (paths made possible, the number of bars changed): see `repair`."""
        values, count = repair(self.values, columns=self.columns)
        return Paths(values, self.times, self.columns), count

    def _frame(self, values_HF: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values_HF, index=self.times, columns=list(self.columns))
