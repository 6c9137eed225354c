"""Opening the storage of a study: a database of SQLAlchemy, or a journal file."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_incrementing, wait_random

from kronos.utils.errors import UserError


def connect(address: str, heartbeat: int, retry_callback: Any = None) -> RDBStorage | JournalStorage:
    """Open a storage and create its tables if needed; safe with several processes. Raises UserError on failure."""
    if address.startswith("journal:"):
        return JournalStorage(JournalFileBackend(address.removeprefix("journal:")))
    if "://" not in address:
        raise UserError(
            f"storage {address!r} is not a valid URL: expected sqlite:///FILE or postgresql+psycopg2://..."
        )
    try:
        return _open_database(address, heartbeat, retry_callback)
    except Exception as error:
        text = str(error)
        why = (text.splitlines() or [type(error).__name__])[0]
        shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", address)
        driver = "psycopg2" in text or (address[:10] == "postgresql" and "DB access module" in text)
        hint = ": pip install psycopg2-binary" if driver else ""
        raise UserError(
            f"the storage {shown} cannot be reached: {why}{hint}; check --storage and that its server runs"
        ) from None


def _tables_being_created(error: BaseException) -> bool:
    """Return whether opening a database failed because another process is creating the same tables."""
    return any(part in str(error).lower() for part in ("already exists", "unique", "duplicate", "locked"))


@retry(
    retry=retry_if_exception(_tables_being_created), stop=stop_after_attempt(8),
    wait=wait_incrementing(start=0.1, increment=0.1) + wait_random(0, 0.1), reraise=True,
)  # fmt: skip
def _open_database(address: str, heartbeat: int, retry_callback: Any) -> RDBStorage:
    options = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else {"pool_pre_ping": True}
    return quiet(
        lambda: RDBStorage(
            address, engine_kwargs=options, heartbeat_interval=heartbeat, grace_period=3 * heartbeat,
            heartbeat_stale_trial_callback=retry_callback,
        )
    )  # fmt: skip


def parent_of(address: str, name: str, key: str) -> Any:
    """Return a value stored with a study; None where there is no such study or value."""
    try:
        return optuna.load_study(study_name=name, storage=connect(address, 60)).user_attrs.get(key)
    except KeyError:
        return None


def quiet(function: Callable[[], Any]) -> Any:
    """Call a function without Optuna's warnings about experimental features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return function()
