"""The head stage: a planted pattern is found, later bars change nothing, resuming, reuse, ranks, and mistakes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from planted import planted_bars, store_of
from safetensors.torch import load_file

from kronos.__main__ import main
from kronos.data.forecast_points import contexts, forecast_points
from kronos.data.store import open_store
from kronos.forecast.heads import load_head
from kronos.model import checkpoint, load_predictor, load_tokenizer
from kronos.stages import head as stage
from kronos.tracking.reader import latest
from kronos.training import trainer

NAMES, DAYS, LOOKBACK, HORIZON = 16, 300, 16, 2
LAST = "2021-03-11"  # of the bars
FIELDS = [
    "--data-source", "csv", "--lookback-window", str(LOOKBACK), "--predict-window", str(HORIZON),
    "--train-time-range", "2020-01-02,2020-09-30", "--val-time-range", "2020-09-09,2020-12-18",
    "--test-time-range", "2020-11-27,2021-03-11", "--backtest-time-range", "2020-12-21,2021-03-05",
    "--backtest-limit-threshold", "none", "--batch-size", "32", "--epochs", "3", "--n-train-iter", "2000",
    "--n-val-iter", "500", "--head-learning-rate", "0.01",
]  # fmt: skip


def run(weights: Path, *arguments: str, fields: list[str] = FIELDS) -> int:
    paths = ["--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor")]
    return main(["head", *fields, *paths, *arguments])


def folder(objective: str = "return", place: Path | None = None) -> Path:
    return (place or Path()) / "outputs" / "models" / f"head_{objective}"


def table(objective: str = "return", place: Path | None = None) -> pd.DataFrame:
    return pd.read_parquet(folder(objective, place) / "forecasts.parquet")


def same_weights(one: Path, other: Path) -> bool:
    left, right = (load_file(place / "checkpoints/best_model/model.safetensors") for place in (one, other))
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.fixture
def market(in_folder: Path) -> pd.DataFrame:
    """Bars whose volume says the next day's return, stored where a run in the working directory looks for them."""
    bars = planted_bars(names=NAMES, days=DAYS)
    store_of(Path("outputs/data").absolute(), bars, f"{NAMES} made-up instruments")
    return bars


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        "rank",
        "direction",
        *(pytest.param(one, marks=pytest.mark.nightly) for one in ("return", "volatility")),
    ],
)
def test_a_planted_pattern_is_found_and_answered_up_to_the_last_bars(
    market: pd.DataFrame, weights: Path, objective: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the volatility nothing is planted: it is scored like the others."""
    before = checkpoint.digest(load_predictor(weights / "predictor"))
    assert run(weights, "--objective", objective) == 0
    said = capsys.readouterr().out
    found = table(objective)
    assert list(found.columns) == ["as_of", "instrument", "value", "realised"]
    assert found.as_of.max() == pd.Timestamp(LAST) and (found.as_of == LAST).sum() == NAMES
    assert found.value.notna().all() and found.loc[found.as_of == LAST, "realised"].isna().all()
    close = market.pivot(index="datetime", columns="instrument", values="close")
    if objective in ("return", "rank"):
        ahead = np.log(close.shift(-HORIZON) / close).stack()
        known = found.dropna().set_index(["as_of", "instrument"])["realised"]
        np.testing.assert_allclose(known, ahead.reindex(known.index), atol=1e-6)
    record = json.loads((folder(objective) / "summary.json").read_text())
    figures = record["metrics"]
    if objective != "volatility":
        assert figures["rank_ic_low"] > 0.2 and figures["gain_rank_ic_over_momentum_low"] > 0
        assert figures["groups_spread_low"] > 0
    if objective == "return":
        assert (
            figures["gain_squared_error_over_zero_low"] > 0
            and figures["gain_squared_error_over_mean_low"] > 0
        )
    if objective == "direction":
        assert figures["auc_low"] > 0.6 and figures["gain_log_loss_over_base_rate_low"] > 0
    if objective == "volatility":
        assert {"qlike", "r2", "gain_qlike_over_har"} <= figures.keys()
    assert (
        load_predictor(weights / "predictor")
        and checkpoint.digest(load_predictor(weights / "predictor")) == before
    )
    logged = latest("head")
    assert (
        logged.params["objective"] == objective and len(logged.metrics) <= 40 and "val_loss" in logged.metrics
    )
    artifacts = {
        item.path for item in MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db").list_artifacts(logged.id)
    }
    assert {"head.json", "report.html", "forecasts.parquet", "checkpoints", "summary.json"} <= artifacts
    assert "looks: 0 other models" in said and "hidden states of the frozen predictor" in said
    assert not [path for path in folder(objective).parent.rglob("*") if "states" in path.name]
    assert run(weights, "--objective", objective) == 0 and "head: reused" in capsys.readouterr().out


@pytest.mark.slow
def test_later_bars_change_no_weight_no_forecast_and_no_earlier_outcome(
    market: pd.DataFrame, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = pd.Timestamp("2021-01-29")
    assert run(weights) == 0
    other = market.copy()
    after = (other["datetime"] > day).to_numpy()
    random = np.random.default_rng(0)
    factor = np.exp(random.normal(0, 0.1, int(after.sum())))
    for name in ("open", "high", "low", "close"):
        other.loc[after, name] *= factor
    other.loc[after, "volume"] = random.uniform(1e5, 1e7, int(after.sum())).round()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    store_of(Path("outputs/data").absolute(), other, f"{NAMES} made-up instruments")
    assert run(weights) == 0
    assert same_weights(folder(place=tmp_path), folder())
    left, right = table(place=tmp_path), table()
    assert left[left.as_of <= day][["as_of", "instrument", "value"]].equals(
        right[right.as_of <= day][["as_of", "instrument", "value"]]
    )
    days = np.sort(left.as_of.unique())
    whole = days[np.searchsorted(days, np.datetime64(day)) - HORIZON]
    assert left[left.as_of <= whole].equals(right[right.as_of <= whole])
    assert not left[left.as_of == day].equals(right[right.as_of == day])  # its outcome is another one
    assert not left[left.as_of > day].value.equals(right[right.as_of > day].value)


@pytest.mark.slow
def test_a_resumed_head_is_the_straight_one(
    market: pd.DataFrame, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Interrupted in the training, and then where its report is written."""
    objective, given = "rank", ["--objective", "rank", "--save-windows", "64"]
    assert run(weights, *given, "--head-save-folder-name", "straight") == 0
    saves = []

    def save(*values: Any, **more: Any) -> None:
        saved(*values, **more)
        saves.append(1)
        if len(saves) == 3:
            raise KeyboardInterrupt

    saved = trainer.save_last
    monkeypatch.setattr(trainer, "save_last", save)
    assert run(weights, *given) == 130
    writing = stage.write_head
    monkeypatch.setattr(stage, "write_head", lambda *values: (_ for _ in ()).throw(KeyboardInterrupt))
    capsys.readouterr()
    assert run(weights, *given) == 130 and "resumes its interrupted run" in capsys.readouterr().out
    assert not folder(objective).exists()
    monkeypatch.setattr(stage, "write_head", writing)
    assert run(weights, *given) == 0 and "resumes its interrupted run" in capsys.readouterr().out
    straight = folder().with_name(f"straight_{objective}")
    assert same_weights(straight, folder(objective))
    for name in ("forecasts.parquet", "head.json"):
        assert (straight / name).read_bytes() == (folder(objective) / name).read_bytes()
    curves = [
        json.loads((place / "summary.json").read_text())["curve"] for place in (straight, folder(objective))
    ]
    assert curves[0] == curves[1]
    runs = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db").search_runs(["1"])
    assert len(runs) == 2  # the interrupted one went on


@pytest.mark.slow
def test_two_processes_train_the_head_as_one(market: pd.DataFrame, weights: Path) -> None:
    short = ["--n-train-iter", "640", "--epochs", "2", "--head-learning-rate", "0.001"]
    assert run(weights, *short) == 0
    alone = table()
    assert run(weights, *short, "--batch-size", "16", "--nproc-per-node", "2") == 0
    np.testing.assert_allclose(table().value, alone.value, atol=2e-4 * alone.value.abs().max())
    assert json.loads((folder() / "summary.json").read_text())["metrics"]["steps"] == 40


@pytest.mark.slow
def test_a_stored_head_answers_without_training_and_from_python(
    market: pd.DataFrame, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted = ["--adapter", "lora", "--n-train-iter", "96", "--epochs", "1", "--n-val-iter", "32"]
    for given, moved in (([], False), (adapted, True)):
        assert run(weights, *given) == 0
        first = table()
        kept = shutil.copytree(folder(), Path("kept"), dirs_exist_ok=True)
        assert (kept / "checkpoints/best_model/adapter").is_dir() == moved
        capsys.readouterr()
        assert (
            run(weights, "--head-path", "kept", "--n-train-iter", "7") == 0
        )  # what is trained on is no matter
        said = capsys.readouterr().out
        assert "hidden states of the frozen" not in said and "best val_loss" not in said
        assert table().equals(first)
        assert (
            run(weights, "--head-path", str(folder())) == 0
        )  # the same head: nothing it depends on has changed
        assert "head: reused" in capsys.readouterr().out
        store = open_store("outputs/data")
        points = forecast_points(store, *[pd.Timestamp("2021-02-01").date()] * 2, LOOKBACK)
        bars, stamps = contexts(store, points.row, LOOKBACK)
        pair = load_tokenizer(weights / "tokenizer"), load_predictor(weights / "predictor")
        found = load_head("kept").answers(*pair, bars, stamps)
        expected = first[first.as_of == "2021-02-01"].value
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    refused = {
        ("--objective", "rank"): "trained with objective=return, not rank: give --objective return",
        ("--predict-window", "3"): "trained with predict_window=2, not 3",
        ("--head-path", "nowhere"): "no head in",
    }
    for arguments, words in refused.items():
        assert run(weights, "--head-path", "kept", *arguments) == 2
        assert words in capsys.readouterr().err
    shutil.copytree(weights, "other")
    model = load_predictor(weights / "predictor")
    model.head.proj_s1.weight.data.add_(1.0)
    model.save_pretrained("other/predictor")
    assert run(Path("other"), "--head-path", "kept") == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "another predictor (digest" in one]
    assert "give --predictor-path of that one, or train a head on this one" in line
    head = Path("kept/head.json")
    head.write_text(head.read_text().replace("return", "rank"))
    assert run(weights, "--head-path", "kept", "--objective", "rank") == 2
    assert "head.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--objective", "volatility", "--predict-window", "1"], "needs a predict_window of 2 bars or more"),
        (["--predictor-path", "a,b"], "head takes one predictor"),
        (["--shard", "true"], "shard=true has nothing to split"),
        (["--adapter", "lora", "--adapter-targets", "heads"], "give attention or feed-forward"),
        (["--objective", "price"], "expected one of return, direction, volatility, rank"),
        (["--head-save-folder-name", "a/b"], "'a/b' is not a plain folder name"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    in_folder: Path, weights: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(weights, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and not folder().exists()


@pytest.mark.slow
def test_ranges_that_are_too_short_and_too_few_instruments_are_refused_in_a_line(
    market: pd.DataFrame, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {
        (
            "--backtest-time-range",
            "2021-02-25,2021-03-11",
        ): "9 days of backtest_time_range 2021-02-25..2021-03-11 are",
        (
            "--val-time-range",
            "2020-11-05,2020-12-02",
        ): "the validation range has 32 outcomes on 2 days, at least 100",
        ("--val-time-range", "2020-11-05,2020-11-12"): "validation has no window",
    }
    for arguments, said in short.items():
        assert run(weights, *arguments) == 2
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error and not folder().exists()
    store_of(Path("outputs/data").absolute(), planted_bars(names=4, days=DAYS), "4 made-up instruments")
    assert run(weights, "--objective", "rank") == 2
    assert "orders the instruments of a day, at least 5" in capsys.readouterr().err
