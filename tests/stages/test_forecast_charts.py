"""Pages of a finished pipeline and of predict show the stored bars, the written forecasts and the fills."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.data.bars import FEATURES, Flag
from kronos.data.store import open_store

pytestmark = pytest.mark.slow
RESULT = Path("outputs/backtest_results/finetune_backtest_demo")
LIMIT = 8_000_000  # bytes of the pages of a folder


def charts(folder: Path) -> list[dict[str, Any]]:
    page = (folder / "forecasts.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return list(json.loads(text)["charts"])


def pages_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".html", ".js"))


def test_the_page_of_a_backtest_shows_bars_forecasts_and_fills_as_they_are_and_the_best_and_worst(
    finished: Path,
) -> None:
    folder, store = finished / RESULT, open_store(finished / "outputs" / "data")
    bars = store.frame((*FEATURES, "flag")).set_index(["instrument", "datetime"]).sort_index()
    real = bars.where((bars["flag"] & int(Flag.FILLED)) == 0)
    forecast = (
        pd.read_parquet(folder / "predictions.parquet")
        .set_index(["instrument", "as_of", "step"])
        .sort_index()
    )
    trades = pd.read_parquet(folder / "trades.parquet")
    found = charts(folder)
    kinds = pd.Series([chart["kind"] for chart in found]).value_counts()
    assert kinds["best"] == kinds["worst"] == kinds["typical"] == 3 and kinds["random"] == 4
    errors: dict[str, list[float]] = {}
    for chart in found:
        own, as_of = bars.loc[chart["instrument"]], pd.Timestamp(chart["as_of"])
        traces, times = chart["traces"], pd.DatetimeIndex(chart["times"])
        seen = own.loc[:as_of].tail(len(traces["seen"]["x"]))
        assert list(times[: len(seen)]) == list(seen.index) and seen.index[-1] == as_of
        came = real.loc[chart["instrument"]].reindex(times[len(seen) :]).dropna()
        mean = forecast.loc[(chart["instrument"], as_of)]
        for name in ("open", "high", "low", "close", "volume"):
            np.testing.assert_allclose(traces["seen"][name], seen[name], rtol=1e-5)
            np.testing.assert_allclose(traces["forecast"][name], mean[name], rtol=1e-5)
        assert set(traces.get("came", {"close": ()})["close"]) == {
            float(f"{value:.6g}") for value in came["close"]
        }
        fills = trades[(trades["instrument"] == chart["instrument"]) & trades["datetime"].isin(times)]
        drawn = sum(len(traces[side]["x"]) for side in ("buy", "sell") if side in traces)
        assert drawn == len(fills)
        if len(came) < len(mean):
            continue
        gap = np.abs(mean["close"].to_numpy() - came["close"].to_numpy()).mean()
        returns = real.loc[chart["instrument"]]["close"].pct_change(fill_method=None).loc[:as_of].tail(32)
        errors.setdefault(chart["kind"], []).append(gap / seen["close"].iloc[-1] / returns.std())
    assert max(errors["best"]) < min(errors["typical"]) and max(errors["typical"]) < min(errors["worst"])
    assert max(errors["best"]) <= min(errors["random"]) and max(errors["random"]) <= min(errors["worst"])
    assert pages_size(folder) < LIMIT


def test_the_page_of_predict_has_a_row_and_candles_of_every_instrument(
    finished: Path, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--inference-sample-count", "2", "--predict-figures", "IBM"]) == 0
    folder = Path("outputs/predictions/latest")
    ranking = pd.read_csv(folder / "ranking.csv")
    page = (folder / "forecasts.html").read_text(encoding="utf-8")
    assert re.findall(r'<tr data-instrument="([^"]+)">', page) == ranking["instrument"].tolist()
    found = charts(folder)
    assert found[0]["instrument"] == "IBM" and found[0]["kind"] == "asked for"
    assert {chart["instrument"] for chart in found} == set(ranking["instrument"])
    forecast = pd.read_parquet(folder / "forecast.parquet").set_index(["instrument", "step"])
    for chart in found[:20]:
        levels = forecast.loc[chart["instrument"]]
        low = chart["traces"]["band_0"]["y"][-len(levels) :][::-1]
        np.testing.assert_allclose(low, levels["close_q0.05"], rtol=1e-5)
    assert pages_size(folder) < LIMIT


def test_an_instrument_that_a_backtest_cannot_draw_is_named_and_costs_nothing_else(
    finished: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    quick = ["--backtest-max-instruments", "12", "--baseline-lightgbm", "false", "--baseline-seeds", "1",
             "--inference-sample-count", "2", "--evaluation-series", "20", "--n-val-iter", "200"]  # fmt: skip
    assert main(["backtest", *quick, "--predict-figures", "NOPE,A"]) == 0
    assert "not in the backtest: NOPE (not in the store)" in capsys.readouterr().out
    asked = [chart["instrument"] for chart in charts(RESULT) if chart["kind"] == "asked for"]
    assert asked and set(asked) == {"A"}
