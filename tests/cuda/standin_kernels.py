"""Pretended cubins, modules, and kernels as work for a stream."""

from __future__ import annotations

import ctypes
import json
import re
from dataclasses import dataclass, field
from typing import Any

from standin_errors import INVALID_IMAGE, CudaStatus, StrictError
from standin_order import READ, UNKNOWN, WRITE, Access
from standin_streams import Busy, Run

MAGIC = b"STANDIN1"
OPERAND = re.compile(r"\(\s*(const\b)?[^()]*\*\s*(?:__restrict__\s*)?\)\s*\(?\s*arguments\.words\[(\d+)\]")


def pack_cubin(code: bytes, architecture: str, text: str) -> bytes:
    """Object code, with what it was compiled for and from behind it."""
    trailer = json.dumps({"architecture": architecture, "text": text}).encode()
    return code + trailer + len(trailer).to_bytes(8, "little") + MAGIC


def unpack_cubin(image: bytes) -> tuple[bytes, str, str]:
    """``(object code, architecture, text)``; raises for anything else."""
    if not image.endswith(MAGIC):
        raise CudaStatus(INVALID_IMAGE, "not a cubin of the stand-in")
    size = int.from_bytes(image[-16:-8], "little")
    trailer = json.loads(image[-16 - size : -16])
    return image[: -16 - size], trailer["architecture"], trailer["text"]


@dataclass(eq=False)
class KernelModule:
    """A loaded module."""

    handle: int
    device: int
    code: bytes
    text: str
    functions: dict[str, Function] = field(default_factory=dict)
    loaded: bool = True

    def __str__(self) -> str:
        return f"module {self.handle:#x}"


class Function:
    """A kernel of a module; ``kernel`` runs it. ``text`` is the CUDA C of the module."""

    def __init__(self, handle: int, module: KernelModule, symbol: str, kernel: Any) -> None:
        self.handle = handle
        self.module = module
        self.symbol = symbol
        self.kernel = kernel
        self.shared_limit = 48 << 10
        self.operands = {
            int(number): READ if constant else WRITE for constant, number in OPERAND.findall(module.text)
        }
        """The words that are pointers, and what is done through them."""

    @property
    def device(self) -> int:
        return self.module.device

    @property
    def text(self) -> str:
        return self.module.text

    def accesses(self, standin: Any, words: tuple[int, ...]) -> tuple[Access, ...]:
        """What a launch is known to touch. Pointers must point into memory that the device can reach."""
        label = f"kernel {self.symbol}"
        told = standin.access_oracle and standin.access_oracle(self, words)
        if told is not None and told is not False:
            accesses = [
                Access(address, address + nbytes, WRITE if written else READ)
                for address, nbytes, written in told
                if nbytes
            ]
        elif self.operands:
            accesses = [
                Access(words[number], words[number] + 1, mode) for number, mode in self.operands.items()
            ]
        else:
            found = [word for word in words if standin.memory.find(word) or standin.memory.was_freed(word)]
            accesses = [Access(word, word + 1, UNKNOWN) for word in found]
        kept = []
        for access in accesses:
            block = standin.memory.at(access.start, 0, label)
            # A pointer to the end is what a tensor without elements has.
            if access.start < block.end or access.end - access.start > 1:
                kept.append(access)
        return tuple(dict.fromkeys(kept))


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch: ``words`` are the kernel's arguments as they were when it was asked for."""

    standin: Any
    function: Function
    blocks: int
    threads: int
    shared_bytes: int
    words: tuple[int, ...]
    accesses: tuple[Access, ...]

    @property
    def label(self) -> str:
        return f"kernel {self.function.symbol}"

    def issue(self, busy: Busy) -> Run:
        if not self.function.module.loaded:
            raise StrictError(f"{self.label} is launched after its module was unloaded")
        return self._run

    def _run(self) -> None:
        standin = self.standin
        if not self.function.module.loaded:
            raise StrictError(f"the module of {self.label} was unloaded before the kernel was over")
        wrong = standin.faults.execution()
        standin.counters.executions += 1
        arguments = (ctypes.c_longlong * len(self.words))(*self.words)
        try:
            self.function.kernel.launch(
                self.blocks, self.threads, self.shared_bytes, ctypes.addressof(arguments)
            )
        except AssertionError as error:
            raise StrictError(f"{self.label}: {error}") from error
        standin.clock += standin.launch_milliseconds
        for block in {standin.memory.find(access.start) for access in self.accesses} - {None}:
            block.check_guards(self.label)
        if wrong:
            self._spoil_results()

    def _spoil_results(self) -> None:
        written = [number for number, mode in self.function.operands.items() if mode == WRITE]
        for number in written:
            byte = ctypes.c_ubyte.from_address(self.words[number])
            byte.value ^= 0x5A
