"""The length of a bar, as the field `freq` names it: a number of minutes, a day, a week or a month."""

DAYS = {"day": 1, "week": 7, "month": 30}  # about how many days a bar covers
PERIODS = {"week": "W-SUN", "month": "M"}  # pandas' names of the weeks (Monday to Sunday) and months


def within_day(freq: str) -> bool:
    """Return whether a bar is shorter than a day."""
    return freq not in DAYS


def minutes(freq: str) -> int:
    """Return the minutes of a bar within a day."""
    return int(freq.removesuffix("min"))


def finer(freq: str, other: str) -> bool:
    """Return whether bars of `freq` are shorter than those of `other`, and whole numbers of them fit into it."""
    if within_day(freq) and within_day(other):
        return minutes(freq) < minutes(other) and minutes(other) % minutes(freq) == 0
    return within_day(freq) or (not within_day(other) and DAYS[freq] < DAYS[other] and freq == "day")
