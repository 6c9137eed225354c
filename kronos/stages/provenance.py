"""The last day of data that a pair of models has seen in training, validation or pretraining."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from kronos.config.schema import Config
from kronos.data.splits import Ranges
from kronos.stages.cache import read_record
from kronos.stages.weights import KINDS, Kind, given_address, pretrained_address, record_of_weights
from kronos.tracking.client import TAG
from kronos.tracking.model_registry import ADDRESSES, source_run
from kronos.utils.files import RECORD, given_path

PUBLIC_SEEN_UNTIL = date(2024, 6, 30)  # the public weights were trained on bars up to this day
PUBLIC = "NeoQuasar/"  # owner of the public weights on the Hub
SEEN_TAG = "seen_until"
UNKNOWN = "unknown"
STAGE_INPUTS: dict[str, tuple[Literal["data", "tokenizer", "predictor"], ...]] = {
    "tokenizer": ("data",),
    "predictor": ("data", "tokenizer"),
    "backtest": ("data", "tokenizer", "predictor"),
    "predict": ("data", "tokenizer", "predictor"),
    "head": ("data", "tokenizer", "predictor"),
}


@dataclass(frozen=True)
class Seen:
    """`until` is the last day seen by either model; None where it is unknown, and then `why` is the reason."""

    until: date | None
    why: str = ""

    def text(self) -> str:
        """The value of the tag `kronos.seen_until`: an ISO date or `unknown`."""
        return UNKNOWN if self.until is None else self.until.isoformat()


def seen_until(config: Config, splits: Ranges) -> Seen:
    """The last day seen by the models that a configuration uses."""
    return _latest(part for kind in KINDS for part in _of_kind(kind, config, set(), splits))


def weights_seen(kind: Kind, name: str, config: Config) -> Seen:
    """The last day seen by the weights at a folder, Hub name, `runs:/...` or `models:/...`."""
    return _latest(_of_weights(kind, name, config, set()))


def _latest(parts: Iterator[date | str]) -> Seen:
    found = list(parts)
    unknown = [part for part in found if isinstance(part, str)]
    if unknown:
        return Seen(None, unknown[0])
    return Seen(max(part for part in found if isinstance(part, date)))


def seen_by_tag(tags: dict[str, str], what: str) -> Seen:
    """The last day seen according to the tag of a run or registered version; `what` names it in the reason."""
    text = tags.get(TAG + SEEN_TAG, UNKNOWN)
    if text == UNKNOWN:
        return Seen(None, f"which days {what} has seen is not known")
    try:
        return Seen(date.fromisoformat(text))
    except ValueError:  # written by hand
        return Seen(None, f"the tag with the days that {what} has seen is {text!r}, expected YYYY-MM-DD")


def _of_kind(kind: Kind, config: Config, met: set[str], splits: Ranges | None = None) -> Iterator[date | str]:
    """Yield the last day of each training, or a reason if unknown; without splits only that of pretraining."""
    given = given_address(kind, config)
    if given is not None:
        yield from _of_weights(kind, given, config, met)
        return
    if splits is not None:
        yield from (splits.train[1], splits.val[1])
    pretrained = pretrained_address(kind, config)
    if pretrained is not None:
        yield from _of_weights(kind, pretrained, config, met)


def _of_weights(kind: Kind, name: str, config: Config, met: set[str]) -> Iterator[date | str]:
    if name in met:  # fine-tuned from its own folder
        return
    met.add(name)
    if name.startswith(ADDRESSES):
        yield from _of_run(kind, name, config, met)
    elif given_path(name).is_dir():
        yield from _of_folder(kind, name, config, met)
    elif name.startswith(PUBLIC):
        yield PUBLIC_SEEN_UNTIL
    else:
        yield f"which days the {kind} {name} has seen is not known"


def _of_folder(kind: Kind, name: str, config: Config, met: set[str]) -> Iterator[date | str]:
    record = record_of_weights(name)
    ranges = _ranges_of(record)
    if not ranges:
        yield f"which days the {kind} in the folder {Path(name).name} has seen is not known: it has no record"
        return
    yield from (last for _, last in ranges.values())
    parent = _parent_of(kind, record)
    if parent is not None:
        yield from _of_weights(kind, parent, config, met)


def _of_run(kind: Kind, address: str, config: Config, met: set[str]) -> Iterator[date | str]:
    run = source_run(address, f"{kind}_path", config.tracking.tracking_uri)
    if TAG + SEEN_TAG in run.tags:
        seen = seen_by_tag(run.tags, f"the {kind} {address}")
        yield seen.until or seen.why
        return
    own = run.config.replace(tracking_uri=config.tracking.tracking_uri)
    days = [last for _, last in days_of(run.tags.get(TAG + "input_splits", "")).values()]
    given = [range[1] for range in (own.data.train_time_range, own.data.val_time_range) if range is not None]
    if not days and not given:
        yield f"which days the {kind} {address} has seen is not known"
    yield from days or given
    for part in KINDS:
        yield from _of_kind(part, own, met)


def days_of(splits: str) -> dict[str, tuple[date, date]]:
    """First and last day of training and validation, from the text of `Ranges.text`."""
    found = re.findall(r"(train|val) (\d{4}-\d\d-\d\d)\.\.(\d{4}-\d\d-\d\d)", splits)
    return {name: (date.fromisoformat(first), date.fromisoformat(last)) for name, first, last in found}


def seen_before(config: Config, splits: Ranges) -> list[str]:
    """Warnings about backtest days that training, validation or pretraining may have seen; [] if there are none."""
    if len(members := config.members()) > 1:
        return list(dict.fromkeys(line for one in members for line in seen_before(one, splits)))
    begin, end = splits.backtest
    found: list[str] = []
    for kind in KINDS:
        given, pretrained = given_address(kind, config), pretrained_address(kind, config)
        if given is None:
            ranges = {"trained": splits.train, "chosen by validation": splits.val}
            found += _overlaps(kind, ranges, begin, end)
            found += _pretrained(kind, pretrained, begin, config) if pretrained is not None else ()
        else:
            found += (
                _tracked(kind, given, config, begin)
                if given.startswith(ADDRESSES)
                else _given(kind, given, begin, end, config)
            )
    return list(dict.fromkeys(found))


def trained_on(config: Config, days: tuple[date, date]) -> list[str]:
    """Notes on weights that were trained on days that bands are calibrated on; [] if there are none."""
    if len(members := config.members()) > 1:
        return list(dict.fromkeys(line for one in members for line in trained_on(one, days)))
    found = []
    for kind in KINDS:
        given = given_address(kind, config)
        ranges = _ranges_of(record_of_weights(given)) if given and not given.startswith(ADDRESSES) else {}
        if "trained" in ranges:
            until = ranges["trained"][1]
        else:
            address = pretrained_address(kind, config) if given is None else given
            until = (weights_seen(kind, address, config).until if address else None) or date.min
        if until >= days[0]:
            found.append(
                f"the {kind} was or may have been trained on bars up to {until}: bands calibrated from {days[0]} on "
                "may be too narrow"
            )
    return found


def _overlaps(kind: Kind, ranges: dict[str, tuple[date, date]], begin: date, end: date) -> Iterator[str]:
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


def _pretrained(kind: Kind, name: str, begin: date, config: Config) -> Iterator[str]:
    """Warn about weights of a folder or the Hub by the last day that they or their pretrained weights have seen."""
    seen = weights_seen(kind, name, config)
    if seen.until is None:
        yield f"the {kind} comes from {_short(name)}: the days that it was trained on are not known."
    elif seen.until >= begin:
        yield (
            f"the {kind} comes from weights ({_short(name)}) that have or may have seen the days of the backtest up "
            f"to {seen.until}: only later days are clean."
        )


def _tracked(kind: Kind, address: str, config: Config, begin: date) -> Iterator[str]:
    """Warn about weights of a tracked run or of the model registry, by the tags of their run."""
    seen = weights_seen(kind, address, config)
    if seen.until is None:
        yield f"the {kind} is from {address}: the days that it was trained on are not known."
    elif seen.until >= begin:
        yield f"the {kind} from {address} was trained or chosen on days up to {seen.until}."


def _given(kind: Kind, name: str, begin: date, end: date, config: Config) -> Iterator[str]:
    """Warn about weights given by the configuration, by their record if they have one."""
    record = record_of_weights(name)
    ranges = _ranges_of(record)
    if not ranges:
        yield from _pretrained(kind, name, begin, config)
        return
    yield from _overlaps(kind, ranges, begin, end)
    parent = _parent_of(kind, record)
    if parent is not None:
        yield from _pretrained(kind, parent, begin, config)


def _ranges_of(record: Mapping[str, Any]) -> dict[str, tuple[date, date]]:
    """Training and validation days of weights, from their record; empty where it does not contain them."""
    made_from = record.get("made_from", {})
    found = days_of(made_from.get("inputs", {}).get("splits", ""))
    words = {"train": "trained", "val": "chosen by validation"}
    for name in words.keys() - found.keys():  # records written before the splits were an input
        text = made_from.get("fields", {}).get(f"{name}_time_range")
        if text is not None:
            first, last = (date.fromisoformat(day) for day in str(text).split(","))
            found[name] = (first, last)
    return {words[name]: found[name] for name in words if name in found}


def _parent_of(kind: Kind, record: Mapping[str, Any]) -> str | None:
    """Address of the weights that training started from; None for random initialization."""
    if "started_from" in record:
        address = record["started_from"]["address"]
        return None if address is None else str(address)
    given = str(record.get("made_from", {}).get("fields", {}).get(f"pretrained_{kind}_path", "none"))
    return None if given == "none" else given  # records written before `started_from`


def _short(name: str) -> str:
    """A Hub name unchanged, a folder by its last part, so that reports contain no local paths."""
    return name if not given_path(name).exists() else Path(name).name


def parent_runs(stage: str, config: Config) -> dict[str, str]:
    """Tags `KIND_run` with the runs that produced the inputs of a stage, where records or addresses tell."""
    found = {f"{kind}_run": _run_of(kind, config) for kind in STAGE_INPUTS.get(stage, ())}
    return {name: run for name, run in found.items() if run}


def _run_of(kind: Literal["data", "tokenizer", "predictor"], config: Config) -> str:
    if kind == "data":
        folder = Path(config.data.dataset_path)
        return str(read_record(folder).get("run_id", "")) if (folder / RECORD).is_file() else ""
    address = given_address(kind, config) or str(config.model_folder(kind))
    if address.startswith(ADDRESSES):
        return source_run(address, f"{kind}_path", config.tracking.tracking_uri).id
    return str(record_of_weights(address).get("run_id", ""))
