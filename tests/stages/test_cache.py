"""What decides reuse: each content of the cache key makes a stage run again, and nothing else does."""

import shutil
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.config.schema import Config
from kronos.stages import STAGES, cache
from kronos.stages.cache import code_digest, differences, key_of, key_parts
from kronos.utils.files import read_json

GIVEN = {
    "data_source": "sample", "epochs": "1", "n_train_iter": "600", "n_val_iter": "200", "inference_sample_count": "2",
}  # fmt: skip
TRAINED = ("tokenizer", "predictor")
RANGES = (
    "--train-time-range", "2020-01-01,2021-03-31", "--val-time-range", "2021-04-01,2022-02-28",
    "--test-time-range", "2022-01-01,2022-12-30", "--backtest-time-range", "2022-06-01,2022-12-30",
)  # fmt: skip


def key(name: str, config: Config) -> str:
    stage = STAGES[name]
    return key_of(key_parts(stage, config, stage.inputs(config)))


def configured(**fields: Any) -> Config:
    return load_config(None, {**GIVEN, **fields})[0]


@pytest.fixture
def folder(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


@pytest.mark.slow
def test_the_tensors_of_pretrained_weights_count_and_their_place_does_not(
    folder: Path, weights: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(weights / "predictor", first)
    shutil.copytree(weights / "predictor", second)
    keys = {
        place: key("predictor", configured(pretrained_predictor_path=str(place))) for place in (first, second)
    }
    assert keys[first] == keys[second] != key("predictor", configured())

    import torch

    from kronos.model import load_predictor

    model = load_predictor(second)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    shutil.rmtree(second)
    model.save_pretrained(second)
    assert key("predictor", configured(pretrained_predictor_path=str(second))) != keys[first]


@pytest.mark.slow
def test_versions_that_change_numbers_count_and_others_do_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured()
    before = {name: key(name, config) for name in ("data", *TRAINED, "backtest")}
    installed = cache.versions

    def upgraded(package: str) -> dict[str, str]:
        def versions(packages: tuple[str, ...]) -> dict[str, str]:
            found = installed(packages)
            return {**found, package: "99"} if package in found else found

        monkeypatch.setattr(cache, "versions", versions)
        return {name: key(name, config) for name in before}

    assert upgraded("matplotlib") == upgraded("mlflow") == upgraded("optuna") == before
    after = upgraded("torch")
    assert [name for name in before if after[name] != before[name]] == [*TRAINED, "backtest"]
    after = upgraded("exchange_calendars")
    assert [name for name in before if after[name] != before[name]] == ["data", "backtest"]


def test_a_rerun_is_explained_in_words_without_digests() -> None:
    old, new = ("0123456789abcdef" * 4, "fedcba9876543210" * 4)
    names = ("bars", "pretrained_tokenizer", "tokenizer", "mine", "objective")
    before = {
        "inputs": {**dict.fromkeys(names, old), "processes": "1"},
        "fields": {"seed": "100"},
        "code": old,
    }
    after = {"inputs": {**dict.fromkeys(names, new), "processes": "2"}, "fields": {"seed": "7"}, "code": new}
    assert differences(before, after) == [
        "seed was 100, is 7",
        "the bars have changed",
        "pretrained_tokenizer_path: other weights",
        "the tokenizer has other weights",
        "mine has changed",
        "the training objective has changed",
        "processes was 1, is 2",
        "the code has changed",
    ]
    assert differences({"inputs": {"pretrained": "random weights"}}, {"inputs": {"pretrained": new}}) == [
        "the pretrained weights have changed"
    ]


def test_code_counts_and_comments_do_not(tmp_path: Path) -> None:
    texts = {
        "plain": "def f(x):\n    return x + 1\n",
        "commented": '"""Says more."""\n\n\ndef f(x):\n    """Adds."""\n    # one\n    return (x +\n            1)\n',
        "changed": "def f(x):\n    return x + 2\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    plain, commented, changed = (cache._code(tmp_path / f"{name}.py") for name in texts)
    assert plain == commented != changed


@pytest.mark.parametrize(
    ("stage", "inside", "outside"),
    [
        (
            "data",
            ("data.cleaning", "data.calendars", "data.sources.base", "data.sources.sample"),
            ("data.windows", "data.sources.csv", "model", "training", "forecast"),
        ),
        (
            "predictor",
            ("training.trainer", "training.optimizer", "training.objectives", "data.windows", "data.normalization",
             "model.predictor", "model.cpu_kernels.causal", "distributed.collectives", "stages.train"),
            ("data.sources", "data.cleaning", "forecast", "evaluation"),
        ),
        (
            "backtest",
            ("forecast.arrays", "model.inference.engine", "evaluation.ranking", "evaluation.qlib_backtest",
             "stages.evaluate"),
            ("training.trainer", "data.sources.csv"),
        ),
    ],
)  # fmt: skip
def test_a_stage_is_bound_to_the_code_that_makes_its_numbers(
    stage: str, inside: tuple[str, ...], outside: tuple[str, ...]
) -> None:
    found = cache._imported_from((type(STAGES[stage]).__module__, *STAGES[stage].code(configured())))
    assert {f"kronos.{name}" for name in inside} <= set(found)
    for name in (
        *outside,
        "report.figures",
        "report.rendering",
        "tracking",
        "cli",
        "stages.runner",
        "utils.progress",
    ):
        assert not [
            module for module in found if module == f"kronos.{name}" or module.startswith(f"kronos.{name}.")
        ]


def test_a_change_of_code_changes_the_digest_of_the_stages_that_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        "data": "kronos.stages.data",
        "predictor": "kronos.stages.train",
        "backtest": "kronos.stages.backtest",
    }
    before = {stage: code_digest.__wrapped__(module) for stage, module in names.items()}

    def reached(edited: str) -> list[str]:
        own = cache._code

        def code(file: Path) -> str:
            return own(file) + ("changed" if file.as_posix().endswith(edited) else "")

        with monkeypatch.context() as patch:
            patch.setattr(cache, "_code", code)
            return [
                stage for stage, module in names.items() if code_digest.__wrapped__(module) != before[stage]
            ]

    assert reached("kronos/training/optimizer.py") == ["predictor"]
    assert reached("kronos/model/predictor.py") == ["predictor", "backtest"]
    assert reached("kronos/evaluation/ranking.py") == ["backtest"]
    assert reached("kronos/data/store.py") == ["data", "predictor", "backtest"]
    for name in ("report/figures", "report/writer", "tracking/client", "stages/runner", "cli/arguments"):
        assert reached(f"kronos/{name}.py") == [], name


MINE = """
import pandas as pd

from kronos import BaseDataProcessor


class Mine(BaseDataProcessor):
    def process_raw_data(self):
        return pd.read_csv("bars.csv", parse_dates=["datetime"]){change}
"""
FINGERPRINT = """
    def fingerprint(self):
        return {"size": __import__("os").stat("bars.csv").st_size}
"""


@pytest.mark.slow
def test_a_class_of_ones_own_is_reused_only_where_it_says_what_its_bars_depend_on(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = pd.bdate_range("2020-01-01", "2022-12-30")
    close = 20 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, len(days))))
    frame = pd.DataFrame({"instrument": "A", "datetime": days, "open": close, "high": close, "low": close,
                          "close": close, "volume": 1e6})  # fmt: skip
    frame.to_csv("bars.csv", index=False)
    command = [
        "data", "--data-source", "mine:Mine", "--calendar", "weekdays",
        "--dataset-begin-time", "2020-01-01", "--dataset-end-time", "2022-12-30", *RANGES,
    ]  # fmt: skip

    def reused() -> bool:
        said = Path("said.txt")
        said.unlink(missing_ok=True)
        process = forked.start(forked.kronos, command, output=said)
        process.join(timeout=300)
        assert process.exitcode == 0, said.read_text()
        return "data: reused" in said.read_text()

    Path("mine.py").write_text(MINE.format(change=""))
    assert [reused(), reused()] == [False, False]  # nothing says that the file is the same
    Path("mine.py").write_text(MINE.format(change="") + FINGERPRINT)
    assert [reused(), reused()] == [False, True]
    digest = read_json("outputs/data/index.json")["digest"]
    Path("mine.py").write_text(MINE.format(change=".assign(volume=2e6)") + FINGERPRINT)
    assert [reused(), reused()] == [False, True]
    assert read_json("outputs/data/index.json")["digest"] != digest


def test_a_changed_file_of_bars_is_read_again_and_an_unchanged_one_is_not(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = pd.bdate_range("2020-01-01", "2022-12-30")
    close = 20 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, len(days))))
    frame = pd.DataFrame({"instrument": "A", "datetime": days, "open": close, "high": close, "low": close,
                          "close": close, "volume": 1e6})  # fmt: skip
    frame.to_csv("bars.csv", index=False)
    given = ["data", "--data-source", "csv", "--data-path", "bars.csv", "--calendar", "weekdays",
             "--dataset-begin-time", "2020-01-01", "--dataset-end-time", "2022-12-30", *RANGES]  # fmt: skip

    def reused() -> bool:
        capsys.readouterr()
        assert main(given) == 0
        return "data: reused" in capsys.readouterr().out

    assert [reused(), reused()] == [False, True]
    Path("notes.txt").write_text("beside the bars")
    assert reused()
    frame.assign(volume=2e6).to_csv("bars.csv", index=False)
    assert [reused(), reused()] == [False, True]
