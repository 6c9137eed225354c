"""The last day that a pair of models has seen: trained on, chosen by, or pretrained on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from kronos.config import Config
from kronos.errors import UserError
from kronos.registry import ADDRESSES, source_run
from kronos.stages.core import RECORD, read_record
from kronos.tracking import TAG

PUBLIC_SEEN_UNTIL = date(2024, 6, 30)  # the public weights were trained on bars up to this day
PUBLIC = "NeoQuasar/"  # owner of the public weights on the Hub
SEEN_TAG = "seen_until"
UNKNOWN = "unknown"


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
