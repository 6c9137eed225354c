"""Times of day as files write them: with marks, as digits, in halves of the day of several languages, as minutes."""

import re

import numpy as np
import pyarrow as pa

from kronos.data.sources.csv_codes import coded

CLOCK = re.compile(
    r"[t\s,_:]*(?:(\d{1,2})(?:[:h.]|[时時시]\s?)?(\d{2})(?:(?:[:m.]|[分분]\s?)?(\d{2})(?:秒|초|[.,:]?(\d{1,9}))?)?"
    r"|(\d{1,2})[- ]?(?=[ap]m|[时時시]))\s*[分분时時시]?\s*([ap])?\.?(?:m\.?)?\s*"
)
HALVES = {
    "上午": "am",
    "下午": "pm",
    "午前": "am",
    "午後": "pm",
    "오전": "am",
    "오후": "pm",
    "πμ": "am",
    "μμ": "pm",
}
HALF = re.compile(rf"\s*({'|'.join(HALVES)})\s*([\d:.时時시分분秒초\s]*\d(?:[时時시分분秒초])?)?")
POINTS = re.compile(r"(?<=[\d\s])([ap])\.?\s?m\b\.?")
OCLOCK = re.compile(r"(?<=\d)\s*(?:uhr|o'clock|hrs)\b")
MINUTES, SECONDS = 24 * 60, 86400  # of a day
DAMAGED = 0.1  # share of numbers that are no times: with more of them, they count minutes or seconds


def plain_halves(text: str) -> str:
    """Return a text in lower case with its halves of the day as am and pm behind the time, and without `Uhr`."""
    if not text.isascii() and (found := HALF.search(text)) is not None:
        behind = f" {found[2].strip()}{HALVES[found[1]]}" if found[2] else HALVES[found[1]]
        text = text[: found.start()] + behind + text[found.end() :]
    return OCLOCK.sub("", POINTS.sub(r"\1m", text))


def time_of_day(text: str) -> int | None:
    """Return a time of day as ns since midnight, 0 for an empty text, None for one that is no time of day."""
    if not text.strip(" t,"):
        return 0
    found = CLOCK.fullmatch(text)
    if found is None:
        return None
    hour, minute, second = int(found[1] or found[5]), int(found[2] or 0), int(found[3] or 0)
    if found[6]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if found[6] == "p" else 0)
    if hour > 24 or minute > 59 or second > 59 or (hour == 24 and (minute or second)):
        return None
    fraction = int((found[4] or "").ljust(9, "0"))
    return ((hour * 60 + minute) * 60 + second) * 10**9 + fraction


def read_times_of_day(column: pa.ChunkedArray) -> np.ndarray | None:
    """Read a column of times of day as int64 ns since midnight; None where some hold more or are none.

    Numbers such as 930 and 93000 have as many digits as the longest of the column; of two digits they are hours.
    Where they are no such times, they count the minutes or seconds of the day.
    """
    if pa.types.is_time(column.type):
        return column.cast(pa.time64("ns")).cast(pa.int64()).fill_null(0).to_numpy()
    if not pa.types.is_string(column.type):
        column = column.cast(pa.string())
    code, words = coded(column)
    bare = [plain_halves(word.strip().strip("\"'").lower()) for word in words]
    found: list[int | None]
    if all(re.fullmatch(r"\d{1,9}(\.0*)?", word) for word in bare if word):
        found = _of_digits([word.split(".")[0] for word in bare])
    else:
        found = [time_of_day(word) for word in bare]
    if any(one is None for one in found):
        return None
    return np.append(np.array(found, np.int64), 0)[code]


def _of_digits(words: list[str]) -> list[int | None]:
    longest = max((len(word) for word in words), default=0)
    filled = [f"{word}00" if word else "" for word in words] if longest <= 2 else words
    width = 4 if longest <= 4 else 6 if longest <= 6 else 9
    found = [time_of_day(word.zfill(width) if word else "") for word in filled]
    wrong = sum(one is None for one in found)
    if wrong <= DAMAGED * len(found) or longest > 5:
        return found
    counts = [int(word or 0) for word in words]
    unit = 60 if max(counts) < MINUTES else 1 if longest == 5 and max(counts) < SECONDS else 0
    return [one * unit * 10**9 for one in counts] if unit else found
