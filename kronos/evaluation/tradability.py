"""What can be bought and sold, when: one mask that every figure of an evaluation reads.

Wide frames have one row per session and one column per instrument. A bar can be bought at the deal price unless it is
missing, has no volume while the instrument usually has one (suspended), or its deal price is at the upper limit;
it can be sold unless its deal price is at the lower limit. Where purchases settle on the next day (T+1), nothing is
sold on the day on which it was bought, which matters for bars within a day.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kronos.data import markets
from kronos.data.bars import Flag
from kronos.data.store import BarStore

# A limit price is rounded to a cent, and adjusted prices are known less exactly: a move of 95 % of the limit counts
# as at it. 9.5 % for a limit of 10 % is Qlib's own threshold.
AT_LIMIT = 0.95
OWN_LIMITS = {  # deal price -> flags of a bar that is at its upper and its lower limit
    "open": (int(Flag.OPEN_UP), int(Flag.OPEN_DOWN)), "close": (int(Flag.CLOSE_UP), int(Flag.CLOSE_DOWN)),
}  # fmt: skip
NOT_NEW = 10**6  # sessions since the listing, of an instrument that is not new


@dataclass(frozen=True)
class Tradability:
    """Whether each instrument can be bought and sold at the deal price of each session, days x instruments."""

    buyable: pd.DataFrame  # bool
    sellable: pd.DataFrame  # bool
    first_sale: np.ndarray  # [D] row of the first session in which a purchase of each session may be sold

    @property
    def longest_wait(self) -> int:
        """The most sessions from a purchase to the first one in which it may be sold."""
        return int((self.first_sale - np.arange(len(self.first_sale))).max(initial=1))

    def with_payments(self, paid_out: pd.DataFrame) -> "Tradability":
        """Return the mask in which the cells of `paid_out` (bool) can be sold, and not bought."""
        return replace(self, buyable=self.buyable & ~paid_out, sellable=self.sellable | paid_out)

    def sale_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the first session at or after `rows`, [N], in which each instrument can be sold: [N, I].

        The number of sessions where there is none, or where `rows` is past the last session.
        """
        days = len(self.sellable)
        own = np.where(self.sellable.to_numpy(), np.arange(days)[:, None], days)
        following = np.minimum.accumulate(own[::-1])[::-1]
        padded = np.vstack([following, np.full((1, own.shape[1]), days)])
        return np.asarray(padded[np.minimum(rows, days)])


def tradability(
    price: pd.DataFrame,
    close: pd.DataFrame,
    limits: float | np.ndarray | None = None,
    *,
    volume: pd.DataFrame | None = None,
    next_day: bool = False,
) -> Tradability:
    """Return the mask for trades at `price` (wide, NaN where there is no bar).

    `close` holds the closes of the same sessions: a move is measured from the last close of the day before. `limits`
    are the moves from there at which nothing is traded, as fractions (0.095): one for all, [D, I] with infinity where
    there is none, or None for no limit. `volume`: a bar with 0 is not traded, unless
    all bars of the instrument have 0. `next_day`: T+1.
    """
    days = pd.DatetimeIndex(price.index).normalize()
    traded = (price.notna() & close.notna()).to_numpy()
    if volume is not None:
        counts = volume.to_numpy(dtype=np.float64)
        traded = traded & ((counts > 0) | ~(counts > 0).any(axis=0))
    up = down = np.zeros_like(traded)
    if limits is not None:
        known = close.ffill().to_numpy(dtype=np.float64)
        before = np.asarray(days.searchsorted(days)) - 1  # the last session of the day before
        previous = np.where(before[:, None] >= 0, known[before], np.nan)
        move, limit = price.to_numpy(dtype=np.float64) / previous - 1, np.asarray(limits)
        up, down = move >= limit, move <= -limit
    first = days.searchsorted(days, side="right") if next_day else np.arange(len(days)) + 1
    return Tradability(
        pd.DataFrame(traded & ~up, price.index, price.columns),
        pd.DataFrame(traded & ~down, price.index, price.columns),
        np.asarray(first),
    )


def trading_mask(
    store: BarStore, bars: Mapping[str, pd.DataFrame], price: str, limit: float | str | None
) -> Tradability:
    """Return the mask of a store's bars at `price` (open or close), by the rules of the store's market.

    `bars` are wide frames of open, close and volume from some session of the store to its last. `limit` is a move at
    which nothing is traded, None for no limit, or "auto" for the limits that came with the bars, as their frame
    `flags`, and without one 95 % of the price limit of each board and day. An instrument counts as new, with the
    sessions without a limit that its board has, from its first stored bar, unless that is the first session of the
    store. Where there is a frame `paid_out`, its cells can be sold only.
    """
    close = bars["close"]
    limits: float | np.ndarray | None = None if limit is None or limit == "auto" else float(limit)
    own = bars.get("flags") if limit == "auto" else None
    if limit == "auto" and own is None:
        first = np.asarray(store.session)[store.offsets[:-1]]
        start = int(np.searchsorted(store.sessions, close.index[0].value))
        age = start + np.arange(len(close))[:, None] - first
        age = np.where((first == 0) | (age < 0), NOT_NEW, age)
        limits = AT_LIMIT * markets.price_limits(store.calendar, store.instruments, close.index, age)
    next_day = store.freq != "day" and markets.settlement(store.calendar) == "T+1"
    mask = tradability(bars[price], close, limits, volume=bars["volume"], next_day=next_day)
    if own is not None:
        up, down = OWN_LIMITS[price]
        mask = replace(
            mask, buyable=mask.buyable & (own & up == 0), sellable=mask.sellable & (own & down == 0)
        )
    return mask.with_payments(bars["paid_out"]) if "paid_out" in bars else mask


def trading_costs(
    calendar: str,
    days: pd.DatetimeIndex,
    open_cost: float | str,
    close_cost: float | str,
    min_cost: float | str,
) -> tuple[float, float, float]:
    """Return the costs of buying and selling, as fractions of value, and the least cost of an order, in money.

    "auto" is the market's own, the mean over `days` where a tax changes within them: fees and taxes, without the
    spread.
    """
    charged = [markets.costs(calendar, day) for day in days]
    own = np.mean([[one.buy, one.sell, one.minimum] for one in charged], axis=0).tolist()
    given = (open_cost, close_cost, min_cost)
    buy, sell, least = (
        float(usual if asked == "auto" else asked) for asked, usual in zip(given, own, strict=True)
    )
    return buy, sell, least


def unbuyable_shares(score: pd.DataFrame, tradable: Tradability, groups: int) -> tuple[float, float]:
    """Return the shares of all scores, and of the highest of `groups`, that cannot be bought in the next session.

    Scores of the last session are left out. NaN where there is no score.
    """
    after = tradable.buyable.shift(-1).iloc[:-1].astype(bool)
    known = score.reindex(after.index.intersection(score.index))
    after = after.reindex(index=known.index, columns=known.columns, fill_value=False)
    found = []
    for chosen in (known.notna(), known.rank(axis=1, pct=True) > 1 - 1 / groups):
        count = int(chosen.to_numpy().sum())
        found.append(float((chosen & ~after).to_numpy().sum()) / count if count else float("nan"))
    return found[0], found[1]
