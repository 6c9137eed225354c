"""Splits: the days of training, validation, test and backtest, and the windows within them.

Ranges that are given are never moved. Those that are not come from the user guide where its days fit the bars, else
from fractions of the sessions. No bar is scored twice.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd

from kronos.data.bars import Flag
from kronos.data.holdout import digest_of
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
    """Return the first and last place of begin..end in `store.sessions`, up to the last bar; last < first if none.

    The sessions of a day are those of its trading day: a night session belongs to the next one.
    """
    days = [np.datetime64(day, "D").astype(np.int64) for day in (begin, end)]
    first = np.searchsorted(store.day, days[0], side="left")
    last = np.searchsorted(store.day, days[1], side="right") - 1
    return int(first), min(int(last), store.last_session)


def make_split(
    store: BarStore,
    name: str,
    begin: date,
    end: date,
    *,
    lookback: int,
    horizon: int,
    length: int,
    held_out: Collection[str] = (),
) -> Split:
    """Return every window of `length` consecutive bars of one instrument that lies within begin..end.

    A window of validation or test counts only where the instrument is a member at its last lookback bar, where the
    forecast would be made. Training takes the whole history within the range of every instrument that was a member
    by its end: who joins later is not known then. Neither has windows of the `held_out` instruments, test has. Raises
    UserError with the arithmetic when there is no window.
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
        if held_out and name != "test":
            kept = np.array([instrument not in held_out for instrument in store.instruments])
            starts = starts[kept[store.instrument_of_row[starts]]]
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


GUIDE = {  # the days of the user guide; the first and last bar of the store take the place of the outer ones
    "train": (date(2011, 1, 1), date(2022, 12, 31)),
    "val": (date(2022, 9, 1), date(2024, 6, 30)),
    "test": (date(2024, 4, 1), date(2025, 6, 5)),
    "backtest": (date(2024, 7, 1), date(2025, 6, 5)),
}
FRACTIONS = (0.6, 0.8)  # of the sessions: training ends at the first, validation at the second
LEAST_TRAINED = 0.5  # share of the sessions that the guide's training range has at least, where its days fit


@dataclass(frozen=True)
class Ranges:
    """First and last day of each range, and notes on how the ranges that were not given were chosen."""

    train: DateRange
    val: DateRange
    test: DateRange
    backtest: DateRange
    notes: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()  # instruments without windows of training and validation

    @classmethod
    def of(
        cls, days: Mapping[str, DateRange], notes: tuple[str, ...], held_out: tuple[str, ...] = ()
    ) -> "Ranges":
        """Ranges from what `days` returns."""
        return cls(days["train"], days["val"], days["test"], days["backtest"], notes, held_out)

    def days(self) -> dict[str, DateRange]:
        return {"train": self.train, "val": self.val, "test": self.test, "backtest": self.backtest}

    def text(self) -> str:
        """Format the ranges that a model's training depends on, and the digest of the held-out instruments."""
        days = [f"{name} {first}..{last}" for name, (first, last) in list(self.days().items())[:2]]
        if self.held_out:
            days.append(f"held out {digest_of(self.held_out)}")
        return ", ".join(days)

    def whole_text(self) -> str:
        """Format all ranges, for people."""
        return ", ".join(f"{WORDS.get(name, name)} {a}..{b}" for name, (a, b) in self.days().items())


def settle_ranges(
    store: BarStore,
    train: DateRange | None,
    val: DateRange | None,
    test: DateRange | None,
    backtest: DateRange | None,
    *,
    lookback: int,
    horizon: int = 1,
    embargo: int = 0,
) -> Ranges:
    """Return the ranges to use: those given as they are, the others (None) chosen for the bars of the store.

    The days of the guide are chosen where each of its ranges has bars enough and training at least half of them all;
    test and backtest end with the last bar. Otherwise the sessions are cut 60 : 20 : 20, or at the ends of the ranges
    that are given. With an embargo, at least that many bars lie between the last one that an earlier range scores and
    the first one that a later range scores: the earlier range ends sooner. Raises UserError where two ranges score
    the same bars, or the embargo leaves nothing.
    """
    named = {"train": train, "val": val, "test": test, "backtest": backtest}
    given = {name: days for name, days in named.items() if days is not None}
    if train is not None and val is not None and test is not None and backtest is not None:
        ranges = Ranges(train, val, test, backtest)
    else:
        found = _Sessions(store).guide(given, lookback, horizon)
        ranges = _Sessions(store).fractions(given, lookback) if found is None else found
    check_ranges(store, **ranges.days(), lookback=lookback)
    return _with_embargo(store, ranges, lookback, embargo) if embargo else ranges


class _Sessions:
    """The sessions of a store up to its last bar, as days to cut at."""

    def __init__(self, store: BarStore) -> None:
        self.store = store
        self.count = store.last_session + 1
        day = store.day[: self.count]
        self.starts = np.flatnonzero(np.append(True, np.diff(day) != 0))  # first session of each day
        self.times = pd.to_datetime(day * 24 * 3600 * 10**9)

    def day_start(self, session: float) -> int:
        return int(self.starts[min(int(np.searchsorted(self.starts, session)), len(self.starts) - 1)])

    def date_at(self, session: int) -> date:
        found: date = self.times[min(max(session, 0), self.count - 1)].date()
        return found

    def lead(self, session: int, lookback: int) -> date:
        """Return the first day that starts at most `lookback` sessions before: it is scored from `session` on."""
        return self.date_at(self.day_start(max(session - lookback, 0)))

    def first_after(self, day: date) -> int:
        following = day + timedelta(days=1)
        return session_range(self.store, following, following)[0]

    def guide(self, given: dict[str, DateRange], lookback: int, horizon: int) -> Ranges | None:
        """Return the guide's ranges for those that are not given; None where they do not fit the bars."""
        first, last = self.date_at(0), self.date_at(self.count - 1)
        end = given["backtest"][1] if "backtest" in given else last
        days = {
            "train": (min(GUIDE["train"][0], first), GUIDE["train"][1]),
            # a lookback shorter than the guide's would score days of the range before
            "val": (
                max(GUIDE["val"][0], self.lead(self.first_after(GUIDE["train"][1]), lookback)),
                GUIDE["val"][1],
            ),
            "test": (max(GUIDE["test"][0], self.lead(self.first_after(GUIDE["val"][1]), lookback)), end),
            "backtest": (GUIDE["backtest"][0], end),
            **given,
        }
        ranges = Ranges.of(days, ("the ranges that are not given are those of the user guide",))
        least = {"train": lookback + horizon + 1, "val": lookback + horizon, "test": lookback + horizon,
                 "backtest": horizon + 2}  # fmt: skip
        for name in days.keys() - given.keys():
            begins, ends = session_range(self.store, *days[name])
            if ends - begins + 1 < max(least[name], LEAST_TRAINED * self.count if name == "train" else 0):
                return None
        try:
            check_ranges(self.store, **days, lookback=lookback)
        except UserError:
            return None
        return ranges

    def fractions(self, given: dict[str, DateRange], lookback: int) -> Ranges:
        """Cut the sessions at the ends of the ranges that are given, and else 60 : 20 : 20."""
        begins = {name: session_range(self.store, *days)[0] for name, days in given.items()}
        first: int | None = None  # session that is the first one scored in validation
        second: int | None = None  # and the first one of test and backtest
        if "val" in given:
            first, second = begins["val"] + lookback, self.first_after(given["val"][1])
        if "train" in given:
            first = self.first_after(given["train"][1])
        if "test" in given:
            second = begins["test"] + lookback
        if "backtest" in given:
            second = begins["backtest"]
        if second is None:
            second = self.day_start(self.count * FRACTIONS[1] if first is None else (first + self.count) / 2)
        if first is None:
            first = self.day_start(second * FRACTIONS[0] / FRACTIONS[1])
        days = {
            "train": (self.date_at(0), self.date_at(first - 1)),
            "val": (self.lead(first, lookback), self.date_at(second - 1)),
            "test": (self.lead(second, lookback), self.date_at(self.count - 1)),
            "backtest": (self.date_at(second), self.date_at(self.count - 1)),
        }
        bars = f"{self.date_at(0)}..{self.date_at(self.count - 1)}"
        if not 0 < first < second < self.count or not days["train"][1] < days["backtest"][0]:
            raise UserError(
                f"{len(self.starts)} days ({bars}) are too few to be cut into training, validation and test"
                + (f" beside the ranges that are given ({', '.join(given)})" if given else "")
                + ": give train_time_range, val_time_range, test_time_range and backtest_time_range"
            )
        units = "days" if self.store.freq == "day" else "bars"
        how = f"at the ends of the ranges that are given ({', '.join(given)})" if given else "60 : 20 : 20"
        note = f"the {self.count:,} {units} of the store ({bars}) do not fit the user guide's days and are cut {how}"
        return Ranges.of({**days, **given}, (note,))


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
    return Ranges.of(days, tuple(notes))
