"""What the best trial's score is worth: the seeds that did not choose it, and the daily Rank ICs of all trials."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_stage import SEARCH, run_stage, runs

from kronos.config.schema import Config
from kronos.data.store import open_store
from kronos.stages.looks import read_looks
from kronos.stages.search.selection import selection
from kronos.utils.files import read_json


def daily(days: int, trials: int, better: float = 0.0) -> pd.DataFrame:
    """Daily Rank ICs of trials numbered from 10, of which the second has a mean of its own."""
    values = np.random.default_rng(0).normal(0, 0.1, size=(days, trials))
    values[:, 1:2] += better
    return pd.DataFrame(values, columns=range(10, 10 + trials))


def test_a_trial_that_is_really_better_is_told_from_one_chosen_by_chance() -> None:
    positions = np.arange(200)
    found, why = selection(daily(200, 8, better=0.1), 11, positions, 1)
    assert why == "" and found is not None
    assert (found.trials, found.days, found.periods) == (8, 200, 200)
    assert found.deflated_sharpe > 0.99 and found.overfitting == 0
    noise = daily(200, 8)
    chance, _ = selection(noise, int(noise.mean().idxmax()), positions, 1)
    assert chance is not None and chance.deflated_sharpe < 0.95 and chance.overfitting > 0.2


@pytest.mark.parametrize(
    ("positions", "horizon", "periods"),
    [(np.arange(50), 5, 10), (np.arange(0, 150, 3), 5, 25), (np.arange(0, 500, 10), 5, 50)],
)
def test_days_whose_targets_overlap_are_not_counted_as_independent(
    positions: np.ndarray, horizon: int, periods: int
) -> None:
    found, _ = selection(daily(50, 3), 10, positions, horizon)
    assert found is not None and found.periods == periods


@pytest.mark.parametrize(
    ("days", "trials", "why"),
    [
        (200, 1, "only one trial has a daily Rank IC"),
        (9, 3, "the Rank IC of 9 days in common, fewer than 10"),
    ],
)
def test_too_few_trials_or_days_are_named(days: int, trials: int, why: str) -> None:
    found, reason = selection(daily(days, trials), 10, np.arange(days), 1)
    assert found is None and why in reason


class Ranked:
    """Stands for the training of a trial: a Rank IC for every validation day, whatever the parameters are."""

    def __init__(self, days: list[str]) -> None:
        self.days, self.values = days, {}

    def __call__(self, config: Config, record: Any) -> dict[str, Any]:
        folder = Path(config.save_path)
        folder.mkdir(parents=True)
        drawn = np.random.default_rng(len(self.values)).normal(0.05, 0.1, len(self.days))
        daily = dict(zip(self.days, drawn.tolist(), strict=True))
        if folder.name == "trial-3":
            daily.pop(self.days[0])
        value = self.values[folder.name] = float(np.mean(list(daily.values())))
        record(0, {"val_loss": 2.0})
        metrics = {"best_val_loss": 2.0, "val_loss": 2.0, "steps": 1, "best_step": 1}
        return {"values": [value], "metrics": metrics, "digest": "d" * 64, "daily_rank_ic": daily}


@pytest.mark.slow
def test_a_search_by_rank_ic_says_what_the_choice_is_worth(
    store: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = pd.DatetimeIndex(open_store(store).sessions)[-60:]
    stub = Ranked([day.isoformat() for day in days])
    monkeypatch.setattr("kronos.stages.search.session.train", stub)
    given = [*SEARCH, "--tokenizer-path", str(weights / "tokenizer"), "--search-metric", "rank_ic"]
    given += ["--n-trials", "6", "--search-pruner", "none", "--search-repeats", "4", "--search-top", "2"]
    assert run_stage("search", *given) == 0
    (folder,) = Path("outputs/search").glob("predictor-*")
    best, table = read_json(folder / "best_trial.json"), pd.read_csv(folder / "top_trials.csv")

    def mean(number: int, *seeds: int) -> float:
        return float(np.mean([stub.values[f"trial-{number}-seed-{seed}"] for seed in seeds]))

    top = {
        int(number): (stub.values[f"trial-{number}"] + mean(number, 101)) / 2 for number in table["trial"][:2]
    }
    assert best["trial"] == table["trial"][0] == max(top, key=lambda number: top[number])
    assert table["rank_ic_choice"][0] == pytest.approx(top[best["trial"]])
    other = best["other_seeds"]["rank_ic"]
    assert other["seeds"] == 2 and other["mean"] == pytest.approx(mean(best["trial"], 102, 103))
    assert other["low"] < other["mean"] < other["high"]
    assert (table["rank_ic_seeds"][0], table["rank_ic_other_seeds"][0]) == (4, 2)

    chosen = best["selection"]
    assert (chosen["trials"], chosen["days"], best["compared"]) == (6, 59, 6)
    assert 0 < chosen["deflated_sharpe"] < 1 and 0 <= chosen["overfitting"] <= 1
    (parent,) = runs("search")
    metrics = parent.data.metrics
    assert metrics["best_rank_ic_other_seeds"] == other["mean"]
    assert metrics["deflated_sharpe"] == chosen["deflated_sharpe"]
    assert metrics["overfitting_probability"] == chosen["overfitting"]
    text = " ".join((folder / "report.md").read_text(encoding="utf-8").split())
    assert f"**Trial {best['trial']} is the best of 6 on the validation days**: rank_ic" in text
    assert "Were each of the 6 looks a test at the 5 % level" in text and "up to 26 % of cases" in text
    assert (
        f"With 2 other seeds, which did not choose it, the trial has **rank_ic {other['mean']:.5g}**" in text
    )
    assert "what the best of 6 trials reaches by chance (59 days, " in text
    assert "Probability of backtest overfitting: **" in text
    assert (folder / "report.html").is_file()
    assert "daily_rank_ic" not in (folder / "trials.csv").read_text(encoding="utf-8")

    lines = text, parent.data.metrics
    assert run_stage("search", *given) == 0  # nothing is left to do, and nothing changes
    (same,) = runs("search")
    again = " ".join((folder / "report.md").read_text(encoding="utf-8").split())
    assert (again, same.data.metrics) == lines
    assert [one.models for one in read_looks(Path("outputs/looks.jsonl"), pytest.fail)] == [6]
