"""Device and pinned memory of the stand-in: blocks of host memory with poison and guards, by address."""

from __future__ import annotations

import bisect
import ctypes
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from standin_errors import INVALID_VALUE, OUT_OF_MEMORY, CudaStatus, StrictError
from standin_order import Access, AccessLog, Ordering

ALIGNMENT = 256
GUARD_BYTES = 256
QUARANTINE_BYTES = 32 << 20
QUARANTINE_BLOCKS = 512
POISON = 0xFF
"""NaN in every floating point type, -1 in every signed integer."""
FREED = 0xDD
_GUARD = bytes([0xA5]) * GUARD_BYTES

DEVICE = "device"
PINNED = "pinned"
REGISTERED = "registered"


class Block:
    """One allocation: ``nbytes`` bytes from ``address``, between guard bytes unless the host owns it."""

    def __init__(self, kind: str, nbytes: int, device: int, address: int | None = None) -> None:
        self.kind = kind
        self.nbytes = nbytes
        self.device = device
        self.log = AccessLog()
        self.pooled = False
        self.writer: Any = None
        """The stream whose kernels write the block, where each block has only one."""
        self._storage = None
        if address is None:
            self._storage = np.empty(nbytes + 2 * GUARD_BYTES + ALIGNMENT, np.uint8)
            start = self._storage.ctypes.data + GUARD_BYTES
            address = -(-start // ALIGNMENT) * ALIGNMENT
            ctypes.memset(address, POISON, nbytes)
            ctypes.memmove(address - GUARD_BYTES, _GUARD, GUARD_BYTES)
            ctypes.memmove(address + nbytes, _GUARD, GUARD_BYTES)
        self.address = address

    @property
    def end(self) -> int:
        return self.address + self.nbytes

    @property
    def on_device(self) -> bool:
        return self.kind == DEVICE

    def check_guards(self, label: str) -> None:
        """Raise if something has written before or behind the block."""
        if self._storage is None:
            return
        for address, where in ((self.address - GUARD_BYTES, "before"), (self.end, "behind")):
            if ctypes.string_at(address, GUARD_BYTES) != _GUARD:
                ctypes.memmove(address, _GUARD, GUARD_BYTES)
                raise StrictError(f"{label} wrote {where} {self}")

    def __str__(self) -> str:
        return f"{self.kind} memory of {self.nbytes} bytes at {self.address:#x}"


class MemoryMap:
    """All blocks by address. Freed blocks stay in quarantine, so that stale pointers are recognised."""

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._addresses: list[int] = []
        self._blocks: dict[int, Block] = {}
        self._quarantine: deque[Block] = deque()
        self._quarantined = 0

    def __iter__(self) -> Iterator[Block]:
        return iter(tuple(self._blocks.values()))

    def used(self, device: int) -> int:
        """Bytes of device memory in use on a device."""
        return sum(
            block.nbytes for block in self._blocks.values() if block.on_device and block.device == device
        )

    def allocate(self, kind: str, nbytes: int, device: int, limit: int | None = None) -> Block:
        """A new block. ``limit`` is the size of the device's memory, in bytes."""
        if nbytes < 0:
            raise CudaStatus(INVALID_VALUE, f"allocation of {nbytes} bytes")
        if limit is not None and self.used(device) + nbytes > limit:
            raise CudaStatus(OUT_OF_MEMORY, f"{nbytes} bytes wanted, {limit - self.used(device)} free")
        return self._add(Block(kind, nbytes, device))

    def register(self, address: int, nbytes: int, device: int) -> Block:
        """Pin memory of the host's own."""
        for block in self._blocks.values():
            if block.address < address + nbytes and address < block.end:
                raise CudaStatus(712, f"the range overlaps {block}")
        return self._add(Block(REGISTERED, nbytes, device, address))

    def _add(self, block: Block) -> Block:
        bisect.insort(self._addresses, block.address)
        self._blocks[block.address] = block
        return block

    def find(self, address: int) -> Block | None:
        """The block that holds an address, or ends there."""
        place = bisect.bisect_right(self._addresses, address)
        if place:
            block = self._blocks[self._addresses[place - 1]]
            if address <= block.end:
                return block
        return None

    def at(self, address: int, nbytes: int, label: str) -> Block:
        """The block that holds a range, or :class:`StrictError`."""
        block = self.find(address)
        if block is None:
            if (freed := self.was_freed(address)) is not None:
                raise StrictError(f"{label} uses {address:#x} after {freed} was freed")
            raise StrictError(f"{label} uses {address:#x}, which is in no allocation")
        if address + nbytes > block.end:
            raise StrictError(f"{label} uses {nbytes} bytes at {address:#x}, past the end of {block}")
        return block

    def was_freed(self, address: int) -> Block | None:
        """The freed block that held an address."""
        return next((block for block in self._quarantine if block.address <= address < block.end), None)

    def free(self, address: int, kind: str, label: str) -> Block:
        """Take a block out; it must be over with."""
        block = self._blocks.get(address)
        if block is None or block.kind != kind:
            if any(freed.address == address for freed in self._quarantine):
                raise StrictError(f"{label}: {address:#x} was freed before")
            if block is not None:
                raise StrictError(f"{label}: {block} is not {kind} memory")
            raise StrictError(f"{label}: {address:#x} is not the start of {kind} memory")
        self._remove(block)
        block.check_guards("something")
        for access, name in block.log.unfinished(self._ordering, block.address, block.end):
            raise StrictError(f"{label}: {block} is freed while {name} {access.mode} it")
        return block

    def drop_device(self, device: int) -> None:
        """Forget all memory of a context that is gone; its pinned memory goes with it."""
        for block in self:
            if block.device == device:
                self._remove(block)

    def _remove(self, block: Block) -> None:
        del self._blocks[block.address]
        self._addresses.remove(block.address)
        if block.kind == REGISTERED:
            return
        ctypes.memset(block.address, FREED, block.nbytes)
        self._quarantine.append(block)
        self._quarantined += block.nbytes
        while self._quarantined > QUARANTINE_BYTES or len(self._quarantine) > QUARANTINE_BLOCKS:
            self._quarantined -= self._quarantine.popleft().nbytes

    def check(self, accesses: tuple[Access, ...], clock: dict[int, int], label: str) -> None:
        """Raise unless every access is inside an allocation and ordered after what conflicts with it."""
        for access in accesses:
            block = self.at(access.start, access.end - access.start, label)
            block.log.check(access, clock, self._ordering, label)

    def record(self, accesses: tuple[Access, ...], timeline: int, position: int, label: str) -> None:
        for access in accesses:
            block = self.at(access.start, access.end - access.start, label)
            block.log.prune(self._ordering)
            block.log.record(access, timeline, position, label)

    def busy(self, address: int, nbytes: int, modes: tuple[str, ...]) -> bool:
        """Whether an operation that the host has not waited for touches a range in one of some ways."""
        block = self.find(address)
        if block is None:
            return False
        found = block.log.unfinished(self._ordering, address, address + nbytes)
        return any(access.mode in modes for access, _ in found)
