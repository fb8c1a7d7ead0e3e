"""The C library's heap: what was freed goes back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def release_heap() -> None:
    """Gives free memory of the heap back, where the C library can (glibc keeps up to 64 MiB)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = [ctypes.c_size_t]
    return function
