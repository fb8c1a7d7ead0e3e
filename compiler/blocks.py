"""Memory for constants: aligned, and where it is large, in mappings that are freed whole."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes that the address of a block is a multiple of."""

MAPPED_BYTES = 1 << 20
"""Blocks of at least this size are mappings of their own.

The C library's allocator keeps smaller ones among others on its heap, and with them what was freed between.
"""

HUGE_PAGE = 2 << 20
"""Bytes of a huge page. Only those that a block fills are asked for."""


def empty_block(count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A flat array of ``count`` elements at an address divisible by ``ALIGNMENT``, of unspecified content.

    Raises ``MemoryError``.
    """
    nbytes = count * dtype.itemsize
    if nbytes >= MAPPED_BYTES and hasattr(mmap, "MAP_ANONYMOUS"):
        whole = nbytes // HUGE_PAGE * HUGE_PAGE
        # Linux aligns mappings to huge pages that are a multiple of them; the end is never touched.
        length = -(-nbytes // HUGE_PAGE) * HUGE_PAGE if whole else nbytes
        try:
            block = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"{nbytes:,} bytes cannot be allocated: {error.strerror}") from error
        if whole and hasattr(mmap, "MADV_HUGEPAGE"):
            # A kernel without huge pages refuses.
            with contextlib.suppress(OSError):
                block.madvise(mmap.MADV_HUGEPAGE, 0, whole)
        return np.frombuffer(block, np.uint8)[:nbytes].view(dtype)
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype)
