"""The decision about the champion, from numbers alone: how strict the test is, and what it says.

Every challenge of a champion is a test. If each of them were made at the 5 % level, a champion would be replaced by
an equal model sooner or later: after 20 challenges on the same days in about a fifth of cases. The k-th challenge on
overlapping days is therefore made at a level that decreases with k, so that all of them together stay below 5 %
(`evaluation.multiple_looks.level_of_challenge`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from kronos.evaluation.multiple_looks import level_of_challenge
from kronos.evaluation.statistics import verdict
from kronos.tracking.model_registry import Version

FIRST, PROMOTED, REFUSED, FORCED, NOT_ASKED = "first", "promoted", "refused", "forced", "not asked"


@dataclass(frozen=True)
class Decision:
    """The decision about a version: its word, the reason, and the numbers that it is based on."""

    word: str
    why: str
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def becomes_champion(self) -> bool:
        return self.word in (FIRST, PROMOTED, FORCED)

    @property
    def text(self) -> str:
        return f"{self.word}: {self.why}"

    def tags(self) -> dict[str, Any]:
        return {"decision": self.word, "decision_reason": self.why, **self.numbers}


def uses(days: tuple[date, date], windows: str, before: Sequence[Version]) -> dict[str, int | float]:
    """Count earlier versions that were evaluated on the same windows and days, and set the level of this challenge.

    Args:
        days: first and last day of the new version's backtest.
        windows: digest of its forecast windows (`Candidate.windows`).
        before: all earlier versions of the registered model.

    Returns:
        `windows_used` and `days_used`, the numbers of earlier versions on the same windows and on overlapping days;
        `challenge`, the number of this challenge on overlapping days, from 1; and its `level`. Versions without a
        decision count too, since their metrics could be used for selection; the first champion challenged nobody.
    """
    compared = [one for one in before if one.tag("windows")]
    first, last = (day.isoformat() for day in days)
    overlapping = [
        one for one in compared if one.tag("windows_first") <= last and one.tag("windows_last") >= first
    ]
    challenge = 1 + sum(one.tag("decision") != FIRST for one in overlapping)
    return {
        "windows_used": sum(one.tag("windows") == windows for one in compared), "days_used": len(overlapping),
        "challenge": challenge, "level": level_of_challenge(challenge),
    }  # fmt: skip


def too_little(numbers: Mapping[str, Any], horizon: int) -> str:
    """Why the difference is not sufficient for this challenge; empty text where it is.

    It is sufficient where the mean difference is above 0 and its two-sided p-value is below the challenge's level,
    and the days are at least 20 horizons. `numbers` has the results of `promote.compare` and of `uses`.
    """
    if short := verdict(numbers["days"], horizon):
        return f"{short}: {difference_text(numbers)}"
    if numbers["difference"] > 0 and numbers["p"] < numbers["level"]:
        return ""
    if numbers["difference_low"] > 0:
        word = "not better by enough than"
    else:
        word = "worse than" if numbers["difference_high"] < 0 else "not distinguishable from"
    return f"{word} version {numbers['champion_version']}, {difference_text(numbers)}, {level_text(numbers)}"


def difference_text(numbers: Mapping[str, Any]) -> str:
    """A clause with the difference of what was measured (daily Rank ICs, or CRPS skill) and its 95 % interval."""
    return (
        f"{numbers['measure']} {numbers['difference']:+.4f} ({numbers['difference_low']:+.4f} to "
        f"{numbers['difference_high']:+.4f}) over {numbers['days']} days"
    )


def level_text(numbers: Mapping[str, Any]) -> str:
    """A clause with the p-value of the difference, and the level that this challenge of the days is tested at."""
    return (
        f"p-value {numbers['p']:.2g}, where challenge {numbers['challenge']} on these days needs a better score "
        f"with a p-value below {numbers['level']:.2g}"
    )
