"""Risk figures of a simulated portfolio's daily ledger: return, volatility, drawdown, win rate, excess returns.

Conventions: returns are summed, not compounded, as in Qlib; a year has as many periods as the caller says, counted
from the market's calendar (`kronos.data.markets.sessions_per_year`); drawdown is the largest fall of the summed
curve, which starts at 0, so that a loss on the first day counts (negative or 0).

Qlib's own figures take 238 days for a year of any market, and leave the start out of the drawdown: for the same
annual figures give `QLIB_DAYS_A_YEAR`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kronos.evaluation.statistics import Estimate, estimate

QLIB_DAYS_A_YEAR = 238  # Qlib's own constant for daily bars, for comparison with its figures


@dataclass(frozen=True)
class Excess:
    """Daily excess return of the portfolio, after costs, over another way to hold the same instruments."""

    key: str  # in metrics: equal_weight, equal_weight_with_cost, index
    name: str
    annualised: float  # return of the other
    difference: Estimate  # per day
    information_ratio: float
    periods: float  # per year


def figures(returns: pd.Series, periods_per_year: float) -> dict[str, float]:
    """Return the risk figures of returns per period (day, or bar within a day) as plain floats; NaN where undefined.

    `annualised_return` is the mean x `periods_per_year`, `volatility` the sample standard deviation x its root,
    `information_ratio` their quotient (of a portfolio's own returns it is the Sharpe ratio with a risk-free rate
    of 0), `max_drawdown` the largest fall of the sums from their highest before, the 0 at the start included (Qlib's
    `risk_analysis` leaves it out, so that its fall is smaller after an early loss), `calmar` the annualised return
    over the size of that fall, `win_rate` the share of periods above 0; `periods_per_year` is returned too.
    """
    values = returns.to_numpy(dtype=np.float64)
    count = len(values)
    mean = float(values.mean()) if count else float("nan")
    deviation = float(values.std(ddof=1)) if count > 1 else float("nan")
    curve = values.cumsum()
    highest = np.maximum.accumulate(np.maximum(curve, 0))
    fall = float((curve - highest).min()) if count else float("nan")
    year, root = mean * periods_per_year, float(np.sqrt(periods_per_year))
    return {
        "mean": mean,
        "std": deviation,
        "annualised_return": year,
        "volatility": deviation * root,
        "information_ratio": mean / deviation * root if deviation > 0 else float("nan"),
        "max_drawdown": fall,
        "calmar": year / -fall if fall < 0 else float("nan"),
        "win_rate": float((values > 0).mean()) if count else float("nan"),
        "periods_per_year": float(periods_per_year),
    }


def risk(daily: pd.DataFrame, periods_per_year: float) -> dict[str, dict[str, float]]:
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
    return {name: figures(values, periods_per_year) for name, values in series.items()}


def excesses(
    daily: pd.DataFrame, others: Mapping[str, tuple[str, pd.Series]], horizon: int, periods_per_year: float
) -> list[Excess]:
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
        annualised = figures(other, periods_per_year)["annualised_return"]
        ratio = figures(gap, periods_per_year)["information_ratio"]
        found.append(Excess(key, name, annualised, estimate(gap, horizon), ratio, periods_per_year))
    return found
