"""The address of a study's storage: how opening it is tried again, and what is said where it cannot be reached."""

import re
from collections.abc import Callable
from typing import Any

from tenacity import retry, retry_if_exception, stop_after_attempt, wait_incrementing, wait_random

from kronos.utils.errors import UserError


def opened(address: str, make: Callable[[], Any]) -> Any:
    """Return what `make` opens at a database URL, tried again while another process creates its tables.

    Raises UserError where the address is no URL, and where the database cannot be reached.
    """
    if "://" not in address:
        raise UserError(
            f"storage {address!r} is not a valid URL: expected sqlite:///FILE or postgresql+psycopg2://..."
        )
    try:
        return _tried(make)
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
def _tried(make: Callable[[], Any]) -> Any:
    return make()
