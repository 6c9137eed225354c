"""A served model's answer to one request: nano, one series, 60 bars in, 10 out, 5 samples, over HTTP on loopback.

Untrained weights: the time does not depend on them. The medians, of the answer and of its parts in the server's own
process, are printed: python -m pytest tests/bench/test_serving_speed.py -m bench -s
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from serving import ask, serving

from kronos.model import Kronos, KronosTokenizer
from kronos.model.presets import PREDICTOR_PRESETS, TOKENIZER_PRESETS
from kronos.tracking.client import Tracking
from kronos.tracking.model_registry import log_model

LOOKBACK, HORIZON, SAMPLES = 60, 10, 5
WARM_UP, ROUNDS = 10, 50
LIMIT = 0.150  # seconds at the median


def median_of(function: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(WARM_UP + ROUNDS):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM_UP:])


@pytest.mark.bench
def test_one_series_is_answered_in_under_150_ms(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    close = 50 * np.exp(random.normal(0, 0.01, LOOKBACK).cumsum())
    table = pd.DataFrame(
        {
            "instrument": "A", "datetime": pd.bdate_range("2024-01-02", periods=LOOKBACK), "open": close,
            "high": close * 1.01, "low": close * 0.99, "close": close, "volume": 1e6, "amount": close * 1e6,
        }
    )  # fmt: skip
    settings = {
        "lookback": LOOKBACK, "pred_len": HORIZON, "T": 0.6, "top_p": 0.9, "top_k": 0, "seed": 1,
        "sample_count": SAMPLES, "quantiles": [0.05, 0.5, 0.95], "bands": "raw", "max_context": 512, "clip": 5.0,
        "fine_rotary": "public", "precision": "fp32", "calendar": "XNYS", "freq": "day", "label": "end",
    }  # fmt: skip
    store = f"sqlite:///{tmp_path}/mlflow.db"
    tracking = Tracking(store, "serving")
    with tracking.run("serving", {}) as run:
        model = log_model(
            run,
            store,
            KronosTokenizer(**TOKENIZER_PRESETS["nano"]),
            Kronos(**PREDICTOR_PRESETS["nano"]),
            settings,
            table,
        )

    def answer(address: str) -> None:
        status, content = ask(address, table)
        assert (status, len(content["predictions"])) == (200, HORIZON)

    mlflow.set_tracking_uri(store)
    try:
        loaded = mlflow.pyfunc.load_model(model)
        in_process = median_of(lambda: loaded.predict(table))
    finally:
        mlflow.set_tracking_uri(None)
    with serving(model, store) as address:
        served = median_of(lambda: answer(address))
    print(
        f"\nnano, {LOOKBACK} + {HORIZON} bars, {SAMPLES} samples, one series: served {1000 * served:.0f} ms, "
        f"of which the model {1000 * in_process:.0f} ms"
    )
    assert served < LIMIT
