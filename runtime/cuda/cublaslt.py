"""A thin wrapper of cuBLASLt: descriptors, layouts, preferences, algorithms, matrix products.

Names and values are those of ``cublasLt.h``, ``cublas_api.h`` and ``library_types.h``.
Source: https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any

from onnxplan.compiler.errors import DeviceError
from onnxplan.runtime.cuda.foreign import POINTER, ForeignObject, Prototypes, bound_functions

CUDA_R_32F = 0
CUDA_R_64F = 1
CUDA_R_16F = 2
CUDA_R_16BF = 14

CUBLAS_COMPUTE_32F = 68
CUBLAS_COMPUTE_64F = 70
CUBLAS_COMPUTE_32F_FAST_TF32 = 77

CUBLAS_OP_N = 0
CUBLAS_OP_T = 1

ALGORITHM_BYTES = 64
"""``sizeof(cublasLtMatmulAlgo_t)``"""


class Status(IntEnum):
    """``cublasStatus_t``"""

    SUCCESS = 0
    NOT_INITIALIZED = 1
    ALLOC_FAILED = 3
    INVALID_VALUE = 7
    ARCH_MISMATCH = 8
    MAPPING_ERROR = 11
    EXECUTION_FAILED = 13
    INTERNAL_ERROR = 14
    NOT_SUPPORTED = 15
    LICENSE_ERROR = 16


class Epilogue(IntEnum):
    """``cublasLtEpilogue_t``"""

    DEFAULT = 1
    RELU = 2
    BIAS = 4
    RELU_BIAS = 6


class Attribute(Enum):
    """An attribute of an object: its number and the C type of its value."""

    def __init__(self, number: int, value_type: type[Any]) -> None:
        self.number = number
        self.value_type = value_type


class DescriptorAttribute(Attribute):
    """``cublasLtMatmulDescAttributes_t``"""

    COMPUTE_TYPE = (0, ctypes.c_int32)
    SCALE_TYPE = (1, ctypes.c_int32)
    POINTER_MODE = (2, ctypes.c_int32)
    TRANSA = (3, ctypes.c_int32)
    TRANSB = (4, ctypes.c_int32)
    EPILOGUE = (7, ctypes.c_uint32)
    BIAS_POINTER = (8, ctypes.c_uint64)


class LayoutAttribute(Attribute):
    """``cublasLtMatrixLayoutAttribute_t``"""

    TYPE = (0, ctypes.c_uint32)
    ORDER = (1, ctypes.c_int32)
    ROWS = (2, ctypes.c_uint64)
    COLS = (3, ctypes.c_uint64)
    LD = (4, ctypes.c_int64)
    BATCH_COUNT = (5, ctypes.c_int32)
    STRIDED_BATCH_OFFSET = (6, ctypes.c_int64)


class PreferenceAttribute(Attribute):
    """``cublasLtMatmulPreferenceAttributes_t``"""

    MAX_WORKSPACE_BYTES = (1, ctypes.c_uint64)
    MIN_ALIGNMENT_A_BYTES = (5, ctypes.c_uint32)
    MIN_ALIGNMENT_B_BYTES = (6, ctypes.c_uint32)
    MIN_ALIGNMENT_C_BYTES = (7, ctypes.c_uint32)
    MIN_ALIGNMENT_D_BYTES = (8, ctypes.c_uint32)


class HeuristicResult(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``"""

    _fields_ = (
        ("algo", ctypes.c_uint64 * (ALGORITHM_BYTES // 8)),
        ("workspaceSize", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("wavesCount", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_PROTOTYPES: Prototypes = {
    "cublasLtCreate": (POINTER,),
    "cublasLtDestroy": (POINTER,),
    "cublasLtMatmulDescCreate": (POINTER, ctypes.c_int, ctypes.c_int),
    "cublasLtMatmulDescDestroy": (POINTER,),
    "cublasLtMatmulDescSetAttribute": (POINTER, ctypes.c_int, POINTER, ctypes.c_size_t),
    "cublasLtMatmulDescGetAttribute": (POINTER, ctypes.c_int, POINTER, ctypes.c_size_t, POINTER),
    "cublasLtMatrixLayoutCreate": (POINTER, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64),
    "cublasLtMatrixLayoutDestroy": (POINTER,),
    "cublasLtMatrixLayoutSetAttribute": (POINTER, ctypes.c_int, POINTER, ctypes.c_size_t),
    "cublasLtMatrixLayoutGetAttribute": (POINTER, ctypes.c_int, POINTER, ctypes.c_size_t, POINTER),
    "cublasLtMatmulPreferenceCreate": (POINTER,),
    "cublasLtMatmulPreferenceDestroy": (POINTER,),
    "cublasLtMatmulPreferenceSetAttribute": (POINTER, ctypes.c_int, POINTER, ctypes.c_size_t),
    "cublasLtMatmulPreferenceGetAttribute": (POINTER, ctypes.c_int, POINTER, ctypes.c_size_t, POINTER),
    # handle, descriptor, layouts of A, B, C and D, preference, count asked for, results, count found
    "cublasLtMatmulAlgoGetHeuristic": (*[POINTER] * 7, ctypes.c_int, POINTER, POINTER),
    # handle, descriptor, alpha, A, layout, B, layout, beta, C, layout, D, layout, algorithm, workspace, ...
    "cublasLtMatmul": (*[POINTER] * 14, ctypes.c_size_t, POINTER),
}


class CublasLtError(DeviceError):
    """A call of cuBLASLt failed; ``status`` is its :class:`Status`, or another number."""

    def __init__(self, call: str, status: int) -> None:
        known = status in set(Status)
        name = f"CUBLAS_STATUS_{Status(status).name}" if known else f"unknown status {status}"
        super().__init__(f"{call}: {name}")
        self.status = status


class CublasLt:
    """cuBLASLt's functions, each of which raises :class:`CublasLtError` instead of giving a status."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._functions = bound_functions(library, _PROTOTYPES)

    def call(self, name: str, *arguments: int) -> None:
        status = self._functions[name](*arguments)
        if status:
            raise CublasLtError(name, int(status))

    def function(self, name: str) -> Callable[..., int]:
        """The bare function, for calls whose cost counts."""
        function: Callable[..., int] = self._functions[name]
        return function

    @property
    def version(self) -> int:
        """As the library counts: 130500 for 13.5.0."""
        get: Callable[[], int] = self._library.cublasLtGetVersion
        return int(get())

    def create_handle(self) -> int:
        """A handle for the current device; any number of threads may use it at once."""
        return self._create("cublasLtCreate")

    def _create(self, name: str, *arguments: int) -> int:
        created = ctypes.c_void_p()
        self.call(name, ctypes.addressof(created), *arguments)
        assert created.value
        return created.value


class _Object(ForeignObject):
    """An object of cuBLASLt's with attributes."""

    kind: str

    def __init__(self, library: CublasLt, *arguments: int) -> None:
        self._library = library
        self.handle = library._create(f"cublasLt{self.kind}Create", *arguments)

    def set(self, attribute: Attribute, value: int) -> None:
        data = attribute.value_type(value)
        self._library.call(
            f"cublasLt{self.kind}SetAttribute",
            self.handle,
            attribute.number,
            ctypes.addressof(data),
            ctypes.sizeof(data),
        )

    def get(self, attribute: Attribute) -> int:
        data, written = attribute.value_type(), ctypes.c_size_t()
        self._library.call(
            f"cublasLt{self.kind}GetAttribute",
            self.handle,
            attribute.number,
            ctypes.addressof(data),
            ctypes.sizeof(data),
            ctypes.addressof(written),
        )
        return int(data.value)

    def _destroy(self, handle: int) -> None:
        self._library.call(f"cublasLt{self.kind}Destroy", handle)


class Descriptor(_Object):
    """``cublasLtMatmulDesc_t``: how to compute. Arguments: compute type, type of alpha and beta."""

    kind = "MatmulDesc"


class Layout(_Object):
    """``cublasLtMatrixLayout_t`` of column-major matrices. Arguments: type, rows, columns, distance of
    columns in elements."""

    kind = "MatrixLayout"


class Preference(_Object):
    """``cublasLtMatmulPreference_t``: what a search for algorithms may use."""

    kind = "MatmulPreference"
