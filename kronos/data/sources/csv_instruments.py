"""Instruments of tables whose rows repeat a time: the column that tells them apart, or the reason why none does."""

import numpy as np
import pandas as pd

from kronos.data.cleaning import OFF_CALENDAR
from kronos.utils.errors import UserError

SHOWN = 3  # columns that a message names
MAIN_SERIES = "EQ"  # ordinary shares, at the exchanges that trade several series of a symbol


def repeated_rows(times: np.ndarray, prices: np.ndarray, code: np.ndarray | None = None) -> np.ndarray:
    """Return which rows repeat the time of an earlier row (of the same `code`) with other prices, bool [N]."""
    none = np.zeros(len(times), bool)
    if in_order(times, code):
        return none
    keys = {"time": times} if code is None else {"code": code, "time": times}
    table = pd.DataFrame(keys)
    again = table.duplicated().to_numpy()
    if not again.any():
        return none
    number = table.groupby(list(keys), sort=False).ngroup().to_numpy()
    first = np.flatnonzero(~again)[number]
    return again & ~np.isclose(prices, prices[first], equal_nan=True).all(1)


def in_order(times: np.ndarray, code: np.ndarray | None) -> bool:
    """Return whether the rows of each instrument stand together, in order of time: then none repeats another."""
    steps = np.diff(times)
    if code is None:
        return bool((steps > 0).all() or (steps < 0).all())
    changes = np.diff(code) != 0
    together = changes.sum() + 1 == len(np.unique(code))
    return bool(together and ((steps > 0) | changes).all())


def find_instrument(
    times: np.ndarray,
    prices: np.ndarray,
    columns: dict[str, pd.Series],
    repeated: np.ndarray,
    code: np.ndarray | None = None,
    own: str = "",
) -> str:
    """Return the name of the column that tells the rows of each time apart.

    It is taken where it is the only column of words that does so. Raises UserError with the candidates otherwise, and
    where there is a column of instruments already, `own` with its `code`, which needs another one beside it.
    """
    candidates: list[tuple[str, int, bool]] = []
    for name, column in columns.items():
        words = column.str.strip()
        word, different = pd.factorize(words)
        count = len(different)
        if not 1 < count < len(words) or (words == "").any():
            continue
        if repeated_rows(times, prices, word if code is None else code * count + word).any():
            continue
        of_words = words.str.contains(r"[^\W\d_]", regex=True).mean() > 0.5
        candidates.append((name, count, bool(of_words and count <= len(words) / 2)))
    good = [name for name, _, taken in candidates if taken]
    if len(good) == 1 and not own:
        return good[0]
    of = f" of its {own}" if own else ""
    rows = (
        f"{int(repeated.sum()):,} of {len(times):,} rows repeat the time of another row{of} with other prices"
    )
    if not candidates:
        raise UserError(
            f"{rows}, and no column tells them apart (columns: {', '.join(columns) or 'no others'}): give one file "
            "for each instrument, or a column of instruments"
        )
    listed = ", ".join(f"column {name} has {count:,} values" for name, count, _ in candidates[:SHOWN])
    chosen = (good or [candidates[0][0]])[0]
    if own:
        raise UserError(
            f"{rows}: {listed}: give --instrument-column {own},{chosen}, or a file with one of them"
        )
    which = "is it" if len(candidates) == 1 else "which one is"
    raise UserError(f"{rows}: {listed}: {which} the instrument? give --instrument-column {chosen}")


def too_many(repeated: np.ndarray) -> bool:
    """Return whether rows that repeat a time are more than stray ones, which are dropped and counted."""
    return bool(repeated.sum() > OFF_CALENDAR * len(repeated))


def choose_series(instrument: pd.Series, series: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Choose one series of each instrument, bool [N]: EQ where there is one, otherwise the one with the most rows.

    Also returns the instruments that have several.
    """
    table = pd.DataFrame({"instrument": instrument.to_numpy(), "series": series.str.strip().to_numpy()})
    counts = table.value_counts().rename("rows").reset_index()
    counts["main"] = counts["series"] == MAIN_SERIES
    counts = counts.sort_values(["main", "rows", "series"], ascending=[False, False, True], kind="stable")
    best = counts.drop_duplicates("instrument").set_index("instrument")["series"]
    several = sorted(counts.loc[counts["instrument"].duplicated(), "instrument"].unique())
    return (table["instrument"].map(best) == table["series"]).to_numpy(), several
