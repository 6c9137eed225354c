"""What forecasts of one asset, or of a few, are worth over time: errors, distributions and trades against naive ones.

A Rank IC needs several instruments on a day; the figures here need one. Losses are averaged over the instruments and
steps of a day first. N forecasts, H steps; prices are relative to the last close, which is 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from kronos.evaluation import accuracy
from kronos.evaluation.statistics import Estimate, estimate

LAST = "last"  # key of the baseline that decides the verdict: the last price
LEVEL = 0.05  # of the Diebold-Mariano test in the verdict
REPETITIONS = 1000  # of the block bootstrap
LEAST_FITTED = 100  # returns from the first one of an instrument on, below which it has no GARCH
SEASONS = {
    "day": 5,
    "week": 52,
    "month": 12,
}  # bars of a season: a trading week of days, a year of weeks or months


@dataclass(frozen=True)
class LossComparison:
    """The model's loss against a baseline's: skill is 1 - ratio of the mean losses, with its 95 % interval.

    `t` and `p` are of Diebold and Mariano's test; t is positive where the model's loss is lower.
    """

    key: str
    name: str
    skill: float
    low: float
    high: float
    t: float
    p: float
    bootstrap: tuple[float, float] = (float("nan"), float("nan"))  # interval of the skill; NaN without `arch`

    @property
    def better(self) -> bool:
        """Whether both the interval and the test say that the model's loss is lower."""
        return bool(self.low > 0 and self.t > 0 and self.p < LEVEL)


@dataclass(frozen=True)
class Ledger:
    """Daily results of one way to trade the forecasts, as fractions of the account; `position` is held on the day."""

    daily: pd.DataFrame  # columns position, gross, cost, funding, net
    annual: float  # mean net return per year
    sharpe: float
    drawdown: float  # of the summed net returns, from the start
    over_hold: Estimate  # daily net return minus that of buy and hold


@dataclass(frozen=True)
class TimeSeries:
    """The verdict over time: errors and CRPS against baselines, direction against always up, ledgers."""

    errors: list[LossComparison]
    scores: list[LossComparison]  # CRPS
    direction: Estimate  # daily share of signs forecast minus the share of rises
    ledgers: dict[str, Ledger]  # long_flat, long_short, hold
    note: str = ""  # why a baseline is missing

    @property
    def against_last(self) -> LossComparison:
        return next(one for one in self.errors if one.key == LAST)


def diebold_mariano(model: np.ndarray, other: np.ndarray, horizon: int) -> tuple[float, float]:
    """Return (t, p) of equal mean losses of two daily series [D], two-sided; t > 0 where the model's loss is lower.

    The test of Diebold and Mariano (1995) with the small-sample form of Harvey, Leybourne and Newbold (1997): the
    variance counts autocovariances up to horizon - 1, since the targets of neighbouring days overlap, and t follows
    Student's distribution. Where that variance is not positive, Bartlett's weights replace the equal ones. NaN for
    fewer than 2 horizons of days or equal losses.
    """
    difference = other - model
    difference = difference[np.isfinite(difference)]
    days = len(difference)
    if days < max(4, 2 * horizon) or np.ptp(difference) == 0:
        return float("nan"), float("nan")
    centred = difference - difference.mean()
    lags = [float(centred[lag:] @ centred[: days - lag]) / days for lag in range(horizon)]
    variance = lags[0] + 2 * sum(lags[1:])
    if variance <= 0:
        variance = lags[0] + 2 * sum((1 - lag / horizon) * lags[lag] for lag in range(1, horizon))
    small = np.sqrt((days + 1 - 2 * horizon + horizon * (horizon - 1) / days) / days)
    t = float(difference.mean() / np.sqrt(variance / days) * small)
    return t, float(2 * special.stdtr(days - 1, -abs(t)))


def compare(
    key: str, name: str, model: np.ndarray, other: np.ndarray, day_N: np.ndarray, horizon: int
) -> LossComparison:
    """Compare losses [N, H] or [N] on the (forecast, step) pairs that both have."""
    value, low, high, _ = accuracy.skill(model, other, day_N, horizon)
    both = np.isfinite(model) & np.isfinite(other)
    days = day_N if model.ndim == 1 else np.repeat(day_N[:, None], model.shape[1], axis=1)
    daily = pd.DataFrame({"model": model[both], "other": other[both]}).groupby(days[both]).mean()
    losses = daily["model"].to_numpy(), daily["other"].to_numpy()
    t, p = diebold_mariano(*losses, horizon)
    return LossComparison(key, name, value, low, high, t, p, block_bootstrap(*losses, horizon))


def block_bootstrap(model: np.ndarray, other: np.ndarray, horizon: int) -> tuple[float, float]:
    """Return the 95 % interval of the skill by the stationary bootstrap of Politis and Romano (1994), by `arch`.

    Blocks of days are at least two horizons long on average. NaN without `arch`, or with fewer than ten blocks.
    """
    days = len(model)
    block = max(2 * horizon, round(days ** (1 / 3)))
    if days < 10 * block:
        return float("nan"), float("nan")
    try:
        from arch.bootstrap import StationaryBootstrap
    except ImportError:
        return float("nan"), float("nan")
    draws = StationaryBootstrap(block, model, other, seed=0)
    skills = draws.apply(lambda one, two: 1 - one.mean() / two.mean(), REPETITIONS)[:, 0]
    low, high = np.quantile(skills, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def naive_forecasts(
    close: pd.DataFrame, day_N: np.ndarray, instrument_N: np.ndarray, horizon: int, lookback: int, season: int
) -> dict[str, tuple[str, np.ndarray]]:
    """Return naive forecasts of the close relative to the last one: key -> (name, [N, H]).

    Last price; drift, the mean move per bar of the last `lookback` bars; seasonal, the moves of the bars one season
    before. NaN where the closes do not reach back far enough.
    """
    held = close.ffill().to_numpy(dtype=np.float64)
    last = held[day_N, instrument_N]
    steps = np.arange(1, horizon + 1)
    begin = day_N - (lookback - 1)
    first = np.where(begin >= 0, held[np.maximum(begin, 0), instrument_N], np.nan)
    drift = (last / first - 1) / (lookback - 1)
    found = {
        LAST: ("last price", np.ones((len(day_N), horizon))),
        "drift": (f"drift of {lookback} bars", 1 + drift[:, None] * steps),
    }
    back = day_N[:, None] + (steps - 1) % season + 1 - season
    start = day_N - season
    if season > 1:
        usable = (start >= 0)[:, None]
        before = held[np.maximum(start, 0), instrument_N]
        moved = held[np.maximum(back, 0), instrument_N[:, None]] / before[:, None]
        whole = (last / before)[:, None] ** ((steps - 1) // season)
        found["seasonal"] = (f"seasonal naive of {season} bars", np.where(usable, moved * whole, np.nan))
    return found


def season_of(freq: str, bars_per_day: int) -> int:
    """Return the bars of a season: a day of bars within a day, else see `SEASONS`."""
    return SEASONS.get(freq, bars_per_day)


def trade(
    signal: pd.DataFrame,
    opening: pd.DataFrame,
    *,
    costs: tuple[float, float],
    funding: float,
    periods_per_year: float,
    short: bool,
) -> pd.DataFrame:
    """Return the daily ledger of trading each signal at the next open, equal weight per instrument.

    After the close of t an instrument is held long over open t+1 to open t+2 where its signal is above 0; where it is
    below, it is held short with `short`, else not at all. Without a signal, or without an open to deal at, the
    position stays as it is; a move over missing opens counts on the day before the next one. A change of the position
    pays the buying or the selling cost on the value changed. `funding` is paid per year on long positions and
    received on short ones. The ledger has every session of `opening` from the first purchase on to the last but one
    that can follow a signal; days are those of the purchase.
    """
    first, last = opening.index.get_indexer(signal.index[[0, -1]])
    days = opening.index[first : last + 3]
    wanted = np.sign(signal.reindex(days).to_numpy(dtype=np.float64))
    wanted = wanted if short else np.clip(wanted, 0, None)
    prices = opening.reindex(index=days, columns=signal.columns)
    dealt = np.isfinite(prices.to_numpy(dtype=np.float64))
    held_at = prices.ffill().to_numpy(dtype=np.float64)
    bought, sold = held_at[1:-1], held_at[2:]
    known = np.isfinite(bought) & np.isfinite(sold)
    moves = np.where(known, sold / np.where(known, bought, 1.0) - 1, 0.0)
    position = np.zeros_like(moves)
    held = np.zeros(moves.shape[1])
    for day in range(len(moves)):
        held = np.where(dealt[day + 1] & np.isfinite(wanted[day]), wanted[day], held)
        position[day] = held
    change = np.diff(position, axis=0, prepend=np.zeros((1, position.shape[1])))
    paid = np.clip(change, 0, None) * costs[0] + np.clip(-change, 0, None) * costs[1]
    count = moves.shape[1]
    frame = pd.DataFrame(
        {
            "position": position.sum(axis=1) / count, "gross": (position * moves).sum(axis=1) / count,
            "cost": paid.sum(axis=1) / count, "funding": position.sum(axis=1) / count * funding / periods_per_year,
        },
        index=days[1:-1],
    )  # fmt: skip
    return frame.assign(net=frame["gross"] - frame["cost"] - frame["funding"])


def ledgers(
    signal: pd.DataFrame,
    opening: pd.DataFrame,
    *,
    costs: tuple[float, float],
    funding: float,
    periods_per_year: float,
) -> dict[str, Ledger]:
    """Return the ledgers of long or flat, long or short, and buy and hold."""
    rules = {"costs": costs, "funding": funding, "periods_per_year": periods_per_year}
    frames = {
        "long_flat": trade(signal, opening, short=False, **rules),  # type: ignore[arg-type]
        "long_short": trade(signal, opening, short=True, **rules),  # type: ignore[arg-type]
        "hold": trade(signal.ffill().notna() * 1.0, opening, short=False, **rules),  # type: ignore[arg-type]
    }
    hold = frames["hold"]["net"]
    return {name: _ledger(frame, hold, periods_per_year) for name, frame in frames.items()}


def _ledger(frame: pd.DataFrame, hold: pd.Series, periods_per_year: float) -> Ledger:
    net = frame["net"]
    curve = net.cumsum()
    deviation = float(net.std())
    return Ledger(
        daily=frame, annual=float(net.mean()) * periods_per_year,
        sharpe=float(net.mean()) / deviation * np.sqrt(periods_per_year) if deviation > 0 else float("nan"),
        drawdown=float((curve - curve.cummax().clip(lower=0)).min()), over_hold=estimate(net - hold, 1),
    )  # fmt: skip


def volatility_baselines(
    close: pd.DataFrame,
    day_N: np.ndarray,
    instrument_N: np.ndarray,
    horizon: int,
    lookback: int,
    fitted_until: int,
) -> tuple[dict[str, tuple[str, np.ndarray]], str]:
    """Return deviations [N, H] of normal forecasts around the last close, by baseline, and a note on what is missing.

    Historical: of the last `lookback` log returns. EWMA: decay 0.94 per bar. GARCH(1, 1) with normal errors and mean
    zero, by the package `arch`: parameters from the closes up to row `fitted_until`, filtered over the rest.
    """
    returns = close.ffill().transform(np.log).diff()
    steps = np.sqrt(np.arange(1, horizon + 1))

    def at(frame: pd.DataFrame) -> np.ndarray:
        return np.asarray(frame.to_numpy(dtype=np.float64)[day_N, instrument_N][:, None] * steps)

    squared = returns**2
    found = {
        "historical": (
            f"historical volatility of {lookback} bars",
            at(squared.rolling(lookback - 1, min_periods=2).mean() ** 0.5),
        ),
        "ewma": ("EWMA volatility, decay 0.94", at(squared.ewm(alpha=0.06, min_periods=2).mean() ** 0.5)),
    }
    try:
        garch = _garch(returns, day_N, instrument_N, horizon, fitted_until)
    except ImportError:
        return (
            found,
            "no GARCH(1, 1): the package arch is not installed (pip install 'kronos-pipeline[garch]')",
        )
    return found | {"garch": ("GARCH(1, 1)", garch)}, ""


def _garch(
    returns: pd.DataFrame, day_N: np.ndarray, instrument_N: np.ndarray, horizon: int, fitted_until: int
) -> np.ndarray:
    from arch import arch_model

    found = np.full((len(day_N), horizon), np.nan)
    scale = 100.0  # arch's optimiser wants returns of about 1
    for instrument in np.unique(instrument_N):
        rows = np.flatnonzero(instrument_N == instrument)
        own = returns.iloc[:, instrument].reset_index(drop=True)
        listed = own.first_valid_index()
        if listed is None or fitted_until - listed < LEAST_FITTED:
            continue
        series = own.iloc[listed:].fillna(0.0).reset_index(drop=True) * scale
        if series.iloc[: fitted_until - listed].std() == 0:
            continue
        model = arch_model(series, mean="Zero", vol="GARCH", p=1, q=1, rescale=False)
        fitted = model.fit(last_obs=fitted_until - listed, disp="off", show_warning=False)
        start = int(day_N[rows].min()) - listed
        ahead = fitted.forecast(horizon=horizon, start=start, reindex=False).variance.to_numpy()
        found[rows] = np.sqrt(ahead[day_N[rows] - listed - start].cumsum(axis=1)) / scale
    return found


def measure(
    *,
    predicted_NH: np.ndarray,
    realised_NH: np.ndarray,
    day_N: np.ndarray,
    naive: Mapping[str, tuple[str, np.ndarray]],
    samples_NSH: np.ndarray | None,
    sampled: np.ndarray,
    deviations: Mapping[str, tuple[str, np.ndarray]],
    traded: dict[str, Ledger],
    note: str = "",
) -> TimeSeries:
    """Return the verdict.

    `samples_NSH` are sample paths of the forecasts at the positions `sampled`, `deviations` of the normal baselines
    are for all forecasts.
    """
    horizon = predicted_NH.shape[1]
    loss = np.abs(predicted_NH - realised_NH)
    errors = [
        compare(key, name, loss, np.abs(other - realised_NH), day_N, horizon)
        for key, (name, other) in naive.items()
    ]
    scores = []
    if samples_NSH is not None and samples_NSH.shape[1] > 1:
        came = realised_NH[sampled]
        own = accuracy.crps(np.moveaxis(samples_NSH, 1, 2), came)
        for key, (name, deviation) in deviations.items():
            other = accuracy.crps_normal(np.ones_like(came), deviation[sampled], came)
            scores.append(compare(key, name, own, other, day_N[sampled], horizon))
    hit, rose = accuracy.direction(predicted_NH, realised_NH)
    known = np.isfinite(hit)
    days = np.repeat(day_N[:, None], horizon, axis=1)[known]
    gain = pd.Series((hit - rose)[known]).groupby(days).mean()
    return TimeSeries(errors, scores, estimate(gain, horizon), traded, note)
