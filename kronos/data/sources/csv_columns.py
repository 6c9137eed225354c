"""The meaning of columns by their names, with the units that names hold."""

import re
from functools import lru_cache
from typing import NamedTuple

from kronos.data.bars import PRICES
from kronos.data.sources.csv_header_units import read_unit, unit_of
from kronos.data.sources.csv_words import ROLES, TIMES, role_of, squeeze
from kronos.data.sources.csv_zones import zone_of_name
from kronos.utils.errors import UserError

NUMBERS = {"quantidade", "stücke", "stuecke", "stück", "stueck"}
SETTLE, LAST = ("settle", "settleprice", "settlementprice", "settlement"), ("last", "lastprice", "latest")
NOT_A_VOLUME = re.compile(r"volat|taker|adj|avg|average|open|ratio|change|量比|换手|均量|涨")
DAYS = ("day", "tag", "dia", "día", "jour", "giorno", "dag", "日")  # of a month or a year, beside a year
ASSET = re.compile(r"vol(?:ume)?[\s_](?!ma\b|sma|ema|avg|\d)(\w{2,6})")
QUOTES = ("mid", "bid", "ask")  # the sides of a market, the preferred first


class Meaning(NamedTuple):
    """What columns mean: their places by role (the preferred first), the factors of their units, and time zones.

    `unread` are the texts of units of volume and amount that are not understood; `notes` what was chosen. `parts` are
    the places of year, month and day, or of year and day of the year, where no column holds whole days.
    """

    places: dict[str, tuple[int, ...]]
    scales: dict[int, float]
    zones: dict[int, str]
    unread: dict[int, str]
    notes: tuple[str, ...]
    parts: tuple[int, ...] = ()

    def missing(self) -> list[str]:
        """The columns that bars need and that are not there."""
        time = [] if self.parts or any(role in self.places for role in TIMES) else ["datetime"]
        return time + [name for name in PRICES if name not in self.places]


@lru_cache(maxsize=512)
def meaning(names: tuple[str, ...]) -> Meaning:
    """Find what the columns of these names mean.

    Raises UserError where two columns have one name that is needed.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    scales: dict[int, float] = {}
    unread: dict[int, str] = {}
    zones: dict[int, str] = {}
    for place, name in enumerate(names):
        base, text = unit_of(name)
        role, rank = role_of(name)
        unit = read_unit(text) if text else None
        bare, zone = zone_of_name(name) if not role or role in TIMES else ("", None)
        if zone and not role and (timed := role_of(bare))[0] in TIMES:
            role, rank = timed
        if not role and text and role_of(base)[0] in ("volume", "amount"):
            role, rank = role_of(base)
        asset = ASSET.fullmatch(name.strip().lower())
        if not role and asset:
            role, rank = (
                "volume",
                100 + place,
            )  # "Volume BTC" beside "Volume USDT": told apart by their values
            currency = read_unit(asset[1])
            if currency is not None and currency.money:
                role = "amount"
        if not role:
            continue
        if role == "volume" and unit is not None and unit.money:
            role = "amount"
        if role in ("volume", "amount") and text:
            if unit is None:
                unread[place] = text
            elif unit.scale != 1.0:
                scales[place] = unit.scale
        if role in TIMES and zone:
            zones[place] = zone
        found.setdefault(role, []).append((rank, place))
    notes = [*_by_side(names, found), *_settled(names, found)]
    counts = {squeeze(names[place]) for _, place in found.get("volume", ())} & NUMBERS
    if counts and "amount" not in found:  # a volume beside a number of pieces is money
        money = [one for one in found["volume"] if squeeze(names[one[1]]) in ("volume", "volumen")]
        found |= (
            {"amount": money, "volume": [one for one in found["volume"] if one not in money]} if money else {}
        )
    places = {}
    for role, ranked in found.items():
        ranked.sort()
        best = names[ranked[0][1]].strip().lower()
        if sum(name.strip().lower() == best for name in names) > 1:
            raise UserError(f"column {names[ranked[0][1]].strip()} is there twice: rename or remove one")
        places[role] = tuple(place for _, place in ranked)
    return Meaning(places, scales, zones, unread, tuple(notes), _parts(names, places))


def _parts(names: tuple[str, ...], places: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    if "year" not in places or {"datetime", "epoch"} & set(places):
        return ()
    if "date" not in places:
        return (places["year"][0], places["yearday"][0]) if "yearday" in places else ()
    if len(places["date"]) > 1 or squeeze(names[places["date"][0]]) not in DAYS:
        return ()
    return tuple(places[role][0] for role in ("year", "month", "date") if role in places)


def _by_side(names: tuple[str, ...], found: dict[str, list[tuple[int, int]]]) -> list[str]:
    """Take the prices of one side of the market, as in mid.o or BidOpen, where there are no others.

    Raises UserError where there are two sides and no middle.
    """
    if any(price in found for price in PRICES):
        return []
    sides: dict[str, dict[str, int]] = {}
    for place, name in enumerate(names):
        plain = squeeze(name)
        for side in QUOTES:
            if plain.startswith(side) and (role := role_of(plain[len(side) :])[0]) in PRICES:
                sides.setdefault(side, {}).setdefault(role, place)
    whole = [side for side in QUOTES if len(sides.get(side, ())) == len(PRICES)]
    if not whole:
        return []
    if len(whole) > 1 and whole[0] != QUOTES[0]:
        pairs = ",".join(f"{names[sides[whole[0]][price]].strip()}={price}" for price in PRICES)
        raise UserError(
            f"there are prices of {' and '.join(whole)}: choose one, such as --column-names {pairs}"
        )
    for price, place in sides[whole[0]].items():
        found[price] = [(0, place)]
    return [f"Prices are those of {whole[0]}."]


def _settled(names: tuple[str, ...], found: dict[str, list[tuple[int, int]]]) -> list[str]:
    """Say that of a settlement price and a last price without a close the settlement price is the close."""
    ranked = [names[place].strip() for _, place in sorted(found.get("close", ()))]
    last = next((name for name in ranked if squeeze(name) in LAST), "")
    if not last or squeeze(ranked[0]) not in SETTLE:
        return []
    chosen = f"Close is column {ranked[0]}, the official price of the day"
    return [f"{chosen}; --column-names {last}=close takes the last trade."]


def like_a_volume(names: tuple[str, ...], known: Meaning) -> list[int]:
    """Return the places of columns that may be volumes under a name of their own, such as `contracts vol`."""
    used = {place for places in known.places.values() for place in places}
    found = []
    for place, name in enumerate(names):
        text = name.lower()
        if place not in used and re.search(r"vol|量|umsatz", text) and not NOT_A_VOLUME.search(text):
            found.append(place)
    return found


def renamed(
    names: tuple[str, ...], given: tuple[str, ...] | None, headless: bool, further: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the names with those of the field `column_names` (`file's name=our name`) replaced by ours.

    Ours are those of ROLES and of `further` columns.

    A file without a header has its columns named 1, 2, 3, ... Names that the file does not have are left out, since
    other files of the folder may have them. Raises UserError for a name of ours that does not exist.
    """
    if not given:
        return names
    chosen = list(names)
    for pair in given:
        theirs, _, ours = pair.rpartition("=")
        if ours not in (*ROLES, *further):
            expected = ", ".join((*ROLES, *further))
            raise UserError(f"column_names: {pair!r} names no column of ours: one of {expected} was expected")
        for place, name in enumerate(names):
            if name.strip() == theirs.strip() or (headless and str(place + 1) == theirs.strip()):
                chosen[place] = ours
            elif chosen[place].strip().lower() == ours:
                chosen[place] = f"{name} of the file"  # what is named so by the user stands alone
    return tuple(chosen)
