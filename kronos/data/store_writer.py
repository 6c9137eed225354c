"""Write the bar store: gather aligned bars part by part, then write a temporary folder, renamed on success."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES, Finding
from kronos.data.calendars import next_sessions
from kronos.data.calendars import sessions as calendar_sessions
from kronos.data.quality_report import report_markdown
from kronos.data.store import FORMAT, SESSIONS_AFTER, BarStore, describe_file, open_store
from kronos.utils import files
from kronos.utils.digests import canonical
from kronos.utils.errors import UserError


def store_sessions(
    calendar: str,
    first: Any,
    last: Any,
    freq: str = "day",
    label: str = "end",
    past: pd.DatetimeIndex | None = None,
) -> pd.DatetimeIndex:
    """Return the exchange's sessions from `first` to SESSIONS_AFTER sessions after `last`.

    `past` are the sessions up to `last` where they were observed.
    """
    within = calendar_sessions(calendar, first, last, freq, label) if past is None else past
    within = within[(within >= pd.Timestamp(first)) & (within <= pd.Timestamp(last))]
    return pd.DatetimeIndex(within.append(next_sessions(calendar, last, SESSIONS_AFTER, freq, label)))


@dataclass
class StoreParts:
    """Aligned bars (see `bars.align`) collected part by part; each instrument is in one part only."""

    names: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    arrays: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {"values": [], "session": [], "flags": []}
    )

    def add(self, frame: pd.DataFrame) -> None:
        """Add the bars of some instruments. Raises UserError where they are not sorted and unique."""
        session = frame["session"].to_numpy().astype("<i4")
        code, names = pd.factorize(frame["instrument"])
        step = np.diff(code)
        if not (((step == 1) | ((step == 0) & (np.diff(session) > 0))).all()):
            raise UserError(
                "bars are not sorted by instrument and session without repeats: clean and align them first"
            )
        with np.errstate(over="ignore"):  # refused below, in one line
            values = np.column_stack([frame[name].to_numpy().astype("<f4") for name in FEATURES])
        if not np.isfinite(values).all():
            row = frame.iloc[int(np.flatnonzero(~np.isfinite(values).all(1))[0])]
            raise UserError(
                f"{row['instrument']} on {row['datetime']:%Y-%m-%d} has a value that is missing or too large for "
                "float32: clean the bars first"
            )
        self.names += [str(name) for name in names]
        self.lengths += np.bincount(code, minlength=len(names)).tolist()
        for name, array in (
            ("values", values),
            ("session", session),
            ("flags", frame["flag"].to_numpy("|u1")),
        ):
            self.arrays[name].append(array)

    def merged(self) -> dict[str, np.ndarray]:
        """Concatenate the arrays of all parts, sorted by instrument; the parts are emptied."""
        if not self.names:
            raise UserError(
                "there is no bar to store: check the source, dataset_begin_time and dataset_end_time"
            )
        if len(set(self.names)) < len(self.names):
            raise UserError("bars of one instrument came in two parts: they belong in one")
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        in_order = order == list(range(len(order)))
        begins = np.append(0, np.cumsum(self.lengths))
        merged = {}
        for name in list(self.arrays):
            whole = np.concatenate(self.arrays.pop(name))
            if not in_order:
                whole = np.concatenate([whole[begins[i] : begins[i + 1]] for i in order])
            merged[name] = whole
        merged["offsets"] = np.append(0, np.cumsum([self.lengths[i] for i in order])).astype("<i8")
        self.names = [self.names[i] for i in order]
        return merged


def write_store(
    path: str | Path,
    bars: pd.DataFrame | StoreParts,
    *,
    sessions: pd.DatetimeIndex,
    last_session: int,
    calendar: str,
    freq: str,
    source: dict[str, Any],
    findings: Sequence[Finding],
    key: str = "",
    label: str = "end",
    benchmark: pd.Series | None = None,
) -> BarStore:
    """Write aligned bars as a store at `path` and open it; a store already there is replaced.

    `benchmark` holds the closes of the universe's index by time, under its name. Raises UserError when `path`
    holds something else, or when the bars are not sorted and unique.
    """
    target = Path(path)
    refuse_foreign_folder(target)
    if isinstance(bars, pd.DataFrame):
        parts = StoreParts()
        if len(bars):
            parts.add(bars)
        bars = parts
    arrays = bars.merged()
    arrays["sessions"] = sessions.as_unit("ns").asi8.astype("<i8")
    content: dict[str, Any] = {
        "freq": freq,
        "calendar": calendar,
        "label": label,
        "last_session": int(last_session),
        "instruments": bars.names,
        "benchmark": None if benchmark is None else str(benchmark.name),
    }
    if benchmark is not None:
        arrays["benchmark"] = benchmark.reindex(sessions).to_numpy().astype("<f8")
    index: dict[str, Any] = {
        "format": FORMAT,
        **content,
        "rows": len(arrays["session"]),
        "digest": files.digest_bytes(canonical(content), *(array.data for array in arrays.values())),
        "source": source,
        "key": key,
        "files": {},
    }
    with files.atomic_folder(target) as folder:
        for name in list(arrays):
            np.save(folder / f"{name}.npy", arrays[name], allow_pickle=False)
            index["files"][f"{name}.npy"] = describe_file(folder / f"{name}.npy")
            del arrays[name]
        files.write_json(folder / "findings.json", [finding.as_dict() for finding in findings])
        index["files"]["findings.json"] = describe_file(folder / "findings.json")
        index["index_digest"] = files.digest_bytes(canonical(index))
        files.write_json(folder / "index.json", index)
        files.write_text(folder / "data_report.md", report_markdown(open_store(folder, verify=False)))
    return open_store(target, verify=False)


def refuse_foreign_folder(path: str | Path) -> None:
    """Raise UserError where `path` holds anything but a store: writing a store replaces what is there."""
    target = Path(path)
    if target.is_file() or (
        target.is_dir() and not (target / "index.json").is_file() and next(target.iterdir(), None)
    ):
        raise UserError(
            f"{target} exists and is not a bar store: it would be replaced; give another --dataset-path or move it"
        )
