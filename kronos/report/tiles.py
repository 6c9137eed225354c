"""The six tiles at the head of a backtest's report: verdict, Rank IC, skill, coverage, excess return, looks."""

from collections.abc import Sequence
from dataclasses import dataclass

from kronos.evaluation.coverage import SHOWN
from kronos.evaluation.ranking import TRADABLE
from kronos.evaluation.statistics import Estimate
from kronos.report.content import ReportInputs
from kronos.report.language import IN_ENGLISH, Words
from kronos.report.numbers import interval_text, number_text

GOOD, BAD, NEUTRAL = "good", "bad", "neutral"


@dataclass(frozen=True)
class Tile:
    """One figure of the head: its name, its value, and its interval or reservation; `tone` chooses the colour."""

    name: str
    value: str
    detail: str
    tone: str = NEUTRAL


def report_tiles(inputs: ReportInputs, words: Words = IN_ENGLISH) -> list[Tile]:
    """Return the tiles. Too short a period has no good or bad figure, only intervals."""
    rank_ic = inputs.ranking.worths[TRADABLE][inputs.signal].rank_ic
    return [
        _verdict(inputs, rank_ic, words),
        Tile(
            "Rank IC", number_text(rank_ic.mean, "{:+.4f}"), interval_text(rank_ic, "{:+.4f}", words=words),
            _tone(inputs, (rank_ic.low, rank_ic.high)),
        ),
        Tile(
            words.gettext("Skill against the last price"), number_text(inputs.accuracy.skill[0], "{:+.1%}"),
            interval_text(inputs.accuracy.skill, "{:+.1%}", words=words), _tone(inputs, inputs.accuracy.skill[1:]),
        ),
        _coverage(inputs, words),
        _excess(inputs, words),
        Tile(
            words.gettext("These days were looked at before"),
            words.ngettext("%(count)s time", "%(count)s times", inputs.looks_before),
            words.gettext("with other models or settings, on this machine"),
        ),
    ]  # fmt: skip


def _tone(inputs: ReportInputs, ends: Sequence[float]) -> str:
    """Good or bad where the interval excludes 0."""
    if inputs.note:
        return NEUTRAL
    return GOOD if ends[0] > 0 else BAD if ends[1] < 0 else NEUTRAL


def _verdict(inputs: ReportInputs, rank_ic: Estimate, words: Words) -> Tile:
    gettext = words.gettext
    name = gettext("Verdict")
    if inputs.note:
        detail = inputs.note.partition(" (")[2].removesuffix(")")
        return Tile(name, gettext("Too short to tell"), words.phrase(detail))
    if inputs.time_series:
        against = inputs.time_series.against_last
        value = (
            gettext("Better than the last price")
            if against.better
            else gettext("No better than the last price")
        )
        return Tile(name, value, f"Diebold-Mariano p {against.p:.3f}", GOOD if against.better else NEUTRAL)
    if not rank_ic.days:
        return Tile(name, gettext("Cannot be evaluated"), gettext("no day has enough instruments"))
    value = {1: gettext("Predictive value"), 0: gettext("No evidence"), -1: gettext("Worse than chance")}[
        rank_ic.sign
    ]
    tone = {1: GOOD, 0: NEUTRAL, -1: BAD}[rank_ic.sign]
    return Tile(name, value, gettext("of the ranking, by its Rank IC"), tone)


def _coverage(inputs: ReportInputs, words: Words) -> Tile:
    name = words.gettext("Coverage of the %(share)s %% band", share=f"{100 * SHOWN:.0f}")
    kind = "calibrated" if "calibrated" in inputs.coverages else "raw"
    if kind not in inputs.coverages:
        return Tile(name, "n/a", words.gettext("no sample paths were scored"))
    found = inputs.coverages[kind].share()
    ends = (found["low"], found["high"])
    tone = NEUTRAL if inputs.note else GOOD if ends[0] <= SHOWN <= ends[1] else BAD
    detail = words.gettext(
        "%(interval)s, %(kind)s", interval=interval_text(ends, "{:.1%}", words=words), kind=words.phrase(kind)
    )
    return Tile(name, number_text(found["share"], "{:.1%}"), detail, tone)


def _excess(inputs: ReportInputs, words: Words) -> Tile:
    name = words.gettext("Excess after costs, per year")
    if not inputs.excesses:
        figures = inputs.portfolio.risk["with_cost"]
        return Tile(
            name, number_text(figures["annualised_return"], "{:+.1%}"), words.gettext("over the benchmark")
        )
    other = inputs.excesses[0]
    detail = words.gettext(
        "%(interval)s, over %(name)s", name=words.phrase(other.name),
        interval=interval_text(other.difference, "{:+.1%}", other.periods, words),
    )  # fmt: skip
    return Tile(
        name, number_text(other.difference.mean * other.periods, "{:+.1%}"), detail,
        _tone(inputs, (other.difference.low, other.difference.high)),
    )  # fmt: skip
