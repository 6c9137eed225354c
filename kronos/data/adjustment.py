"""Splits in unadjusted prices, found from one bar to the next and adjusted forward: the past never changes."""

import numpy as np
import pandas as pd

from kronos.data.bars import MAX_ITEMS, PRICES, Finding, Flag, day_text, session_places

RATIOS = np.array([1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 10, 2, 3, 4, 5, 10])
TOLERANCE = 0.06  # log distance to the ratio in one session: 3 standard deviations of an overnight move
MAX_SESSIONS = 25  # beyond, TOLERANCE x sqrt(sessions) would reach half way from 2 : 1 to no split at all
SAME_FACTOR = 1e-5  # relative: smaller steps are the rounding of adj_close, dividends are far larger
FACTOR_CHANGES = "adjustment factor changes"  # kind of finding: the prices hold dividends or splits
BIG_MOVE = 0.25  # larger moves that are not splits are kept and listed


def adjust_splits(frame: pd.DataFrame, sessions: pd.DatetimeIndex) -> tuple[pd.DataFrame, list[Finding]]:
    """Adjust the bars after each split to the prices before it; list the splits and the big moves that are kept.

    With r = open / previous close and k the nearest simple ratio (2 to 5 and 10, either way), bar t is a split when
    |log(r / k)| <= 0.06 x sqrt(sessions since the previous bar). From t on prices are divided by k and volumes
    multiplied by it, cumulated, flagged ADJUSTED; nothing before t changes.
    """
    instrument = pd.factorize(frame["instrument"])[0]
    place = session_places(frame, sessions)
    close = frame["close"].to_numpy()
    follows = np.append(False, instrument[1:] == instrument[:-1])
    previous = np.roll(close, 1)
    gap = np.where(follows, place - np.roll(place, 1), 1)
    opening = np.where(follows, frame["open"].to_numpy() / previous, 1.0)

    distance = np.abs(np.log(opening)[:, None] - np.log(RATIOS))
    ratio = RATIOS[distance.argmin(1)]
    is_split = follows & (distance.min(1) <= TOLERANCE * np.sqrt(gap)) & (gap <= MAX_SESSIONS)

    factor = np.ones(len(frame))
    flag = frame["flag"].to_numpy(copy=True)
    for row in np.flatnonzero(is_split):
        until = np.searchsorted(instrument, instrument[row], side="right")
        factor[row:until] *= ratio[row]
        flag[row:until] |= np.uint8(Flag.ADJUSTED)
    result = frame.copy()
    for name in PRICES:
        result[name] = result[name] / factor
    result["volume"] = result["volume"] * factor
    result["flag"] = flag

    splits = np.flatnonzero(is_split)
    findings = []
    if len(splits):
        texts = [
            f"open / previous close = {opening[row]:.3f}, taken as {ratio_text(ratio[row])}"
            + (f", over {gap[row]} sessions" if gap[row] > 1 else "")
            for row in splits[:MAX_ITEMS]
        ]
        action = "this bar and all later ones put on the earlier basis"
        findings.append(_finding("split", action, frame, splits, texts))
    return result, findings + big_moves(frame, sessions, known=is_split)


def adjust_by_factor(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding]]:
    """Multiply prices by `factor` / the instrument's first factor, divide volume by it, and drop the column.

    The usual factor is 1 at the last bar and changes in the past whenever a dividend is paid; its quotient with the
    first one only knows the events between them, so that no bar depends on a later event.
    """
    instrument = pd.factorize(frame["instrument"])[0]
    factor = frame["factor"].to_numpy()
    starts = np.flatnonzero(np.append(True, instrument[1:] != instrument[:-1])[: len(frame)])
    change = np.append(1.0, factor[1:] / factor[:-1])[: len(frame)]
    change[starts] = 1.0
    is_event = np.abs(change - 1) > SAME_FACTOR
    since = np.arange(len(frame))
    since = np.maximum.accumulate(np.where(is_event | np.isin(since, starts), since, 0))
    ratio = factor[since] / np.repeat(factor[starts], np.diff(np.append(starts, len(frame))))
    result = frame.drop(columns="factor")
    for name in PRICES:
        result[name] = result[name] * ratio
    result["volume"] = result["volume"] / ratio
    result["flag"] = result["flag"].to_numpy() | np.where(ratio != 1, np.uint8(Flag.ADJUSTED), np.uint8(0))
    events = np.flatnonzero(is_event)
    if not len(events):
        return result, []
    texts = [f"prices x {change[row]:.6g} from here on" for row in events[:MAX_ITEMS]]
    action = "prices x factor / first factor, volume divided by it"
    return result, [_finding(FACTOR_CHANGES, action, frame, events, texts)]


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
        f"close / previous close = {move[row]:.3f}"
        + (f", over {place[row] - place[row - 1]} sessions" if place[row] - place[row - 1] > 1 else "")
        for row in rows[:MAX_ITEMS]
    ]
    return [_finding("move over 25 %", "kept", frame, rows, texts)]


def _finding(kind: str, action: str, frame: pd.DataFrame, rows: np.ndarray, texts: list[str]) -> Finding:
    shown = frame.iloc[rows[:MAX_ITEMS]]
    items = list(zip(shown["instrument"], day_text(shown["datetime"]), texts, strict=True))
    return Finding(kind, action, len(rows), items)


def ratio_text(ratio: float) -> str:
    """Format a price ratio: `2 for 1` for 1/2, `1 for 10` for 10."""
    return f"{round(1 / ratio)} for 1" if ratio < 1 else f"1 for {round(ratio)}"
