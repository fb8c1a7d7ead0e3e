"""CUDA C kernels compiled with g++ and run on the CPU, through ``cuda_shim.h``."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from onnxplan.kernels.scalar_cuda import PRELUDE
from onnxplan.runtime.object_loader import ObjectLoader

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
FLAGS = ["-std=c++17", "-O1", "-w", "-fPIC", "-pipe", "-ffp-contract=off", "-fno-strict-aliasing"]
# Kernels include C headers alone: libstdc++'s double the time that a small kernel takes.
KERNEL_FLAGS = [*FLAGS, "-nostdinc++"]
SOURCES = ("cuda_shim.h", "cuda_shim_math.h", "cuda_shim_matrix.h", "cuda_shim.cpp")
SIGNATURE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)
KERNEL = re.compile(r'extern "C" __global__ void __launch_bounds__\((\d+)\)\s+(\w+)\(')
ARGUMENTS = re.compile(r"struct Arguments \{ long long words\[(\d+)\]; \};")
BARRIERS = re.compile(r"__sync|__shfl|__ballot|__any_|__all_|onnxplan_block_|onnxplan_warp_")
FAILURES = {
    1: "threads wait at different barriers",
    2: "wrote outside of its dynamic shared memory",
    3: "a matrix instruction lacks lanes of its warp",
    4: "16 bytes that are not aligned",
}

_lock = threading.Lock()
_loader = ObjectLoader()


class EmulationError(AssertionError):
    """A kernel did what CUDA does not define."""


@dataclass(frozen=True)
class EmulatedKernel:
    """A kernel that runs on the CPU; ``words`` are those of its arguments, ``threads`` its launch bound."""

    symbol: str
    threads: int
    words: int
    function: object

    def launch(self, blocks: int, threads: int, shared_bytes: int, words_address: int) -> None:
        """Runs all blocks; raises :class:`EmulationError` for what a GPU would do in an undefined way."""
        if threads > self.threads:
            raise EmulationError(f"{self.symbol}: {threads} threads, the launch bound is {self.threads}")
        with _lock:
            status = self.function(blocks, threads, shared_bytes, words_address)
        if status:
            raise EmulationError(f"{self.symbol}: {FAILURES[status]}")


def compile_source(text: str) -> bytes:
    """Object code of a kernel's CUDA C; ``EmulationError`` with the compiler's messages if it is wrong."""
    found = KERNEL.search(text)
    if found is None or ARGUMENTS.search(text) is None:
        raise EmulationError("the text has no kernel of onnxplan's form")
    body = text[found.start() :]
    entry = f"""
static void enter(const void* arguments) {{ {found[2]}(*(const Arguments*)arguments); }}
extern "C" int emulated_launch(unsigned blocks, unsigned threads, unsigned shared, const void* arguments) {{
    return cuda_shim_launch(blocks, threads, shared, {int(bool(BARRIERS.search(body)))}, enter, arguments);
}}
extern "C" {{ extern const long long emulated_facts[2] = {{ {found[1]}, sizeof(Arguments) / 8 }}; }}
"""
    return _compile('#include "prelude.h"\n' + text.replace(PRELUDE, "") + entry)


def load(code: bytes, symbol: str) -> EmulatedKernel:
    """The kernel in object code that :func:`compile_source` gave."""
    _scheduler()
    launch, facts = _loader.load(code, ("emulated_launch", "emulated_facts"))
    threads, words = (ctypes.c_longlong * 2).from_address(facts)
    return EmulatedKernel(symbol, threads, words, SIGNATURE(launch))


def _compile(text: str) -> bytes:
    folder = _prepared()
    kept = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.o"
    if kept.exists():
        return kept.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        source, code = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.o"
        source.write_text(text)
        _run([*KERNEL_FLAGS, f"-I{folder}", "-c", str(source), "-o", str(code)])
        temporary = folder / f"{kept.stem}.{os.getpid()}.{threading.get_ident()}"
        shutil.copyfile(code, temporary)
        os.replace(temporary, kept)
        return code.read_bytes()


@functools.cache
def _prepared() -> Path:
    """A folder with the precompiled header and the scheduler; made once for each state of the sources."""
    texts = [(HERE / name).read_text() for name in SOURCES]
    version = subprocess.run([str(COMPILER), "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256("\0".join([*texts, PRELUDE, version, *FLAGS, *KERNEL_FLAGS]).encode()).hexdigest()
    folder = HERE.parent.parent / "build" / "test-emulator" / digest[:16]
    if not (folder / "ready").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        for name, text in zip(SOURCES, texts, strict=True):
            (scratch / name).write_text(text)
        # The matrix instructions convert by functions of the prelude.
        header = scratch / "prelude.h"
        header.write_text(
            f'#include "cuda_shim.h"\n#include "cuda_shim_math.h"\n{PRELUDE}\n#include "cuda_shim_matrix.h"\n'
        )
        _run([*KERNEL_FLAGS, "-x", "c++-header", str(header), "-o", f"{header}.gch"])
        # Fibers change stacks, which the checked longjmp takes for an error.
        library = ["-U_FORTIFY_SOURCE", "-shared", str(scratch / "cuda_shim.cpp")]
        _run([*FLAGS, *library, "-o", str(scratch / "libcuda_shim.so")])
        (scratch / "ready").touch()
        try:
            os.rename(scratch, folder)
        except OSError:
            # Another process was faster.
            shutil.rmtree(scratch)
    return folder


@functools.cache
def _scheduler() -> ctypes.CDLL:
    return ctypes.CDLL(str(_prepared() / "libcuda_shim.so"), mode=ctypes.RTLD_GLOBAL)


def _run(arguments: list[str]) -> None:
    done = subprocess.run([str(COMPILER), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulationError(f"g++ failed:\n{done.stderr[:4000]}")
