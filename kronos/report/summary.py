"""The first lines of a report: whether the model beats what costs nothing, in words, or that the days are too few."""

from collections.abc import Sequence

import numpy as np

from kronos.evaluation.ranking import TRADABLE
from kronos.evaluation.signals import MIN_NAMES
from kronos.evaluation.statistics import Estimate, independent_periods
from kronos.report.content import ReportInputs
from kronos.report.document import number_text


def interval_text(found: Estimate, style: str, factor: float = 1.0) -> str:
    """`-0.012 to +0.034`, or n/a."""
    if not (np.isfinite(found.low) and np.isfinite(found.high)):
        return "n/a"
    return f"{number_text(found.low * factor, style)} to {number_text(found.high * factor, style)}"


def sign_word(found: Estimate, note: str) -> str:
    if note:
        return "too short to tell"
    return {1: "beats it", 0: "cannot be told from it", -1: "is beaten by it"}[found.sign]


def conclusion(inputs: ReportInputs) -> list[str]:
    """Sentences for the head of the report; with too few days, one that says so instead."""
    if inputs.note:
        return [
            f"**{inputs.note[0].upper()}{inputs.note[1:]}.** No figure below is evidence for or against "
            "the forecasts."
        ]
    periods = independent_periods(len(inputs.daily), inputs.horizon)
    return [
        *_ranking(inputs), *_portfolio(inputs), _closeness(inputs),
        f"The days hold {periods} independent {inputs.horizon}-day periods; intervals are at 95 %.",
    ]  # fmt: skip


def _ranking(inputs: ReportInputs) -> list[str]:
    found = inputs.ranking.worths[TRADABLE][inputs.signal].rank_ic
    if not np.isfinite(found.mean):
        return [f"**Nothing can be said of a ranking:** no day ranks {MIN_NAMES} names or more."]
    measured = (
        f"the Rank IC of the {inputs.signal} signal with the tradable return is {number_text(found.mean, '{:+.4f}')} "
        f"({interval_text(found, '{:+.4f}')})"
    )
    if found.sign == 0:
        first = f"**Nothing was found: the ranking cannot be told from chance;** {measured}."
    elif found.sign > 0:
        first = f"**The ranking is worth something:** {measured}."
    else:
        first = f"**The ranking is worse than chance:** {measured}."
    groups: dict[int, list[str]] = {1: [], 0: [], -1: []}
    for other in inputs.ranking.comparisons:
        gain = f"{other.name} by {number_text(other.difference.mean, '{:+.4f}')}"
        groups[other.difference.sign].append(f"{gain} ({interval_text(other.difference, '{:+.4f}')})")
    parts = []
    for sign, verb in ((1, "beats"), (0, "cannot be told from"), (-1, "is beaten by")):
        if groups[sign]:
            parts.append(f"{verb} {_listed(groups[sign])}")
    second = f"Beside other rankings of the same names and days, in Rank IC, the model {'; it '.join(parts)}."
    return [first, second]


def _portfolio(inputs: ReportInputs) -> list[str]:
    parts = []
    for other in inputs.excesses:
        gap = other.difference
        verb = {1: "beats", 0: "cannot be told from", -1: "is beaten by"}[gap.sign]
        year = number_text(gap.mean * other.periods, "{:+.1%}")
        parts.append(f"{verb} {other.name} by {year} a year ({interval_text(gap, '{:+.1%}', other.periods)})")
    return [f"After its costs the portfolio {'; it '.join(parts)}."] if parts else []


def _closeness(inputs: ReportInputs) -> str:
    value, low, high = inputs.accuracy.skill
    size = f"{number_text(low, '{:+.1%}')} to {number_text(high, '{:+.1%}')}"
    measured = f"the mean absolute error is {number_text(abs(value), '{:.1%}')}"
    if low > 0:
        return f"The forecasts are closer than the last price: {measured} smaller (skill {size})."
    if high < 0:
        return f"The forecasts are farther off than the last price: {measured} larger (skill {size})."
    return (
        "The forecasts are no closer than the last price as far as can be told: skill "
        f"{number_text(value, '{:+.1%}')} ({size})."
    )


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
