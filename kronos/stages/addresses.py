"""Addresses of the tracking store and of a search's storage: what is wrong with one, before anything is opened."""

import os
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from kronos.config.schema import Config
from kronos.utils.error_messages import OPTIONAL

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
TRACKING_FORMS = "sqlite:///FILE, postgresql://..., http://HOST:PORT or https://HOST"
STORAGE_FORMS = "sqlite:///FILE, postgresql+psycopg2://... or journal:FILE"
PLUGINS = "mlflow.tracking_store"  # entry points by which packages add tracking stores


def check_addresses(config: Config, searches: bool) -> Iterator[str]:
    """A sentence for each address that cannot be right, with the name of its field."""
    given = config.tracking.tracking_uri
    field = "tracking_uri" if given else "MLFLOW_TRACKING_URI"
    address = given or os.environ.get("MLFLOW_TRACKING_URI")
    if address:
        yield from _tracking(field, address)
    if searches:
        yield from _storage(config.search.storage)


def _tracking(field: str, address: str) -> Iterator[str]:
    scheme, shown = _scheme(address), _without_password(address)
    if scheme in ("http", "https"):
        try:
            parts = urlsplit(address)
            problem = "" if parts.hostname else "it names no host"
            _ = parts.port
        except ValueError as error:
            problem = str(error)
        if not problem and re.search(r"\s", address):
            problem = "it holds a space"
        if problem:
            yield f"{field} is {shown}: {problem}; expected {TRACKING_FORMS}"
    elif scheme.partition("+")[0] in DATABASES:
        yield from _database(field, address, TRACKING_FORMS)
    elif scheme in ("", "file"):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
            yield f"{field} is {shown}: MLflow keeps no runs in folders any more; expected {TRACKING_FORMS}"
    elif not scheme.startswith("databricks") and scheme not in {
        one.name for one in entry_points(group=PLUGINS)
    }:
        yield f"{field} is {shown}: {scheme} is no kind of tracking store; expected {TRACKING_FORMS}"


def _storage(address: str) -> Iterator[str]:
    if address.startswith("journal:"):
        file = Path(address.removeprefix("journal:"))
        if file.name == "" or file.is_dir():
            yield f"storage is {address!r}: it names no file; expected {STORAGE_FORMS}"
        return
    yield from _database("storage", address, STORAGE_FORMS)


def _scheme(address: str) -> str:
    if address == "databricks":
        return address
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", address)
    return found[1].lower() if found else ""


def _without_password(address: str) -> str:
    return repr(re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", address))


def _database(field: str, address: str, forms: str) -> Iterator[str]:
    """What SQLAlchemy says about a database address and its driver; nothing is connected to."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    shown = _without_password(address)
    try:
        url = make_url(address)
        dialect = url.get_dialect()
        dialect.import_dbapi()
        dialect().create_connect_args(url)
    except ImportError as error:
        package = str(error.name)
        yield (
            f"{field} is {shown}: the package {package} is not installed: run  "
            f"{OPTIONAL.get(package, f'pip install {package}')}"
        )
        return
    except (ArgumentError, ValueError) as error:  # no address, an unknown kind, a port that is no number
        yield f"{field} is {shown}: {str(error).splitlines()[0].rstrip('.:')}; expected {forms}"
        return
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        parent = Path(str(url.database)).absolute().parent
        blocked = next((one for one in (parent, *parent.parents) if one.exists()), parent)
        if not blocked.is_dir():
            yield f"{field} is {shown}: {blocked} is a file, a folder was expected there"
