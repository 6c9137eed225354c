"""Instruments of tables whose rows repeat a time: the column that tells them apart, or the reason why none does."""

import re

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES
from kronos.data.cleaning import OFF_CALENDAR
from kronos.utils.errors import UserError

SHOWN = 3  # columns that a message names
MAIN_SERIES = "EQ"  # ordinary shares, at the exchanges that trade several series of a symbol


def repeated_rows(times: np.ndarray, prices: np.ndarray, code: np.ndarray | None = None) -> np.ndarray:
    """Return which rows repeat the time (of the same instrument `code`) of an earlier row with other prices, bool [N]."""
    steps = np.diff(times)
    none = np.zeros(len(times), bool)
    if code is None and ((steps > 0).all() or (steps < 0).all()):
        return none
    keys = {"time": times} if code is None else {"code": code, "time": times}
    table = pd.DataFrame(keys)
    again = table.duplicated().to_numpy()
    if not again.any():
        return none
    first = table.groupby(list(keys), sort=False).ngroup().to_numpy()
    places = np.flatnonzero(~again)[first]
    return again & ~np.isclose(prices, prices[places], equal_nan=True).all(1)


def find_instrument(times: np.ndarray, columns: dict[str, pd.Series], repeated: np.ndarray) -> str:
    """Return the name of the column that tells the rows of each time apart.

    It is taken where it is the only column of words that does so: they repeat over the times, and no two rows of a time
    have the same. Raises UserError with the candidates otherwise.
    """
    candidates: list[tuple[str, int, bool]] = []
    for name, column in columns.items():
        words = column.str.strip()
        count = words.nunique()
        if not 1 < count < len(words) or (words == "").any():
            continue
        if pd.DataFrame({"time": times, "word": words}).duplicated().any():
            continue
        of_words = words.str.contains(r"[^\W\d_]", regex=True).mean() > 0.5
        candidates.append((name, count, bool(of_words and count <= len(words) / 2)))
    good = [name for name, _, taken in candidates if taken]
    if len(good) == 1:
        return good[0]
    rows = f"{int(repeated.sum()):,} of {len(times):,} rows repeat the time of another row with other prices"
    if not candidates:
        raise UserError(
            f"{rows}, and no column tells them apart (columns: {', '.join(columns) or 'no others'}): give one file for "
            "each instrument, or a column of instruments"
        )
    listed = ", ".join(f"column {name} has {count:,} values" for name, count, _ in candidates[:SHOWN])
    which = "is it" if len(candidates) == 1 else "which one is"
    raise UserError(
        f"{rows}: {listed}: {which} the instrument? give --instrument-column {(good or [candidates[0][0]])[0]}"
    )


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


def headless_places(sample: np.ndarray) -> dict[str, int]:
    """Find open, high, low, close and volume among columns of numbers without names, float64 [rows, columns].

    The rows are in order of time. NaN columns are no numbers. The prices are the first four in a row of which one is never
    below the others and one never above them. Raises UserError where their order cannot be told.
    """
    count = sample.shape[1]
    for begin in range(count - 3):
        four = sample[:, begin : begin + 4]
        if np.isnan(four).any() or (four <= 0).any():
            continue
        top = [place for place in range(4) if (four[:, place] >= four.max(1) * (1 - 1e-9)).all()]
        bottom = [place for place in range(4) if (four[:, place] <= four.min(1) * (1 + 1e-9)).all()]
        for high, low in ((1, 2), (2, 3), (2, 1), (0, 1)):
            if high in top and low in bottom:
                opening, close = (place for place in range(4) if place not in (high, low))
                _check_order(four[:, opening], four[:, close])
                found = {"open": opening, "high": high, "low": low, "close": close}
                places = {name: begin + place for name, place in found.items()}
                after = begin + 4
                if after < count and not np.isnan(sample[:, after]).all() and (np.nan_to_num(sample[:, after]) >= 0).all():
                    places["volume"] = after
                return places
    raise UserError(
        "there is no header, and no four columns in a row are open, high, low and close: give "
        f"--column-names 1=datetime,2={',3='.join(FEATURES[:4])}"
    )


def _check_order(opening: np.ndarray, close: np.ndarray) -> None:
    """Refuse columns of which the later one looks like the open: it is near to the earlier one of the row before."""
    if len(opening) < 10:
        return
    usual = np.abs(np.log(opening[1:] / close[:-1])).mean()
    other = np.abs(np.log(close[1:] / opening[:-1])).mean()
    if other < 0.5 * usual:
        raise UserError(
            "there is no header, and the columns of open and close are in no usual order: give --column-names, such as "
            "1=datetime,2=close,3=high,4=low,5=open"
        )


def looks_like_codes(words: list[str]) -> bool:
    """Return whether cells of a column without a name are instruments: words, or codes of six digits."""
    filled = [word for word in words if word]
    return bool(filled) and all(re.fullmatch(r"[A-Za-z0-9.#:/_=^-]*[A-Za-z][A-Za-z0-9.#:/_=^-]*|\d{6}", word) for word in filled)
