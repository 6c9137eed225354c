"""Tear sheet of a simulated portfolio: months, rolling figures, worst drawdowns, turnover and capacity.

Returns are after costs and compounded, as in the tear sheets of quantstats and pyfolio: the curve is the account
over what it began with. The figures of `portfolio` sum returns instead, so that their largest fall differs a little.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.data.bars import day_text

WORST = 5  # drawdowns
QUARTERS = 4  # a rolling window has the sessions of one: 63 in New York
LEAST_WINDOW = 5  # sessions below which a deviation says nothing
PARTICIPATIONS = (0.01, 0.05, 0.1)
NOT_YET = "not yet"


@dataclass(frozen=True, kw_only=True)
class TearSheet:
    """What a portfolio did, by month, over time and at its worst; all of it after costs."""

    # fractions, a row per year: columns 1 to 12 (NaN without a session), `whole` year, and `benchmark` in it
    monthly: pd.DataFrame
    window: int  # sessions of the rolling figures; 0 where the ledger is too short for any
    # by session: sharpe, volatility, both annualised; NaN before the first whole window
    rolling: pd.DataFrame
    # the worst first: start (first session below the highest account), trough, recovered (texts), depth (at most
    # 0), sessions (below the highest account)
    drawdowns: pd.DataFrame
    # mean per session, bought plus sold over the account, as `monthly` without `benchmark`
    turnover: pd.DataFrame
    # a row per participation: account at which the `largest` order (of `instrument` in `session`) reaches this share
    # of the instrument's traded money, and at which the `median` order does
    capacity: pd.DataFrame
    unmeasured: int  # orders in instruments without traded money, which `capacity` leaves out


def tear_sheet(
    daily: pd.DataFrame, trades: pd.DataFrame, money: pd.DataFrame, periods_per_year: float, bars: int
) -> TearSheet:
    """Return the tear sheet of a ledger (see `qlib_backtest.BacktestResult`).

    Args:
        daily: one row per session: return (costs added back), cost, turnover, bench, account (at the close).
        trades: one row per fill: datetime, instrument, value.
        money: traded money of each bar, sessions x instruments, NaN without a bar, from before the first trade on.
        periods_per_year: sessions by which figures are annualised.
        bars: sessions of the mean traded money, which ends with the session before the trade.
    """
    net = daily["return"] - daily["cost"]
    monthly = _by_month(net.add(1), "prod") - 1
    monthly["benchmark"] = daily["bench"].add(1).groupby(_years(daily)).prod() - 1
    window = min(round(periods_per_year / QUARTERS), len(net) // 2)
    window = window if window >= LEAST_WINDOW else 0
    unmeasured, capacity = _capacity(daily, trades, money, bars)
    return TearSheet(
        monthly=monthly, window=window, rolling=rolling(net, window, periods_per_year), drawdowns=drawdowns(net),
        turnover=_by_month(daily["turnover"], "mean"), capacity=capacity, unmeasured=unmeasured,
    )  # fmt: skip


def rolling(net: pd.Series, window: int, periods_per_year: float) -> pd.DataFrame:
    """Return Sharpe ratio (risk-free rate 0) and volatility of the last `window` returns, annualised; NaN for 0."""
    if not window:
        return pd.DataFrame(np.nan, net.index, ["sharpe", "volatility"])
    past = net.rolling(window)
    deviation = past.std()
    flat = past.max() == past.min()  # exactly: a rolling deviation of equal numbers is only nearly 0
    root = float(np.sqrt(periods_per_year))
    sharpe = (past.mean() / deviation * root).mask(flat)
    return pd.DataFrame({"sharpe": sharpe, "volatility": (deviation * root).mask(flat, 0.0)})


def underwater(net: pd.Series) -> pd.Series:
    """Return how far the compounded returns are below their highest value so far, the 1 at the start included."""
    account = net.add(1).cumprod()
    return account / account.cummax().clip(lower=1) - 1


def drawdowns(net: pd.Series, most: int = WORST) -> pd.DataFrame:
    """Return the deepest drawdowns of returns per session, as in `TearSheet.drawdowns`."""
    below = underwater(net)
    under = below < 0
    rows = []
    for _, spell in below[under].groupby((~under).cumsum()[under]):
        after = int(below.index.searchsorted(spell.index[-1], side="right"))
        rows.append({
            "start": spell.index[0], "trough": spell.idxmin(), "depth": float(spell.min()), "sessions": len(spell),
            "recovered": below.index[after] if after < len(below) else pd.NaT,
        })  # fmt: skip
    columns = ["start", "trough", "recovered", "depth", "sessions"]
    found = pd.DataFrame(rows, columns=columns).sort_values("depth", kind="stable").head(most)
    for name in columns[:3]:
        known = found[name].notna()
        found[name] = found[name].astype(object)
        found.loc[known, name] = day_text(found.loc[known, name])
    return found.fillna({"recovered": NOT_YET}).reset_index(drop=True)


def _years(frame: pd.DataFrame | pd.Series) -> pd.Index:
    return pd.DatetimeIndex(frame.index).year.rename("year")


def _by_month(series: pd.Series, reduction: str) -> pd.DataFrame:
    """Reduce a series by month: a row per year, columns 1 to 12, and the `whole` year."""
    years = _years(series)
    months = pd.DatetimeIndex(series.index).month
    table = series.groupby([years, months]).agg(reduction).unstack().reindex(columns=range(1, 13))
    found: pd.DataFrame = table.rename_axis(columns=None)
    found["whole"] = series.groupby(years).agg(reduction)
    return found


def _capacity(
    daily: pd.DataFrame, trades: pd.DataFrame, money: pd.DataFrame, bars: int
) -> tuple[int, pd.DataFrame]:
    """Return the number of orders that cannot be measured, and the capacity as in `TearSheet.capacity`."""
    known = money.rolling(bars, min_periods=1).mean().shift(1)
    rows = known.index.get_indexer(pd.Index(trades["datetime"]))
    columns = known.columns.get_indexer(pd.Index(trades["instrument"]))
    there = (rows >= 0) & (columns >= 0)
    traded = np.where(there, known.to_numpy()[rows, columns], np.nan)
    before = daily["account"] / (1 + daily["return"] - daily["cost"])
    fraction = trades["value"].to_numpy() / before.reindex(trades["datetime"]).to_numpy()
    measured = (traded > 0) & (fraction > 0)
    account = traded[measured] / fraction[measured]  # at which the order is all that is traded
    if not len(account):
        return len(trades), pd.DataFrame(
            columns=["participation", "largest", "median", "instrument", "session"]
        )
    order = trades[measured].iloc[int(account.argmin())]
    found = pd.DataFrame({"participation": PARTICIPATIONS})
    found["largest"] = found["participation"] * account.min()
    found["median"] = found["participation"] * np.median(account)
    found["instrument"], found["session"] = order["instrument"], day_text([order["datetime"]])[0]
    return int((~measured).sum()), found
