"""The data report: the holes of the bars, and the report as Markdown."""

from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import MAX_FILL, MAX_ITEMS, Finding, Flag, day_text
from kronos.data.store import BarStore

PIECE = 10_000_000  # rows counted at a time
LISTED = 12  # entries shown in the report for each finding; findings.json has them all


def hole_findings(aligned: pd.DataFrame, sessions: pd.DatetimeIndex, last_session: int) -> list[Finding]:
    """Find the holes of aligned bars: filled ones, longer ones that no window crosses, those after the last bar."""
    session = aligned["session"].to_numpy()
    filled = (aligned["flag"].to_numpy() & Flag.FILLED) > 0
    code, names = pd.factorize(aligned["instrument"])
    starts = np.flatnonzero(filled & ~np.append(False, filled[:-1]))
    ends = np.flatnonzero(filled & ~np.append(filled[1:], False))
    goes_on = np.append(code[1:] == code[:-1], False)[ends]
    missing_after = np.where(
        goes_on, np.append(session[1:], 0)[ends] - session[ends] - 1, last_session - session[ends]
    )
    length = ends - starts + 1 + missing_after
    rule = f"the first {MAX_FILL} sessions filled flat with volume 0"
    findings = []
    for kind, action, which, text in (
        (
            f"hole of at most {MAX_FILL} sessions",
            "filled flat with volume 0",
            missing_after == 0,
            "{} sessions",
        ),
        (
            f"hole of more than {MAX_FILL} sessions",
            f"{rule}, the rest left out: no window crosses it",
            (missing_after > 0) & goes_on,
            "{} sessions",
        ),
        (
            "bars end before the last session",
            rule,
            (missing_after > 0) & ~goes_on,
            "no bar from here to the last session, {} sessions",
        ),
    ):
        places = np.flatnonzero(which)
        if len(places):
            shown = places[:MAX_ITEMS]
            days = day_text(sessions[session[starts[shown]]])
            texts = [text.format(length[place]).replace(" 1 sessions", " 1 session") for place in shown]
            texts = ["1 session" if one == "1 sessions" else one for one in texts]
            who = [str(names[code[starts[place]]]) for place in shown]
            findings.append(Finding(kind, action, len(places), list(zip(who, days, texts, strict=True))))
    return findings


def empty_sessions(has_bar: np.ndarray, sessions: pd.DatetimeIndex) -> list[Finding]:
    """Find the sessions on which no instrument has a bar; `has_bar` bool [last session + 1]."""
    places = np.flatnonzero(~has_bar)
    if not len(places):
        return []
    days = day_text(sessions[places[:MAX_ITEMS]])
    items = [("*", day, "no instrument has a bar") for day in days]
    action = "treated as a hole of every instrument"
    return [Finding("session without any bar", action, len(places), items)]


def _rows_by_flag(store: BarStore) -> np.ndarray:
    """Count the rows of each value of the flags, int64 [256].

    They are read in pieces, each by a map of its own: what a map has read stays in memory as long as the map, and a
    store may be larger than memory.
    """
    count = np.zeros(256, np.int64)
    for begin in range(0, len(store), PIECE):
        flags = np.load(store.path / "flags.npy", mmap_mode="r")
        count += np.bincount(flags[begin : begin + PIECE], minlength=256)
    return count


def report_markdown(store: BarStore) -> str:
    """Write the data report: universe, period, counts, what was found and done, and what the bars cannot prove."""
    times = pd.DatetimeIndex(store.sessions)
    lengths = np.diff(store.offsets)
    first, last = times[int(store.session[store.offsets[:-1][lengths > 0]].min())], times[store.last_session]
    count = _rows_by_flag(store)
    flag = np.arange(len(count))
    filled = int(count[flag & Flag.FILLED > 0].sum())
    repaired = int(count[flag & Flag.REPAIRED > 0].sum())
    adjusted = int(count[(flag & Flag.ADJUSTED > 0) & (flag & Flag.FILLED == 0)].sum())
    source = store.source
    lines = [
        "# Data report",
        "",
        f"- Source: {source.get('name', 'unknown')}",
        f"- Universe: {source.get('universe') or 'every instrument of the source'}",
        f"- Period: {first:%Y-%m-%d} to {last:%Y-%m-%d}, {store.last_session + 1:,} sessions of calendar "
        f"{store.calendar}, bars of {store.freq}",
        f"- Instruments: {len(store.instruments)}; rows of one instrument: {lengths.min()} to {lengths.max()}, "
        f"median {int(np.median(lengths))}",
        *([f"- Index: {store.benchmark_name}"] if store.benchmark_name else []),
        f"- Rows: {len(store):,}, of which {len(store) - filled:,} are bars and {filled:,} fill holes; "
        f"{repaired:,} bars repaired, {adjusted:,} adjusted",
        f"- Content digest: `{store.digest}`",
        "",
        "## What these bars cannot prove",
        "",
        source.get("survivorship")
        or "The source does not say whether instruments that left the market are included: unless it holds each "
        "day's members, survivorship bias remains and returns measured on it prove nothing.",
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
    if len(shown) < finding["count"]:
        lines.append(f"- and {finding['count'] - len(shown):,} more (findings.json has {len(items):,})")
    return [*lines, ""]
