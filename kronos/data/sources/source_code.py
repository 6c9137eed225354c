"""What identifies the code of a source of bars that is not of this package."""

import functools
import inspect
import sys
from pathlib import Path

from kronos.utils.files import digest_bytes


@functools.cache  # the code that was loaded first: a file that is edited meanwhile does not change this class
def source_code_digest(processor: type) -> str | None:
    """Return a digest of the modules outside this package that define the class and its bases.

    Empty text for a class of this package. None where a module has no source file, as in an interactive session.
    What these modules import is not followed: name its version in `fingerprint`.
    """
    texts = []
    for name in dict.fromkeys(kind.__module__ for kind in processor.__mro__):
        if name.partition(".")[0] in (*sys.stdlib_module_names, "kronos"):
            continue
        try:
            file = inspect.getsourcefile(sys.modules[name])
            texts.append(Path(file or "").read_bytes())
        except (KeyError, TypeError, OSError):
            return None
    return digest_bytes(*(digest_bytes(text).encode() for text in texts)) if texts else ""
