"""Memory that machine code runs from. It is never writable and executable at once, and never given back."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from onnxplan.runtime.image import Image

MAPS_IMAGES = sys.platform == "linux" and platform.machine() == "x86_64"
"""Is this a system that images of :mod:`onnxplan.runtime.elf` run on?"""

_kept: list[mmap.mmap] = []


def map_image(image: Image, imports: Mapping[str, int]) -> int:
    """The address at which a copy of ``image`` is ready to run.

    Symbols that are not in ``imports`` are looked up in the process. Raises ``RuntimeError`` for symbols that
    are nowhere, and where the system does not let new code run.
    """
    try:
        memory = mmap.mmap(-1, len(image.code), prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise RuntimeError(f"there is no memory for new code: {error}") from error
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory.write(image.code)
    for name, place in image.imports:
        ctypes.c_uint64.from_buffer(memory, place).value = imports.get(name) or _process_symbol(name)
    for place in image.rebases:
        ctypes.c_uint64.from_buffer(memory, place).value += address
    if _library().mprotect(address, len(image.code), mmap.PROT_READ | mmap.PROT_EXEC):
        raise RuntimeError(
            f"the system does not let new code run (mprotect: {os.strerror(ctypes.get_errno())})"
        )
    _kept.append(memory)
    return address


@functools.cache
def _library() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def _process_symbol(name: str) -> int:
    try:
        address = ctypes.cast(getattr(_library(), name), ctypes.c_void_p).value
    except AttributeError:
        address = None
    if not address:
        raise RuntimeError(f"object code needs the symbol {name!r}, which the process does not have")
    return address
