"""A served model with conditions: columns of a request, what is missing, and the same forecasts as in Python."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from serving import LOOKBACK, SETTINGS, assert_one_sentence, market, post, request_body, save_model, start
from starlette.testclient import TestClient

from kronos import KronosPredictor
from kronos.model import load_predictor, load_tokenizer
from kronos.model.conditions import Conditions

COLUMNS = [
    {"name": "sector", "kind": "category", "categories": ["bank", "7"]},
    {"name": "rate", "kind": "number", "mean": 1.0, "deviation": 2.0},
]
KINDS = {column["name"]: column["kind"] for column in COLUMNS}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    load_tokenizer(weights / "tokenizer").save_pretrained(folder / "tokenizer")
    predictor = load_predictor(weights / "predictor")
    torch.manual_seed(1)
    predictor.add_conditions(Conditions.from_json({"block": 1, "columns": COLUMNS}))
    with torch.no_grad():
        predictor.conditions.projection.weight.normal_(std=0.3)
    predictor.save_pretrained(folder / "predictor")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, pair: Path) -> str:
    return save_model(tmp_path_factory.mktemp("served"), pair, conditions=KINDS)


@pytest.fixture(scope="module")
def client(saved: str) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch, start(saved, patch) as client:
        yield client


def table() -> pd.DataFrame:
    bars = market("A", "B")
    sector = np.where(bars["instrument"] == "A", "bank", "7").astype(object)
    return bars.assign(sector=sector, rate=np.arange(len(bars)) / 10)


def answer(client: TestClient, bars: pd.DataFrame) -> pd.DataFrame:
    status, rows = post(client, request_body(bars))
    assert status == 200, rows
    return pd.DataFrame(rows)


def test_an_answer_is_that_of_python_and_says_which_conditions_were_missing(
    client: TestClient, saved: str, pair: Path
) -> None:
    whole = answer(client, table())
    assert set(whole["missing_conditions"]) == {""}
    python = mlflow.pyfunc.load_model(saved).predict(table())
    np.testing.assert_allclose(whole["close"], python["close"], rtol=1e-6)
    without = answer(client, table().drop(columns=["sector", "rate"]))
    assert set(without["missing_conditions"]) == {"sector, rate"}
    assert not np.allclose(without["close"], whole["close"], rtol=1e-6)
    unknown, empty = table(), table()
    unknown["sector"] = unknown["sector"].replace("bank", "steel")
    empty.loc[empty["instrument"] == "A", "sector"] = None
    found, missing = answer(client, unknown), answer(client, empty)
    assert found["missing_conditions"].tolist() == ["sector (steel)"] * 3 + [""] * 3
    assert missing["missing_conditions"].tolist() == ["sector"] * 3 + [""] * 3
    np.testing.assert_array_equal(found["close"], missing["close"])
    np.testing.assert_array_equal(found["close"][3:], whole["close"][3:])


def test_csv_has_the_same_answer_and_a_bad_cell_is_one_sentence(client: TestClient) -> None:
    body = io.StringIO()
    table().assign(datetime=table()["datetime"].astype(str)).to_csv(body, index=False)
    status, rows = post(client, body.getvalue(), "text/csv")
    assert status == 200
    np.testing.assert_allclose(pd.DataFrame(rows)["close"], answer(client, table())["close"], rtol=1e-6)
    for column, value, said in (
        ("rate", "high", "rate in row 3 is high, expected a number"),
        ("sector", [1], "sector in row 3 is [1], expected text"),
    ):
        bars = table().astype(object)
        bars.at[3, column] = value
        status, sentence = post(client, request_body(bars))
        assert status == 400 and said in sentence
        assert_one_sentence(sentence)


def test_a_predictor_takes_columns_of_the_frame_and_warns_of_unknown_categories(pair: Path) -> None:
    predictor = KronosPredictor(
        load_predictor(pair / "predictor"),
        load_tokenizer(pair / "tokenizer"),
        max_context=SETTINGS["max_context"],
    )
    bars = table()[:LOOKBACK]
    times, future = bars["datetime"], pd.bdate_range("2024-03-01", periods=3)

    def close(frame: pd.DataFrame) -> list[float]:
        found: Any = predictor.predict(frame, times, future, 3, seed=1, verbose=False)
        return list(found["close"])

    plain, numbers = close(bars.drop(columns=["sector", "rate"])), bars.assign(sector=7)
    assert close(bars) != plain and close(numbers) == close(numbers.assign(sector="7"))
    assert close(bars.assign(sector=None, rate=np.nan)) == plain
    with pytest.warns(UserWarning, match=r"df: sector has values that the predictor does not know \(oil\)"):
        assert close(bars.assign(sector="oil", rate=np.nan)) == plain
    both = predictor.predict_batch([bars, numbers], [times] * 2, [future] * 2, 3, seed=1, verbose=False)
    assert list(both[0]["close"]) == pytest.approx(close(bars), rel=1e-5)
    assert list(both[1]["close"]) != list(both[0]["close"])
