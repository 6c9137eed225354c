"""Clean bars: find what is wrong with a bar, and drop, repair, mark or only count it.

Every rule looks at the bar and at earlier ones of its instrument, never at later ones: the result for a bar is the
same whatever follows. A dropped bar leaves a hole, which `align` fills or cuts; nothing is changed or dropped
without a finding that counts it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kronos.data.bars import (
    EXTRA,
    FEATURES,
    MARK,
    MAX_ITEMS,
    PRICES,
    Finding,
    Flag,
    day_text,
    marked,
    places_of,
    to_frame,
)
from kronos.data.frequency import within_day
from kronos.utils.errors import UserError

REPAIRABLE = 0.05  # rounding stays far below 5 %; above it, it is unknown which price is wrong
STALE = {
    "day": 3,
    "week": 3,
    "month": 3,
}  # equal bars in a row, amount included, from which on a feed may stand still
STALE_WITHIN_DAY = (
    5  # the same for shorter bars, of which there are many more, so that chance repeats more of them
)
RARE = 0.01  # a volume that more of an instrument's earlier bars have repeats by chance
ENOUGH_BARS = 10  # fewer earlier bars do not show how rare a volume is
LOCKED = 0.045  # a bar of one price this far from the close before: a limit of 5, 10 or 20 % was reached
STRAY = 2  # repeated bars of a short frame that are dropped rather than refused
NO_VOLUME = "instrument without volume in any bar"
OFF_CALENDAR = 0.05  # a larger share of bars at no session means another calendar, not stray prints


def clean(raw: pd.DataFrame, freq: str = "day") -> tuple[pd.DataFrame, list[Finding]]:
    """Clean a raw frame: drop repeats and impossible bars, repair small contradictions.

    Returns the frame (with `amount`, `flag`, those of EXTRA that are there and marked columns) and what was found.
    """
    findings: list[Finding] = []
    frame = to_frame(raw, findings)
    frame = _drop_repeats(frame, findings)

    factors = [name for name in ("factor", "adj_close") if name in frame.columns]
    needed = [*PRICES, "volume", *factors]
    numbers = frame[needed].to_numpy()
    infinite = np.asarray(np.isinf(numbers).any(1))
    missing = np.asarray(np.isnan(numbers).any(1)) & ~infinite
    keep = ~(infinite | missing)
    _note_bars(frame, missing, "missing value", "dropped, a hole", findings)
    _note_bars(frame, infinite, "infinite value", "dropped, a hole", findings)
    frame = frame[keep].reset_index(drop=True) if not keep.all() else frame

    numbers = frame[list(PRICES)].to_numpy()
    not_positive = np.asarray((numbers <= 0).any(1))
    for name in factors:
        not_positive |= (frame[name] <= 0).to_numpy()
    negative = (frame["volume"] < 0).to_numpy() & ~not_positive
    _note_bars(frame, not_positive, "price not positive", "dropped, a hole", findings)
    _note_bars(frame, negative, "volume negative", "dropped, a hole", findings)
    keep = ~(not_positive | negative)
    frame = frame[keep].reset_index(drop=True) if not keep.all() else frame

    if "flag" not in frame.columns:
        frame["flag"] = np.zeros(len(frame), "uint8")
    frame = _repair_range(frame, findings)
    frame = _drop_repeating_feed(frame, freq, findings)
    frame = _mark_untraded(frame, freq, findings)
    _note_locked(frame, findings)
    frame = _complete_amount(frame, findings)
    extra = [*(name for name in EXTRA if name in frame.columns), *marked(frame.columns)]
    return frame[["instrument", "datetime", *FEATURES, *extra]], findings


def _drop_repeats(frame: pd.DataFrame, findings: list[Finding]) -> pd.DataFrame:
    code = pd.factorize(frame["instrument"])[0]
    time = frame["datetime"].to_numpy()
    again = np.append(False, (code[1:] == code[:-1]) & (time[1:] == time[:-1]))[: len(frame)]
    if not again.any():
        return frame
    others = again & (frame[list(PRICES)] != frame[list(PRICES)].shift()).any(axis=1).to_numpy()
    if others.sum() > max(OFF_CALENDAR * len(frame), STRAY):
        first = frame[others].iloc[0]
        raise UserError(
            f"{int(others.sum()):,} of {len(frame):,} bars repeat the time of another bar of their instrument with "
            f"other prices, {first['instrument']} at {day_text([first['datetime']])[0]} for example: name the column "
            "that tells them apart with --instrument-column, or give files with one of them"
        )
    _note_bars(frame, again, "repeated bar", "dropped, the first is kept", findings)
    return frame[~again].reset_index(drop=True)


def _repair_range(frame: pd.DataFrame, findings: list[Finding]) -> pd.DataFrame:
    """Widen high and low to contain open and close where they are off by at most 5 %, otherwise drop the bar."""
    opening, high, low, close = (frame[name].to_numpy() for name in PRICES)
    top, bottom = np.maximum(opening, close), np.minimum(opening, close)
    excess = np.maximum(top / high, low / bottom) - 1
    broken = excess > 0
    if not broken.any():
        return frame
    far = excess > REPAIRABLE
    kept = broken & ~far
    texts = [
        f"open {opening[row]:g} close {close[row]:g} high {high[row]:g} low {low[row]:g} "
        f"({100 * excess[row]:.2g} % off)"
        for row in np.flatnonzero(kept)[:MAX_ITEMS]
    ]
    note(
        frame,
        kept,
        "high and low do not contain open and close, by at most 5 %",
        "high and low widened to contain them",
        findings,
        texts,
    )
    _note_bars(
        frame,
        far,
        "high and low do not contain open and close, by more than 5 %",
        "dropped, a hole",
        findings,
    )
    frame = frame.copy()
    frame["high"] = np.where(kept, np.maximum(top, high), high)
    frame["low"] = np.where(kept, np.minimum(bottom, low), low)
    frame["flag"] = frame["flag"].to_numpy() | np.where(kept, np.uint8(Flag.REPAIRED), np.uint8(0))
    return frame[~far].reset_index(drop=True)


def _follows(frame: pd.DataFrame) -> np.ndarray:
    """Return whether the row before is of the same instrument, bool [N]."""
    code = pd.factorize(frame["instrument"])[0]
    return np.append(False, code[1:] == code[:-1])[: len(frame)]


def _run_lengths(same: np.ndarray) -> np.ndarray:
    """Count the consecutive rows up to and including each that have `same` set."""
    row = np.arange(1, len(same) + 1)
    return row - np.maximum.accumulate(np.where(same, 0, row))


def _drop_repeating_feed(frame: pd.DataFrame, freq: str, findings: list[Finding]) -> pd.DataFrame:
    """Drop bars of a feed that stands still: equal to the two before (four, within a day) in every price and volume.

    Quiet bars repeat too, such as minutes with one lot at one price. So a run is dropped only where its bars have
    several prices and a volume that is rare: at most 1 % of the instrument's bars before the run have it, of at least
    10. Other runs are listed and kept.
    """
    columns = [*PRICES, *(name for name in ("volume", "amount") if name in frame.columns)]
    values = frame[columns].fillna(-1.0).to_numpy()
    equal = np.zeros(len(frame), bool)
    equal[1:] = (values[1:] == values[:-1]).all(1)
    equal &= _follows(frame) & (frame["volume"] > 0).to_numpy()
    run, least = _run_lengths(equal), STALE.get(freq, STALE_WITHIN_DAY)
    repeated = run >= least - 1
    if not repeated.any():
        return frame
    rows = np.flatnonzero(repeated)
    rows = rows[values[rows, 1] > values[rows, 2]]
    stale = np.zeros(len(frame), bool)
    stale[rows] = _rare_volume(frame, rows - run[rows])
    kind = f"the same bar {least} times or more in a row"
    _note_bars(frame, stale, kind, f"dropped from number {least} on, a hole", findings)
    kind += ", of one price or with a common volume"
    _note_bars(frame, repeated & ~stale, kind, "kept", findings)
    return frame[~stale].reset_index(drop=True) if stale.any() else frame


def _rare_volume(frame: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Return whether few of the earlier bars of its instrument have the volume of each row, bool [N]."""
    volume = frame["volume"].to_numpy()
    starts = np.flatnonzero(~_follows(frame))
    found = {}
    for row in np.unique(rows).tolist():
        earlier = volume[starts[np.searchsorted(starts, row, side="right") - 1] : row]
        found[row] = len(earlier) >= ENOUGH_BARS and (earlier == volume[row]).mean() <= RARE
    return np.array([found[row] for row in rows.tolist()], bool)


def _mark_untraded(frame: pd.DataFrame, freq: str, findings: list[Finding]) -> pd.DataFrame:
    """Drop suspended days that the source wrote as flat bars without volume: they are holes like missing bars.

    Only instruments that had volume before count, so that series without volume (indices) keep their bars.
    Within a day a bar without trades is ordinary and kept.
    """
    volume = frame["volume"].to_numpy()
    if not len(frame) or (volume > 0).all():
        return frame
    prices = frame[list(PRICES)].to_numpy()
    follows = _follows(frame)
    start = np.flatnonzero(~follows)
    traded = np.cumsum(volume > 0)
    before = traded - np.repeat(np.append(0, traded)[start], np.diff(np.append(start, len(frame))))
    flat = (prices == prices[:, 3:]).all(1) & (prices[:, 3] == np.roll(prices[:, 3], 1)) & follows
    untraded = (volume == 0) & flat & (before > 0)
    if within_day(freq):
        note(frame, untraded, "bar without a trade", "kept", findings)
        return frame
    if not untraded.any():
        return frame
    note(frame, untraded, "suspended day written as a flat bar without volume", "dropped, a hole", findings)
    return frame[~untraded].reset_index(drop=True)


def _note_locked(frame: pd.DataFrame, findings: list[Finding]) -> None:
    """Count bars locked at a price limit: one price only, far from the close before. They are kept."""
    prices = frame[list(PRICES)].to_numpy()
    previous = np.roll(prices[:, 3], 1)
    one_price = (prices == prices[:, 3:]).all(1) & _follows(frame)
    if not one_price.any():
        return
    move = np.where(one_price, prices[:, 3] / previous - 1, 0.0)
    locked = one_price & (np.abs(move) >= LOCKED)
    texts = [f"{100 * move[row]:+.1f} %, one price all day" for row in np.flatnonzero(locked)[:MAX_ITEMS]]
    note(frame, locked, "bar locked at one price after a move of 4.5 % or more", "kept", findings, texts)


def _complete_amount(frame: pd.DataFrame, findings: list[Finding]) -> pd.DataFrame:
    mean_price = frame[list(PRICES)].to_numpy().mean(1)
    computed = frame["volume"].to_numpy() * mean_price
    if "amount" not in frame.columns:
        frame["amount"] = computed
        return frame
    amount = frame["amount"].to_numpy()
    unknown = ~np.isfinite(amount) | (amount < 0)
    if unknown.any():
        frame["amount"] = np.where(unknown, computed, amount)
        action = "set to volume x mean of open, high, low, close"
        note(frame, unknown, "amount missing", action, findings)
    return frame


def note_without_volume(frame: pd.DataFrame, findings: list[Finding]) -> None:
    """Count the instruments that have no volume and no amount in any bar; their bars are kept."""
    traded = (frame["volume"] > 0) | (frame["amount"] > 0)
    if traded.all():
        return
    without = (
        ~traded.groupby(frame["instrument"], sort=False).transform("any") & ~frame["instrument"].duplicated()
    )
    note(frame, without.to_numpy(), NO_VOLUME, "volume and amount are 0, as in the public code", findings)


def carry_features(frame: pd.DataFrame, names: Sequence[str], findings: list[Finding]) -> pd.DataFrame:
    """Give a missing value of a further feature the last known one of its instrument; leave out bars before any.

    Raises UserError for a feature that holds words.
    """
    unknown = np.zeros(len(frame), bool)
    changed: dict[str, pd.Series] = {}
    for name in names:
        column = frame[MARK + name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            raise UserError(
                f"feature_list: column {name} holds words such as {column.cat.categories[0]!r}, numbers were "
                "expected: a column of words can be a condition (condition_columns)"
            )
        column = column.where(np.isfinite(column))
        if not column.isna().any():
            continue
        carried = column.groupby(frame["instrument"], sort=False).ffill()
        known_before = (column.isna() & carried.notna()).to_numpy()
        note(frame, known_before, f"{name} missing", "set to the last known value", findings)
        unknown |= carried.isna().to_numpy()
        changed[MARK + name] = carried
    note(frame, unknown, "bar before the first value of a further column", "left out", findings)
    frame = frame.assign(**changed) if changed else frame
    return frame[~unknown].reset_index(drop=True) if unknown.any() else frame


def drop_off_calendar(
    frame: pd.DataFrame, sessions: pd.DatetimeIndex, calendar: str, extended: bool = False
) -> tuple[pd.DataFrame, list[Finding]]:
    """Drop bars at no session of the calendar; the caller has checked that they are few, or of extended hours."""
    stray = places_of(frame["datetime"], sessions) < 0
    if not stray.any():
        return frame, []
    findings: list[Finding] = []
    what = (
        f"bar outside the regular hours of {calendar}"
        if extended
        else f"bar at no session of calendar {calendar}"
    )
    note(frame, stray, what, "left out" if extended else "dropped", findings)
    return frame[~stray].reset_index(drop=True), findings


def note(
    frame: pd.DataFrame,
    which: np.ndarray,
    kind: str,
    action: str,
    findings: list[Finding],
    texts: list[str] | None = None,
) -> None:
    """Add a finding about the bars that are set in `which`, bool [N], with a text for each of the first."""
    count = int(which.sum())
    if count:
        bars = frame.iloc[np.flatnonzero(which)[:MAX_ITEMS]]
        words = texts or [""] * len(bars)
        items = list(zip(bars["instrument"], day_text(bars["datetime"]), words, strict=True))
        findings.append(Finding(kind, action, count, items))


def _note_bars(
    frame: pd.DataFrame, which: np.ndarray, kind: str, action: str, findings: list[Finding]
) -> None:
    """Add a finding with the values of each bar as its text."""
    bars = frame.iloc[np.flatnonzero(which)[:MAX_ITEMS]]
    texts = [
        f"open {row.open:g} high {row.high:g} low {row.low:g} close {row.close:g} volume {row.volume:g}"
        for row in bars.itertuples()
    ]
    note(frame, which, kind, action, findings, texts)
