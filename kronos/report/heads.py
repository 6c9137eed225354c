"""The report of a head: its figures on the test days against naive answers, in a page, and the metrics."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kronos.evaluation.heads import SKILL, Against, HeadScores, Measure
from kronos.evaluation.statistics import independent_periods, verdict
from kronos.report.content import plain
from kronos.report.language import IN_ENGLISH, Edition, Words
from kronos.report.numbers import interval_text, number_text
from kronos.report.rendering import write_pages
from kronos.utils import files

STYLES = {  # of figures and of their differences, by the beginning of the key
    "rank_ic": "{:+.4f}", "ic": "{:+.4f}", "accuracy": "{:.2%}", "rmse": "{:.5f}", "squared_error": "{:.3g}",
    "auc": "{:.4f}", "r2": "{:+.3f}",
}  # fmt: skip
PLAIN = "{:.4f}"
LEAST_GAIN = 1e-6  # below it a head says the same as a naive answer, to rounding
FIRST = {
    "return": "rank_ic",
    "rank": "rank_ic",
    "direction": "auc",
    "volatility": "qlike",
}  # the headline's figure


@dataclass(frozen=True, kw_only=True)
class HeadPage:
    """What the report of a head is written from."""

    objective: str
    horizon: int
    lookback: int
    universe: str
    first: str  # first and last day of the backtest range
    last: str
    latest: str  # of the last bars that the head answered for
    instruments: int
    scores: HeadScores
    adapter: str  # none: the predictor was frozen
    train_days: tuple[str, ...]  # first and last
    val_days: tuple[str, ...]
    trained_points: int
    curve: list[dict[str, float]]  # of the losses; empty for a head that was not trained here
    warnings: list[str]
    looks_before: int

    @property
    def note(self) -> str:
        """The note of reports over so few days, else an empty string."""
        return verdict(self.scores.days, self.horizon)

    @property
    def best(self) -> tuple[float, float, int] | None:
        """(first and best validation loss, step of the best), None for a head that was not trained here."""
        if not self.curve:
            return None
        found = min(self.curve, key=lambda entry: entry["val_loss"])
        return self.curve[0]["val_loss"], found["val_loss"], int(found["step"])

    def headline(self) -> list[dict[str, str]]:
        """The figures that tell the result: the first measure, and the gain over each naive answer in it."""
        found = {one.key: one for one in self.scores.measures}
        chosen = found.get(FIRST[self.objective]) or next(iter(self.scores.measures), None)
        if chosen is None:
            return []
        rows = [{"name": chosen.name, "value": measure_text(chosen), "detail": interval_text(
            (chosen.low, chosen.high), style_of(chosen.key)
        )}]  # fmt: skip
        rows += [
            {"name": f"{one.measure}: {one.kind} against {one.baseline}", "value": gain_text(one),
             "detail": interval_text((one.low, one.high), gain_style(one))}
            for one in self.scores.against
        ]  # fmt: skip
        return rows[:8]

    def lines(self) -> list[str]:
        """The result for a terminal."""
        found = [f"{row['name']} {row['value']} ({row['detail']})" for row in self.headline()]
        if self.best and not self.best[2]:
            found.insert(
                0,
                "no training step was better on the validation days than an answer that knows nothing of the context",
            )
        return [*found, self.note] if self.note else found


def style_of(key: str) -> str:
    """The style of a figure by its key."""
    return next(
        (style for name, style in STYLES.items() if key == name or key.startswith(f"{name}_over")), PLAIN
    )


def gain_style(one: Against) -> str:
    """The style of a gain over a naive answer."""
    if one.kind == SKILL:
        return "{:+.2%}"
    return style_of(one.key).replace("{:.", "{:+.")


def measure_text(one: Measure) -> str:
    return number_text(one.value, style_of(one.key))


def gain_text(one: Against) -> str:
    return number_text(one.gain, gain_style(one))


def verdict_text(one: Against, words: Words = IN_ENGLISH) -> str:
    """Whether the interval of the gain says that the head is better or worse."""
    if abs(one.gain) < LEAST_GAIN:
        return words.gettext("the same")
    if one.low > 0:
        return words.gettext("better")
    return words.gettext("worse") if one.high < 0 else words.gettext("indistinguishable")


def metrics(page: HeadPage) -> dict[str, float]:
    """The figures with their intervals by name: KEY, and gain_KEY_over_BASELINE; those that exist."""
    values: dict[str, float] = {
        "test_days": page.scores.days, "independent_periods": independent_periods(page.scores.days, page.horizon),
        "looks_before": page.looks_before,
    }  # fmt: skip
    figures = [(one.key, one.value, one.low, one.high) for one in page.scores.measures]
    figures += [(f"gain_{one.key}", one.gain, one.low, one.high) for one in page.scores.against]
    if page.scores.spread is not None:
        spread = page.scores.spread
        figures.append(("groups_spread", spread.mean, spread.low, spread.high))
    for name, *numbers in figures:
        for end, value in zip(("", "_low", "_high"), numbers, strict=True):
            if np.isfinite(value):
                values[f"{name}{end}"] = float(value)
    return values


def write_head(folder: Path, page: HeadPage, language: str = "en") -> dict[str, float]:
    """Write metrics.json, report.md and report.html into `folder`; returns the metrics."""
    values = metrics(page)
    files.write_json(
        folder / "metrics.json", plain({"metrics": values, "too_short": page.note, "scores": page.scores})
    )
    write_head_pages(folder, page, language)
    return values


def write_head_pages(folder: Path, page: HeadPage, language: str) -> None:
    """Write report.md and report.html into `folder`, in `language`: en, zh or both."""

    def content(edition: Edition) -> dict[str, object]:
        return {
            "head": page, "style_of": style_of, "gain_style": gain_style, "measure_text": measure_text,
            "gain_text": gain_text, "verdict": lambda one: verdict_text(one, edition.words),
        }  # fmt: skip

    write_pages(folder, "head.j2", content, "report", language)
