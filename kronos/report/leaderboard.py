"""The leaderboard of a benchmark: a table of models by tasks, a figure, and what differs from the first model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kronos.evaluation.statistics import independent_periods, paired, verdict
from kronos.evaluation.synthetic import FACTS
from kronos.evaluation.tasks import Score
from kronos.report.content import plain
from kronos.report.figures import BLUE, GREY, INK, blank_panels, save_png
from kronos.report.language import IN_ENGLISH, Edition, Words
from kronos.report.numbers import interval_text, number_text
from kronos.report.rendering import write_pages
from kronos.utils import files
from kronos.utils.csv_files import write_csv
from kronos.utils.names import file_name


def score_text(score: Score | None, style: str = "{:+.3f}", words: Words = IN_ENGLISH) -> str:
    """`+0.026 (-0.01 to +0.06)`, or a dash where the model has no such score."""
    if score is None or not np.isfinite(score.value):
        return "-"
    between = interval_text((score.low, score.high), style, words=words)
    return number_text(score.value, style) + (f" ({between})" if between != "n/a" else "")


@dataclass(frozen=True)
class Metric:
    """One column of the leaderboard."""

    key: str
    task: str
    name: str
    style: str
    better: int  # 1: higher is better, -1: lower; 0: closer to one half

    @property
    def label(self) -> str:
        return f"{self.task}: {self.name}"

    @property
    def signed(self) -> str:
        """The style of a difference."""
        return self.style.replace("{:.", "{:+.")


METRICS = (
    Metric("price_ic", "prices", "IC", "{:+.4f}", 1),
    Metric("price_rank_ic", "prices", "Rank IC", "{:+.4f}", 1),
    Metric("return_ic", "returns", "IC", "{:+.4f}", 1),
    Metric("return_rank_ic", "returns", "Rank IC", "{:+.4f}", 1),
    Metric("volatility_mae", "volatility", "MAE", "{:.5f}", -1),
    Metric("volatility_r2", "volatility", "R2", "{:+.3f}", 1),
    Metric("discriminative", "synthetic bars", "told apart", "{:.3f}", 0),
    Metric("synthetic_ic", "synthetic bars", "trained on, IC", "{:+.4f}", 1),
    Metric("synthetic_rank_ic", "synthetic bars", "trained on, Rank IC", "{:+.4f}", 1),
    Metric("excess_return", "portfolio", "excess return per year", "{:+.1%}", 1),
    Metric("information_ratio", "portfolio", "information ratio", "{:+.2f}", 1),
)
DRAWN = ("return_rank_ic", "volatility_mae", "discriminative", "information_ratio")


@dataclass(frozen=True)
class Entry:
    """The scores of one model by the keys of `METRICS`, and the typical figures of its synthetic bars."""

    name: str
    scores: Mapping[str, Score]
    facts: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """All models, the one that the others are compared with first, and what they were scored on."""

    entries: list[Entry]
    real: Mapping[str, Score]  # the typical figures of the real bars
    horizon: int
    lookback: int
    bars: int  # of each synthetic series
    forecasts: int
    instruments: int
    days: int
    first: str
    last: str
    signal: str
    sampled: int  # forecasts whose volatility is scored
    series: int  # synthetic series
    universe: str
    notes: list[str]

    @property
    def note(self) -> str:
        """The note of reports over so few days, else an empty string."""
        return verdict(self.days, self.horizon)

    def columns(self) -> list[Metric]:
        """The metrics that at least one model has."""
        return [one for one in METRICS if any(one.key in entry.scores for entry in self.entries)]

    def best(self, metric: Metric) -> str:
        """Name of the model with the best figure."""
        found = {
            one.name: one.scores[metric.key].value
            for one in self.entries
            if metric.key in one.scores and np.isfinite(one.scores[metric.key].value)
        }
        if not found:
            return ""
        rated = {
            name: -abs(value - 0.5) if not metric.better else metric.better * value
            for name, value in found.items()
        }
        return max(rated, key=rated.__getitem__)

    def differences(self) -> Iterator[tuple[str, Metric, float, float, float]]:
        """(model, metric, its figure minus the first model's, low, high), where both have daily values."""
        first = self.entries[0]
        for entry in self.entries[1:]:
            for metric in self.columns():
                one, two = entry.scores.get(metric.key), first.scores.get(metric.key)
                if one is None or two is None or one.daily is None or two.daily is None:
                    continue
                found = paired(one.daily, two.daily, self.horizon)
                yield entry.name, metric, found.mean, found.low, found.high

    def text(self) -> str:
        """A short table for the terminal."""
        rows = [["model", *(one.label for one in self.columns())]]
        for entry in self.entries:
            cells = [entry.scores.get(one.key) for one in self.columns()]
            values = [one.value if one is not None else float("nan") for one in cells]
            texts = [
                number_text(value, one.style) if np.isfinite(value) else "-"
                for value, one in zip(values, self.columns(), strict=True)
            ]
            rows.append([entry.name, *texts])
        turned = list(zip(*rows, strict=True))  # models side by side: fewer columns than metrics
        widths = [max(len(row[place]) for row in turned) for place in range(len(rows))]
        return "\n".join(
            "  ".join(
                text.ljust(width) if not place else text.rjust(width)
                for place, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in turned
        )


def metrics(board: Leaderboard) -> dict[str, float]:
    """The scores with their intervals, by MLflow's names: SCORE of the first model, MODEL/SCORE of the others."""
    values: dict[str, float] = {
        "test_days": board.days, "independent_periods": independent_periods(board.days, board.horizon),
    }  # fmt: skip
    for place, entry in enumerate(board.entries):
        before = "" if not place else f"{file_name(entry.name, lower=True)}/"
        for key, score in entry.scores.items():
            for end, value in (("", score.value), ("_low", score.low), ("_high", score.high)):
                if np.isfinite(value):
                    values[f"{before}{key}{end}"] = value
    return values


def write_leaderboard(folder: Path, board: Leaderboard, language: str = "en") -> dict[str, float]:
    """Write leaderboard.csv, scores.csv, benchmark.json, .md, .html and the figure; returns the metrics."""
    values = metrics(board)
    keys = [one.key for one in board.columns()]
    table = pd.DataFrame(
        [
            [one.name, *(one.scores[key].value if key in one.scores else np.nan for key in keys)]
            for one in board.entries
        ],
        columns=["model", *keys],
    )
    write_csv(table, folder / "leaderboard.csv", index=False, float_format="%.6g")
    gaps = {(name, metric.key): ends for name, metric, *ends in board.differences()}
    none = (np.nan,) * 3
    long = pd.DataFrame(
        [
            [one.name, key, score.value, score.low, score.high, *gaps.get((one.name, key), none)]
            for one in board.entries
            for key, score in {**one.scores, **one.facts}.items()
        ],
        columns=["model", "score", "value", "low", "high", "difference", "difference_low", "difference_high"],
    )
    write_csv(long, folder / "scores.csv", index=False, float_format="%.6g")
    (folder / "figures").mkdir()
    save_png(leaderboard_figure(board), folder / "figures" / "leaderboard.png")
    files.write_json(
        folder / "benchmark.json",
        plain({
            "universe": board.universe, "first": board.first, "last": board.last, "horizon": board.horizon,
            "too_short": board.note, "scores": long, "real": _values(board.real), "metrics": values,
        }),
    )  # fmt: skip
    write_board_pages(folder, board, language)
    return values


def write_board_pages(folder: Path, board: Leaderboard, language: str) -> None:
    """Write benchmark.md and benchmark.html into `folder`, in `language`: en, zh or both."""

    def content(edition: Edition) -> dict[str, object]:
        phrase = edition.words.phrase
        labels = {
            one.key: edition.words.gettext("%(task)s: %(name)s", task=phrase(one.task), name=phrase(one.name))
            for one in board.columns()
        }
        return {
            "board": board, "labels": labels, "columns": board.columns(), "facts": FACTS,
            "differences": list(board.differences()), "score_text": partial(score_text, words=edition.words),
        }  # fmt: skip

    write_pages(folder, "benchmark.j2", content, "benchmark", language)


def _values(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    return {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in scores.items()}


def leaderboard_figure(board: Leaderboard) -> Figure:
    """Draw four scores of every model with their intervals, one panel each."""
    period = f"{board.first} to {board.last}, {board.forecasts:,} forecasts {board.horizon} bars ahead"
    figure, axes = blank_panels("Models side by side", period, 2, 2)
    shown = {one.key: one for one in METRICS}
    names = [one.name for one in board.entries]
    places = np.arange(len(names))[::-1]
    for panel, key in zip(axes.reshape(-1), DRAWN, strict=True):
        metric = shown[key]
        found = [one.scores.get(key, Score(float("nan"))) for one in board.entries]
        for place, one, color in zip(places, found, [BLUE, *[GREY] * (len(names) - 1)], strict=True):
            if np.isfinite(one.low) and np.isfinite(one.high):
                panel.plot([one.low, one.high], [place, place], color=color, lw=1.6)
            panel.plot([one.value], [place], "o", color=color, ms=5)
        panel.axvline(0 if metric.better else 0.5, color=GREY, lw=0.9)
        panel.set_yticks(places, [name if len(name) <= 28 else f"{name[:27]}…" for name in names], fontsize=8)
        way = {1: "higher is better", -1: "lower is better", 0: "one half is best"}[metric.better]
        panel.set_title(f"{metric.label} ({way})", fontsize=9.5, color=INK, loc="left")
        panel.grid(axis="y", visible=False)
        panel.grid(axis="x", visible=True)
    return figure
