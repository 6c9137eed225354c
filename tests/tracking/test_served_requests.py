"""Requests to the served model, through MLflow's app in this process: valid bars, or 400 with one sentence."""

import asyncio
import copy
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from serving import LOOKBACK, market, request_body, save_model
from starlette.testclient import TestClient

from kronos.tracking import scoring_server as guard
from kronos.tracking.served_bounds import CLIENT_GONE, Bounds
from kronos.utils.errors import UserError

JSON = "application/json"
ROWS = ("instrument", "datetime", "open", "high", "low", "close", "volume")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> str:
    return save_model(tmp_path_factory.mktemp("served"), weights)


@pytest.fixture(scope="module")
def model(saved: str) -> Any:
    return mlflow.pyfunc.load_model(saved)


def start(saved: str, patch: pytest.MonkeyPatch, **bounds: Any) -> TestClient:
    """MLflow's scoring app as its server process starts it, with other bounds."""
    from fastapi import FastAPI
    from mlflow.pyfunc import scoring_server

    patch.setattr(scoring_server, "invocations", scoring_server.invocations)
    patch.setattr(FastAPI, "__call__", FastAPI.__call__)
    patch.setitem(sys.modules, "mlflow.pyfunc.scoring_server.app", types.ModuleType("app"))
    patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    return TestClient(scoring_server.init(mlflow.pyfunc.load_model(saved, model_config=bounds)))


@pytest.fixture(scope="module")
def client(saved: str) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch, start(saved, patch) as client:
        yield client


def post(client: TestClient, body: bytes | str, kind: str = JSON) -> tuple[int, Any]:
    """(status, predictions or the sentence) of a request."""
    answer = client.post("/invocations", content=body, headers={"Content-Type": kind})
    if answer.status_code == 415:
        return 415, answer.text
    return answer.status_code, answer.json()["predictions" if answer.status_code == 200 else "message"]


def refused(client: TestClient, body: bytes | str, kind: str = JSON) -> str:
    """The sentence of a request that must be refused."""
    status, sentence = post(client, body, kind)
    assert status == 400, (status, sentence)
    assert_one_sentence(sentence)
    return sentence


def assert_one_sentence(text: str) -> None:
    assert text and "\n" not in text and "Traceback" not in text and ". " not in text and len(text) < 400, (
        text
    )


def assert_valid(rows: list[dict[str, Any]]) -> None:
    table = pd.DataFrame(rows)
    prices = table[["open", "high", "low", "close"]]
    assert np.isfinite(table.drop(columns=["instrument", "as_of", "datetime"]).to_numpy()).all()
    assert (prices > 0).all(axis=None)
    assert (table["high"] >= prices.max(axis=1)).all() and (table["low"] <= prices.min(axis=1)).all()
    assert (table[["volume", "amount"]] >= 0).all(axis=None)


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


class Stream:
    """The server's side of one request: chunks of a body, then silence until the client goes away."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks, self.gone, self.sent = list(chunks), asyncio.Event(), []

    async def receive(self) -> dict[str, Any]:
        if self.chunks:
            part = self.chunks.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.chunks)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


def test_a_large_body_is_read_dropped_and_refused() -> None:
    bodies, stream = guard.Bodies(Bounds(max_body_mb=1)), Stream(*[bytes(2**20)] * 50)

    async def never(*_: Any) -> None:
        raise AssertionError("the app must not see the body")

    asyncio.run(bodies(never, {"type": "http"}, stream.receive, stream.send))
    assert stream.sent[0]["status"] == 400 and not stream.chunks and bodies.held == 0
    assert_one_sentence(json.loads(stream.sent[1]["body"])["message"])


def test_a_body_that_does_not_arrive_is_refused() -> None:
    bodies, stream = guard.Bodies(Bounds(max_seconds=0.05)), Stream(b"{")
    stream.chunks.append(b"")
    part = stream.receive

    async def slow() -> dict[str, Any]:
        return await part() if len(stream.chunks) > 1 else await asyncio.sleep(60)  # type: ignore[func-returns-value]

    asyncio.run(bodies(None, {"type": "http"}, slow, stream.send))  # type: ignore[arg-type]
    assert "max_seconds = 0.05" in stream.sent[1]["body"].decode() and stream.sent[0]["status"] == 400


def test_work_stops_when_the_client_goes_away(model: Any) -> None:
    """The client goes away while the model works: the forecast ends at its next bar."""
    stream = Stream(b"{}")

    def work() -> Any:
        while not CLIENT_GONE.get().is_set():  # type: ignore[union-attr]
            pass
        return model.predict(market("A"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"{}"
        working = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.sleep(0.01)
        stream.gone.set()
        with pytest.raises(MlflowException, match="the client closed the connection"):
            await working

    asyncio.run(guard.Bodies(Bounds())(app, {"type": "http"}, stream.receive, stream.send))


def test_a_fault_of_the_server_is_one_sentence_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("kronos.tracking.scoring_server.check_params", broken)
    status, sentence = post(client, request_body(market("A")))
    assert status == 500 and "secret" not in sentence
    assert_one_sentence(sentence)


def test_a_request_that_waits_too_long_for_others_is_told_so(model: Any) -> None:
    invocations = guard.Invocations(Bounds(max_seconds=0.01))
    with invocations.lock, pytest.raises(MlflowException, match="busy with other requests") as told:
        invocations(request_body(market("A")), JSON, model, None)
    assert told.value.get_http_status_code() == 503
    assert invocations(request_body(market("A")), JSON, model, None).status == 200
    assert not invocations.lock.locked()


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([1]), st.just({"a": 1}),
    st.sampled_from(["2024-01-02", "2024-13-01", "NaT", "nan", "-1", -1.0, 0, 1e-300, 1e300, 10**400, 1e15]),
)  # fmt: skip


RULES = st.fixed_dictionaries(
    {},
    optional={
        "pred_len": st.integers(1, 9), "sample_count": st.integers(1, 9), "T": st.floats(0.001, 1000),
        "top_p": st.floats(1e-9, 1), "top_k": st.integers(0, 300), "seed": st.integers(-(2**63), 2**63 - 1),
        "quantiles": st.lists(st.floats(0, 1), max_size=3, unique=True),
    },
)  # fmt: skip
POSSIBLE = ["levels", "volumes", "rules", "gap"] * 3
IMPOSSIBLE = ["cell", "column", "scale", "drop", "swap", "again", "name", "param", "cut"]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good request with a few changes at random places of it."""
    body = copy.deepcopy(GOOD)
    table, params = body["dataframe_split"], body["params"]
    for _ in range(draw(st.integers(0, 3))):
        rows = table["data"]
        row = draw(st.integers(0, len(rows) - 1))
        match draw(st.sampled_from(POSSIBLE + IMPOSSIBLE)):
            case "levels":  # each bar at a level of its own
                random = np.random.default_rng(draw(st.integers(0, 99)))
                for one, factor in zip(rows, 10.0 ** random.uniform(-4, 4, len(rows)), strict=True):
                    one[2:6] = [value * factor if isinstance(value, float) else value for value in one[2:6]]
            case "volumes":
                volume = draw(st.sampled_from([0, 1, 1e-9, 1e9, 7.5]))
                for one in rows[:row]:
                    one[6] = volume
            case "rules":
                params |= draw(RULES)
            case "gap" if len(rows) == len(GOOD["dataframe_split"]["data"]):
                del rows[3], rows[-4]
            case "cell":
                rows[row][draw(st.integers(0, 6))] = draw(CELLS)
            case "column":
                place, value = draw(st.integers(0, 6)), draw(CELLS)
                for one in rows:
                    one[place] = value
            case "scale":
                factor = draw(st.floats(1e-12, 1e12))
                for one in rows[:row]:
                    one[2:6] = [value * factor if isinstance(value, float) else value for value in one[2:6]]
            case "drop" if len(rows) > 1:
                del rows[row]
            case "swap":
                rows[row], rows[0] = rows[0], rows[row]
            case "again":
                rows.insert(row, list(rows[row]))
            case "name":
                table["columns"][draw(st.integers(0, 6))] = draw(st.sampled_from([*ROWS, "x", "vol", 5]))
            case "param":
                names = ["pred_len", "sample_count", "T", "top_p", "top_k", "seed", "quantiles", "other"]
                values = st.one_of(
                    CELLS, st.integers(-2, 9), st.floats(0, 2), st.lists(st.floats(0, 1), max_size=3)
                )
                params[draw(st.sampled_from(names))] = draw(values)
            case "cut":
                return json.dumps(body).encode()[: draw(st.integers(0, 3000))]
    return json.dumps(body).encode()


GOOD = json.loads(request_body(market("A", "B", length=LOOKBACK + 2)))


@settings(
    max_examples=300, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(body=mutated())
def test_any_changed_request_gives_valid_bars_or_one_sentence(client: TestClient, body: bytes) -> None:
    status, answer = post(client, body)
    if status == 200:
        assert_valid(answer)
    else:
        assert status == 400, (status, answer)
        assert_one_sentence(answer)
