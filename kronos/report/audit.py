"""The report of an audit: a table of the cases, what follows from it in sentences, and the metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kronos.evaluation.audit import MOMENTUM, PLANTED, RANDOM, Case, Share, too_often
from kronos.evaluation.statistics import LEVEL, independent_periods, verdict
from kronos.report.content import plain
from kronos.report.rendering import write_pages
from kronos.utils import files

HEADER = ("bars", "forecasts", "true", "mean", "+-", "above 0", "below 0", "excludes 0", "truth inside")

WHICH = {  # forecasts with a planted Rank IC: what their errors are like
    RANDOM: "the scores' errors are independent between instruments",
    MOMENTUM: "they favour whole groups of instruments, as a momentum does",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What an audit was made with, for its report."""

    universe: str  # a clause that can start a sentence
    first: str  # first and last day of the backtest range
    last: str
    days: int  # with a known return over the horizon
    names: float  # instruments per day, on average
    horizon: int
    lookback: int
    seeds: int

    @property
    def note(self) -> str:
        """The note of reports over so few days, else an empty string."""
        return verdict(self.days, self.horizon)


def share_text(share: Share) -> str:
    """`31.0 % (25 to 38)` of a share and its interval."""
    return f"{100 * share.share:.1f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def cells(case: Case) -> list[str]:
    """One row of the table as text, in the order of `HEADER`."""
    shares = [share_text(share) for share in (case.above, case.below, case.excluded, case.covered)]
    figures = [f"{case.planted:g}", f"{case.mean:+.4f}", f"{case.half_width:.4f}"]
    return [case.bars, case.forecasts, *figures, *shares]


def table_text(cases: Sequence[Case]) -> str:
    """The table in columns, for a terminal."""
    rows = [list(HEADER), *(cells(case) for case in cases)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if place < 2 else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def sentences(setting: Setting, cases: Sequence[Case]) -> list[str]:
    """What the table says, in whole sentences: false alarms, coverage and what would be found."""
    nulls, planted = ([case for case in cases if bool(case.planted) == there] for there in (False, True))
    wrong = 100 * (1 - LEVEL)
    shares = [100 * case.excluded.share for case in nulls]
    found = [
        f"Forecasts that know nothing: the 95 % interval of the Rank IC excludes 0 in {min(shares):.1f} to "
        f"{max(shares):.1f} % of cases, where {wrong:.0f} % is right."
    ]
    found += [
        f"That is too often, by more than chance in {case.excluded.of} seeds, for the forecasts {case.forecasts} on "
        f"the bars {case.bars}: {share_text(case.excluded)}. An interval that just excludes 0 says little here."
        for case in too_often(cases)
    ]
    inside = [100 * case.covered.share for case in planted]
    found.append(
        f"Forecasts with a planted Rank IC: the interval contains it in {min(inside):.1f} to {max(inside):.1f} % of "
        f"cases, where {100 * LEVEL:.0f} % is right."
    )
    for value in PLANTED:
        own = {case.forecasts: case for case in planted if case.planted == value}
        texts = [f"{share_text(own[name].above)} of cases if {text}" for name, text in WHICH.items()]
        found.append(
            f"With these {setting.days} days a Rank IC of {value:g} is found in {', and in '.join(texts)}."
        )
    return found


def metrics(setting: Setting, cases: Sequence[Case]) -> dict[str, float]:
    """The shares with their intervals, by the names that MLflow has them under."""
    values: dict[str, float] = {
        "test_days": setting.days, "independent_periods": independent_periods(setting.days, setting.horizon),
    }  # fmt: skip
    for case in cases:
        named: Mapping[str, Share] = (
            {"power": case.above, "coverage": case.covered}
            if case.planted
            else {
                "false_alarms": case.excluded,
                "false_alarms_above": case.above,
                "false_alarms_below": case.below,
            }
        )
        for name, share in named.items():
            for end, value in (("", share.share), ("_low", share.low), ("_high", share.high)):
                values[f"{name}_{case.key}{end}"] = value
        values[f"rank_ic_{case.key}"] = case.mean
        values[f"half_width_{case.key}"] = case.half_width
    return values


def write_audit(folder: Path, setting: Setting, cases: Sequence[Case]) -> dict[str, float]:
    """Write audit.json, audit.md and audit.html into `folder`; returns the metrics."""
    values = metrics(setting, cases)
    files.write_json(
        folder / "audit.json",
        plain({"setting": setting, "too_short": setting.note, "cases": cases, "metrics": values}),
    )
    write_pages(
        folder, "audit.j2", "audit", setting=setting, sentences=sentences(setting, cases), header=HEADER,
        rows=[cells(case) for case in cases],
    )  # fmt: skip
    return values
