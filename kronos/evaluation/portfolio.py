"""Risk figures of a simulated portfolio's daily ledger: return, volatility, drawdown, win rate, excess returns.

Conventions, Qlib's: returns are summed, not compounded; a year has 238 days; drawdown is the largest fall of the
summed curve (negative or 0).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.evaluation.statistics import Estimate, estimate

DAYS_A_YEAR = 238  # Qlib's own constant; risk figures are annualised by it
ALL_DAYS = 365  # of a market that never closes


def periods_a_year(index: pd.Index) -> int:
    """Return the bars per year: 238 days (365 where weekends are traded) times the median number of bars per day."""
    times = pd.DatetimeIndex(index)
    counts = times.normalize().value_counts()
    days = ALL_DAYS if (times.day_of_week >= 5).any() else DAYS_A_YEAR
    return days * (int(np.median(counts)) if len(counts) else 1)


@dataclass(frozen=True)
class Excess:
    """Daily excess return of the portfolio, after costs, over another way to hold the same instruments."""

    key: str  # in metrics: equal_weight, equal_weight_with_cost, index
    name: str
    annualised: float  # return of the other
    difference: Estimate  # per day
    information_ratio: float
    periods: int  # per year


def figures(returns: pd.Series) -> dict[str, float]:
    """Return the risk figures of daily (or, intraday, per-bar) returns as plain floats; NaN where undefined.

    `annualised_return` is the mean x 238, `volatility` the sample standard deviation x sqrt(238),
    `information_ratio` their quotient (of a portfolio's own returns it is the Sharpe ratio with a risk-free rate
    of 0), `calmar` the annualised return over the size of the largest fall, `win_rate` the share of days above 0.
    """
    values = returns.to_numpy(dtype=np.float64)
    count = len(values)
    mean = float(values.mean()) if count else float("nan")
    deviation = float(values.std(ddof=1)) if count > 1 else float("nan")
    curve = values.cumsum()
    fall = float((curve - np.maximum.accumulate(curve)).min()) if count else float("nan")
    periods = periods_a_year(returns.index)
    year = mean * periods
    return {
        "mean": mean,
        "std": deviation,
        "annualised_return": year,
        "volatility": deviation * float(np.sqrt(periods)),
        "information_ratio": mean / deviation * float(np.sqrt(periods)) if deviation > 0 else float("nan"),
        "max_drawdown": fall,
        "calmar": year / -fall if fall < 0 else float("nan"),
        "win_rate": float((values > 0).mean()) if count else float("nan"),
    }


def risk(daily: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return `figures` of each series of a ledger: the portfolio, its excess over the benchmark, and the benchmark.

    "Without cost" is the same trades with their costs added back; "with both costs" also charges the benchmark its
    own rebalancing, where the ledger has it.
    """
    net = daily["return"] - daily["cost"]
    series = {
        "without_cost": daily["return"] - daily["bench"],
        "with_cost": net - daily["bench"],
        "portfolio_without_cost": daily["return"],
        "portfolio_with_cost": net,
        "benchmark": daily["bench"],
    }
    if "bench_cost" in daily:
        series["with_both_costs"] = net - (daily["bench"] - daily["bench_cost"])
    return {name: figures(values) for name, values in series.items()}


def excesses(daily: pd.DataFrame, others: Mapping[str, tuple[str, pd.Series]], horizon: int) -> list[Excess]:
    """Compare the portfolio after costs with other daily returns (key -> name, returns), over the ledger's days.

    The intervals allow for positions of `horizon`-day forecasts, which overlap. Raises ValueError where another has
    no value.
    """
    net = daily["return"] - daily["cost"]
    found = []
    for key, (name, series) in others.items():
        other = series.reindex(daily.index)
        if other.isna().any():
            raise ValueError(f"{name} has no value on {int(other.isna().sum())} days of the ledger")
        gap = net - other
        ratio = figures(gap)["information_ratio"]
        found.append(Excess(key, name, figures(other)["annualised_return"], estimate(gap, horizon), ratio,
                            periods_a_year(daily.index)))  # fmt: skip
    return found
