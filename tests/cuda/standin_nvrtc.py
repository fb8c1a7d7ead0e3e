"""The stand-in's ``cupy_backends.cuda.libs.nvrtc``: CUDA C to object code of this machine."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import emulator
from cupy_backends.cuda.libs import nvrtc as real_nvrtc
from standin_errors import CudaStatus
from standin_kernels import pack_cubin
from standin_module import Module, function

INVALID_INPUT = 3
INVALID_PROGRAM = 4
INVALID_OPTION = 5
COMPILATION = 6
EMPTY = 'extern "C" __global__ void empty() {}'
ARCHITECTURE = re.compile(r"(?:-arch|--gpu-architecture)=((?:sm|compute)_(\d+)[af]?)")


@functools.cache
def _compiler_digest(compile_source: Callable[[str], bytes]) -> int:
    """A number for the state of the emulator and the form of its cubins."""
    digest = zlib.crc32(getattr(compile_source, "__qualname__", "").encode())
    for name in (*emulator.SOURCES, "emulator.py", "standin_kernels.py"):
        digest = zlib.crc32((Path(__file__).parent / name).read_bytes(), digest)
    return digest


@functools.cache
def _option_problem(options: tuple[str, ...]) -> str:
    """What the real NVRTC says against options, or nothing."""
    program = real_nvrtc.createProgram(EMPTY, "empty.cu", (), ())
    try:
        real_nvrtc.compileProgram(program, options)
    except real_nvrtc.NVRTCError:
        return real_nvrtc.getProgramLog(program) or f"invalid options {options}"
    finally:
        real_nvrtc.destroyProgram(program)
    return ""


@dataclass(eq=False)
class CompiledProgram:
    handle: int
    text: str
    log: str = ""
    architecture: str = ""
    cubin: bytes | None = None

    def __str__(self) -> str:
        return f"NVRTC program {self.handle:#x}"


class Nvrtc(Module):
    """Needs no driver. ``options`` collects the options of all compilations."""

    real = real_nvrtc
    error_class = real_nvrtc.NVRTCError

    def __init__(self, standin: Any) -> None:
        super().__init__(standin)
        self.options: list[tuple[str, ...]] = []

    def error(self, status: int, why: str = "") -> Exception:
        error = real_nvrtc.NVRTCError(status)
        error.add_note(why)
        return error

    @function(needs="nothing")
    def getVersion(self) -> tuple[int, int]:
        """No version that NVRTC ever had: what is compiled here must not be taken for a real cubin, nor for
        what another state of the emulator compiled, where compiled kernels are stored."""
        return real_nvrtc.getVersion()[0], 1000 + _compiler_digest(self.standin.compile_source)

    @function(needs="nothing")
    def getSupportedArchs(self) -> tuple[int, ...]:
        return real_nvrtc.getSupportedArchs()

    @function(needs="nothing")
    def createProgram(self, src: str, name: str, headers: Any, include_names: Any) -> int:
        if not (isinstance(src, str) and isinstance(name, str)):
            raise TypeError("src and name are str")
        if headers or include_names:
            raise CudaStatus(INVALID_INPUT, "the stand-in compiles texts without headers")
        return self.standin.add_handle(CompiledProgram(self.standin.new_handle(), src))

    @function(needs="nothing")
    def compileProgram(self, prog: int, options: Any) -> None:
        program = self.standin.handle(prog, CompiledProgram)
        options = tuple(options)
        self.options.append(options)
        program.architecture = self._architecture(program, options)
        self.standin.counters.compilations += 1
        program.log = self.standin.faults.compilation() or ""
        if program.log:
            raise CudaStatus(COMPILATION)
        try:
            code = self.standin.compile_source(program.text)
        except AssertionError as error:
            program.log = str(error)
            raise CudaStatus(COMPILATION) from error
        program.cubin = pack_cubin(code, program.architecture, program.text)

    def _architecture(self, program: CompiledProgram, options: tuple[str, ...]) -> str:
        """The architecture among options, which must be one that NVRTC knows."""
        found = [match for option in options if (match := ARCHITECTURE.fullmatch(option))]
        if len(found) != 1 or (problem := _option_problem(options)):
            program.log = problem if found else "the stand-in wants one architecture"
            raise CudaStatus(INVALID_OPTION, program.log)
        return found[0][1]

    @function(needs="nothing")
    def getCUBIN(self, prog: int) -> bytes:
        program = self.standin.handle(prog, CompiledProgram)
        # NVRTC has a cubin only where the architecture is a real one.
        if program.cubin is None or program.architecture.startswith("compute"):
            raise CudaStatus(INVALID_PROGRAM, "there is no cubin")
        return program.cubin

    @function(needs="nothing")
    def getProgramLog(self, prog: int) -> str:
        return self.standin.handle(prog, CompiledProgram).log

    @function(needs="nothing")
    def destroyProgram(self, prog: int) -> None:
        self.standin.handle(prog, CompiledProgram)
        self.standin.destroy_handle(prog)
