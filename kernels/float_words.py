"""Numbers among the parameters of kernels."""

from __future__ import annotations

import struct


def float_word(value: float) -> int:
    """The bits of a double as a signed 64-bit word."""
    word: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return word
