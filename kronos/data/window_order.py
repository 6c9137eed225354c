"""Which windows each epoch consists of, and in which order: a pure function of (seed, epoch).

Windows may be in groups: years, sizes of instruments, or the older days of a training that goes on from earlier
weights. An epoch then takes a fixed number of windows of each group.
"""

from bisect import bisect_right
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from kronos.data.bars import AMOUNT, Flag
from kronos.data.splits import Split
from kronos.data.store import BarStore
from kronos.utils.errors import UserError
from kronos.utils.random_keys import hash_counters

FIXED_EPOCH = 2**64 - 1  # key of choices that are the same in every epoch, as those of validation
ORDER, RING, CYCLE = 1, 3, 4  # keys of what a hash is used for; 2 is that of the draws in `data.windows`
TENTHS = 10  # groups of balance_windows=size


def epoch_key(epoch: int | None) -> int:
    """Return the key of an epoch in hashes; None is the fixed choice of validation."""
    return FIXED_EPOCH if epoch is None else epoch


def epoch_order(n_windows: int, budget: int | None, seed: int, epoch: int | None) -> np.ndarray:
    """Return the windows of an epoch, int64 [min(budget, n)]: shuffled by (seed, epoch), each at most once.

    `budget=None` takes all of them in order. `epoch=None` is the fixed choice of validation, in order. The order
    sorts hashes of the window numbers: the same with any library version, rank or worker.
    """
    if budget is None:
        return np.arange(n_windows, dtype=np.int64)
    order = np.argsort(_hashes(np.arange(n_windows), ORDER, seed, epoch_key(epoch)), kind="stable")[:budget]
    order = order.astype(np.int64)
    return np.sort(order) if epoch is None else order


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each window, and whether it is an older one that is only replayed.

    `replay_fraction` is the share of older windows in an epoch.
    """

    names: tuple[str, ...]
    of_window: np.ndarray  # int64 [n]: place in `names`
    older: np.ndarray  # bool [number of groups]
    replay_fraction: float = 0.0

    def quotas(self, budget: int) -> np.ndarray:
        """Return the number of windows per epoch of each group, int64 [number of groups], at most `budget` in all.

        Each group has the same number as far as it has so many windows, newer and older ones apart. The first groups
        have one more where the numbers cannot be equal.
        """
        sizes = np.bincount(self.of_window, minlength=len(self.names))
        newer, older = sizes[~self.older].sum(), sizes[self.older].sum()
        budget = min(budget, int(newer / (1 - self.replay_fraction)))
        replayed = min(round(budget * self.replay_fraction), older)
        found = np.zeros(len(sizes), np.int64)
        found[~self.older] = _equal_shares(sizes[~self.older], min(budget - replayed, newer))
        found[self.older] = _equal_shares(sizes[self.older], replayed)
        return found


def _equal_shares(sizes: np.ndarray, total: int) -> np.ndarray:
    """Share out `total` equally, at most `sizes` to each; a remainder goes to the first ones that have more."""
    level = bisect_right(range(total + 1), total, key=lambda most: int(np.minimum(sizes, most).sum())) - 1
    shares = np.minimum(sizes, level)
    shares[np.flatnonzero(sizes > level)[: total - int(shares.sum())]] += 1
    return shares


class WindowOrder:
    """The windows of each epoch: `per_epoch` of `n_windows`, a pure function of (seed, epoch).

    With `coverage` the epochs of a group use every one of its windows once before any is repeated; otherwise each
    epoch is a random choice of its own. No epoch has a window twice.
    """

    def __init__(
        self, n_windows: int, budget: int, seed: int, *, coverage: bool = False, groups: Groups | None = None
    ) -> None:
        self.n_windows, self.seed, self.coverage, self.groups = n_windows, seed, coverage, groups
        quotas = np.array([min(budget, n_windows)]) if groups is None else groups.quotas(budget)
        of_window = np.zeros(n_windows, np.int64) if groups is None else groups.of_window
        self._parts = [
            (np.flatnonzero(of_window == group), int(quota)) for group, quota in enumerate(quotas) if quota
        ]
        self.per_epoch = int(quotas.sum())
        self.text = ""
        if groups is not None:
            counts = zip(groups.names, quotas, strict=True)
            self.text = "windows per epoch by group: " + ", ".join(
                f"{name} {count:,}" for name, count in counts
            )

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the windows of an epoch in order, int64 [per_epoch]."""
        if self.groups is None and not self.coverage:
            return epoch_order(self.n_windows, self.per_epoch, self.seed, epoch)
        key = epoch_key(epoch)
        chosen = [self._of_part(windows, quota, epoch) for windows, quota in self._parts]
        # The places of each group are shuffled, and the windows of a group stay in their order.
        every = np.concatenate(chosen)
        part_of = np.repeat(np.arange(len(chosen)), [len(part) for part in chosen])
        place = np.argsort(_hashes(every, ORDER, self.seed, key), kind="stable")
        found, part_of = np.empty(len(every), np.int64), part_of[place]
        for part, windows in enumerate(chosen):
            found[part_of == part] = windows
        return found

    def fixed(self, most: int) -> np.ndarray:
        """Return at most `most` windows that are the same in every epoch, sorted; none of them is only replayed."""
        if self.groups is None:
            return epoch_order(self.n_windows, min(most, self.n_windows), self.seed, None)
        own = np.flatnonzero(~self.groups.older[self.groups.of_window])
        return own[epoch_order(len(own), min(most, len(own)), self.seed, None)]

    def _of_part(self, windows: np.ndarray, quota: int, epoch: int) -> np.ndarray:
        """Return `quota` of a group's windows for an epoch, in order."""
        if not self.coverage:
            hashes = _hashes(windows, ORDER, self.seed, epoch_key(epoch))
            return windows[np.argsort(hashes, kind="stable")[:quota]]
        cycle, place = divmod(epoch * quota, len(windows))
        found = self._cycle(windows, quota, cycle)[place : place + quota]
        if missing := quota - len(found):
            found = np.concatenate((found, self._cycle(windows, quota, cycle + 1)[:missing]))
        return found

    def _cycle(self, windows: np.ndarray, quota: int, cycle: int) -> np.ndarray:
        """Return a group's windows in the order in which pass `cycle` over all of them uses them.

        Where an epoch ends one pass and begins the next one, the two parts have no window in common: the first
        windows of every pass are the first ones of a fixed shuffled order, and the last ones its last.
        """
        count = len(windows)
        head, tail = -cycle * count % quota, (cycle + 1) * count % quota
        fixed = np.argsort(_hashes(windows, RING, self.seed), kind="stable")
        part = np.ones(count, np.int64)
        part[fixed[:head]] = 0
        part[fixed[count - tail :]] = 2
        return windows[np.lexsort((_hashes(windows, CYCLE, self.seed, cycle), part))]


def _hashes(windows: np.ndarray, *key: int) -> np.ndarray:
    return hash_counters(windows.astype(np.uint64), *key)


def group_windows(
    store: BarStore, split: Split, lookback: int, *, balance: str, since: date | None, replay_fraction: float
) -> Groups | None:
    """Return the groups of training windows; None where they are all alike.

    A window is of the day of its first forecast bar. `balance` is none, year, or size: the tenth of the instruments
    by mean money traded per bar of the split's range. Windows of days before `since` are the older ones. Raises
    UserError where there is no window since that day, or none before it to be replayed.
    """
    if balance == "none" and since is None:
        return None
    first_forecast = np.asarray(store.session)[split.starts] + lookback
    days = store.day[first_forecast].astype("datetime64[D]")
    older = np.zeros(len(split), bool) if since is None else days < np.datetime64(since, "D")
    if older.all():
        raise UserError(
            f"since {since}: no training window has its first forecast bar on that day or later, the last one is of "
            f"{days.max()}: give an earlier day, or end train_time_range later"
        )
    if replay_fraction and not older.any():
        raise UserError(
            f"replay_fraction {replay_fraction:g}: no training window is older than since {since} to be replayed: "
            "begin train_time_range earlier, or give replay_fraction 0"
        )
    label, names = np.zeros(len(split), np.int64), [""]
    if balance == "year":
        years, label = np.unique(days.astype("datetime64[Y]"), return_inverse=True)
        names = [str(year) for year in years]
    elif balance == "size":
        label = _tenths(store, split)
        names = [f"tenth {place + 1}" for place in range(TENTHS)]
    both, of_window = np.unique(2 * label + older, return_inverse=True)
    words = [f"{names[one // 2]}{' older' if one % 2 else ''}".strip() or "newer" for one in both]
    return Groups(tuple(words), of_window.astype(np.int64), both % 2 == 1, replay_fraction)


def _tenths(store: BarStore, split: Split) -> np.ndarray:
    """Return the tenth of each window's instrument by mean amount, 0 the smallest, int64 [n].

    Instruments with windows are ranked by their real bars within the range of the split, and by no later one.
    """
    session, flags = np.asarray(store.session), np.asarray(store.flags)
    rows = np.flatnonzero(
        (session >= split.first_session) & (session <= split.last_session) & ((flags & Flag.FILLED) == 0)
    )
    instrument = store.instrument_of_row
    amounts = np.asarray(store.values[rows, AMOUNT], np.float64)
    traded = pd.Series(amounts).groupby(instrument[rows]).mean()
    used = np.unique(instrument[split.starts])
    ranked = traded.reindex(used).fillna(0.0).rank(method="first").to_numpy()
    tenth = np.zeros(len(store.instruments), np.int64)
    tenth[used] = (ranked - 1) * TENTHS // len(used)
    return tenth[instrument[split.starts]]
