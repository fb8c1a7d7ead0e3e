"""Loaded kernels of a device."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from onnxplan.runtime.cuda.context import CudaContext

PLAIN_SHARED_BYTES = 48 << 10
"""A kernel must opt in to more dynamic shared memory than this. Source: CUDA C++ programming guide, shared
memory."""


class Modules:
    """Cubins loaded on a device, which stay as long as it is open; used with the device current."""

    def __init__(self, context: CudaContext) -> None:
        self._driver: Any = context.api.driver
        self._shared: dict[int, int] = {}
        self._lock = threading.Lock()

    @staticmethod
    def of(context: CudaContext) -> Modules:
        modules: Modules = context.part("modules", lambda: Modules(context))
        return modules

    def load(self, code: bytes, symbol: str) -> int:
        """The handle of a kernel in a cubin."""
        return int(self._driver.moduleGetFunction(self._driver.moduleLoadData(code), symbol))

    def allow_shared(self, function: int, nbytes: int) -> None:
        """Lets a kernel be launched with ``nbytes`` of dynamic shared memory a block."""
        if nbytes <= PLAIN_SHARED_BYTES:
            return
        with self._lock:
            if nbytes > self._shared.get(function, 0):
                attribute = self._driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                self._driver.funcSetAttribute(function, attribute, nbytes)
                self._shared[function] = nbytes

    def launch(self, function: int, blocks: int, threads: int, words: tuple[int, ...], stream: int) -> None:
        """Launches a kernel once; its arguments are read before this returns."""
        table = np.array(words, np.int64)
        pointer = np.array([table.ctypes.data], np.int64)
        self._driver.launchKernel(
            function, blocks, 1, 1, threads, 1, 1, 0, stream, int(pointer.ctypes.data), 0
        )
