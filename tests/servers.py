"""Real servers on loopback for slow tests: PostgreSQL, and MLflow that can be killed and started again."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


def programs() -> Path | None:
    """Debian's folder of PostgreSQL's programs, or that of PATH."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else Path(found).parent if found else None


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a database of the test's own."""
    bin_folder = programs()
    if bin_folder is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("psycopg2 is not installed (the extra postgres)")
    folder = tmp_path_factory.mktemp("postgres")
    as_user: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        if subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
        folder = Path("/tmp") / f"kronos-postgres-{os.getpid()}"
        folder.mkdir()
        shutil.chown(folder, "postgres")
    port, data = free_port(), folder / "data"
    run = [*as_user, str(bin_folder / "pg_ctl"), "-D", str(data), "-w"]
    make = [
        *as_user,
        str(bin_folder / "initdb"),
        "-D",
        str(data),
        "-U",
        "kronos",
        "--auth=trust",
        "-E",
        "UTF8",
    ]
    subprocess.run(make, check=True, capture_output=True, cwd="/")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    start = [*run, "-l", str(folder / "log"), "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    try:
        yield f"postgresql+psycopg2://kronos@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*run, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


class MlflowServer:
    """`mlflow server` with its artifacts over HTTP, at an address that it keeps when it is started again."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._store = store or f"sqlite:///{folder}/mlflow.db"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1", "--backend-store-uri", self._store, "--serve-artifacts",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=2).read()
                return
            except OSError:
                log_text = (self.folder / "log").read_text()
                assert self._process.poll() is None and time.monotonic() < until, log_text
                time.sleep(0.5)

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all its processes, by default the one that leaves them no last words."""
        if self._process is not None:
            os.killpg(self._process.pid, number)
            self._process.wait(30)
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """An MLflow server of the test's own; a test that ends it starts it again."""
    started = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    try:
        started.start()
        yield started
    finally:
        started.end(signal.SIGTERM)
