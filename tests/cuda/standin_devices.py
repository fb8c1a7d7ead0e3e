"""Fake devices, and what the allocator gives of their memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from standin_memory import Block


@dataclass
class Device:
    """One fake device. ``attributes`` are by number (``cudaDevAttr...``) and replace the usual ones."""

    ordinal: int
    total_bytes: int = 4 << 30
    compute_capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 4
    attributes: dict[int, int] = field(default_factory=dict)
    failure: int | None = None
    """The sticky status of a context that is lost."""
    cached_bytes: int = 0
    """Freed memory that the allocator holds back until it is told to release it."""
    epoch: int = 0
    """How many times the device was reset."""


class Memory:
    """What ``allocate`` gives: device memory that is free again when this object is dropped."""

    def __init__(self, block: Block, epoch: int, discarded: deque[tuple[int, int, int]]) -> None:
        self.ptr = block.address
        self.size = block.nbytes
        self.device_id = block.device
        self._epoch = epoch
        self._discarded = discarded

    def __del__(self) -> None:
        # Nothing more: garbage collection runs anywhere, in the middle of the stand-in's own work too.
        self._discarded.append((self.ptr, self.device_id, self._epoch))
