"""Days that a model may have seen before: what the first lines of a report must warn of."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from kronos.config import Config
from kronos.registry import ADDRESSES
from kronos.stages.seen import PUBLIC_SEEN_UNTIL, record_of, weights_seen


def seen_before(config: Config) -> list[str]:
    """Sentences on days of the backtest that training, validation or pretraining may have seen; [] is clean."""
    begin, end = config.backtest_time_range
    found: list[str] = []
    for kind in ("tokenizer", "predictor"):
        given, pretrained = getattr(config, f"{kind}_path"), getattr(config, f"pretrained_{kind}_path")
        if given is None:
            ranges = {"trained": config.train_time_range, "chosen by validation": config.val_time_range}
            found += _overlaps(kind, ranges, begin, end)
            found += _pretrained(kind, pretrained, begin, config)
        else:
            found += (
                _tracked(kind, config, begin)
                if given.startswith(ADDRESSES)
                else _given(kind, given, begin, end, config)
            )
    return list(dict.fromkeys(found))


def _overlaps(kind: str, ranges: dict[str, tuple[date, date]], begin: date, end: date) -> Iterator[str]:
    for word, (first, last) in ranges.items():
        if last < begin:
            continue
        if first > end:
            yield f"the {kind} was {word} on days after the backtest ({first} to {last})."
        else:
            yield (
                f"the {kind} was {word} on days of the backtest: {max(first, begin)} to {min(last, end)} lie within "
                f"{first} to {last}."
            )


def _pretrained(kind: str, name: str | None, begin: date, config: Config) -> Iterator[str]:
    if name is None:
        return
    seen = weights_seen(kind, name, config)
    if seen.until is not None and seen.until != PUBLIC_SEEN_UNTIL:
        if seen.until >= begin:
            yield (
                f"the {kind} starts from {_short(name)}, which was trained or chosen on days up to {seen.until}, "
                "days of the backtest among them."
            )
    elif begin <= PUBLIC_SEEN_UNTIL:
        yield (
            f"the {kind} starts from pretrained weights ({_short(name)}), which may have seen the days of "
            "the backtest up "
            f"to {PUBLIC_SEEN_UNTIL}: only later days are clean for the public ones."
        )


def _tracked(kind: str, config: Config, begin: date) -> Iterator[str]:
    """Weights of a tracked run or of the registry: what their run says."""
    address = getattr(config, f"{kind}_path")
    seen = weights_seen(kind, address, config)
    if seen.until is None:
        yield f"the {kind} is from {address}: the days that it was trained on are not known."
    elif seen.until >= begin:
        yield f"the {kind} from {address} was trained or chosen on days up to {seen.until}."


def _given(kind: str, name: str, begin: date, end: date, config: Config) -> Iterator[str]:
    """Weights from elsewhere: what their own record says, where they have one."""
    fields = record_of(name).get("fields", {})
    ranges = {}
    for word, field in (("trained", "train_time_range"), ("chosen by validation", "val_time_range")):
        if field in fields:
            first, last = (date.fromisoformat(day) for day in str(fields[field]).split(","))
            ranges[word] = (first, last)
    if not ranges:
        yield from _pretrained(kind, name, begin, config)
        if begin > PUBLIC_SEEN_UNTIL and "/" in name and Path(name).expanduser().is_dir():
            yield f"the {kind} is from {_short(name)}: the days that it was trained on are not known."
        return
    yield from _overlaps(kind, ranges, begin, end)
    parent = str(fields.get(f"pretrained_{kind}_path", "none"))
    yield from _pretrained(kind, None if parent == "none" else parent, begin, config)


def _short(name: str) -> str:
    """A Hub name as it is, a folder by its last part: reports name no machine's paths."""
    return name if not Path(name).expanduser().exists() else Path(name).name
