"""Time zones as files write them: offsets, abbreviations and names, behind a time or in the name of a column."""

import re
from collections.abc import Sequence
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pandas as pd

from kronos.utils.errors import UserError

NONE = np.iinfo(np.int64).min  # NaT
MINUTE = 60 * 10**9
FARTHEST = 14 * 60  # minutes that a zone may be away from UTC
MOST_OFFSETS = 6  # of one column: more of them are the ends of intervals, such as 09:30-10:00
FIXED = {
    "z": 0, "utc": 0, "gmt": 0, "uct": 0, "zulu": 0, "wet": 0, "west": 60, "cet": 60, "cest": 120, "mez": 60,
    "mesz": 120, "eet": 120, "eest": 180, "msk": 180, "мск": 180, "trt": 180, "sast": 120, "idt": 180, "pkt": 300,
    "ict": 420, "wib": 420, "hkt": 480, "sgt": 480, "myt": 480, "pht": 480, "awst": 480, "jst": 540, "kst": 540,
    "aest": 600, "aedt": 660, "acst": 570, "acdt": 630, "nzst": 720, "nzdt": 780, "est": -300, "edt": -240,
    "cdt": -300, "mdt": -360, "pst": -480, "pdt": -420, "akst": -540, "akdt": -480, "hst": -600, "adt": -180,
    "brt": -180, "brst": -120, "art": -180,
}  # fmt: skip
AMBIGUOUS = {  # where they are used, and the abbreviation beside which they mean one of these
    "ist": ("India, Israel and Ireland", "idt", 120),
    "cst": ("America, China and Cuba", "cdt", -360),
    "bst": ("Britain and Bangladesh", "gmt", 60),
    "mst": ("America and Malaysia", "mdt", -420),
    "ast": ("America and Arabia", "adt", -240),
    "gst": ("the Gulf and South Georgia", "", 0),
    "sst": ("Samoa and Singapore", "", 0),
}
SEASONAL = {  # the places whose clocks abbreviations show for a part of the year
    "est": "America/New_York", "edt": "America/New_York", "cdt": "America/Chicago", "mdt": "America/Denver",
    "pst": "America/Los_Angeles", "pdt": "America/Los_Angeles", "cet": "Europe/Berlin", "cest": "Europe/Berlin",
    "mez": "Europe/Berlin", "mesz": "Europe/Berlin", "wet": "Europe/Lisbon", "west": "Europe/Lisbon",
    "eet": "Europe/Helsinki", "eest": "Europe/Helsinki", "aest": "Australia/Sydney", "aedt": "Australia/Sydney",
    "nzst": "Pacific/Auckland", "nzdt": "Pacific/Auckland", "idt": "Asia/Jerusalem",
}  # fmt: skip
PLACES = {
    "America/New_York": "et eastern easterntime newyork newyorktime ny nytime 美东时间 美東時間 美国东部时间",
    "America/Chicago": "ct central centraltime chicago chicagotime",
    "America/Los_Angeles": "pt pacific pacifictime",
    "Asia/Shanghai": "北京时间 北京時間 中国时间 中国标准时间 beijing beijingtime shanghai chinastandardtime",
    "Asia/Hong_Kong": "香港时间 香港時間 hongkongtime",
    "Asia/Tokyo": "东京时间 日本时间 日本時間 tokyo tokyotime japanstandardtime",
    "Asia/Seoul": "한국시간 seoul",
    "Asia/Taipei": "台北時間 台北时间 taipei",
    "Europe/London": "london londontime ldn uktime",
    "Europe/Berlin": "frankfurt berlin mezmesz cetcest",
    "Europe/Moscow": "московское московскоевремя moscow",
    "Asia/Kolkata": "indiastandardtime mumbai",
    "Etc/UTC": "coordinateduniversaltime 世界标准时间 协调世界时",
}
_PLACES = {name: area for area, names in PLACES.items() for name in names.split()}
OFFSET = re.compile(r"(?:gmt|utc)?\s?([+-])(\d{1,2})(?::?(\d\d))?(?::?(\d\d))?")
AREA = re.compile(r"[a-z_]+(/[a-z_-]+)+")
BEHIND_CLOCK = re.compile(  # an offset behind a time of day
    r"(.*?(?:\d:\d\d(?::\d\d)?(?:[.,:]\d+)?|[t ]\d{4}(?:\d\d)?(?:[.,]\d+)?|t\d\d|[ap]m))\s*"
    r"((?:gmt|utc)?\s?[+-]\d{1,2}(?::?\d\d)?(?::?\d\d)?)"
)
BEHIND_DATE = re.compile(  # a minus behind a date may stand before its time of day
    r"(\d{4}-\d\d-\d\d|.*\d\s?(?=gmt|utc))\s*(\+\d\d:\d\d|(?:gmt|utc)[+-]\d\d?(?::?\d\d)?)"
)
NAMED = re.compile(r"(.*\d(?:\s?[ap]m(?![^\W\d_]))?)\s*([^\W\d_][^\d()\[\]]*)")
WITH_DIGITS = re.compile(r"(.*?\d(?:\s?[ap]m)?)\s*(etc/gmt[+-]\d{1,2}|[ecmp]st\d[ecmp]dt)")
IN_BRACKETS = re.compile(r"(.*\S)\s*[(\[]([^()\[\]]+)[)\]]")  # behind the time: a comment, or the zone itself
NOT_IN_HEADERS = {
    "z",
    "art",
    "ny",
    "central",
    "eastern",
    "pacific",
}  # words that names of columns hold otherwise


def split_zone(text: str) -> tuple[str, str | None]:
    """Split off the zone behind a time in lower case; None where there is none, and where it is not known."""
    tail = IN_BRACKETS.fullmatch(text)
    if tail is not None:
        bare, zone = split_zone(tail[1])
        inside = tail[2].strip()
        return (bare, zone) if zone else (tail[1], inside) if is_zone(inside) else (text, None)
    found = BEHIND_CLOCK.fullmatch(text) or BEHIND_DATE.fullmatch(text)
    if found is not None:
        return found[1].strip(), found[2].strip()
    found = WITH_DIGITS.fullmatch(text) or NAMED.fullmatch(text)
    return (found[1], found[2].strip()) if found is not None and is_zone(found[2].strip()) else (text, None)


@lru_cache(maxsize=256)
def is_zone(text: str) -> bool:
    """Return whether a text in lower case names a zone, known or not, or is an offset."""
    return bool(
        text in FIXED or text in AMBIGUOUS or OFFSET.fullmatch(text) or AREA.fullmatch(text) or _area(text)
    )


@lru_cache(maxsize=256)
def _area(text: str) -> str:
    """Return the name in the database of time zones; empty for others."""
    squeezed = re.sub(r"[\W_]+", "", text)
    if squeezed in _PLACES:
        return _PLACES[squeezed]
    squeezed = re.sub(r"(standard|daylight)time$", "time", squeezed)
    if squeezed in _PLACES or len(text) < 3 or not text.isascii():
        return _PLACES.get(squeezed, "")
    return _database().get(text.replace(" ", "_"), "")


@lru_cache(maxsize=1)
def _database() -> dict[str, str]:
    return {name.lower(): name for name in available_timezones() if name not in ("Factory", "localtime")}


def minutes_ahead(
    zones: Sequence[str | None], local: np.ndarray, known: bool, code: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many minutes ahead of UTC the zones of times are, and which of the times have one, both [N].

    `local` are the times that the clocks showed, int64 ns; `zones` are theirs, or those to which `code` points.
    Abbreviations of several places have no zone where the zone is `known` otherwise. Raises UserError for them where
    it is not, and for unknown zones.
    """
    ahead, zoned = np.zeros(len(local), np.int64), np.zeros(len(local), bool)
    if code is None:
        code, different = pd.factorize(np.array(zones, dtype=object), use_na_sentinel=False)
        zones = list(different)
    rows: dict[str, np.ndarray] = {}
    for place, zone in enumerate(zones):
        if isinstance(zone, str):  # two texts may name one zone
            rows[zone] = np.append(rows.get(zone, np.zeros(0, np.int64)), np.flatnonzero(code == place))
    if _are_ends(rows, local):
        raise UserError(
            f"the times end with many different offsets, such as {' and '.join(list(rows)[:2])}: if they are "
            "intervals, write the begin of each"
        )
    for zone, places in rows.items():
        if zone in AMBIGUOUS:
            used, beside, minutes = AMBIGUOUS[zone]
            if beside not in rows and known:
                continue
            if beside not in rows:
                raise UserError(
                    f"the time zone {zone.upper()} is used in {used}: give --time-zone, such as {_example(zone)}"
                )
            ahead[places] = minutes
        else:
            ahead[places] = zone_minutes(zone, local[places])
        zoned[places] = True
    return ahead, zoned


def _are_ends(rows: dict[str, np.ndarray], local: np.ndarray) -> bool:
    """Return whether offsets are the ends of intervals: there are many, or all are as far behind their times."""
    behind = [zone for zone in rows if re.fullmatch(r"-\d\d:\d\d", zone)]
    if len(behind) > MOST_OFFSETS:
        return True
    if len(rows) < 2 or len(behind) < len(rows):
        return False
    far = {
        int(local[row] // MINUTE % 1440) - _of_offset(zone) for zone, places in rows.items() for row in places
    }
    return len(far) == 1 and far.pop() < 0


def _of_offset(zone: str) -> int:
    return int(zone[1:3]) * 60 + int(zone[4:6])


def _example(zone: str) -> str:
    return {"ist": "Asia/Kolkata", "cst": "America/Chicago or Asia/Shanghai", "bst": "Europe/London"}.get(
        zone, "America/New_York"
    )


def zone_minutes(zone: str, local: np.ndarray) -> np.ndarray | int:
    """Return how many minutes a zone is ahead of UTC at local times, int64 ns. Raises UserError for no zone."""
    if zone in FIXED:
        return FIXED[zone]
    if (found := OFFSET.fullmatch(zone)) is not None:
        minutes = int(found[2]) * 60 + int(found[3] or 0)
        if minutes > FARTHEST or int(found[3] or 0) > 59:
            raise UserError(f"the time zone {zone!r} is not known: offsets are between -12:00 and +14:00")
        return minutes if found[1] == "+" else -minutes
    area = _area(zone)
    if not area:
        raise UserError(f"the time zone {zone!r} is not known: give --time-zone, such as America/New_York")
    return _of_area(area, local)


def _of_area(area: str, local: np.ndarray) -> np.ndarray:
    known = local != NONE
    times = pd.DatetimeIndex(local[known].astype("datetime64[ns]"))
    moments = times.tz_localize(
        ZoneInfo(area), ambiguous=np.ones(len(times), bool), nonexistent="shift_forward"
    )
    ahead = np.zeros(len(local), np.int64)
    walls = moments.tz_localize(None).as_unit("ns").asi8
    ahead[known] = (walls - moments.as_unit("ns").asi8) // MINUTE
    return ahead


@lru_cache(maxsize=512)
def zone_of_name(name: str) -> tuple[str, str | None]:
    """Split the name of a column into the name without a zone, and the zone in it, None where there is none."""
    text = re.sub(r"(?<=[a-z])(?=(?:UTC|GMT|Utc|Gmt|EST|EDT|CET)\b)", " ", name.strip().strip("\"'")).lower()
    text = text.translate(str.maketrans("（）［］【】−", "()[][]-"))
    for inside in re.findall(r"[(\[]([^()\[\]]+)[)\]]", text):
        if is_zone(inside.strip()) and inside.strip() not in NOT_IN_HEADERS - {"ny"}:
            return re.sub(r"[(\[][^()\[\]]*[)\]]", "", text).strip(), inside.strip()
    found = re.fullmatch(r"(.+?)[\s_,:/-]+((?:gmt|utc)\s?[+-]\d{1,2}(?::?\d\d)?)", text)
    found = found or re.fullmatch(r"(.+?)[\s_,:-]+([a-z]+/[a-z_]+|[^\W\d_]{2,6}|[^\W\d_]+ time)", text)
    if found is not None and _in_header(found[2]):
        return found[1], found[2]
    found = re.fullmatch(r"([^\W\d_]{2,4})[\s_-]+(.+)", text) or re.fullmatch(r"(utc|gmt)(\w+)", text)
    if found is not None and _in_header(found[1]):
        return found[2], found[1]
    found = re.fullmatch(r"(\w+)(utc|gmt)", text)
    return (found[1], found[2]) if found is not None else (text, None)


def _in_header(word: str) -> bool:
    return word not in NOT_IN_HEADERS and is_zone(word)


def header_minutes(name: str, zone: str, local: np.ndarray) -> np.ndarray:
    """Return how many minutes ahead of UTC the zone in a column's name is at local times, int64 ns.

    Raises UserError for an abbreviation of several places, and for one that is in force for only a part of the year
    where times lie in the other part: the name does not tell whether the clock was changed.
    """
    if zone in AMBIGUOUS:
        raise UserError(
            f"column {name} names {zone.upper()}, which is used in {AMBIGUOUS[zone][0]}: give --time-zone, such as "
            f"{_example(zone)}"
        )
    ahead = np.broadcast_to(np.asarray(zone_minutes(zone, local), np.int64), local.shape)
    if zone in SEASONAL and (_of_area(SEASONAL[zone], local) != ahead)[local != NONE].any():
        hours = -ahead[0] / 60
        raise UserError(
            f"column {name} names {zone.upper()}, and some of its times lie in the part of the year in which "
            f"{SEASONAL[zone]} has another clock: give --time-zone {SEASONAL[zone]}, or Etc/GMT{hours:+g} for a "
            "clock that is never changed"
        )
    return np.where(local == NONE, 0, ahead)
