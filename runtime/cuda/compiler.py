"""CUDA C to cubin with NVRTC: never to PTX, which a driver older than NVRTC would refuse."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from onnxplan.compiler.errors import CompilerError, DeviceUnavailableError
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.runtime.store import FAILED_FOLDER, StoredCode, content_key, store_directory

OPTIONS = ("-std=c++17", "--fmad=true")
"""Strict arithmetic: neither fast division nor flushed denormals; only products and sums are contracted."""
DIAGNOSTIC = re.compile(r"\((\d+)\): (?:catastrophic )?error")
CONTEXT_LINES = 3


class Source(Protocol):
    """CUDA C and the name of the kernel in it."""

    @property
    def symbol(self) -> str: ...

    @property
    def text(self) -> str: ...


Generate = Callable[[KernelSpec, Target], Source]


def choose_architecture(nvrtc: Any, capability: tuple[int, int]) -> str:
    """``sm_XX``: the newest that NVRTC compiles for and a device of this compute capability runs.

    A cubin runs on devices of the same major and the same or a higher minor capability. Source:
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility.
    """
    major, minor = capability
    supported = sorted(int(number) for number in nvrtc.getSupportedArchs())
    usable = [number for number in supported if number // 10 == major and number % 10 <= minor]
    if not usable:
        version = ".".join(map(str, nvrtc.getVersion()))
        known = ", ".join(f"{number // 10}.{number % 10}" for number in supported)
        older = not supported or major * 10 + minor < supported[0]
        remedy = "pip install 'onnxplan[cuda12]'" if older else "install a newer nvidia-cuda-nvrtc"
        raise DeviceUnavailableError(
            f"compute capability {major}.{minor} is not supported by NVRTC {version}, which compiles for "
            f"{known}; {remedy}"
        )
    return f"sm_{usable[-1]}"


def compile_cubin(nvrtc: Any, text: str, name: str, architecture: str) -> bytes:
    """The cubin of CUDA C. Where it does not compile, ``CompilerError`` shows the log and the lines that it
    is about, and names a file that holds the source."""
    program = nvrtc.createProgram(text, f"{name}.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={architecture}", *OPTIONS))
        code: bytes = nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        log = ""
        with contextlib.suppress(nvrtc.NVRTCError):
            log = nvrtc.getProgramLog(program)
        raise CompilerError(_report(text, name, architecture, log or str(error))) from error
    finally:
        nvrtc.destroyProgram(program)
    return code


def _report(text: str, name: str, architecture: str, log: str) -> str:
    lines = text.splitlines()
    shown = []
    for number in dict.fromkeys(int(found) for found in DIAGNOSTIC.findall(log)):
        first = max(0, number - CONTEXT_LINES)
        for index, line in enumerate(lines[first : number + CONTEXT_LINES - 1], first + 1):
            shown.append(f"{'>' if index == number else ' '}{index:5}  {line}")
    return "\n".join(
        [
            f"the CUDA kernel {name} does not compile for {architecture}",
            log.rstrip("\0\n "),
            *shown,
            f"its source is kept in {_keep(text, name)}",
        ]
    )


def _keep(text: str, name: str) -> str:
    """Writes the source beside the kernel store, or where that cannot be written, to a temporary file."""
    file = f"{name}-{content_key(text)[:16]}.cu"
    for folder in (store_directory() / FAILED_FOLDER, Path(tempfile.gettempdir())):
        path = folder / file
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text(text)
            return str(path)
    return "no file, as none can be written"


class KernelCompiler:
    """Builds the kernels of a device for :class:`~onnxplan.runtime.library.KernelLibrary`."""

    def __init__(self, nvrtc: Any, generate: Generate) -> None:
        self._nvrtc = nvrtc
        self._generate = generate

    def build(self, spec: KernelSpec, target: Target) -> StoredCode:
        source = self._generate(spec, target)
        return StoredCode(source.symbol, compile_cubin(self._nvrtc, source.text, source.symbol, target.isa))

    def platform_key(self, target: Target) -> str:
        """A digest of what cubins depend on beside their source."""
        version = ".".join(map(str, self._nvrtc.getVersion()))
        return content_key("cuda", version, target.isa, target.math, *OPTIONS)
