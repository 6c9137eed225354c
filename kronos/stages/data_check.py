"""What the data stage would understand of a source, without a store of it: `python -m kronos data --check`."""

import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data.adjustment import SUSPECTED
from kronos.data.bars import Flag, day_text
from kronos.data.calendars import timezone
from kronos.data.sources.base import BaseDataProcessor
from kronos.data.sources.csv_units import AGREES, UNITS_SAID
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.store import BarStore
from kronos.stages.inputs import backtest_points, resolve_splits, training_splits, windows_of
from kronos.utils.errors import UserError

EXAMPLES = 3  # instruments or cases that a line shows
COLUMNS, LINES = 100, 40  # of the screen
LABEL = 12  # columns that the words in front of a line take


class Refused(UserError):
    """Bars that the data stage refuses; `layouts` is what was understood of their file."""

    def __init__(self, message: str, layouts: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.layouts = layouts


def check(config: Config) -> dict[str, Any]:
    """Return what the data stage would understand of the configured source, as JSON values.

    The store is built by the code of the data stage, in a temporary folder that is removed. Raises Refused with the
    message of the data stage where the bars cannot be used; ranges that do not fit the bars are part of the answer.
    """
    folder = Path(tempfile.mkdtemp(prefix="kronos-check-"))
    try:
        return checked(config, folder / "store")[0]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def checked(config: Config, path: Path) -> tuple[dict[str, Any], BarStore]:
    """What `check` returns, and the store itself, which stays at `path`."""
    own = config.replace(dataset_path=str(path))
    processor = DataProcessorFactory.create_processor(own.data.data_source, own)
    if type(processor).download_data is not BaseDataProcessor.download_data:
        raise UserError(
            f"data_source={own.data.data_source} downloads its bars, so there is nothing to check before:  "
            "python -m kronos data  reports what it understood"
        )
    try:
        store = processor.run_pipeline("")
        return _described(own, processor, store), store
    except UserError as error:
        raise Refused(str(error), processor.understood.get("layouts", [])) from None


def _described(config: Config, processor: BaseDataProcessor, store: BarStore) -> dict[str, Any]:
    real = (np.asarray(store.flags) & Flag.FILLED) == 0
    ends = store.times[real].astype("datetime64[ns]")
    first, last = day_text(pd.DatetimeIndex([ends.min(), ends.max()]))
    findings = [
        {key: one[key] for key in ("kind", "action", "count")} | {"examples": one["items"][:EXAMPLES]}
        for one in store.findings
    ]
    understood = processor.understood
    return {
        "source": config.data.data_source,
        "path": {"csv": config.data.data_path, "qlib": config.data.qlib_data_path}.get(
            config.data.data_source
        ),
        "layouts": understood.get("layouts", []),
        "instruments": {"count": len(store.instruments), "first": list(store.instruments[:EXAMPLES])},
        "bars": int(real.sum()),
        "first_bar": first,
        "last_bar": last,
        "freq": store.freq,
        "calendar": store.calendar,
        "label": store.label,
        "time_zone": str(timezone(store.calendar)),
        "times": understood.get("times", []),
        "dates": understood.get("dates", []),
        "volume_units": understood.get("units"),
        "notes": list(store.source.get("notes", [])),
        "findings": findings,
        "suspected_splits": sum(one["count"] for one in findings if one["kind"] == SUSPECTED),
        "files_left_out": understood.get("files_left_out", []),
        "ranges": _ranges(config, store),
    }


def _ranges(config: Config, store: BarStore) -> dict[str, Any]:
    """Say whether the configured ranges fit the bars: their days and numbers of windows, or the problem."""
    try:
        splits = resolve_splits(config, store)
        train, validation = training_splits(config, store, splits)
        scored = config.data.lookback_window + config.data.predict_window
        counts = {
            "train": len(train),
            "val": len(validation),
            "test": len(windows_of(config, store, "test", splits, scored)),
            "backtest": len(backtest_points(config, store, splits)),
        }
    except UserError as error:
        return {"fit": False, "problem": str(error)}
    days = {name: [str(first), str(last)] for name, (first, last) in splits.days().items()}
    return {"fit": True, "days": days, "windows": counts, "notes": list(splits.notes)}


def screen(found: dict[str, Any]) -> str:
    """Write what `check` returned as at most LINES lines of COLUMNS columns."""
    lines = list(_lines(found))
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"and {len(lines) - LINES + 1} more lines: --json has everything"]
    return "\n".join(lines)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield from _line("source", " ".join(filter(None, (found["source"], found["path"]))))
    layouts = found["layouts"]
    yield from columns(layouts)
    names = found["instruments"]
    more = ", ..." if names["count"] > len(names["first"]) else ""
    yield from _line("instruments", f"{names['count']:,}: {', '.join(names['first'])}{more}")
    length = found["freq"] if found["freq"] == "day" else f"{found['freq']}, named by their {found['label']}"
    yield from _line("bars", f"{found['bars']:,} of {length}; {found['first_bar']} to {found['last_bar']}")
    times = f"; times in the files are {' and '.join(found['times'])}" if found["times"] else ""
    times += f"; dates are {' and '.join(found['dates'])}" if found["dates"] else ""
    yield from _line("calendar", f"{found['calendar']}, time zone {found['time_zone']}{times}", most=2)
    if layouts:
        volumes = dict.fromkeys(one["columns"].get("volume", "none") for one in layouts)
        yield from _line("volume", f"{', '.join(volumes)}; {_units(found['volume_units'])}")
    for note in found["notes"]:
        yield from _line("note", note, most=2)
    ranges = found["ranges"]
    if not ranges["fit"]:
        yield from _line("ranges", f"do not fit the bars: {' '.join(ranges['problem'].split())}", most=3)
    for name, (first, last) in ranges.get("days", {}).items():
        what = "forecasts" if name == "backtest" else "windows"
        text = f"{name} {first}..{last}, {ranges['windows'][name]:,} {what}"
        yield from _line("ranges" if name == "train" else "", text)
    splits = [one for one in found["findings"] if one["kind"] == SUSPECTED]
    yield from _line("splits", "; ".join(map(_finding, splits)) or "none is suspected", most=2)
    others = [one for one in found["findings"] if one["kind"] != SUSPECTED]
    yield from _line("found", "nothing" if not others else _finding(others[0]), most=2)
    for one in others[1:]:
        yield from _line("", _finding(one), most=2)


def columns(layouts: list[dict[str, Any]]) -> Iterator[str]:
    """Write what is understood of the columns of files."""
    for one in layouts[:EXAMPLES]:
        files = f"{one['files']:,} file{'s' * (one['files'] != 1)}"
        tool = f"{one['tool']}; " if one["tool"] else ""
        yield from _line("layout", f"{tool}{one['form']} ({files})", most=2)
        yield from _line(
            "columns", ", ".join(_pair(*pair) for pair in one["columns"].items()) or "none", most=3
        )
        if "instrument" not in one["columns"]:
            yield from _line("", "the file's name is the instrument")
        yield from _line("unused", ", ".join(one["unused"]) or "none", most=2)
    if len(layouts) > EXAMPLES:
        yield from _line("", f"and {len(layouts) - EXAMPLES} other layouts")


def _line(label: str, text: str, most: int = 1) -> list[str]:
    """Wrap a text behind its label; what is beyond `most` lines is cut."""
    lead = f"{label:<{LABEL}}"
    return textwrap.wrap(
        text, COLUMNS, initial_indent=lead, subsequent_indent=" " * LABEL, max_lines=most, placeholder=" ..."
    ) or [lead.rstrip()]


def _pair(role: str, name: str) -> str:
    return role if role == name else f"{role} = {name}"


def _units(found: dict[str, int] | None) -> str:
    if not found:
        return "taken as shares, since there is no amount to compare with"
    said = []
    for text, count in found.items():
        words = {
            AGREES: "in shares, amount in currency, as amount / (volume x price) shows",
            "": "no evidence",
        }
        known = words.get(text) or UNITS_SAID.get(text, f"{text}: converted").rstrip(".")
        said.append(f"{known} ({count:,} instrument{'s' * (count != 1)})")
    return "; ".join(said)


def _finding(one: dict[str, Any]) -> str:
    shown = [" ".join(part for part in item if part not in ("*", "")) for item in one["examples"]]
    examples = "; ".join(text for text in shown if text)
    return f"{one['count']:,} x {one['kind']}, {one['action']}" + (f" ({examples})" if examples else "")
