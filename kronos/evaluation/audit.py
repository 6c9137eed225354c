"""How far the Rank IC and its interval can be trusted: the evaluation on known truths, with a user's own bars.

Stand-in forecasts that know nothing, and stand-ins whose Rank IC with the tradable return is planted, are evaluated
many times by the functions that evaluate a model's forecasts: `signals.tradable_returns` and `ranking.worth`.
No model is asked. D sessions, I instruments.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from kronos.evaluation import ranking
from kronos.evaluation.altered_bars import Market, as_stored, backwards, mirrored, shuffled
from kronos.evaluation.statistics import LEVEL, Estimate, holm
from kronos.utils.errors import UserError

PLANTED = (0.02, 0.05)
STORED, SHUFFLED, REVERSED, MIRRORED = "as stored", "shuffled", "reversed", "mirrored"
RANDOM, OTHERS, MOMENTUM = "random", "momentum of others", "momentum"
SALT = 20240702
# Kinds of bars: how they are made, and the (forecasts, planted Rank IC) that are evaluated on them. Each pair's true
# Rank IC is known to be the planted one. That of a momentum is known on mirrored bars only.
KINDS: dict[str, tuple[Callable[[Market, np.random.Generator], Market], tuple[tuple[str, float], ...]]] = {
    SHUFFLED: (shuffled, ((RANDOM, 0.0), (OTHERS, 0.0))),
    REVERSED: (backwards, ((RANDOM, 0.0), (OTHERS, 0.0))),
    MIRRORED: (mirrored, tuple((MOMENTUM, planted) for planted in (0.0, *PLANTED))),
    STORED: (as_stored, tuple((RANDOM, planted) for planted in (0.0, *PLANTED))),
}
SAME_FOR_ALL_SEEDS = (REVERSED, STORED)


@dataclass(frozen=True)
class Share:
    """How often something happened, with the 95 % interval of Wilson for a binomial share."""

    count: int
    of: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Case:
    """What the evaluation said of one kind of forecast on one kind of bars, over all seeds."""

    bars: str  # as stored, shuffled, reversed or mirrored
    forecasts: str  # random, momentum or momentum of others
    planted: float  # the true Rank IC; 0 for forecasts that know nothing
    days: int  # with a Rank IC, on average over the seeds
    mean: float  # of the seeds' mean Rank ICs
    deviation: float  # of the same, between seeds
    half_width: float  # of the 95 % interval, on average
    covered: Share  # seeds whose interval contains the planted value
    above: Share  # seeds whose interval lies above 0
    below: Share  # seeds whose interval lies below 0
    excluded: Share  # seeds whose interval does not contain 0

    @property
    def key(self) -> str:
        """The case in the names of metrics: `shuffled_others`, `0.02_momentum`."""
        first = f"{self.planted:g}" if self.planted else self.bars.replace(" ", "_")
        return f"{first}_{self.forecasts.rpartition(' ')[2]}"


def simulate(
    market: Market,
    horizon: int,
    lookback: int,
    seeds: int,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> list[Case]:
    """Evaluate stand-in forecasts on each of `KINDS`, and say how often the interval was right.

    Args:
        market: the bars and the pairs that are forecast.
        horizon: sessions from the purchase to the sale.
        lookback: sessions of the momentum.
        seeds: repetitions of each case, 2 or more.
        seed: the seed that their random numbers are derived from.
        say: called with the name of each kind of bars before it is evaluated.

    Returns:
        The cases without a planted Rank IC, then those with one.

    Raises:
        UserError: where there are too few days for an interval.
    """
    found: dict[tuple[str, str, float], list[Estimate]] = defaultdict(list)
    for place, (bars, (make, pairs)) in enumerate(KINDS.items()):
        if say is not None:
            say(bars)
        for number in range(seeds):
            random = np.random.default_rng([seed, number, place, SALT])
            if number == 0 or bars not in SAME_FOR_ALL_SEEDS:
                stand_ins = StandIns(make(market, random), horizon, lookback)
            for forecasts, planted in pairs:
                found[bars, forecasts, planted].append(stand_ins.rank_ic(forecasts, planted, random))
    cases = [case(*which, estimates) for which, estimates in found.items()]
    return sorted(cases, key=lambda one: one.planted)


def case(bars: str, forecasts: str, planted: float, estimates: Sequence[Estimate]) -> Case:
    """Return how often the intervals of all seeds (2 or more) contain the planted Rank IC, and 0."""
    low, high, mean, days = (
        np.array([getattr(one, name) for one in estimates]) for name in ("low", "high", "mean", "days")
    )
    return Case(
        bars, forecasts, planted, round(float(days.mean())), float(mean.mean()), float(mean.std(ddof=1)),
        float((high - low).mean() / 2), covered=share((low <= planted) & (planted <= high)),
        above=share(low > 0), below=share(high < 0), excluded=share((low > 0) | (high < 0)),
    )  # fmt: skip


def share(happened: np.ndarray) -> Share:
    """Return the share of True among the seeds, bool [S], with its interval."""
    count, of = int(happened.sum()), len(happened)
    interval = stats.binomtest(count, of).proportion_ci(LEVEL, method="wilson")
    return Share(count, of, count / of, float(interval.low), float(interval.high))


def too_often(cases: Sequence[Case]) -> list[Case]:
    """Return the cases without a planted Rank IC whose share of false alarms is above 5 % by more than chance.

    By a one-sided binomial test at 5 %, Holm-adjusted for the number of these cases.
    """
    nulls = {case.key: case for case in cases if not case.planted}
    p_values = holm({
        key: float(stats.binomtest(case.excluded.count, case.excluded.of, 1 - LEVEL, "greater").pvalue)
        for key, case in nulls.items()
    })  # fmt: skip
    return [case for key, case in nulls.items() if p_values[key] < 1 - LEVEL]


class StandIns:
    """Stand-in forecasts on one market's days with a known target."""

    def __init__(self, market: Market, horizon: int, lookback: int) -> None:
        """`lookback` is the number of closes of the momentum. Raises UserError where no target is known."""
        target = market.target(horizon)
        self.days = np.flatnonzero(target.notna().any(axis=1))
        if not len(self.days):
            raise UserError(
                f"no return over {horizon} sessions is known within the backtest range: lengthen it or shorten "
                "predict_window"
            )
        self.horizon, self.target = horizon, target.iloc[self.days]
        self.momentum = ranking.momentum(market.bars["close"], lookback).iloc[self.days].to_numpy(np.float64)
        self.truth = normal_scores(self.target.to_numpy())

    def rank_ic(self, forecasts: str, planted: float, random: np.random.Generator) -> Estimate:
        """Return the mean Rank IC of one drawn stand-in with its interval, as a report has it for a signal.

        Raises UserError where there are too few days for an interval.
        """
        weights = planted * self.weights(forecasts) if planted else np.zeros((1, 1))
        scores = np.nan_to_num(weights * self.truth) + np.sqrt(1 - weights**2) * self.noise(forecasts, random)
        frame = pd.DataFrame(scores, self.target.index, self.target.columns)
        found = ranking.worth(frame, self.target, self.horizon).rank_ic
        if not np.isfinite(found.low):
            raise UserError(
                f"{found.days} days with a Rank IC over {self.horizon} sessions are too few for an interval: "
                "lengthen backtest_time_range or shorten predict_window"
            )
        return found

    def noise(self, forecasts: str, random: np.random.Generator) -> np.ndarray:
        """Return standard normal scores [days, I] that know nothing.

        Those of a momentum are each day's normal draws in the order of the momentum. Of others: which instrument has
        which one's is random, and the same on all days.
        """
        if forecasts == RANDOM:
            first, last = self.days[0], self.days[-1]
            whole = persistent_noise(random, last - first + 1, self.target.shape[1], self.horizon)
            return whole[self.days - first]
        drawn = random.standard_normal(self.target.shape)
        drawn[np.arange(drawn.shape[1]) >= np.isfinite(self.momentum).sum(axis=1)[:, None]] = np.inf
        drawn.sort(axis=1)
        places = self.momentum.argsort(axis=1, kind="stable").argsort(axis=1)  # NaN last
        own = np.take_along_axis(drawn, places, axis=1)
        if forecasts == OTHERS:
            traded = np.flatnonzero(self.target.notna().any(axis=0))
            own[:, traded] = own[:, random.permutation(traded)]
        return np.where(np.isfinite(own), own, np.nan)

    def weights(self, forecasts: str) -> np.ndarray:
        """Return the weight of the truth in the scores of each day, [days, 1], per unit of planted Rank IC."""
        return self.momentum_weights if forecasts == MOMENTUM else self.plain_weights

    @cached_property
    def plain_weights(self) -> np.ndarray:
        """The weights [days, 1] for noise that is independent of the truth."""
        return np.nan_to_num(planting_weights(self.target.to_numpy()))[:, None]

    @cached_property
    def momentum_weights(self) -> np.ndarray:
        """The weights [days, 1] for noise in the order of the momentum.

        A momentum goes with the day's returns or against them, with a correlation c that is not 0 on that day: the
        more it does, the less the same weight moves the ranks, by (1 - c^2) / sqrt(1 - c^2 / 4) for normal scores.
        """
        momentum = np.where(self.target.notna(), self.momentum, np.nan)
        product = normal_scores(momentum) * self.truth
        count = np.isfinite(product).sum(axis=1, keepdims=True).clip(min=1)
        square = np.minimum((np.nansum(product, axis=1, keepdims=True) / count) ** 2, 0.8)
        return np.asarray(self.plain_weights * np.sqrt(1 - square / 4) / (1 - square))


def persistent_noise(random: np.random.Generator, days: int, names: int, horizon: int) -> np.ndarray:
    """Return standard normal noise [D, I] that is correlated over `horizon` days, falling linearly to 0.

    So are scores that forecast the same days: those of neighbouring days share horizon - 1 of them.
    """
    total = random.standard_normal((days + horizon, names)).cumsum(axis=0)
    return np.asarray((total[horizon:] - total[:-horizon]) / np.sqrt(horizon))


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Return each day's values [D, I] as the normal quantiles of their ranks, of variance 1; NaN stays NaN."""
    ranks = pd.DataFrame(values).rank(axis=1)
    count = ranks.count(axis=1).to_numpy()[:, None]
    found = stats.norm.ppf(ranks.to_numpy() / (count + 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(found / np.sqrt(np.nansum(found**2, axis=1, keepdims=True) / count))


def planting_weights(target: np.ndarray) -> np.ndarray:
    """Return the weight [D] of `normal_scores(target)` in a mix with normal noise, per unit of expected Rank IC.

    The mix is weight x scores + sqrt(1 - weight^2) x noise. For a small weight the expected rank of a score is
    linear in it, with the density of a difference of two normals at 0, 1 / (2 sqrt(pi)), as the factor; the error is
    below 0.3 % at a Rank IC of 0.05. NaN for a day without returns.
    """
    ranks = pd.DataFrame(target).rank(axis=1)
    centred = ranks.sub(ranks.mean(axis=1), axis=0).to_numpy()
    shared = np.nansum(centred * normal_scores(target), axis=1) / (2 * np.sqrt(np.pi))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.nansum(centred**2, axis=1) / (np.isfinite(target).sum(axis=1) * shared))
