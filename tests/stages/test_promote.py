"""Who becomes the champion: by planted forecasts, and by what each model has seen."""

import shutil
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import planted_store

from kronos.config.loading import load_config
from kronos.config.schema import Config
from kronos.data.bars import FEATURES
from kronos.data.forecast_points import forecast_points
from kronos.data.splits import Ranges
from kronos.evaluation.multiple_looks import level_of_challenge
from kronos.forecast.store_forecaster import forecast_frame
from kronos.model.presets import random_model
from kronos.stages import promote as champion
from kronos.stages import provenance
from kronos.stages.base import Result
from kronos.stages.decision import FIRST, FORCED, NOT_ASKED, PROMOTED, REFUSED, too_little, uses
from kronos.stages.inputs import resolve_splits
from kronos.stages.promote import Candidate, decide
from kronos.stages.provenance import Seen, seen_by_tag
from kronos.tracking.model_registry import Version
from kronos.utils.digests import with_own_digest
from kronos.utils.errors import UserError
from kronos.utils.files import write_json

RECIPE = Path(__file__).resolve().parents[2] / "experiments" / "planted.json"
SEEN = Seen(date(2021, 10, 13))


@dataclass
class Case:
    """A candidate whose forecasts are made of the planted pattern, and a champion of any skill."""

    new: Candidate
    outcome: Result
    predictions: dict[float, pd.DataFrame]  # by skill, 1 knows the pattern and 0 only noise

    def decide(
        self, mine: float, theirs: float, monkeypatch: pytest.MonkeyPatch, **changes: Any
    ) -> champion.Decision:
        tags = {"horizon": "5", "freq": "day", "signal": "mean", "seen_until": "2021-10-13"}
        tags |= changes.pop("tags", {})
        present = Version("kronos", 1, "run", {f"kronos.{name}": text for name, text in tags.items()})
        self.predictions[mine].to_parquet(self.outcome.folder / champion.PREDICTIONS)
        monkeypatch.setattr(champion, "forecast_of", lambda *given: self.predictions[theirs])
        new = replace(self.new, **changes)
        return decide(new, self.outcome, present, [present], lambda text: None)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("planted")
    store = planted_store(folder / "data")
    config, _ = load_config(str(RECIPE), {"registered_model_name": "kronos"})
    points = forecast_points(
        store, *config.backtest_time_range, config.lookback_window, config.predict_window
    )
    volume = np.log(store.values[points.row, FEATURES.index("volume")].astype(float))
    close = store.values[points.row, FEATURES.index("close")].astype(float)
    noise = np.random.default_rng(0).normal(size=len(points))
    predictions = {}
    for skill in (1.0, 0.0):
        score = skill * (volume - volume.mean()) + (1 - skill) * noise
        means = np.repeat((close * (1 + 0.01 * score))[:, None, None], 5, axis=1) * np.ones(6)
        predictions[skill] = forecast_frame(store, points, means, FEATURES)
    splits = resolve_splits(config, store)
    new = Candidate(config, store, splits, None, None, SEEN)
    return Case(new, Result("backtest", "mine", folder, {}), predictions)


def test_a_better_version_is_promoted_with_its_numbers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found = case.decide(1.0, 0.0, monkeypatch)
    numbers = found.numbers
    assert (found.word, found.becomes_champion) == (PROMOTED, True)
    assert 0 < numbers["difference_low"] < numbers["difference"] < numbers["difference_high"]
    assert numbers["difference"] == pytest.approx(numbers["rank_ic"] - numbers["champion_rank_ic"])
    assert numbers["rank_ic"] > 0.25 and numbers["champion_version"] == 1
    assert numbers["days"] > 130 and numbers["periods"] == numbers["days"] // 5
    assert found.tags()["decision"] == PROMOTED


@pytest.mark.parametrize(
    ("mine", "theirs", "why"), [(0.0, 1.0, "worse than"), (1.0, 1.0, "not distinguishable from")]
)
def test_a_worse_or_an_equal_version_is_refused(
    case: Case, monkeypatch: pytest.MonkeyPatch, mine: float, theirs: float, why: str
) -> None:
    found = case.decide(mine, theirs, monkeypatch)
    assert (found.word, found.becomes_champion) == (REFUSED, False) and why in found.why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seen": Seen(date(2021, 10, 15))}, "this version was trained or selected on days up to 2021-10-15"),
        ({"seen": Seen(None, "nobody knows")}, "nobody knows"),
        (
            {"tags": {"seen_until": "2022-01-01"}},
            "version 1 was trained or selected on days up to 2022-01-01",
        ),
        ({"tags": {"seen_until": "unknown"}}, "which days version 1 has seen is not known"),
        ({"tags": {"horizon": "10"}}, "10 bars of day instead of 5 of day: give another"),
        ({"tags": {"signal": ""}}, "has no tag with the signal"),
        ({"tags": {"seen_until": "2021/10/13"}}, "is '2021/10/13', expected YYYY-MM-DD"),
    ],
)
def test_days_that_one_has_seen_or_another_question_decide_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], why: str
) -> None:
    found = case.decide(1.0, 0.0, monkeypatch, **changes)
    assert found.word == REFUSED and why in found.why
    forced = case.new.config.replace(promote="force")
    found = case.decide(1.0, 0.0, monkeypatch, config=forced, **changes)
    assert found.word == FORCED and found.why.startswith("promote=force, although ") and why in found.why


def test_too_few_days_are_a_no(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {skill: frame[frame["as_of"] < "2022-01-31"] for skill, frame in case.predictions.items()}
    found = replace(case, predictions=few).decide(1.0, 0.0, monkeypatch)
    assert found.word == REFUSED and found.why.startswith("too short to tell (")
    assert found.numbers["difference_low"] > 0


def test_the_first_version_is_the_champion_and_never_asks_nothing(case: Case) -> None:
    assert decide(case.new, case.outcome, None, [], print).word == FIRST
    never = replace(case.new, config=case.new.config.replace(promote="never"))
    assert decide(never, case.outcome, None, [], print).word == NOT_ASKED


def test_uses_of_windows_and_of_days_are_counted(case: Case) -> None:
    def version(windows: str, first: str, last: str, decision: str = REFUSED) -> Version:
        tags = {"windows": windows, "windows_first": first, "windows_last": last, "decision": decision}
        return Version("kronos", 1, "run", {f"kronos.{name}": text for name, text in tags.items()})

    same = case.new.windows()
    before = [
        version(same, "2021-10-15", "2022-05-18", FIRST), version("other", "2022-05-18", "2022-06-01"),
        version("other", "2022-05-19", "2022-06-01"), version(same, "2021-10-15", "2022-05-18", NOT_ASKED),
    ]  # fmt: skip
    found = uses(case.new.days, same, before)
    assert (found["windows_used"], found["days_used"]) == (2, 3)  # asked or not
    assert (found["challenge"], found["level"]) == (3, level_of_challenge(3))  # the first challenged nobody


def config(**changes: Any) -> Config:
    clean = {"pretrained_tokenizer_path": None, "pretrained_predictor_path": None}
    days = {"train_time_range": ("2011-01-01", "2023-12-31"), "val_time_range": ("2024-01-01", "2024-06-30")}
    return Config(**{"data_source": "sample", **clean, **days, **changes})


def seen_until(given: Config) -> Seen:
    """Of a configuration whose ranges are used as they are given."""
    data = given.data
    ranges = Ranges(
        data.train_time_range, data.val_time_range, data.test_time_range, data.backtest_time_range
    )
    return provenance.seen_until(given, ranges)


def test_what_a_pair_has_seen_is_the_last_day_of_either(tmp_path: Path) -> None:
    assert seen_until(config()).until == date(2024, 6, 30)  # validation
    early = {"train_time_range": ("2011-01-01", "2021-12-31"), "val_time_range": ("2022-01-01", "2022-06-30")}
    assert seen_until(config(**early)).until == date(2022, 6, 30)
    public = config(**early, pretrained_predictor_path="NeoQuasar/Kronos-small")
    assert seen_until(public).until == date(2024, 6, 30)
    other = seen_until(config(**early, pretrained_predictor_path="somebody/else"))
    assert other.until is None and "predictor somebody/else has seen is not known" in other.why
    assert other.text() == "unknown" and seen_by_tag({"kronos.seen_until": other.text()}, "it").until is None


def test_weights_in_a_folder_have_seen_what_their_record_says(tmp_path: Path) -> None:
    best = tmp_path / "model" / "checkpoints" / "best_model"
    best.mkdir(parents=True)
    assert "the folder best_model has seen is not known" in seen_until(config(predictor_path=str(best))).why
    fields = {
        "train_time_range": "2011-01-01,2024-12-31", "val_time_range": "2025-01-01,2025-03-31",
        "pretrained_predictor_path": str(best),
    }  # fmt: skip
    write_json(tmp_path / "model" / "summary.json", with_own_digest({"made_from": {"fields": fields}}))
    assert seen_until(config(predictor_path=str(best))).until == date(2025, 3, 31)
    made = {
        "fields": fields,
        "inputs": {"splits": "train 2011-01-01..2020-01-01, val 2020-01-02..2020-02-02"},
    }
    write_json(tmp_path / "model" / "summary.json", with_own_digest({"made_from": made}))
    early = {"train_time_range": ("2011-01-01", "2012-12-31"), "val_time_range": ("2013-01-01", "2013-06-30")}
    assert seen_until(config(**early, predictor_path=str(best))).until == date(2020, 2, 2)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"registered_model_name": "a/b"}, "registered_model_name: 'a/b' was given, expected"),
        ({"registered_model_name": "kronos", "skip_backtest": True}, "skip_backtest leaves it out"),
        ({"promote": "force"}, "promote: force needs registered_model_name"),
    ],
)
def test_contradictions_are_told_before_anything_runs(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        load_config(None, fields)


def test_a_champion_of_a_shorter_context_may_forecast_earlier_days(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = case.decide(1.0, 0.0, monkeypatch).numbers
    whole, sessions = case.predictions[0.0], pd.DatetimeIndex(case.new.store.sessions)
    first = whole["as_of"].min()
    earlier = whole[whole["as_of"] == first].assign(as_of=sessions[sessions.searchsorted(first) - 1])
    monkeypatch.setitem(case.predictions, 0.5, pd.concat((earlier, whole), ignore_index=True))
    assert case.decide(1.0, 0.5, monkeypatch).numbers == plain


def test_a_champion_of_columns_that_the_bars_lack_is_not_comparable(
    case: Case, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"columns": ["open", "high", "low", "close", "oi"]}
    random_model("tokenizer", "nano", columns).save_pretrained(tmp_path / "tokenizer")
    shutil.copytree(weights / "predictor", tmp_path / "predictor")
    write_json(tmp_path / "serving.json", {})
    monkeypatch.setattr(champion, "download", lambda *given: tmp_path)
    with pytest.raises(champion.NotComparable, match="version 3 sees oi, which these bars do not have"):
        champion.champion_points(Version("kronos", 3, "run", {}), case.new, case.new)  # type: ignore[arg-type]


def test_a_difference_that_is_enough_for_the_first_challenge_is_not_for_the_tenth() -> None:
    numbers = {
        "difference": 0.02, "difference_low": 0.005, "difference_high": 0.035, "p": 0.01, "days": 200,
        "champion_version": 3, "measure": "daily Rank IC", "challenge": 1, "level": level_of_challenge(1),
    }  # fmt: skip
    assert too_little(numbers, 5) == ""
    tenth = numbers | {"challenge": 10, "level": level_of_challenge(10)}
    why = too_little(tenth, 5)
    assert why.startswith("not better by enough than version 3, daily Rank IC +0.0200 (+0.0050 to +0.0350)")
    assert "p-value 0.01, where challenge 10 on these days needs" in why and "below 0.0003" in why
    lower = numbers | {"difference": -0.02, "difference_low": -0.035, "difference_high": -0.005}
    assert too_little(lower, 5).startswith("worse than version 3")
    assert too_little(numbers | {"p": float("nan")}, 5) != ""  # nothing varies
