"""Who may use the page: where it listens, the password, and requests that come from other sites.

Everything that the page can do, it does with the rights of the user who started it: it reads files by their path and
starts trainings. So it listens on loopback, or asks for a password; and a page of another site, open in the same
browser, must not reach it, neither by a form nor by a name that points at 127.0.0.1 (DNS rebinding).
"""

import hashlib
import hmac
import ipaddress
import os
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, request

from kronos.utils.errors import UserError

PASSWORD = "KRONOS_APP_PASSWORD"  # an environment variable: a flag could be read in the list of processes
LEAST_LETTERS = 12
OWN_NAMES = ("localhost", "127.0.0.1", "::1")
ONLY_FROM_HERE = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
# Reports are shown in a frame without the rights of this page: they may come from a tracking server of others.
# A browser gives such a frame no password, so that the script of its charts, which holds no secret, needs none.
OPEN_TO_ALL = "plotly_script"  # the endpoint
FRAMED = f"sandbox allow-scripts allow-downloads; {ONLY_FROM_HERE}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens on `host`."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any address
        return False


def password_for(host: str) -> str | None:
    """Return the password that the environment gives, None where there is none and `host` needs none.

    Raises UserError for another address than loopback without a password, and for one that is too short.
    """
    found = os.environ.get(PASSWORD) or None
    if found is None and not is_loopback(host):
        raise UserError(
            f"--host {host} can be reached from other machines, and the page reads files and starts trainings: set "
            f"the environment variable {PASSWORD} (its user name is kronos), or leave --host at 127.0.0.1 and come "
            "through  ssh -L"
        )
    if found is not None and len(found) < LEAST_LETTERS:
        raise UserError(f"{PASSWORD} has {len(found)} characters, at least {LEAST_LETTERS} are needed")
    return found


def protect(server: Flask, host: str, password: str | None) -> None:
    """Refuse requests of others, and tell browsers to load nothing from elsewhere."""
    names = {*OWN_NAMES, host.lower()}

    @server.before_request
    def check() -> Response | None:
        if password is not None and request.endpoint != OPEN_TO_ALL and not _is_user(password):
            return Response(
                "The page asks for its password; the user name is kronos.\n", 401,
                {"WWW-Authenticate": 'Basic realm="kronos", charset="UTF-8"'}, mimetype="text/plain",
            )  # fmt: skip
        # With a password the name may be a proxy's: a browser sends a password to the name that it was given for.
        if password is None and _name(request.host) not in names:
            return _refused(f"the page is not known as {request.host}: open it at 127.0.0.1")
        if request.method not in ("GET", "HEAD") and not _is_own_origin():
            return _refused("this request came from another page")
        return None

    @server.after_request
    def head(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", ONLY_FROM_HERE)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        return response


def _is_user(password: str) -> bool:
    given: Any = request.authorization
    if given is None or given.type != "basic":
        return False
    # Digests have one length, so that the time of the comparison says nothing, not even how long the password is.
    pairs = ((given.username, "kronos"), (given.password, password))
    return all([hmac.compare_digest(_digest(text), _digest(wanted)) for text, wanted in pairs])


def _digest(text: str | None) -> bytes:
    return hashlib.sha256((text or "").encode("utf-8", "surrogatepass")).digest()


def _is_own_origin() -> bool:
    """Return whether a browser says that the page itself sent this request; browsers say so for all but GET."""
    origin = urlsplit(request.headers.get("Origin", ""))
    return bool(origin.netloc) and origin.netloc.lower() == request.host.lower()


def _name(netloc: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").lower()
    except ValueError:
        return ""


def _refused(why: str) -> Response:
    return Response(f"{why}\n", 403, mimetype="text/plain")
