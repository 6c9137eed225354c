"""The ablation of fine-tuning: its rows are configurations, its halves do not overlap, its table is Student's t."""

import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kronos.config.loading import load_config

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "studies"))
    import ablation

    yield ablation
    sys.modules.pop("ablation")


def test_every_row_changes_its_fields_alone_and_an_adapter_its_learning_rate(ablation: Any) -> None:
    config = load_config(str(EXPERIMENTS / "sample.json"))[0]
    start = {"pretrained_tokenizer_path": "one", "pretrained_predictor_path": "two"}
    made = {
        name: ablation.row_config(config, name, start, date(2010, 1, 4)).values() for name in ablation.ROWS
    }
    plain = made[ablation.DEFAULT]
    for name, fields in ablation.ROWS.items():
        differs = {field for field, value in made[name].items() if value != plain[field]}
        rate = {"predictor_learning_rate"} if "adapter" in fields else set()
        assert differs - {"save_path", "run_name"} == fields.keys() | rate, name
    assert made["adapter=lora"]["predictor_learning_rate"] == pytest.approx(
        10 * plain["predictor_learning_rate"]
    )


def test_the_halves_of_training_do_not_overlap(ablation: Any) -> None:
    days = pd.bdate_range("2020-01-01", periods=120)
    store = SimpleNamespace(sessions=days.as_unit("ns").asi8, last_session=len(days) - 1)
    halves = ablation.days_of_halves(store, (days[0].date(), days[99].date()), 10)
    assert halves["older_train"] == (days[0].date(), days[49].date())
    assert halves["since"] == days[50].date()
    assert halves["older_val"] == (days[40].date(), days[60].date())  # scored from the first new day on


def test_the_table_has_differences_to_the_default_with_their_intervals(ablation: Any) -> None:
    random = np.random.default_rng(0)
    found = [
        {"row": row, "seed": seed, "run": f"{row}{seed}" * 9, "best_step": 7, "older_loss_before": 2.0,
         **{name: float(random.normal()) for name in ablation.MEASURES}}
        for row in (ablation.DEFAULT, "other") for seed in range(3)
    ]  # fmt: skip
    text = ablation.table(found)
    for name in ablation.MEASURES:
        one, other = (
            [entry[name] for entry in found if entry["row"] == row] for row in (ablation.DEFAULT, "other")
        )
        pair = stats.ttest_rel(other, one).confidence_interval()
        mean = np.mean(other) - np.mean(one)
        assert f"{mean:+.4f} ({pair.low:+.4f} to {pair.high:+.4f})" in text
        assert f"| {np.mean(one):.4f} |" in text
