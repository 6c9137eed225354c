"""Vectors of contexts: those of the model's own forward pass, causal, and a frame that LightGBM and Qlib take."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kronos import Kronos, KronosTokenizer
from kronos.__main__ import main
from kronos.data.forecast_points import contexts, forecast_points
from kronos.data.store import open_store
from kronos.forecast.embeddings import embed_arrays
from kronos.tracking.reader import latest

FILE = Path("outputs/embeddings/embeddings.parquet")
DAYS = "2010-07-15,2010-07-20"


def embed(weights: Path, *arguments: str) -> pd.DataFrame:
    paths = ["--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor")]
    assert main(["embed", *paths, *arguments]) == 0
    return pd.read_parquet(FILE)


def test_a_vector_is_the_hidden_state_of_the_models_forward_pass(
    store: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = embed(weights, "--embed-time-range", DAYS)
    assert vectors.index.names == ["datetime", "instrument"] and vectors.index.is_monotonic_increasing
    assert vectors.index.is_unique and np.isfinite(vectors.to_numpy()).all()
    run, bars = latest("embed"), open_store(store)
    points = forecast_points(bars, date(2010, 7, 15), date(2010, 7, 20), run.config.lookback_window)
    assert len(vectors) == len(points) == run.metrics["vectors"]
    tokenizer = KronosTokenizer.from_pretrained(weights / "tokenizer")
    predictor = Kronos.from_pretrained(weights / "predictor")
    for place in (0, len(points) // 2, len(points) - 1):
        x, stamps = contexts(bars, points.row[[place]], run.config.lookback_window)
        normal = (x[0] - x[0].mean(axis=0, dtype=np.float64)) / (x[0].std(axis=0, dtype=np.float64) + 1e-5)
        with torch.inference_mode():
            s1, s2 = tokenizer.encode(torch.from_numpy(normal).float().clamp(-5, 5)[None], half=True)
            hidden = predictor.hidden(s1, s2, torch.from_numpy(stamps.astype(np.int64)))[0, -1]
        np.testing.assert_allclose(vectors.iloc[place], hidden, atol=1e-4)
    assert "only vectors of later days" in capsys.readouterr().out
    record = json.loads((FILE.parent / "summary.json").read_text())
    assert record["seen_until"] == run.tags["kronos.seen_until"]


def test_later_bars_change_no_vector(store: Path, weights: Path) -> None:
    bars = open_store(store)
    tokenizer = KronosTokenizer.from_pretrained(weights / "tokenizer")
    predictor = Kronos.from_pretrained(weights / "predictor")
    points = forecast_points(bars, date(2010, 7, 1), date(2010, 7, 2), 30)
    x, stamps = contexts(bars, points.row, 30)
    before = embed_arrays(tokenizer, predictor, x[:, :20], stamps[:, :20])
    x[:, 20:] *= 3
    assert np.array_equal(embed_arrays(tokenizer, predictor, x[:, :20], stamps[:, :20]), before)
    apart = [embed_arrays(tokenizer, predictor, x[[place], :20], stamps[[place], :20]) for place in range(5)]
    np.testing.assert_allclose(np.concatenate(apart), before[:5], atol=1e-4)  # neighbours have no part in it
    mean = embed_arrays(tokenizer, predictor, x[:, :20], stamps[:, :20], pooling="mean")
    assert mean.shape == before.shape and not np.allclose(mean, before)
    assert embed_arrays(tokenizer, predictor, x[:0], stamps[:0]).shape == (0, predictor.d_model)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--embed-time-range", "2001-01-01,2001-02-01"], "give another --embed-time-range"),
        (["--predictor-path", "a,b"], "embed takes one predictor"),
        (["--embed-pooling", "max"], "expected one of last, mean"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    store: Path, weights: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor")]
    assert main(["embed", *paths, *arguments]) == 2
    assert said in capsys.readouterr().err and not FILE.exists()
