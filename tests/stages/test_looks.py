"""The record of looks at test days: what is counted, what survives, and what the reports say."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from planted import planted_store

from kronos import latest
from kronos.__main__ import main
from kronos.config.schema import Config, fields_of
from kronos.stages import looks
from kronos.stages.looks import Look, before, read_looks, record
from kronos.utils.files import read_json

QUICK = [
    "--inference-sample-count", "1", "--evaluation-series", "20", "--baseline-seeds", "1",
    "--backtest-max-instruments", "8", "--baseline-lightgbm", "false",
]  # fmt: skip
LOOK = Look("backtest", "2024-01-02", "2024-06-28", "day", 5, "bars", "names", "predictor", "mine")


class Tagged:
    """Stands for the MLflow run of a look."""

    id = "run"

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def tags(self, values: dict[str, Any]) -> None:
        self.given |= values


def write(path: Path, *given: Look) -> None:
    for one in given:
        record(path, one, Tagged(), print)  # type: ignore[arg-type]


def test_looks_of_other_models_on_overlapping_days_of_the_same_instruments_count() -> None:
    other = replace(LOOK, model="other")
    counted = [
        other, replace(LOOK, model="longer", horizon=10), replace(LOOK, model="newer bars", bars="grown"),
        replace(LOOK, model="edge", first="2024-06-28", last="2024-12-31"),
    ]  # fmt: skip
    not_counted = [
        replace(LOOK, kind="challenge", model="other"),
        replace(LOOK, model="later", first="2024-06-29", last="2025-01-01"),
        replace(LOOK, model="hourly", freq="60min"), replace(LOOK, first="2024-02-01"),
        replace(LOOK, model="elsewhere", bars="b", instruments="other names"),
    ]  # fmt: skip
    assert before(LOOK, []) == 0
    assert before(LOOK, [*counted, *not_counted]) == 4


def test_a_walk_forward_counts_once_and_a_search_once_per_trial() -> None:
    folds = [replace(LOOK, kind="fold", model="folds", first=f"2024-0{month}-01") for month in (1, 2, 3)]
    whole = replace(LOOK, kind="walk_forward", model="folds")
    search = [replace(LOOK, kind="search", model="study", models=count) for count in (4, 12)]  # continued
    assert before(LOOK, [*folds, whole]) == 1
    assert before(LOOK, [*folds, whole, *search]) == 13


def test_what_came_after_the_first_time_of_a_look_does_not_change_its_count() -> None:
    later = [LOOK, replace(LOOK, model="a"), replace(LOOK, model="b")]
    assert before(LOOK, [replace(LOOK, model="c"), *later]) == 1


def test_a_repeated_look_is_not_recorded_again_and_its_run_is_tagged(tmp_path: Path) -> None:
    path, run = tmp_path / "outputs" / "looks.jsonl", Tagged()
    for _ in range(2):
        record(path, LOOK, run, print)  # type: ignore[arg-type]
    (line,) = path.read_text(encoding="utf-8").splitlines()
    found = json.loads(line)
    assert found["run_id"] == "run" and found["time"].endswith("+00:00")
    assert {name: found[name] for name in ("first", "last", "freq", "horizon", "kind", "models")} == {
        "first": "2024-01-02", "last": "2024-06-28", "freq": "day", "horizon": 5, "kind": "backtest", "models": 1,
    }  # fmt: skip
    assert run.given == {
        "look": LOOK.key, "look_kind": "backtest", "look_days": "2024-01-02 to 2024-06-28",
    }  # fmt: skip
    write(path, replace(LOOK, kind="challenge"), replace(LOOK, first="2024-01-03"), replace(LOOK, bars="b"))
    assert len(read_looks(path, print)) == 4
    assert [one.name for one in path.parent.iterdir()] == ["looks.jsonl"]  # no lock stays


def test_a_damaged_line_is_named_in_one_line_and_stays_in_the_file(tmp_path: Path) -> None:
    path, said = tmp_path / "looks.jsonl", []
    write(path, LOOK)
    good = path.read_text(encoding="utf-8")
    damaged = [
        '{"kind": "backtest", "first"',
        "[1, 2]",
        good.replace("2024-01-02", "yesterday").strip(),
        "{}",
    ]
    path.write_text(good + "\n".join(damaged), encoding="utf-8")  # the last line was cut off
    write(path, replace(LOOK, model="other"))
    found = read_looks(path, said.append)
    assert [one.model for one in found] == ["mine", "other"]
    assert [line.split(" of ")[0] for line in said] == [f"looks: line {number}" for number in (2, 3, 4, 5)]
    assert all("is damaged and left out of the count (" in line and "\n" not in line for line in said)
    assert path.read_text(encoding="utf-8").startswith(good + "\n".join(damaged) + "\n{")


def test_a_file_that_cannot_be_written_is_said_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file", encoding="utf-8")
    said: list[str] = []
    record(tmp_path / "outputs" / "looks.jsonl", LOOK, Tagged(), said.append)  # type: ignore[arg-type]
    assert len(said) == 1 and "is not on record" in said[0]


def test_processes_that_write_at_once_lose_no_look(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, {tests!r})\n"
        "from pathlib import Path\nfrom dataclasses import replace\nfrom test_looks import LOOK, write\n"
        "for place in range(20):\n"
        "    write(Path({path!r}), replace(LOOK, model=f'{{sys.argv[1]}}-{{place}}'))\n"
    ).format(tests=str(Path(__file__).parent), path=str(tmp_path / "looks.jsonl"))
    started = [subprocess.Popen([sys.executable, "-c", code, str(number)]) for number in range(3)]
    assert [one.wait() for one in started] == [0, 0, 0]
    assert len({one.model for one in read_looks(tmp_path / "looks.jsonl", pytest.fail)}) == 60


def test_the_window_ends_with_the_bars_and_settings_make_another_model(tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    config = Config(data_source="sample")
    days = date(2022, 1, 3), date(2025, 6, 5)
    found = looks.look_of("backtest", config, store, days, "p" * 64, "mine")
    end = store.sessions[store.last_session].astype("datetime64[ns]")
    assert (found.first, found.last) == ("2022-01-03", str(end)[:10])
    assert found.predictor == "p" * 16 and found.horizon == config.predict_window
    mine = looks.model_digest(config, "t", "p")
    assert mine == looks.model_digest(config.replace(backtest_batch_size=7), "t", "p")
    for change in (
        {"inference_T": 0.5}, {"seed": 1}, {"backtest_signal": "max"}, {"inference_sliding": "cached"},
        {"inference_precision": "bf16"}, {"inference_fine_rotary": "trained"},
    ):  # fmt: skip
        assert looks.model_digest(config.replace(**change), "t", "p") != mine
    assert looks.model_digest(config, "t", "q") != mine
    drawn = {name for name in fields_of("forecast") if name.startswith("inference_")}
    assert drawn - {*looks.SETTINGS, *looks.UNLESS_DEFAULT} == {
        "inference_compile"
    }  # which only rounds otherwise


def backtest(*arguments: str) -> tuple[dict[str, float], str]:
    """(metrics, report) of a backtest of the given weights."""
    assert main(["backtest", *QUICK, *arguments]) == 0
    folder = Path("outputs/backtest_results/finetune_backtest_demo")
    return read_json(folder / "metrics.json")["metrics"], (folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_report_says_how_often_its_days_were_looked_at_with_other_models(
    store: Path, weights: Path
) -> None:
    given = [f"--{kind}-path={weights / kind}" for kind in ("tokenizer", "predictor")]
    metrics, first = backtest(*given)
    assert metrics["looks_before"] == 0
    assert "These days had not been looked at before on this machine." in first.split("## ")[0]
    backtest(*given)  # reused
    assert len(read_looks(Path("outputs/looks.jsonl"), pytest.fail)) == 1
    for place, temperature in enumerate(("0.7", "0.8"), start=1):
        metrics, text = backtest(*given, "--inference-T", temperature)
        assert metrics["looks_before"] == place
    assert (
        "These days were looked at 2 times before with other models or settings: with 3 looks the chance that at "
        "least one of them shows a significant result without any effect is up to 14 %."
    ) in " ".join(text.split("## ")[0].split())
    found = read_looks(Path("outputs/looks.jsonl"), pytest.fail)
    assert [one.kind for one in found] == ["backtest"] * 3
    run = latest("backtest")
    assert run.tags["kronos.look"] == found[-1].key and run.tags["kronos.looks_before"] == "2"
    assert run.metrics["evidence/looks_before"] == 2 and found[-1].run_id == run.id

    _, again = backtest(*given, "--reuse", "false")
    assert again == first  # what came later does not change the report
    assert len(read_looks(Path("outputs/looks.jsonl"), pytest.fail)) == 3
