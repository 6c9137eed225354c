"""The six tiles at the head of a backtest's report: verdict, Rank IC, skill, coverage, excess return, looks."""

from collections.abc import Sequence
from dataclasses import dataclass

from kronos.evaluation.coverage import SHOWN
from kronos.evaluation.ranking import TRADABLE
from kronos.evaluation.statistics import Estimate
from kronos.report.content import ReportInputs
from kronos.report.rendering import interval_text, number_text

GOOD, BAD, NEUTRAL = "good", "bad", "neutral"


@dataclass(frozen=True)
class Tile:
    """One figure of the head: its name, its value, and its interval or reservation; `tone` chooses the colour."""

    name: str
    value: str
    detail: str
    tone: str = NEUTRAL


def report_tiles(inputs: ReportInputs) -> list[Tile]:
    """Return the tiles. Too short a period has no good or bad figure, only intervals."""
    rank_ic = inputs.ranking.worths[TRADABLE][inputs.signal].rank_ic
    return [
        _verdict(inputs, rank_ic),
        Tile(
            "Rank IC", number_text(rank_ic.mean, "{:+.4f}"), interval_text(rank_ic, "{:+.4f}"),
            _tone(inputs, (rank_ic.low, rank_ic.high)),
        ),
        Tile(
            "Skill against the last price", number_text(inputs.accuracy.skill[0], "{:+.1%}"),
            interval_text(inputs.accuracy.skill, "{:+.1%}"), _tone(inputs, inputs.accuracy.skill[1:]),
        ),
        _coverage(inputs),
        _excess(inputs),
        Tile(
            "These days were looked at before", f"{inputs.looks_before} time{'s' * (inputs.looks_before != 1)}",
            "with other models or settings, on this machine",
        ),
    ]  # fmt: skip


def _tone(inputs: ReportInputs, ends: Sequence[float]) -> str:
    """Good or bad where the interval excludes 0."""
    if inputs.note:
        return NEUTRAL
    return GOOD if ends[0] > 0 else BAD if ends[1] < 0 else NEUTRAL


def _verdict(inputs: ReportInputs, rank_ic: Estimate) -> Tile:
    if inputs.note:
        value, _, detail = inputs.note.partition(" (")
        return Tile("Verdict", value[:1].upper() + value[1:], detail.removesuffix(")"))
    if inputs.time_series:
        against = inputs.time_series.against_last
        value = "Better than the last price" if against.better else "No better than the last price"
        return Tile(
            "Verdict", value, f"Diebold-Mariano p {against.p:.3f}", GOOD if against.better else NEUTRAL
        )
    if not rank_ic.days:
        return Tile("Verdict", "Cannot be evaluated", "no day has enough instruments")
    value = {1: "Predictive value", 0: "No evidence", -1: "Worse than chance"}[rank_ic.sign]
    return Tile(
        "Verdict", value, "of the ranking, by its Rank IC", {1: GOOD, 0: NEUTRAL, -1: BAD}[rank_ic.sign]
    )


def _coverage(inputs: ReportInputs) -> Tile:
    name = f"Coverage of the {100 * SHOWN:.0f} % band"
    kind = "calibrated" if "calibrated" in inputs.coverages else "raw"
    if kind not in inputs.coverages:
        return Tile(name, "n/a", "no sample paths were scored")
    found = inputs.coverages[kind].share()
    ends = (found["low"], found["high"])
    tone = NEUTRAL if inputs.note else GOOD if ends[0] <= SHOWN <= ends[1] else BAD
    return Tile(name, number_text(found["share"], "{:.1%}"), f"{interval_text(ends, '{:.1%}')}, {kind}", tone)


def _excess(inputs: ReportInputs) -> Tile:
    name = "Excess after costs, per year"
    if not inputs.excesses:
        figures = inputs.portfolio.risk["with_cost"]
        return Tile(name, number_text(figures["annualised_return"], "{:+.1%}"), "over the benchmark")
    other = inputs.excesses[0]
    ends = interval_text(other.difference, "{:+.1%}", other.periods)
    return Tile(
        name, number_text(other.difference.mean * other.periods, "{:+.1%}"), f"{ends}, over {other.name}",
        _tone(inputs, (other.difference.low, other.difference.high)),
    )  # fmt: skip
