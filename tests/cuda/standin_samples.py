"""A stand-in with kernels written in Python, and short ways to use it, for tests of the stand-in itself."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from standin import StandIn

NON_BLOCKING = 1
TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3


def add_one(source: int, target: int, count: int) -> None:
    floats(target, count)[:] = floats(source, count) + 1


def overrun(source: int, target: int, count: int) -> None:
    floats(target, count + 1)[:] = 0


def floats(address: int, count: int) -> np.ndarray:
    """Float32 values at an address, to read and write."""
    return np.frombuffer((ctypes.c_float * count).from_address(address), np.float32)


BODIES = {"onnxplan_add_one": add_one, "onnxplan_overrun": overrun}


@dataclass
class PythonKernel:
    """Like an emulated kernel: words are the addresses of source and target, and how many values."""

    function: Callable[..., None]
    words: int = 3
    threads: int = 128

    def launch(self, blocks: int, threads: int, shared_bytes: int, words_address: int) -> None:
        self.function(*(ctypes.c_longlong * self.words).from_address(words_address))


def load_python(code: bytes, symbol: str) -> PythonKernel:
    return PythonKernel(BODIES[symbol])


def kernel_text(symbol: str) -> str:
    return f"""struct Arguments {{ long long words[3]; }};
extern "C" __global__ void __launch_bounds__(128) {symbol}(const __grid_constant__ Arguments arguments) {{
    const float* const x = (const float*)(arguments.words[0]);
    float* const y = (float*)(arguments.words[1]);
    const long long n = (long long)(arguments.words[2]);
    for (long long i = blockIdx.x * 128 + threadIdx.x; i < n; i += 128 * gridDim.x) y[i] = x[i] + 1.0f;
}}
"""


class Machine:
    """A stand-in, its modules, and kernels. ``options`` are the stand-in's."""

    def __init__(self, **options: Any) -> None:
        options = {"compile_source": str.encode, "load_kernel": load_python, **options}
        self.standin = StandIn(**options)
        self.runtime = self.standin.runtime
        self.driver = self.standin.driver
        self.nvrtc = self.standin.nvrtc
        newest = self.standin.driver_version // 1000 >= self.standin.cuda_version // 1000
        if self.standin.devices and newest:
            self.runtime.setDevice(0)

    def cubin(self, symbol: str = "onnxplan_add_one", architecture: str = "sm_90") -> bytes:
        program = self.nvrtc.createProgram(kernel_text(symbol), "kernel.cu", (), ())
        self.nvrtc.compileProgram(program, (f"-arch={architecture}", "-std=c++17"))
        code = self.nvrtc.getCUBIN(program)
        self.nvrtc.destroyProgram(program)
        return code

    def kernel(self, symbol: str = "onnxplan_add_one") -> int:
        return self.driver.moduleGetFunction(self.driver.moduleLoadData(self.cubin(symbol)), symbol)

    def stream(self, flags: int = NON_BLOCKING) -> int:
        return self.runtime.streamCreateWithFlags(flags)

    def event(self, stream: int) -> int:
        event = self.runtime.eventCreateWithFlags(2)
        self.runtime.eventRecord(event, stream)
        return event

    def launch(
        self,
        kernel: int,
        source: int,
        target: int,
        count: int,
        stream: int,
        *,
        threads: int = 128,
        shared: int = 0,
        blocks: int = 1,
    ) -> None:
        words = (ctypes.c_longlong * 3)(source, target, count)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(words))
        self.driver.launchKernel(
            kernel, blocks, 1, 1, threads, 1, 1, shared, stream, ctypes.addressof(parameters), 0
        )
        words[:] = [0, 0, 0]

    def pinned(self, values: Any) -> tuple[int, np.ndarray]:
        """Address and view of pinned memory with float32 values."""
        values = np.asarray(values, np.float32)
        address = self.runtime.hostAlloc(values.nbytes, 0)
        view = floats(address, values.size)
        view[:] = values
        return address, view

    def upload(self, values: Any) -> Any:
        """Device memory with float32 values, which are there when this returns."""
        values = np.ascontiguousarray(values, np.float32)
        memory = self.standin.allocate(values.nbytes)
        self.runtime.memcpy(memory.ptr, values.ctypes.data, values.nbytes, TO_DEVICE)
        return memory

    def download(self, address: int, count: int) -> np.ndarray:
        values = np.empty(count, np.float32)
        self.runtime.memcpy(values.ctypes.data, address, values.nbytes, TO_HOST)
        return values

    def capture(self, stream: int, mode: int, *launches: Callable[[], None]) -> int:
        """A graph of what the functions do while a stream is captured."""
        self.runtime.streamBeginCapture(stream, mode)
        for launch in launches:
            launch()
        return self.runtime.streamEndCapture(stream)
