"""How close synthetic bars come to real ones: told apart or not, useful for training or not, and what is typical.

Pure functions of arrays. N series of B bars that follow a context; the real and the synthetic bars of a row follow
the same one. C features per bar: 6 of a model of whole bars, 1 of a model of closes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from kronos.data.bars import CLOSE, VOLUME
from kronos.evaluation.recurrent import classifier, regressor
from kronos.evaluation.statistics import LEVEL
from kronos.evaluation.tasks import Score, return_scores

FOLDS = 5
LARGE = 3.0  # standard deviations, beyond which a move is large
LAGS = 5  # of the autocorrelation of absolute moves
FACTS = {
    "kurtosis": "excess kurtosis of moves",
    "large": f"moves beyond {LARGE:g} deviations",
    "reversal": "autocorrelation of moves, lag 1",
    "clustering": f"autocorrelation of absolute moves, lags 1 to {LAGS}",
    "leverage": "correlation of a move with the size of the next",
    "range": "high minus low over absolute move of the close",
}


@dataclass(frozen=True)
class Series:
    """Bars that follow contexts, and what they are measured against.

    Attributes:
        bars: [N, B, 6], or closes alone [N, B].
        last: close of each context's last bar, [N].
        volatility: recent volatility per bar, a fraction of the close, [N].
        money: mean volume, amount and further columns of the context, [N, F - 4].
        day: session of the context's last bar, [N].
        group: one of `FOLDS` groups of each series; groups share no instrument, or no days.
    """

    bars: np.ndarray
    last: np.ndarray
    volatility: np.ndarray
    money: np.ndarray
    day: np.ndarray
    group: np.ndarray

    @property
    def close(self) -> np.ndarray:
        return self.bars[..., CLOSE] if self.bars.ndim == 3 else self.bars

    @property
    def moves(self) -> np.ndarray:
        """Returns per bar over the recent volatility, [N, B]."""
        before = np.concatenate([self.last[:, None], self.close[:, :-1]], axis=1)
        return np.asarray((self.close / before - 1) / self.volatility[:, None])

    def closes_only(self) -> "Series":
        return Series(self.close, self.last, self.volatility, self.money, self.day, self.group)

    def features(self) -> np.ndarray:
        """Each bar against the close before it and the context's usual volume, [N, B, C]."""
        if self.bars.ndim == 2:
            return self.moves[..., None]
        before = np.concatenate([self.last[:, None], self.close[:, :-1]], axis=1)
        prices = (self.bars[..., :VOLUME] / before[..., None] - 1) / self.volatility[:, None, None]
        money = np.log1p(np.maximum(self.bars[..., VOLUME:], 0)) - np.log1p(
            np.maximum(self.money[:, None], 0)
        )
        return np.concatenate([prices, money], axis=-1)


def groups_of(instrument_N: np.ndarray, day_N: np.ndarray) -> np.ndarray:
    """Return `FOLDS` groups of series: by instrument where there are enough, else by blocks of days."""
    key = instrument_N if len(np.unique(instrument_N)) >= 2 * FOLDS else day_N
    place = np.unique(key, return_inverse=True)[1]
    return np.asarray(place * FOLDS // (place.max() + 1))


def discriminative_accuracy(real: Series, made: Series, seed: int) -> Score:
    """Return the share of held-out series that a small GRU tells apart rightly: 0.5 is as good as can be, 1 is bad.

    Each group of series is judged by a network trained on the others; the interval is Student's over the groups.
    """
    if made.bars.ndim == 2:
        real = real.closes_only()
    x = np.concatenate([real.features(), made.features()])
    label = np.repeat([0.0, 1.0], [len(real.last), len(made.last)])
    group = np.concatenate([real.group, made.group])
    shares = []
    for fold in range(FOLDS):
        out = group == fold
        if out.any() and not out.all():
            judged = classifier(x[~out], label[~out], seed + fold)(x[out]) > 0
            shares.append(float((judged == (label[out] > 0.5)).mean()))
    found = over_groups(shares)
    low, high = np.clip((found.low, found.high), 0.0, 1.0)  # NaN stays
    return Score(found.value, float(low), float(high))


def train_on_synthetic(made: Series, real: Series, horizon: int, seed: int) -> dict[str, Score]:
    """Train a small GRU on synthetic bars to predict their returns, and return its IC and Rank IC on real bars.

    From about half of the bars of a series to the return over the next `horizon` of them.
    """
    if made.bars.ndim == 2:
        real = real.closes_only()
    x, y, _, _ = _windows(made, horizon)
    network = regressor(x, np.clip(y, -10, 10), seed)
    x, y, day, row = _windows(real, horizon)
    frame = pd.DataFrame({"day": day, "row": row, "predicted": network(x), "came": y * real.volatility[row]})
    wide = {name: frame.pivot(index="day", columns="row", values=name) for name in ("predicted", "came")}
    return return_scores(wide["predicted"], wide["came"], horizon)


def _windows(series: Series, horizon: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(features [M, w, C], return over the horizon / volatility [M], day of the last bar [M], row of the series)."""
    count = series.close.shape[1]
    width = (count - horizon) // 2
    features, close = series.features(), series.close
    ends = np.arange(width - 1, count - horizon)
    x = np.concatenate([features[:, end - width + 1 : end + 1] for end in ends])
    y = np.concatenate([(close[:, end + horizon] / close[:, end] - 1) / series.volatility for end in ends])
    day = np.concatenate([series.day + 1 + end for end in ends])
    return x, y, day, np.tile(np.arange(len(close)), len(ends))


def stylised_facts(series: Series) -> dict[str, Score]:
    """Return what is typical of the moves, with Student's intervals over the groups; NaN where undefined."""
    found: dict[str, list[float]] = {name: [] for name in FACTS}
    for group in np.unique(series.group):
        rows = series.group == group
        moves = series.moves[rows]
        moves = moves / max(float(moves.std()), 1e-12)
        size = np.abs(moves)
        found["kurtosis"].append(float(stats.kurtosis(moves, axis=None)))
        found["large"].append(float((size > LARGE).mean()))
        found["reversal"].append(_lagged(moves, moves, 1))
        found["clustering"].append(float(np.mean([_lagged(size, size, lag) for lag in range(1, LAGS + 1)])))
        found["leverage"].append(_lagged(moves, size, 1))
        if series.bars.ndim == 3:
            span = series.bars[rows, :, 1] - series.bars[rows, :, 2]
            change = np.abs(np.diff(series.close[rows], axis=1, prepend=series.last[rows, None]))
            found["range"].append(float(span.mean() / max(float(change.mean()), 1e-12)))
    return {name: over_groups(values) for name, values in found.items()}


def _lagged(left: np.ndarray, right: np.ndarray, lag: int) -> float:
    """Correlation of `left` with `right` `lag` bars later, over all series; each series is taken about its mean."""
    if left.shape[1] <= lag + 1:
        return float("nan")
    one = left - left.mean(axis=1, keepdims=True)
    two = right - right.mean(axis=1, keepdims=True)
    product = (one[:, :-lag] * two[:, lag:]).mean()
    deviation = one.std() * two.std()
    return float(product / deviation) if deviation > 0 else float("nan")


def over_groups(values: Sequence[float]) -> Score:
    """Return the mean of one value per group and Student's interval over the groups."""
    known = np.array([value for value in values if np.isfinite(value)])
    if len(known) < 2:
        return Score(float(known.mean()) if len(known) else float("nan"))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    mean = float(known.mean())
    return Score(mean, mean - half, mean + half)
