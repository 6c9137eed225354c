"""Signals from forecasts and their information coefficients: scores, targets, daily IC, the equal-weight benchmark.

Pure functions of frames. A wide frame has one row per session (the calendar's sessions in order, also those on
which nobody traded), one column per instrument, and NaN where there is no value. Returns are simple and in
price units: 0.01 is one per cent.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from kronos.config.registries import SIGNALS
from kronos.evaluation.statistics import estimate
from kronos.evaluation.tradability import Tradability, tradability
from kronos.utils.errors import UserError

Reduction = Callable[[np.ndarray], np.ndarray]
WINDOW_VALUES = 2**22  # realised closes that are gathered at once, to bound the memory of long histories
MIN_NAMES = 5  # a correlation over fewer instruments is too noisy to average


# What a signal makes of the closes over the horizon: [..., H] to [...], predicted and realised ones alike.
REDUCTIONS: dict[str, Reduction] = {
    "last": lambda closes: closes[..., -1],
    "mean": lambda closes: closes.mean(axis=-1),
    "max": lambda closes: closes.max(axis=-1),
    "min": lambda closes: closes.min(axis=-1),
}
BUILT_IN = tuple(REDUCTIONS)


def register_signal(name: str, reduction: Reduction) -> None:
    """Add a signal that is scored, reported and traded beside last, mean, max and min.

    `reduction` maps closes over the horizon, an array [..., H] in prices without NaN (H steps, t + 1 to t + H on the
    last axis, read-only), to one price level each, [...]. The score is that level over the close of t, less 1.
    Predicted and realised closes go through the same function. Registering a name again replaces its function;
    raises UserError for a built-in name and for one that is no Python identifier or begins with random_.
    """
    if name in BUILT_IN:
        raise UserError(f"signal {name!r} is built in: register yours under another name")
    if not name.isidentifier() or name.startswith("random_"):
        raise UserError(
            f"signal name {name!r} is not usable: expected a Python identifier that does not begin with random_"
        )
    REDUCTIONS[name] = reduction
    if name not in SIGNALS:
        SIGNALS.append(name)


def _reduced(closes: np.ndarray) -> dict[str, np.ndarray]:
    """Every signal's level of closes [N, H]: name -> [N]."""
    closes.flags.writeable = False  # a reduction that sorts in place would change what the next one sees
    levels = {}
    for name in SIGNALS:
        level = np.asarray(REDUCTIONS[name](closes))
        if level.shape != closes.shape[:-1]:
            raise UserError(
                f"signal {name!r} reduced closes of shape {closes.shape} to {level.shape}, expected "
                f"{closes.shape[:-1]}: reduce the last axis only"
            )
        levels[name] = level
    return levels


def scores(forecast: pd.DataFrame, last_close: pd.Series) -> pd.DataFrame:
    """Reduce each forecast's closes over the horizon and express them as a return on the last known close.

    `forecast` is long with columns instrument, as_of, step, close (others are ignored); `last_close` holds
    the close of the bar at `as_of`, indexed by (as_of, instrument). Returns a frame indexed by (as_of,
    instrument), sorted, with one column per signal; NaN where the forecast has a NaN or the last close is not
    positive. Raises ValueError when a forecast has no last close, a step occurs twice, or lengths differ.
    """
    keys = ["as_of", "instrument"]
    steps = forecast[[*keys, "step", "close"]].sort_values([*keys, "step"], kind="stable")
    if steps.duplicated([*keys, "step"]).any():
        raise ValueError("the forecast holds a step twice for one (as_of, instrument)")
    sizes = steps.groupby(keys, sort=True).size()
    if sizes.nunique() > 1:
        raise ValueError(
            f"forecasts have {sizes.min()} to {sizes.max()} steps, expected the same number in all"
        )
    missing = sizes.index.difference(last_close.index)
    if len(missing):
        as_of, instrument = missing[0]
        raise ValueError(f"{len(missing)} forecasts have no last close, the first is {instrument} at {as_of}")
    # in float64, where sums of the single-precision prices of a model or a store are exact
    closes = (
        steps["close"].to_numpy(dtype=np.float64).reshape(len(sizes), int(sizes.max()) if len(sizes) else 1)
    )
    whole = ~np.isnan(closes).any(axis=1)
    reduced = pd.DataFrame(_reduced(closes[whole]), sizes.index[whole]).reindex(sizes.index)
    base = last_close.reindex(reduced.index)
    return reduced.div(base.where(base > 0), axis=0) - 1


def score(close: pd.DataFrame, forecast: pd.DataFrame) -> pd.DataFrame:
    """Return `scores` of a long forecast frame on the last closes, which are in the wide frame `close`."""
    return scores(forecast, pd.Series(close.rename_axis(index="as_of").stack()))


def targets(close: pd.DataFrame, horizon: int) -> dict[str, pd.DataFrame]:
    """Return what the scores try to predict: closes of t+1..t+horizon, reduced as they are, over the close of t.

    `close` is wide. A session without a bar inside the horizon is valued at the last close, as a holder's
    account values it; where the horizon has no bar at all, runs past the last session, or t itself has no
    bar, the target is NaN. Nothing after t + horizon is read.
    """
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}, at least 1 was expected")
    values = close.to_numpy(dtype=np.float64)
    ahead = {name: np.full_like(values, np.nan) for name in SIGNALS}
    known = len(values) - horizon
    if known > 0:
        held = sliding_window_view(close.ffill().to_numpy(dtype=np.float64)[1:], horizon, axis=0)
        observed = sliding_window_view(np.isfinite(values[1:]), horizon, axis=0)
        block = max(1, WINDOW_VALUES // max(1, horizon * values.shape[1]))
        for begin in range(0, known, block):
            days = slice(begin, min(begin + block, known))
            valued = observed[days].any(axis=-1) & (values[days] > 0)
            for name, level in _reduced(held[days][valued]).items():
                ahead[name][days][valued] = level / values[days][valued] - 1
    return {
        name: pd.DataFrame(frame, index=close.index, columns=close.columns) for name, frame in ahead.items()
    }


def tradable_returns(
    opening: pd.DataFrame, close: pd.DataFrame, horizon: int, tradable: Tradability | None = None
) -> pd.DataFrame:
    """Return what a signal can earn: bought at the next session's open, sold `horizon` sessions later at the open.

    The frames are wide; `tradable` is the mask of the opens (without one only missing bars are not traded). NaN where
    the next session cannot be bought and where the sale runs past the last session. A sale that is refused, or falls
    on a day without a bar, waits for the next session in which it can be made; where there is none, the position is
    valued at the last close. A purchase that settles on the next day is sold then at the earliest.
    """
    mask = tradability(opening, close) if tradable is None else tradable
    opens, days = opening.to_numpy(dtype=np.float64), len(opening)
    result = np.full(opens.shape, np.nan)
    buys, sales = _holding_periods(horizon, mask)
    if len(buys):
        last = close.ffill().to_numpy(dtype=np.float64)[-1]
        sold = np.where(
            sales < days, np.take_along_axis(opens, np.minimum(sales, days - 1), axis=0), last[None, :]
        )
        bought = np.where(mask.buyable.to_numpy()[buys] & (opens[buys] > 0), opens[buys], np.nan)
        result[buys - 1] = sold / bought - 1
    return pd.DataFrame(result, opening.index, opening.columns)


def held_through(marked: pd.DataFrame, horizon: int, tradable: Tradability) -> pd.DataFrame:
    """Return whether the position of `tradable_returns` of each day and instrument has a session that is `marked`.

    Wide, bool; the sessions of the purchase and of the sale count, whether or not the purchase can be made.
    """
    days = len(marked)
    buys, sales = _holding_periods(horizon, tradable)
    before = np.vstack([np.zeros((1, marked.shape[1]), np.int64), np.cumsum(marked.to_numpy(), axis=0)])
    result = np.zeros(marked.shape, bool)
    if len(buys):
        until = np.take_along_axis(before, np.minimum(sales, days - 1) + 1, axis=0)
        result[buys - 1] = until > before[buys]
    return pd.DataFrame(result, marked.index, marked.columns)


def _holding_periods(horizon: int, tradable: Tradability) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of purchases, [N], and of their sales, [N, I]: the number of sessions where there is none."""
    days = len(tradable.first_sale)
    buys = np.arange(1, days)
    due = np.maximum(buys + horizon, tradable.first_sale[1:])
    buys, due = buys[due < days], due[due < days]
    return buys, tradable.sale_rows(due)


def wide(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one column of a frame indexed by (day, instrument) as a wide frame, days and instruments sorted."""
    return frame[column].unstack().sort_index(axis=0).sort_index(axis=1)


def row_correlation(left: np.ndarray, right: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation of each row over its valid entries; NaN where either side does not vary."""
    count = valid.sum(axis=1, keepdims=True).clip(min=1)
    centred = []
    flat = np.zeros(len(left), dtype=bool)
    for side in (left, right):
        kept = np.where(valid, side, 0.0)
        centred.append(np.where(valid, side - kept.sum(axis=1, keepdims=True) / count, 0.0))
        # compared by value: the centred sum of equal numbers is rounding noise, not exactly zero
        flat |= np.where(valid, side, -np.inf).max(axis=1) == np.where(valid, side, np.inf).min(axis=1)
    covariance = (centred[0] * centred[1]).sum(axis=1)
    scale = np.sqrt((centred[0] ** 2).sum(axis=1)) * np.sqrt((centred[1] ** 2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(flat, np.nan, np.clip(covariance / scale, -1.0, 1.0))


def row_ranks(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the rank of each valid, finite value in its row, from 1; ties share their average rank.

    What is returned for other values has no meaning. Rows without ties, which are nearly all, are sorted by NumPy,
    several times as fast as pandas ranks them.
    """
    filled = np.where(valid, values, np.inf)
    order = np.argsort(filled, axis=1)
    in_order = np.take_along_axis(filled, order, axis=1)
    tied = ((in_order[:, 1:] == in_order[:, :-1]) & np.isfinite(in_order[:, 1:])).any(axis=1)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, values.shape[1] + 1)[None, :], axis=1)
    if tied.any():
        ranks[tied] = pd.DataFrame(np.where(valid[tied], values[tied], np.nan)).rank(axis=1).to_numpy()
    return ranks


def daily_ic(score: pd.DataFrame, target: pd.DataFrame) -> pd.DataFrame:
    """Return the cross-sectional correlation of score and target, day by day.

    Both are wide; the days and instruments are those of `score`, `target` is aligned to them. Returns a frame
    indexed by day with `ic` (Pearson), `rank_ic` (Spearman; ties share their average rank) and `n` (instruments
    with both values). Pairs with a NaN or an infinity are left out; a day with fewer than 5 instruments or
    without variation is NaN.
    """
    aligned = target.reindex(index=score.index, columns=score.columns)
    left = score.to_numpy(dtype=np.float64)
    right = aligned.to_numpy(dtype=np.float64)
    valid = np.isfinite(left) & np.isfinite(right)
    count = valid.sum(axis=1)
    result = pd.DataFrame({"ic": np.nan, "rank_ic": np.nan, "n": count}, index=score.index)
    result.index.name = "datetime"
    enough = count >= MIN_NAMES
    if enough.any():
        left, right, valid = left[enough], right[enough], valid[enough]
        ranks = [row_ranks(side, valid) for side in (left, right)]
        result.loc[enough, "ic"] = row_correlation(left, right, valid)
        result.loc[enough, "rank_ic"] = row_correlation(ranks[0], ranks[1], valid)
    return result


def summary(ic: pd.DataFrame, horizon: int) -> dict[str, float]:
    """Summarise a frame of `daily_ic` as plain floats; NaN where there are too few days.

    For each of `ic` and `rank_ic`: the mean over days, the sample standard deviation, their ratio (`icir`,
    per day, not annualised) and the t-value of `statistics.estimate`, which allows for neighbouring targets that
    share horizon - 1 days. `days` counts the days with a correlation, `names` is the mean number of instruments on
    them.
    """
    result: dict[str, float] = {}
    for column, ratio in (("ic", "icir"), ("rank_ic", "rank_icir")):
        series = ic[column].dropna()
        deviation = float(series.std(ddof=1)) if len(series) > 1 else float("nan")
        result[f"{column}_mean"] = float(series.mean()) if len(series) else float("nan")
        result[f"{column}_std"] = deviation
        result[ratio] = result[f"{column}_mean"] / deviation if deviation > 1e-12 else float("nan")
        result[f"{column}_t"] = estimate(series, horizon).t
    days = ic["ic"].notna()
    result["days"] = float(days.sum())
    result["names"] = float(ic.loc[days, "n"].mean()) if days.any() else float("nan")
    return result


def _equal_weight(close: pd.DataFrame, member: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the instruments held over each session and their returns since the session before, [D, I] each."""
    if not close.index.equals(member.index) or not close.columns.equals(member.columns):
        raise ValueError("close and member must have the same days and instruments")
    price = close.ffill().to_numpy(dtype=np.float64)
    inside = member.to_numpy(dtype=bool) & np.isfinite(price)
    held = np.zeros_like(inside)
    moves = np.zeros_like(price)
    previous = -1
    for day in range(len(price)):
        if not inside[day].any():
            continue
        if previous >= 0:
            held[day] = inside[day] & inside[previous]
            moves[day, held[day]] = price[day, held[day]] / price[previous, held[day]] - 1
        previous = day
    return held, moves


def equal_weight_returns(close_wide: pd.DataFrame, member_wide: pd.DataFrame) -> pd.Series:
    """Return the daily return of holding every member in equal weight, rebalanced at each close, before costs.

    The mean over the instruments that are members on the day and on the session before it (where a session has no
    member at all, it returns 0 and the next one is measured from the last session that had some, so that no
    move is lost). A member without a bar is valued at its last close, as the portfolio values it. Both frames
    are wide, of the same shape; `member_wide` is boolean and says who was in the universe, not who traded.
    The first session with members, and those before it, are NaN.
    """
    held, moves = _equal_weight(close_wide, member_wide)
    count = held.sum(axis=1)
    occupied = member_wide.to_numpy(dtype=bool).any(axis=1)
    formed = np.cumsum(occupied) > 0
    mean = np.where(count > 0, moves.sum(axis=1) / count.clip(min=1), np.nan)
    mean = np.where(formed & ~occupied, 0.0, mean)
    return pd.Series(mean, index=close_wide.index, name="benchmark")


def equal_weight_costs(
    close_wide: pd.DataFrame, member_wide: pd.DataFrame, open_cost: float, close_cost: float
) -> pd.Series:
    """Return the daily cost of rebalancing that equal-weight portfolio, as a fraction of its value (subtract it).

    Charged on the day whose return it makes possible: at the close before day t the drifted weights of the
    instruments held until then are traded back to equal weights of those held over t; what is bought costs
    `open_cost`, what is sold `close_cost`, each of its value. The first day pays for buying everything. There
    is no minimum fee (it has no account size) and every instrument is taken to be tradable at its close. NaN as in
    `equal_weight_returns`.
    """
    held, moves = _equal_weight(close_wide, member_wide)
    returns = equal_weight_returns(close_wide, member_wide)
    costs = np.full(len(held), np.nan)
    weights = np.zeros(held.shape[1])
    for day, value in enumerate(returns.to_numpy()):
        if not held[day].any():
            costs[day] = 0.0 if value == 0.0 else np.nan
            continue
        target = held[day] / held[day].sum()
        trade = target - weights
        costs[day] = open_cost * trade.clip(min=0).sum() + close_cost * (-trade).clip(min=0).sum()
        weights = target * (1 + moves[day]) / (1 + value)
    return pd.Series(costs, index=close_wide.index, name="benchmark_cost")


def prediction_frames(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the scores as the guide's readers expect them: signal -> frame of days x instruments."""
    result = {}
    for name in SIGNALS:
        table = wide(frame, name)
        table.index = pd.DatetimeIndex(table.index, name="datetime")
        # plain objects, since the pickle of this pandas' text type cannot be opened by older versions
        table.columns = pd.Index(list(table.columns), dtype=object, name="instrument")
        result[name] = table
    return result


def predictions_pickle(frame: pd.DataFrame, path: str | Path) -> None:
    """Write the guide's `predictions.pkl`: a dict of signal -> DataFrame days x instruments.

    `frame` is what `scores` returns. For the guide's readers only: this project never reads a pickle.
    """
    Path(path).write_bytes(pickle.dumps(prediction_frames(frame), protocol=4))
