"""Giving free memory of the heap back."""

import ctypes
import platform
import re
from pathlib import Path

import pytest

from onnxplan.runtime.heap import release_heap


def resident_bytes():
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_freed_between_blocks_in_use_goes_back():
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    size, count = 100_000, 400
    blocks = [library.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    # Every tenth stays, so that the heap cannot simply end earlier.
    for number, block in enumerate(blocks):
        if number % 10:
            library.free(block)
    before = resident_bytes()
    release_heap()
    given_back = before - resident_bytes()
    for block in blocks[::10]:
        library.free(block)
    assert given_back > size * count // 2
