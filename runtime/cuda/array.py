"""Tensors in device memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.runtime.cuda.context import LEGACY_STREAM, CudaContext

PER_THREAD_STREAM = 2
"""``cudaStreamPerThread``"""
NO_ORDER = -1
"""The stream of ``__dlpack__`` that asks for no synchronisation."""


class DeviceArray:
    """A C-contiguous tensor in the memory of a CUDA device.

    ``pointer`` is the address of its first element, ``owner`` what keeps the memory. The content is complete
    for work that comes after what ``stream``, a handle, has been given so far; None where it is complete.
    Other libraries read it without a copy through ``__dlpack__`` and ``__cuda_array_interface__``; as CUDA
    memory is reused, what they start on streams that do not wait for the default stream must be over before
    the array is dropped.
    """

    __slots__ = ("__weakref__", "device", "dtype", "owner", "pointer", "shape", "stream")

    def __init__(
        self,
        pointer: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        device: CudaContext,
        owner: object,
        stream: int | None = None,
    ) -> None:
        self.pointer = pointer
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self.owner = owner
        self.stream = stream

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def location(self) -> str:
        """``cuda:0``"""
        return self.device.name

    def numpy(self) -> npt.NDArray[Any]:
        """A copy on the host, complete when this returns.

        Raises :class:`~onnxplan.compiler.errors.DeviceUnavailableError` where the device has failed.
        """
        result: npt.NDArray[Any] = np.empty(self.shape, self.dtype)
        with self.device.active("copying a tensor to the host"):
            if result.nbytes:
                runtime = self.device.api.runtime
                if self.stream is not None:
                    runtime.streamSynchronize(self.stream)
                runtime.memcpy(result.ctypes.data, self.pointer, result.nbytes, runtime.memcpyDeviceToHost)
        return result

    def write(self, array: npt.NDArray[Any]) -> None:
        """Overwrites the elements by those of ``array``, C-contiguous on the host, of the same type and size.

        Complete when this returns. Raises what :meth:`numpy` raises.
        """
        if array.dtype != self.dtype or array.size != self.size or not array.flags.c_contiguous:
            raise ValueError(f"expected {self.size} contiguous elements of {self.dtype}")
        with self.device.active("copying a tensor to the device"):
            if array.nbytes:
                runtime = self.device.api.runtime
                if self.stream is not None:
                    runtime.streamSynchronize(self.stream)
                runtime.memcpy(self.pointer, array.ctypes.data, array.nbytes, runtime.memcpyHostToDevice)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError(f"a tensor on {self.location} cannot become a NumPy array without a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; of element types that NumPy itself has.

        Source: https://nvidia.github.io/numba-cuda/user/cuda_array_interface.html.
        """
        if self.dtype.isbuiltin != 1:
            raise AttributeError(f"the CUDA array interface has no type {self.dtype}; use __dlpack__")
        self.device.check()
        self._exported()
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer if self.size else 0, False),
            "strides": None,
            "stream": self.stream,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        from onnxplan.runtime.cuda.dlpack import KDL_CUDA

        return KDL_CUDA, self.device.ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule, on the device without a copy, or of a copy on the host with ``dl_device=(1, 0)``.

        ``stream`` is the consumer's: 1 the legacy default stream, as is None, 2 the thread's default stream,
        -1 none, else a handle. Its later work finds the tensor complete. ``BufferError`` where the element
        type has no form in DLPack, or a copy on a device is asked for. Source:
        https://data-apis.org/array-api/latest/API_specification/generated/array_api.array.__dlpack__.html.
        """
        from onnxplan.runtime.cuda import dlpack

        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            if tuple(dl_device) != (dlpack.KDL_CPU, 0) or copy is False:
                raise BufferError(f"a tensor on {self.location} cannot be given to DLPack device {dl_device}")
            host = dlpack.HostTensor(self.numpy())
            return dlpack.export(host.pointer, host.shape, host.dtype, dl_device, host, max_version)
        if copy:
            raise BufferError("a DLPack copy of a tensor on the device is not supported")
        if stream == 0:
            raise ValueError("stream 0 is ambiguous in CUDA: 1 is the legacy default stream, 2 the thread's")
        if self.stream is not None and stream != NO_ORDER:
            self._order(LEGACY_STREAM if stream is None else stream)
        self.device.check()
        self._exported()
        return dlpack.export(
            self.pointer, self.shape, self.dtype, self.__dlpack_device__(), self, max_version
        )

    def _order(self, stream: int) -> None:
        from onnxplan.runtime.cuda.streams import ImportStream

        assert self.stream is not None
        with self.device.active("handing out a tensor"):
            ImportStream.of(self.device).order(self.stream, stream)

    def _exported(self) -> None:
        mark = getattr(self.owner, "mark_exported", None)
        if mark is not None:
            mark()

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)} on {self.location})"
