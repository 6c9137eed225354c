"""How far the Rank IC and its interval can be trusted: the evaluation on known truths, with a user's own bars.

Forecasts that know nothing, and forecasts whose Rank IC with the tradable return is planted, are evaluated many times.
Pure functions of arrays: D sessions, I instruments, S seeds.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from kronos.evaluation import ranking, signals
from kronos.evaluation.statistics import LEVEL, Estimate, estimate
from kronos.evaluation.tradability import Tradability

PLANTED = (0.02, 0.05)
STORED, SHUFFLED, REVERSED = "as stored", "shuffled", "reversed"
RANDOM, MOMENTUM = "random", "momentum of others"
STAND_INS = (RANDOM, MOMENTUM)
BLOCK_VALUES = 2**22  # scores that are made at once, to bound the memory of large universes
SALT = 20240702


@dataclass(frozen=True)
class Market:
    """The bars of a test range, with those before it that scores need and those after it that targets need."""

    bars: Mapping[
        str, pd.DataFrame
    ]  # open and close (high and low where wanted), days x instruments, NaN: no bar
    tradable: Tradability  # of the opens
    scored: np.ndarray  # bool [D, I]: the pairs that are forecast
    day: np.ndarray  # [D] number of each session's day, which several bars share within a day
    next_day: bool = False  # a purchase is sold on the next day at the earliest (T+1 of bars within a day)

    def target(self, horizon: int) -> np.ndarray:
        """Return the tradable return over `horizon` sessions, [D, I], NaN where it is unknown or not forecast."""
        found = signals.tradable_returns(self.bars["open"], self.bars["close"], horizon, self.tradable)
        return np.where(self.scored, found.to_numpy(dtype=np.float64), np.nan)


@dataclass(frozen=True)
class Share:
    """How often something happened, with the 95 % interval of Wilson for a binomial share."""

    count: int
    of: int
    share: float = field(init=False)
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        interval = stats.binomtest(self.count, self.of).proportion_ci(LEVEL, method="wilson")
        for name, value in zip(
            ("share", "low", "high"), (self.count / self.of, interval.low, interval.high), strict=True
        ):
            object.__setattr__(self, name, float(value))


@dataclass(frozen=True)
class Case:
    """What the evaluation said of one kind of forecast on one kind of bars, over all seeds."""

    bars: str  # as stored, shuffled or reversed
    forecasts: str  # random or momentum of others
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
        """The case in the names of metrics: `shuffled_random`, `0.02_momentum`."""
        first = f"{self.planted:g}" if self.planted else self.bars.replace(" ", "_")
        return f"{first}_{self.forecasts.partition(' ')[0]}"


def shuffled(market: Market, random: np.random.Generator) -> Market:
    """Return the market with its days in a random order, the same for all instruments.

    Each instrument keeps its returns and each day its cross-section; what a price was at a time is new. Bars of one
    day stay together in their order. A missing bar and a bar that cannot be traded move with their day; the pairs that
    are forecast stay where they are.
    """
    bounds = np.flatnonzero(np.diff(market.day, prepend=market.day[0] - 1))
    blocks = np.split(np.arange(len(market.day)), bounds[1:])
    order = np.concatenate([blocks[place] for place in random.permutation(len(blocks))])
    values = {name: frame.to_numpy(dtype=np.float64) for name, frame in market.bars.items()}
    moved = reordered(values, order)
    mask, day = market.tradable, market.day[order]
    return _market(market, moved, mask.buyable.to_numpy()[order], mask.sellable.to_numpy()[order], day)


def reordered(bars: Mapping[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    """Return prices [D, I] whose moves since the close before come in another order (places [D]).

    The first bar of an instrument moves from its own open. A missing bar is NaN and keeps the last price.
    """
    held = pd.DataFrame(bars["close"]).ffill().to_numpy()
    before = np.vstack([np.full((1, held.shape[1]), np.nan), held[:-1]])
    before = np.where(np.isfinite(before), before, bars["open"])
    first = pd.DataFrame(bars["open"]).bfill().to_numpy()[0]
    steps = np.nan_to_num(bars["close"] / before, nan=1.0)[order]
    level = first * np.vstack([np.ones((1, held.shape[1])), np.cumprod(steps, axis=0)[:-1]])
    return {name: (prices / before)[order] * level for name, prices in bars.items()}


def backwards(market: Market) -> Market:
    """Return the market with time reversed: the last bar comes first, and each opens where it closed.

    What could not be bought at a price cannot be sold at it, and the other way round. The pairs that are forecast stay
    where they are.
    """
    swapped = {"open": "close", "close": "open"}
    moved = {
        swapped.get(name, name): frame.to_numpy(dtype=np.float64)[::-1] for name, frame in market.bars.items()
    }
    mask = market.tradable
    return _market(
        market, moved, mask.sellable.to_numpy()[::-1], mask.buyable.to_numpy()[::-1], market.day[::-1]
    )


def _market(
    market: Market, bars: Mapping[str, np.ndarray], buyable: np.ndarray, sellable: np.ndarray, day: np.ndarray
) -> Market:
    """The market with other bars, and the first sale of each purchase by the new order of days."""
    index, columns = market.bars["close"].index, market.bars["close"].columns
    first = np.arange(len(day)) + 1
    if market.next_day:
        ends = np.append(np.flatnonzero(np.diff(day)) + 1, len(day))
        first = ends[np.searchsorted(ends, np.arange(len(day)), side="right")]
    buy, sell = (pd.DataFrame(side, index, columns) for side in (buyable, sellable))
    frames = {name: pd.DataFrame(values, index, columns) for name, values in bars.items()}
    return Market(frames, Tradability(buy, sell, first), market.scored, day, market.next_day)


def persistent_noise(random: np.random.Generator, days: int, names: int, horizon: int) -> np.ndarray:
    """Return standard normal noise [D, I] that is correlated over `horizon` days, falling linearly to 0.

    So are scores that forecast the same days: those of neighbouring days share horizon - 1 of them.
    """
    drawn = random.standard_normal((days + horizon, names))
    drawn[0] = 0
    total = drawn.cumsum(axis=0)
    return (total[horizon:] - total[:-horizon]) / np.sqrt(horizon)


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Return each day's values [D, I] as the normal quantiles of their ranks, of variance 1; NaN stays NaN."""
    ranks = pd.DataFrame(values).rank(axis=1)
    count = ranks.count(axis=1).to_numpy()[:, None]
    found = stats.norm.ppf(ranks.to_numpy() / (count + 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(found / np.sqrt(np.nansum(found**2, axis=1, keepdims=True) / count))


def planting_weights(target: np.ndarray, rank_ic: float) -> np.ndarray:
    """Return the weight [D] of `normal_scores(target)` whose mix with normal noise has this expected Rank IC.

    The mix is weight x scores + sqrt(1 - weight^2) x noise. For a small weight the expected rank of a score is linear in
    it, with the density of a difference of two normals at 0, 1 / (2 sqrt(pi)), as the factor; the error is below
    0.3 % at 0.05. NaN for a day without returns.
    """
    centred = _centred_ranks(target)
    shared = np.nansum(centred * normal_scores(target), axis=1)
    slope = np.isfinite(target).sum(axis=1) * shared / (2 * np.sqrt(np.pi))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(rank_ic * (centred**2).sum(axis=1) / slope)


def rank_ics(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the daily Rank IC [S, D] of scores [S, D, I] with one target [D, I], as `signals.daily_ic` has it.

    Equal values share their average rank; pairs with NaN are left out; a day with fewer than 5 instruments or without
    variation is NaN.
    """
    known = np.isfinite(scores) & np.isfinite(target)
    own = _centred_ranks(np.where(known, scores, np.nan))
    if (known == np.isfinite(target)).all():
        truth = np.broadcast_to(_centred_ranks(target), own.shape)
    else:
        truth = _centred_ranks(np.where(known, target, np.nan))
    scale = np.sqrt((own**2).sum(axis=-1) * (truth**2).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.einsum("sdi,sdi->sd", own, truth) / scale
    return np.where(known.sum(axis=-1) >= signals.MIN_NAMES, found, np.nan)


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values [..., I] on the last axis, less their mean; 0 where a value is NaN."""
    ranks = pd.DataFrame(values.reshape(-1, values.shape[-1])).rank(axis=1).to_numpy()
    known = np.isfinite(ranks)
    middle = (known.sum(axis=1, keepdims=True) + 1) / 2
    return np.asarray(np.where(known, ranks - middle, 0.0).reshape(values.shape))


class _Scores:
    """The scores of stand-in forecasts on one market, with and without a planted Rank IC."""

    def __init__(self, market: Market, horizon: int, lookback: int) -> None:
        self.market, self.horizon, self.target = market, horizon, market.target(horizon)
        # Only days with a known target are scored
        self.days = np.flatnonzero(np.isfinite(self.target).any(axis=1))
        self.target = self.target[self.days]
        momentum = ranking.momentum(market.bars["close"], lookback).to_numpy()[self.days]
        momentum = np.where(np.isfinite(momentum), momentum, np.inf)
        self.place = momentum.argsort(axis=1, kind="stable").argsort(
            axis=1
        )  # of each instrument in its day's order
        self.unknown = np.arange(momentum.shape[1]) >= np.isfinite(momentum).sum(axis=1)[:, None]
        self.truth = normal_scores(self.target)

    def noise(self, forecasts: str, random: np.random.Generator) -> np.ndarray:
        """Standard normal scores [days, I] that know nothing.

        The momentum is that of other instruments: which is exchanged with which is random, and the same on all days.
        Each day's scores are normal draws in the order of the momentum.
        """
        names = self.target.shape[1]
        if forecasts == RANDOM:
            first, last = self.days[0], self.days[-1]
            return persistent_noise(random, last - first + 1, names, self.horizon)[self.days - first]
        drawn = random.standard_normal(self.target.shape)
        drawn[self.unknown] = np.inf
        drawn.sort(axis=1)
        own = np.take_along_axis(drawn, self.place, axis=1)
        traded = np.flatnonzero(np.isfinite(self.target).any(axis=0))
        exchanged = np.full_like(own, np.nan)
        exchanged[:, traded] = own[:, random.permutation(traded)]
        return np.where(np.isfinite(exchanged), exchanged, np.nan)

    def rank_ics(self, forecasts: str, planted: float, generators: list[np.random.Generator]) -> np.ndarray:
        """The daily Rank IC [S, days], one row for each generator."""
        weight = planting_weights(self.target, planted)[:, None] if planted else np.zeros((1, 1))
        signal = np.nan_to_num(weight * self.truth)
        rest = np.sqrt(1 - weight**2)
        block = max(1, BLOCK_VALUES // max(1, self.target.size))
        found = []
        for begin in range(0, len(generators), block):
            scores = [signal + rest * self.noise(forecasts, one) for one in generators[begin : begin + block]]
            found.append(rank_ics(np.stack(scores), self.target))
        return np.vstack(found)


def simulate(
    market: Market,
    horizon: int,
    lookback: int,
    seeds: int,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> list[Case]:
    """Evaluate stand-in forecasts of each kind on the bars as stored, shuffled and reversed.

    Args:
        market: the bars and the pairs that are forecast.
        horizon: sessions from the purchase to the sale.
        lookback: sessions of the momentum.
        seeds: repetitions of each case; each has random numbers of its own.
        seed: the seed that those are derived from.
        say: called with the name of each kind of bars before it is evaluated.

    Returns:
        The cases without a planted Rank IC, then those with one.
    """
    cases = _cases(market, horizon, lookback, seeds, seed, say or (lambda _: None))
    found = [case(*name, values, horizon) for name, values in cases]
    return sorted(found, key=lambda one: one.planted)


def _cases(
    market: Market, horizon: int, lookback: int, seeds: int, seed: int, say: Callable[[str], None]
) -> Iterator[tuple[tuple[str, str, float], np.ndarray]]:
    """Yield (bars, forecasts, planted) with the daily Rank ICs [S, days]."""

    def generators(kind: int) -> list[np.random.Generator]:
        return [np.random.default_rng([seed, number, kind, SALT]) for number in range(seeds)]

    say(SHUFFLED)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in STAND_INS}
    for random in generators(0):
        scores = _Scores(shuffled(market, random), horizon, lookback)
        for name in STAND_INS:
            rows[name].append(scores.rank_ics(name, 0.0, [random])[0])
    for name in STAND_INS:
        longest = max(len(row) for row in rows[name])
        padded = [np.pad(row, (0, longest - len(row)), constant_values=np.nan) for row in rows[name]]
        yield (SHUFFLED, name, 0.0), np.stack(padded)
    kind = 0
    for bars, own in ((REVERSED, backwards(market)), (STORED, market)):
        say(bars)
        scores = _Scores(own, horizon, lookback)
        for planted in (0.0, *PLANTED) if bars == STORED else (0.0,):
            for name in STAND_INS:
                kind += 1
                yield (bars, name, planted), scores.rank_ics(name, planted, generators(kind))


def case(bars: str, forecasts: str, planted: float, rank_ic: np.ndarray, horizon: int) -> Case:
    """Return what the intervals of daily Rank ICs [S, days] say, against the planted value.

    Raises ValueError where a seed has too few days for an interval.
    """
    each: list[Estimate] = [estimate(row, horizon) for row in rank_ic]
    low, high = (np.array([getattr(one, end) for one in each]) for end in ("low", "high"))
    if not np.isfinite(low).all():
        raise ValueError(
            f"{each[0].days} days with a Rank IC are too few for an interval at horizon {horizon}"
        )
    count, means = len(each), np.array([one.mean for one in each])
    above, below = int((low > 0).sum()), int((high < 0).sum())
    return Case(
        bars, forecasts, planted, round(float(np.mean([one.days for one in each]))), float(means.mean()),
        float(means.std(ddof=1)) if count > 1 else float("nan"), float((high - low).mean() / 2),
        covered=Share(int(((low <= planted) & (planted <= high)).sum()), count),
        above=Share(above, count), below=Share(below, count), excluded=Share(above + below, count),
    )  # fmt: skip
