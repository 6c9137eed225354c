"""Real servers on loopback for slow tests: PostgreSQL, and MLflow that can be killed and started again."""

import importlib.util
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
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

    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

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


PAGE = b"<html><body>Sign in to the network first</body></html>"
FAULTS: dict[str, bytes | None] = {  # what is answered to a request; None: nothing, the connection stays open
    "error 500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}",
    "error 503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "too many requests": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "no answer": None,
    "closed at once": b"",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Ty",
    "half an answer": b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"experiment": {"experi',
    "no HTTP": b"\x00\x01\x02SSH-2.0-OpenSSH\r\n",
    "a page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s"
    % (len(PAGE), PAGE),
    "an empty object": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
}


class FaultyServer(socketserver.ThreadingTCPServer):
    """A server on loopback that answers each request by `fault`, or by the server at `port` where that is None."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.behind, self.fault, self.answered = port, None, 0
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that leaves is what some tests are about."""


class _Connection(socketserver.BaseRequestHandler):
    server: FaultyServer

    def handle(self) -> None:
        ahead: socket.socket | None = None
        while request := self.request.recv(1 << 20):
            if self.server.fault is not None:
                self.server.answered += 1
                answer = FAULTS[self.server.fault]
                if answer is None:
                    while self.request.recv(1 << 20):
                        pass
                else:
                    self.request.sendall(answer)
                return
            if ahead is None:
                ahead = socket.create_connection(("127.0.0.1", self.server.behind))
                threading.Thread(target=self._back, args=(ahead,), daemon=True).start()
            ahead.sendall(request)

    def _back(self, ahead: socket.socket) -> None:
        with suppress(OSError):  # the client has left
            while answer := ahead.recv(1 << 20):
                self.request.sendall(answer)
            self.request.shutdown(socket.SHUT_RDWR)
