"""Instruments that leave the market for good within an evaluation, and what their holders are paid.

Wide frames have one row per session and one column per instrument, NaN where there is no bar.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.data.bars import PRICES
from kronos.evaluation import signals
from kronos.evaluation.tradability import Tradability

GONE_DAYS = 20  # days without a bar at the end of the data; fewer may be a suspension
TOTAL_LOSS = -1.0


@dataclass(frozen=True)
class Departures:
    """The instruments that left within the days of a backtest, and how much their valuation matters."""

    last_days: Mapping[str, pd.Timestamp]  # instrument -> day of its last bar
    delisting_return: float | None  # from the last close; None: valued at the last close
    rank_ic: tuple[float, float]  # mean with the tradable return: as valued, and if holders were paid nothing
    held: float  # fraction of the account in them at the closes of their last days, summed


def last_rows(close: pd.DataFrame) -> dict[str, int]:
    """Return the row of the last bar of each instrument that left for good: no bar on the last 20 days or more."""
    days = pd.DatetimeIndex(close.index).normalize()
    known = days.unique()
    if len(known) <= GONE_DAYS:
        return {}
    present = close.notna().to_numpy()
    last = np.where(present.any(axis=0), len(close) - 1 - present[::-1].argmax(axis=0), len(close))
    end = int(days.searchsorted(known[-GONE_DAYS]))
    return {str(name): int(row) for name, row in zip(close.columns, last, strict=True) if row < end}


def pay_out(bars: dict[str, pd.DataFrame], delisting_return: float | None) -> dict[str, pd.DataFrame]:
    """Return the wide bars with the payment to holders of instruments that left for good; unchanged for None.

    From the session after its last bar such an instrument is quoted at its last close x (1 + `delisting_return`),
    where it can be sold and not bought: `paid_out` (bool) is True there. It stays a `member` for the first of these
    sessions, so that the benchmark bears the return too.
    """
    if delisting_return is None:
        return bars
    close = bars["close"]
    row_I = np.array(list(last_rows(close).values()), dtype=np.int64)
    column_I = close.columns.get_indexer(pd.Index(list(last_rows(close)), dtype=object))
    price_I = close.to_numpy(dtype=np.float64)[row_I, column_I] * (1 + delisting_return)
    paid = np.zeros(close.shape, bool)
    paid[:, column_I] = np.arange(len(close))[:, None] > row_I
    price = pd.DataFrame(0.0, close.index, close.columns)
    price.iloc[:, column_I] = price_I
    member = bars["member"].to_numpy(copy=True)
    member[row_I + 1, column_I] = member[row_I, column_I]
    paid_out = pd.DataFrame(paid, close.index, close.columns)
    return {
        **bars,
        **{name: bars[name].mask(paid_out, price) for name in ("open", "close")},
        "volume": bars["volume"].mask(paid_out, 0.0),
        "member": pd.DataFrame(member, close.index, close.columns),
        "paid_out": paid_out,
    }


def with_payments(frame: pd.DataFrame, bars: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a long frame of bars with those at the prices that are `paid_out` in the wide `bars`."""
    if "paid_out" not in bars:
        return frame
    price = pd.Series(bars["close"].where(bars["paid_out"]).unstack().dropna(), name="close")
    paid = price.rename_axis(["instrument", "datetime"]).reset_index()
    paid = paid.assign(volume=0.0, amount=0.0, flag=np.uint8(0), **dict.fromkeys(PRICES, paid["close"]))
    return pd.concat([frame, paid[frame.columns]], ignore_index=True)


def effect(
    bars: Mapping[str, pd.DataFrame],
    score: pd.DataFrame,
    horizon: int,
    tradable: Tradability,
    delisting_return: float | None,
    positions: pd.DataFrame,
) -> Departures | None:
    """Return which instruments left within the scored days and what that matters; None where none did.

    `bars` are wide frames without payments; `score` is wide; `tradable` is the mask of the opens without payments;
    `positions` is a portfolio's ledger with datetime, instrument and weight.
    """
    opening, close = bars["open"], bars["close"]
    first = int(close.index.searchsorted(score.index[0]))
    rows = {name: row for name, row in last_rows(close).items() if row >= first}
    if not rows:
        return None
    days = {name: close.index[row] for name, row in sorted(rows.items(), key=lambda item: item[1])}
    found = []
    for rate in (delisting_return or 0.0, TOTAL_LOSS):
        earned = signals.tradable_returns(opening, valued(close, rows, rate), horizon, tradable)
        found.append(float(signals.daily_ic(score, earned)["rank_ic"].mean()))
    held = positions.set_index(["instrument", "datetime"])["weight"]
    weight = sum(float(held.get((name, day), 0.0)) for name, day in days.items())
    return Departures(days, delisting_return, (found[0], found[1]), weight)


def valued(close: pd.DataFrame, rows: Mapping[str, int], delisting_return: float) -> pd.DataFrame:
    """Return the closes with one more after the last of each instrument of `rows`, at which it is valued."""
    values = close.to_numpy(dtype=np.float64, copy=True)
    row_I = np.array(list(rows.values()), dtype=np.int64)
    column_I = close.columns.get_indexer(pd.Index(list(rows), dtype=object))
    values[row_I + 1, column_I] = values[row_I, column_I] * (1 + delisting_return)
    return pd.DataFrame(values, close.index, close.columns)
