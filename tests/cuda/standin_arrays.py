"""A tensor of another library on the device: what a user may feed, ready only when its own stream is."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from standin import StandIn
from standin_order import WRITE, Access
from standin_streams import Busy, Run

CUDA = 2
CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool": 6}


class DLTensor(ctypes.Structure):
    """Source: https://github.com/dmlc/dlpack/blob/main/include/dlpack/dlpack.h"""

    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class ManagedTensor(ctypes.Structure):
    """``DLManagedTensor``."""

    _fields_ = (("tensor", DLTensor), ("context", c_void_p), ("deleter", c_void_p))


class VersionedTensor(ctypes.Structure):
    """``DLManagedTensorVersioned``."""

    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", DLTensor),
    )


@dataclass(frozen=True)
class _Production:
    """What the other library does on its stream to make the values."""

    address: int
    values: bytes

    label = "the producer of a fed array"

    @property
    def accesses(self) -> tuple[Access, ...]:
        return (Access(self.address, self.address + len(self.values), WRITE),) if self.values else ()

    def issue(self, busy: Busy) -> Run:
        return lambda: ctypes.memmove(self.address, self.values, len(self.values)) and None


class FakeCudaArray:
    """An array on the thread's current device, written on ``stream``, by default a stream of its own.

    The values are there only when the stream has got to them, so that a consumer that ignores the ordering
    is caught. ``order`` "F" stores it by columns. ``released`` counts the DLPack tensors given back.
    """

    def __init__(
        self,
        standin: StandIn,
        values: Any,
        stream: int | None = None,
        *,
        order: str = "C",
        read_only: bool = False,
    ) -> None:
        values = np.asarray(values)
        self._standin = standin
        self._read_only = read_only
        self._owned = None if stream is not None else standin.runtime.streamCreateWithFlags(1)
        self.stream = self._owned if stream is None else stream
        self.shape = values.shape
        self.dtype = values.dtype
        self._columns = order == "F"
        self.nbytes = values.nbytes
        self.memory = standin.allocate(max(1, self.nbytes))
        self.released = 0
        self.exported = 0
        self.write(values)

    @property
    def pointer(self) -> int:
        return self.memory.ptr

    @property
    def strides(self) -> tuple[int, ...]:
        """In elements."""
        shape = self.shape if self._columns else self.shape[::-1]
        steps = tuple(int(np.prod(shape[:axis])) for axis in range(len(shape)))
        return steps if self._columns else steps[::-1]

    def write(self, values: Any) -> None:
        """New values, on the array's own stream; an error if others still read the old ones."""
        values = np.asarray(values, self.dtype)
        assert values.shape == self.shape
        work = _Production(self.pointer, values.tobytes("F" if self._columns else "C"))

        def body() -> None:
            self._standin.submit(self._standin.stream(self.stream), work)

        self._standin.guarded(self._standin.runtime, body)

    def numpy(self) -> np.ndarray:
        """The values, once the array's stream has come to its end."""
        self._standin.runtime.streamSynchronize(self.stream)
        self._standin.host_access(self.pointer, self.nbytes)
        data = ctypes.string_at(self.pointer, self.nbytes)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self._columns else "C").copy()

    def close(self) -> None:
        """Ends the stream, if it is the array's own; the memory goes when the array does."""
        self._standin.runtime.streamSynchronize(self.stream)
        if self._owned is not None:
            self._standin.runtime.streamDestroy(self._owned)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Source: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html"""
        strides = tuple(step * self.dtype.itemsize for step in self.strides) if self._columns else None
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, self._read_only),
            "version": 3,
            "strides": strides,
            "stream": self.stream or 1,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.memory.device_id

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule; unless ``stream`` is -1, that stream waits for the values first.

        Source: https://data-apis.org/array-api/latest/API_specification/generated/array_api.array.__dlpack__.html
        """
        if stream == 0:
            raise ValueError("stream 0 says neither the legacy nor the thread's default stream")
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("the array stays where it is")
        if stream != -1:
            runtime = self._standin.runtime
            event = runtime.eventCreateWithFlags(2)
            runtime.eventRecord(event, self.stream)
            runtime.streamWaitEvent(1 if stream is None else stream, event)
            runtime.eventDestroy(event)
        versioned = max_version is not None and max_version >= (1, 0)
        return _Export(self, versioned).capsule()

    def tensor(self) -> tuple[DLTensor, list[Any]]:
        """The array as DLPack describes it, and what must live as long."""
        rank = len(self.shape)
        shape, strides = (c_int64 * rank)(*self.shape), (c_int64 * rank)(*self.strides)
        name = self.dtype.name.rstrip("0123456789")
        return DLTensor(
            self.pointer,
            CUDA,
            self.memory.device_id,
            rank,
            CODES[name],
            self.dtype.itemsize * 8,
            1,
            ctypes.cast(shape, ctypes.POINTER(c_int64)),
            ctypes.cast(strides, ctypes.POINTER(c_int64)) if self._columns else None,
            0,
        ), [shape, strides]


class _Export:
    """A managed tensor, alive until its consumer calls the deleter."""

    living: dict[int, _Export] = {}  # noqa: RUF012

    def __init__(self, array: FakeCudaArray, versioned: bool) -> None:
        self._array = array
        self._name = b"dltensor_versioned" if versioned else b"dltensor"
        tensor, self._kept = array.tensor()
        deleter = ctypes.cast(_delete, c_void_p).value
        if versioned:
            flags = 1 if array._read_only else 0
            self._managed: Any = VersionedTensor(1, 0, None, deleter, flags, tensor)
        else:
            self._managed = ManagedTensor(tensor, None, deleter)
        array.exported += 1

    def capsule(self) -> Any:
        address = ctypes.addressof(self._managed)
        self.living[address] = self
        return _new_capsule(address, self._name, _destroy)

    def release(self) -> None:
        self._array.released += 1


@ctypes.CFUNCTYPE(None, c_void_p)
def _delete(address: int) -> None:
    _Export.living.pop(address).release()


# The capsule is being destroyed: it must come as an address, or it would be counted anew.
@ctypes.PYFUNCTYPE(None, c_void_p)
def _destroy(capsule: int) -> None:
    for name in (b"dltensor", b"dltensor_versioned"):
        if _is_valid(capsule, name):
            _delete(_get_pointer(capsule, name))


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, (c_void_p, ctypes.c_char_p, c_void_p)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_get_pointer = ctypes.PYFUNCTYPE(c_void_p, c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
