"""Splits in unadjusted prices: found from one bar to the next, adjusted forward, so that the past never changes."""

import numpy as np
import pandas as pd

from kronos.data.bars import PRICES, Finding, Flag, day_text, session_places

RATIOS = np.array([1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 10, 2, 3, 4, 5, 10])
TOLERANCE = (
    0.06  # log distance to the ratio in one session; an ordinary overnight move, 3 standard deviations
)
MAX_SESSIONS = 25  # beyond, TOLERANCE x sqrt(sessions) would reach half way from 2 : 1 to no split at all
BIG_MOVE = 0.25  # moves above it that are no split are kept and listed


def adjust_splits(frame: pd.DataFrame, sessions: pd.DatetimeIndex) -> tuple[pd.DataFrame, list[Finding]]:
    """Put the bars after each split on the basis before it; list the splits and the big moves that stay.

    With r = open / previous close and k the nearest simple ratio (2 to 5 and 10, either way), bar t is a split when
    |log(r / k)| <= 0.06 x sqrt(sessions since the previous bar). From t on prices are divided by k and volumes
    multiplied by it, cumulated, flagged ADJUSTED; nothing before t changes.
    """
    instrument = frame["instrument"].to_numpy()
    place = session_places(frame, sessions)
    close = frame["close"].to_numpy()
    follows = np.append(False, instrument[1:] == instrument[:-1])
    previous = np.roll(close, 1)
    gap = np.where(follows, place - np.roll(place, 1), 1)
    opening = np.where(follows, frame["open"].to_numpy() / previous, 1.0)
    move = np.where(follows, close / previous, 1.0)

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

    def items(rows: np.ndarray, texts: list[str]) -> list[tuple[str, str, str]]:
        return list(zip(instrument[rows], day_text(frame["datetime"].iloc[rows]), texts, strict=True))

    splits = np.flatnonzero(is_split)
    big = np.flatnonzero(follows & ~is_split & (np.abs(move - 1) > BIG_MOVE))
    findings = []
    if len(splits):
        texts = [
            f"open / previous close = {opening[row]:.3f}, taken as {ratio_text(ratio[row])}"
            + (f", over {gap[row]} sessions" if gap[row] > 1 else "")
            for row in splits
        ]
        action = "this bar and all later ones put on the earlier basis"
        findings.append(Finding("split", action, len(splits), items(splits, texts)))
    if len(big):
        texts = [
            f"close / previous close = {move[row]:.3f}"
            + (f", over {gap[row]} sessions" if gap[row] > 1 else "")
            for row in big
        ]
        findings.append(Finding("move over 25 %", "kept", len(big), items(big, texts)))
    return result, findings


def ratio_text(ratio: float) -> str:
    """`2 for 1` for a price ratio of 1/2, `1 for 10` for 10."""
    return f"{round(1 / ratio)} for 1" if ratio < 1 else f"1 for {round(ratio)}"
