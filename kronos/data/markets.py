"""What a market allows and charges: price limits, costs, lots, settlement, and the sessions of its year.

A market is chosen by its calendar, its board by the instrument's code. `MARKETS` is the table: to add an exchange,
add an entry. Each rule names its source and holds from the day `since` until the next of its kind; days before the
first take the first cost, and no price limit. A calendar without an entry has `DEFAULT`: no limits, 0.1 % each way.

Shares under special treatment (ST, 5 % on the main boards) cannot be told from bars or codes and are treated like any
other; so are Shenzhen's funds of ChiNext indices (20 % from 2020-08-24, here 10 % as any fund). Commissions and fees
are typical ones, not those of a given broker.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd

from kronos.data.calendars import FOREVER, exchange_of, known_range, sessions
from kronos.data.frequency import within_day
from kronos.data.observed import is_observed
from kronos.data.store import BarStore

DAYS_A_YEAR = 365.25


@dataclass(frozen=True)
class Limit:
    """A price limit of a board: the largest move from the previous close, as a fraction (0.1 is 10 %)."""

    board: str
    limit: float
    since: str
    source: str
    free: int = 0  # first sessions without a limit, of shares listed under this rule
    lot: int = 100  # shares; also the least order


@dataclass(frozen=True)
class Costs:
    """Costs of a trade as fractions of its value, taxes included, and the least cost of an order in money."""

    buy: float
    sell: float
    minimum: float
    since: str
    source: str


@dataclass(frozen=True)
class Market:
    """The rules of one market; `lot` is for instruments of no known board, None where it is not known or free."""

    name: str
    costs: tuple[Costs, ...]  # in order of `since`
    source: str  # of limits and settlement
    limits: tuple[Limit, ...] = ()  # of each board in order of `since`
    settlement: Literal["T+0", "T+1"] = "T+0"
    lot: int | None = None
    qlib_region: Literal["cn", "us"] = "us"


_MAIN = "SSE and SZSE trading rules"
_CHINA_FEES = "commission about 0.025 % and transfer fee 0.001 % each way, at least 5 CNY"
_HK_FEES = "exchange fees and levies about 0.01 %, a broker's commission not included"
DEFAULT = Market(
    "a market without an entry",
    (Costs(0.001, 0.001, 0.0, "1900-01-01", "an assumption: 0.1 % each way"),),
    "no rule is known",
)
MARKETS = {
    "XSHG": Market(
        "Shanghai, Shenzhen and Beijing",
        costs=(
            Costs(0.00026, 0.00126, 5.0, "2008-09-19", f"stamp duty on sales 0.1 %; {_CHINA_FEES}"),
            Costs(0.00026, 0.00076, 5.0, "2023-08-28",
                  f"stamp duty on sales 0.05 % (Ministry of Finance notice 39 of 2023); {_CHINA_FEES}"),
        ),
        source="trading rules of the Shanghai, Shenzhen and Beijing exchanges",
        limits=(
            # the first session's own limit, 44 % since 2014, is taken as none
            Limit("main", 0.1, "1996-12-16", f"{_MAIN} since 1996", free=1),
            Limit("main", 0.1, "2023-04-10", f"{_MAIN} 2023, registration reform", free=5),
            Limit("chinext", 0.1, "2009-10-30", "SZSE trading rules", free=1),
            Limit("chinext", 0.2, "2020-08-24", "SZSE ChiNext special rules 2020, registration reform", free=5),
            Limit("star", 0.2, "2019-07-22", "SSE STAR Market special rules 2019", free=5, lot=200),
            Limit("beijing", 0.3, "2021-11-15", "BSE trading rules 2021", free=1),
            Limit("fund", 0.1, "1996-12-16", f"{_MAIN}, funds"),
            Limit("star_fund", 0.2, "2020-08-24", "SSE rules on funds of STAR shares 2020"),
        ),
        settlement="T+1", qlib_region="cn",
    ),
    "XHKG": Market(
        "Hong Kong",
        costs=(
            Costs(0.0011, 0.0011, 0.0, "2001-09-01", f"stamp duty 0.1 % on both sides; {_HK_FEES}"),
            Costs(0.0014, 0.0014, 0.0, "2021-08-01",
                  f"stamp duty 0.13 % on both sides (Revenue (Stamp Duty) Ordinance 2021); {_HK_FEES}"),
            Costs(0.0011, 0.0011, 0.0, "2023-11-17",
                  f"stamp duty 0.1 % on both sides (Stamp Duty Amendment Ordinance of 2023); {_HK_FEES}"),
        ),
        source="HKEX trading rules: no daily limit; lots are set by each issuer",
    ),
    "XNYS": Market(
        "New York",
        costs=(
            Costs(0.0, 0.0000278, 0.0, "1900-01-01",
                  "commission 0, SEC fee on sales 0.00278 % (the rate of May 2024, typical: it changes yearly)"),
        ),
        source="NYSE rules: bands within the day (limit up, limit down since 2013) but no daily limit",
        lot=1,
    ),
    "24/7": Market(
        "crypto",
        costs=(Costs(0.001, 0.001, 0.0, "1900-01-01", "typical spot fee of large exchanges, 0.1 % each way"),),
        source="no rule of an exchange",
    ),
}  # fmt: skip

# The first row that fits decides. A bare code fits the rows of every exchange, so an index of Shanghai (SH000300)
# needs its exchange: 000300 alone is a share of Shenzhen.
_BOARDS = (
    ("SH", ("688", "689"), "star"), ("SH", ("588", "589"), "star_fund"), ("SH", ("6", "900"), "main"),
    ("SH", ("5",), "fund"), ("SZ", ("30",), "chinext"), ("SZ", ("00", "20"), "main"),
    ("SZ", ("15", "16", "18"), "fund"), ("SZ", ("399",), "index"), ("BJ", ("899",), "index"),
    ("BJ", ("43", "8", "92"), "beijing"), ("SH", ("00",), "index"),
)  # fmt: skip
_CODE = re.compile(r"(?:(SH|SZ|BJ)[._-]?)?(\d{6})(?:[._-]?(SH|SZ|BJ|SS|XSHG|XSHE))?", re.IGNORECASE)
_SAME = {"SS": "SH", "XSHG": "SH", "XSHE": "SZ"}


def board(instrument: Any) -> str:
    """Return the board of a Chinese code: main, chinext, star, beijing, fund, star_fund, index; other if none fits.

    Read as users write it: SH600000, sh.600000, 600000.SH, 600000.SS, 000001.XSHE, 600000. Never raises.
    """
    found = _CODE.fullmatch(str(instrument).strip())
    if found is None:
        return "other"
    given = {_SAME.get(part.upper(), part.upper()) for part in (found[1], found[3]) if part}
    for exchange, prefixes, name in _BOARDS:
        if (not given or given == {exchange}) and found[2].startswith(prefixes):
            return name
    return "other"


def market(calendar: str) -> Market:
    """Return the entry of a calendar (a name of exchange_calendars, 24/7, weekdays or observed), or `DEFAULT`."""
    return MARKETS.get(exchange_of(calendar) or calendar, DEFAULT)


def price_limit(
    calendar: str, instrument: Any, date: Any, sessions_since_listing: int | None = None
) -> float | None:
    """Return the largest move from the previous close on a day, as a fraction; None where there is no limit.

    `sessions_since_listing` is 0 on the first session; None: not new. A first session's own limit (44 % on the main
    boards before 2023-04-10, ChiNext before 2020-08-24) is taken as none. ST shares (5 %) cannot be told from bars.
    """
    since = None if sessions_since_listing is None else np.array([[sessions_since_listing]])
    found = float(price_limits(calendar, [instrument], [date], since)[0, 0])
    return found if np.isfinite(found) else None


def price_limits(
    calendar: str, instruments: Sequence[Any], dates: Any, sessions_since_listing: np.ndarray | None = None
) -> np.ndarray:
    """Return `price_limit` of dates x instruments as float64 [D, I], inf where there is no limit.

    `sessions_since_listing` is int [D, I]; None: no instrument is new.
    """
    days = pd.DatetimeIndex(pd.to_datetime(list(dates))).normalize()
    boards = np.array([board(one) for one in instruments], dtype=object)
    found = np.full((len(days), len(boards)), np.inf)
    for rule in market(calendar).limits:
        cells = np.ix_(np.flatnonzero(days >= pd.Timestamp(rule.since)), np.flatnonzero(boards == rule.board))
        if not found[cells].size:
            continue
        found[cells] = rule.limit
        if rule.free and sessions_since_listing is not None:
            start = pd.Timestamp(
                rule.since
            )  # shares listed before it had their new days under the rule before
            under = sessions(calendar, start, start + pd.Timedelta(days=60)).searchsorted(days, side="right")
            age = np.asarray(sessions_since_listing)
            new = age < np.minimum(rule.free, under)[:, None]
            found[cells] = np.where(new[cells], np.inf, rule.limit)
    return found


def costs(calendar: str, date: Any) -> Costs:
    """Return what a trade costs on a day: fractions of its value, and the least cost of an order in money.

    These are the market's own, typical figures; Qlib's convention (0.0005 buying, 0.0015 selling, at least 5) and
    the configured costs of a backtest are other figures, and are not read here.
    """
    rules = market(calendar).costs
    begun = [one for one in rules if pd.Timestamp(one.since) <= pd.Timestamp(date)]
    return begun[-1] if begun else rules[0]


def lot_size(calendar: str, instrument: Any) -> int | None:
    """Return the shares that orders are a multiple of (STAR: the least order); None: not known, or any fraction."""
    own = market(calendar)
    name = board(instrument)
    return next((one.lot for one in own.limits if one.board == name), own.lot)


def settlement(calendar: str) -> Literal["T+0", "T+1"]:
    """Return T+1 where a share bought today can be sold from the next day on (China), else T+0."""
    return market(calendar).settlement


def qlib_region(calendar: str) -> Literal["cn", "us"]:
    """Return the region whose conventions Qlib has for the market: cn or us."""
    return market(calendar).qlib_region


@lru_cache
def sessions_per_year(calendar: str, begin: Any, end: Any, freq: str = "day", label: str = "end") -> float:
    """Return the sessions (bars, within a day) in 365.25 days, counted over the whole years around begin..end.

    Years that the calendar does not know whole give way to the nearest that it does. Bars per day are those of the
    last year counted. Raises UserError for a calendar that exchange_calendars does not know.
    """
    exchange = exchange_of(calendar)
    earliest, latest = known_range(exchange) if exchange else (pd.Timestamp("1900-01-01"), FOREVER)
    day = pd.Timedelta(days=1)
    low = earliest.year + (earliest > pd.Timestamp(earliest.year, 1, 1))
    high = (latest.tz_localize(None) + day).year - 1
    first, last = (min(max(pd.Timestamp(one).year, low), high) for one in (begin, end))
    start, stop = pd.Timestamp(first, 1, 1), pd.Timestamp(last, 12, 31)
    if not within_day(freq):
        return len(sessions(calendar, start, stop, freq)) / ((stop - start) // day + 1) * DAYS_A_YEAR
    days = len(sessions(calendar, start, stop)) / ((stop - start) // day + 1) * DAYS_A_YEAR
    year = pd.Timestamp(last, 1, 1)
    return days * len(sessions(calendar, year, stop, freq, label)) / len(sessions(calendar, year, stop))


def sessions_per_year_of(store: BarStore, begin: Any, end: Any) -> float:
    """Return the sessions of a store in 365.25 days; an observed calendar knows holidays from the store's own ones.

    A store of less than a year has the year of its pattern, without holidays.
    """
    span = pd.Timedelta(int(store.sessions[store.last_session] - store.sessions[0]))
    years = span / pd.Timedelta(days=DAYS_A_YEAR)
    if is_observed(store.calendar) and not exchange_of(store.calendar) and years >= 1:
        return store.last_session / years
    return sessions_per_year(store.calendar, begin, end, store.freq, store.label)


def describe(calendar: str, begin: Any, end: Any) -> list[str]:
    """Return four plain lines on the rules between two days, both included: limits, costs, settlement, sessions."""
    own = market(calendar)
    first, last = pd.Timestamp(begin), pd.Timestamp(end)
    limits = []
    for name in dict.fromkeys(one.board for one in own.limits):
        limits += [f"{name} {one.limit:.0%} from {one.since} ({one.source})"
                   for one in _between([one for one in own.limits if one.board == name], first, last)
                   if pd.Timestamp(one.since) <= last]  # fmt: skip
    charged = [
        f"buying {one.buy:.4%}, selling {one.sell:.4%}, at least {one.minimum:g} an order, from {one.since} "
        f"({one.source})"
        for one in _between(own.costs, first, last)
    ]
    year = sessions_per_year(calendar, first, last)
    how = "a share bought today is sold tomorrow at the earliest" if own.settlement == "T+1" else "no waiting"
    return [
        f"market {calendar}, {own.name}: price limits " + ("; ".join(limits) or f"none ({own.source})"),
        "typical costs: " + "; ".join(charged),
        f"settlement {own.settlement}: {how} ({own.source})",
        f"a year has {year:.1f} sessions, counted from the calendar over {first.year} to {last.year}",
    ]


def _between(rules: Sequence[Any], first: pd.Timestamp, last: pd.Timestamp) -> list[Any]:
    """Return the rules in force on some day of first..last; the first one also before its own start."""
    ends = [*(pd.Timestamp(after.since) for _, after in pairwise(rules)), FOREVER]
    return [rule for place, (rule, until) in enumerate(zip(rules, ends, strict=True))
            if until > first and (place == 0 or pd.Timestamp(rule.since) <= last)]  # fmt: skip
