"""`mlflow models serve` as a real process on loopback, and a client of it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd


@contextmanager
def serving(model: str, store: str) -> Iterator[str]:
    """Serve a model address of a tracking store; yields the server's address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "-p", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [*command, "--env-manager", "local"], env={**os.environ, "MLFLOW_TRACKING_URI": store, "PATH": path},
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
