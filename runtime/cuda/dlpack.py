"""DLPack capsules, made and read through ctypes.

Source: https://dmlc.github.io/dlpack/latest/c_api.html and
https://dmlc.github.io/dlpack/latest/python_spec.html (capsule names, who deletes what).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass

KDL_CPU = 1
KDL_CUDA = 2
KDL_CUDA_MANAGED = 13

VERSION = (1, 0)
READ_ONLY = 1
"""``DLPACK_FLAG_BITMASK_READ_ONLY``"""
CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
"""``DLDataTypeCode`` of kinds of element types; of types with their own code in :data:`OWN_CODES`."""
OWN_CODES = {
    DType.BFLOAT16: 4,
    DType.FLOAT8E4M3FN: 10,
    DType.FLOAT8E4M3FNUZ: 11,
    DType.FLOAT8E5M2: 12,
    DType.FLOAT8E5M2FNUZ: 13,
    DType.FLOAT8E8M0: 14,
}
PACKED = frozenset(dtype for dtype in DType if dtype.bits < 8 or dtype is DType.STRING)
"""Types that take one byte an element here, and less in DLPack; and those that it has not."""


class DLDevice(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class DLManagedTensor(ctypes.Structure):
    _fields_ = (("dl_tensor", DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", DELETER))


class DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", DLTensor),
    )


Managed = DLManagedTensor | DLManagedTensorVersioned
# Names of capsules by kind; PyCapsule keeps the pointers, so the texts must stay.
NAMES: dict[type[Managed], tuple[bytes, bytes]] = {
    DLManagedTensorVersioned: (b"dltensor_versioned", b"used_dltensor_versioned"),
    DLManagedTensor: (b"dltensor", b"used_dltensor"),
}

_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_capsule_new.restype = ctypes.py_object
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_is_valid.restype = ctypes.c_int
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_get_pointer.restype = ctypes.c_void_p
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.argtypes = (ctypes.py_object, ctypes.c_char_p)
_set_name.restype = ctypes.c_int
# A destructor gets a capsule without references, which must not become a Python object again.
_PROTOTYPES = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_is_valid_raw = _PROTOTYPES(("PyCapsule_IsValid", ctypes.pythonapi))
_get_pointer_raw = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_exported: dict[int, tuple[Managed, Any, object]] = {}
"""What consumers use now, by address: the record, its shape, and what keeps the memory."""


def _delete(address: int) -> None:
    """The consumer is done with a tensor."""
    _exported.pop(address, None)


def _destroy_capsule(capsule: int) -> None:
    """A capsule that nobody consumed still owns its tensor."""
    for name, _ in NAMES.values():
        if _is_valid_raw(capsule, name):
            _delete(int(_get_pointer_raw(capsule, name)))


_deleter = DELETER(_delete)
_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_destroy_capsule)


class HostTensor:
    """A NumPy array as the owner of an exported tensor."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = np.ascontiguousarray(array).reshape(array.shape)
        self.pointer = int(self.array.ctypes.data)
        self.shape = array.shape
        self.dtype = array.dtype


def export(
    pointer: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    device: tuple[int, int],
    owner: object,
    max_version: tuple[int, int] | None,
) -> Any:
    """A capsule of a contiguous tensor; ``owner`` is kept until the consumer is done with it.

    ``BufferError`` where DLPack has no such element type.
    """
    managed: Managed
    if max_version is not None and max_version[0] >= 1:
        managed = DLManagedTensorVersioned(major=VERSION[0], minor=VERSION[1])
    else:
        managed = DLManagedTensor()
    extents = (ctypes.c_int64 * (2 * max(len(shape), 1)))(*shape, *_dense_strides(shape))
    tensor = managed.dl_tensor
    tensor.data = pointer or None
    tensor.device = DLDevice(*device)
    tensor.ndim = len(shape)
    tensor.dtype = DLDataType(*_type_code(dtype), 1)
    tensor.shape = ctypes.cast(extents, ctypes.POINTER(ctypes.c_int64))
    strides = ctypes.addressof(extents) + 8 * len(shape)
    tensor.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
    managed.deleter = _deleter
    address = ctypes.addressof(managed)
    _exported[address] = managed, extents, owner
    return _capsule_new(address, NAMES[type(managed)][0], ctypes.cast(_destructor, ctypes.c_void_p))


def _dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def _type_code(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Code and bits of an element type; ``BufferError`` where there are none."""
    known = DType.from_numpy(dtype)
    if known in PACKED:
        raise BufferError(f"DLPack cannot hold elements of type {known} as they lie in memory")
    code = OWN_CODES.get(known)
    return (CODES[known.kind] if code is None else code), 8 * known.itemsize


_BY_CODE = {_type_code(known.numpy): known for known in DType if known not in PACKED}


@dataclass(frozen=True, slots=True)
class Imported:
    """A tensor of another library. ``strides`` in elements; ``owner`` releases it when it is dropped."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    device: tuple[int, int]
    read_only: bool
    owner: object


class _Owner:
    """Calls the producer's deleter when it is dropped."""

    __slots__ = ("_managed",)

    def __init__(self, managed: Managed) -> None:
        self._managed = managed

    def __del__(self) -> None:
        if self._managed.deleter:
            self._managed.deleter(ctypes.addressof(self._managed))


def consume(capsule: Any) -> Imported:
    """Takes the tensor out of a capsule; ``BufferError`` for one that cannot be used."""
    for kind, (name, used) in NAMES.items():
        if _is_valid(capsule, name):
            managed: Managed = kind.from_address(_get_pointer(capsule, name))
            _set_name(capsule, used)
            break
    else:
        raise BufferError("not a DLPack capsule, or one that was used before")
    owner = _Owner(managed)
    if isinstance(managed, DLManagedTensorVersioned) and managed.major != VERSION[0]:
        raise BufferError(f"DLPack version {managed.major}.{managed.minor} is not supported")
    tensor = managed.dl_tensor
    code, bits, lanes = tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes
    known = _BY_CODE.get((code, bits)) if lanes == 1 else None
    if known is None:
        raise BufferError(f"ONNX has no element type for DLPack's (code {code}, {bits} bits, {lanes} lanes)")
    shape = tuple(tensor.shape[: tensor.ndim]) if tensor.ndim else ()
    strides = (
        tuple(tensor.strides[: tensor.ndim]) if tensor.ndim and tensor.strides else _dense_strides(shape)
    )
    return Imported(
        (tensor.data or 0) + tensor.byte_offset,
        shape,
        strides,
        known.numpy,
        (tensor.device.device_type, tensor.device.device_id),
        isinstance(managed, DLManagedTensorVersioned) and bool(managed.flags & READ_ONLY),
        owner,
    )
