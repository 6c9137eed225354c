"""The days of training, validation, test and backtest: as given, or by fractions where none of them fits the bars."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from kronos.data.ranges import APART, DateRange, check_ranges, session_range
from kronos.data.store import BarStore
from kronos.errors import UserError

FRACTIONS = (0.6, 0.8)  # of the sessions: training ends at the first, validation at the second


@dataclass(frozen=True)
class Ranges:
    """First and last day of each range, and what was changed about the ranges that were given."""

    train: DateRange
    val: DateRange
    test: DateRange
    backtest: DateRange
    notes: tuple[str, ...] = ()

    def days(self) -> dict[str, DateRange]:
        return {"train": self.train, "val": self.val, "test": self.test, "backtest": self.backtest}

    def text(self) -> str:
        """The ranges that a model's training depends on."""
        return ", ".join(f"{name} {first}..{last}" for name, (first, last) in list(self.days().items())[:2])


def settle_ranges(
    store: BarStore,
    train: DateRange,
    val: DateRange,
    test: DateRange,
    backtest: DateRange,
    *,
    lookback: int,
    embargo: int = 0,
    defaults: bool = False,
) -> Ranges:
    """The ranges to use. Where none of those given has a bar, the sessions are cut by fractions (60, 20, 20 %).

    So they are where nobody chose the ranges (`defaults`) and that of training has no bar.

    With an embargo, at least that many bars lie between the last one that an earlier range scores and the first one
    that a later range scores: the earlier range ends sooner. Raises UserError where two ranges score the same
    bars, or
    the embargo leaves nothing.
    """
    given = Ranges(train, val, test, backtest)
    places = [session_range(store, *days) for days in given.days().values()]
    empty = [last < first for first, last in places]
    if all(empty) or (defaults and empty[0]):
        given = _by_fractions(store, lookback)
    check_ranges(store, **given.days(), lookback=lookback)
    return _with_embargo(store, given, lookback, embargo) if embargo else given


def _by_fractions(store: BarStore, lookback: int) -> Ranges:
    count = store.last_session + 1
    day = store.day[:count]
    starts = np.flatnonzero(np.append(True, np.diff(day) != 0))  # first session of each day

    def day_start(session: float) -> int:
        return int(starts[min(int(np.searchsorted(starts, session)), len(starts) - 1)])

    cuts = [day_start(count * part) for part in FRACTIONS]
    times = pd.to_datetime(day * 24 * 3600 * 10**9)

    def date_at(session: int) -> date:
        day_of: date = times[min(max(session, 0), count - 1)].date()
        return day_of

    def lead(session: int) -> date:
        """The first whole day whose start lies at most `lookback` sessions before: scored from `session` on."""
        return date_at(day_start(max(session - lookback, 0)))

    train = (date_at(0), date_at(cuts[0] - 1))
    val = (lead(cuts[0]), date_at(cuts[1] - 1))
    test = (lead(cuts[1]), date_at(count - 1))
    backtest = (date_at(cuts[1]), date_at(count - 1))
    if not train[1] < backtest[0] or cuts[0] >= cuts[1]:
        raise UserError(
            f"no range has a bar of the store, and its {len(starts)} days "
            f"({date_at(0)}..{date_at(count - 1)}) are too few "
            "to cut by fractions: give train_time_range, val_time_range, test_time_range and backtest_time_range"
        )
    note = (
        f"the given ranges have too few bars of the store ({date_at(0)}..{date_at(count - 1)}), so its {count:,} "
        f"{'days' if store.freq == 'day' else 'bars'} are cut 60 : 20 : 20: train {train[0]}..{train[1]}, validation "
        f"{val[0]}..{val[1]}, test {test[0]}..{test[1]}, backtest {backtest[0]}..{backtest[1]}"
    )
    return Ranges(train, val, test, backtest, (note,))


def _with_embargo(store: BarStore, ranges: Ranges, lookback: int, embargo: int) -> Ranges:
    lead = {"train": 0, "val": lookback, "test": lookback, "backtest": 0}
    days, notes = ranges.days(), list(ranges.notes)
    for earlier, later in APART:
        first, last = session_range(store, *days[earlier])
        begins = session_range(store, *days[later])[0] + lead[later]
        allowed = begins - 1 - embargo
        if begins <= first or last <= allowed:
            continue
        # the last session of a whole day
        whole = np.searchsorted(store.day, store.day[allowed + 1]) - 1 if allowed >= 0 else -1
        if whole < first + lead[earlier]:
            raise UserError(
                f"embargo {embargo} leaves nothing of {earlier}_time_range "
                f"{days[earlier][0]}..{days[earlier][1]} before "
                f"{later}_time_range scores its first bar: shorten the embargo or move the ranges apart"
            )
        until = pd.Timestamp(int(store.day[whole]) * 24 * 3600 * 10**9).date()
        notes.append(
            f"embargo {embargo}: {earlier}_time_range ends {until} instead of {days[earlier][1]}, since "
            f"{later}_time_range is scored from {pd.Timestamp(int(store.sessions[begins])):%Y-%m-%d}"
        )
        days[earlier] = (days[earlier][0], until)
    return Ranges(**days, notes=tuple(notes))
