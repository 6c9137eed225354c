"""Numbers and intervals as the text of a report."""

from collections.abc import Sequence

import numpy as np

from kronos.evaluation.statistics import Estimate
from kronos.report.language import IN_ENGLISH, Words


def number_text(value: float, style: str) -> str:
    """Format a number for a reader: a space before the per cent sign, n/a for NaN."""
    return style.format(value).replace("%", " %") if np.isfinite(value) else "n/a"


def interval_text(
    found: Estimate | Sequence[float], style: str, factor: float = 1.0, words: Words = IN_ENGLISH
) -> str:
    """`-0.012 to +0.034` of an estimate, or of a sequence that ends with low and high; n/a where there is none."""
    low, high = (found.low, found.high) if isinstance(found, Estimate) else found[-2:]
    if not (np.isfinite(low) and np.isfinite(high)):
        return "n/a"
    ends = (number_text(low * factor, style), number_text(high * factor, style))
    return words.gettext("%(first)s to %(last)s", first=ends[0], last=ends[1])
