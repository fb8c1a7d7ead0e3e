"""Copies and fills as work for a stream, with checks of the host memory they use."""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass, field

from standin_errors import INVALID_VALUE, CudaStatus, StrictError
from standin_memory import POISON, Block, MemoryMap
from standin_order import ANY, CHANGES, READ, WRITE, Access
from standin_streams import Busy, Run

HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, DEFAULT = range(5)
KIND_NAMES = ("host to host", "host to device", "device to host", "device to device", "default")


@dataclass(frozen=True)
class Copy:
    """``nbytes`` bytes between blocks. An end without a block is pageable memory of the host's."""

    destination: int
    source: int
    nbytes: int
    kind: int
    destination_block: Block | None
    source_block: Block | None
    accesses: tuple[Access, ...] = field(init=False)

    def __post_init__(self) -> None:
        accesses = []
        if self.source_block is not None:
            accesses.append(Access(self.source, self.source + self.nbytes, READ))
        if self.destination_block is not None:
            accesses.append(Access(self.destination, self.destination + self.nbytes, WRITE))
        object.__setattr__(self, "accesses", tuple(accesses))

    @property
    def label(self) -> str:
        return f"a copy {KIND_NAMES[self.kind]}"

    def issue(self, busy: Busy) -> Run:
        """The copy. Host memory must not change from now until it has run, which is checked.

        Of pinned memory that earlier work still uses nothing can be said, and nothing is checked.
        """
        kept = None
        if _pinned(self.source_block) and not busy(self.source, self.nbytes, CHANGES):
            kept = _checksum(self.source, self.nbytes)
        poisoned = None
        if _pinned(self.destination_block) and not busy(self.destination, self.nbytes, ANY):
            ctypes.memset(self.destination, POISON, self.nbytes)
            poisoned = _checksum(self.destination, self.nbytes)

        def run() -> None:
            if kept is not None and _checksum(self.source, self.nbytes) != kept:
                raise StrictError(f"the pinned source of {self.label} was changed before the copy was over")
            if poisoned is not None and _checksum(self.destination, self.nbytes) != poisoned:
                raise StrictError(f"the pinned destination of {self.label} was changed before it was over")
            ctypes.memmove(self.destination, self.source, self.nbytes)

        return run


@dataclass(frozen=True)
class Fill:
    """``nbytes`` bytes set to ``value``."""

    address: int
    value: int
    nbytes: int

    label = "a memset"

    @property
    def accesses(self) -> tuple[Access, ...]:
        return (Access(self.address, self.address + self.nbytes, WRITE),)

    def issue(self, busy: Busy) -> Run:
        return lambda: ctypes.memset(self.address, self.value, self.nbytes) and None


def make_copy(memory: MemoryMap, destination: int, source: int, nbytes: int, kind: int) -> Copy:
    """A checked copy: both ends are what ``kind`` says, and known memory or pageable memory of the host's."""
    if kind not in range(5):
        raise CudaStatus(INVALID_VALUE, f"memcpy kind {kind}")
    label = f"a copy {KIND_NAMES[kind]}"
    source_block = _end(memory, source, nbytes, label, (HOST_TO_DEVICE, HOST_TO_HOST), kind)
    destination_block = _end(memory, destination, nbytes, label, (DEVICE_TO_HOST, HOST_TO_HOST), kind)
    if source < destination + nbytes and destination < source + nbytes:
        raise StrictError(f"{label}: source and destination overlap")
    if kind == DEFAULT:
        kind = 2 * _on_device(source_block) + _on_device(destination_block)
        kind = (HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE)[kind]
    return Copy(destination, source, nbytes, kind, destination_block, source_block)


def _end(
    memory: MemoryMap, address: int, nbytes: int, label: str, host_kinds: tuple[int, ...], kind: int
) -> Block | None:
    if kind == DEFAULT or kind in host_kinds:
        block = memory.find(address)
        if block is not None and address == block.end:
            block = None
        if block is None and not memory.was_freed(address):
            return None
        block = memory.at(address, nbytes, label)
        if kind != DEFAULT and block.on_device:
            raise CudaStatus(INVALID_VALUE, f"{label}: {address:#x} is {block}")
        return block
    block = memory.at(address, nbytes, label)
    if not block.on_device:
        raise CudaStatus(INVALID_VALUE, f"{label}: {address:#x} is {block}")
    return block


def _on_device(block: Block | None) -> bool:
    return block is not None and block.on_device


def _pinned(block: Block | None) -> bool:
    return block is not None and not block.on_device


def _checksum(address: int, nbytes: int) -> int:
    return zlib.crc32((ctypes.c_char * nbytes).from_address(address))
