"""The page of a head: the same figures in Markdown, HTML, JSON and metrics, and nothing said that is not so."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_heads import make_heads

from kronos.evaluation.heads import SKILL, Against
from kronos.report.heads import HeadPage, metrics, verdict_text, write_head
from kronos.tracking.metric_names import MOST, tracked

TRAINING = 10  # metrics that the training itself logs


@pytest.fixture(scope="module")
def made() -> dict[str, HeadPage]:
    return make_heads()


def test_every_figure_is_on_the_page_in_json_and_among_the_metrics(
    made: dict[str, HeadPage], tmp_path: Path
) -> None:
    for objective, page in made.items():
        folder = tmp_path / objective
        folder.mkdir()
        values = write_head(folder, page)
        assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "report.html", "report.md"]
        text = (folder / "report.md").read_text(encoding="utf-8")
        assert json.loads((folder / "metrics.json").read_text())["metrics"] == values
        for one in page.scores.measures:
            assert f"| {one.name} |" in text and values[one.key] == one.value
        for one in page.scores.against:
            assert f"| {one.measure} | {one.baseline} |" in text and values[f"gain_{one.key}"] == one.gain
        assert all(re.fullmatch(r"\w+", name) and np.isfinite(value) for name, value in values.items())
        logged = tracked("head", {**values, "best_val_loss": 0.6, "best_step": 3, "steps": 9})
        assert len(logged) + TRAINING <= MOST and logged["best_step"] == 3 and "evidence/test_days" in logged
        assert any(name.startswith("gain/") for name in logged) and not any(
            "steps" in name for name in logged
        )
        assert len(page.headline()) >= 3


def test_the_page_says_what_it_is_and_how_it_was_trained(made: dict[str, HeadPage], tmp_path: Path) -> None:
    texts = {}
    for objective, page in made.items():
        write_head(tmp_path, page)
        texts[objective] = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Too short to tell (35 days" in texts["return"] and "Too short" not in texts["direction"]
    assert (
        "went from 0.69, that of an answer that knows nothing of the context, to 0.66 at step 40"
        in texts["return"]
    )
    assert "No training step was better on the validation days" in texts["direction"]
    assert "whose adapter (`lora`) was trained" in texts["rank"] and "validation loss" not in texts["rank"]
    assert "share of rises" in texts["direction"] and "highest minus lowest" in texts["rank"]
    assert "QLIKE" in texts["volatility"] and "| Rank IC |" not in texts["volatility"]
    assert all("only later days are clean" in text for text in texts.values())


def test_a_gain_is_better_or_worse_only_where_its_interval_says_so() -> None:
    one = Against("brier_over_base_rate", "Brier score", "base rate", 0.24, 0.25, SKILL, 0.04, 0.01, 0.07)
    assert verdict_text(one) == "better"
    assert verdict_text(replace(one, low=-0.01)) == "indistinguishable"
    assert verdict_text(replace(one, gain=-0.04, low=-0.07, high=-0.01)) == "worse"
    assert verdict_text(replace(one, gain=1e-9, low=5e-10, high=2e-9)) == "the same"
    assert verdict_text(replace(one, low=float("nan"), high=float("nan"))) == "indistinguishable"


def test_metrics_without_a_value_are_left_out(made: dict[str, HeadPage]) -> None:
    values = metrics(made["volatility"])
    assert "r2" in values and "r2_low" not in values and "groups_spread" not in values
    assert {"groups_spread", "groups_spread_low"} <= metrics(made["rank"]).keys()
