"""Forecasts of models with other columns than the six: shapes, names, and rules that go by the name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kronos.data.bars import FEATURES
from kronos.data.calendars import sessions, time_features
from kronos.forecast import KronosPredictor, forecast_arrays, repair
from kronos.forecast.models import Windows, sample_paths
from kronos.forecast.naive_models import Bootstrap
from kronos.model import KronosTokenizer
from kronos.model.presets import TOKENIZER_PRESETS, random_model
from kronos.model.tokenizer import PUBLIC_COLUMNS
from kronos.tracking.served_body import JSON, read_body
from kronos.tracking.served_bounds import Bounds
from kronos.tracking.served_input import check_bars
from kronos.utils.errors import UserError

PRICES = ("open", "high", "low", "close")
FLOW = (*PRICES, "flow")


def models(columns: tuple[str, ...] | None) -> tuple[Any, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tokenizer = random_model("tokenizer", "nano", {"columns": columns} if columns else None)
        return tokenizer.eval(), random_model("predictor", "nano").eval()


def bars(count: int = 20) -> pd.DataFrame:
    random = np.random.default_rng(2)
    close = 10 * np.exp(random.normal(0, 0.01, count).cumsum())
    times = sessions("XNYS", "2020-01-02", "2020-06-30")[:count]
    return pd.DataFrame({
        "datetime": times, "open": close, "high": close * 1.01, "low": close * 0.99, "close": close,
        "volume": random.lognormal(5, 1, count), "flow": random.normal(0, 3, count),
    })  # fmt: skip


def test_the_default_is_the_public_tokenizer() -> None:
    assert PUBLIC_COLUMNS == FEATURES
    usual, named = models(None)[0], models(FEATURES)[0]
    assert usual.config == named.config == TOKENIZER_PRESETS["nano"] and usual.columns == FEATURES
    for one, other in zip(usual.parameters(), named.parameters(), strict=True):
        assert one.equal(other)


def test_a_checkpoint_keeps_the_columns(tmp_path: Path) -> None:
    models(FLOW)[0].save_pretrained(tmp_path / "tokenizer")
    again = KronosTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert again.columns == FLOW and again.embed.weight.shape == (64, 5)
    for wrong in (["close", "open", "high", "low", "flow"], [*PRICES, "close"], list(PRICES), 5):
        folder = Path(shutil.copytree(tmp_path / "tokenizer", tmp_path / str(wrong)))
        (folder / "digests.json").unlink()
        (folder / "config.json").write_text(json.dumps({**again.config, "columns": wrong}))
        with pytest.raises(UserError, match="holds arguments of which no KronosTokenizer can be made"):
            KronosTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("columns", [PRICES, FLOW, (*PRICES, "flow", "volume", "amount", "oi")])
def test_paths_have_the_tokenizers_columns(columns: tuple[str, ...]) -> None:
    """Their normalisation is each column's own: a column in other units gives the same paths in those units."""
    pair, table = models(columns), bars().assign(oi=1.0, amount=2.0)
    given = table[list(columns)].to_numpy()[None]
    stamps, ahead = time_features(pd.DatetimeIndex(table["datetime"])), np.zeros((1, 4, 5), np.int64)
    rules: dict[str, Any] = {"horizon": 4, "sample_count": 2, "seed": 3}
    paths = forecast_arrays(*pair, given, stamps[None], ahead, **rules)
    assert paths.shape == (1, 2, 4, len(columns)) and np.isfinite(paths).all()
    scaled = given.copy()
    scaled[..., -1] *= 1024
    again = forecast_arrays(*pair, scaled, stamps[None], ahead, **rules)
    np.testing.assert_allclose(again[..., :3], paths[..., :3], rtol=1e-4)
    with pytest.raises(
        UserError, match=rf"expected \[series, bars, {len(columns)}\] with open high low close"
    ):
        forecast_arrays(*pair, given[..., 1:], stamps[None], ahead, **rules)


def test_repair_goes_by_the_names() -> None:
    path = np.array([[3.0, 2.0, 4.0, 1.0, -5.0, -6.0]], np.float32)
    repaired, count = repair(path, columns=(*PRICES, "flow", "volume"))
    assert repaired.tolist() == [[3.0, 3.0, 1.0, 1.0, -5.0, 0.0]] and count == 1
    assert repair(path)[0].tolist() == [[3.0, 3.0, 1.0, 1.0, 0.0, 0.0]]
    assert repair(path[:, :4], columns=PRICES)[0].tolist() == [[3.0, 3.0, 1.0, 1.0]]


def test_the_public_api_takes_and_returns_the_columns_by_name() -> None:
    tokenizer, predictor = models(FLOW)
    api, table = KronosPredictor(predictor, tokenizer), bars()
    later = pd.bdate_range("2020-07-01", periods=3)
    options: dict[str, Any] = {"pred_len": 3, "seed": 1, "verbose": False, "sample_count": 2}
    found = api.predict(table, table["datetime"], later, **options)
    assert found.columns.tolist() == list(FLOW)
    shuffled = table[table.columns[::-1]].drop(columns="volume")
    pd.testing.assert_frame_equal(api.predict(shuffled, table["datetime"], later, **options), found)
    with pytest.raises(UserError, match="df has no column flow: expected open high low close flow; it has"):
        api.predict(table.drop(columns="flow"), table["datetime"], later, **options)


def test_models_without_weights_follow_the_columns() -> None:
    table, zeros = bars(), np.zeros((1, 20, 5), np.int64)
    windows = Windows(table[list(FLOW)].to_numpy()[None], zeros, zeros[:, :3], np.zeros(1, np.int64))
    assert sample_paths("bootstrap", Bootstrap(), windows, 4, whole=True).shape == (1, 4, 3, 5)


def test_a_request_has_the_models_columns_and_each_mistake_is_one_sentence() -> None:
    table = bars(3)
    body = b'{"dataframe_split": ' + table.to_json(orient="split", date_format="iso").encode() + b"}"
    read, _ = read_body(body, JSON, Bounds(), columns=FLOW)
    found = check_bars(read.assign(datetime=table["datetime"]), 10, columns=FLOW)
    assert found.columns.tolist() == ["instrument", "datetime", *FLOW, "volume", "amount"]
    np.testing.assert_allclose(found["flow"], table["flow"], rtol=1e-9)
    assert check_bars(table, 10).columns.tolist() == ["instrument", "datetime", *FEATURES]
    for changed, text in (
        (
            table.drop(columns="flow"),
            "columns flow are missing: expected datetime, open, high, low, close, flow",
        ),
        (table.assign(flow=[1.0, None, 2.0]), "flow is missing in row 1: fill or drop the bar"),
        (table.assign(flow=[1.0, -1e20, 2.0]), r"flow is -1e\+20 in row 1: expected at least -1e\+16"),
        (table.assign(flow=["a", "b", "c"]), "flow in row 0 is a, expected a number"),
    ):
        with pytest.raises(UserError, match=text):
            check_bars(changed, 10, columns=FLOW)
