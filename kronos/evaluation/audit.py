"""How far the Rank IC and its interval can be trusted: the evaluation on known truths, with a user's own bars.

Forecasts that know nothing, and forecasts whose Rank IC with the tradable return is planted, are evaluated many
times. Pure functions of arrays: D sessions, I instruments, S seeds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from kronos.evaluation import ranking, signals
from kronos.evaluation.statistics import LEVEL, Estimate, estimate
from kronos.evaluation.tradability import Tradability

PLANTED = (0.02, 0.05)
STORED, SHUFFLED, REVERSED, MIRRORED = "as stored", "shuffled", "reversed", "mirrored"
RANDOM, OTHERS, MOMENTUM = "random", "momentum of others", "momentum"
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


def shuffled(market: Market, random: np.random.Generator) -> Market:
    """Return the market with its days in a random order, the same for all instruments.

    Each instrument keeps its returns and each day its cross-section; what a price was at a time is new. Bars of one
    day stay together in their order. A missing bar and a bar that cannot be traded move with their day; the pairs
    that are forecast stay where they are.
    """
    bounds = np.flatnonzero(np.diff(market.day, prepend=market.day[0] - 1))
    blocks = np.split(np.arange(len(market.day)), bounds[1:])
    order = np.concatenate([blocks[place] for place in random.permutation(len(blocks))])
    moved = rebuilt(_arrays(market), order, np.ones(len(order)))
    mask = market.tradable
    sides = mask.buyable.to_numpy()[order], mask.sellable.to_numpy()[order]
    return _market(market, moved, *sides, market.day[order])


def mirrored(market: Market, random: np.random.Generator) -> Market:
    """Return the market with the moves of about half of the days turned round, of all instruments together.

    A coin decides for each day; a rise to 1.25 of the price becomes a fall to 1 / 1.25 of it. No ranking that does
    not know the coins can have a Rank IC other than 0, on average, while each day keeps how its instruments move
    together, such as by industry, and how much. What could not be bought on such a day cannot be sold.
    """
    days, which = np.unique(market.day, return_inverse=True)
    signs = random.choice([-1.0, 1.0], len(days))[which]
    moved = rebuilt(_arrays(market), np.arange(len(signs)), signs)
    buy, sell, kept = (
        market.tradable.buyable.to_numpy(), market.tradable.sellable.to_numpy(), signs[:, None] > 0
    )  # fmt: skip
    return _market(market, moved, np.where(kept, buy, sell), np.where(kept, sell, buy), market.day)


def rebuilt(bars: Mapping[str, np.ndarray], order: np.ndarray, signs: np.ndarray) -> dict[str, np.ndarray]:
    """Return prices [D, I] from their moves since the close before, in another order and direction.

    `order` holds the places [D] of the old bars, `signs` [D] is -1 where a bar's moves are turned round. The first bar
    of an instrument moves from its own open. A missing bar is NaN and keeps the last price.
    """
    held = pd.DataFrame(bars["close"]).ffill().to_numpy()
    before = np.vstack([np.full((1, held.shape[1]), np.nan), held[:-1]])
    before = np.where(np.isfinite(before), before, bars["open"])
    first = pd.DataFrame(bars["open"]).bfill().to_numpy()[0]
    moves = {name: (prices / before)[order] ** signs[:, None] for name, prices in bars.items()}
    if {"high", "low"} <= moves.keys():
        up = signs[:, None] > 0
        high, low = moves["high"], moves["low"]
        moves |= {"high": np.where(up, high, low), "low": np.where(up, low, high)}
    steps = np.nan_to_num(moves["close"], nan=1.0)
    level = first * np.vstack([np.ones((1, held.shape[1])), np.cumprod(steps, axis=0)[:-1]])
    return {name: move * level for name, move in moves.items()}


def backwards(market: Market) -> Market:
    """Return the market with time reversed: the last bar comes first, and each opens where it closed.

    What could not be bought at a price cannot be sold at it, and the other way round. The pairs that are forecast
    stay where they are.
    """
    swapped = {"open": "close", "close": "open"}
    moved = {swapped.get(name, name): prices[::-1] for name, prices in _arrays(market).items()}
    mask = market.tradable
    sides = mask.sellable.to_numpy()[::-1], mask.buyable.to_numpy()[::-1]
    return _market(market, moved, *sides, market.day[::-1])


def _arrays(market: Market) -> dict[str, np.ndarray]:
    return {name: frame.to_numpy(dtype=np.float64) for name, frame in market.bars.items()}


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

    The mix is weight x scores + sqrt(1 - weight^2) x noise. For a small weight the expected rank of a score is
    linear in it, with the density of a difference of two normals at 0, 1 / (2 sqrt(pi)), as the factor; the error is
    below 0.3 % at 0.05. NaN for a day without returns.
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


class _Evaluated:
    """One market's days with a known target, and the Rank ICs of stand-in forecasts on them."""

    def __init__(self, market: Market, horizon: int, momentum: np.ndarray) -> None:
        """`momentum` [D, I] is what the momentum forecasts rank by, NaN where there is none."""
        target = market.target(horizon)
        self.days = np.flatnonzero(np.isfinite(target).any(axis=1))
        self.horizon, self.target = horizon, target[self.days]
        self.momentum = np.where(np.isfinite(momentum), momentum, np.nan)[self.days]
        self.truth = normal_scores(self.target)

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
            traded = np.flatnonzero(np.isfinite(self.target).any(axis=0))
            own[:, traded] = own[:, random.permutation(traded)]
        return np.where(np.isfinite(own), own, np.nan)

    def weights(self, forecasts: str, planted: float) -> np.ndarray:
        """Return the weight of the truth in the scores of each day, [days, 1].

        A momentum goes with the day's returns or against them, with a correlation c that is not 0 on that day: the
        more it does, the less the same weight moves the ranks, by (1 - c^2) / sqrt(1 - c^2 / 4) for normal scores.
        """
        weights = planting_weights(self.target, planted)
        if forecasts == MOMENTUM:
            known = np.where(np.isfinite(self.target), self.momentum, np.nan)
            product = normal_scores(known) * self.truth
            count = np.isfinite(product).sum(axis=1).clip(min=1)
            square = np.minimum((np.nansum(product, axis=1) / count) ** 2, 0.8)
            weights = weights * np.sqrt(1 - square / 4) / (1 - square)
        return np.nan_to_num(weights)[:, None]

    def rank_ics(
        self, forecasts: str, planted: float, generators: Sequence[np.random.Generator]
    ) -> np.ndarray:
        """Return the daily Rank IC [S, days], one row for each generator."""
        weights = self.weights(forecasts, planted) if planted else np.zeros((1, 1))
        signal, rest = np.nan_to_num(weights * self.truth), np.sqrt(1 - weights**2)
        block = max(1, BLOCK_VALUES // max(1, self.target.size))
        found = []
        for begin in range(0, len(generators), block):
            part = generators[begin : begin + block]
            scores = np.stack([signal + rest * self.noise(forecasts, one) for one in part])
            found.append(rank_ics(scores, self.target))
        return np.vstack(found)


def simulate(
    market: Market,
    horizon: int,
    lookback: int,
    seeds: int,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> list[Case]:
    """Evaluate stand-in forecasts on the bars shuffled, reversed, mirrored and as stored.

    Args:
        market: the bars and the pairs that are forecast.
        horizon: sessions from the purchase to the sale.
        lookback: sessions of the momentum.
        seeds: repetitions of each case; each has random numbers of its own.
        seed: the seed that those are derived from.
        say: called with the name of each kind of bars before it is evaluated.

    Returns:
        The cases without a planted Rank IC, then those with one.

    Raises:
        ValueError: where there are too few days for an interval.
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

    def momentum(of: Market) -> np.ndarray:
        return ranking.momentum(of.bars["close"], lookback).to_numpy()

    own = momentum(market)
    say(SHUFFLED)
    yield from _by_seed(SHUFFLED, generators(0), (RANDOM, OTHERS), (0.0,), lambda random: (
        _Evaluated(moved := shuffled(market, random), horizon, momentum(moved))
    ))  # fmt: skip
    say(REVERSED)
    turned = backwards(market)
    evaluated = _Evaluated(turned, horizon, momentum(turned))
    for kind, name in enumerate((RANDOM, OTHERS), start=1):
        yield (REVERSED, name, 0.0), evaluated.rank_ics(name, 0.0, generators(kind))
    say(MIRRORED)
    yield from _by_seed(MIRRORED, generators(3), (MOMENTUM,), (0.0, *PLANTED), lambda random: (
        _Evaluated(mirrored(market, random), horizon, own)
    ))  # fmt: skip
    say(STORED)
    evaluated = _Evaluated(market, horizon, own)
    for kind, planted in enumerate((0.0, *PLANTED), start=4):
        yield (STORED, RANDOM, planted), evaluated.rank_ics(RANDOM, planted, generators(kind))


def _by_seed(
    bars: str,
    generators: Sequence[np.random.Generator],
    forecasts: Sequence[str],
    planted: Sequence[float],
    make: Callable[[np.random.Generator], _Evaluated],
) -> Iterator[tuple[tuple[str, str, float], np.ndarray]]:
    """The same for bars that are different for each seed; days without a Rank IC are NaN."""
    rows: dict[tuple[str, str, float], list[np.ndarray]] = {
        (bars, name, value): [] for name in forecasts for value in planted
    }
    for random in generators:
        evaluated = make(random)
        for (_, name, value), found in rows.items():
            found.append(evaluated.rank_ics(name, value, [random])[0])
    for case_name, found in rows.items():
        longest = max(len(row) for row in found)
        padded = [np.pad(row, (0, longest - len(row)), constant_values=np.nan) for row in found]
        yield case_name, np.stack(padded)


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
