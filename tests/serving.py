"""`mlflow models serve` as a real process on loopback, and a client of it."""

import json
import os
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from kronos.tracking.model_registry import signature
from kronos.tracking.served_bounds import Bounds
from kronos.utils.files import PACKAGE, write_json

LOOKBACK = 16
SETTINGS = {
    "lookback": LOOKBACK, "pred_len": 3, "T": 1.0, "top_p": 0.9, "top_k": 0, "seed": 1, "sample_count": 2,
    "quantiles": [0.1, 0.9], "max_context": 64, "clip": 5.0, "fine_rotary": "public", "precision": "fp32",
    "calendar": "XNYS", "freq": "day", "label": "end", "bands": "raw",
}  # fmt: skip


def save_model(folder: Path, weights: Path, calibration: Path | None = None, **changed: Any) -> str:
    """Save checkpoints as `log_model` logs them, without a tracking store; returns the model's folder."""
    settings = {**SETTINGS, **changed}
    write_json(folder / "serving.json", settings)
    artifacts = {name: str(weights / name) for name in ("tokenizer", "predictor")}
    artifacts |= {"calibration": str(calibration)} if calibration else {}
    mlflow.pyfunc.save_model(
        folder / "model", python_model=str(PACKAGE / "tracking" / "served_model.py"),
        artifacts={**artifacts, "serving": str(folder / "serving.json")}, signature=signature(settings),
        model_config=asdict(Bounds()), pip_requirements=["mlflow"],
    )  # fmt: skip
    return str(folder / "model")


def market(*names: str, length: int = LOOKBACK, seed: int = 0) -> pd.DataFrame:
    """Plausible daily bars of some instruments, in the format of a request."""
    random, tables = np.random.default_rng(seed), []
    for name in names:
        close = 100 * np.exp(random.normal(0, 0.02, length).cumsum())
        opened = close * np.exp(random.normal(0, 0.01, length))
        tables.append(
            pd.DataFrame(
                {
                    "instrument": name, "datetime": pd.bdate_range("2024-01-02", periods=length), "open": opened,
                    "high": np.maximum(opened, close) * 1.01, "low": np.minimum(opened, close) * 0.99, "close": close,
                    "volume": random.lognormal(13, 0.3, length),
                }
            )
        )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


@contextmanager
def serving(model: str, store: str, **environment: str) -> Iterator[str]:
    """Serve a model address of a tracking store; yields the server's address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "-p", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [*command, "--env-manager", "local"],
        env={**os.environ, "MLFLOW_TRACKING_URI": store, "PATH": path, **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(address + "/ping", timeout=2)
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


def request_body(table: pd.DataFrame, params: dict[str, Any] | None = None) -> bytes:
    """The table as MLflow's scoring protocol has it."""
    split = json.loads(table.assign(datetime=table["datetime"].astype(str)).to_json(orient="split"))
    rows = {"columns": split["columns"], "data": split["data"]}
    return json.dumps({"dataframe_split": rows, "params": params or {}}).encode()


def ask(address: str, table: pd.DataFrame, params: dict[str, Any] | None = None) -> tuple[int, Any]:
    """(status, answer) of one request; the answer is text where the status is not 200."""
    request = urllib.request.Request(
        address + "/invocations", request_body(table, params), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def start(saved: str, patch: pytest.MonkeyPatch, **bounds: Any) -> TestClient:
    """MLflow's scoring app as its server process starts it, with other bounds."""
    from fastapi import FastAPI
    from mlflow.pyfunc import scoring_server

    patch.setattr(scoring_server, "invocations", scoring_server.invocations)
    patch.setattr(FastAPI, "__call__", FastAPI.__call__)
    patch.setitem(sys.modules, "mlflow.pyfunc.scoring_server.app", types.ModuleType("app"))
    patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    return TestClient(scoring_server.init(mlflow.pyfunc.load_model(saved, model_config=bounds)))


def post(client: TestClient, body: bytes | str, kind: str = "application/json") -> tuple[int, Any]:
    """(status, predictions or the sentence) of a request."""
    answer = client.post("/invocations", content=body, headers={"Content-Type": kind})
    if answer.status_code == 415:
        return 415, answer.text
    return answer.status_code, answer.json()["predictions" if answer.status_code == 200 else "message"]


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
