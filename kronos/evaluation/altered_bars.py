"""Bars with their days shuffled, reversed or mirrored, on which the audit knows what a ranking can be worth.

Wide frames and arrays of D sessions x I instruments; NaN where there is no bar.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.evaluation.signals import tradable_returns
from kronos.evaluation.tradability import Tradability


@dataclass(frozen=True)
class Market:
    """The bars of a test range, with those before it that scores need and those after it that targets need."""

    bars: Mapping[str, pd.DataFrame]  # open and close, days x instruments
    tradable: Tradability  # of the opens
    scored: np.ndarray  # bool [D, I]: the pairs that are forecast
    day: np.ndarray  # [D] number of each session's day, which several bars share within a day
    next_day: bool = False  # a purchase is sold on the next day at the earliest (T+1 of bars within a day)

    def target(self, horizon: int) -> pd.DataFrame:
        """Return the tradable return over `horizon` sessions of the pairs that are forecast; NaN elsewhere."""
        found = tradable_returns(self.bars["open"], self.bars["close"], horizon, self.tradable)
        return found.where(self.scored)


def as_stored(market: Market, random: np.random.Generator) -> Market:
    """Return the market itself; no random number is drawn."""
    return market


def shuffled(market: Market, random: np.random.Generator) -> Market:
    """Return the market with its days in a random order, the same for all instruments.

    Each instrument keeps its returns and each day its cross-section; what a price was at a time is new. Bars of one
    day stay together in their order. A missing bar and a bar that cannot be traded move with their day; the pairs
    that are forecast stay where they are.
    """
    bounds = np.flatnonzero(np.diff(market.day, prepend=market.day[0] - 1))
    blocks = np.split(np.arange(len(market.day)), bounds[1:])
    order = np.concatenate([blocks[place] for place in random.permutation(len(blocks))])
    moved = _rebuilt(market, order, np.ones(len(order)))
    buyable, sellable = _sides(market)
    return _with_bars(market, moved, buyable[order], sellable[order], market.day[order])


def mirrored(market: Market, random: np.random.Generator) -> Market:
    """Return the market with the moves of about half of the days turned round, of all instruments together.

    A coin decides for each day; a rise to 1.25 of the price becomes a fall to 1 / 1.25 of it. A ranking that is made
    from the days before has a Rank IC of 0 on average, since the coins of later days are independent of it, while
    each day keeps how its instruments move together, such as by industry, and how much. What could not be bought on
    a day that is turned round cannot be sold.
    """
    days, which = np.unique(market.day, return_inverse=True)
    signs = random.choice([-1.0, 1.0], len(days))[which]
    moved = _rebuilt(market, np.arange(len(signs)), signs)
    buyable, sellable = _sides(market)
    kept = signs[:, None] > 0
    sides = np.where(kept, buyable, sellable), np.where(kept, sellable, buyable)
    return _with_bars(market, moved, *sides, market.day)


def backwards(market: Market, random: np.random.Generator) -> Market:
    """Return the market with time reversed: the last bar comes first, and each opens where it closed.

    What could not be bought at the open of a bar cannot be sold at its new one, and the other way round. The pairs
    that are forecast stay where they are. No random number is drawn.

    A reversal does not remove the predictability of returns: if returns follow earlier ones, they do so in both
    directions of time, with the same correlation. The true Rank IC of a momentum on reversed bars is thus unknown,
    as it is on the stored bars. It is known to be 0 for scores that are assigned to the instruments at random.
    """
    swapped = {"open": "close", "close": "open"}
    moved = {swapped[name]: frame.to_numpy(np.float64)[::-1] for name, frame in market.bars.items()}
    buyable, sellable = _sides(market)
    return _with_bars(market, moved, sellable[::-1], buyable[::-1], market.day[::-1])


def _sides(market: Market) -> tuple[np.ndarray, np.ndarray]:
    return market.tradable.buyable.to_numpy(), market.tradable.sellable.to_numpy()


def _rebuilt(market: Market, order: np.ndarray, signs: np.ndarray) -> dict[str, np.ndarray]:
    """Prices [D, I] from their moves since the close before, in another order and direction.

    `order` holds the places [D] of the old bars, `signs` [D] is -1 where a bar's moves are turned round. The first
    bar of an instrument moves from its own open. A missing bar is NaN and keeps the last price.
    """
    bars = {name: frame.to_numpy(np.float64) for name, frame in market.bars.items()}
    held = market.bars["close"].ffill().to_numpy(np.float64)
    before = np.vstack([np.full((1, held.shape[1]), np.nan), held[:-1]])
    before = np.where(np.isfinite(before), before, bars["open"])
    first = market.bars["open"].bfill().to_numpy(np.float64)[0]
    moves = {name: (prices / before)[order] ** signs[:, None] for name, prices in bars.items()}
    steps = np.nan_to_num(moves["close"], nan=1.0)
    level = first * np.vstack([np.ones((1, held.shape[1])), np.cumprod(steps, axis=0)[:-1]])
    return {name: move * level for name, move in moves.items()}


def _with_bars(
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
