"""Requests with a few changes at random: valid bars, or 400 with one sentence, never another status."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import LOOKBACK, assert_one_sentence, assert_valid, market, post, request_body
from starlette.testclient import TestClient

ROWS = ("instrument", "datetime", "open", "high", "low", "close", "volume")


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


BOUNDED = settings(
    max_examples=100, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def check(client: TestClient, body: bytes) -> None:
    status, answer = post(client, body)
    if status == 200:
        assert_valid(answer)
    else:
        assert status == 400, (status, answer)
        assert_one_sentence(answer)


@BOUNDED
@given(body=mutated())
def test_any_changed_request_gives_valid_bars_or_one_sentence(client: TestClient, body: bytes) -> None:
    check(client, body)


@pytest.mark.nightly
@settings(BOUNDED, max_examples=600)
@given(body=mutated())
def test_many_changed_requests(client: TestClient, body: bytes) -> None:
    check(client, body)
