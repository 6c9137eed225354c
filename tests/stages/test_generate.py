"""Synthetic bars: possible, the same however many are drawn, and read back as bars of a user."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.data.store import open_store

MADE = Path("outputs/generated")


def generate(weights: Path, *arguments: str) -> pd.DataFrame:
    paths = ["--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor")]
    assert main(["generate", *paths, *arguments]) == 0
    return pd.read_parquet(MADE / "bars.parquet")


def test_bars_are_possible_and_do_not_depend_on_how_many_are_drawn(store: Path, weights: Path) -> None:
    bars = generate(weights, "--generate-instruments", "3", "--generate-bars", "12")
    assert (
        list(bars["instrument"].unique()) == ["SYN00001", "SYN00002", "SYN00003"] and bars["synthetic"].all()
    )
    assert (bars.groupby("instrument").size() == 12).all()
    assert bars["datetime"].min() > pd.Timestamp("2010-08-20")
    assert (bars["high"] >= bars[["open", "close"]].max(axis=1)).all() and (bars["low"] > 0).all()
    assert (bars[["volume", "amount"]] >= 0).all(axis=None)
    moves = bars.groupby("instrument")["close"].pct_change().dropna().to_numpy()
    assert len(np.unique(np.sign(moves))) > 1  # blocks do not repeat one draw
    begun = pd.read_csv(MADE / "contexts.csv")
    last = open_store(store).frame().groupby("instrument")["close"].last()
    assert (begun["instrument"] == ["SYN00001", "SYN00002", "SYN00003"]).all() and begun["continues"].isin(
        last.index
    ).all()
    fewer = generate(weights, "--generate-instruments", "2", "--generate-bars", "7")
    expected = bars[bars["instrument"] != "SYN00003"].groupby("instrument").head(7).reset_index(drop=True)
    pd.testing.assert_frame_equal(fewer, expected, rtol=1e-4)


@pytest.mark.slow
def test_they_are_read_as_bars_of_a_user(store: Path, weights: Path) -> None:
    bars = generate(weights, "--generate-instruments", "6", "--generate-bars", "60")
    shutil.copy(MADE / "bars.parquet", "mine.parquet")
    arguments = ["--data-source", "csv", "--data-path", "mine.parquet", "--dataset-path", "outputs/own"]
    assert main(["data", *arguments, "--lookback-window", "8", "--predict-window", "2"]) == 0
    read = open_store("outputs/own").frame()
    assert list(read["instrument"].unique()) == list(bars["instrument"].unique()) and len(read) == len(bars)
