"""How glibc, where it is the C library, hands out memory in this process."""

import ctypes
import os
import platform
from collections.abc import Mapping

# Options of mallopt, as in malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENAS = -1, -3, -8


def tune_heap(options: Mapping[int, int], *variables: str) -> None:
    """Set options of glibc's heap. Does nothing where the user has set GLIBC_TUNABLES or one of `variables`."""
    if platform.libc_ver()[0] == "glibc" and not os.environ.keys() & {"GLIBC_TUNABLES", *variables}:
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)


def release_heap() -> None:
    """Return freed memory to the system, where glibc is the C library, which otherwise keeps it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
