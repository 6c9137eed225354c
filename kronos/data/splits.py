"""Splits: the days of training, validation, test and backtest, and the windows within them.

Ranges are used as given, or are fractions of the sessions where none of them fits the bars. No bar is scored twice.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from kronos.data.bars import Flag
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

DateRange = tuple[date, date]
APART = (  # pairs of ranges that may not score the same bar
    ("train", "val"),
    ("train", "test"),
    ("train", "backtest"),
    ("val", "test"),
    ("val", "backtest"),
)
WORDS = {"train": "training", "val": "validation"}


@dataclass(frozen=True, eq=False)
class Split:
    """The windows of one range: `starts[i]` is the store's row of window i's first bar."""

    name: str
    first_session: int  # places in store.sessions, both inclusive
    last_session: int
    starts: np.ndarray  # int64 [n], ascending
    length: int

    def __len__(self) -> int:
        return len(self.starts)


def session_range(store: BarStore, begin: date, end: date) -> tuple[int, int]:
    """Return the first and last place of begin..end in `store.sessions`, up to the last bar; last < first if none."""
    first = np.searchsorted(store.sessions, pd.Timestamp(begin).as_unit("ns").value, side="left")
    after = pd.Timestamp(end) + pd.Timedelta(days=1)
    last = np.searchsorted(store.sessions, after.as_unit("ns").value, side="left") - 1
    return int(first), min(int(last), store.last_session)


def make_split(
    store: BarStore, name: str, begin: date, end: date, *, lookback: int, horizon: int, length: int
) -> Split:
    """Return every window of `length` consecutive bars of one instrument that lies within begin..end.

    A window of validation or test counts only where the instrument is a member at its last lookback bar, where the
    forecast would be made. Training takes the whole history within the range of every instrument that was a member
    by its end: who joins later is not known then. Raises UserError with the arithmetic when there is no window.
    """
    first, last = session_range(store, begin, end)
    starts = np.zeros(0, np.int64)
    if len(store) >= length:
        session, history = np.asarray(store.session), store.history
        starts = np.flatnonzero(
            (history[length - 1 :] >= length)
            & (session[: len(store) - length + 1] >= first)
            & (session[length - 1 :] <= last)
        ).astype(np.int64)
        member = (np.asarray(store.flags) & Flag.NONMEMBER) == 0
        if name == "train":
            joined = np.zeros(len(store.instruments), bool)
            joined[store.instrument_of_row[member & (session <= last)]] = True
            starts = starts[joined[store.instrument_of_row[starts]]]
        else:
            starts = starts[member[starts + lookback - 1]]
    if len(starts) == 0:
        raise UserError(_no_window(store, name, begin, end, first, last, lookback, horizon, length))
    return Split(name, first, last, starts, length)


def _no_window(
    store: BarStore,
    name: str,
    begin: date,
    end: date,
    first: int,
    last: int,
    lookback: int,
    horizon: int,
    length: int,
) -> str:
    unit = "days" if store.freq == "day" else "bars"
    needs = f"lookback {lookback} + horizon {horizon}"
    if length > lookback + horizon:
        needs += f" + {length - lookback - horizon} for the next token"
    needs += f" needs {length}"
    count = max(last - first + 1, 0)
    message = f"{WORDS.get(name, name)} has no window: {begin}..{end} is {count} {unit}, {needs}"
    if count < length:
        if count < len(pd.bdate_range(begin, end)) // 2:
            days = pd.DatetimeIndex(store.sessions[[0, store.last_session]])
            message += f" (the store has {days[0]:%Y-%m-%d}..{days[1]:%Y-%m-%d})"
        return message
    inside = (store.session >= first) & (store.session <= last)
    longest = np.minimum(store.history, np.asarray(store.session) - first + 1)[inside].max(initial=0)
    if longest >= length:
        return f"{message}; runs are long enough, but no instrument is a member of the universe there"
    within = "" if store.across_days else " within one day"
    return f"{message}; the longest run of bars without a hole{within} is {longest}"


def check_ranges(
    store: BarStore, train: DateRange, val: DateRange, test: DateRange, backtest: DateRange, lookback: int
) -> None:
    """Check that no bar is scored twice; raises one UserError that names all such days.

    Training scores all of its range; validation and test score from their start + lookback bars on, so that their
    first bars may lie in an earlier range; the backtest is scored from its first day. Test and backtest may share
    days: neither chooses the model.
    """
    unit = "days" if store.freq == "day" else "bars"
    ranges = {"train": train, "val": val, "test": test, "backtest": backtest}
    lead = {"train": 0, "val": lookback, "test": lookback, "backtest": 0}
    places = {name: session_range(store, *days) for name, days in ranges.items()}
    scored = {name: (first + lead[name], last) for name, (first, last) in places.items()}
    days = pd.DatetimeIndex(store.sessions)
    problems = []
    for earlier, later in APART:
        first = max(scored[earlier][0], scored[later][0])
        last = min(scored[earlier][1], scored[later][1])
        if first > last:
            continue
        begins = scored[later][0]
        starts = f"{later}_time_range is scored from {days[begins]:%Y-%m-%d}" + (
            f" (its start {ranges[later][0]} + lookback {lookback})" if lead[later] else " (its start)"
        )
        advice = (
            f"end {earlier}_time_range by {days[begins - 1]:%Y-%m-%d} or begin {later}_time_range later"
            if begins > scored[earlier][0]
            else f"let {later}_time_range lie after {earlier}_time_range"
        )
        problems.append(
            f"{earlier}_time_range and {later}_time_range both score {days[first]:%Y-%m-%d}..{days[last]:%Y-%m-%d} "
            f"({last - first + 1} {unit}): {starts}; {advice}"
        )
    if problems:
        raise UserError("\n".join(problems))


FRACTIONS = (0.6, 0.8)  # of the sessions: training ends at the first, validation at the second


@dataclass(frozen=True)
class Ranges:
    """First and last day of each range, and notes on what was changed in the ranges that were given."""

    train: DateRange
    val: DateRange
    test: DateRange
    backtest: DateRange
    notes: tuple[str, ...] = ()

    def days(self) -> dict[str, DateRange]:
        return {"train": self.train, "val": self.val, "test": self.test, "backtest": self.backtest}

    def text(self) -> str:
        """Format the ranges that a model's training depends on."""
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
    """Return the ranges to use: those given, or fractions of the sessions (60, 20, 20 %).

    Fractions are used where none of the given ranges has a bar, and where the ranges are the defaults (`defaults`)
    and the training range has no bar. With an embargo, at least that many bars lie between the last one that an
    earlier range scores and the first one that a later range scores: the earlier range ends sooner. Raises UserError
    where two ranges score the same bars, or the embargo leaves nothing.
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
        """Return the first day that starts at most `lookback` sessions before: it is scored from `session` on."""
        return date_at(day_start(max(session - lookback, 0)))

    train = (date_at(0), date_at(cuts[0] - 1))
    val = (lead(cuts[0]), date_at(cuts[1] - 1))
    test = (lead(cuts[1]), date_at(count - 1))
    backtest = (date_at(cuts[1]), date_at(count - 1))
    if not train[1] < backtest[0] or cuts[0] >= cuts[1]:
        raise UserError(
            f"no range has a bar of the store, and its {len(starts)} days "
            f"({date_at(0)}..{date_at(count - 1)}) are too few to cut by fractions: give train_time_range, "
            "val_time_range, test_time_range and backtest_time_range"
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
        # the last session of the last day that is whole
        whole = np.searchsorted(store.day, store.day[allowed + 1]) - 1 if allowed >= 0 else -1
        if whole < first + lead[earlier]:
            raise UserError(
                f"embargo {embargo} leaves nothing of {earlier}_time_range "
                f"{days[earlier][0]}..{days[earlier][1]} before {later}_time_range scores its first bar: "
                "shorten the embargo or move the ranges apart"
            )
        until = pd.Timestamp(int(store.day[whole]) * 24 * 3600 * 10**9).date()
        notes.append(
            f"embargo {embargo}: {earlier}_time_range ends {until} instead of {days[earlier][1]}, since "
            f"{later}_time_range is scored from {pd.Timestamp(int(store.sessions[begins])):%Y-%m-%d}"
        )
        days[earlier] = (days[earlier][0], until)
    return Ranges(**days, notes=tuple(notes))
