"""Conditions from the store to forecasts: causal, the same in any number of processes, refused in one line."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.config.schema import Config
from kronos.data import conditions
from kronos.data.bars import FEATURES
from kronos.data.extra_columns import ExtraColumn
from kronos.data.forecast_points import context_rows, contexts, forecast_points, latest_points
from kronos.data.splits import make_split
from kronos.data.store import BarStore, open_store
from kronos.data.windows import Windows
from kronos.forecast.embeddings import embed_arrays
from kronos.forecast.pool import MEMBER, SEEDS, pool
from kronos.forecast.store_forecaster import (
    Forecaster,
    forecast_frame,
    plain_rules,
    stored_windows,
    trading_rules,
)
from kronos.model import Kronos, load_predictor, load_tokenizer
from kronos.model.conditions import Conditions
from kronos.stages.train import PredictorStage
from kronos.stages.weights import refuse_other_conditions, unknown_values
from kronos.tracking.reader import latest
from kronos.training.objectives import PredictorObjective
from kronos.utils.errors import UserError

AS_OF = date(2010, 7, 15)
PREDICTOR = Path("outputs/models/finetune_predictor_demo")


def with_sectors(store: BarStore, codes: np.ndarray) -> BarStore:
    """The store with a further column of two sectors."""
    return replace(
        store,
        extra=(ExtraColumn("sector", "category", ("bank", "oil")),),
        further=codes[:, None].astype("<f4"),
    )


def conditioned(weights: Path, names: tuple[str, ...], store: BarStore, trained: bool = True) -> Kronos:
    model = load_predictor(weights / "predictor")
    columns = conditions.describe(store, names, np.arange(len(store)), 32)
    torch.manual_seed(1)
    model.add_conditions(Conditions.from_json({"block": 1, "columns": columns}))
    if trained:
        with torch.no_grad():
            model.conditions.projection.weight.normal_(std=0.1)
    return model.eval()


def test_no_condition_after_as_of_enters_a_forecast_a_score_or_a_vector(store: Path, weights: Path) -> None:
    bars, tokenizer = open_store(store), load_tokenizer(weights / "tokenizer")
    codes = np.random.default_rng(0).integers(0, 2, len(bars))
    points = forecast_points(bars, AS_OF, AS_OF, 32)
    points = points.subset(np.arange(40))
    config, session = Config(lookback_window=32, predict_window=5), int(points.session[0])
    models = {}
    for name, changed in (("true", len(bars.sessions)), ("later", session + 1), ("as_of", session)):
        sectors = with_sectors(bars, np.where(bars.session >= changed, 1 - codes, codes))
        predictor = models["true"].predictor if models else conditioned(weights, ("sector",), sectors)
        models[name] = Forecaster(config, sectors, tokenizer, predictor)
    split = make_split(bars, "val", date(2010, 5, 3), AS_OF, lookback=32, horizon=5, length=37)
    scored = np.flatnonzero(bars.session[split.starts + 31] == session - 5)[:40]

    def numbers(model: Forecaster, at: int) -> list[np.ndarray]:
        paths, _ = model.make(points, plain_rules(2), "paths", slice(0, len(points)))
        rows = context_rows(points.row, 32)
        x, stamps = contexts(model.store, points.row, 32)
        vectors = embed_arrays(
            tokenizer, model.predictor, x, stamps, conditions_NLC=model.conditions_of(rows)
        )
        windows = Windows(model.store, split, lookback=32, clip=5.0, seed=1, conditions=model.conditions)
        with torch.inference_mode():
            score = PredictorObjective(tokenizer, 32, 5).score(model.predictor, windows.batch(scored, None))
        return [paths, vectors, np.array([total.item() for total, _ in score.values()])][:at]

    true = numbers(models["true"], 3)
    assert all(np.array_equal(*pair) for pair in zip(true, numbers(models["later"], 3), strict=True))
    for one, other in zip(true[:2], numbers(models["as_of"], 2), strict=True):
        assert not np.array_equal(one, other)


def test_each_member_of_an_ensemble_sees_the_conditions_of_its_own(store: Path, weights: Path) -> None:
    bars, tokenizer = open_store(store), load_tokenizer(weights / "tokenizer")
    points = forecast_points(bars, AS_OF, AS_OF, 32).subset(np.arange(8))
    config = Config(lookback_window=32, predict_window=5)
    windows = stored_windows(config, bars, points, 5, FEATURES)
    sectors = with_sectors(bars, bars.instrument_of_row % 2)
    plain, untrained, trained, other = (
        Forecaster(config, sectors, tokenizer, model)
        for model in (
            load_predictor(weights / "predictor"),
            conditioned(weights, ("size_bucket",), sectors, trained=False),
            conditioned(weights, ("size_bucket",), sectors),
            conditioned(weights, ("sector", "close"), sectors),
        )
    )
    paths = [one.draw(windows, plain_rules(2)) for one in (plain, untrained, trained)]
    np.testing.assert_array_equal(paths[0], paths[1])
    assert not np.array_equal(paths[0], paths[2])
    pooled = pool([trained, other, plain]).draw(windows, plain_rules(6))
    np.testing.assert_array_equal(pooled[:, :2], paths[2])
    for place, member in enumerate((other, plain), start=1):
        own = replace(windows, seed=(windows.seed + place * MEMBER) % SEEDS)
        np.testing.assert_array_equal(pooled[:, 2 * place : 2 * place + 2], member.draw(own, plain_rules(2)))
    few = pool([trained, other, plain]).draw(windows, plain_rules(1))
    for row, place in enumerate(windows.keys % 3):
        one = replace(windows.rows(np.array([row])), seed=(windows.seed + int(place) * MEMBER) % SEEDS)
        np.testing.assert_array_equal(few[row], (trained, other, plain)[place].draw(one, plain_rules(1))[0])


@pytest.mark.slow
def test_a_size_bucket_is_trained_on_and_two_processes_forecast_as_one(
    store: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--pretrained-tokenizer-path", str(weights / "tokenizer"), "--freeze-tokenizer", "true"]
    common += ["--pretrained-predictor-path", str(weights / "predictor"), "--inference-sample-count", "2"]
    small = [
        "--epochs",
        "1",
        "--n-train-iter",
        "256",
        "--n-val-iter",
        "64",
        "--predictor-learning-rate",
        "1e-2",
    ]
    asked = ["--condition-columns", "size_bucket", "--condition-block", "2"]
    assert main(["predictor", *common, *small, *asked]) == 0
    said = capsys.readouterr()
    assert (
        "with the conditions size_bucket" in said.out and "logged with its tokenizer as models:/" in said.out
    )
    assert "Failed to validate serving input example" not in said.err
    best = PREDICTOR / "checkpoints" / "best_model"
    described = json.loads((best / "config.json").read_text())["conditions"]
    assert described["block"] == 2 and [one["name"] for one in described["columns"]] == ["size_bucket"]
    assert main(["predict", *common, "--bands", "raw", "--nproc-per-node", "2"]) == 0
    found = pd.read_parquet("outputs/predictions/latest/forecast.parquet")
    config, bars = latest("predict").config, open_store(store)
    model = Forecaster(config, bars, load_tokenizer(weights / "tokenizer"), load_predictor(best))
    points = latest_points(bars, config.lookback_window)
    means, _ = model.means(points, trading_rules(config))
    expected = forecast_frame(bars, points, means, FEATURES)
    pd.testing.assert_frame_equal(found[[*expected.columns]], expected, check_exact=True)


def test_other_conditions_than_the_predictor_has_are_refused_and_unknown_categories_said(
    store: Path, weights: Path
) -> None:
    bars = open_store(store)
    own, none = (
        conditioned(weights, ("size_bucket",), bars).config,
        load_predictor(weights / "predictor").config,
    )
    refuse_other_conditions(Config(), own, "it")
    refuse_other_conditions(Config(condition_columns=["size_bucket"]), own, "it")
    with pytest.raises(UserError, match="close was given, but it has size_bucket: give the same, or leave"):
        refuse_other_conditions(Config(condition_columns=["close"]), own, "it")
    with pytest.raises(UserError, match="size_bucket was given, but it was trained without conditions"):
        refuse_other_conditions(Config(condition_columns=["size_bucket"]), none, "it")
    with pytest.raises(ValueError, match="close,close names a column twice"):
        Config(condition_columns=["close", "close"])
    sectors = with_sectors(bars, bars.instrument_of_row % 2)
    known = {"conditions": {"columns": [{"name": "sector", "kind": "category", "categories": ["oil"]}]}}
    (note,) = unknown_values(sectors, known)
    assert note == "the predictor does not know 1 of the values of sector (bank): they count as missing"


def test_a_block_or_a_column_that_there_is_not_is_refused_before_training(
    store: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--condition-columns", "size_bucket", "--condition-block", "9"]
    assert main(["predictor", "--model-preset", "nano", "--pretrained-predictor-path", "none", *asked]) == 2
    said = capsys.readouterr().err
    assert "condition_block is 9, the predictor has 2 blocks" in said and "Traceback" not in said
    given = {
        "condition_block": "9", "condition_columns": "size_bucket", "freeze_tokenizer": "true",
        **{f"pretrained_{kind}_path": str(weights / kind) for kind in ("tokenizer", "predictor")},
    }  # fmt: skip
    with pytest.raises(UserError, match="condition_block is 9, the predictor has 2 blocks"):
        PredictorStage().inputs(load_config(None, given)[0])
    with pytest.raises(UserError, match="the store at outputs/data was built without column 'sector'"):
        PredictorStage().inputs(load_config(None, {**given, "condition_columns": "sector"})[0])
