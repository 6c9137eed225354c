"""The last day that a pair of models has seen: trained on, chosen by, or pretrained on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from kronos.config.schema import Config
from kronos.stages.base import RECORD, read_record
from kronos.tracking.client import TAG
from kronos.tracking.model_registry import ADDRESSES, source_run
from kronos.utils.errors import UserError

PUBLIC_SEEN_UNTIL = date(2024, 6, 30)  # the public weights were trained on bars up to this day
PUBLIC = "NeoQuasar/"  # owner of the public weights on the Hub
SEEN_TAG = "seen_until"
UNKNOWN = "unknown"
STAGE_INPUTS = {
    "tokenizer": ("data",),
    "predictor": ("data", "tokenizer"),
    "backtest": ("data", "tokenizer", "predictor"),
    "predict": ("data", "tokenizer", "predictor"),
}


@dataclass(frozen=True)
class Seen:
    """`until` is the last day seen by either model, None where that is not known and `why` says of what."""

    until: date | None
    why: str = ""

    def text(self) -> str:
        """As a tag keeps it."""
        return UNKNOWN if self.until is None else self.until.isoformat()


def seen_until(config: Config) -> Seen:
    """What the models that a configuration uses have seen; its ranges must be those that were used (`settled`)."""
    return _latest(part for kind in ("tokenizer", "predictor") for part in _of_kind(kind, config, set()))


def weights_seen(kind: str, name: str, config: Config) -> Seen:
    """What the weights of a folder, a Hub name, `runs:/...` or `models:/...` have seen."""
    return _latest(_of_weights(kind, name, config, set()))


def _latest(parts: Iterator[date | str]) -> Seen:
    found = list(parts)
    unknown = [part for part in found if isinstance(part, str)]
    if unknown:
        return Seen(None, unknown[0])
    return Seen(max(part for part in found if isinstance(part, date)))


def seen_by_tag(tags: dict[str, str], what: str) -> Seen:
    """What the tag of a run or of a registered version says."""
    text = tags.get(TAG + SEEN_TAG, UNKNOWN)
    if text == UNKNOWN:
        return Seen(None, f"which days {what} has seen is not known")
    try:
        return Seen(date.fromisoformat(text))
    except ValueError:  # written by hand
        return Seen(None, f"the days that {what} has seen are written {text!r}, expected YYYY-MM-DD")


def _of_kind(kind: str, config: Config, met: set[str]) -> Iterator[date | str]:
    """Yield a day for each training, or a sentence where the days are not known."""
    given = getattr(config, f"{kind}_path")
    if given is not None:
        yield from _of_weights(kind, given, config, met)
        return
    yield from (config.train_time_range[1], config.val_time_range[1])
    pretrained = getattr(config, f"pretrained_{kind}_path")
    if pretrained is not None:
        yield from _of_weights(kind, pretrained, config, met)


def _of_weights(kind: str, name: str, config: Config, met: set[str]) -> Iterator[date | str]:
    if name in met:  # fine-tuned from its own folder
        return
    met.add(name)
    if name.startswith(ADDRESSES):
        yield from _of_run(kind, name, config, met)
    elif Path(name).expanduser().is_dir():
        yield from _of_folder(kind, name, config, met)
    elif name.startswith(PUBLIC):
        yield PUBLIC_SEEN_UNTIL
    else:
        yield f"which days the {kind} {name} has seen is not known"


def _of_folder(kind: str, name: str, config: Config, met: set[str]) -> Iterator[date | str]:
    made: dict[str, Any] = record_of(name)
    fields, splits = made.get("fields", {}), made.get("inputs", {}).get("splits", "")
    days = last_days(splits) or [
        date.fromisoformat(str(fields[field]).split(",")[1])
        for field in ("train_time_range", "val_time_range")
        if field in fields
    ]
    if not days:
        yield f"which days the {kind} in the folder {Path(name).name} has seen is not known: it has no record"
        return
    yield from days
    parent = str(fields.get(f"pretrained_{kind}_path", "none"))
    if parent != "none":
        yield from _of_weights(kind, parent, config, met)


def _of_run(kind: str, address: str, config: Config, met: set[str]) -> Iterator[date | str]:
    run = source_run(address, f"{kind}_path", config.tracking_uri)
    if TAG + SEEN_TAG in run.tags:
        seen = seen_by_tag(run.tags, f"the {kind} {address}")
        yield seen.until or seen.why
        return
    yield from last_days(run.tags.get(TAG + "input_splits", ""))
    own = run.config.model_copy(update={"tracking_uri": config.tracking_uri})
    for part in ("tokenizer", "predictor"):
        yield from _of_kind(part, own, met)


def record_of(name: str) -> dict[str, Any]:
    """What the weights in a folder were made from, by the record of the stage that made them."""
    made: dict[str, Any] = record_of_weights(name).get("made_from", {})
    return made


def record_of_weights(name: str) -> dict[str, Any]:
    """The record of the stage that made the weights in a folder; empty where there is none that can be read."""
    folder = Path(name).expanduser()
    for place in (folder, *folder.absolute().parents[:2]):
        if (place / RECORD).is_file():
            try:
                return read_record(place)
            except UserError:
                return {}
    return {}


def last_days(splits: str) -> list[date]:
    """Last days of the ranges that a training's record names, as `Ranges.text` writes them."""
    return [date.fromisoformat(day) for day in re.findall(r"\.\.(\d{4}-\d\d-\d\d)", splits)]


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


def parents(stage: str, config: Config) -> dict[str, str]:
    """`KIND_run`, the run id of whoever made an input of a stage, as far as its record or its address says."""
    found = {f"{kind}_run": _run_of(kind, config) for kind in STAGE_INPUTS.get(stage, ())}
    return {name: run for name, run in found.items() if run}


def _run_of(kind: str, config: Config) -> str:
    if kind == "data":
        folder = Path(config.dataset_path)
        return str(read_record(folder).get("run_id", "")) if (folder / RECORD).is_file() else ""
    given = getattr(config, f"{kind}_path")
    if given is None and kind == "tokenizer" and config.freeze_tokenizer:
        given = config.pretrained_tokenizer_path
    if given is None:
        given = str(getattr(config, f"{kind}_folder"))
    elif given.startswith(ADDRESSES):
        return source_run(given, f"{kind}_path", config.tracking_uri).id
    return str(record_of_weights(given).get("run_id", ""))
