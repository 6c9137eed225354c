"""Adjustment of prices to one basis, forward: what a split or a dividend changes are the bars from its day on.

Prices are changed on evidence: a factor, adjusted closes, or a column of splits. A jump of the price alone is no
evidence, since a crash, a takeover or a wrong print looks the same: such jumps are listed as suspected splits, and
adjusted only where the user asks for it with adjust=splits. Whether and how bar t is adjusted depends on bar t and
earlier ones alone.
"""

from fractions import Fraction

import numpy as np
import pandas as pd

from kronos.data.bars import MAX_ITEMS, PRICES, Finding, Flag, day_text, session_places

_SIMPLE = np.array([2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 3 / 2, 5 / 4])  # new shares for each old one
# Chinese bonus issues: 3, 5, 8, 12 or 15 new shares are added to 10 old ones
_BONUS = np.array([1.3, 1.5, 1.8, 2.2, 2.5])
RATIOS = np.unique(np.concatenate([1 / _SIMPLE, _SIMPLE, 1 / _BONUS]))  # price after / price before
TOLERANCE = 0.05  # largest log distance to a ratio, over however many sessions
_OTHERS = np.abs(np.log(RATIOS)[:, None] - np.log(np.append(RATIOS, 1.0))[None])
# less than half way to the next ratio and to no split at all, so that a price fits at most one ratio
TOLERANCES = np.minimum(TOLERANCE, 0.45 * np.where(_OTHERS > 1e-9, _OTHERS, np.inf).min(1))
MAX_SESSIONS = 25  # a jump over a longer absence is not compared with ratios
SAME_FACTOR = 1e-5  # relative: smaller steps of a factor are rounding, dividends are far larger
FACTOR_CHANGES = "adjustment factor changes"  # kind of finding: the prices hold dividends or splits
BIG_MOVE = 0.25  # larger moves that are not adjusted are listed
VOLUME_BARS = 20  # bars whose mean volume the report compares the volume of a suspected split with
SUSPECTED = "suspected split"  # the kind of finding that lists them
REVERSED_BARS = 5  # bars in which the report looks for the return of the price, as after a wrong print
DECIMALS = 6  # decimals that a column of rounded prices may have; more are taken as not rounded


def adjust_splits(frame: pd.DataFrame, sessions: pd.DatetimeIndex) -> tuple[pd.DataFrame, list[Finding]]:
    """Adjust the splits that prices show (adjust=splits), and list the other jumps.

    Bar t is a split of price ratio k where open, high, low and close of the bar, each over the close before, all lie
    within the tolerance of k, and at most 25 sessions passed since that close. The tolerance is a log distance of
    0.05, or less where another ratio is near. From t on prices are divided by k and volumes multiplied by it,
    cumulated, flagged ADJUSTED; nothing before t changes.
    """
    follows, gap, jump = _jumps(frame, sessions)
    rows = np.flatnonzero(follows & (gap <= MAX_SESSIONS) & (np.abs(jump[:, 0]) > TOLERANCE))
    nearest, distance = _nearest(jump[rows, 0])
    others = np.abs(jump[rows] - np.log(RATIOS[nearest])[:, None]).max(1, initial=0.0)
    agree = np.maximum(distance, others) <= TOLERANCES[nearest]
    step = np.ones(len(frame))
    step[rows[agree]] = RATIOS[nearest[agree]]
    result = _divide(frame, step)
    splits = rows[agree]
    findings = []
    if len(splits):
        texts = [
            f"open / previous close = {np.exp(jump[row, 0]):.3f}, taken as {ratio_text(step[row])}"
            + _over(gap[row])
            for row in splits[:MAX_ITEMS]
        ]
        action = "this bar and all later ones put on the earlier basis"
        findings.append(_finding("split", action, frame, splits, texts))
    known = step != 1
    return result, findings + suspected_splits(frame, sessions, known) + big_moves(frame, sessions, known)


def adjust_by_split_column(
    frame: pd.DataFrame, sessions: pd.DatetimeIndex
) -> tuple[pd.DataFrame, list[Finding]]:
    """Adjust the splits of the column `split_so_far` from their day on, and drop the column.

    Some services list the splits beside prices that hold them already: a split whose day opens and closes nearer to
    the close before than to that close divided by the ratio is listed and left as it is.
    """
    follows, gap, jump = _jumps(frame, sessions)
    total = frame["split_so_far"].to_numpy()
    shares = np.where(follows, total / np.roll(total, 1), 1.0)
    listed = np.abs(shares - 1) > SAME_FACTOR
    move = (jump[:, 0] + jump[:, 3]) / 2
    held = listed & (np.abs(move) < np.abs(move + np.log(shares)))
    known = listed & ~held
    step = np.where(known, 1 / shares, 1.0)
    result = _divide(frame.drop(columns="split_so_far"), step)
    findings = []
    for kind, action, which in (
        ("split", "this bar and all later ones put on the earlier basis", known),
        ("listed split that prices already hold", "kept", held),
    ):
        rows = np.flatnonzero(which)
        if len(rows):
            texts = [
                f"open / previous close = {np.exp(jump[row, 0]):.3f}, listed as {ratio_text(1 / shares[row])}"
                + _over(gap[row])
                for row in rows[:MAX_ITEMS]
            ]
            findings.append(_finding(kind, action, frame, rows, texts))
    return result, findings + suspected_splits(frame, sessions, listed) + big_moves(frame, sessions, known)


def adjust_by_factor(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding]]:
    """Multiply prices by the factor / the instrument's first factor, divide volume by it, and drop its columns.

    The factor is adj_close / close where there is a column `adj_close`, otherwise the column `factor`. It is usually
    1 at the last bar and changes in the past whenever a dividend is paid; its quotient with the first one only knows
    the events between them, so that no bar depends on a later event. A step that the rounding of the two closes can
    explain is no event: the factor stays what it was at the last event.
    """
    instrument = pd.factorize(frame["instrument"])[0]
    if "adj_close" in frame.columns:
        factor = (frame["adj_close"] / frame["close"]).to_numpy()
        uncertain = _rounding(frame, instrument)
    else:
        factor, uncertain = frame["factor"].to_numpy(), np.zeros(len(frame))
    begins = np.append(True, instrument[1:] != instrument[:-1])[: len(frame)]
    starts = np.flatnonzero(begins)
    is_event = _events(factor, uncertain + SAME_FACTOR / 2, begins)
    since = np.arange(len(frame))
    since = np.maximum.accumulate(np.where(is_event | begins, since, 0))
    ratio = factor[since] / np.repeat(factor[starts], np.diff(np.append(starts, len(frame))))
    result = frame.drop(columns=["factor", "adj_close"], errors="ignore")
    for name in PRICES:
        result[name] = result[name] * ratio
    result["volume"] = result["volume"] / ratio
    result["flag"] = result["flag"].to_numpy() | np.where(ratio != 1, np.uint8(Flag.ADJUSTED), np.uint8(0))
    events = np.flatnonzero(is_event)
    if not len(events):
        return result, []
    texts = [
        f"prices x {factor[row] / factor[since[row - 1]]:.6g} from here on" for row in events[:MAX_ITEMS]
    ]
    action = "prices x factor / first factor, volume divided by it"
    return result, [_finding(FACTOR_CHANGES, action, frame, events, texts)]


def _events(factor: np.ndarray, uncertain: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return where the factor has changed, bool [N]: no one value fits this bar and all since the last change.

    `uncertain` is how far each factor may be from the true one, relative; `begins` are instruments' first rows.
    """
    found = np.zeros(len(factor), bool)
    low = high = 0.0
    bounds = zip(
        (factor * (1 - uncertain)).tolist(),
        (factor * (1 + uncertain)).tolist(),
        begins.tolist(),
        strict=True,
    )
    for row, (least, most, first) in enumerate(bounds):
        if first or least > high or most < low:
            found[row] = not first
            low, high = least, most
        else:
            low, high = max(low, least), min(high, most)
    return found


def _rounding(frame: pd.DataFrame, instrument: np.ndarray) -> np.ndarray:
    """Return how far adj_close / close may be from the factor by rounding, relative, [N].

    Each price may be off by half a unit of the last decimal that its column has shown up to that bar.
    """
    total = np.zeros(len(frame))
    for names, of in ((PRICES, "close"), (("adj_close",), "adj_close")):
        decimals = np.zeros(len(frame), np.int64)
        for name in names:
            decimals = np.maximum(decimals, _decimals(frame[name].to_numpy()))
        base = instrument * (DECIMALS + 2)
        seen = np.maximum.accumulate(base + decimals) - base
        half = np.where(seen > DECIMALS, 0.0, 0.5 * 10.0**-seen)
        total += half / frame[of].to_numpy()
    return total


def _decimals(price: np.ndarray) -> np.ndarray:
    """Count the decimals of each price, int64 [N], as float32 tells them; DECIMALS + 1 where there are more."""
    count = np.full(len(price), DECIMALS + 1, np.int64)
    for decimals in range(DECIMALS, -1, -1):
        scaled = price * 10.0**decimals
        count[np.abs(scaled - np.round(scaled)) <= 2e-7 * scaled] = decimals
    return count


def suspected_splits(
    frame: pd.DataFrame, sessions: pd.DatetimeIndex, known: np.ndarray | None = None
) -> list[Finding]:
    """List the bars whose open is near a split ratio of the close before, except `known` ones; all are kept.

    The text of each has what tells a split from a move: the four prices over the previous close, the volume, and
    whether the price came back within 5 bars. That last part looks at later bars and is for the reader alone.
    """
    follows, gap, jump = _jumps(frame, sessions)
    far = np.abs(jump[:, 0]) > TOLERANCE
    rows = np.flatnonzero(follows & (gap <= MAX_SESSIONS) & far & (True if known is None else ~known))
    nearest, distance = _nearest(jump[rows, 0])
    near = distance <= TOLERANCES[nearest]
    rows, nearest = rows[near], nearest[near]
    if not len(rows):
        return []
    texts = [
        _evidence(frame, row, jump[row], RATIOS[place]) + _over(gap[row])
        for row, place in zip(rows[:MAX_ITEMS], nearest[:MAX_ITEMS], strict=True)
    ]
    return [_finding(SUSPECTED, "kept: no column says that it is one", frame, rows, texts)]


def _evidence(frame: pd.DataFrame, row: int, jump: np.ndarray, ratio: float) -> str:
    around = frame.iloc[max(row - VOLUME_BARS, 0) : row + REVERSED_BARS + 1]
    around = around[around["instrument"] == frame["instrument"].iloc[row]]
    here = int(np.flatnonzero(around.index == frame.index[row])[0])
    close, volume = around["close"].to_numpy(), around["volume"].to_numpy()
    usual = volume[:here].mean()
    after = np.abs(np.log(close[here + 1 :] / close[here - 1]))
    back = np.append(abs(jump[3]), after) < abs(np.log(ratio)) / 2
    text = (
        "open, high, low, close / previous close = "
        + ", ".join(f"{value:.3f}" for value in np.exp(jump))
        + f", near {ratio_text(ratio)}"
    )
    if usual > 0:
        text += f"; volume {volume[here] / usual:.2g} x the mean of the {here} before"
    if back.any():
        return text + ("; reversed by the close" if back[0] else f"; reversed within {REVERSED_BARS} bars")
    return (
        text
        + f"; not reversed within {REVERSED_BARS} bars"
        + ("" if len(after) == REVERSED_BARS else " so far")
    )


def big_moves(
    frame: pd.DataFrame, sessions: pd.DatetimeIndex, known: np.ndarray | None = None
) -> list[Finding]:
    """List the moves of more than 25 % from bar to bar, except `known` ones (splits); the bars are kept."""
    instrument = pd.factorize(frame["instrument"])[0]
    close = frame["close"].to_numpy()
    move = np.append(1.0, close[1:] / close[:-1])[: len(frame)]
    follows = np.append(False, instrument[1:] == instrument[:-1])[: len(frame)]
    big = follows & (np.abs(move - 1) > BIG_MOVE)
    if known is not None:
        big &= ~known
    rows = np.flatnonzero(big)
    if not len(rows):
        return []
    place = session_places(frame, sessions)
    texts = [
        f"close / previous close = {move[row]:.3f}" + _over(place[row] - place[row - 1])
        for row in rows[:MAX_ITEMS]
    ]
    return [_finding("move over 25 %", "kept", frame, rows, texts)]


def _jumps(frame: pd.DataFrame, sessions: pd.DatetimeIndex) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per bar: whether it follows one of its instrument, sessions since it, log(prices / its close) [N, 4]."""
    instrument = pd.factorize(frame["instrument"])[0]
    place = session_places(frame, sessions)
    follows = np.append(False, instrument[1:] == instrument[:-1])[: len(frame)]
    gap = np.where(follows, place - np.roll(place, 1), 1)
    previous = np.roll(frame["close"].to_numpy(), 1)
    jump = np.log(frame[list(PRICES)].to_numpy() / previous[:, None])
    return follows, gap, np.where(follows[:, None], jump, 0.0)


def _nearest(jump: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place in RATIOS of the ratio nearest to each log price ratio, and the log distance to it."""
    distance = np.abs(jump[:, None] - np.log(RATIOS)[None])
    return distance.argmin(1), distance.min(1)


def _divide(frame: pd.DataFrame, step: np.ndarray) -> pd.DataFrame:
    """Divide prices by `step` [N] (1: none) and multiply volumes by it, from each row to its instrument's last."""
    instrument = pd.factorize(frame["instrument"])[0]
    factor = np.ones(len(frame))
    flag = frame["flag"].to_numpy(copy=True)
    for row in np.flatnonzero(step != 1):
        until = np.searchsorted(instrument, instrument[row], side="right")
        factor[row:until] *= step[row]
        flag[row:until] |= np.uint8(Flag.ADJUSTED)
    result = frame.copy()
    for name in PRICES:
        result[name] = result[name] / factor
    result["volume"] = result["volume"] * factor
    result["flag"] = flag
    return result


def _finding(kind: str, action: str, frame: pd.DataFrame, rows: np.ndarray, texts: list[str]) -> Finding:
    shown = frame.iloc[rows[:MAX_ITEMS]]
    items = list(zip(shown["instrument"], day_text(shown["datetime"]), texts, strict=True))
    return Finding(kind, action, len(rows), items)


def _over(gap: int) -> str:
    return f", over {gap} sessions" if gap > 1 else ""


def ratio_text(ratio: float) -> str:
    """Format a price ratio as new shares for old ones: `2 for 1` for 1/2, `1 for 10` for 10."""
    shares = Fraction(1 / ratio).limit_denominator(1000)
    return f"{shares.numerator} for {shares.denominator}"
