"""Days that a model may have seen before: what the first lines of a report must warn of."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from kronos.config import Config
from kronos.registry import ADDRESSES
from kronos.stages.seen import record_of, weights_seen


def seen_before(config: Config) -> list[str]:
    """Sentences on days of the backtest that training, validation or pretraining may have seen; [] is clean."""
    begin, end = config.backtest_time_range
    found: list[str] = []
    for kind in ("tokenizer", "predictor"):
        given, pretrained = getattr(config, f"{kind}_path"), getattr(config, f"pretrained_{kind}_path")
        if given is None:
            ranges = {"trained": config.train_time_range, "chosen by validation": config.val_time_range}
            found += _overlaps(kind, ranges, begin, end)
            found += _pretrained(kind, pretrained, begin, config) if pretrained is not None else ()
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


def _pretrained(kind: str, name: str, begin: date, config: Config) -> Iterator[str]:
    """Weights of a folder or of the Hub: the last day that they, or what they were fine-tuned from, have seen."""
    seen = weights_seen(kind, name, config)
    if seen.until is None:
        yield f"the {kind} comes from {_short(name)}: the days that it was trained on are not known."
    elif seen.until >= begin:
        yield (
            f"the {kind} comes from weights ({_short(name)}) that have or may have seen the days of the backtest up "
            f"to {seen.until}: only later days are clean."
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
        return
    yield from _overlaps(kind, ranges, begin, end)
    parent = str(fields.get(f"pretrained_{kind}_path", "none"))
    if parent != "none":
        yield from _pretrained(kind, parent, begin, config)


def _short(name: str) -> str:
    """A Hub name as it is, a folder by its last part: reports name no machine's paths."""
    return name if not Path(name).expanduser().exists() else Path(name).name
