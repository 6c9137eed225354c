"""Import a class that a user names."""

import importlib
import os
import sys

from kronos.utils.errors import UserError


def import_class(name: str, what: str) -> type:
    """Import `package.module:Class`; the current folder is searched first, as `python -m` does.

    Raises UserError, which begins with `what`, where there is no such module or class.
    """
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        # The `kronos` script starts without it. It stays, for what the class imports later.
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the module may have been written a moment ago
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UserError(
            f"{what}: {module} cannot be imported ({error}): install it, or run where Python finds it"
        ) from None
    except AttributeError:
        raise UserError(f"{what}: module {module} has no {attribute!r}") from None
    if not isinstance(found, type):
        raise UserError(f"{what}: {attribute} is not a class")
    return found
