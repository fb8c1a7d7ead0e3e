"""The stand-in's ``cupy_backends.cuda.libs.nvrtc``: CUDA C to object code of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cupy_backends.cuda.libs import nvrtc as real_nvrtc
from standin_errors import CudaStatus
from standin_kernels import pack_cubin
from standin_module import Module, function

INVALID_INPUT = 3
INVALID_PROGRAM = 4
INVALID_OPTION = 5
COMPILATION = 6
ARCHITECTURE = re.compile(r"(?:-arch|--gpu-architecture)=((?:sm|compute)_(\d+)[af]?)")


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
        return real_nvrtc.getVersion()

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
        wrong = [option for option in options if not option.startswith("-")]
        found = [match for option in options if (match := ARCHITECTURE.fullmatch(option))]
        if wrong or len(found) != 1 or int(found[0][2]) not in real_nvrtc.getSupportedArchs():
            program.log = f"nvrtc: error: invalid value among options {options}"
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
