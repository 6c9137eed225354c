"""The report of an audit: a table of the cases, what follows from it in sentences, and the metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kronos.evaluation.audit import MOMENTUM, PLANTED, RANDOM, Case, Share, too_often
from kronos.evaluation.statistics import LEVEL, independent_periods, verdict
from kronos.report.content import plain
from kronos.report.language import IN_ENGLISH, Edition, Words
from kronos.report.rendering import write_pages
from kronos.utils import files

HEADER = ("bars", "forecasts", "true", "mean", "+-", "above 0", "below 0", "excludes 0", "truth inside")


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


def share_text(share: Share, words: Words = IN_ENGLISH) -> str:
    """`31.0 % (25 to 38)` of a share and its interval."""
    interval = words.gettext(
        "%(first)s to %(last)s", first=f"{100 * share.low:.0f}", last=f"{100 * share.high:.0f}"
    )
    return f"{100 * share.share:.1f} % ({interval})"


def cells(case: Case, words: Words = IN_ENGLISH) -> list[str]:
    """One row of the table as text, in the order of `HEADER`."""
    shares = [share_text(share, words) for share in (case.above, case.below, case.excluded, case.covered)]
    figures = [f"{case.planted:g}", f"{case.mean:+.4f}", f"{case.half_width:.4f}"]
    return [words.phrase(case.bars), words.phrase(case.forecasts), *figures, *shares]


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


def sentences(setting: Setting, cases: Sequence[Case], words: Words = IN_ENGLISH) -> list[str]:
    """What the table says, in whole sentences: false alarms, coverage and what would be found."""
    nulls, planted = ([case for case in cases if bool(case.planted) == there] for there in (False, True))
    shares = [100 * case.excluded.share for case in nulls]
    found = [
        words.gettext(
            "Forecasts that know nothing: the 95 %% interval of the Rank IC excludes 0 in %(least)s to %(most)s %% "
            "of cases, where %(right)s %% is right.",
            least=f"{min(shares):.1f}", most=f"{max(shares):.1f}", right=f"{100 * (1 - LEVEL):.0f}",
        )
    ]  # fmt: skip
    found += [
        words.gettext(
            "That is too often, by more than chance in %(seeds)s seeds, for the forecasts %(forecasts)s on the bars "
            "%(bars)s: %(share)s. An interval that just excludes 0 says little here.",
            seeds=case.excluded.of, forecasts=words.phrase(case.forecasts), bars=words.phrase(case.bars),
            share=share_text(case.excluded, words),
        )
        for case in too_often(cases)
    ]  # fmt: skip
    inside = [100 * case.covered.share for case in planted]
    found.append(
        words.gettext(
            "Forecasts with a planted Rank IC: the interval contains it in %(least)s to %(most)s %% of cases, where "
            "%(right)s %% is right.",
            least=f"{min(inside):.1f}", most=f"{max(inside):.1f}", right=f"{100 * LEVEL:.0f}",
        )
    )  # fmt: skip
    for value in PLANTED:
        own = {case.forecasts: case for case in planted if case.planted == value}
        found.append(
            words.gettext(
                "With these %(days)s days a Rank IC of %(value)s is found in %(independent)s of cases if the scores' "
                "errors are independent between instruments, and in %(grouped)s of cases if they favour whole groups "
                "of instruments, as a momentum does.",
                days=setting.days, value=f"{value:g}", independent=share_text(own[RANDOM].above, words),
                grouped=share_text(own[MOMENTUM].above, words),
            )
        )  # fmt: skip
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


def write_audit(
    folder: Path, setting: Setting, cases: Sequence[Case], language: str = "en"
) -> dict[str, float]:
    """Write audit.json, audit.md and audit.html into `folder`; returns the metrics."""
    values = metrics(setting, cases)
    files.write_json(
        folder / "audit.json",
        plain({"setting": setting, "too_short": setting.note, "cases": cases, "metrics": values}),
    )
    write_audit_pages(folder, setting, cases, language)
    return values


def write_audit_pages(folder: Path, setting: Setting, cases: Sequence[Case], language: str) -> None:
    """Write audit.md and audit.html into `folder`, in `language`: en, zh or both."""

    def content(edition: Edition) -> dict[str, object]:
        words = edition.words
        return {
            "setting": setting, "findings": sentences(setting, cases, words),
            "header": [words.phrase(name) for name in HEADER], "rows": [cells(case, words) for case in cases],
        }  # fmt: skip

    write_pages(folder, "audit.j2", content, "audit", language)
