"""Who may use the page: passwords, names of hosts, requests of other sites, and which files it serves."""

import base64
import importlib.util
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kronos.__main__ import main

pytest.importorskip("dash", reason="dash is not installed: pip install -e '.[app]'")

from kronos.app.guard import PASSWORD, is_loopback
from kronos.app.page import make_page
from kronos.app.session import MOST_UPLOAD, Session
from kronos.report.pages.plotly_script import plotly_script
from kronos.utils.errors import UserError

SECRET = "twelve letters and more"
HERE = "http://127.0.0.1:8050"
CALLBACK = "/_dash-update-component"


@pytest.fixture
def session(in_folder: Path) -> Iterator[Session]:
    found = Session(None, "kronos")
    yield found
    found.close()
    assert not found.folder.exists()


def client(session: Session, password: str | None = None) -> Any:
    return make_page(session, "127.0.0.1", password).server.test_client()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def status(asked: Any, path: str = "/", method: str = "GET", base: str = HERE, **headers: str) -> int:
    return int(asked.open(path, method=method, base_url=base, headers=headers, json={} if method == "POST" else None)
               .status_code)  # fmt: skip


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "my-machine"])
def test_another_address_than_loopback_needs_a_password(host, in_folder, monkeypatch, capsys):
    monkeypatch.delenv(PASSWORD, raising=False)
    assert main(["app", "--host", host, "--port", "0"]) == 2
    assert f"set the environment variable {PASSWORD}" in capsys.readouterr().err
    monkeypatch.setenv(PASSWORD, "short")
    assert main(["app", "--host", host, "--port", "0"]) == 2
    assert "5 characters, at least 12 are needed" in capsys.readouterr().err
    assert not is_loopback(host) and all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.0.1", "::1")))


def test_a_taken_port_and_a_missing_package_are_one_line(in_folder, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 2
    assert f"port {port}, is taken by another program" in capsys.readouterr().err
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dash" else there(name))
    assert main(["app"]) == 2
    assert "(dash): pip install 'kronos-pipeline[app]'" in capsys.readouterr().err
    assert main(["app", "--port", "70000"]) == 2


def test_without_the_password_nothing_is_served(session):
    asked = client(session, SECRET)
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/results/x/forecasts.html", "/nothing"):
        assert status(asked, path) == 401
        for user, password in (("kronos", SECRET + "x"), ("kronos", ""), ("root", SECRET), ("", "")):
            assert status(asked, path, **basic(user, password)) == 401
    assert status(asked, Authorization=f"Bearer {SECRET}") == 401
    assert status(asked, CALLBACK, "POST", Origin=HERE) == 401
    assert status(asked, **basic("kronos", SECRET)) == 200
    script = asked.get(
        "/results/any/plotly.min.js", base_url=HERE
    )  # frames without rights have no password to give
    assert script.status_code == 200 and script.data == plotly_script()
    # A proxy's name is allowed: a browser gives the password to no other name than the one it was typed for.
    assert status(asked, base="https://page.example", **basic("kronos", SECRET)) == 200


def test_a_name_that_points_here_is_refused(session):
    asked = client(session)
    for own in ("http://127.0.0.1:8050", "http://localhost:9000", "http://[::1]:8050"):
        assert status(asked, base=own) == 200
    for other in ("http://evil.example", "http://127.0.0.1.evil.example:8050", "http://localhost.evil"):
        assert status(asked, base=other) == 403
        assert status(asked, "/_dash-layout", base=other) == 403


def test_another_page_cannot_start_anything(session):
    asked = client(session)
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:9999",
        "http://localhost:8050",
        "file://",
    ):
        assert status(asked, CALLBACK, "POST", Origin=origin) == 403
    assert status(asked, CALLBACK, "POST") == 403
    assert status(asked, CALLBACK, "POST", Origin=HERE) != 403
    policy = asked.get("/", base_url=HERE).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'self'" in policy and "http" not in policy


class Tracked:
    """A run that has a report, and a configuration that is nobody's business."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("report.html", "config.json"):
            (folder / name).write_text(name)

    def file(self, name: str) -> Path:
        if not (self.folder / name).is_file():
            raise UserError("no artifact")
        return self.folder / name


def test_only_the_files_of_a_result_are_served_and_without_rights_over_the_page(
    session, tmp_path, monkeypatch
):
    asked = client(session)
    tracked = Tracked(tmp_path)
    monkeypatch.setattr(session, "run", lambda identifier: tracked)
    work = session.worker.begin(lambda work: (work.folder / "forecasts.html").write_text("<p>candles"))
    (work.folder / "secret.json").write_text("{}")
    (session.folder / "forecasts.html").write_text("not of a result")
    while not work.ended:
        time.sleep(0.01)
    for path in (f"/results/{work.id}/forecasts.html", "/runs/a-run/report.html"):
        answer = asked.get(path, base_url=HERE)
        policy = answer.headers["Content-Security-Policy"]
        assert answer.status_code == 200 and policy.startswith("sandbox ")
        assert "allow-same-origin" not in policy
    for path in (
        f"/results/{work.id}/secret.json",
        f"/results/{work.id}/report.html",
        "/results/no-work/forecasts.html",
        "/runs/a-run/forecasts.html",
        "/runs/a-run/config.json",
    ):
        assert status(asked, path) == 404, path
    for path in (
        f"/results/{work.id}/..%2fforecasts.html",
        f"/results/{work.id}/../forecasts.html",
        "/assets/page.py",
    ):
        found = asked.get(path, base_url=HERE).data
        assert b"not of a result" not in found and b"make_page" not in found


def test_an_upload_keeps_its_name_and_stays_in_its_folder(session):
    path = session.keep_upload("BTC USDT 行情.csv", b"bars")
    assert path.name == "BTC USDT 行情.csv" and path.read_bytes() == b"bars" and session.is_upload(str(path))
    for name in ("../bars.csv", "/etc/passwd", "", ".hidden", "a\0b", "a\nb", "x" * 300):
        with pytest.raises(UserError, match="cannot be used as the name of a file"):
            session.keep_upload(name, b"bars")
    with pytest.raises(UserError, match="at most 32 MB"):
        session.keep_upload("bars.csv", bytes(MOST_UPLOAD + 1))
    for _ in range(4):
        session.keep_upload("bars.csv", b"more")
    assert not path.exists()
