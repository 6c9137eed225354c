"""Requests to the served model, through MLflow's app in this process: valid bars, or 400 with one sentence."""

import json
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from serving import LOOKBACK, assert_one_sentence, assert_valid, market, post, request_body, start
from starlette.testclient import TestClient

from kronos.tracking.served_bounds import Bounds
from kronos.utils.errors import UserError

JSON = "application/json"


def refused(client: TestClient, body: bytes | str, kind: str = JSON) -> str:
    """The sentence of a request that must be refused."""
    status, sentence = post(client, body, kind)
    assert status == 400, (status, sentence)
    assert_one_sentence(sentence)
    return sentence


def changed(column: str, value: Any, row: int = 3) -> pd.DataFrame:
    table = market("A", "B").astype(object)
    table.at[row, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (changed("instrument", None), "row 3 has no instrument"),
        (changed("instrument", " "), "instrument in row 3 is blank"),
        (changed("instrument", [1]), "instrument in row 3 is [1], expected text"),
        (changed("volume", -1), "volume is -1 in row 3: volume must be 0 or more"),
        (changed("volume", None), "volume is missing in row 3"),
        (changed("high", 1.0), "high is 1 in row 3: it is below the low"),
        (changed("close", 500.0), "close is 500 in row 3: it is outside low to high"),
        (changed("open", 1.0), "open is 1 in row 3: it is outside low to high"),
        (changed("close", 0), "close is 0 in row 3: prices must be above 0"),
        (changed("low", -5), "low is -5 in row 3: prices must be above 0"),
        (changed("close", float("nan")), "close is missing in row 3"),
        (changed("close", 1e-10), "prices must be at least 1e-09"),
        (changed("volume", 1e30), "volume is 1e+30 in row 3: expected at most 1e+16"),
        (changed("volume", 10**400), "volume has a number over 1e+16"),
        (changed("close", "12 dollars"), "close in row 3 is 12 dollars, expected a number"),
        (changed("close", True), "close in row 3 is True, expected a number"),
        (changed("close", [[1]]), "close in row 3 is [[1]], expected a number"),
        (changed("datetime", "2024-02-31"), "datetime in row 3 is 2024-02-31, expected a time"),
        (changed("datetime", "01/05/2024"), "datetime in row 3 is 01/05/2024"),
        (changed("datetime", "2024-01-05T00:00:00Z"), "column datetime has a time zone"),
        (changed("datetime", "9999-01-01"), "of the years 1900 to 2200"),
        (changed("datetime", "2024-01-04"), "datetime must increase within an instrument: in row 3, for A"),
        (changed("datetime", "2023-01-04"), "datetime must increase within an instrument: in row 3, for A"),
        (market("A").iloc[:0], "the table has no rows"),
        (market("A", "B").iloc[:-1], "each instrument needs 16 bars: B has 15"),
        (market("A").drop(columns=["close", "low"]), "columns low, close are missing"),
    ],
)
def test_a_bad_table_is_refused_with_the_row(client: TestClient, table: pd.DataFrame, reason: str) -> None:
    assert reason in refused(client, request_body(table))


def test_times_that_are_numbers_are_refused(client: TestClient) -> None:
    for row, reason in ((3, "datetime in row 3 is 20240105, expected text"), (None, "holds numbers")):
        body = json.loads(request_body(market("A")))
        for place, values in enumerate(body["dataframe_split"]["data"]):
            values[1] = 20240105 if row in (None, place) else values[1]
        assert reason in refused(client, json.dumps(body))


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "1e999"])
def test_an_infinite_price_is_refused(client: TestClient, value: str) -> None:
    body = request_body(changed("high", 77777.0)).decode().replace("77777.0", value)
    assert "high is" in refused(client, body)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"pred_len": 0}, "pred_len is 0, at least 1"),
        ({"pred_len": 65}, "pred_len is 65, at most max_context = 64"),
        ({"pred_len": 2.5}, "pred_len is 2.5, expected a whole number"),
        ({"pred_len": None}, "pred_len is None, expected a whole number"),
        ({"sample_count": 0}, "sample_count is 0, at least 1"),
        ({"sample_count": -3}, "sample_count is -3, at least 1"),
        ({"sample_count": True}, "sample_count is True, expected a whole number"),
        ({"sample_count": 10**9}, "over max_path_bars = 500000"),
        ({"seed": 2**70}, "at most 64 bits"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": "x"}, "top_p is x, expected a number"),
        ({"top_p": 2}, "top_p is 2.0, expected more than 0"),
        ({"T": 0}, "T is 0, expected 0.001 to 1000"),
        ({"T": 1e-30}, "T is 1e-30"),
        ({"quantiles": [1.5]}, "quantiles are [1.5]"),
        ({"quantiles": "0.5"}, "quantiles are 0.5, expected a list"),
        ({"quantiles": [0.5] * 101}, "at most 100"),
        ({"sampel_count": 3}, "unknown param sampel_count: a request may set pred_len"),
        ([1], "params must be an object"),
    ],
)
def test_a_bad_param_is_refused(client: TestClient, params: Any, reason: str) -> None:
    assert reason in refused(client, request_body(market("A"), params))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "the body is not JSON"),
        ("{", "the body is not JSON"),
        ("[1]", "must be a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 5000, "too many digits"),
        ('{"params": {}}', "the body has 0 tables"),
        ('{"dataframe_split": {"columns": ["open"], "data": [[1]]}, "instances": []}', "has 2 tables"),
        ('{"dataframe_split": 5}', "must be an object with columns and data"),
        ('{"dataframe_split": {"columns": ["open"], "data": [[1, 2]]}}', "row 0 of dataframe_split"),
        ('{"dataframe_split": {"columns": [3], "data": []}}', "list of at most 100 names"),
        ('{"dataframe_split": {"columns": ["open"], "data": {}}}', "must be a list of rows"),
        ('{"dataframe_records": [5]}', "row 0 is not an object"),
        ('{"dataframe_records": {"open": 1}}', "must be a list of rows"),
        ('{"inputs": {"open": 5}}', "column open of inputs must be a list"),
        ('{"inputs": {"open": [5], "low": []}}', "as many values as each other"),
        ('{"dataframe_records": [], "parms": {}}', "unknown field parms"),
    ],
)
def test_a_body_of_another_form_is_refused(client: TestClient, body: bytes | str, reason: str) -> None:
    assert reason in refused(client, body)


def test_a_column_that_is_there_twice_is_refused(client: TestClient) -> None:
    body = json.loads(request_body(market("A")))
    body["dataframe_split"]["columns"][-1] = "close"
    assert "column close is there twice" in refused(client, json.dumps(body))


def test_all_formats_give_the_same_answer(client: TestClient, model: Any) -> None:
    table = market("000001", "NA")
    own = model.predict(table)
    text = table.assign(datetime=table["datetime"].dt.strftime("%Y-%m-%d"))
    records = text.to_dict(orient="records")
    for body, kind in (
        (request_body(table), JSON),
        (json.dumps({"dataframe_records": records}), JSON),
        (json.dumps({"instances": records}), JSON),
        (json.dumps({"inputs": text.to_dict(orient="list")}), JSON),
        (text.to_csv(index=False), "text/csv; charset=utf-8"),
    ):
        status, rows = post(client, body, kind)
        assert status == 200, rows
        np.testing.assert_allclose([row["close"] for row in rows], own["close"], rtol=1e-6)
        assert [row["instrument"] for row in rows] == list(own["instrument"])


def test_other_content_types_are_named(client: TestClient) -> None:
    for kind in ("application/vnd.apache.parquet", "text/html", "text/csv; charset=latin-1"):
        assert post(client, b"x", kind) == (
            415,
            "the content type must be application/json or text/csv, in UTF-8",
        )
    assert client.post("/invocations", content=b"x").status_code == 415


def test_bad_csv_is_refused(client: TestClient) -> None:
    text = market("A").to_csv(index=False)
    assert "close in row 0 is x" in refused(client, changed("close", "x", 0).to_csv(index=False), "text/csv")
    assert "the CSV cannot be read" in refused(client, text + '"', "text/csv")
    assert "over 100 columns" in refused(client, "," * 1000, "text/csv")
    assert "the CSV cannot be read" in refused(client, "", "text/csv")


def test_other_columns_are_left_out_and_aliases_understood(client: TestClient) -> None:
    table = market("A")
    plain = post(client, request_body(table))
    assert post(client, request_body(table.assign(sector="x", note=[[1]] * LOOKBACK))) == plain
    renamed = json.loads(request_body(table))
    renamed["dataframe_split"]["columns"] = ["symbol", "date", "open", "high", "low", "close", "vol"]
    assert post(client, json.dumps(renamed)) == plain


def test_missing_sessions_and_interleaved_instruments_are_normal(client: TestClient) -> None:
    table = market("A", "B", length=LOOKBACK + 9).drop([3, 4, 9, 30])
    status, rows = post(client, request_body(table))
    assert status == 200
    assert post(client, request_body(table.sort_values(["datetime", "instrument"]))) == (200, rows)
    alone = market("A", length=LOOKBACK + 9).drop(columns="instrument")
    assert {row["instrument"] for row in post(client, request_body(alone))[1]} == {"series"}


def test_no_answer_has_a_price_of_zero_or_less(client: TestClient) -> None:
    """Half of the context is a hundred times as high as the last bars: draws below 0 are then usual."""
    table = market("A")
    table.loc[: LOOKBACK // 2, ["open", "high", "low", "close"]] *= 100
    status, rows = post(
        client, request_body(table, {"sample_count": 40, "T": 5.0, "top_p": 1.0, "pred_len": 20})
    )
    assert status == 200
    assert_valid(rows)
    assert min(row["low"] for row in rows) >= 0.0099 * table["close"].iloc[-1]


def test_direct_calls_are_bounded_too(model: Any) -> None:
    for table, params, reason in (
        (market("A"), {"sample_count": 200_000}, "over max_path_bars"),
        (changed("close", -1.0).infer_objects(), {}, "prices must be above 0"),
    ):
        with pytest.raises(MlflowException, match=reason) as told:
            model.predict(table, params)
        assert told.value.error_code == "INVALID_PARAMETER_VALUE"
        assert_one_sentence(told.value.message)


def test_the_model_config_sets_the_bounds(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start(saved, monkeypatch, max_body_mb=0.05, max_rows=40, max_path_bars=12, max_answer_values=80)
    assert post(client, request_body(market("A")))[0] == 200
    for table, params, reason in (
        (market("A"), {"pred_len": 7}, "1 series x 2 samples x 7 bars are over max_path_bars = 12"),
        (market("A"), {"quantiles": [0.1, 0.2, 0.3]}, "3 rows x 28 columns is over max_answer_values = 80"),
        (market("A", "B", "C"), {}, "the table has 48 rows, over max_rows = 40"),
        (pd.concat([market("A")] * 50), {}, "the body is over max_body_mb = 0.05"),
    ):
        assert reason in refused(client, request_body(table, params))
    assert "max_rows = 40" in refused(client, json.dumps({"dataframe_records": [{}] * 141}))
    with pytest.raises(MlflowException, match="takes longer than max_seconds = 1e-09"):
        mlflow.pyfunc.load_model(saved, model_config={"max_seconds": 1e-9}).predict(market("A"))


def test_the_environment_sets_the_bounds(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", '{"max_rows": 3}')
    with pytest.raises(MlflowException, match="over max_rows = 3"):
        mlflow.pyfunc.load_model(saved).predict(market("A"))
    with pytest.raises(UserError, match="max_rows in the model config is 'many', expected a number above 0"):
        Bounds.of({"max_rows": "many"})


def test_a_fault_of_the_server_is_one_sentence_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("kronos.tracking.scoring_server.check_params", broken)
    status, sentence = post(client, request_body(market("A")))
    assert status == 500 and "secret" not in sentence
    assert_one_sentence(sentence)
