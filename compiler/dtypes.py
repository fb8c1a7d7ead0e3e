"""Element types: names, ONNX codes and NumPy representations.

Source: https://onnx.ai/onnx/api/classes.html#tensorproto (TensorProto.DataType).
"""

from __future__ import annotations

import enum
import functools
from typing import Any

import numpy as np
import numpy.typing as npt


class DType(enum.Enum):
    """An ONNX element type.

    The value is ``(name, ONNX code, kind, bytes an element takes in memory)``; kind is ``f`` floating,
    ``i`` signed, ``u`` unsigned, ``b`` boolean, ``c`` complex, ``s`` string. Types of less than eight
    bits take one byte an element in memory, as NumPy keeps them.
    """

    FLOAT32 = ("float32", 1, "f", 4)
    UINT8 = ("uint8", 2, "u", 1)
    INT8 = ("int8", 3, "i", 1)
    UINT16 = ("uint16", 4, "u", 2)
    INT16 = ("int16", 5, "i", 2)
    INT32 = ("int32", 6, "i", 4)
    INT64 = ("int64", 7, "i", 8)
    STRING = ("string", 8, "s", 8)
    BOOL = ("bool", 9, "b", 1)
    FLOAT16 = ("float16", 10, "f", 2)
    FLOAT64 = ("float64", 11, "f", 8)
    UINT32 = ("uint32", 12, "u", 4)
    UINT64 = ("uint64", 13, "u", 8)
    COMPLEX64 = ("complex64", 14, "c", 8)
    COMPLEX128 = ("complex128", 15, "c", 16)
    BFLOAT16 = ("bfloat16", 16, "f", 2)
    FLOAT8E4M3FN = ("float8e4m3fn", 17, "f", 1)
    FLOAT8E4M3FNUZ = ("float8e4m3fnuz", 18, "f", 1)
    FLOAT8E5M2 = ("float8e5m2", 19, "f", 1)
    FLOAT8E5M2FNUZ = ("float8e5m2fnuz", 20, "f", 1)
    UINT4 = ("uint4", 21, "u", 1)
    INT4 = ("int4", 22, "i", 1)
    FLOAT4E2M1 = ("float4e2m1", 23, "f", 1)
    FLOAT8E8M0 = ("float8e8m0", 24, "f", 1)
    UINT2 = ("uint2", 25, "u", 1)
    INT2 = ("int2", 26, "i", 1)
    FLOAT6E2M3 = ("float6e2m3", 27, "f", 1)
    FLOAT6E3M2 = ("float6e3m2", 28, "f", 1)

    label: str
    code: int
    kind: str
    itemsize: int

    def __init__(self, label: str, code: int, kind: str, itemsize: int) -> None:
        self.label = label
        self.code = code
        self.kind = kind
        self.itemsize = itemsize

    # That of the name, which Enum takes, is computed in Python.
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self.label

    def __str__(self) -> str:
        return self.label

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def bits(self) -> int:
        """Bits of an element that mean something; as many as it has in packed tensors of a model."""
        return _NARROW_BITS.get(self.label, 8 * self.itemsize)

    @functools.cached_property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype (from ``ml_dtypes`` where NumPy has none; ``object`` for strings)."""
        if self is DType.STRING:
            return np.dtype(np.object_)
        name = _ML_DTYPES.get(self.label)
        if name is None:
            return np.dtype(self.label)
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype

    @staticmethod
    def from_numpy(dtype: npt.DTypeLike) -> DType:
        """The element type of a NumPy dtype in any byte order; raises ``TypeError`` for others."""
        return _from_numpy(np.dtype(dtype))

    @staticmethod
    def from_label(label: str) -> DType:
        """The element type called ``label`` (``'float32'``); raises ``KeyError`` for others."""
        return _BY_LABEL[label]

    @staticmethod
    def from_code(code: int) -> DType:
        """The element type of a ``TensorProto.DataType`` code; raises ``KeyError`` for others."""
        return _BY_CODE[code]


_NARROW_BITS = {
    "uint4": 4,
    "int4": 4,
    "float4e2m1": 4,
    "uint2": 2,
    "int2": 2,
    "float6e2m3": 6,
    "float6e3m2": 6,
}
_ML_DTYPES = {
    "bfloat16": "bfloat16",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "float8e8m0": "float8_e8m0fnu",
    "float4e2m1": "float4_e2m1fn",
    "float6e2m3": "float6_e2m3fn",
    "float6e3m2": "float6_e3m2fn",
    "uint4": "uint4",
    "int4": "int4",
    "uint2": "uint2",
    "int2": "int2",
}
_BY_LABEL = {dtype.label: dtype for dtype in DType}
_BY_NAME = {_ML_DTYPES.get(dtype.label, dtype.label): dtype for dtype in DType}
_BY_CODE = {dtype.code: dtype for dtype in DType}


@functools.lru_cache(maxsize=128)
def _from_numpy(dtype: np.dtype[Any]) -> DType:
    if dtype.kind in "OUST":
        return DType.STRING
    known = _BY_NAME.get(dtype.name)
    if known is None:
        raise TypeError(f"NumPy dtype {dtype} has no ONNX element type")
    return known
