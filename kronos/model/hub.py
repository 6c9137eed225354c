"""Checkpoints from the Hugging Face Hub: files of one commit in the local cache; errors are one line."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kronos.utils.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_name(text: str) -> bool:
    """Return whether `text` has the form owner/name."""
    return _NAME.fullmatch(text) is not None


def download(name: str, filenames: tuple[str, ...], revision: str | None = None) -> Path:
    """Return the folder in the Hub's local cache that holds these files of one commit; download missing ones.

    `revision` is a branch, tag or commit, None the default branch. The address (HF_ENDPOINT), the cache
    (HF_HOME), the account (HF_TOKEN) and offline mode (HF_HUB_OFFLINE) are settings of the Hub client.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,  # of the HTTP library that the client uses
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what, wanted = f"there is no folder {name} here", revision
    try:
        for filename in filenames:
            with _without_retry_warnings():
                path = Path(hf_hub_download(name, filename, revision=revision))
            # The cache's layout is snapshots/COMMIT/FILE: the other files must come from the same commit.
            revision = path.parent.name
    except GatedRepoError:
        raise UserError(
            f"{name} asks for its terms to be accepted: do so on its page, then run  hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{what}, and no {name} on {constants.ENDPOINT}: check the spelling (a private one needs "
            "`hf auth login`)"
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"{name} has no revision {wanted}: give one of its branches, tags or commits"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _cause(error)
        at = "" if wanted is None else f" at revision {wanted}"
        raise UserError(
            f"{what}, {name}{at} is not in the local cache, and {constants.ENDPOINT} cannot be asked ({why}): "
            "give a folder, or run once with a connection"
        ) from None
    except EntryNotFoundError:
        raise UserError(f"{name} has no {filename}: it is not a Kronos checkpoint") from None
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise UserError(f"{name} could not be downloaded: {_cause(error)}") from None
    return path.parent


@contextmanager
def _without_retry_warnings() -> Iterator[None]:
    """Hide the warnings that the Hub client logs at each retry: the error raised afterwards gives the reason."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost cause, which is the specific one."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
