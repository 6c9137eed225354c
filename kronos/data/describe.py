"""What a researcher should know about a store: its holes, and the report in words."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kronos.data.bars import MAX_FILL, Finding, Flag, day_text

if TYPE_CHECKING:
    from kronos.data.store import BarStore

LISTED = 12  # entries shown in the report for each finding; findings.json has them all


def hole_findings(aligned: pd.DataFrame, sessions: pd.DatetimeIndex) -> list[Finding]:
    """The holes of aligned bars: sessions missing for every instrument, holes filled, holes that cut."""
    session = aligned["session"].to_numpy()
    filled = (aligned["flag"].to_numpy() & Flag.FILLED) > 0
    instrument = aligned["instrument"].to_numpy()
    last = int(session.max())
    days = np.array(day_text(sessions))
    findings = []

    traded = np.bincount(session[~filled], minlength=last + 1)
    closed = np.flatnonzero(traded[: last + 1] == 0)
    if len(closed):
        items = [("*", str(days[place]), "no instrument has a bar") for place in closed]
        action = "treated as a hole of every instrument"
        findings.append(Finding("session without any bar", action, len(items), items))

    starts = np.flatnonzero(filled & ~np.append(False, filled[:-1]))
    ends = np.flatnonzero(filled & ~np.append(filled[1:], False))
    goes_on = np.append(instrument[1:] == instrument[:-1], False)[ends]
    missing_after = np.where(
        goes_on, np.append(session[1:], 0)[ends] - session[ends] - 1, last - session[ends]
    )
    short, cut, ended = [], [], []
    for row, end, more, back in zip(starts, ends, missing_after, goes_on, strict=True):
        name, day, length = str(instrument[row]), str(days[session[row]]), int(end - row + 1)
        if more == 0:
            short.append((name, day, f"{length} session{'s' * (length > 1)}"))
        elif back:
            cut.append((name, day, f"{length + more} sessions"))
        else:
            ended.append((name, day, f"no bar from here to the last session, {length + more} sessions"))
    rule = f"the first {MAX_FILL} sessions filled flat with volume 0"
    for kind, action, holes in (
        (f"hole of at most {MAX_FILL} sessions", "filled flat with volume 0", short),
        (f"hole of more than {MAX_FILL} sessions", f"{rule}, the rest left out: no window crosses it", cut),
        ("bars end before the last session", f"{rule}", ended),
    ):
        if holes:
            findings.append(Finding(kind, action, len(holes), holes))
    return findings


def report_markdown(store: "BarStore") -> str:
    """The data report: universe, period, counts, what was found and done, and what the bars cannot prove."""
    times = pd.DatetimeIndex(store.sessions)
    first, last = times[int(store.session.min())], times[store.last_session]
    filled = int(np.count_nonzero(store.flags & Flag.FILLED))
    repaired = int(np.count_nonzero(store.flags & Flag.REPAIRED))
    adjusted = int(
        np.count_nonzero(store.flags & Flag.ADJUSTED & ~np.where(store.flags & Flag.FILLED, 255, 0))
    )
    lengths = np.diff(store.offsets)
    source = store.source
    lines = [
        "# Data report",
        "",
        f"- Source: {source.get('name', 'unknown')}",
        f"- Universe: {source.get('universe') or 'every instrument of the source'}",
        f"- Period: {first:%Y-%m-%d} to {last:%Y-%m-%d}, {store.last_session + 1} sessions of calendar "
        f"{store.calendar}, one bar a {store.freq}",
        f"- Instruments: {len(store.instruments)}; rows of one instrument: {lengths.min()} to {lengths.max()}, "
        f"median {int(np.median(lengths))}",
        f"- Rows: {len(store):,}, of which {len(store) - filled:,} are bars and {filled:,} fill holes; "
        f"{repaired:,} bars repaired, {adjusted:,} adjusted",
        f"- Content digest: `{store.digest}`",
        "",
        "## What these bars cannot prove",
        "",
        source.get("survivorship")
        or "The source does not say whether instruments that left the market are included: unless it holds each "
        "day's members, survivorship remains and returns measured on it prove nothing.",
        "",
    ]
    if source.get("notes"):
        lines += ["## Notes on the source", "", *(f"- {note}" for note in source["notes"]), ""]
    lines += ["## What was found, and what was done", ""]
    if not store.findings:
        lines += ["Nothing: every bar was taken as it came.", ""]
    else:
        lines += ["| what | how many | what was done |", "| --- | ---: | --- |"]
        lines += [f"| {f['kind']} | {f['count']:,} | {f['action']} |" for f in store.findings]
        lines.append("")
        for finding in store.findings:
            lines += _listing(finding)
    return "\n".join(lines).rstrip() + "\n"


def _listing(finding: dict[str, Any]) -> list[str]:
    items = finding["items"]
    shown = items if len(items) <= 2 * LISTED else items[:LISTED]
    lines = [f"### {finding['kind'].capitalize()} ({finding['count']:,})", ""]
    for name, day, text in shown:
        lines.append(f"- {'all instruments' if name == '*' else name} {day}" + (f": {text}" if text else ""))
    if len(shown) < len(items):
        lines.append(f"- and {len(items) - len(shown):,} more in findings.json")
    return [*lines, ""]
