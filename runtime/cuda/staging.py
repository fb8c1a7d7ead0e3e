"""Pinned host memory of a slot, through which arrays of the host travel to the device and back."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.errors import OutOfMemoryError
from onnxplan.compiler.plan import Binding
from onnxplan.runtime.cuda.context import CudaContext
from onnxplan.runtime.cuda.errors import MEMORY_ALLOCATION

HostArray = npt.NDArray[Any]

CHUNK_BYTES = 4 << 20
"""A large array is sent in parts of this size, so that the bus works while the next part is read."""


class Staging:
    """``nbytes`` of pinned memory; raises :class:`OutOfMemoryError`."""

    def __init__(self, context: CudaContext, nbytes: int) -> None:
        self._runtime = context.api.runtime
        self.nbytes = nbytes
        self.address = 0
        if nbytes:
            try:
                self.address = int(self._runtime.hostAlloc(nbytes, self._runtime.hostAllocDefault))
            except self._runtime.CUDARuntimeError as error:
                if error.status != MEMORY_ALLOCATION:
                    raise
                raise OutOfMemoryError(
                    f"{context.name}: inputs and outputs of a run need {nbytes:,} bytes of pinned memory, "
                    "which the system does not have"
                ) from error
        self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address or 1))

    def views(self, bindings: Sequence[Binding], starts: Sequence[int]) -> tuple[HostArray, ...]:
        """The tensors that begin at ``starts``."""
        return tuple(self._view(binding, start) for binding, start in zip(bindings, starts, strict=True))

    def _view(self, binding: Binding, start: int) -> HostArray:
        dtype = binding.dtype.numpy
        if 0 in binding.shape:
            return np.empty(binding.shape, dtype)
        count = int(np.prod(binding.shape, dtype=np.int64)) * dtype.itemsize
        return self._bytes[start : start + count].view(dtype).reshape(binding.shape)

    def close(self) -> None:
        address, self.address = self.address, 0
        if address:
            self._runtime.freeHost(address)
