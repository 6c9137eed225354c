"""How much of a result hangs on single moves: figures without suspected splits, and the ten largest contributions.

A suspected split is a jump near the ratio of a split that no column of the source confirms (`data.adjustment`): if it
was one, the return that was counted for it is false. Wide frames are days x instruments, as in `signals`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.data.adjustment import SUSPECTED
from kronos.data.bars import day_text
from kronos.data.store import BarStore
from kronos.evaluation import portfolio, signals
from kronos.evaluation.forecast_evaluation import Forecasts
from kronos.evaluation.qlib_backtest import BacktestResult
from kronos.evaluation.statistics import Estimate, estimate

LARGEST = 10


@dataclass(frozen=True, kw_only=True)
class LargeMoves:
    """Headline figures of the configured signal without suspected splits, and its largest moves."""

    suspects: int  # suspected splits from the first scored day on
    unnamed: int  # suspected splits that the store only counts, so that they could not be left out
    pairs: int  # (day, instrument) pairs with a score and a return that are left out
    rank_ic: Estimate  # with the tradable return, without these pairs
    held: int  # (session, instrument) pairs of the portfolio that are left out
    excess: float  # annualised excess return after costs, where these earn nothing
    largest: pd.DataFrame  # session (text), instrument, contribution (fraction of the account), suspected
    total: float  # excess return after costs, summed over the sessions
    share: float  # the sum of the largest contributions over `total`; NaN where that is 0


def suspected_splits(store: BarStore, like: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return which bars are suspected splits, bool in the shape of `like`, and how many the store does not name."""
    marked = np.zeros(like.shape, bool)
    unnamed = 0
    for finding in store.findings:
        if finding["kind"] != SUSPECTED:
            continue
        unnamed += finding["count"] - len(finding["items"])
        rows = like.index.get_indexer(
            pd.to_datetime([day for _, day, _ in finding["items"]], format="ISO8601")
        )
        columns = like.columns.get_indexer(pd.Index([name for name, _, _ in finding["items"]]))
        there = (rows >= 0) & (columns >= 0)
        marked[rows[there], columns[there]] = True
    return pd.DataFrame(marked, like.index, like.columns), unnamed


def contributions(result: BacktestResult) -> pd.DataFrame:
    """Return what each instrument added to the account in each session, days x instruments, before costs.

    In fractions of the account at the close before, 0 where nothing was held; the sum of a session is its `return`.
    """
    daily, trades = result.daily, result.trades
    signed = trades.assign(value=trades["value"].where(trades["side"] == "sell", -trades["value"]))
    held, paid = (
        frame.pivot_table(index="datetime", columns="instrument", values="value", aggfunc="sum")
        for frame in (result.positions, signed)
    )
    names = held.columns.union(paid.columns)
    held, paid = (frame.reindex(index=daily.index, columns=names).fillna(0.0) for frame in (held, paid))
    before = daily["account"] / (1 + daily["return"] - daily["cost"])
    return (held - held.shift(1, fill_value=0.0) + paid).div(before, axis=0)


def measure(
    forecasts: Forecasts,
    score: pd.DataFrame,
    suspected: pd.DataFrame,
    unnamed: int,
    result: BacktestResult,
    periods_per_year: float,
) -> LargeMoves:
    """Measure the ranking by `score` (wide) and the portfolio `result` without the bars that are `suspected`.

    `suspected` is bool in the shape of the bars of `forecasts`. A pair is left out of the Rank IC where a bar from
    its purchase to its sale is suspected, both included; a holding earns nothing in the session of such a bar.
    """
    horizon, close = forecasts.horizon, forecasts.close
    target = signals.tradable_returns(forecasts.opening, close, horizon, forecasts.tradable)
    touched = signals.held_through(suspected, horizon, forecasts.tradable)
    ranked = score.reindex(columns=close.columns)
    target, touched = target.reindex(ranked.index), touched.reindex(ranked.index)
    gained = contributions(result)
    doubtful = suspected.reindex(index=gained.index, columns=gained.columns, fill_value=False) & (gained != 0)
    net = result.daily["return"] - result.daily["cost"] - result.daily["bench"]
    excess = portfolio.figures(net - gained.where(doubtful, 0.0).sum(axis=1), periods_per_year)
    values = gained.to_numpy().reshape(-1)
    order = np.argsort(-np.abs(values), kind="stable")[:LARGEST]
    order = order[values[order] != 0]
    rows, columns = np.divmod(order, max(gained.shape[1], 1))
    total = float(net.sum())
    return LargeMoves(
        suspects=int(suspected.loc[ranked.index[0] :].to_numpy().sum()), unnamed=unnamed,
        pairs=int((touched & target.notna() & ranked.notna()).to_numpy().sum()),
        rank_ic=estimate(signals.daily_ic(ranked, target.mask(touched))["rank_ic"], horizon),
        held=int(doubtful.to_numpy().sum()), excess=excess["annualised_return"],
        largest=pd.DataFrame({
            "session": day_text(gained.index[rows]), "instrument": list(gained.columns[columns]),
            "contribution": values[order], "suspected": doubtful.to_numpy()[rows, columns],
        }),
        total=total, share=float(values[order].sum()) / total if total else float("nan"),
    )  # fmt: skip
