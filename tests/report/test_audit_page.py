"""The page of an audit: its sentences, the same in Markdown and HTML, and its metrics."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kronos.evaluation.audit import KINDS, Case, share
from kronos.report.audit import Setting, metrics, sentences, table_text, write_audit

SETTING = Setting(
    universe="30 instruments", first="2024-01-02", last="2024-12-30", days=240, names=29.6, horizon=10,
    lookback=90, seeds=200,
)  # fmt: skip


def made(bars: str, forecasts: str, planted: float, found: int, wrong: int = 10) -> Case:
    """A case of 200 seeds of which `found` are above 0 and `wrong` miss the planted value."""
    seeds = np.arange(200)
    return Case(
        bars, forecasts, planted, 240, planted + 0.0004, 0.01, 0.021, covered=share(seeds >= wrong),
        above=share(seeds < found), below=share(seeds < wrong // 2), excluded=share(seeds < wrong),
    )  # fmt: skip


@pytest.fixture
def cases() -> list[Case]:
    return [made(bars, forecasts, planted, 62 if planted == 0.02 else 5)
            for bars, (_, pairs) in KINDS.items() for forecasts, planted in pairs]  # fmt: skip


def test_sentences_say_false_alarms_coverage_and_what_is_found(cases):
    nothing, coverage, small, _ = sentences(SETTING, cases)
    assert "excludes 0 in 5.0 to 5.0 % of cases, where 5 % is right" in nothing
    assert "contains it in 95.0 to 95.0 % of cases, where 95 % is right" in coverage
    assert small.startswith("With these 240 days a Rank IC of 0.02 is found in 31.0 % (25 to 38) of cases if")
    assert "and in 31.0 % (25 to 38) of cases if they favour whole groups" in small


def test_a_level_that_is_too_high_is_named(cases):
    bad = [
        replace(case, excluded=share(np.arange(200) < 30)) if case.bars == "shuffled" else case
        for case in cases
    ]
    warned = [text for text in sentences(SETTING, bad) if "too often" in text]
    assert (
        len(warned) == 2 and "for the forecasts random on the bars shuffled: 15.0 % (11 to 21)" in warned[0]
    )


def test_markdown_html_and_json_have_the_same_content(cases, tmp_path: Path):
    values = write_audit(tmp_path, SETTING, cases)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.html", "audit.json", "audit.md"]
    text = (tmp_path / "audit.md").read_text()
    page = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", (tmp_path / "audit.html").read_text())))
    for sentence in sentences(SETTING, cases):
        assert sentence in text and sentence in page
    assert "too short to tell" not in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + len(cases) == len(table_text(cases).splitlines()) + 1
    stored = json.loads((tmp_path / "audit.json").read_text())
    assert stored["metrics"] == values and len(stored["cases"]) == len(cases)
    assert stored["setting"]["days"] == 240


def test_a_range_that_is_too_short_says_so_first(cases, tmp_path: Path):
    write_audit(tmp_path, replace(SETTING, days=52), cases)
    first = (tmp_path / "audit.md").read_text().split("- Forecasts that know nothing")[0]
    assert "too short to tell (52 days, 5 independent 10-day periods)" in first


def test_metrics_have_power_of_planted_cases_and_false_alarms_of_others(cases):
    values = metrics(SETTING, cases)
    assert values["power_0.02_random"] == 0.31 and values["coverage_0.05_momentum"] == 0.95
    assert values["false_alarms_shuffled_others"] == values["false_alarms_mirrored_momentum"] == 0.05
    assert values["power_0.02_random_low"] < 0.31 < values["power_0.02_random_high"]
    assert values["test_days"] == 240 and values["independent_periods"] == 24
    assert not [name for name in values if name.startswith("power") and "shuffled" in name]
    assert all(re.fullmatch(r"[\w.\-]+", name) and np.isfinite(value) for name, value in values.items())
